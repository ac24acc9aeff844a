"""How a service writes its logs: every line, from any library, goes through one renderer to stderr.

The services log events with fields (`telefabric.log.events`), the parts that also run in a worker use standard loggers.
Both end at one handler, as text for people or as one JSON object a line: ``event``, ``level``, ``timestamp`` and the
fields of the event. What a standard logger says behind its event name is ``detail``.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

from telefabric.log.limit import RateLimit, event_name, left_out_mark
from telefabric.settings import resolve
from telefabric.wire.names import printable


def set_up_logs(log_format: str | None = None, log_level: str | None = None) -> None:
    """Structured logs to stderr: for people, or one JSON object a line. Raises `UsageError` for a malformed setting.

    Called again, it takes the place of what was set up before.
    """
    level = logging.getLevelNamesMapping()[resolve("log_level", log_level).value.upper()]
    as_json = resolve("log_format", log_format).value == "json"
    _to_stderr.setStream(sys.stderr)
    _to_stderr.setFormatter(JsonLines() if as_json else TextLines(colors=sys.stderr.isatty()))
    _to_stderr.filters[:] = [LimitEvents()]
    root = logging.getLogger()
    root.addHandler(_to_stderr)
    root.setLevel(level)


_to_stderr = logging.StreamHandler()
"""One for all calls: a root logger takes it once."""


class LimitEvents(logging.Filter):
    """Holds a `RateLimit` to all events of a service; standard loggers have one of their own. Any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = RateLimit()
        self._lock = threading.RLock()  # a signal handler may log while its thread does

    def filter(self, record: logging.LogRecord) -> bool:
        fields = getattr(record, "fields", None)
        if fields is None:
            return True
        with self._lock:
            part = fields.get("part", "")  # each has a limit of its own
            left_out = self._limit.admit(f"{record.msg} {part}", time.monotonic_ns())
        if left_out:
            record.left_out = left_out
        return left_out is not None


class JsonLines(logging.Formatter):
    """One JSON object a line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        line = _line(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Time, level, event and its fields, for people; a traceback on lines of its own."""

    def __init__(self, *, colors: bool) -> None:
        super().__init__()
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        line = {name: _made_harmless(value) for name, value in _line(record).items()}
        at, level, event = line.pop("timestamp"), line.pop("level"), line.pop("event")
        words = [
            self._painted(_DIM, at),
            f"[{self._painted(_COLORS.get(record.levelno, _RED), f'{level:<9}')}]",
            self._painted(_BOLD, f"{event:<30}"),
        ]
        words += [f"{self._painted(_CYAN, name)}={self._painted(_MAGENTA, _word(line[name]))}" for name in sorted(line)]
        text = " ".join(words).rstrip(" ")
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text

    def _painted(self, color: str, text: str) -> str:
        return f"\033[{color}m{text}\033[0m" if self._colors else text


_BOLD, _DIM, _MAGENTA, _CYAN = "1", "2", "35", "36"
_COLORS = {logging.DEBUG: "32;1", logging.INFO: "32;1", logging.WARNING: "33;1"}
_RED = "31;1"


def _line(record: logging.LogRecord) -> dict[str, Any]:
    """All that a record says but its traceback."""
    fields = getattr(record, "fields", None)
    left_out = getattr(record, "left_out", 0)
    line = {**fields, "event": record.msg} if fields is not None else _split(record.getMessage(), left_out)
    if left_out:
        line["left_out"] = left_out
    time_of_day = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
    return {**line, "level": record.levelname.lower(), "timestamp": time_of_day.replace("+00:00", "Z")}


def _split(text: str, left_out: int) -> dict[str, Any]:
    """A standard logger's line, ``link.refused: the reason``, as an event with a detail."""
    if left_out:
        text = text.removesuffix(left_out_mark(left_out))
    name = event_name(text)
    if "." in name and " " not in name and name != text:
        return {"event": name, "detail": text[len(name) + 1 :].strip()}
    return {"event": text}


def _made_harmless(value: Any) -> Any:
    """Texts may come from strangers, and somebody reads the log in a terminal, line by line."""
    return printable(value, "�") if type(value) is str else value


def _word(value: Any) -> str:
    """A value as one word: in quotes where it would not be one."""
    return value if isinstance(value, str) and not set(value) & set(" \t=\r\n\"'") else repr(value)
