"""`kill -9` of any process, again and again during a run: every event is stored exactly once, in order."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import apsw
import msgspec
import pytest
from emitter import Progress, observation
from processes import Service, broker, free_ports, run, store, wait_for
from slowness import patience

from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric_schemas import Step, values


def emitter(url: str, folder: Path, name: str, *options: object) -> Service:
    arguments = [url, folder / f"{name}.progress", "--spool", folder / "spool", "--run", name]
    arguments += ["--exit-flush", patience(30), *options]
    script = Path(__file__).with_name("emitter.py")
    return Service([sys.executable, str(script), *map(str, arguments)], stderr=folder / f"{name}.log")


def assert_whole(file: Path, stream: bytes, emitted: int) -> None:
    """Every seq once, in order of arrival, with the payload that its step was emitted with."""
    assert audit(file, stream, emitted)[:4] == (emitted, emitted, 0, 0)
    db = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    decode = msgspec.msgpack.Decoder(Step).decode
    before = 0
    query = "SELECT seq, global_step, event FROM steps JOIN streams USING (stream) WHERE stream_id = ? ORDER BY id"
    for seq, global_step, event in db.execute(query, (stream,)):
        assert seq > before
        before = seq
        assert values.decode(decode(event).observation) == observation(global_step)
    assert db.execute("PRAGMA integrity_check").get == "ok"
    assert db.execute("SELECT count(*) FROM quarantine").get == 0
    assert db.execute("SELECT coalesce(sum(count), 0) FROM overview WHERE level = 1 AND series = 'reward'").get == (
        db.execute("SELECT count(*) FROM steps").get
    )
    db.close()


def test_broker_and_store_killed_during_a_run(tmp_path: Path) -> None:
    port = free_ports()
    services = {"broker": broker(port, stderr=tmp_path / "broker.log"), "store": store(port, tmp_path)}
    victims = [["broker"], ["store"], ["broker", "store"]] * 3
    random.Random(7).shuffle(victims)
    with services["broker"], services["store"], emitter(f"tcp://127.0.0.1:{port}", tmp_path, "run") as worker:
        progress = Progress(tmp_path / "run.progress")
        for victim in victims:
            stream, before = progress.read()
            wait_for(lambda mark=before + 1_500: progress.read()[1] > mark, "the worker goes on emitting")
            for name in victim:
                services[name].kill()
            for name in victim:
                services[name].start()
        wait_for(lambda: _knows_a_stream(port), "the broker, restarted, was taught the stream anew")
        assert worker.process is not None
        worker.process.send_signal(2)
        assert worker.process.wait(patience(60)) != 0, "an interrupted run is cancelled, its interrupt not swallowed"
        stream, emitted = progress.read()
        wait_for(lambda: audit(tmp_path / FILE_NAME, stream, emitted).missing == 0, "the rest is stored", 30)
    assert emitted > 10_000
    assert_whole(tmp_path / FILE_NAME, stream, emitted)


def _knows_a_stream(port: int) -> bool:
    found = json.loads(run("status", "--json", "--connect", f"tcp://127.0.0.1:{port}").stdout)
    return any(stream["emitted"] > 0 for stream in found["streams"])


def test_a_killed_worker_is_drained_by_the_next_start(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port):
        first = emitter(url, tmp_path, "first")
        with first:
            wait_for(lambda: Progress(tmp_path / "first.progress").read()[1] > 3_000, "the first worker emits")
            first.kill()
        with store(port, tmp_path):
            with emitter(url, tmp_path, "second", "--seconds", 1) as second:
                assert second.process is not None
                stream, emitted = Progress(tmp_path / "first.progress").read()
                file = tmp_path / FILE_NAME
                wait_for(lambda: audit(file, stream, emitted).missing == 0, "the first worker's events are stored")
                assert second.process.wait(patience(60)) == 0
            # One more event may be whole in the spool although its call had not returned.
            stored = audit(file, stream, emitted + 1).stored
            assert stored in (emitted, emitted + 1)
            assert_whole(file, stream, stored)
            assert_whole(file, *Progress(tmp_path / "second.progress").read())
    assert not list((tmp_path / "spool").iterdir())


def test_a_run_without_any_broker_ends_on_time_and_is_drained_later(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with emitter(url, tmp_path, "alone", "--seconds", 2) as worker:
        start = time.monotonic()
        assert worker.process is not None
        assert worker.process.wait(patience(30)) == 0
        assert time.monotonic() - start < 6
    stream, emitted = Progress(tmp_path / "alone.progress").read()
    refused = run("spool", "drain", "--connect", url, "--spool", str(tmp_path / "spool"))
    assert refused.returncode == 1
    assert "telefabric up" in refused.stderr
    with broker(port), store(port, tmp_path):
        drained = run("spool", "drain", "--connect", url, "--spool", str(tmp_path / "spool"), "--json")
        assert drained.returncode == 0, drained.stderr
        assert json.loads(drained.stdout)["delivered_events"] == emitted
    assert_whole(tmp_path / FILE_NAME, stream, emitted)
    assert not list((tmp_path / "spool").iterdir())


def test_up_restarts_a_part_that_dies(tmp_path: Path) -> None:
    url = f"tcp://127.0.0.1:{free_ports()}"
    with Service(
        [*[sys.executable, "-m", "telefabric.cli.main"], "up", "--listen", url, "--data", str(tmp_path)],
        stderr=tmp_path / "up.log",
    ) as up:
        with emitter(url, tmp_path, "run", "--seconds", 4) as worker:
            assert up.process is not None
            for name in ("broker", "store"):
                pid = wait_for(lambda name=name: _child(up.process.pid, name), f"a {name} runs")
                import os

                os.kill(pid, 9)
                wait_for(lambda name=name, pid=pid: _child(up.process.pid, name) not in (0, pid), f"a new {name}")
            assert worker.process is not None
            assert worker.process.wait(patience(60)) == 0
        stream, emitted = Progress(tmp_path / "run.progress").read()
        assert_whole(tmp_path / FILE_NAME, stream, emitted)
        assert up.stop() == 0
    wait_for(lambda: not _mentions(str(tmp_path)), "no process is left")


def _child(parent: int, name: str) -> int:
    """The pid of a service that `parent` started; 0 when there is none."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if name.encode() in words and int(stat[1]) == parent and stat[0] != "Z":
            return int(entry.name)
    return 0


def _mentions(text: str) -> list[bytes]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != 0:
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in command and b"telefabric" in command:
                found.append(command)
    return found


pytestmark = pytest.mark.timeout(180)
