"""Beside a loop that never gives the interpreter's lock away, a link that is behind asks the emitting thread for it."""

from __future__ import annotations

import threading

import pytest
from conftest import PATIENCE_S, FabricService

from telefabric.store.read.file_reader import FileReader
from telefabric.uplink import linked_stream
from telefabric_workers import Worker

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
        other = threading.Thread(target=lambda: free.append(lock.acquire(timeout=5) and not lock.release()))
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
