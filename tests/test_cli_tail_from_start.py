"""`tail --from-start`: a run from its first event on, stored and live as one, whoever is killed meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FabricService
from emitter import Progress
from processes import TELEFABRIC, Service, broker, free_ports, run, store, wait_for
from slowness import patience
from store_fixtures import Scribe, query_behind_broker, run_started, step, stream
from test_kills import emitter

from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric_workers import Worker, connect


class Tail:
    """The command as a process; its lines as they come."""

    def __init__(self, *arguments: str) -> None:
        command = [*TELEFABRIC, "tail", "--from-start", *arguments]
        self.lines: list[str] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines[:]]

    def end(self) -> tuple[int, str]:
        """^C; exit code and what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        self._reading.join(patience(20))
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.wait(patience(20)), said


@pytest.fixture
def tailing() -> Iterator[Any]:
    tails: list[Tail] = []

    def start(*arguments: str) -> Tail:
        tails.append(Tail(*arguments))
        return tails[-1]

    yield start
    for tail in tails:
        if tail.process.poll() is None:
            tail.process.kill()
            tail.end()


def test_every_event_once_and_in_order_through_kills_of_broker_and_store(tmp_path: Path, tailing: Any) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    services: dict[str, Service] = {"broker": broker(port), "store": store(port, tmp_path)}
    progress = Progress(tmp_path / "run.progress")
    with services["broker"], services["store"], emitter(url, tmp_path, "run", "--rate", 2_000) as worker:
        wait_for(lambda: progress.read()[1] > 1_000, "some history")
        tail = tailing("--connect", url, "--run", "run", "--json")
        wait_for(lambda: len(tail.lines) > 2_000, "history and live events")
        before = progress.read()[1]
        for service in services.values():
            service.kill()
        wait_for(lambda: progress.read()[1] > before + 1_000, "the worker goes on")
        for service in services.values():
            service.start()
        assert worker.process is not None
        worker.signal(signal.SIGINT)
        worker.process.wait(patience(30))
        stream_id, emitted = progress.read()
        wait_for(lambda: len(tail.lines) >= emitted, f"all of {emitted} events", 30)
        code, said = tail.end()
    found = tail.events
    assert [one["seq"] for one in found] == list(range(1, emitted + 1))
    assert {one["stream_id"] for one in found} == {stream_id.hex()}
    assert {one["run_id"] for one in found} == {"run"}
    assert len({one["worker_id"] for one in found}) == 1
    assert found[0]["worker_id"]
    assert (found[0]["kind"], found[-1]["kind"]) == ("run_started", "run_completed")
    assert not any("id" in one for one in found)
    assert audit(tmp_path / FILE_NAME, stream_id, emitted)[:4] == (emitted, emitted, 0, 0)
    assert code == 130
    assert "Traceback" not in said


def test_without_a_run_it_takes_the_newest_and_shows_lines_for_people(tmp_path: Path, tailing: Any) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port), store(port, tmp_path):
        with connect(url, run="older", spool=tmp_path / "spool") as older:
            older.log("no")
        with connect(url, run="newer", spool=tmp_path / "spool") as newer:
            newer.step(episode=0, step=0, reward=1.0)
            assert newer.flush(patience(10)), "a run that nobody has heard of yet is not the newest"
            follow_the_newest(newer, tailing("--connect", url))


def follow_the_newest(newer: Worker, tail: Tail) -> None:
    wait_for(lambda: len(tail.lines) == 2, "what is there")
    newer.metric("loss", 0.5)
    wait_for(lambda: len(tail.lines) == 3, "what comes")
    assert [line.split()[1:4] for line in tail.lines] == [
        ["newer", "agent_0", kind] for kind in ("run_started", "step", "metric")
    ]
    tail.end()


def test_gaps_and_what_cannot_be_read_hold_nothing_up(tmp_path: Path, tailing: Any) -> None:
    info = stream("lake", "w1")
    with Scribe(tmp_path / FILE_NAME) as scribe:
        scribe.put(info, run_started(1, info))
        scribe.put_gap(info, 2, 40, "spool_full")
        scribe.put(info, b"\xc1", first_seq=41)
        scribe.put(info, step(42), step(43, "agent_9"))
        scribe.commit()
    with query_behind_broker(tmp_path / FILE_NAME) as address:
        tail = tailing("--connect", address.url, "--json")
        only = tailing("--connect", address.url, "--run", "lake", "--kind", "step", "--agent", "agent_9", "--json")
        wait_for(lambda: len(tail.lines) == 5 and len(only.lines) == 1, "all of it")
        said = [tail.end(), only.end()]
    assert [(code, words.strip()) for code, words in said] in ([(130, "")] * 2, [(130, "Aborted!")] * 2)
    assert [(one["kind"], one["seq"]) for one in tail.events] == [
        ("run_started", 1), ("gap", 2), ("quarantine", 41), ("step", 42), ("step", 43),
    ]  # fmt: skip
    assert (tail.events[1]["last_seq"], tail.events[1]["reason"]) == (40, "spool_full")
    assert [one["seq"] for one in only.events] == [43]


def test_a_history_longer_than_a_client_needs_is_shown_whole(tmp_path: Path, tailing: Any) -> None:
    info = stream("long", "w1")
    events = 60_000
    with Scribe(tmp_path / FILE_NAME) as scribe:
        for first in range(1, events, 4_000):
            scribe.put(info, *map(step, range(first, first + 4_000)))
        scribe.commit()
    with query_behind_broker(tmp_path / FILE_NAME) as address:
        tail = tailing("--connect", address.url, "--raw")
        wait_for(lambda: len(tail.lines) == events, "all of it", 30)
        tail.end()
    assert [json.loads(line)[1] for line in tail.lines] == list(range(1, events + 1))


def test_it_waits_for_a_broker_and_a_run_that_have_not_begun(tmp_path: Path, tailing: Any) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    tail = tailing("--connect", url, "--run", "later", "--json")
    with broker(port), store(port, tmp_path), emitter(url, tmp_path, "later", "--rate", 100, "--seconds", 1):
        wait_for(lambda: len(tail.lines) > 50, "the run has begun")
        assert tail.events[0]["kind"] == "run_started"
        tail.end()


def test_mistakes_are_one_sentence(fabric_service: FabricService) -> None:
    nowhere = f"tcp://127.0.0.1:{free_ports()}"
    for arguments, code, sentence in (
        (["--connect", nowhere], 1, f"nobody answers at {nowhere}"),
        (["--connect", fabric_service.url], 1, "name one to wait for with --run"),
        (["--store", "x.sqlite"], 2, "leave out --store"),
        (["--since", "3"], 2, "leave out --store, --since"),
        (["--no-follow"], 2, "--no-follow"),
    ):
        done = run("tail", "--from-start", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
