"""The `telefabric` command: find its subcommands, run one, and turn errors into one sentence and an exit code."""

from __future__ import annotations

import gc
import signal
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from telefabric import __version__
from telefabric.cli.streams import forget_output, prepare, why_unwritable
from telefabric.errors import PartFailed, TelefabricError

GROUP = "telefabric.commands"

try:
    import click
except ImportError:  # a worker's base install
    sys.exit("telefabric needs: pip install 'telefabric[cli]'")


_NoCommand: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""A group without a command shows its help; click before 8.2 did not raise an error for it."""


class Commands(click.Group):
    """Subcommands by entry point; each is imported only when it is run or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(point.name for point in entry_points(group=GROUP))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return next(map(_load, entry_points(group=GROUP, name=cmd_name)), None)


def _load(point: EntryPoint) -> click.Command:
    """The command; if its packages are missing, a command that names the extra to install."""
    gc.disable()  # a module is no garbage: a quarter of a start would go into looking at them, now and at the exit
    try:
        command = point.load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("telefabric"):
            raise
        sentence = f"telefabric {point.name} needs: pip install 'telefabric[{','.join(point.extras)}]'"

        @click.command(point.name, help=sentence, context_settings={"ignore_unknown_options": True})
        @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
        def command(rest: tuple[str, ...]) -> None:
            raise TelefabricError(sentence)
    finally:
        gc.freeze()
        gc.enable()

    assert isinstance(command, click.Command)
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="telefabric")
def telefabric() -> None:
    """Watch runs live and store them completely.

    \b
    Start broker and store:          telefabric up
    Watch events as they are stored: telefabric tail
    Write events as JSON lines:      telefabric dump
    """


def main() -> None:
    """Run the command of `sys.argv`. Exits with 0, 1 (the operation failed) or 2 (usage)."""
    prepare()
    try:
        _run()
    finally:
        try:
            sys.stdout.flush()  # after a failure has been reported; at the exit it would be a traceback
        except OSError:
            forget_output()


def _run() -> None:
    try:
        telefabric.main(prog_name="telefabric", standalone_mode=False)
        sys.stdout.flush()  # otherwise the interpreter does, and prints a traceback
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    except (click.ClickException, TelefabricError) as error:
        if sentence := _sentence(error):
            click.echo(sentence, err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        why = why_unwritable(error)
        if not why and not isinstance(error, BrokenPipeError):  # whose reader has enough and is gone
            raise
        forget_output()
        if why:
            click.echo(f"telefabric: the output cannot be written: {why}: send it elsewhere", err=True)
        sys.exit(TelefabricError.exit_code)


def _sentence(error: click.ClickException | TelefabricError) -> str:
    """What is printed of an error; empty when it has been printed already."""
    if isinstance(error, _NoCommand):
        return str(error.format_message())
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "telefabric"
        said = _without_hidden(error).format_message().rstrip(".")
        return f"telefabric: {said}{' See' if said.endswith('?') else ': see'} {command} --help"
    if isinstance(error, click.ClickException):
        return f"telefabric: {error.format_message()}"
    return "" if isinstance(error, PartFailed) else f"telefabric: {error}"


def _without_hidden(error: click.UsageError) -> click.UsageError:
    """The same error; for an unknown option it suggests only options that the help shows."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error
    options = [one for one in error.ctx.command.get_params(error.ctx) if isinstance(one, click.Option)]
    shown = [name for one in options if not one.hidden for name in (*one.opts, *one.secondary_opts)]
    return click.NoSuchOption(error.option_name, possibilities=shown, ctx=error.ctx)


if __name__ == "__main__":
    main()
