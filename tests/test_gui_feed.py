"""The feed of a store file: each stored event once, newest window first, holes named until they are filled.

`ScriptedFeed` is the feed that the other tests of the client drive.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from processes import wait_for
from skips import requires
from store_fixtures import (
    Scribe,
    episode,
    log,
    query_behind_broker,
    run_completed,
    run_started,
    step,
    stream,
    void,
)

from telefabric.feed import Answer, Asked, BrokerFeed, Feed, Question, file_feed
from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import Connection, FeedEvent, LinkState, RunView, Update
from telefabric.subscribe.core.handover import Range
from telefabric_schemas import AnyEvent, Event, values

_encoder = msgspec.msgpack.Encoder()
LIVE = Connection(LinkState.LIVE, "tcp://lab-broker:7750", events_per_s=100.0, behind_s=0.006)


class ScriptedFeed:
    """Gives what a test puts in, one update a drain; then updates in which nothing happens."""

    def __init__(self, *updates: Update, connection: Connection = LIVE) -> None:
        self.updates = list(updates)
        self.connection = connection
        self.watched: frozenset[str] = frozenset()
        self.resting: frozenset[str] = frozenset()
        self.again: frozenset[bytes] = frozenset()
        """The streams that begin again after a rest."""
        self.pictures: frozenset[str] = frozenset()
        self.asked: list[Asked] = []
        self.edits: list[tuple[str, str, object]] = []
        self.running = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def watch(self, run_ids: frozenset[str]) -> None:
        self.watched = run_ids

    def rest(self, run_ids: frozenset[str]) -> frozenset[bytes]:
        again = self.again if self.resting - run_ids else frozenset()
        self.resting = run_ids
        return again

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        self.pictures = run_ids

    def ask(self, question: Question[Any], answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        """Nobody answers, but a test may."""
        self.asked.append(Asked(question, answered))
        return self.asked[-1]

    def asked_for(self, kind: type[Question[Any]]) -> list[Asked]:
        return [asked for asked in self.asked if isinstance(asked.question, kind)]

    def edit(self, run_id: str, command: str, value: object = None) -> None:
        self.edits.append((run_id, command, value))

    def drain(self) -> Update:
        return self.updates.pop(0) if self.updates else update(connection=self.connection)


def update(
    *events: FeedEvent,
    connection: Connection = LIVE,
    runs: tuple[RunView, ...] | None = None,
    holes: dict[bytes, tuple[Range, ...]] | None = None,
    gaps: dict[bytes, tuple[Range, ...]] | None = None,
) -> Update:
    return Update(connection, runs, events, holes or {}, gaps or {}, {})


def told(event: AnyEvent, run_id: str = "run", stream_id: bytes = b"s" * 16, *, live: bool = True) -> FeedEvent:
    """An event as a feed gives it."""
    return FeedEvent(run_id, stream_id, event.seq, event.kind, event, _encoder.encode(event), live)


def view(run_id: str = "run", state: str = "running", **given: object) -> RunView:
    known = {
        "run_id": run_id, "state": state, "control_mode": "agent", "agents": ("agent_0",), "workers": 1,
        "started_ns": 1, "finished_ns": None, "reason": None, "metadata": b"\x80",
    }  # fmt: skip
    return RunView(**(known | given))  # type: ignore[arg-type]


class Reading:
    """What came out of a feed so far."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.runs: tuple[RunView, ...] = ()
        self.events: list[FeedEvent] = []
        self.holes: dict[bytes, tuple[Range, ...]] = {}
        self.gaps: dict[bytes, tuple[Range, ...]] = {}
        self.skipped: dict[bytes, int] = {}
        self.connection = Connection(LinkState.CONNECTING, "")

    def drain(self) -> Reading:
        found = self.feed.drain()
        self.connection = found.connection
        runs = {run.run_id: run for run in (*self.runs, *(found.runs or ())) if run.run_id not in found.gone}
        self.runs = tuple(sorted(runs.values(), key=lambda run: (run.started_ns or 0, run.number), reverse=True))
        self.events += found.events
        self.holes |= found.holes
        self.gaps |= found.gaps
        self.skipped |= found.skipped
        return self

    def until(self, true: Callable[[Reading], object], what: str) -> None:
        wait_for(lambda: true(self.drain()), what)

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]


@pytest.fixture
def scribe(tmp_path: Path) -> Iterator[Scribe]:
    with Scribe(tmp_path / "telemetry.sqlite") as scribe:
        yield scribe


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Reading]]:
    feeds: list[FileFeed] = []

    def start(**limits: float) -> Reading:
        for name, limit in {"POLL_S": 0.02, **limits}.items():
            monkeypatch.setattr(file_feed, name, limit)
        feed = FileFeed(tmp_path / "telemetry.sqlite")
        feeds.append(feed)
        feed.start()
        return Reading(feed)

    yield start
    for feed in feeds:
        feed.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "store file feed"]


def write(scribe: Scribe, info: object, first: int, last: int) -> None:
    """Steps with every tenth event an episode."""
    events: list[Event] = [episode(seq) if seq % 10 == 0 else step(seq) for seq in range(first, last + 1)]
    scribe.put(info, *events)  # type: ignore[arg-type]
    scribe.commit()


def test_a_run_comes_whole_and_each_event_once(scribe: Scribe, read: Callable[..., Reading]) -> None:
    info = stream()
    scribe.put(info, run_started(1, info, {"game_id": "FrozenLake-v1"}))
    write(scribe, info, 2, 4_000)
    scribe.put(info, run_completed(4_001))
    scribe.commit()
    reading = read()
    reading.until(lambda one: one.runs, "the list of runs")
    assert [(run.run_id, run.state, run.agents, run.workers) for run in reading.runs] == [
        ("run", "completed", ("agent_0",), 1)
    ]
    assert values.decode(reading.runs[0].metadata) == {"game_id": "FrozenLake-v1"}
    assert reading.events == []
    reading.feed.watch(frozenset({"run"}))
    reading.until(lambda one: len(one.events) >= 4_001, "all events")
    reading.drain()
    assert reading.seqs == list(range(1, 4_002))
    assert reading.connection.link is LinkState.FILE
    assert not any(reading.holes.values())
    assert reading.skipped == {}


def test_what_a_writer_adds_follows(scribe: Scribe, read: Callable[..., Reading]) -> None:
    info = stream()
    scribe.put(info, run_started(1, info))
    scribe.commit()
    reading = read()
    reading.feed.watch(frozenset({"run"}))
    reading.until(lambda one: one.events, "the first event")
    write(scribe, info, 2, 40)
    reading.until(lambda one: len(one.events) == 40, "what was added")
    assert reading.seqs == list(range(1, 41))


def test_the_tail_comes_and_of_what_is_before_it_only_what_says_something_of_others(
    scribe: Scribe, read: Callable[..., Reading]
) -> None:
    info = stream()
    scribe.put(info, run_started(1, info))
    write(scribe, info, 2, 400)
    scribe.put(info, void(401, 3), step(402))
    scribe.put_gap(info, 403, 410, "spool_full")
    write(scribe, info, 411, 900)
    reading = read(TAIL_IDS=300)
    reading.feed.watch(frozenset({"run"}))
    reading.until(lambda one: one.skipped, "what was left out")
    assert reading.seqs == [*range(601, 901), 401, 403]
    assert reading.skipped == {info.stream: 600 - 9}
    assert reading.gaps == {info.stream: (Range(403, 410),)}
    assert not any(reading.holes.values())


def test_of_what_is_before_the_history_of_a_broker_only_what_says_something_of_others_comes(scribe: Scribe) -> None:
    info = stream()
    scribe.put(info, run_started(1, info))
    write(scribe, info, 2, 400)
    scribe.put(info, void(401, 3), step(402))
    scribe.put_gap(info, 403, 410, "spool_full")
    write(scribe, info, 411, 900)
    with query_behind_broker(scribe.path) as address:
        reading = Reading(BrokerFeed(address, history_events=300))
        reading.feed.start()
        try:
            reading.feed.watch(frozenset({"run"}))
            reading.until(lambda one: len(one.events) >= 302, "the newest and those")
            assert sorted(reading.seqs) == [401, 403, *range(601, 901)]
            assert reading.gaps == {info.stream: (Range(403, 410),)}
            assert not any(reading.holes.values())
        finally:
            reading.feed.stop()


def test_an_old_small_run_comes_whole_beside_a_large_one(scribe: Scribe, read: Callable[..., Reading]) -> None:
    small, large = stream("small"), stream("large")
    scribe.put(small, run_started(1, small))
    write(scribe, small, 2, 50)
    scribe.put(large, run_started(1, large))
    write(scribe, large, 2, 900)
    reading = read(TAIL_IDS=100)
    reading.feed.watch(frozenset({"small"}))
    reading.until(lambda one: len(one.events) == 50, "the small run")
    assert reading.seqs == list(range(1, 51))
    assert [run.run_id for run in reading.runs] == ["large", "small"]


def test_a_gap_is_told_and_is_no_hole(scribe: Scribe, read: Callable[..., Reading]) -> None:
    info = stream()
    scribe.put(info, run_started(1, info), step(2))
    scribe.put_gap(info, 3, 7, "spool_full")
    scribe.put(info, step(8))
    scribe.commit()
    reading = read()
    reading.feed.watch(frozenset({"run"}))
    reading.until(lambda one: one.gaps, "the gap")
    assert reading.gaps == {info.stream: (Range(3, 7),)}
    assert not any(reading.holes.values())
    assert [event.kind for event in reading.events] == ["run_started", "step", "gap", "step"]


def test_a_client_that_does_not_drain_holds_a_bounded_number(scribe: Scribe, read: Callable[..., Reading]) -> None:
    info = stream()
    scribe.put(info, run_started(1, info))
    write(scribe, info, 2, 3_000)
    reading = read(BUFFERED_MAX=100)
    reading.feed.watch(frozenset({"run"}))
    wait_for(lambda: reading.feed._waiting, "the first events")
    time.sleep(0.2)
    reading.drain()
    assert 0 < len(reading.events) <= 100
    reading.until(lambda one: len(one.events) == 3_000, "all events")
    assert reading.seqs == list(range(1, 3_001))


def test_a_run_that_is_watched_again_comes_again_from_its_history_on(
    scribe: Scribe, read: Callable[..., Reading]
) -> None:
    info = stream()
    scribe.put(info, run_started(1, info), step(2), log(3))
    scribe.commit()
    reading = read()
    reading.feed.watch(frozenset({"run"}))
    reading.until(lambda one: len(one.events) == 3, "the run")
    for pause_s in (0.1, 0.0):
        reading.events.clear()
        reading.feed.watch(frozenset())
        time.sleep(pause_s)
        reading.feed.watch(frozenset({"run"}))
        reading.until(lambda one: one.seqs == [1, 2, 3], "the run again")


def test_nothing_is_said_of_a_run_that_is_not_watched_any_more(scribe: Scribe, read: Callable[..., Reading]) -> None:
    info = stream()
    scribe.put(info, run_started(1, info), step(4))
    scribe.put_gap(info, 2, 2, "spool_full")
    scribe.commit()
    reading = read()
    reading.feed.watch(frozenset({"run"}))
    wait_for(lambda: any(one.gaps for one in list(reading.feed._waiting.values())), "the gap")
    reading.feed.watch(frozenset())
    reading.drain()
    assert (reading.events, reading.holes, reading.gaps, reading.skipped) == ([], {}, {}, {})


def test_a_file_that_is_not_there_is_named_and_tried_again(tmp_path: Path, read: Callable[..., Reading]) -> None:
    reading = read()
    reading.until(lambda one: one.connection.link is LinkState.UNREACHABLE, "word that there is no file")
    assert "telemetry.sqlite" in reading.connection.sentence
    with Scribe(tmp_path / "telemetry.sqlite") as scribe:
        info = stream()
        scribe.put(info, run_started(1, info))
        scribe.commit()
        reading.until(lambda one: one.runs, "the run of the file that came later")
    assert reading.connection.link is LinkState.FILE


_LOOKING = """
import os, sys, time
from pathlib import Path
from typing import Any
from telefabric.feed.file_feed import FileFeed
os.setgroups([]); os.setgid(65_534); os.setuid(65_534)
feed = FileFeed(Path(sys.argv[1]))
feed.start()
feed.watch(frozenset({"run"}))
begin = time.monotonic()
while not (found := feed.drain()).events and time.monotonic() < begin + 30:
    time.sleep(0.05)
print(len(found.events), found.connection.link.name, found.connection.notice)
feed.stop()
"""


@requires("root, to be two users", hasattr(os, "geteuid") and os.geteuid() == 0)
def test_a_store_that_cannot_be_written_where_it_is_opens_and_says_so() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        file = Path(name) / "data" / "telemetry.sqlite"
        with Scribe(file) as scribe:
            info = stream()
            scribe.put(info, run_started(1, info), step(2))
            scribe.commit()
        file.chmod(0o644)
        file.parent.chmod(0o755)
        looking = [sys.executable, "-c", _LOOKING, str(file)]
        done = subprocess.run(looking, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.stdout.startswith("2 FILE This store cannot be written where it is"), done.stderr
