"""How often each kind of view shows what came, and how much of it is held: by name, or view by view."""

from __future__ import annotations

import msgspec

TICK_MS = 33
"""Of the window: what is drawn with every tick is drawn at once. So half of all steps are seen 30 ms after they were
emitted, or sooner; at 50 ms they took 38."""
EVERY_MS = (TICK_MS, 100, 200, 500, 1_000, 2_000)
"""What can be chosen."""


class Redraw(msgspec.Struct, frozen=True):
    """A view is drawn at most once in its time. What comes meanwhile is taken in all the same, and shown with it."""

    tables_ms: int = TICK_MS
    charts_ms: int = 200
    pictures_ms: int = TICK_MS
    rows_max: int = 100_000
    """Rows that are held as they come live, of each agent's stream. The store has the others."""


BALANCED = Redraw()
PRESETS = {
    "low-latency": Redraw(charts_ms=100, rows_max=20_000),
    "balanced": BALANCED,
    "high-rate": Redraw(1_000, 2_000, 200),
}
"""low-latency: every row and picture at once; high-rate: for thousands of steps a second, which nobody reads."""


def is_due(every_ms: int, tick: int) -> bool:
    """Whether a view that is drawn every `every_ms` is drawn with this tick."""
    return tick % max(1, every_ms // TICK_MS) == 0


def redraw_of(text: str) -> Redraw:
    """As `text_of` wrote it; the balanced one for any other text."""
    try:
        found = msgspec.json.decode(text, type=Redraw)
    except msgspec.DecodeError:
        return BALANCED
    known = {found.tables_ms, found.charts_ms, found.pictures_ms} <= set(EVERY_MS)
    return found if known and found.rows_max in {one.rows_max for one in PRESETS.values()} else BALANCED


def text_of(redraw: Redraw) -> str:
    return msgspec.json.encode(redraw).decode()
