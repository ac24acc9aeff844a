"""The state of a run, from the store's data and the broker's status."""

from __future__ import annotations

from collections.abc import Collection

ENDED = frozenset(("completed", "failed", "cancelled", "lost"))
_FIRST = ("revived", "running", "idle", "waiting", "stalled")
"""A run has the state of its liveliest stream; revived comes before all others."""


def run_state(stored: str | None, streams: Collection[str], *, broker_known: bool) -> str:
    """pending, running, revived, idle, waiting (for a store), stalled, or how it ended: `ENDED`.

    `stored` is its status in the store, `streams` the states of its streams at the broker; `broker_known` whether there
    is a broker to ask: one that has forgotten all streams of a run that has not ended hears nothing of it any more.
    """
    if stored in ENDED and (stored != "lost" or not set(streams) - {"stalled"}):
        return str(stored)
    for state in _FIRST:
        if state in streams:
            return state
    if stored == "running" and broker_known:
        return "stalled"
    return stored or "pending"
