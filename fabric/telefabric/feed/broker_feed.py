"""The feed of a broker: its runs, and the watched ones live and stored as one."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from telefabric.address import Address
from telefabric.feed.frame_requests import FrameRequests, stream_view
from telefabric.feed.history_thread import HistoryThread
from telefabric.feed.interface import Connection, FramePlace, LinkState, RunView, StreamView, Update
from telefabric.feed.live_thread import LiveThread
from telefabric.feed.merged import HISTORY_EVENTS, MergedStreams
from telefabric.feed.run_state import run_state
from telefabric.store.read.query import Run
from telefabric.wire.policy import QueuePolicy

_UNREACHABLE_S = 4.0
_RATE_S = 1.0


class Source(NamedTuple):
    """The run, worker and agent of a stream."""

    worker_id: str
    agent_id: str


class BrokerFeed:
    """A `telefabric.feed.Feed`. Connects by itself, again and again; nothing it meets is an error of its caller's.

    `history_events` and `in_order` are those of `telefabric.feed.merged.MergedStreams`.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str = "client",
        policy: QueuePolicy | None = None,
        history_events: int | None = HISTORY_EVENTS,
        in_order: bool = False,
    ) -> None:
        self.address = address
        self._merged = MergedStreams(history_events=history_events, in_order=in_order)
        self._frame_requests = FrameRequests()
        self._history = HistoryThread(address, self._merged, self._frame_requests)
        self._live = LiveThread(address, self._merged, name, policy or QueuePolicy())
        self._shown: tuple[RunView, ...] | None = None
        self._said: tuple[object, ...] = (None, None, None)
        self._started_s = time.monotonic()
        self._rate_since_s = time.monotonic()
        self._rate_from = 0
        self._rate = 0.0

    def start(self) -> None:
        self._live.start()
        self._history.start()

    def stop(self) -> None:
        self._live.stop()
        self._history.stop()

    def watch(self, run_ids: frozenset[str]) -> None:
        if run_ids != self._merged.watched:
            self._merged.watch(run_ids)
            self._live.watch_changed()
            self._history.wake()

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        self._live.want_pictures(run_ids)

    def ask_frame(self, place: FramePlace) -> None:
        self._frame_requests.ask(place)
        self._history.wake()

    def set_policy(self, policy: QueuePolicy) -> None:
        """Ask the broker for another policy of this client's queue. Any thread."""
        self._live.watch_changed(policy)

    def drain(self) -> Update:
        drained = self._merged.drain()
        if any(drained.holes.values()):
            self._history.wake()
        runs = self._changed_runs()
        connection, frame = self._connection(), self._frame_requests.take()
        return Update(connection, runs, drained.events, drained.holes, drained.gaps, drained.skipped, frame)

    def source(self, stream_id: bytes) -> Source:
        """The stream's source, as store or broker last named it; empty names if neither has."""
        for stored in self._history.streams:
            if stored.stream_id == stream_id:
                return Source(stored.worker_id, stored.agent_id)
        for stream in self._live.status.get("streams", ()):
            if stream["stream_id"] == stream_id.hex():
                return Source(stream["worker_id"], stream["agent_id"])
        return Source("", "")

    # -- inside --------------------------------------------------------------------------------------------------

    def _connection(self) -> Connection:
        now_s = time.monotonic()
        if now_s - self._rate_since_s >= _RATE_S:
            self._rate = (self._live.subscription.received - self._rate_from) / (now_s - self._rate_since_s)
            self._rate_since_s, self._rate_from = now_s, self._live.subscription.received
        link, sentence = self._link(now_s)
        return Connection(
            link,
            self.address.url,
            sentence,
            self._rate,
            self._live.subscription.behind_s,
            self._live.subscription.received,
            tuple(sorted(self._live.subscription.dropped.items())),
            self._live.subscription.lost_in_transit,
            self._merged.pending,
            tuple(self._live.status.get("absent", ())),
            self._live.failures.number + self._history.failures.number,
            self._live.failures.last or self._history.failures.last,
        )

    def _link(self, now_s: float) -> tuple[LinkState, str]:
        if self._live.subscription.refusal:
            return LinkState.REFUSED, self._live.subscription.refusal
        if self._live.subscription.instance is not None:
            return LinkState.LIVE, self._history.problem
        if now_s - self._started_s < _UNREACHABLE_S:
            return LinkState.CONNECTING, ""
        return LinkState.UNREACHABLE, (
            f"Nobody answers at {self.address.url}. Is the broker running there? Start one with: telefabric up"
        )

    def _changed_runs(self) -> tuple[RunView, ...] | None:
        """The list of runs when it changed. Both threads replace what they say as a whole, never in part."""
        said = (self._live.status, self._history.runs, self._history.streams)
        if all(new is old for new, old in zip(said, self._said, strict=True)):
            return None
        self._said = said
        runs = self._runs()
        changed = runs if runs != self._shown else None
        self._shown = runs
        return changed

    def _runs(self) -> tuple[RunView, ...]:
        """Stored runs and those that the broker knows, newest first."""
        by_run: dict[str, list[dict[str, Any]]] = {}
        for stream in self._live.status.get("streams", ()):
            by_run.setdefault(stream["run_id"], []).append(stream)
        stored = {run.run_id: run for run in self._history.runs}
        agents: dict[str, set[str]] = {}
        workers: dict[str, set[str]] = {}
        known: dict[str, list[StreamView]] = {}
        for one in self._history.streams:
            known.setdefault(one.run_id, []).append(stream_view(one))
            agents.setdefault(one.run_id, set()).add(one.agent_id)
            workers.setdefault(one.run_id, set()).add(one.worker_id)
        for run_id, streams in by_run.items():
            agents.setdefault(run_id, set()).update(stream["agent_id"] for stream in streams)
            workers.setdefault(run_id, set()).update(stream["worker_id"] for stream in streams)
        views = [
            _view(
                run_id,
                stored.get(run_id),
                by_run.get(run_id, []),
                agents.get(run_id, set()),
                workers.get(run_id, set()),
                tuple(known.get(run_id, ())),
                broker_known=self._live.subscription.instance is not None and bool(self._live.status),
            )
            for run_id in {**stored, **by_run}
        ]
        return tuple(sorted(views, key=lambda view: (view.started_ns is None, view.started_ns), reverse=True))


def _view(
    run_id: str,
    run: Run | None,
    streams: list[dict[str, Any]],
    agents: set[str],
    workers: set[str],
    known: tuple[StreamView, ...],
    *,
    broker_known: bool,
) -> RunView:
    silent_s = min((stream["silent_s"] for stream in streams), default=None)
    states = [stream["state"] for stream in streams]
    return RunView(
        run_id,
        run_state(run.status if run else None, states, broker_known=broker_known),
        run.control_mode if run else "unknown",
        tuple(sorted(agents)),
        len(workers),
        run.started_ns if run else None,
        run.finished_ns if run else None,
        run.reason if run else None,
        run.metadata if run else b"",
        silent_s and round(silent_s, 0),
        sum(stream["emitted"] for stream in streams),
        sum(stream["backlog"] for stream in streams),
        next((hop for stream in streams if (hop := _behind_at(stream)) is not None), None),
        _most([stream["clock_offset_ms"] for stream in streams]),
        _most([stream["round_trip_ms"] for stream in streams]),
        known,
        *((run.attempts, run.helpers, run.superseded) if run else ()),
    )


def _behind_at(stream: dict[str, Any]) -> str | None:
    """The durable hop that is behind; that a client cannot keep up is its own affair."""
    durable = {name for name, path, *_ in stream["hops"] if path == "durable"}
    found = stream["first_behind"]
    return str(found) if found in durable else None


def _most(figures: list[float | None]) -> float | None:
    """The one furthest from 0, to a millisecond: finer is noise."""
    known = [round(figure) for figure in figures if figure is not None]
    return max(known, key=abs, default=None)
