"""Beside a loop that never gives the interpreter's lock away, a link that is behind asks the emitting thread for it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PATIENCE_S, FabricService
from slowness import patience

from telefabric import limits
from telefabric.store.read.file_reader import FileReader
from telefabric.uplink import linked_stream, senders
from telefabric.uplink.core.stream import SendBatch
from telefabric.uplink.linked_stream import LinkedStream
from telefabric_workers import Worker, connect
from telefabric_workers.outbox import Spooled

STEPS_MAX = 50_000


class Lent:
    """Calls of the emitting thread: whether each was on it, and without the worker's lock."""

    def __init__(self) -> None:
        self.calls: list[bool] = []
        self.worker: Worker | None = None
        self._emits = threading.get_ident()

    def __call__(self) -> None:
        assert self.worker is not None
        lock, free = self.worker._outbox.lock, []
        other = threading.Thread(target=lambda: free.append(lock.acquire(timeout=patience(5)) and not lock.release()))
        other.start()
        other.join()
        self.calls.append(free == [True] and threading.get_ident() == self._emits)


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> Lent:
    found = Lent()
    monkeypatch.setattr(linked_stream, "_lend", found)
    return found


def test_a_link_that_is_behind_borrows_it_after_an_event(fabric_service: FabricService, lent: Lent) -> None:
    with fabric_service.connect() as lent.worker:
        worker = lent.worker
        steps = 0
        while len(lent.calls) < 3 and steps < STEPS_MAX:
            worker.step(episode=0, step=steps, observation=bytes(1_024))
            steps += 1
        assert worker.flush(PATIENCE_S)
    assert lent.calls[:3] == [True] * 3
    assert all(lent.calls)


def test_one_that_keeps_up_borrows_nothing(fabric_service: FabricService, lent: Lent) -> None:
    with fabric_service.connect() as lent.worker:
        worker = lent.worker
        for step in range(20):
            worker.step(episode=0, step=step, observation=bytes(1_024))
            assert worker.flush(PATIENCE_S)
    assert not lent.calls


def test_a_link_asks_once_until_a_thread_has_emitted(lent: Lent, tmp_path: Path) -> None:
    with connect("tcp://127.0.0.1:1", spool=tmp_path / "spool", exit_flush_s=0) as lent.worker:
        outbox = lent.worker._outbox
        assert isinstance(outbox, Spooled)
        for _ in range(2):
            outbox._linked.borrow()
            outbox._linked.borrow()
            lent.worker.metric("loss", 0.5)
    assert lent.calls == [True] * 2


@pytest.mark.parametrize(("waiting", "asks"), [(1, False), (2, True)])
def test_a_link_asks_while_more_than_a_batch_waits_behind_the_one_that_it_sends(
    tmp_path: Path, waiting: int, asks: bool
) -> None:
    with connect("tcp://127.0.0.1:1", spool=tmp_path / "spool", exit_flush_s=0) as worker:
        outbox, size = worker._outbox, limits.BATCH_BYTES_MAX // 16
        assert isinstance(outbox, Spooled)
        while (unsent := outbox.spool.unsent_bytes(1)) <= (waiting + 0.5) * limits.BATCH_BYTES_MAX:
            worker.step(episode=0, step=outbox.head, observation=bytes(size))
        session: Any = SimpleNamespace(instance=bytes(16), epoch=1, sent=lambda *_: None)
        sockets: Any = SimpleNamespace(send_data=lambda *_: True)
        linked = LinkedStream(outbox.spool, session, unsent_bytes=unsent)
        decision = SendBatch(1, limits.BATCH_BYTES_MAX, 2 * limits.BATCH_BYTES_MAX)
        assert senders._carry_out(linked, sockets, decision, 0)
        assert bool(linked.after_emit) == asks


def test_what_was_asked_of_a_thread_is_not_done_in_a_forked_child(tmp_path: Path) -> None:
    calls: list[int] = []
    with connect("tcp://127.0.0.1:1", spool=tmp_path / "spool", exit_flush_s=0) as worker:
        worker._deferred.append(lambda: calls.append(os.getpid()))
        if (child := os.fork()) == 0:
            worker._catch_up()  # as when it was forked inside a call
            worker.metric("loss", 0.5)
            shared = worker._deferred is not worker._outbox.deferred
            os._exit(1 if calls or shared else 0)
        assert os.waitpid(child, 0)[1] == 0
        worker.metric("loss", 0.5)
    assert calls == [os.getpid()]


def test_lending_sleeps_and_an_event_is_late_by_little() -> None:
    began_s = time.perf_counter()
    linked_stream._lend()
    assert time.perf_counter() - began_s >= linked_stream._LEND_S
    assert 0 < linked_stream._LEND_S < 0.001


def test_a_worker_that_closes_lends_first_and_ends_once(fabric_service: FabricService, lent: Lent) -> None:
    with fabric_service.connect() as lent.worker:
        worker = lent.worker
        worker.metric("loss", 0.5)
        worker._outbox.deferred.append(lent)
        assert worker.close()
    assert lent.calls == [True]
    with FileReader(fabric_service.file) as reader:
        kinds = [row.kind for row in reader.stream_since(worker.stream_id, 0).rows]
    assert kinds == ["run_started", "metric", "run_completed"]
