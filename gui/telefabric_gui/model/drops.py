"""What a tab does not show of what was emitted: how much, where it was dropped, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from telefabric_gui.formatting import plural

_REASONS_MAX = 3


class Drops(NamedTuple):
    number: int
    """Events that are missing from the tab; what it reads from the store when that comes into sight is not."""
    sentences: tuple[str, ...]


def drops_of(
    lost: int, reasons: Iterable[str], waiting: int, *, left_out: int = 0, older: int = 0, frames: int = 0
) -> Drops:
    """Of a stream: events lost for good and why, and events that did not come live.

    `left_out` are events of the agent's older attempts, `older` events that the feed left to the store, and `frames`
    pictures that a newer one overtook in shared memory.
    """
    why = ", ".join(sorted(set(filter(None, reasons)))[:_REASONS_MAX])
    counted = (
        (lost, "event", f" lost for good before the store{f': {why}' if why else ''}"),
        (waiting, "event", " dropped on the live path, being fetched from the store"),
        (left_out, "event", " of older attempts left out here, since there was no room; the store has them"),
        (older, "event", " skipped here, because they are old or too many at once; read from the store when in sight"),
        (frames, "picture", " skipped on the fast lane, since a newer one came first"),
    )
    said = tuple(f"{plural(number, noun)}{rest}." for number, noun, rest in counted if number)
    return Drops(lost + waiting + left_out, said)
