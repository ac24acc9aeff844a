"""A reader that holds a transaction makes the store's log grow: so far and no further, said, and over when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest
from eventlog import logged_events
from processes import wait_for
from slowness import patience
from store_fixtures import Scribe, raw, step, stream

from telefabric import limits
from telefabric.errors import StoreError
from telefabric.limits import NS
from telefabric.store.file.verify import audit
from telefabric.store.write.checkpoints import Checkpoints

if TYPE_CHECKING:
    from conftest import FabricService

LONG, MOST = 512 * limits.KIB, 2 * limits.MIB
OBSERVATION = raw(bytes(4_000))


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_BYTES_LONG", LONG)
    monkeypatch.setattr(limits, "LOG_BYTES_MAX", MOST)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Somebody has begun to read and does not end."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM steps").fetchall()
    try:
        yield
    finally:
        connection.close()


def test_a_log_that_is_held_is_bounded_told_and_emptied_afterwards(fabric_service: FabricService) -> None:
    worker = fabric_service.connect(run="held")
    log = fabric_service.file.with_name(fabric_service.file.name + "-wal")
    longest = 0

    def emit() -> int:
        nonlocal longest
        for _ in range(50):
            worker.step(episode=0, step=0, observation=bytes(4_000))
        longest = max(longest, log.stat().st_size)
        return longest

    with logged_events() as told:
        with reading(fabric_service.file):
            wait_for(lambda: emit() > MOST, "the log grows")
            wait_for(lambda: emit() and any(one["event"] == "store.failed" for one in told), "the store stops")
            assert longest < MOST + 4 * limits.MIB, "no more than one transaction beyond"
            assert worker.acknowledged < worker.emitted
        assert worker.flush(patience(30)), "it goes on by itself"
        wait_for(lambda: log.stat().st_size == 0, "the log is emptied by itself")
    assert worker.close()
    assert worker.dropped == 0
    assert audit(fabric_service.file, worker.stream_id, worker.emitted)[2:4] == (0, 0)
    failed = next(one for one in told if one["event"] == "store.failed")
    assert "MiB because another process has been reading" in failed["reason"]


def test_it_is_told_once_and_then_each_minute(tmp_path: Path) -> None:
    path, info = tmp_path / "telemetry.sqlite", stream()
    with Scribe(path) as scribe, logged_events() as told:
        checkpoints, seq = Checkpoints(0), 0

        def write_and_tend(second: int) -> None:
            nonlocal seq
            scribe.put(info, *(step(seq + more, observation=OBSERVATION) for more in range(1, 61)))
            scribe.commit()
            seq += 60
            checkpoints.written(second * NS)
            checkpoints.tend(scribe.writer, second * NS)

        with reading(path):
            write_and_tend(1)
            began = time.monotonic()
            write_and_tend(2)
            assert time.monotonic() - began < 2, "a reader that does not end is not waited for"
            checkpoints.tend(scribe.writer, 61 * NS)
            checkpoints.tend(scribe.writer, 62 * NS)
        write_and_tend(63)
        assert scribe.writer.log_bytes == 0
    found = [(one["event"], one.get("seconds")) for one in told]
    assert found[-2:] == [("store.checkpoint", None), ("store.wal_released", 62)]
    assert [one for one in found if one[0] == "store.wal_held"] == [("store.wal_held", 0), ("store.wal_held", 60)]


def test_a_short_log_is_emptied_when_idle_as_soon_as_its_reader_has_gone(tmp_path: Path) -> None:
    path, info = tmp_path / "telemetry.sqlite", stream()
    with Scribe(path) as scribe:
        scribe.put(info, step(1))
        scribe.commit()
        scribe.writer.checkpoint()  # the schema alone makes a log longer than that
        checkpoints = Checkpoints(0)
        with reading(path):
            scribe.put(info, step(2))
            scribe.commit()
            checkpoints.tend(scribe.writer, 1 * NS)
            checkpoints.tend(scribe.writer, 4 * NS)
            assert 0 < scribe.writer.log_bytes < LONG
        checkpoints.tend(scribe.writer, 5 * NS)
        assert scribe.writer.log_bytes == 0


def test_a_writer_refuses_to_make_a_long_log_longer(tmp_path: Path) -> None:
    path, info = tmp_path / "telemetry.sqlite", stream()
    with Scribe(path) as scribe, reading(path):
        seq = 0
        while scribe.writer.log_bytes <= MOST:
            scribe.put(info, *(step(seq + more, observation=OBSERVATION) for more in range(1, 61)))
            scribe.commit()
            seq += 60
        scribe.put(info, step(seq + 1))
        with pytest.raises(StoreError, match=r"-wal has grown to \d+ MiB because another process"):
            scribe.commit()
    assert audit(path, info.stream, seq)[:4] == (seq, seq, 0, 0)
