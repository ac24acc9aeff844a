"""Options that several commands share, and how services write their logs."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import structlog

from telefabric.settings import SETTINGS, resolve

Command = TypeVar("Command", bound=Callable[..., Any])


def setting(name: str, *, flag: str | None = None) -> Callable[[Command], Command]:
    """An option from the settings table; its help names its variable and default."""
    one = SETTINGS[name]
    default = "" if one.default is None else f"; default {one.default}"
    text = f"{one.help} [{one.variable}{default}]"
    return click.option(flag or f"--{name.replace('_', '-')}", name, metavar=name.upper(), default=None, help=text)


def tied() -> Callable[[Command], Command]:
    """For a supervisor: stop when standard input closes."""
    return click.option("--tied", is_flag=True, hidden=True)


def on_signals(stop: Callable[[], None]) -> None:
    """End cleanly on SIGTERM and ^C."""

    def handle(number: int, frame: object) -> None:
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def ignore_interrupt() -> None:
    """A terminal sends ^C to the whole group; a supervised part leaves it to its supervisor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def logging_options(command: Command) -> Command:
    return setting("log_format")(setting("log_level")(command))


def set_up_logs(log_format: str | None = None, log_level: str | None = None) -> None:
    """Structured logs to stderr: for people, or one JSON object a line."""
    level = logging.getLevelNamesMapping()[resolve("log_level", log_level).value.upper()]
    as_json = resolve("log_format", log_format).value == "json"
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s [%(levelname)s] %(message)s")
