"""The fields of a foreign JSON object, under the several names that programs give to one thing."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from telefabric import limits
from telefabric_schemas.events import CONTROL_MODES, INT_MAX

_DIGITS_MAX = 4_300
"""Python makes no integer of a longer text."""
_WALL_CLOCK_S_MIN = 10**8
"""A number below is no time since 1970: it counts from the start of the program, or is a step."""


class BadValue(ValueError):
    """A field has a value that it cannot have; the message names both."""


def may_be_object(head: bytes) -> bool:
    """Whether a line with this beginning may be a JSON object. Some programs write a byte order mark first."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{"


def object_in(line: bytes) -> dict[str, Any] | None:
    """Parse a line as a JSON object; None for all else. NaN, infinities and integers of `_DIGITS_MAX` digits pass."""
    if not may_be_object(line):
        return None
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            found = json.loads(line)  # slower, and reads what Python's own json has written
        except (ValueError, RecursionError):
            return None
    return found if isinstance(found, dict) else None


def why_unreadable(line: bytes) -> str:
    """The reason why a line is not JSON; empty when it is."""
    try:
        json.loads(line.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError) as error:
        return f"the line is not JSON: {error}"
    return ""


class Fields:
    """What is left of an object while its fields are taken."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._left = dict(found)

    def __contains__(self, name: str) -> bool:
        """Whether the object has it, be it null."""
        return name in self._left or f"{name}_json" in self._left

    def take(self, *names: str) -> Any:
        """The first of these that is there and not null. ``NAME_json`` holds the same as JSON in a text."""
        for name in names:
            value = self._left.pop(name, None)
            if value is None and (written := self._left.pop(f"{name}_json", None)) is not None:
                value = _read(written)
            if value is not None:
                return value
        return None

    def whole(self, *names: str) -> int | None:
        """A whole number, not negative; also as a text of digits, as protobuf's JSON has it."""
        value = self.take(*names)
        if value is None:
            return None
        if isinstance(value, str) and value.isdecimal() and len(value) <= _DIGITS_MAX:
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INT_MAX:
            raise BadValue(f"{names[0]} is {_shown(value)} and should be a whole number from 0")
        return value

    def real(self, *names: str) -> float | None:
        value = self.take(*names)
        if value is None:
            return None
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise BadValue(f"{names[0]} is {_shown(value)} and should be a number") from None

    def flag(self, *names: str) -> bool:
        value = self.take(*names)
        if value is None or value in (0, 1):
            return bool(value)
        raise BadValue(f"{names[0]} is {_shown(value)} and should be true or false")

    def text(self, *names: str) -> str | None:
        value = self.take(*names)
        return None if value is None else value if isinstance(value, str) else _shown(value)

    def map(self, *names: str) -> dict[str, Any]:
        """A map; what is not one is put into a map under the first of the names."""
        value = self.take(*names)
        return {} if value is None else value if isinstance(value, dict) else {names[0]: value}

    def mode(self) -> str | None:
        found = self.text("control_mode")
        return found if found in CONTROL_MODES or found is None else "unknown"

    def time_ns(self) -> int | None:
        """Of ``ts_unix_ns`` or ``time_ns``, else of ``ts`` or ``timestamp``; None where no time since 1970 is given."""
        for name in ("ts_unix_ns", "time_ns", "ts", "timestamp"):
            found = _time_ns(self._left.get(name), given_ns=name.endswith("_ns"))
            if found is not None:
                del self._left[name]
                return found
        return None

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._left.pop(name, None)

    def rest(self) -> dict[str, Any]:
        """What nobody has taken, without nulls."""
        return {name: value for name, value in self._left.items() if value is not None}


def _read(written: Any) -> Any:
    """The value of a ``…_json``: JSON in a text, or whatever is there in its place."""
    if not isinstance(written, str):
        return written
    try:
        return msgspec.json.decode(written)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        try:
            return json.loads(written)
        except (ValueError, RecursionError):
            return written


def _time_ns(value: Any, *, given_ns: bool) -> int | None:
    if isinstance(value, str):
        try:  # one without a zone is of this machine's, as it is for Python
            return _in_range(int(datetime.fromisoformat(value).timestamp() * 1_000_000) * 1_000)
        except (ValueError, OverflowError):  # no such text, or of a year that no clock has, as an empty time of .NET is
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    if given_ns:
        return _in_range(int(value)) if abs(value) <= INT_MAX else None
    for a_second in (1, 1_000, 1_000_000, limits.NS):  # seconds, or finer units, as their size tells
        if _WALL_CLOCK_S_MIN * a_second <= value < 1_000 * _WALL_CLOCK_S_MIN * a_second:
            return _in_range(round(value * (limits.NS // a_second)))
    return None


def _in_range(time_ns: int) -> int | None:
    return time_ns if 0 < time_ns <= INT_MAX else None


def _shown(value: Any) -> str:
    return repr(value)[:80]
