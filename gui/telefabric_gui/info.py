"""Parts of what a step reports in `info`: a path is the keys of maps, with dots between them."""

from __future__ import annotations

import math
from typing import Any

INFO = "info/"
"""How the names of series of parts begin, as in questions to the store."""
PARTS_MAX = 64
"""Parts of one `info` that are offered; the list of more could not be read."""


def part_of(value: Any, path: str) -> Any:
    """The part at a path, whose keys may have dots of their own; None without it."""
    if not path or not isinstance(value, dict):
        return value if not path else None
    for end in [len(path), *(at for at, letter in enumerate(path) if letter == ".")]:
        if path[:end] in value:
            return part_of(value[path[:end]], path[end + 1 :])
    return None


def paths_of(info: Any, before: str = "") -> list[str]:
    """The paths of all parts that are no maps."""
    found: list[str] = []
    for name, value in info.items() if isinstance(info, dict) else ():
        if isinstance(name, str) and len(found) < PARTS_MAX:
            found += paths_of(value, f"{before}{name}.") if isinstance(value, dict) and value else [before + name]
    return found[:PARTS_MAX]


def number_in(info: Any, path: str) -> float:
    """The number at a path; NaN when there is none."""
    value = part_of(info, path)
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer beyond the floats
        return math.nan
