"""How figures are written: thin spaces between thousands, units, a fixed number of digits."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from msgspec.msgpack import Ext

from telefabric_schemas import values

THIN = "\u202f"
NONE = "\u2013"
MINUS = "\u2212"
TIMES = " \u00d7 "
_SHORT = 40
_ITEMS_MAX = 8
"""Most items of a list, map or array that are written out."""
_DEPTH_MAX = 4
_INTEGER_BITS_MAX = 1_024
"""Python refuses to write integers of more than 4,300 digits, and as many cannot be read."""
_METADATA_KEPT = 64


def count(number: int) -> str:
    """98231 → 98 231, with a narrow space at which no line breaks."""
    return f"{number:,}".replace(",", THIN)


def millions(part: int, whole: int) -> str:
    """How far one is: 2.9 of 3.0 million, 512 of 1 204."""
    if whole < 1_000_000:
        return f"{count(part)} of {count(whole)}"
    return f"{part / 1e6:.1f} of {whole / 1e6:.1f} million"


def plural(number: int, word: str) -> str:
    return f"{count(number)} {word}" if number == 1 else f"{count(number)} {word}s"


def real(number: float | None, digits: int = 2) -> str:
    """A value with the given decimals, or with an exponent if they would show nothing."""
    if number is None or math.isnan(number):
        return NONE
    size = abs(number)
    if math.isinf(number) or size >= 1e7 or 0 < size < 0.5 * 10**-digits:
        return f"{number:.{digits}g}"
    return f"{number + 0.0:,.{digits}f}".replace(",", THIN).replace("-", MINUS)  # + 0.0: zero has no sign


def duration(seconds: float) -> str:
    """Two places at most: 0.6 ms, 14 ms, 3.2 s, 14 s, 2 h 14 min."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ago(seconds: float) -> str:
    """In its largest unit: just now, 12 min ago, 5 h ago, 3 days ago."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    hours = minutes // 60
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} days ago"


def clock(time_ns: int) -> str:
    """Wall time of this machine's zone, to the millisecond."""
    if time_ns <= 0:
        return NONE
    try:
        return datetime.fromtimestamp(time_ns / 1e9).strftime("%H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError, OSError):
        return NONE


def minute(time_ns: int) -> str:
    """Day and wall time of this machine's zone, to the minute."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return NONE


def age_s(time_ns: int) -> float:
    return max(0.0, time.time() - time_ns / 1e9)


def decoded(raw: msgspec.Raw | bytes) -> Any:
    """A payload's value; its bytes as text when it cannot be read."""
    try:
        return values.decode(raw)
    except msgspec.DecodeError as error:
        return f"unreadable: {error}"


@lru_cache(_METADATA_KEPT)
def metadata_of(raw: bytes) -> Mapping[str, Any]:
    """A run's metadata by name; empty if they are not a map. Do not change the result."""
    found = decoded(raw) if raw else None
    return {short(name): value for name, value in found.items()} if isinstance(found, dict) else {}


def short(value: Any, length: int = _SHORT) -> str:
    """Any decoded value as text on one line, cut to a length. All values of users are shown through this."""
    text = " ".join(_plain(value, length, 0).splitlines())
    return text if len(text) <= length else text[: length - 1] + "…"


def _plain(value: Any, length: int, depth: int) -> str:
    match value:
        case None:
            return NONE
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.4g}"
        case int():
            bits = value.bit_length()
            return str(value) if bits <= _INTEGER_BITS_MAX else f"an integer of {count(bits)} bits"
        case str() | bytes():
            cut = value[: length + 1]  # a large value costs no more than a small one
            return cut if isinstance(cut, str) else repr(cut)
        case Ext():
            return f"extension {value.code}"
        case _ if depth > _DEPTH_MAX:
            return "…"
        case np.ndarray():
            if not 0 < value.size <= _ITEMS_MAX:
                return f"{value.dtype.name} {TIMES.join(map(str, value.shape))}"
            return " ".join(_plain(one, length, depth + 1) for one in value.ravel().tolist())
        case list() | tuple():
            items = [_plain(one, length, depth + 1) for one in value[:_ITEMS_MAX]]
        case dict():
            some = islice(value.items(), _ITEMS_MAX)
            items = [f"{_plain(name, length, depth + 1)} {_plain(one, length, depth + 1)}," for name, one in some]
            items[-1:] = [last.removesuffix(",") for last in items[-1:]]
        case _:
            return str(value)
    return " ".join(items) + (f" … {count(len(value))}" if len(value) > _ITEMS_MAX else "")
