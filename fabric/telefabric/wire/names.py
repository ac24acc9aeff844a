"""Names of runs, workers, agents and subscribers: printable text of 1 to 255 bytes, the same wherever one is given.

Bytes count and not characters: a name becomes part of a subscription, whose size libzmq limits in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from telefabric import limits
from telefabric.errors import UsageError

DEMAND = f"printable text of 1 to {limits.NAME_BYTES_MAX} bytes"
_JOINERS = frozenset("\u200c\u200d")
"""Format characters that belong to words: Persian is spelled with the first, and emoji are composed with the second."""


def fits(text: str) -> bool:
    """Whether a text is short enough for a name."""
    few = len(text) <= limits.NAME_BYTES_MAX // 4
    return few or len(text.encode("utf-8", "replace")) <= limits.NAME_BYTES_MAX


def is_name(text: str) -> bool:
    return fits(text) and not is_blank(text) and is_printable(text)


def is_blank(text: str) -> bool:
    """Nothing of it would be seen."""
    return not "".join(each for each in text if each not in _JOINERS).strip()


def is_printable(text: str) -> bool:
    return text.isprintable() or all(map(_is_printable, text))


def printable(text: str, instead: str) -> str:
    """The text with another character for each that would steer a terminal."""
    return text if text.isprintable() else "".join(each if _is_printable(each) else instead for each in text)


def cut(text: str, bytes_max: int = limits.NAME_BYTES_MAX) -> str:
    """The beginning of a text, short enough for a name unless another limit is given."""
    return text.encode("utf-8", "replace")[:bytes_max].decode(errors="ignore")


def end_of(text: str) -> str:
    """The end of a text, short enough for a name."""
    return text.encode("utf-8", "replace")[-limits.NAME_BYTES_MAX :].decode(errors="ignore")


def require_short(what: str, names: Iterable[str]) -> None:
    """Raises `UsageError` for a name that no message could carry."""
    for name in names:
        if not fits(name):
            size = len(name.encode("utf-8", "replace"))
            raise UsageError(f"{what} has a name of {size} bytes: choose one of {limits.NAME_BYTES_MAX} bytes at most")


def _is_printable(character: str) -> bool:
    return character.isprintable() or character in _JOINERS
