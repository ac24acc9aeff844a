"""The store lets go of the oldest pictures when it has too many bytes of them, and of nothing else."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import msgspec
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import wait_for
from slowness import patience
from store_fixtures import Scribe, stream

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.errors import StoreError
from telefabric.store.file.verify import verify
from telefabric.store.read.file_reader import FileReader
from telefabric.store.service import Store
from telefabric.store.write.retention import Retention
from telefabric_schemas import EXPIRED, AnyEvent, Frame
from telefabric_workers import connect

INFO = stream(1)
CLOCK = itertools.count(1)


def frame(seq: int, size: int) -> Frame:
    return Frame(seq, "ada", 0, 0, seq, f"f{seq}", 8, 8, "jpeg", bytes(size), seq, seq)


def tend(scribe: Scribe, retention: Retention) -> None:
    """Until there is nothing more to do; the clock goes on by more than a look each time."""
    for _ in range(1_000):
        before = retention.expired
        retention.tend(scribe.writer, next(CLOCK) * int(limits.RETENTION_S * 1e9 + 1))
        if retention.expired == before:
            return
    raise AssertionError("it never ends")


def left(path: Path) -> list[Frame]:
    with FileReader(path) as reader:
        return [msgspec.msgpack.decode(row.event, type=AnyEvent) for row in reader.events(kinds=["frame"]).rows]


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(100, 3_000), max_size=30), most=st.integers(1_000, 20_000), halfway=st.integers(0, 30)
)
def test_the_oldest_pictures_go_and_their_places_stay(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int, halfway: int
) -> None:
    path = tmp_path_factory.mktemp("store") / "telemetry.sqlite"
    retention = Retention(most)
    with Scribe(path) as scribe:
        for seq, size in enumerate(sizes, start=1):
            scribe.put(INFO, frame(seq, size))
            if seq == halfway:
                scribe.commit()
                tend(scribe, retention)
        scribe.commit()
        tend(scribe, retention)
        total = scribe.writer.frame_bytes_after(0)[0]
    frames = left(path)
    assert [one.step_index for one in frames] == list(range(1, len(sizes) + 1))
    kept = [one for one in frames if one.encoding != EXPIRED]
    gone = frames[: len(frames) - len(kept)]
    assert frames == gone + kept, "the oldest first"
    assert all((one.encoding, one.data) == (EXPIRED, b"") for one in gone)
    assert [len(one.data) for one in kept] == sizes[len(gone) :]
    assert total <= most or not kept
    assert len(gone) == retention.expired
    assert not gone or total + sizes[len(gone) - 1] > most - 20, "and no more than had to"
    assert verify(path).contradictions == 0


def test_large_frames_go_one_at_a_time_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RETENTION_TURN_S", 0.0)
    path = tmp_path / "telemetry.sqlite"
    retention = Retention(3_000_000)
    with Scribe(path) as scribe:
        scribe.put(INFO, *(frame(seq, 1_000_000) for seq in range(1, 7)))
        scribe.commit()
        tend(scribe, retention)
        assert scribe.writer.frame_bytes_after(0)[0] <= 3_000_000


def test_what_expired_before_a_restart_is_passed_over_without_waiting(tmp_path: Path) -> None:
    """No look of ten seconds between: the clock stands still."""
    path = tmp_path / "telemetry.sqlite"
    with Scribe(path) as scribe:
        scribe.put(INFO, *(frame(seq, 500) for seq in range(1, 1_001)))
        scribe.commit()
        tend(scribe, Retention(1_000))
        scribe.put(INFO, *(frame(seq, 500) for seq in range(1_001, 1_011)))
        scribe.commit()
    with Scribe(path) as scribe:
        again = Retention(scribe.writer.frame_bytes_after(0)[0] - 600)
        for _ in range(200):
            again.tend(scribe.writer, 1)
        assert again.expired == 2


def test_a_change_that_fails_is_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "telemetry.sqlite"
    retention = Retention(4_000)
    with Scribe(path) as scribe:
        scribe.put(INFO, *(frame(seq, 1_000) for seq in range(1, 11)))
        scribe.commit()
        with monkeypatch.context() as disk:
            disk.setattr(type(scribe.writer), "replace_frames", _fails)
            with pytest.raises(StoreError):
                tend(scribe, retention)
        assert retention.expired == 0
        tend(scribe, retention)
        assert scribe.writer.frame_bytes_after(0)[0] <= 4_000


def _fails(*_: object) -> None:
    raise StoreError("full")


def test_without_a_limit_all_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite"
    with Scribe(path) as scribe:
        scribe.put(INFO, frame(1, 10_000))
        scribe.commit()
        tend(scribe, Retention(0))
    assert left(path) == [frame(1, 10_000)]


def test_after_a_restart_it_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite"
    with Scribe(path) as scribe:
        scribe.put(INFO, *(frame(seq, 1_000) for seq in range(1, 11)))
        scribe.commit()
        tend(scribe, Retention(6_000))
    before = [one.encoding for one in left(path)]
    with Scribe(path) as scribe:
        again = Retention(6_000)
        tend(scribe, again)
        assert again.expired == 0
        scribe.put(INFO, frame(11, 1_000))
        scribe.commit()
        tend(scribe, again)
        assert again.expired >= 1
    assert before.count(EXPIRED) + again.expired == [one.encoding for one in left(path)].count(EXPIRED)


def test_a_running_store_lets_go_while_it_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    monkeypatch.setattr(limits, "RETENTION_S", 0.1)
    path = tmp_path / "telemetry.sqlite"
    broker = Broker(Address("127.0.0.1", 0))
    store = Store(broker.address, path, frame_bytes_max=20_000)
    threads = [threading.Thread(target=part.run) for part in (broker, store)]
    for thread in threads:
        thread.start()
    try:
        with connect(broker.address.url, run="run", spool=tmp_path / "spool", store_frames="steps:1") as worker:
            dice = numpy.random.default_rng(1)
            for at in range(100):
                worker.step(episode=0, step=at, frame=dice.integers(0, 256, (32, 32, 3), numpy.uint8))
            assert worker.flush(patience(30))
            wait_for(lambda: store._retention.expired > 50, "old pictures go")
    finally:
        store.stop()
        threads[1].join(patience(20))
        broker.stop()
        threads[0].join(patience(20))
        store.close()
    frames = left(path)
    assert len(frames) == 100
    assert frames[0].encoding == EXPIRED
    assert frames[-1].encoding == "jpeg"
    assert verify(path).contradictions == 0
