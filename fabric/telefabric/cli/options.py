"""Options that several commands share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import click

from telefabric.settings import SETTINGS


class _Name(click.types.StringParamType):
    """The name of a run or an agent, in UTF-8 as in events, whatever encoding the locale sets for arguments."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        given = str(value)
        if any("\udc80" <= each <= "\udcff" for each in given):
            return os.fsencode(given).decode("utf-8", "backslashreplace")
        return given


NAME = _Name()
Command = TypeVar("Command", bound=Callable[..., Any])


def setting(name: str, *, flag: str | None = None) -> Callable[[Command], Command]:
    """An option from the settings table; its help names the variable and the default."""
    text = SETTINGS[name].option_help
    return click.option(flag or f"--{name.replace('_', '-')}", name, metavar=name.upper(), default=None, help=text)


tied = click.option("--tied", is_flag=True, hidden=True)
"""The option with which a supervisor starts a part: stop when standard input closes."""


def on_signals(stop: Callable[[], None], reload: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and ^C, and `reload` on SIGHUP, which in a terminal means that it closes: then `stop`."""

    def handle(number: int, frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT) or os.isatty(0):
            stop()
        else:
            reload()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, handle)


def terminate() -> None:
    """End this process as SIGTERM does: at once while it starts, cleanly afterwards. Any thread."""
    os.kill(os.getpid(), signal.SIGTERM)


def ignore_interrupt() -> None:
    """Ignore ^C: a terminal sends it to the whole group, and a supervised part leaves it to its supervisor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def logging_options(command: Command) -> Command:
    return setting("log_format")(setting("log_level")(command))
