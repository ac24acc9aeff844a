"""`telefabric run`: start a program as a worker, or read a log that one has left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from telefabric.address import Address
from telefabric.cli.options import NAME, setting
from telefabric.cli.plain import clean
from telefabric.cli.read import require_run
from telefabric.doctor.finding import OK, counted
from telefabric.errors import UsageError
from telefabric.settings import SETTINGS, resolve
from telefabric.store.read.remote_reader import RemoteReader
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.imports.jsonl.reading import read_log
from telefabric_workers.run.auto import launch
from telefabric_workers.run.recorder import lines_read

_FILE = click.Path(path_type=Path)
_BAD_EXIT_CODE = 1
_RUN_HELP = "The run; by default a name made from the time, and with --from and --follow the run_ids in the file."


@click.command(context_settings={"allow_interspersed_args": False})
@setting("connect")
@click.option("--run", "run_id", metavar="RUN_ID", type=NAME, help=_RUN_HELP)
@setting("agent_id", flag="--agent")
@setting("spool")
@click.option("--from", "log", type=_FILE, metavar="FILE", help="Read a log that a program has left.")
@click.option("--follow", "growing", type=_FILE, metavar="FILE", help="As --from, and continue with what is appended.")
@click.option("--auto", is_flag=True, help="Also record what an unmodified Python program does in its environments.")
@click.option("--dry-run", is_flag=True, help="Check the lines and report; store nothing, and need no broker.")
@click.option("--quiet", "-q", is_flag=True, help="Say only what is wrong.")
@click.option("--lines-read", "asked", metavar="RUN", type=NAME, help="Say how many lines of a run were read.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    log: Path | None, growing: Path | None, auto: bool, dry_run: bool, quiet: bool, asked: str | None,
    command: Sequence[str], **given: Any,
) -> None:  # fmt: skip
    """Start a program as a worker: JSON lines that it prints become events, and its other lines log events.

    The program has this terminal, its signals and its exit code, as it would have them without. Lines that are events
    do not appear on the output; all others do. The program waits when it prints faster than can be recorded. A run
    that does not say itself how it ended gets its outcome from the exit code or the signal.

    \b
    Example:
      telefabric run -- python train.py
      telefabric run --auto -- python ppo.py
      telefabric run --run seed-7 -- ./simulate --seed 7
      telefabric run --dry-run -- ./simulate --seed 7
      telefabric run --follow train.jsonl
    """
    _require_one_way({"a program": command, "--from": log, "--follow": growing, "--lines-read": asked})
    file = log or growing
    if file is not None:
        read_log(file, given, dry_run=dry_run, follow=log is None)
        return
    mode = "dry-run" if dry_run else None
    when_full = "block" if resolve("when_full").source == "default" else None
    environment = WorkerEnvironment.read(mode=mode, when_full=when_full, **given)
    if asked is not None:
        _say_lines_read(environment.address, asked)
    else:
        _run(environment, command, _environ(environment, given), auto=auto, quiet=quiet)


def _require_one_way(ways: Mapping[str, object]) -> None:
    given = [name for name, value in ways.items() if value]
    if not given:
        raise UsageError("give a program after --, as in telefabric run -- python train.py, or one of --from, --follow")
    if len(given) > 1:
        raise UsageError(f"give only one of {' and '.join(given)}")


def _environ(environment: WorkerEnvironment, given: Mapping[str, Any]) -> dict[str, str]:
    """What the program inherits: a worker that it opens itself joins the run."""
    ours = {"run_id": environment.run_id, "mode": environment.mode, "spool": str(environment.spool)}
    told = {**{name: value for name, value in given.items() if value is not None}, **ours}
    return {**os.environ, **{SETTINGS[name].variable: value for name, value in told.items()}}


def _run(
    environment: WorkerEnvironment, command: Sequence[str], environ: Mapping[str, str], *, auto: bool, quiet: bool
) -> None:
    """Does not return: this process ends as the program does."""
    from telefabric_workers.run.child import Signals, end_as  # a system without POSIX has --help all the same
    from telefabric_workers.run.program import ProgramRun

    with Signals() as signals:
        if environment.mode in ("dual", "durable"):
            _preflight(environment, quiet=quiet)
        program = ProgramRun(environment, command)
        with launch.environment(command, environ) if auto else nullcontext(environ) as variables:
            code = program.run(variables, signals)
    program.close(code)
    for name, times in program.worker.problems.items():
        if times > 1:  # the first was logged
            click.echo(f"telefabric: {clean(name)} was left out {times} times", err=True)
    bad = program.recorder.bad
    if environment.mode == "dry-run":
        click.echo(program.recorder.report(), err=True)
        code = code or _BAD_EXIT_CODE * bool(bad.count)
    elif bad.count:
        said = f"{counted(bad.count, 'line')} could only be recorded as text: {clean(bad.first[0])}"
        click.echo(f"telefabric: {said}: telefabric run --dry-run names each", err=True)
    end_as(code)


def _preflight(environment: WorkerEnvironment, *, quiet: bool) -> None:
    from telefabric_workers.run.preflight import look

    for finding in look(environment.address, environment.run_id):
        if not quiet or finding.state != OK:
            remedy = f" → {clean(finding.remedy)}" if finding.remedy else ""
            click.echo(f"telefabric: {finding.check}: {clean(finding.sentence)}{remedy}", err=True)


def _say_lines_read(address: Address, run_id: str) -> None:
    with RemoteReader(address) as reader:
        require_run(reader, run_id)
        number = lines_read(reader, run_id)
    if number is None:
        raise UsageError(
            f"run {run_id} has no lines with numbers, which telefabric run gives to those of a program's output: of a "
            "file, a second telefabric import jsonl adds only what is new"
        )
    click.echo(f"Lines 1 to {number} of the output of {clean(run_id)} were read and are stored.")
