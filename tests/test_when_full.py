"""What a worker's calls do while its spool is full: drop the oldest, wait for room, or raise; and several drains."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import FabricService
from processes import TELEFABRIC, wait_for
from slowness import patience

from telefabric.errors import SpoolFull
from telefabric.limits import SEGMENT_BYTES
from telefabric.spool import Spool
from telefabric.store.file.verify import audit
from telefabric_workers import Worker, connect
from telefabric_workers.outbox import Spooled

NOBODY = "tcp://127.0.0.1:9"
OBSERVATION = bytes(64 * 1024)
LIMIT = 2 * SEGMENT_BYTES
STEPS_OVER = LIMIT // len(OBSERVATION) + 10


@pytest.fixture(autouse=True)
def _small_spools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEFABRIC_SPOOL_BYTES_MAX", str(LIMIT))


def train(worker: Worker, steps: int = STEPS_OVER) -> None:
    for step in range(steps):
        worker.step(episode=0, step=step, observation=OBSERVATION)


def adopted(root: Path) -> Spool:
    (directory,) = root.iterdir()
    spool = Spool.adopt(directory)
    assert spool is not None
    return spool


def test_by_default_the_oldest_goes_and_the_loop_goes_on(tmp_path: Path) -> None:
    with connect(NOBODY, spool=tmp_path, exit_flush_s=0) as worker:
        train(worker)
        assert worker.dropped > 0
    spool = adopted(tmp_path)
    assert spool.first_held(1) == worker.dropped + 1
    assert spool.head == worker.emitted
    spool.close()


def test_error_raises_and_emits_nothing(tmp_path: Path) -> None:
    with connect(NOBODY, spool=tmp_path, exit_flush_s=0, when_full="error") as worker:
        with pytest.raises(SpoolFull, match="TELEFABRIC_SPOOL_BYTES_MAX"):
            train(worker)
        emitted = worker.emitted
        with pytest.raises(SpoolFull):
            worker.metric("loss", 1.0)
        assert (worker.emitted, worker.dropped) == (emitted, 0)
    spool = adopted(tmp_path)
    assert (spool.first_held(1), spool.head) == (1, emitted + 1), "and the end of the run"
    spool.close()


@pytest.fixture
def waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Worker, threading.Thread]]]:
    """A worker told by its environment to block, and a thread whose loop waits for room."""
    monkeypatch.setenv("TELEFABRIC_WHEN_FULL", "block")
    workers: list[Worker] = []

    def start(url: str) -> tuple[Worker, threading.Thread]:
        worker = connect(url, spool=tmp_path / "spool", exit_flush_s=patience(20))
        workers.append(worker)
        loop = threading.Thread(target=train, args=(worker,))
        loop.start()
        wait_for(lambda: _stands_still(worker), "the loop waits")
        assert loop.is_alive()
        return worker, loop

    yield start
    for worker in workers:
        worker.close()


def _stands_still(worker: Worker) -> bool:
    before = worker.emitted
    time.sleep(0.2)
    return worker.emitted == before > 50


def test_block_waits_for_room_and_loses_nothing(
    fabric_service: FabricService, waiting: Callable[[str], tuple[Worker, threading.Thread]]
) -> None:
    """Without a store nothing is acknowledged but what the test says."""
    fabric_service.store.stop()
    worker, loop = waiting(fabric_service.url)
    other = threading.Thread(target=worker.metric, args=("loss", 1.0))
    other.start()
    other.join(0.3)
    assert other.is_alive(), "whoever else emits waits as well, and in order"
    assert isinstance(worker._outbox, Spooled)
    spool = worker._outbox.spool
    spool.acknowledge(worker.emitted)
    loop.join(patience(20))
    other.join(patience(20))
    assert not loop.is_alive()
    assert not other.is_alive()
    assert (worker.emitted, worker.dropped) == (STEPS_OVER + 2, 0)
    spool.acknowledge(worker.emitted)


def test_close_lets_in_whoever_waits(waiting: Callable[[str], tuple[Worker, threading.Thread]], tmp_path: Path) -> None:
    worker, loop = waiting(NOBODY)
    emitted = worker.emitted
    start = time.monotonic()
    worker.close()
    loop.join(patience(10))
    assert time.monotonic() - start < 10
    assert not loop.is_alive()
    spool = adopted(tmp_path / "spool")
    assert (spool.first_held(1), spool.head) == (1, worker.emitted)
    assert spool.head >= emitted + 2, "the event that waited, and the end of the run"
    spool.close()


def test_several_drains_at_once_deliver_each_spool_once(fabric_service: FabricService) -> None:
    """Three processes, thirty spools: what one takes the others leave."""
    root = fabric_service.spool
    streams = []
    for _ in range(30):
        with connect(NOBODY, spool=root, exit_flush_s=0) as worker:
            train(worker, 3)
        streams.append((worker.stream_id, worker.emitted))
    command = [*TELEFABRIC, "spool", "drain", "--connect", fabric_service.url, "--spool", str(root), "--json"]
    drains = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    reports = [json.loads(drain.communicate(timeout=patience(60))[0]) for drain in drains]
    assert [drain.returncode for drain in drains] == [0, 0, 0]
    assert sum(report["delivered_spools"] for report in reports) == len(streams)
    assert sum(report["delivered_events"] for report in reports) == sum(emitted for _, emitted in streams)
    assert list(root.iterdir()) == []
    for stream, emitted in streams:
        found = audit(fabric_service.file, stream, emitted)
        assert (found.stored, found.missing, found.duplicated) == (emitted, 0, 0)
