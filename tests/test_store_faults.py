"""A disk that fails under the store, and power that does: nothing is acknowledged that is not there afterwards."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import apsw
import pytest
from eventlog import logged_events
from faultvfs import CrashVFS, FaultVFS
from processes import wait_for
from slowness import patience
from store_fixtures import LOOPBACK, Scribe, running, step, stream

from telefabric.broker.service import Broker
from telefabric.errors import StoreError
from telefabric.store import service
from telefabric.store.file.database import FILE_NAME, open_writer
from telefabric.store.file.verify import audit
from telefabric.store.service import Store
from telefabric.store.write.writer import Writer
from telefabric_workers import connect

TRANSACTIONS, EVENTS = 4, 20
MANY = 100
"""Of more operations than this each third fails once, and the one after each of those for good."""
INFO = stream()


def scenario(path: Path, vfs: str | None = None) -> int:
    """Write until it is done or the disk fails; the newest seq that was acknowledged."""
    acknowledged = 0
    try:
        with Scribe(path, vfs) as scribe:
            acknowledged = scribe.writer.stored_seq(INFO.stream)
            while acknowledged < TRANSACTIONS * EVENTS:
                first = acknowledged + 1
                scribe.put(INFO, *map(step, range(first, first + EVENTS)))
                acknowledged = scribe.commit()[INFO.stream]
                if acknowledged % (2 * EVENTS) == 0:
                    scribe.writer.checkpoint()
    except StoreError:
        pass  # the fault of the test: what counts is what was acknowledged before it
    return acknowledged


def stored(path: Path) -> int:
    """The watermark that a writer on a good disk finds; the rows agree with it, and the file with itself."""
    with Scribe(path) as scribe:
        seq = scribe.writer.stored_seq(INFO.stream)
    connection = open_writer(path)
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()
    assert audit(path, INFO.stream, seq)[:4] == (seq, seq, 0, 0)
    return seq


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("operation", ["write", "sync", "truncate"])
def test_each_operation_that_fails_costs_nothing_that_was_acknowledged(
    operation: str, lasting: bool, tmp_path: Path
) -> None:
    whole = FaultVFS("whole", operation, 0)
    assert scenario(tmp_path / "whole" / FILE_NAME, whole.name) == TRANSACTIONS * EVENTS
    whole.unregister()
    assert whole.count > 0
    numbers = range(1, whole.count + 1)
    for number in numbers[lasting::3] if whole.count > MANY else numbers:
        path = tmp_path / str(number) / FILE_NAME
        vfs = FaultVFS("faulty", operation, number, lasting=lasting)
        acknowledged = scenario(path, vfs.name)
        vfs.unregister()
        assert vfs.failed, f"{operation} {number} was never reached"
        assert acknowledged <= stored(path) <= acknowledged + EVENTS, f"{operation} {number}"
        assert scenario(path) == TRANSACTIONS * EVENTS, "opened again it goes on by itself"
        assert stored(path) == TRANSACTIONS * EVENTS


def test_a_store_on_a_disk_that_fails_begins_again_and_stores_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the file fails, too, and must not end the store."""
    vfs = FaultVFS("failing", "write", 400, lasting=True)
    monkeypatch.setattr(service, "Writer", partial(Writer, vfs=vfs.name))
    part = Broker(LOOPBACK)
    store = Store(part.address, tmp_path / FILE_NAME)
    with logged_events() as told, running([part, store]):
        worker = connect(part.address.url, run="failing", spool=tmp_path / "spool", exit_flush_s=patience(30))

        def failed() -> bool:
            worker.step(episode=0, step=0, observation=bytes(500))
            return {"store.failed", "store.log_left"} <= {one["event"] for one in told}

        wait_for(failed, "the disk fails")
        vfs.heal()
        assert worker.close(), "the store goes on by itself"
    store.close()
    vfs.unregister()
    assert audit(tmp_path / FILE_NAME, worker.stream_id, worker.emitted)[:4] == (worker.emitted, worker.emitted, 0, 0)


def losses(folder: Path, seed: int, *, synchronous: str = "FULL") -> tuple[int, int]:
    """Of a power loss at every moment of the scenario: how many there were, and how many cost an acknowledged event."""
    folder.mkdir()
    acknowledged = 0
    images: list[tuple[int, dict[str, bytes]]] = []
    vfs = CrashVFS("crash", seed, lambda: images.append((acknowledged, vfs.image())))
    with Scribe(folder / FILE_NAME, vfs.name) as scribe:
        scribe.writer._db.execute(f"PRAGMA synchronous = {synchronous}").fetchall()
        for first in range(1, TRANSACTIONS * EVENTS, EVENTS):
            scribe.put(INFO, *map(step, range(first, first + EVENTS)))
            acknowledged = scribe.commit()[INFO.stream]
            if first % (2 * EVENTS) == 1:
                scribe.writer.checkpoint()
    vfs.unregister()
    begun = [image for image in images if image[0]][::4]
    return len(begun), sum(_lost(folder / str(number), *image) for number, image in enumerate(begun))


def _lost(folder: Path, acknowledged: int, files: dict[str, bytes]) -> bool:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        return stored(folder / FILE_NAME) < acknowledged
    except (StoreError, apsw.Error, AssertionError):
        return True


@pytest.mark.parametrize("seed", range(3))
def test_a_power_loss_at_any_moment_costs_nothing_that_was_acknowledged(seed: int, tmp_path: Path) -> None:
    moments, lost = losses(tmp_path / "store", seed)
    assert moments > 20
    assert lost == 0


def test_without_waiting_for_the_disk_power_losses_cost_events(tmp_path: Path) -> None:
    """The test above can fail."""
    assert losses(tmp_path / "store", 0, synchronous="OFF")[1] > 0
