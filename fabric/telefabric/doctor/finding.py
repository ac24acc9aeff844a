"""The doctor's findings: one row per check, and its sentences."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import takewhile
from typing import Any, NamedTuple

OK, WARNING, PROBLEM = "ok", "warning", "problem"


class Finding(NamedTuple):
    """One row: what was looked at, how it is, one sentence on it, and what to do when it is not fine."""

    check: str
    state: str
    sentence: str
    remedy: str = ""


SAYINGS: dict[str, dict[str, list[str]]] = tomllib.loads(
    files("telefabric.doctor").joinpath("sayings.toml").read_text("utf-8")
)


def say(check: str, what: str, /, **values: Any) -> Finding:
    """The finding that `sayings.toml` has for a check under a word, with these values in sentence and remedy."""
    state, *texts = SAYINGS[check][what]
    return Finding(check, state, *(text.format(**values) for text in texts))


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(map(int, takewhile(str.isdigit, text.split("."))))


def dotted(parts: Iterable[int]) -> str:
    return ".".join(map(str, parts))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1_000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:,.1f} TB"


def few_of(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def counted_kinds(counts: Mapping[str, int]) -> str:
    """Events by kind; empty for none."""
    found = sorted((kind, count) for kind, count in counts.items() if count)
    return ", ".join(f"{count} {kind}" if "_" in kind else counted(count, kind) for kind, count in found)
