"""A spool belongs to the store that first welcomed its stream: no other gets its events unless a user says so."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest
from processes import Service, broker, free_ports, run, store, wait_for
from slowness import patience

from telefabric import limits
from telefabric.spool import Spool, admit, fabrics_in
from telefabric.spool.spool import _FABRICS
from telefabric.store.file.database import FILE_NAME, open_reader
from telefabric.uplink.core.stream import Phase, StreamSession
from telefabric.wire import control
from telefabric_workers import connect

OURS, THEIRS = b"o" * 16, b"t" * 16
BROKER, STREAM = b"1" * 16, b"s" * 16
INFO = control.StreamInfo(STREAM, "run", "worker", "agent", 0)
ENDPOINTS = control.Endpoints("*:1", "*:2")


def welcome(fabric: bytes | None, expected: int | None = 1, epoch: int = 1) -> control.Welcome:
    return control.Welcome(BROKER, STREAM, epoch, expected, 65_536, 20, ENDPOINTS, 1_000, None, fabric)


def sends(session: StreamSession) -> bool:
    return session.next_send(oldest=1, head=9, unsent_bytes=10**6, now_ns=10**10) is not None


# -- the rules ---------------------------------------------------------------------------------------------------


def test_the_first_welcome_that_opens_decides_whose_a_stream_is() -> None:
    session = StreamSession(INFO, Random(1))
    session.welcome(welcome(THEIRS, expected=None), 0)
    assert session.fabrics == (), "a stream that waits has given nothing to anybody"
    session.welcome(welcome(OURS), 0)
    assert (session.fabrics, session.phase) == ((OURS,), Phase.STREAMING)
    session.welcome(welcome(OURS, epoch=2), 0)
    assert sends(session)


def test_another_store_gets_nothing_and_acknowledges_nothing_and_its_broker_hears_why() -> None:
    session = StreamSession(INFO, Random(1), (OURS,))
    session.welcome(welcome(THEIRS, expected=7, epoch=3), 0)
    assert session.phase is Phase.HELD
    assert not sends(session)
    assert session.acked == 0
    session.acknowledged(control.Ack(BROKER, STREAM, 9), 0)
    session.rewind(control.Rewind(BROKER, STREAM, 4, 1, 65_536, "missing"), 0)
    assert (session.acked, session.phase) == (0, Phase.HELD)
    beat = session.beat(oldest=1, head=9, backlog_bytes=100)
    assert (beat.held, beat.epoch, beat.credit_bytes) == (True, 3, 65_536), "no WHO and no CREDIT need be said again"
    session.welcome(welcome(OURS, epoch=5), 0)
    assert sends(session)
    assert not session.beat(oldest=1, head=9, backlog_bytes=100).held


def test_a_store_without_an_id_holds_nothing_back_and_binds_nothing() -> None:
    for fabrics in ((), (OURS,)):
        session = StreamSession(INFO, Random(1), fabrics)
        session.welcome(welcome(None), 0)
        assert sends(session)
        assert session.fabrics == fabrics


def test_a_store_that_a_user_named_takes_over_and_the_first_may_come_back() -> None:
    session = StreamSession(INFO, Random(1), (OURS,))
    session.welcome(welcome(THEIRS), 0)
    session.admitted((OURS,), 5)
    assert session.phase is Phase.HELD, "nothing is new"
    session.admitted((OURS, THEIRS), 5)
    assert session.hello_due(5)
    for fabric in (THEIRS, OURS):
        session.welcome(welcome(fabric), 6)
        assert sends(session)


# -- the folder --------------------------------------------------------------------------------------------------


def test_the_folder_remembers_whose_it_is_and_loses_nothing_when_that_is_torn(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, INFO)
    assert fabrics_in(spool.directory) == ()
    spool.belong_to((OURS,))
    assert fabrics_in(spool.directory) == (OURS,)
    with spool.lock:
        spool.append(1, b"\x91\x01")
    spool.close()
    admit(spool.directory, (OURS, THEIRS))
    adopted = Spool.adopt(spool.directory)
    assert adopted is not None
    assert adopted.fabrics == (OURS, THEIRS)
    adopted.close()
    (spool.directory / _FABRICS).write_bytes(OURS[:7])
    torn = Spool.adopt(spool.directory)
    assert torn is not None
    assert (torn.fabrics, torn.head) == ((), 1)
    torn.acknowledge(1)
    torn.close()
    assert not spool.directory.exists()


def test_whose_it_is_is_on_the_disk_before_a_segment_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, bool]] = []
    replace = Spool.acknowledge.__globals__["_replace_sealed"]

    def note(path: Path, data: bytes, *, sync: bool) -> None:
        written.append((path.name, sync))
        replace(path, data, sync=sync)

    monkeypatch.setitem(Spool.acknowledge.__globals__, "_replace_sealed", note)
    spool = Spool.create(tmp_path, INFO)
    spool.belong_to((OURS,))
    body = bytes(limits.SEGMENT_BYTES // 2)
    for seq in range(1, 7):
        with spool.lock:
            spool.append(seq, body)
    spool.acknowledge(3)
    spool.acknowledge(5)
    assert written == [(_FABRICS, False), (_FABRICS, True), ("position", True), ("position", True)]
    spool.close()


# -- real processes ----------------------------------------------------------------------------------------------


@contextmanager
def fabric(port: int, folder: Path) -> Iterator[Service]:
    """A broker, and a store in `folder`."""
    with broker(port), store(port, folder) as keeper:
        yield keeper


def stored(folder: Path, stream: str | bytes) -> list[int]:
    """The seqs of a stream, in order, each as often as it is stored."""
    wanted = bytes.fromhex(stream) if isinstance(stream, str) else stream
    connection = open_reader(folder / FILE_NAME)
    try:
        return sorted(
            seq
            for table in ("lifecycle", "metrics")
            for (seq,) in connection.execute(
                f"SELECT seq FROM {table} JOIN streams USING (stream) WHERE stream_id = ?", (wanted,)
            )
        )
    finally:
        connection.close()


KILLED = """
import os, signal, sys
from telefabric_workers import connect
worker = connect(sys.argv[1], spool=sys.argv[2], run="killed")
worker.metric("loss", 1.0)
assert worker.flush(60)
worker.metric("loss", 2.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_one(url: str, root: Path) -> None:
    """A worker that was welcomed, and killed before all was delivered."""
    assert subprocess.run([sys.executable, "-c", KILLED, url, root], check=False).returncode == -signal.SIGKILL


def test_a_running_worker_is_held_back_by_another_store_and_goes_on_when_it_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "telefabric.link")
    port, root = free_ports(), tmp_path / "spool"
    url = f"tcp://127.0.0.1:{port}"
    first, second = tmp_path / "first", tmp_path / "second"
    with ExitStack() as stack:
        with fabric(port, first):
            worker = connect(url, run="held", spool=root, exit_flush_s=patience(30))
            stack.callback(worker.close)
            worker.metric("loss", 1.0)
            assert worker.flush(patience(30))
        worker.metric("loss", 2.0)
        with fabric(port, second):

            def status() -> dict[str, object]:
                found = json.loads(run("status", "--connect", url, "--json").stdout or "{}")
                return next((one for one in found.get("streams", ()) if one["run_id"] == "held"), {})

            wait_for(lambda: status().get("state") == "held", "the broker shows it", 40)
            worker.metric("loss", 3.0)
            shown = run("status", "--connect", url).stdout
            assert "1 stream held back" in " ".join(shown.split())
            assert f"telefabric spool drain --to {url}" in " ".join(shown.split())
            told = json.loads(run("doctor", "--connect", url, "--json").stdout)
            assert [row["state"] for row in told["findings"] if row["check"] == "streams: held"] == ["problem"]
            assert not worker.flush(0.5)
            assert stored(second, worker.stream_id) == []
            done = run("spool", "drain", "--to", url, "--spool", str(root), "--json")
            assert done.returncode == 0, done.stderr
            assert worker.flush(patience(30))
            wait_for(lambda: stored(second, worker.stream_id) == [1, 2, 3, 4], "all that the spool holds")
            assert worker.close()
    held = [line for line in caplog.messages if line.startswith("spool.held")]
    assert len(held) == 1, held
    assert f"telefabric spool drain --to {url}" in held[0]
    assert not list(root.glob("*/*.seg"))
    assert stored(first, worker.stream_id) == [1, 2]


def test_what_dead_workers_left_for_another_store_waits_and_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    port, root = free_ports(), tmp_path / "spool"
    url = f"tcp://127.0.0.1:{port}"
    words = ["spool", "drain", "--spool", str(root)]
    with fabric(port, tmp_path / "first"):
        workers = [connect(url, spool=root, exit_flush_s=0) for _ in range(limits.ORPHANS_AT_ONCE)]
        assert all(worker.flush(patience(30)) for worker in workers)
        kill_one(url, root)
    for worker in workers:
        worker.close()
    bound = len(workers) + 1
    free = connect("tcp://127.0.0.1:9", spool=root, exit_flush_s=0, run="free")
    free.metric("loss", 1.0)
    free.close()
    with fabric(port, tmp_path / "second"):
        done = run(*words, "--connect", url)
        assert done.returncode == 1
        assert done.stdout.startswith("Delivered: 3 events of 1 spool.")
        assert f"{bound} spools in {root} not delivered: events wait in the spool for another store" in done.stderr
        assert done.stderr.count("spool.held") <= 1
        assert len(list(root.glob("*/*.seg"))) == bound
        moved = run(*words, "--to", url)
        assert moved.returncode == 0, moved.stderr
        assert not list(root.iterdir())


def test_another_address_and_a_restored_backup_are_still_the_same_store(tmp_path: Path) -> None:
    root, first, second = tmp_path / "spool", tmp_path / "first", tmp_path / "second"
    ports = free_ports(), free_ports()
    with fabric(ports[0], first):
        worker = connect(f"tcp://127.0.0.1:{ports[0]}", spool=root, exit_flush_s=0, run="moved")
        worker.metric("loss", 1.0)
        assert worker.flush(patience(30))
        second.mkdir()
        copy = second / FILE_NAME
        assert run("store", "backup", str(copy), "--store", str(first / FILE_NAME)).returncode == 0
    worker.metric("loss", 2.0)
    worker.close()
    with fabric(ports[1], second):
        done = run("spool", "drain", "--connect", f"tcp://127.0.0.1:{ports[1]}", "--spool", str(root))
        assert done.returncode == 0, done.stderr
    assert stored(second, worker.stream_id) == [1, 2, 3, 4]
