"""How a service writes its logs: every line, from any library, goes through one renderer to stderr.

The services log with structlog, the parts that also run in a worker with standard loggers. Both end at one handler, as
text for people or as one JSON object a line: ``event``, ``level``, ``timestamp`` and the fields of the event. What a
standard logger says behind its event name is ``detail``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from telefabric.log.limit import RateLimit, event_name, left_out_mark
from telefabric.settings import resolve
from telefabric.wire.names import printable


def set_up_logs(log_format: str | None = None, log_level: str | None = None) -> None:
    """Structured logs to stderr: for people, or one JSON object a line. Raises `UsageError` for a malformed setting.

    Called again, it takes the place of what was set up before.
    """
    level = logging.getLevelNamesMapping()[resolve("log_level", log_level).value.upper()]
    as_json = resolve("log_format", log_format).value == "json"
    shared: list[Processor] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            LimitEvents(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),  # loggers live longer than a level
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(as_json)],
        foreign_pre_chain=[_split_name, *shared],
    )
    _to_stderr.setStream(sys.stderr)
    _to_stderr.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(_to_stderr)
    root.setLevel(level)


_to_stderr = logging.StreamHandler()
"""One for all calls: a root logger takes it once."""


class LimitEvents:
    """A processor that holds a `RateLimit` to all lines of a service. Any thread."""

    def __init__(self) -> None:
        self._limit = RateLimit()
        self._lock = threading.RLock()  # a signal handler may log while its thread does

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        with self._lock:
            part = event.get("part", "")  # each has a limit of its own
            left_out = self._limit.admit(f"{event['event']} {part}", time.monotonic_ns())
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event


def _split_name(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A standard logger's line, ``link.refused: the reason``, as an event with a detail."""
    text = str(event["event"])
    left_out = getattr(event["_record"], "left_out", 0)
    if left_out:
        event["left_out"] = left_out
        text = text.removesuffix(left_out_mark(left_out))
    name = event_name(text)
    if "." in name and " " not in name and name != text:
        event["event"], event["detail"] = name, text[len(name) + 1 :].strip()
    else:
        event["event"] = text
    return event


def _made_harmless(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Texts may come from strangers, and somebody reads the log in a terminal, line by line."""
    return {name: printable(value, "�") if type(value) is str else value for name, value in event.items()}


def _renderers(as_json: bool) -> list[Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    plain: Any = structlog.dev.plain_traceback
    return [_made_harmless, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
