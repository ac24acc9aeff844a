"""A full disk, under the spool and under the store: training goes on, what is lost is counted, nothing else is lost."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import numpy
import pytest
from processes import broker, free_ports, run, store, wait_for
from skips import requires
from slowness import patience
from store_fixtures import Scribe, raw, stream
from store_fixtures import step as step_event

from telefabric.errors import SpoolError, SpoolFull, StoreError
from telefabric.limits import SEGMENT_BYTES
from telefabric.ring import Hud, Name, RingWriter
from telefabric.spool import Spool, SpoolPolicy
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import Audit, audit
from telefabric.wire.control import StreamInfo
from telefabric_workers import Worker, connect

MIB = 1024 * 1024
OBSERVATION = bytes(range(256)) * 16
INFO = StreamInfo(bytes(16), "run", "worker", "agent", 1)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "telefabric-test", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            mounted = _mount(Path(folder), "size=1m")
        except OSError:
            return False
        if mounted:
            subprocess.run(["umount", folder], check=True)
        return mounted


pytestmark = requires("the right to mount a tmpfs", _can_mount())

Disk = Callable[[int], Path]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk of so many bytes, which spools may fill; called again, the same disk with another size."""
    monkeypatch.setenv("TELEFABRIC_SPOOL_FREE_BYTES_MIN", "0")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def of_size(size: int) -> Path:
        nonlocal mounted
        assert _mount(folder, f"{'remount,' * mounted}size={size}")
        mounted = True
        return folder

    yield of_size
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            return ballast  # no room is left


def train(worker: Worker, steps: int) -> None:
    for step in range(steps):
        worker.step(episode=0, step=step, observation=OBSERVATION, reward=1.0)


def gaps(file: Path) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute("SELECT seq, last_seq, reason FROM gaps ORDER BY seq"))
    finally:
        connection.close()


def steps_of(events_bytes: int) -> int:
    """How many steps take so many bytes of a spool."""
    return events_bytes // len(OBSERVATION)


def stored_whole(file: Path, worker: Worker) -> Audit:
    """What the store holds of a closed worker, once nothing of it is missing."""

    def whole() -> Audit | None:
        found = audit(file, worker.stream_id, worker.emitted)
        return found if found.missing == 0 else None

    found = wait_for(whole, "everything is stored or a gap")
    assert found is not None
    assert found.duplicated == 0
    assert found.stored + found.lost == worker.emitted
    return found


def test_connecting_on_a_full_disk_says_so_and_leaves_nothing_behind(disk: Disk, tmp_path: Path) -> None:
    folder = disk(SEGMENT_BYTES // 2)
    with pytest.raises(SpoolError, match=r"No space left.*make room or set TELEFABRIC_SPOOL"):
        connect("tcp://127.0.0.1:9", run="full", spool=folder / "spool", exit_flush_s=0)
    assert list((folder / "spool").iterdir()) == []
    ballast = fill(folder)
    with pytest.raises(SpoolError, match=r"No space left.*make room or set TELEFABRIC_SPOOL"):
        connect("tcp://127.0.0.1:9", run="full", spool=folder / "spool", exit_flush_s=0)
    assert list((folder / "spool").iterdir()) == []

    ballast.unlink()
    disk(4 * SEGMENT_BYTES)
    port = free_ports()
    with broker(port), store(port, tmp_path):
        worker = connect(f"tcp://127.0.0.1:{port}", run="room", spool=folder / "spool")
        train(worker, 100)
        assert worker.close()
        assert worker.dropped == 0


def test_a_disk_that_fills_up_without_a_broker_costs_the_oldest_events(disk: Disk, tmp_path: Path) -> None:
    folder = disk(3 * SEGMENT_BYTES + MIB)
    port = free_ports()
    worker = connect(f"tcp://127.0.0.1:{port}", run="full", spool=folder / "spool", exit_flush_s=patience(20))
    train(worker, 10)
    ballast = fill(folder)
    train(worker, steps_of(6 * SEGMENT_BYTES))
    assert worker.dropped > 0
    ballast.unlink()
    dropped, before = worker.dropped, worker.emitted
    with broker(port), store(port, tmp_path):
        train(worker, 200)
        assert not worker.flush(patience(20)), "some were dropped"
        assert worker.acknowledged == worker.emitted
        assert not worker.close()
    found = stored_whole(tmp_path / FILE_NAME, worker)
    assert found.lost == dropped == worker.dropped, "what was dropped is a gap, and after there was room nothing was"
    (gap,) = gaps(tmp_path / FILE_NAME)
    assert gap == (1, dropped, "disk_full")
    assert found.stored == worker.emitted - dropped > worker.emitted - before
    assert list((folder / "spool").iterdir()) == []


def test_a_spool_leaves_the_room_that_it_is_told_to_leave(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = disk(10 * SEGMENT_BYTES)
    monkeypatch.setenv("TELEFABRIC_SPOOL_FREE_BYTES_MIN", str(5 * SEGMENT_BYTES))
    with connect("tcp://127.0.0.1:9", spool=folder / "spool", exit_flush_s=0) as worker:
        train(worker, steps_of(20 * SEGMENT_BYTES))
        assert shutil.disk_usage(folder).free >= 5 * SEGMENT_BYTES
        assert worker.dropped > 0


def test_events_that_no_disk_has_room_for_are_counted_one_by_one(disk: Disk, tmp_path: Path) -> None:
    folder = disk(SEGMENT_BYTES + 2 * MIB)
    port = free_ports()
    worker = connect(f"tcp://127.0.0.1:{port}", run="full", spool=folder / "spool", exit_flush_s=patience(20))
    train(worker, 10)
    for step in range(5):
        worker.step(episode=1, step=step, observation=bytes(7 * MIB))
        assert worker.dropped == worker.emitted, "to make room everything before it went, and there is still too little"
    dropped = worker.dropped
    with broker(port), store(port, tmp_path):
        train(worker, 300)
        assert not worker.flush(patience(20)), "some were dropped"
        assert worker.acknowledged == worker.emitted
        assert not worker.close()
    found = stored_whole(tmp_path / FILE_NAME, worker)
    assert found.lost == worker.dropped == dropped
    assert gaps(tmp_path / FILE_NAME) == [(1, dropped, "disk_full")]


def test_any_number_of_lost_events_is_one_gap_with_its_reason(disk: Disk) -> None:
    """There is room for so many reasons, and events may be lost one by one."""
    root = disk(SEGMENT_BYTES + 2 * MIB) / "spool"
    spool = Spool.create(root, StreamInfo(bytes(16), "run", "worker", "agent", 0))
    for seq in range(1, 2_001):
        spool.append(seq, OBSERVATION * 1_800)
    assert spool.dropped_events == 2_000
    assert spool.lost(1, 2_000) == (1, 2_000, "disk_full")
    spool.close()


def test_a_disk_that_is_full_during_a_run_that_is_stored(disk: Disk, tmp_path: Path) -> None:
    folder = disk(2 * SEGMENT_BYTES + MIB)
    port = free_ports()
    with broker(port), store(port, tmp_path) as writer:
        worker = connect(f"tcp://127.0.0.1:{port}", run="full", spool=folder / "spool", exit_flush_s=patience(20))
        train(worker, 10)
        assert worker.flush(patience(10))
        ballast = fill(folder)
        for _ in range(6):  # acknowledged segments go although not even their position can be written
            train(worker, steps_of(SEGMENT_BYTES) // 2)
            assert worker.flush(patience(10))
        assert worker.dropped == 0, "a full disk costs nothing as long as the store keeps up"
        writer.signal(signal.SIGSTOP)
        train(worker, steps_of(4 * SEGMENT_BYTES))
        assert worker.dropped > 0
        writer.signal(signal.SIGCONT)
        ballast.unlink()
        train(worker, 100)
        assert not worker.close()
        found = stored_whole(tmp_path / FILE_NAME, worker)
    assert 0 < found.lost <= worker.dropped, "what was under way when it was dropped may be stored"
    assert {reason for _, _, reason in gaps(tmp_path / FILE_NAME)} == {"disk_full"}


def test_a_full_disk_under_the_store_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    folder = disk(4 * MIB)
    port, log = free_ports(), tmp_path / "store.log"
    with broker(port), store(port, folder, stderr=log) as writer:
        worker = connect(f"tcp://127.0.0.1:{port}", run="full", spool=tmp_path / "spool", exit_flush_s=patience(30))
        train(worker, steps_of(12 * MIB))
        wait_for(lambda: f"the disk of {folder / FILE_NAME} is full: make room" in log.read_text(), "the store says so")
        assert not worker.flush(1.0)
        assert worker.acknowledged < worker.emitted
        assert worker.dropped == 0
        disk(128 * MIB)
        train(worker, 100)
        assert worker.close(), "the store goes on by itself"
        assert writer.process is not None
        assert writer.process.poll() is None
    found = stored_whole(folder / FILE_NAME, worker)
    assert found.lost == 0
    assert "Traceback" not in log.read_text()


def fill_store(file: Path, info: StreamInfo) -> tuple[int, str]:
    """Write until the disk is full; the watermark, and what is said of the disk."""
    with Scribe(file) as scribe:
        scribe.writer._db.execute("PRAGMA wal_autocheckpoint = 500").fetchall()
        stored = scribe.writer.stored_seq(info.stream)
        try:
            while True:
                scribe.put(info, *(step_event(stored + more, observation=raw(OBSERVATION)) for more in range(1, 101)))
                stored = scribe.commit()[info.stream]
        except StoreError as error:
            return stored, str(error)


def test_the_room_that_a_full_store_asks_for_is_enough_to_go_on(disk: Disk) -> None:
    """Part of a disk that is full is the log, whose way into the file needs room first; less may not be enough."""
    size = 20 * MIB
    folder, info = disk(size), stream()
    file = folder / FILE_NAME
    stored, said = fill_store(file, info)
    for _ in range(3):
        found = re.search(r"is full: make room, (\d+) MiB or more", said)
        assert found, said
        size += int(found[1]) * MIB
        disk(size)
        before = stored
        stored, said = fill_store(file, info)
        assert stored >= before + 100
        assert audit(file, info.stream, stored)[:4] == (stored, stored, 0, 0)


def test_a_store_on_a_full_disk_does_not_start(disk: Disk) -> None:
    folder = disk(64 * 1024)
    fill(folder)
    refused = run("store", "--connect", f"tcp://127.0.0.1:{free_ports()}", "--data", str(folder), timeout_s=20)
    assert refused.returncode == 1
    (sentence,) = refused.stderr.splitlines()
    assert sentence == f"telefabric: the disk of {folder / FILE_NAME} is full: make room"


def test_a_ring_on_a_small_file_system_is_refused_without_a_signal(disk: Disk) -> None:
    """A file that only claims its size would end the process at the first touch that finds no block."""
    writer = RingWriter(Name("run", "agent", "worker"), base=disk(1_000_000), fps_max=1e9)
    assert not writer.publish(numpy.ones((500, 500), numpy.uint8), Hud())
    assert writer.publish(numpy.ones((8, 8), numpy.uint8), Hud())
    assert writer.counters[:3] == (1, 0, 1)
    writer.close()


def until_it_refuses(spool: Spool) -> int:
    """Appends until there is no room; the newest seq that was taken."""
    while True:
        try:
            append_next(spool)
        except SpoolFull:
            return spool.head


def append_next(spool: Spool) -> None:
    with spool.lock:
        spool.append(spool.head + 1, bytes(50_000))


@pytest.mark.parametrize("when_full", ["error", "block"])
def test_the_end_of_a_run_drops_nothing_that_may_not_be(disk: Disk, when_full: str) -> None:
    """On a full disk its last event is lost, rather than a segment of those that were taken."""
    folder = disk(3 * SEGMENT_BYTES)
    spool = Spool.create(folder / "spool", INFO, SpoolPolicy(when_full=when_full, free_bytes_min=0))
    head = until_it_refuses(spool)
    spool.ending = True
    append_next(spool)
    assert (spool.dropped_events, spool.first_held(1), spool.first_held(head)) == (1, 1, head)
    assert spool.lost(head + 1, head + 1).reason == "disk_full"


def test_an_empty_spool_on_a_full_disk_refuses_what_may_not_be_dropped(disk: Disk) -> None:
    folder = disk(3 * SEGMENT_BYTES)
    spool = Spool.create(folder / "spool", INFO, SpoolPolicy(when_full="block", free_bytes_min=0))
    head = until_it_refuses(spool)
    spool.acknowledge(head)
    fill(folder)
    with pytest.raises(SpoolFull, match="No space left"):
        append_next(spool)
    assert (spool.head, spool.dropped_events) == (head, 0)
