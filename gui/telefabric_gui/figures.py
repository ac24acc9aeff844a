"""How figures are written: thin spaces between thousands, units, a fixed number of digits."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from telefabric_schemas import values

THIN = "\u2009"
NONE = "\u2013"
TIMES = " \u00d7 "
_SHORT = 40


def count(number: int) -> str:
    """98231 → 98 231, with a thin space."""
    return f"{number:,}".replace(",", THIN)


def plural(number: int, word: str) -> str:
    return f"{count(number)} {word}" if number == 1 else f"{count(number)} {word}s"


def real(number: float | None, digits: int = 2) -> str:
    """A value with so many decimals, or with an exponent where those would say nothing."""
    if number is None or math.isnan(number):
        return NONE
    size = abs(number)
    if math.isinf(number) or size >= 1e7 or 0 < size < 0.5 * 10**-digits:
        return f"{number:.{digits}g}"
    return f"{number:,.{digits}f}".replace(",", THIN).replace("-", "\u2212")


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


def megabytes(size: float) -> str:
    return f"{count(round(size / 1e6))} MB"


def clock(time_ns: int) -> str:
    """Wall time of this machine's zone, to the millisecond."""
    if time_ns <= 0:
        return NONE
    try:
        return datetime.fromtimestamp(time_ns / 1e9).strftime("%H:%M:%S.%f")[:-3]
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


def short(value: Any, length: int = _SHORT) -> str:
    """A value on one line."""
    text = _plain(value).replace("\n", " ")
    return text if len(text) <= length else text[: length - 1] + "…"


def _plain(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, np.ndarray):
        if value.size > 8:
            return f"{value.dtype.name} {TIMES.join(map(str, value.shape))}"
        return " ".join(_plain(one) for one in value.ravel().tolist())
    if isinstance(value, list | tuple):
        return " ".join(_plain(one) for one in value[:8]) + (f" … {len(value)}" if len(value) > 8 else "")
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return str(value)
