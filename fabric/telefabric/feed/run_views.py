"""The runs of a client's list, from the store's data and the broker's status."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from telefabric.feed.interface import RunView, StreamView
from telefabric.store.read.query import Run, Stream
from telefabric.wire.edits import tags_of

_Status = dict[str, Any]
"""What the broker's status says of one stream."""
ENDED = frozenset(("completed", "failed", "cancelled", "lost"))
_FIRST = ("revived", "running", "idle", "waiting", "held", "stalled")
"""A run has the state of its liveliest stream; revived comes before all others."""


def run_views(
    runs: Iterable[Run], streams: Iterable[Stream], live: Iterable[_Status] = (), *, broker_known: bool = False
) -> list[RunView]:
    """Stored runs in the store's order, then those that only the broker knows, by its `live` streams."""
    stored: defaultdict[str, list[Stream]] = defaultdict(list)
    reported: defaultdict[str, list[_Status]] = defaultdict(list)
    for stream in streams:
        stored[stream.run_id].append(stream)
    for status in live:
        reported[status["run_id"]].append(status)
    known = {run.run_id: run for run in runs}
    ids = dict.fromkeys((*known, *reported))
    return [_view(run_id, known.get(run_id), stored[run_id], reported[run_id], broker_known) for run_id in ids]


def _view(run_id: str, run: Run | None, stored: list[Stream], live: list[_Status], broker_known: bool) -> RunView:
    silent_s = min((stream["silent_s"] for stream in live), default=None)
    states = [stream["state"] for stream in live]
    return RunView(
        run_id,
        run_state(run.status if run else None, states, broker_known=broker_known),
        run.control_mode if run else "unknown",
        tuple(sorted({one.agent_id for one in stored} | {one["agent_id"] for one in live})),
        len({one.worker_id for one in stored} | {one["worker_id"] for one in live}),
        *((run.started_ns, run.finished_ns, run.reason, run.metadata) if run else (None, None, None, b"")),
        silent_s and round(silent_s, 0),
        sum(stream["emitted"] for stream in live),
        sum(stream["backlog"] for stream in live),
        next((hop for stream in live if (hop := _behind_at(stream)) is not None), None),
        _most([stream["clock_offset_ms"] for stream in live]),
        _most([stream["round_trip_ms"] for stream in live]),
        tuple(StreamView(one.stream_id, one.worker_id, one.started_ns, one.attempt, one.role) for one in stored),
        *(_told_of(run) if run else ()),
    )


def _told_of(run: Run) -> tuple[int, int, int, tuple[str, ...], str, bool]:
    return run.attempts, run.helpers, run.superseded, tuple(tags_of(run.tags)), run.notes, run.archived_ns is not None


def run_state(stored: str | None, streams: Collection[str], *, broker_known: bool) -> str:
    """pending, running, revived, idle, waiting or held (for a store), stalled, or how it ended: `ENDED`.

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


def _behind_at(stream: _Status) -> str | None:
    """The durable hop that is behind; that a client cannot keep up is its own affair."""
    durable = {name for name, path, *_ in stream["hops"] if path == "durable"}
    found = stream["first_behind"]
    return str(found) if found in durable else None


def _most(figures: list[float | None]) -> float | None:
    """The one furthest from 0, to a millisecond: finer is noise."""
    known = [round(figure) for figure in figures if figure is not None]
    return max(known, key=abs, default=None)
