"""The feed of a broker: its runs, and the watched ones live and stored as one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from telefabric.address import Address
from telefabric.feed.edit_requests import EditRequests
from telefabric.feed.history_thread import HistoryThread
from telefabric.feed.interface import Connection, LinkState, Rate, RunView, Update
from telefabric.feed.live_thread import LiveThread
from telefabric.feed.merged import HISTORY_EVENTS, MergedStreams
from telefabric.feed.questions import Answer, Asked, Questions
from telefabric.feed.run_views import RunViews
from telefabric.peer.edit_request import ask_edit
from telefabric.peer.requests import nobody_at
from telefabric.store.read.query import Question
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.wire.policy import QueuePolicy

_UNREACHABLE_S = 4.0


class Source(NamedTuple):
    """The run, worker and agent of a stream."""

    worker_id: str
    agent_id: str


class BrokerFeed:
    """A `telefabric.feed.Feed`. Connects by itself, again and again; nothing it meets is an error of its caller's.

    `history_events` and `in_order` are those of `telefabric.feed.merged.MergedStreams`.
    """

    def __init__(
        self, address: Address, *, name: str = "client", policy: QueuePolicy | None = None,
        history_events: int | None = HISTORY_EVENTS, in_order: bool = False,
    ) -> None:  # fmt: skip
        self.address = address
        self._merged = MergedStreams(history_events=history_events, in_order=in_order)
        self._views = RunViews()
        self._history = HistoryThread(address, self._merged, self._views)
        self._live = LiveThread(address, self._merged, name, policy or QueuePolicy())
        self._questions = Questions(lambda cancelled: RemoteReader(address, cancelled=cancelled))
        self._edits = EditRequests(partial(ask_edit, address))
        self._heard: tuple[Any, bool] = (None, False)
        """The broker's status when it was last looked at, and whether there was a broker."""
        self._started_s = time.monotonic()
        self._rate = Rate()

    def start(self) -> None:
        self._live.start()
        self._history.start()
        self._questions.start()

    def stop(self) -> None:
        self._live.stop()
        self._history.stop()
        self._questions.stop()

    def watch(self, run_ids: frozenset[str]) -> None:
        if run_ids != self._merged.watched:
            self._merged.watch(run_ids)
            self._live.watch_changed()
            self._history.wake()

    def rest(self, run_ids: frozenset[str]) -> frozenset[bytes]:
        if run_ids == self._merged.resting:
            return frozenset()
        again = self._merged.rest(run_ids)
        self._live.watch_changed()
        self._history.wake()
        return again

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        self._live.want_pictures(run_ids)

    def ask(self, question: Question[Any], answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        return self._questions.ask(question, answered, urgent=urgent)

    def edit(self, run_id: str, command: str, value: object = None) -> None:
        self._edits.ask(command, run_id, value)

    def drain(self) -> Update:
        drained = self._merged.drain()
        if any(drained.holes.values()):
            self._history.wake()
        runs, gone = self._changed_runs()
        return Update(self._connection(), runs or None, *drained, self._edits.take(), gone, self._edits.left)

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
        subscription = self._live.subscription
        failures = [part.failures for part in (self._live, self._history, self._questions)]
        return Connection(
            *self._link(),
            events_per_s=self._rate.at(subscription.received),
            behind_s=subscription.behind_s,
            received=subscription.received,
            dropped=tuple(sorted(subscription.dropped.items())),
            lost_in_transit=subscription.lost_in_transit,
            absent=tuple(self._live.status.get("absent", ())),
            failures=sum(one.number for one in failures),
            notice=next((one.last for one in failures if one.last), ""),
        )

    def _link(self) -> tuple[LinkState, str, str]:
        """State, address, and the problem if there is one."""
        url, subscription = self.address.url, self._live.subscription
        if subscription.refusal:
            return LinkState.REFUSED, url, subscription.refusal
        if subscription.instance is not None:
            return LinkState.LIVE, url, self._history.problem
        if time.monotonic() - self._started_s < _UNREACHABLE_S:
            return LinkState.CONNECTING, url, ""
        sentence = nobody_at(self.address)
        return LinkState.UNREACHABLE, url, sentence[0].upper() + sentence[1:]

    def _changed_runs(self) -> tuple[tuple[RunView, ...], tuple[str, ...]]:
        status = self._live.status
        broker_known = self._live.subscription.instance is not None and bool(status)
        before, known_before = self._heard
        if status is not before or broker_known != known_before:
            self._heard = status, broker_known
            self._views.hear(status.get("streams", ()), broker_known=broker_known)
        return self._views.take()
