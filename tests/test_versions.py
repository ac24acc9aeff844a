"""Workers, brokers, stores, subscribers and readers of an older version beside those of this one, as real processes.

The older version is a wheel of an earlier commit, which goes before this checkout on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from processes import TELEFABRIC, Service, free_ports, wait_for
from slowness import patience

from telefabric import __version__
from telefabric.address import Address
from telefabric.errors import StoreError
from telefabric.store.file.database import FILE_NAME, VERSION
from telefabric.store.read import query
from telefabric.store.read.remote_reader import RemoteReader

PROJECT = Path(__file__).parents[1]
SUBJECT = (
    "Small modules join their neighbours, settings come parsed, the client's style is a style sheet of its own; "
    "the time unit has one place"
)
OLDER_STORE = 3
"""The version of the store files of the older version."""

WORKER = """
import select, sys
import numpy
from telefabric_workers import connect
url, run, spool = sys.argv[1:]
with connect(url, run=run, spool=spool, exit_flush_s=60) as worker:
    step = 0
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        worker.step(episode=0, step=step, action=numpy.int64(1), observation=numpy.arange(4.0), reward=1.0)
        step += 1
    worker.episode(episode=0, total_reward=1.0, length=step, end_reason="terminated")
    worker.metric("loss", 0.5)
print(worker.stream_id.hex(), worker.emitted, worker.acknowledged)
"""
"""Emits until it is told to end."""

KILLED = """
import os, sys
from telefabric_workers import connect
worker = connect(sys.argv[1], run=sys.argv[2], spool=sys.argv[3])
worker.metric("loss", 1.0)
assert worker.flush(60)
worker.metric("loss", 2.0)
os._exit(0)
"""

LISTENER = """
import json, sys
from collections import Counter
from telefabric import Address, DurableSubscription, LiveSubscription
url, name, *runs = sys.argv[1:]
marks, seen, ended = {}, Counter(), 0
live = LiveSubscription(Address.parse(url), name=name, runs=runs)
keeper = DurableSubscription(Address.parse(url), name=name, held=lambda stream: marks.get(stream, 0))
def listen():
    seen.update(one.stream for one in live.poll(0.02) if one.event.kind == "step")
    moved = {}
    for batch in keeper.poll(0.02):
        if keeper.infos[batch.header.stream].run_id in runs:
            yield from (event.kind for event in batch.events())
        assert batch.header.first_seq <= marks.get(batch.header.stream, 0) + 1, "nothing is skipped"
        moved[batch.header.stream] = marks[batch.header.stream] = batch.header.last_seq
    keeper.stored(moved)
while live.granted is None or not keeper.attached:
    assert not list(listen())
print("ready", flush=True)
while sum(steps >= 50 for steps in seen.values()) < len(runs):
    ended += list(listen()).count("run_completed")
print("seen", flush=True)
while ended < len(runs):
    ended += list(listen()).count("run_completed")
print(json.dumps([sum(live.dropped.values()), live.lost_in_transit, sorted(marks.values())]))
"""
"""Both kinds of subscription: live until it saw 50 steps of each run, durable until the runs have ended."""


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the older version is installed."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", *words], cwd=PROJECT, check=True, capture_output=True).stdout

    commit = git("log", "-1", "--format=%H", "--grep", f"^{SUBJECT}$").decode().strip()
    if not commit:
        shallow = git("rev-parse", "--is-shallow-repository").strip() == b"true"
        lacks = "this machine lacks: the history of a shallow clone" if shallow else f"no commit {SUBJECT!r}"
        pytest.skip(f"{lacks}: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("older")
    source, python = folder / "source", [sys.executable, "-m"]
    source.mkdir()
    subprocess.run(["tar", "-x", "-C", str(source)], input=git("archive", commit), check=True)
    build = [*python, "build", "--quiet", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    install = [*python, "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder / "installed")]
    subprocess.run([*install, *map(str, folder.glob("*.whl"))], check=True)
    return folder / "installed"


class Two:
    """What is run of the older and of this version, against one address."""

    def __init__(self, older: Path, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.url = f"tcp://127.0.0.1:{free_ports()}"
        self.data = folder / "data"
        self._paths = {"old": str(older), "new": ""}
        self._stack = stack

    def environment(self, version: str) -> dict[str, str]:
        return {"PYTHONPATH": self._paths[version]}

    def serve(self, version: str, *words: str) -> None:
        self._stack.enter_context(Service([*TELEFABRIC, *words], env=self.environment(version)))

    def serve_all(self, broker: str, store: str) -> None:
        self.broker, self.store = broker, store
        if broker == store:
            self.serve(broker, "up", "--listen", self.url, "--data", str(self.data))
            return
        self.serve(broker, "broker", "--listen", self.url)
        self.serve(store, "store", "--connect", self.url, "--data", str(self.data))

    def start(self, version: str, *command: str | Path) -> subprocess.Popen[str]:
        """A program, given as the words behind ``python``."""
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.folder, env={**os.environ, **self.environment(version)}, stdin=subprocess.PIPE,
        )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def telefabric(self, version: str, *words: str | Path) -> subprocess.Popen[str]:
        return self.start(version, "-m", "telefabric.cli.main", *words)


def ended(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=patience(15))
    assert process.returncode == 0, f"{process.args}:\n{errors}"
    return out


@pytest.fixture(scope="module")
def two(older: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Two]:
    """Services of the versions that are asked for, broker and store, as they are for several tests."""
    with ExitStack() as stack:
        found = Two(older, tmp_path_factory.mktemp("two"), stack)
        found.serve_all(*request.param)
        yield found


NEW_UP, OLD_UP = pytest.param(("new", "new"), id="new up"), pytest.param(("old", "old"), id="old up")
NEW_STORE = pytest.param(("old", "new"), id="old broker and new store")


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def rows(dumped: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dumped.splitlines()]


@pytest.mark.parametrize("two", [OLD_UP], indirect=True)
def test_the_older_version_is_what_runs(two: Two, older: Path) -> None:
    """Else all else here would compare this version with itself."""
    program = "import telefabric, telefabric_workers as w; print(telefabric.__file__, w.__file__)"
    said = ended(two.start("old", "-c", program))
    assert all(Path(name).is_relative_to(older) for name in said.split())


@pytest.mark.parametrize("two", [OLD_UP, NEW_UP, NEW_STORE], indirect=True)
def test_workers_subscribers_and_readers_of_both_versions_get_everything(two: Two) -> None:
    versions, runs = ("old", "new"), ("run-old", "run-new")
    listeners = [two.start(version, "-c", LISTENER, two.url, f"listener-{version}", *runs) for version in versions]
    for process in listeners:
        assert line_of(process) == "ready"
    workers = [two.start(one, "-c", WORKER, two.url, f"run-{one}", two.folder / f"spool-{one}") for one in versions]
    for process in listeners:
        assert line_of(process) == "seen"
    emitted = {}
    for version, process in zip(versions, workers, strict=True):
        stream, events, acknowledged = ended(process).split()
        assert acknowledged == events
        assert not list((two.folder / f"spool-{version}").iterdir()), "all is delivered, so nothing is left"
        emitted[stream] = int(events)
    for process in listeners:
        assert json.loads(ended(process)) == [0, 0, sorted(emitted.values())], "dropped, lost, and the durable marks"
    places = (("--connect", two.url), ("--store", two.data / FILE_NAME))
    dumps = [two.telefabric(version, "dump", *place) for version in versions for place in places]
    too_new = dumps.pop(1) if two.store == "new" and VERSION > OLDER_STORE else None  # an older program, a newer file
    stored, *others = [rows(ended(process)) for process in dumps]
    assert all(other == stored for other in others)
    if too_new is not None:
        _, errors = too_new.communicate(timeout=patience(15))
        assert too_new.returncode == 1
        known = f"newer version (store version {VERSION}, this program reads up to {OLDER_STORE})"
        assert f"{known}: pip install -U telefabric" in errors
    for stream, events in emitted.items():
        assert [row["seq"] for row in stored if row["stream_id"] == stream] == list(range(1, events + 1))


def test_an_older_store_at_a_newer_broker_without_keys_is_told_what_to_upgrade(older: Path, tmp_path: Path) -> None:
    """It does not know the socket of the broker's own user."""
    with ExitStack() as stack:
        two = Two(older, tmp_path, stack)
        two.serve("new", "broker", "--listen", two.url)
        command, log = [*TELEFABRIC, "store", "--connect", two.url, "--data", str(two.data)], tmp_path / "log"
        stack.enter_context(Service(command, env=two.environment("old"), stderr=log))
        said = f"use that account and telefabric {__version__} or newer"
        wait_for(lambda: said in log.read_text(), "it says so")


NEXT = f"from telefabric.wire import control\ncontrol.PROTOCOL += 1\n{KILLED.replace('flush(60)', 'flush(1) is False')}"
"""A worker of a version that is not there yet."""


class Invented(query.Question[query.Run], tag="invented"):
    """A question of a version that is not there yet."""


@pytest.mark.parametrize("two", [OLD_UP, NEW_UP], indirect=True)
def test_each_version_delivers_what_the_other_left_and_says_what_to_upgrade(two: Two) -> None:
    """What a later version cannot have here is a sentence, and its events wait for one that can deliver them."""
    drained_by = {"old": "new", "new": "old", "next": "new"}
    left = [
        two.start("new" if worker == "next" else worker, "-c", program, two.url, worker, two.folder / worker)
        for worker, program in (("old", KILLED), ("new", KILLED), ("next", NEXT))
    ]
    for process in left[:2]:
        ended(process)
    _, errors = left[2].communicate(timeout=patience(30))
    known = f"this broker, telefabric {__version__}, speaks protocol 1, not 2: upgrade it to telefabric {__version__}"
    assert (known if two.broker == "new" else "this broker speaks protocol 1, not 2: install one version") in errors
    drains = {
        worker: two.telefabric(drain, "spool", "drain", "--connect", two.url, "--spool", two.folder / worker)
        for worker, drain in drained_by.items()
    }
    for worker, process in drains.items():
        ended(process)
        assert not list((two.folder / worker).iterdir()), "and no file of the other version is in the way"
    with RemoteReader(Address.parse(two.url)) as reader:
        for worker in drains:
            assert [stream.stored_seq for stream in reader.streams(worker)] == [3]
        with pytest.raises(StoreError) as refused:
            reader.answer(Invented())
        if two.store == "old":
            with pytest.raises(StoreError, match="is older than this program and does not know the question 'counts'"):
                reader.counts("old")
        assert reader.runs(), "and it goes on"
    unknown = "is older than this program and does not know the question 'invented'"
    assert f"{unknown}: upgrade it to telefabric {__version__} or newer" in str(refused.value)
