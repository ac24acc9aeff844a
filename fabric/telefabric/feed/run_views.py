"""The runs of a client's list, from the store's data and the broker's status."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from telefabric.feed.interface import RunView, StreamView
from telefabric.feed.stored_runs import StoredRun
from telefabric.store.read.query import Run
from telefabric.wire.edits import tags_of

_Status = dict[str, Any]
"""What the broker's status says of one stream."""
ENDED = frozenset(("completed", "failed", "cancelled", "lost"))
_FIRST = ("revived", "running", "idle", "waiting", "held", "stalled")
"""A run has the state of its liveliest stream; revived comes before all others."""


class RunViews:
    """Joins the two, and keeps what changed until it is taken. Any thread; none waits for a long list."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stored: dict[str, StoredRun] = {}
        self._said: tuple[dict[str, list[_Status]], bool] = ({}, False)
        """The broker's streams by run, and whether there is a broker to ask. Replaced as a whole."""
        self._views: dict[str, RunView] = {}
        self._changed: dict[str, RunView | None] = {}
        """Since the last `take`; None for a run that is gone."""

    def store(self, found: Mapping[str, StoredRun | None]) -> None:
        """The store has these runs now; None for those that are gone."""
        with self._lock:
            for run_id, stored in found.items():
                if stored is None:
                    self._stored.pop(run_id, None)
                else:
                    self._stored[run_id] = stored
        while found:
            said = self._said
            views = {run_id: _view(run_id, stored, *said) for run_id, stored in found.items()}
            with self._lock:
                if self._said is said:
                    self._show(views)
                    return

    def hear(self, streams: Iterable[_Status], *, broker_known: bool) -> None:
        """The broker has these streams now, if there is one."""
        live: defaultdict[str, list[_Status]] = defaultdict(list)
        for status in streams:
            live[status["run_id"]].append(status)
        with self._lock:
            before, known_before = self._said
            self._said = dict(live), broker_known
            named = before.keys() | live.keys()
            if broker_known != known_before:
                named |= {run_id for run_id, stored in self._stored.items() if stored.run.status == "running"}
            self._show({run_id: _view(run_id, self._stored.get(run_id), *self._said) for run_id in named})

    def take(self) -> tuple[tuple[RunView, ...], tuple[str, ...]]:
        """The runs that came or changed since the last time, newest first, and the names of those that are gone."""
        with self._lock:
            changed, self._changed = self._changed, {}
        views = [view for view in changed.values() if view is not None]
        views.sort(key=lambda view: (view.started_ns is None, view.started_ns or 0, view.number), reverse=True)
        return tuple(views), tuple(run_id for run_id, view in changed.items() if view is None)

    def _show(self, views: Mapping[str, RunView | None]) -> None:
        for run_id, view in views.items():
            if view == self._views.get(run_id):
                continue
            self._changed[run_id] = view
            if view is None:
                del self._views[run_id]
            else:
                self._views[run_id] = view


def _view(
    run_id: str, found: StoredRun | None, said: Mapping[str, list[_Status]], broker_known: bool
) -> RunView | None:
    """None when neither knows the run."""
    live, (run, stored) = said.get(run_id, []), found or (None, [])
    if run is None and not live:
        return None
    return RunView(
        run_id,
        run_state(run.status if run else None, [stream["state"] for stream in live], broker_known=broker_known),
        run.control_mode if run else "unknown",
        tuple(sorted({one.agent_id for one in stored} | {one["agent_id"] for one in live})),
        len({one.worker_id for one in stored} | {one["worker_id"] for one in live}),
        run.started_ns if run else None,
        run.finished_ns if run else None,
        run.reason if run else None,
        run.metadata if run else b"",
        **(_heard_of(live) if live else {}),
        streams=tuple(
            StreamView(one.stream_id, one.worker_id, one.started_ns, one.attempt, one.role) for one in stored
        ),
        **(_told_of(run) if run else {}),
    )


def _heard_of(live: list[_Status]) -> dict[str, Any]:
    """Silence, events and clocks of a run, as the broker knows them."""
    return {
        "silent_s": round(min(stream["silent_s"] for stream in live), 0),
        "emitted": sum(stream["emitted"] for stream in live),
        "backlog": sum(stream["backlog"] for stream in live),
        "behind_at": next((hop for stream in live if (hop := _behind_at(stream)) is not None), None),
        "clock_offset_ms": _most([stream["clock_offset_ms"] for stream in live]),
        "round_trip_ms": _most([stream["round_trip_ms"] for stream in live]),
    }


_NO_TAGS = "[]"


def _told_of(run: Run) -> dict[str, Any]:
    return {
        "attempts": run.attempts, "helpers": run.helpers, "superseded": run.superseded, "notes": run.notes,
        "tags": () if run.tags == _NO_TAGS else tuple(tags_of(run.tags)), "archived": run.archived_ns is not None,
        "number": run.run,
    }  # fmt: skip


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
