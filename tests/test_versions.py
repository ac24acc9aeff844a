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
from processes import TELEFABRIC, Service, free_ports
from slowness import patience

from telefabric import __version__
from telefabric.address import Address
from telefabric.errors import StoreError
from telefabric.store.file.database import FILE_NAME
from telefabric.store.read import query
from telefabric.store.read.remote_reader import RemoteReader

PROJECT = Path(__file__).parents[1]
SUBJECT = (
    "Small modules join their neighbours, settings come parsed, the client's style is a style sheet of its own; "
    "the time unit has one place"
)
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

LIVE = """
import json, sys
from collections import Counter
from telefabric import Address, LiveSubscription
url, name, *runs = sys.argv[1:]
live, steps = LiveSubscription(Address.parse(url), name=name, runs=runs), Counter()
while live.granted is None:
    live.poll(0.05)
print("ready", flush=True)
while sum(seen >= 50 for seen in steps.values()) < len(runs):
    steps.update(one.stream for one in live.poll(0.05) if one.event.kind == "step")
print(json.dumps([sum(live.dropped.values()), live.lost_in_transit]))
"""

DURABLE = """
import json, sys
from telefabric import Address, DurableSubscription
url, name, *runs = sys.argv[1:]
marks, ended = {}, 0
keeper = DurableSubscription(Address.parse(url), name=name, held=lambda stream: marks.get(stream, 0))
while not keeper.attached:
    keeper.poll(0.05)
print("ready", flush=True)
while ended < len(runs):
    moved = {}
    for batch in keeper.poll(0.05):
        assert batch.header.first_seq <= marks.get(batch.header.stream, 0) + 1, "nothing is skipped"
        ended += sum(event.kind == "run_completed" for event in batch.events())
        moved[batch.header.stream] = marks[batch.header.stream] = batch.header.last_seq
    keeper.stored(moved)
print(json.dumps(sorted(marks.values())))
"""


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the older version is installed."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", *words], cwd=PROJECT, check=True, capture_output=True).stdout

    commit = git("log", "-1", "--format=%H", "--fixed-strings", "--grep", SUBJECT).decode().strip()
    if not commit:
        pytest.skip(f"this clone lacks the commit {SUBJECT!r}: git fetch --unshallow")
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


@pytest.fixture
def two(older: Path, tmp_path: Path) -> Iterator[Two]:
    with ExitStack() as stack:
        yield Two(older, tmp_path, stack)


def rows(dumped: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dumped.splitlines()]


def test_the_older_version_is_what_runs(two: Two, older: Path) -> None:
    """Else all else here would compare this version with itself."""
    program = "import telefabric, telefabric_workers as w; print(telefabric.__file__, w.__file__)"
    said = ended(two.start("old", "-c", program))
    assert all(Path(name).is_relative_to(older) for name in said.split())


@pytest.mark.parametrize(
    ("broker", "store"), [("new", "new"), ("old", "old"), ("new", "old"), ("old", "new")],
    ids=["new up", "old up", "new broker and old store", "old broker and new store"],
)  # fmt: skip
def test_workers_subscribers_and_readers_of_both_versions_get_everything(two: Two, broker: str, store: str) -> None:
    two.serve_all(broker, store)
    versions = ("old", "new")
    live, durable = (
        [two.start(version, "-c", program, two.url, f"{kind}-{version}", "run-old", "run-new") for version in versions]
        for kind, program in (("live", LIVE), ("durable", DURABLE))
    )
    for process in (*live, *durable):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    workers = [two.start(one, "-c", WORKER, two.url, f"run-{one}", two.folder / f"spool-{one}") for one in versions]
    for process in live:
        assert json.loads(ended(process)) == [0, 0], "nothing is dropped, and nothing lost"
    emitted = {}
    for version, process in zip(versions, workers, strict=True):
        stream, events, acknowledged = ended(process).split()
        assert acknowledged == events
        assert not list((two.folder / f"spool-{version}").iterdir()), "all is delivered, so nothing is left"
        emitted[stream] = int(events)
    for process in durable:
        assert json.loads(ended(process)) == sorted(emitted.values())
    places = (("--connect", two.url), ("--store", two.data / FILE_NAME))
    dumps = [two.telefabric(version, "dump", *place) for version in versions for place in places]
    stored, *others = [rows(ended(process)) for process in dumps]
    assert all(other == stored for other in others)
    for stream, events in emitted.items():
        assert [row["seq"] for row in stored if row["stream_id"] == stream] == list(range(1, events + 1))
    assert json.loads(ended(two.telefabric("old", "status", "--connect", two.url, "--json")))["absent"] == []


@pytest.mark.parametrize("services", ["old", "new"])
def test_each_version_delivers_what_the_other_left_and_leaves_nothing_behind(two: Two, services: str) -> None:
    two.serve_all(services, services)
    pairs = (("old", "new"), ("new", "old"))
    left = [two.start(worker, "-c", KILLED, two.url, worker, two.folder / worker) for worker, _ in pairs]
    for process in left:
        ended(process)
    drains = [
        two.telefabric(drain, "spool", "drain", "--connect", two.url, "--spool", two.folder / worker)
        for worker, drain in pairs
    ]
    for (worker, _), process in zip(pairs, drains, strict=True):
        ended(process)
        assert not list((two.folder / worker).iterdir())
    for worker, _ in pairs:
        dumped = rows(ended(two.telefabric("new", "dump", "--connect", two.url, "--run", worker)))
        assert [row["seq"] for row in dumped] == [1, 2, 3]


NEXT = f"from telefabric.wire import control\ncontrol.PROTOCOL += 1\n{KILLED}"
"""A worker of a version that is not there yet."""


class Invented(query.Question[query.Run], tag="invented"):
    """A question of a version that is not there yet."""


@pytest.mark.parametrize("services", ["old", "new"])
def test_what_the_other_side_cannot_do_is_a_sentence_that_names_the_side_to_upgrade(two: Two, services: str) -> None:
    two.serve_all(services, services)
    program = NEXT.replace("flush(60)", "flush(3) is False")
    worker = two.start("new", "-c", program, two.url, "next", two.folder / "next")
    _, errors = worker.communicate(timeout=patience(30))
    known = f"this broker, telefabric {__version__}, speaks protocol 1, not 2: upgrade it to telefabric {__version__}"
    assert (known if services == "new" else "this broker speaks protocol 1, not 2: install one version") in errors
    ended(two.telefabric("new", "spool", "drain", "--connect", two.url, "--spool", two.folder / "next"))
    with RemoteReader(Address.parse(two.url)) as reader, pytest.raises(StoreError) as refused:
        reader.answer(Invented())
    unknown = "is older than this program and does not know the question 'invented'"
    assert f"{unknown}: upgrade it to telefabric {__version__} or newer" in str(refused.value)
