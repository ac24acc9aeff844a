"""The spool keeps what was appended through kills, torn tails, full disks and drops, and says what it lost."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import platform
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import wait_for
from skips import requires
from slowness import patience

from telefabric import limits
from telefabric.errors import SpoolError, SpoolFull, UsageError
from telefabric.files import lock
from telefabric.spool import Spool, SpoolPolicy
from telefabric.spool.segment import HEADER_BYTES, SUFFIX, Segment
from telefabric.spool.spool import Dropped, why_lost
from telefabric.wire import records
from telefabric.wire.control import StreamInfo
from telefabric_workers import connect
from telefabric_workers.outbox import Spooled


def info(stream: bytes | None = None) -> StreamInfo:
    return StreamInfo(stream or os.urandom(16), "run", "worker", "agent", 1)


def fill(spool: Spool, count: int, size: int = 100) -> None:
    for seq in range(spool.head + 1, spool.head + count + 1):
        with spool.lock:
            spool.append(seq, seq.to_bytes(8, "big") + bytes(size - 8))


def seqs(spool: Spool, first: int, bytes_max: int = 64 * 1024) -> list[int]:
    """The seqs that the bodies say, read to the end and over holes."""
    found: list[int] = []
    cursor = first
    while (cursor := spool.first_held(cursor)) <= spool.head:
        chunk = spool.read(cursor, bytes_max)
        assert chunk is not None
        assert chunk.first_seq == cursor
        spans = records.spans(chunk.body, chunk.events)
        found += [int.from_bytes(chunk.body[start : start + 8], "big") for start, _ in spans]
        cursor = chunk.last_seq + 1
    return found


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 16_384)
    return 16_384


def test_what_was_appended_is_read_in_order(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 1_000)
    assert len(list(spool.directory.glob("*.seg"))) > 5
    assert seqs(spool, 1) == list(range(1, 1_001))
    assert seqs(spool, 777) == list(range(777, 1_001))


@given(sizes=st.lists(st.integers(8, 6_000), max_size=60), bytes_max=st.integers(1, 20_000), back=st.integers(1, 60))
def test_any_sizes_and_any_rewind(sizes: list[int], bytes_max: int, back: int, tmp_path_factory: object) -> None:
    root = tmp_path_factory.mktemp("spool")  # type: ignore[attr-defined]
    spool = Spool.create(root, info())
    for seq, size in enumerate(sizes, 1):
        with spool.lock:
            spool.append(seq, seq.to_bytes(8, "big") + bytes(size - 8))
    assert seqs(spool, 1, bytes_max) == list(range(1, len(sizes) + 1))
    assert seqs(spool, back, bytes_max) == list(range(back, len(sizes) + 1))
    spool.acked = spool.head
    spool.close()


def test_an_event_larger_than_a_segment_has_one_of_its_own(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 3)
    fill(spool, 1, size=100_000)
    fill(spool, 3)
    assert seqs(spool, 1) == list(range(1, 8))


def test_unsent_bytes_are_exact_after_any_rewind(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 500)
    record = 100 + records.PREFIX_BYTES
    for cursor in (1, 500, 250, 251, 499, 2):
        assert spool.unsent_bytes(cursor) == (501 - cursor) * record
    assert spool.unsent_bytes(501) == 0


def test_acknowledged_segments_go_after_the_position_is_synced(
    tmp_path: Path, small_segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, unlink = os.fsync, Path.unlink
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("sync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (order.append(path.suffix), unlink(path, **how))[1])
    spool = Spool.create(tmp_path, info())
    fill(spool, 1_000)
    spool.acknowledge(500)
    assert order[0] == "sync"
    assert order.count(".seg") >= 3
    assert spool.first_held(1) > 300
    assert seqs(spool, 501) == list(range(501, 1_001))


def test_nothing_that_is_not_acknowledged_is_removed(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 1_000)
    for acked in range(0, 1_000, 7):
        spool.acknowledge(acked)
        assert spool.first_held(1) <= acked + 1
        assert spool.first_held(acked + 1) == acked + 1


def test_a_complete_spool_leaves_nothing_behind(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 10)
    spool.acknowledge(10)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_spool_is_adopted_with_all_its_events(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 400)
    spool.acknowledge(200)
    spool.close()
    adopted = Spool.adopt(spool.directory)
    assert adopted is not None
    assert (adopted.head, adopted.info) == (400, spool.info)
    assert seqs(adopted, 201) == list(range(201, 401))
    adopted.acknowledge(400)
    adopted.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_takes_the_room_of_its_events(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 10)
    held = spool.unsent_bytes(1)
    spool.close()
    assert sum(path.stat().st_size for path in spool.directory.iterdir()) < held + 1_000
    adopted = Spool.adopt(spool.directory)
    assert adopted is not None
    assert seqs(adopted, 1) == list(range(1, 11))
    adopted.close()


def test_a_living_owner_keeps_its_spool(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, info())
    assert Spool.adopt(spool.directory) is None, "in the owner's own process"
    code = (
        "from pathlib import Path; from telefabric.spool import Spool; "
        f"print(Spool.adopt(Path({str(spool.directory)!r})))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == "None"


KILLED_WORKER = """
import os, signal, sys
from pathlib import Path
from telefabric.spool import Spool
from telefabric.wire.control import StreamInfo
spool = Spool.create(Path(sys.argv[1]), StreamInfo(os.urandom(16), "run", "worker", "agent", 1))
for seq in range(1, int(sys.argv[2]) + 1):
    with spool.lock:
        spool.append(seq, seq.to_bytes(8, "big") + bytes(seq % 300))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("count", [0, 1, 2, 30_000])
def test_all_that_append_returned_for_survives_kill_9(tmp_path: Path, count: int) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED_WORKER, str(tmp_path), str(count)], check=False)
    assert ended.returncode == -9
    (directory,) = tmp_path.iterdir()
    spool = Spool.adopt(directory)
    assert spool is not None
    assert seqs(spool, 1) == list(range(1, count + 1))
    spool.close()


def _dead_spool(root: Path, count: int) -> Path:
    spool = Spool.create(root, info())
    fill(spool, count)
    spool.close()
    return spool.directory


def test_a_torn_tail_costs_only_the_torn_record(tmp_path: Path) -> None:
    directory = _dead_spool(tmp_path, 50)
    (segment,) = directory.glob("*.seg")
    record = 100 + records.PREFIX_BYTES
    for cut in range(1, record, 7):
        data = bytearray(segment.read_bytes())
        end = HEADER_BYTES + 50 * record
        data[end - cut : end] = bytes(cut)
        copy = tmp_path / f"cut{cut:027d}"
        copy.mkdir()
        (copy / "stream").write_bytes((directory / "stream").read_bytes())
        (copy / segment.name).write_bytes(data)
        spool = Spool.adopt(copy)
        assert spool is not None
        # The zeros of the tail may be the record's own: then it is whole after all.
        assert spool.head == (50 if bytes(segment.read_bytes()) == bytes(data) else 49)
        assert seqs(spool, 1) == list(range(1, spool.head + 1))


def test_damage_in_the_middle_is_a_hole_that_is_stepped_over(tmp_path: Path, small_segments: int) -> None:
    directory = _dead_spool(tmp_path, 500)
    second = sorted(directory.glob("*.seg"))[1]
    data = bytearray(second.read_bytes())
    data[HEADER_BYTES + 10 * 111 + 50] ^= 0x10
    second.write_bytes(data)
    spool = Spool.adopt(directory)
    assert spool is not None
    found = seqs(spool, 1)
    first = int(second.stem)
    after = int(sorted(directory.glob("*.seg"))[2].stem)
    assert found == [*range(1, first + 10), *range(after, 501)]
    assert spool.lost(first + 10, after - 1) == (first + 10, after - 1, "no_longer_held")


def test_a_lost_range_is_told_in_parts_of_one_reason() -> None:
    drops = [Dropped(1, 10, "spool_full"), Dropped(11, 20, "disk_full"), Dropped(31, 40, "spool_full")]
    parts, following = [], 5
    while following <= 50:
        parts.append(why_lost(drops, following, 50))
        following = parts[-1].last_seq + 1
    assert parts == [
        (5, 10, "spool_full"), (11, 20, "disk_full"), (21, 30, "no_longer_held"), (31, 40, "spool_full"),
        (41, 50, "no_longer_held"),
    ]  # fmt: skip
    assert why_lost(drops, 22, 25) == (22, 25, "no_longer_held")
    assert why_lost(drops, 3, 4) == (3, 4, "spool_full")


def test_a_segment_of_another_stream_is_not_read(tmp_path: Path) -> None:
    directory = _dead_spool(tmp_path / "a", 10)
    other = _dead_spool(tmp_path / "b", 10)
    (segment,) = directory.glob("*.seg")
    segment.write_bytes(next(other.glob("*.seg")).read_bytes())
    spool = Spool.adopt(directory)
    assert spool is not None
    assert spool.first_held(1) > spool.head


def test_a_full_spool_drops_the_oldest_and_says_so(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(4 * small_segments))
    fill(spool, 2_000)
    held = spool.first_held(1)
    assert held > 1
    assert sum(path.stat().st_size for path in spool.directory.glob("*.seg")) <= 4 * small_segments
    assert spool.dropped_events == held - 1
    assert spool.lost(1, held - 1) == (1, held - 1, "spool_full")
    assert seqs(spool, held) == list(range(held, 2_001))


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a stream", bytes(1_000)])
def test_an_unreadable_spool_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    directory = _dead_spool(tmp_path, 10)
    (directory / "stream").write_bytes(content)
    with pytest.raises(SpoolError, match="cannot be read"):
        Spool.adopt(directory)
    assert len(list(directory.glob("*.seg"))) == 1


def test_a_spool_that_was_being_made_or_removed_is_cleared_away(tmp_path: Path) -> None:
    making = tmp_path / "0" / ("a" * 32)
    making.mkdir(parents=True)
    assert Spool.adopt(making) is None
    assert making.exists(), "its owner may be about to take the lock"
    os.utime(making, (1, 1))
    assert Spool.adopt(making) is None
    assert not making.exists()
    closed = _dead_spool(tmp_path, 10)
    (closed / "closed").touch()
    assert Spool.adopt(closed) is None
    assert not closed.exists()


def test_a_place_that_cannot_be_a_spool_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="TELEFABRIC_SPOOL"):
        Spool.create(tmp_path / "file" / "spool", info())
    with pytest.raises(UsageError, match="too small"):
        Spool.create(tmp_path, info(), SpoolPolicy(1))


def test_a_position_that_is_torn_only_costs_sending_again(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 500)
    spool.acknowledge(300)
    spool.close()
    (spool.directory / "position").write_bytes(b"torn")
    adopted = Spool.adopt(spool.directory)
    assert adopted is not None
    assert adopted.acked == 0
    assert adopted.head == 500
    assert seqs(adopted, 301) == list(range(301, 501))


def test_a_lock_that_the_file_system_refuses_costs_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = _dead_spool(tmp_path, 10)

    def refuse(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", refuse)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(SpoolError, match="No locks available: check its rights"):
            Spool.adopt(directory)
        assert not lock.FileLock.is_elsewhere(directory / "lock")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_lock_that_another_process_is_about_to_let_go_of_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = "import sys; from pathlib import Path; from telefabric.files.lock import FileLock; "
    hold += "lock = FileLock.take(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"\n"
        assert lock.FileLock.take(path) is None
        threading.Timer(0.2, holder.stdin.close).start()
        taken = lock.FileLock.take(path, patience(5))
        assert taken is not None
        began_s = time.monotonic()
        assert lock.FileLock.take(path, 60) is None, "this process has it itself: waiting would be of no use"
        assert time.monotonic() - began_s < 30
        taken.release()


def test_recovery_of_a_segment_ends_at_its_own_size(tmp_path: Path) -> None:
    directory = _dead_spool(tmp_path, 10)
    (path,) = directory.glob("*.seg")
    path.write_bytes(path.read_bytes()[: HEADER_BYTES + 5 * 111 + 40])
    segment = Segment.left_behind(path, 0, None)
    assert segment is not None
    segment.look_through(bytes.fromhex(directory.name))
    assert segment.last_seq == 5


def test_adopting_a_large_spool_looks_through_its_last_segment_alone(tmp_path: Path, small_segments: int) -> None:
    """A million events take two seconds to look through, and the link has other streams to serve."""
    directory = _dead_spool(tmp_path, 5_000)
    spool = Spool.adopt(directory)
    assert spool is not None
    assert spool.head == 5_000
    assert [segment.unread for segment in spool._segments] == [True] * (len(spool._segments) - 1) + [False]
    assert spool.first_held(2_500) == 2_500
    assert sum(segment.unread for segment in spool._segments) == len(spool._segments) - 2
    assert seqs(spool, 1) == list(range(1, 5_001))


def test_a_last_segment_without_an_event_is_as_if_it_were_not(tmp_path: Path, small_segments: int) -> None:
    directory = _dead_spool(tmp_path, 500)
    last = sorted(directory.glob("*.seg"))[-1]
    last.write_bytes(bytes(last.stat().st_size))
    spool = Spool.adopt(directory)
    assert spool is not None
    assert spool.head == int(last.stem) - 1
    assert seqs(spool, 1) == list(range(1, int(last.stem)))


def test_folders_and_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    foreign = tmp_path / ("d" * 32)
    (foreign / "deep").mkdir(parents=True)
    (foreign / "deep" / "data.csv").write_text("precious")
    os.utime(foreign, (1, 1))
    assert Spool.adopt(foreign) is None
    assert (foreign / "deep" / "data.csv").read_text() == "precious"
    closed = _dead_spool(tmp_path, 10)
    (closed / "notes.txt").write_text("mine")
    (closed / "closed").touch()
    assert Spool.adopt(closed) is None
    assert [path.name for path in closed.iterdir()] == ["notes.txt"]


def test_a_segment_that_cannot_be_opened_is_left_alone(tmp_path: Path, small_segments: int) -> None:
    """Too many open files is no damage: the spool must wait for better times, and be whole then."""
    directory = _dead_spool(tmp_path, 500)
    code = f"""
import resource
from pathlib import Path
from telefabric.errors import SpoolError
from telefabric.spool import Spool
directory = Path({str(directory)!r})
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
try:
    while True:
        held.append(open("/dev/null"))
except OSError:
    held.pop().close()
    held.pop().close()
try:
    print(Spool.adopt(directory))
except SpoolError as error:
    print("left as it is" in str(error))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "True", told.stderr
    spool = Spool.adopt(directory)
    assert spool is not None
    assert seqs(spool, 1) == list(range(1, 501))


def test_a_long_outage_needs_few_open_files(tmp_path: Path, small_segments: int) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    spool = Spool.create(tmp_path, info())
    fill(spool, 10_000)
    assert len(list(spool.directory.glob("*.seg"))) > 60
    assert open_files() - before < 8
    assert seqs(spool, 1) == list(range(1, 10_001))
    assert open_files() - before < 8


# -- full ----------------------------------------------------------------------------------------------------------


class Full:
    """Fills until `SpoolFull`; the newest seq that was taken."""

    def __init__(self, spool: Spool) -> None:
        with pytest.raises(SpoolFull):
            fill(spool, 100_000)
        self.head = spool.head


@pytest.mark.parametrize("when_full", ["block", "error"])
def test_a_full_spool_that_may_drop_nothing_refuses_and_keeps_all(
    tmp_path: Path, small_segments: int, when_full: str
) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(4 * small_segments, when_full=when_full))
    head = Full(spool).head
    with pytest.raises(SpoolFull, match="TELEFABRIC_SPOOL_BYTES_MAX"):
        fill(spool, 1)
    assert (spool.head, spool.dropped_events) == (head, 0)
    assert seqs(spool, 1) == list(range(1, head + 1))
    spool.acknowledge(head // 2)
    fill(spool, 1)
    assert seqs(spool, head // 2 + 1) == list(range(head // 2 + 1, head + 2))


def test_an_event_larger_than_the_whole_spool_waits_until_it_is_empty(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(2 * small_segments, when_full="block"))
    fill(spool, 10)
    with pytest.raises(SpoolFull):
        fill(spool, 1, size=10 * small_segments)
    spool.acknowledge(10)
    fill(spool, 1, size=10 * small_segments)
    assert seqs(spool, 11) == [11]


def test_at_the_end_of_a_run_nothing_is_refused(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(2 * small_segments, when_full="error"))
    head = Full(spool).head
    spool.ending = True
    fill(spool, 5)
    assert seqs(spool, 1) == list(range(1, head + 6))


def test_all_files_of_a_full_spool_are_within_its_limit(tmp_path: Path, small_segments: int) -> None:
    """The segment that is allocated ahead counts."""
    spool = Spool.create(tmp_path, info(), SpoolPolicy(4 * small_segments))
    for _ in range(2_000):
        fill(spool, 1)
        spool.prepare()
        assert sum(path.stat().st_size for path in spool.directory.iterdir()) <= 4 * small_segments + 1_000
    assert spool.dropped_events > 0


@pytest.fixture
def low_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))


@pytest.mark.usefixtures("low_disk")
def test_on_a_disk_with_little_left_a_spool_does_not_grow(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(free_bytes_min=1_000_000))
    fill(spool, 2_000)
    spool.prepare()
    assert len(list(spool.directory.glob(f"*{SUFFIX}"))) == 2, "it keeps what it has"
    assert not (spool.directory / "spare.tmp").exists()
    held = spool.first_held(1)
    assert spool.dropped_events == held - 1 > 0
    assert spool.lost(1, held - 1) == (1, held - 1, "disk_full")
    assert seqs(spool, held) == list(range(held, 2_001))


@pytest.mark.usefixtures("low_disk")
def test_on_a_disk_with_little_left_nothing_is_dropped_that_may_not_be(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(free_bytes_min=1_000_000, when_full="error"))
    head = Full(spool).head
    with pytest.raises(SpoolFull, match="TELEFABRIC_SPOOL_FREE_BYTES_MIN"):
        fill(spool, 1)
    assert seqs(spool, 1) == list(range(1, head + 1))


@pytest.mark.usefixtures("low_disk")
def test_a_disk_with_more_left_than_is_kept_free_is_used(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(free_bytes_min=1_000_000 - small_segments))
    fill(spool, 2_000)
    assert spool.dropped_events == 0


# -- power loss ----------------------------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of what is synced, in order."""
    names: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return names


def test_fsync_off_syncs_nothing(tmp_path: Path, small_segments: int, synced: list[str]) -> None:
    fill(Spool.create(tmp_path, info()), 1_000)
    assert synced == []


def test_fsync_always_syncs_each_event_and_the_name_of_its_file(
    tmp_path: Path, small_segments: int, synced: list[str]
) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(fsync="always"))
    assert synced == ["stream", spool.directory.name, tmp_path.name]
    for _ in range(300):
        synced.clear()
        segments = len(spool._segments)
        fill(spool, 1)
        assert spool._active is not None
        assert spool._active.path.name in synced
        if len(spool._segments) > segments or spool.head == 1:
            assert synced[-1] == spool.directory.name
    assert len(spool._segments) > 1


def test_fsync_interval_syncs_all_segments_since_the_last_time(
    tmp_path: Path, small_segments: int, synced: list[str]
) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(fsync="interval"))
    synced.clear()
    fill(spool, 500)
    assert synced == []
    spool.sync()
    segments = sorted(path.name for path in spool.directory.glob(f"*{SUFFIX}"))
    assert synced == [*segments, spool.directory.name]
    spool.sync()
    assert len(synced) == len(segments) + 1, "nothing is new"
    fill(spool, 1)
    spool.sync()
    assert synced[len(segments) + 1 :] == [segments[-1]]


def test_a_sync_that_fails_is_counted_and_done_again(
    tmp_path: Path, small_segments: int, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy(fsync="always"))

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        fill(spool, 400)
    assert spool.sync_failures == 400
    synced.clear()
    fill(spool, 1)
    assert sorted(synced) == sorted([spool.directory.name, *(one.path.name for one in spool._segments)])
    assert seqs(spool, 1) == list(range(1, 402))


def test_a_power_loss_between_position_and_removal_loses_nothing(
    tmp_path: Path, small_segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first segment goes, the position is on the disk, and under its name."""
    spool = Spool.create(tmp_path, info())
    fill(spool, 500)
    calls: list[str] = []
    for module, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
        called = getattr(module, name)

        def record(*given: object, _name: str = name, _called: object = called, **how: object) -> object:
            what = given[0] if isinstance(given[0], (str, Path)) else os.readlink(f"/proc/self/fd/{given[0]}")
            calls.append(f"{_name} {Path(what).suffix or Path(what).name}")
            return _called(*given, **how)  # type: ignore[operator]

        monkeypatch.setattr(module, name, record)
    spool.acknowledge(300)
    assert calls[:3] == ["fsync .tmp", "replace .tmp", f"fsync {spool.directory.name}"]
    assert set(calls[3:]) == {f"unlink {SUFFIX}"}


# -- other versions ------------------------------------------------------------------------------------------------

SAMPLE = Path(__file__).parent / "samples" / "spool-v1"


def test_a_spool_of_format_1_is_read(tmp_path: Path) -> None:
    """Written once with `fill(spool, 300)` and segments of 16 KiB, 200 events acknowledged, and kept."""
    (stored,) = SAMPLE.iterdir()
    directory = tmp_path / stored.name
    shutil.copytree(stored, directory)
    spool = Spool.adopt(directory)
    assert spool is not None
    assert (spool.info.run_id, spool.acked, spool.head) == ("run", 200, 300)
    assert seqs(spool, 201) == list(range(201, 301))
    spool.acknowledge(300)
    spool.close()
    assert not directory.exists()


def _rewrite_header(segment: Path, offset: int, value: int, *, check: bool) -> None:
    data = bytearray(segment.read_bytes())
    data[offset : offset + 4] = value.to_bytes(4, "big")
    if check:
        data[HEADER_BYTES - 4 : HEADER_BYTES] = crc32(data[: HEADER_BYTES - 4]).to_bytes(4, "big")
    segment.write_bytes(data)


def test_a_spool_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path, small_segments: int) -> None:
    directory = _dead_spool(tmp_path, 500)
    for segment in directory.glob(f"*{SUFFIX}"):
        _rewrite_header(segment, 8, 2, check=True)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(SpoolError, match="format 2 and this version reads 1"):
        Spool.adopt(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_damaged_header_costs_no_event(tmp_path: Path, small_segments: int) -> None:
    directory = _dead_spool(tmp_path, 500)
    for segment in directory.glob(f"*{SUFFIX}"):
        _rewrite_header(segment, 8, 0xFFFF, check=False)
    spool = Spool.adopt(directory)
    assert spool is not None
    assert seqs(spool, 1) == list(range(1, 501))


class Interrupted(Exception):
    """What a signal handler raises, such as KeyboardInterrupt."""


class Interruption:
    """Raises at the n-th line of this module and of the segment's, but `append`'s own, as a signal handler may."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if Path(code.co_filename).parent.name != "spool" or code.co_name == "append":
            return self._trace if code.co_name == "append" else None
        if event in ("line", "return"):
            self.left -= 1
            if not self.left:
                raise Interrupted
        return self._trace


@pytest.mark.parametrize("policy", [SpoolPolicy(1 << 20), SpoolPolicy(3 * 16_384), SpoolPolicy(fsync="interval")])
def test_a_signal_handler_that_raises_while_a_segment_is_begun_costs_nothing(
    tmp_path: Path, small_segments: int, policy: SpoolPolicy
) -> None:
    """At each of its lines in turn; the event is emitted again, as by a loop that goes on."""
    for after in itertools.count(1):
        spool = Spool.create(tmp_path, info(), policy)
        per_segment = (small_segments - HEADER_BYTES) // (records.PREFIX_BYTES + 1_000)
        fill(spool, 4 * per_segment, 1_000)
        try:
            with Interruption(after):
                fill(spool, 1, 1_000)
        except Interrupted:
            assert spool.head == 4 * per_segment
        else:
            return
        fill(spool, per_segment + 3, 1_000)
        first = spool.first_held(1)
        assert seqs(spool, 1) == list(range(first, spool.head + 1))
        assert first - 1 == spool.dropped_events or policy.bytes_max < 1 << 20
        spool.acknowledge(4 * per_segment)
        assert seqs(spool, 1) == list(range(4 * per_segment + 1, spool.head + 1))
        spool.close()
        left = Spool.adopt(spool.directory)
        assert left is not None
        assert seqs(left, spool.acked + 1) == list(range(4 * per_segment + 1, spool.head + 1))
        left.acknowledge(left.head)
        left.close()


def test_a_segment_that_somebody_removed_is_a_hole(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 1_000)
    names = sorted(path.name for path in spool.directory.glob("*.seg"))
    first, then = (int(names[number].removesuffix(SUFFIX)) for number in (2, 3))
    (spool.directory / names[2]).unlink()
    assert spool.read(first, 1_000) is None
    assert seqs(spool, 1) == [*range(1, first), *range(then, 1_001)]
    assert spool.dropped_events == then - first
    assert spool.lost(first, then - 1) == Dropped(first, then - 1, "no_longer_held")


def test_a_spool_without_a_segment_is_complete(tmp_path: Path) -> None:
    directory = _dead_spool(tmp_path, 10)
    for path in directory.glob("*.seg"):
        path.unlink()
    left = Spool.adopt(directory)
    assert left is not None
    assert left.complete
    left.close()
    assert not directory.exists()


def test_events_of_nobody_are_left_alone(tmp_path: Path) -> None:
    directory = _dead_spool(tmp_path, 10)
    (directory / "stream").unlink()
    os.utime(directory, (1, 1))
    with pytest.raises(SpoolError, match="whose they are"):
        Spool.adopt(directory)
    assert len(list(directory.glob("*.seg"))) == 1


@requires("another user to be", hasattr(os, "geteuid") and os.geteuid() == 0)
def test_a_spool_of_another_user_is_named_and_left_alone(tmp_path: Path) -> None:
    directory = _dead_spool(tmp_path, 10)
    for place in (tmp_path, *tmp_path.parents[:-1]):
        place.chmod(place.stat().st_mode | 0o055)
    words = f"from pathlib import Path; from telefabric.spool import Spool; Spool.adopt(Path({str(directory)!r}))"
    os.chmod(directory, 0o700)
    done = subprocess.run(
        [sys.executable, "-c", f"import os; import telefabric.spool; os.setuid(65534); {words}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "SpoolError" in done.stderr
    assert "check its rights" in done.stderr
    assert len(list(directory.glob("*.seg"))) == 1


def test_what_an_adopted_spool_delivered_and_what_it_had_lost_is_all_of_it(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info())
    fill(spool, 1_000)
    spool.acknowledge(300)
    spool.close()
    damaged = sorted(spool.directory.glob("*.seg"))[2]
    content = bytearray(damaged.read_bytes())
    content[HEADER_BYTES + 20] ^= 1
    damaged.write_bytes(content)
    left = Spool.adopt(spool.directory)
    assert left is not None
    held = len(seqs(left, 301))
    left.acknowledge(left.head)
    assert (left.delivered_events, left.lost_events) == (held, 700 - held)
    assert left.known_events == 700
    assert left.lost_events > 100
    left.close()


LINUX = requires(
    "Linux 5.14", sys.platform == "linux" and tuple(map(int, platform.release().split(".")[:2])) >= (5, 14)
)


def faults_of(act: Callable[[], None]) -> int:
    """Pages that the system had to bring in for this thread meanwhile."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    act()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


@LINUX
def test_an_append_finds_its_pages_in_memory(tmp_path: Path) -> None:
    event, pages = bytes(mmap.PAGESIZE // 4), limits.SPOOL_AHEAD_BYTES // 2 // mmap.PAGESIZE
    spool = Spool.create(tmp_path, info(), SpoolPolicy())
    fill(spool, 1)

    def append() -> None:
        with spool.lock:
            for seq in range(spool.head + 1, spool.head + 4 * (pages - 1)):
                spool.append(seq, event)

    assert faults_of(append) >= pages // 2
    for _ in range(5):
        spool.warm_up()
        assert faults_of(append) <= pages // 4
    assert seqs(spool, 1, 2**20)[0] == 1
    assert spool.read(2, 2**20) is not None
    spool.close()


@LINUX
def test_a_link_brings_pages_in_without_a_broker_too(tmp_path: Path) -> None:
    with connect("tcp://127.0.0.1:9", spool=tmp_path, exit_flush_s=0) as worker:
        worker.metric("loss", 0.5)
        assert isinstance(worker._outbox, Spooled)
        active = worker._outbox.spool._active
        assert active is not None
        wait_for(lambda: active.warm >= active.end + limits.SPOOL_AHEAD_BYTES // 2, "the next pages")


@LINUX
def test_pages_are_brought_in_up_to_the_end_of_a_segment(tmp_path: Path, small_segments: int) -> None:
    spool = Spool.create(tmp_path, info(), SpoolPolicy())
    for _ in range(40):
        spool.warm_up()
        fill(spool, 20, 200)
        assert spool._active is not None
        assert spool._active.warm <= small_segments
    assert spool._warms
    assert seqs(spool, 1) == list(range(1, 801))
    spool.close()


def test_a_system_that_brings_no_pages_in_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(segment: Segment, ahead: int) -> None:
        asked.append(ahead)
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(Segment, "warm_up", refuse)
    spool = Spool.create(tmp_path, info(), SpoolPolicy())
    for _ in range(3):
        fill(spool, 10)
        spool.warm_up()
    assert len(asked) == 1
    assert seqs(spool, 1) == list(range(1, 31))
    spool.close()
