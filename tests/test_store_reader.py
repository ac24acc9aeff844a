"""Reading the store: the same questions to the file and to the query service, and the same answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slowness import patience
from store_fixtures import (
    Scribe,
    episode,
    frame,
    log,
    metric,
    query_behind_broker,
    raw,
    reset,
    run_completed,
    run_metadata,
    run_started,
    step,
    stream,
    void,
)

from telefabric import limits
from telefabric.errors import StoreError, UsageError
from telefabric.store.read import file_reader as reader_module
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import Page, StepKey, StoredEvent
from telefabric.store.read.reader import KINDS, Reader
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.wire import control
from telefabric_schemas import Event, values

Open = Callable[[Path], Any]


@contextmanager
def open_file(path: Path) -> Iterator[Reader]:
    with FileReader(path) as reader:
        yield reader


@contextmanager
def open_remote(path: Path) -> Iterator[Reader]:
    with query_behind_broker(path) as broker, RemoteReader(broker) as reader:
        yield reader


BACKENDS: dict[str, Open] = {"file": open_file, "remote": open_remote}


@pytest.fixture(params=BACKENDS)
def opener(request: pytest.FixtureRequest) -> Open:
    return BACKENDS[request.param]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite"


# -- a store with something of everything ------------------------------------------------------------------------
class Library:
    """A store of three runs and what was put into it, in order of arrival."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.streams = [
            stream("a", "w1", "agent_0", metadata=values.encode({"game": "lake"})),
            stream("a", "w2", "agent_1"),
            stream("b", "w1", "agent_0"),
            stream("ç", "w3", "agent_0"),
        ]
        self.known: list[tuple[str, str, str, str, bytes, int, int]] = []
        """kind, run, worker, agent, stream id, seq, last seq."""
        chance = Random(7)
        seqs = dict.fromkeys((info.stream for info in self.streams), 0)
        with Scribe(path) as scribe:
            for _ in range(150):
                info = chance.choice(self.streams)
                seqs[info.stream] = self._put(scribe, chance, info, seqs[info.stream] + 1)
                if chance.random() < 0.3:
                    scribe.commit()
            scribe.put_conflict(self.streams[0], 1, step(1, reward=3.0), step(2))
            self._note("quarantine", self.streams[0], 1, 2)
            scribe.commit()
        self.marks = seqs

    def _put(self, scribe: Scribe, chance: Random, info: control.StreamInfo, seq: int) -> int:
        """One batch; the seq of its last event."""
        if chance.random() < 0.1:
            last = seq + chance.randrange(50)
            scribe.put_gap(info, seq, last, "spool_full")
            self._note("gap", info, seq, last)
            return last
        found: list[Event | bytes] = []
        first = seq
        for seq in range(first, first + chance.randrange(1, 12)):
            event = self._event(chance, info, seq)
            found.append(event)
            kind = "quarantine" if isinstance(event, bytes) else event.kind
            self._note(kind, info, seq, seq, getattr(event, "agent_id", None))
        scribe.put(info, *found, first_seq=first)
        return seq

    def _event(self, chance: Random, info: control.StreamInfo, seq: int) -> Event | bytes:
        if seq == 1:
            return run_started(1, info, {"game": "lake"})
        agent = chance.choice([info.agent_id, info.agent_id, "agent_7"])
        makers: list[Callable[[], Event | bytes]] = [
            lambda: step(seq, agent), lambda: step(seq, agent), lambda: step(seq, agent),
            lambda: episode(seq, agent), lambda: metric(seq, chance.choice(["loss", "lr"]), 0.5, agent),
            lambda: reset(seq, agent, seed=raw(seq)), lambda: void(seq, 10_000 + seq, agent),
            lambda: log(seq, "hello", agent), lambda: frame(seq, f"f{seq}", b"png", agent),
            lambda: run_metadata(seq, {"n": seq}), lambda: run_completed(seq), lambda: b"\xc1",
        ]  # fmt: skip
        return chance.choice(makers)()

    def _note(self, kind: str, info: control.StreamInfo, seq: int, last: int, agent: str | None = None) -> None:
        if kind in ("gap", "quarantine", "run_started", "run_metadata", "run_completed"):
            agent = info.agent_id  # what names no agent belongs to its stream's
        assert agent is not None
        self.known.append((kind, info.run_id, info.worker_id, agent, info.stream, seq, last))

    def expected(
        self, since: int = 0, run: str | None = None, kinds: Iterable[str] | None = None, agent: str | None = None
    ) -> list[tuple[Any, ...]]:
        return [
            (number, *row)
            for number, row in enumerate(self.known, 1)
            if number > since
            and (run is None or row[1] == run)
            and (kinds is None or row[0] in kinds)
            and (agent is None or row[3] == agent)
        ]


def seen(found: Iterable[StoredEvent]) -> list[tuple[Any, ...]]:
    return [(e.id, e.kind, e.run_id, e.worker_id, e.agent_id, e.stream_id, e.seq, e.last_seq) for e in found]


def all_pages(ask: Callable[[int], Page[StoredEvent]], since: int = 0) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    while True:
        page = ask(since)
        assert page.last >= since
        found += page.rows
        since = page.last
        if not page.more:
            return found


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    found = Library(tmp_path_factory.mktemp("library") / "telemetry.sqlite")
    assert {row[0] for row in found.known} == set(KINDS)
    return found


@pytest.fixture(scope="module", params=BACKENDS)
def books(request: pytest.FixtureRequest, library: Library) -> Iterator[Reader]:
    with BACKENDS[request.param](library.path) as reader:
        yield reader


RUNS = st.sampled_from([None, "a", "b", "ç", "nobody's"])
SOME_KINDS = st.none() | st.sets(st.sampled_from(KINDS), max_size=4)
AGENTS = st.sampled_from([None, "agent_0", "agent_1", "agent_7", "nobody"])


# -- events by id ------------------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None)
@given(
    run=RUNS,
    kinds=SOME_KINDS,
    agent=AGENTS,
    limit=st.sampled_from([1, 2, 3, 7, 50, 2_000]),
    since=st.integers(0, 1_000),
)
def test_paging_yields_each_event_that_fits_exactly_once_in_order(
    books: Reader, library: Library, run: str | None, kinds: set[str] | None, agent: str | None, limit: int, since: int
) -> None:
    def ask(at: int) -> Page[StoredEvent]:
        page = books.events(at, run, kinds, agent, limit)
        assert len(page.rows) <= limit
        return page

    assert seen(all_pages(ask, since)) == library.expected(since, run, kinds, agent)


@settings(max_examples=50, deadline=None)
@given(run=RUNS, kinds=SOME_KINDS, agent=AGENTS, limit=st.sampled_from([0, 1, 2, 10, 2_000]))
def test_the_newest_events_come_in_order_with_the_newest_id_of_all(
    books: Reader, library: Library, run: str | None, kinds: set[str] | None, agent: str | None, limit: int
) -> None:
    page = books.newest(limit, run, kinds, agent)
    expected = library.expected(0, run, kinds, agent)
    assert seen(page.rows) == (expected[-limit:] if limit else [])
    assert page.last == len(library.known)
    assert not page.more


@pytest.mark.parametrize("window", [1, 10])
def test_a_search_that_finds_little_says_from_where_to_go_on(
    library: Library, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_WINDOW_IDS", window)
    monkeypatch.setattr(reader_module, "_PAGE_S", 0.0)
    with FileReader(library.path, deadline_s=patience(60)) as reader:  # which looks at hundreds of windows at once
        pages = 0

        def ask(at: int) -> Page[StoredEvent]:
            nonlocal pages
            pages += 1
            return reader.events(at, kinds=["run_completed"])

        assert seen(all_pages(ask)) == library.expected(kinds=["run_completed"])
        assert pages >= len(library.known) / window
        assert seen(reader.newest(500, "b").rows) == library.expected(run="b")[-500:]


def test_what_is_known_of_an_event_is_what_was_sent(path: Path, opener: Open) -> None:
    info = stream("run", "worker", "agent_0")
    with Scribe(path) as scribe:
        scribe.put(info, step(1, "other", info=values.encode({"x": 1})), b"\xc1", first_seq=1)
        scribe.put_gap(info, 3, 9, "disk_full")
        scribe.commit()
        with opener(path) as reader:
            one, two, three = reader.events().rows
    assert (one.id, one.kind, one.agent_id, one.seq, one.last_seq, one.reason) == (1, "step", "other", 1, 1, None)
    assert values.decode(one.event)[:3] == ["step", 1, "other"]
    assert (two.kind, two.reason, two.seq, two.last_seq, two.event) == ("quarantine", "undecodable", 2, 2, b"\xc1")
    assert two.detail
    assert (three.kind, three.reason, three.seq, three.last_seq) == ("gap", "disk_full", 3, 9)


def test_seqs_of_a_stream_are_covered_once_conflicts_aside(books: Reader, library: Library) -> None:
    found = all_pages(books.events)
    for stream_id, stored_seq in books.watermarks().items():
        seqs: list[int] = []
        for event in found:
            if event.stream_id == stream_id and event.reason != "conflict":
                seqs += range(event.seq, event.last_seq + 1)
        assert seqs == list(range(1, stored_seq + 1))


def test_a_page_stays_below_its_bytes_and_holds_one_event_however_large(path: Path, opener: Open) -> None:
    info = stream()
    sizes = [1_000_000] * 10 + [limits.EVENT_BYTES_MAX - 1_000] + [10] * 5
    with Scribe(path) as scribe:
        for seq, size in enumerate(sizes, 1):
            scribe.put(info, frame(seq, data=b"x" * size))
        scribe.commit()
    with opener(path) as reader:
        pages: list[int] = []

        def ask(at: int) -> Page[StoredEvent]:
            page = reader.events(at)
            assert len(page.rows) == 1 or sum(len(e.event) for e in page.rows) <= limits.QUERY_BYTES_MAX
            pages.append(len(page.rows))
            return page

        assert [e.seq for e in all_pages(ask)] == list(range(1, 17))
        assert 1 in pages
        assert max(pages) >= 4
        assert [e.seq for e in reader.newest(3).rows] == [14, 15, 16]


# -- while somebody writes ---------------------------------------------------------------------------------------
def test_nothing_is_skipped_while_the_writer_goes_on(path: Path, opener: Open) -> None:
    first, second = stream("a"), stream("b")
    total = 3_000
    done = threading.Event()
    makers = [step, run_metadata_of, metric, log, episode]
    with Scribe(path) as scribe:
        scribe.put(first, step(1))
        scribe.commit()

        def write() -> None:
            for seq in range(1, total // 2):
                scribe.put(first, makers[seq % 5](seq + 1))
                scribe.put(second, makers[seq % 3](seq))
                if seq % 5 == 0:
                    scribe.commit()
            scribe.commit()
            done.set()

        with opener(path) as reader:
            writer = threading.Thread(target=write)
            writer.start()
            found: list[StoredEvent] = []
            at = 0
            while True:
                was_done = done.is_set()
                page = reader.events(at, limit=17)
                found += page.rows
                at = page.last
                if was_done and not page.more:
                    break
            writer.join()
    assert [event.id for event in found] == list(range(1, total))


def run_metadata_of(seq: int) -> Event:
    return run_metadata(seq, {})


def test_a_page_shows_one_moment_of_all_tables(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit between the looks at two tables must not bring a later id in before an earlier one."""
    info = stream()
    with Scribe(path) as scribe, FileReader(path) as reader:
        scribe.put(info, step(1))
        scribe.commit()
        seqs = iter(range(2, 1_000_000, 2))
        plain = FileReader._query

        def query_then_commit(self: FileReader, sql: str, *given: Any, **more: Any) -> Any:
            cursor = plain(self, sql, *given, **more)
            if " steps " in sql:
                seq = next(seqs)
                scribe.put(info, step(seq), log(seq + 1))
                scribe.commit()
            return cursor

        monkeypatch.setattr(FileReader, "_query", query_then_commit)
        found: list[int] = []
        at = 0
        for _ in range(20):
            page = reader.events(at)
            found += [event.id for event in page.rows]
            at = page.last
        assert found == list(range(1, len(found) + 1))
        assert len(found) > 30


def test_no_transaction_stays_open_between_pages(path: Path, opener: Open) -> None:
    infos = [stream(str(number)) for number in range(3)]
    with Scribe(path) as scribe:
        scribe.writer._db.set_busy_timeout(1)
        for info in infos:
            scribe.put(info, *map(step, range(1, 50)))
            scribe.put(info, episode(50))
        scribe.commit()
        marks = {info.stream: 0 for info in infos}
        with opener(path) as reader:
            asks: list[Callable[[], Any]] = [
                lambda: reader.events(limit=3), lambda: reader.newest(3), lambda: reader.steps_since(marks, 3),
                lambda: reader.episodes_for_run("0", limit=1), lambda: reader.steps_for_episode("0", "agent_0", 0, 1),
                lambda: reader.overview("agent_0", "reward", 1, run_id="0", limit=1), lambda: reader.series("0"),
                reader.runs, lambda: reader.run("0"), reader.watermarks,
            ]  # fmt: skip
            for seq, ask in enumerate(asks, 51):
                ask()
                scribe.put(infos[0], step(seq))
                scribe.commit()
                assert not scribe.writer.checkpoint().busy
            with pytest.raises(UsageError):
                reader.events(kinds=["nothing"])
            assert not scribe.writer.checkpoint().busy


# -- by seq ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["step", "episode"])
@pytest.mark.parametrize("limit", [1, 4, 2_000])
def test_events_since_a_seq_of_each_stream(books: Reader, library: Library, kind: str, limit: int) -> None:
    ask = books.steps_since if kind == "step" else books.episodes_since
    start = {info.stream: place * 20 for place, info in enumerate(library.streams)} | {b"nobody's stream!": 0}
    marks = dict(start)
    found: list[tuple[bytes, int]] = []
    while True:
        page = ask(marks, limit)
        assert len(page.rows) <= limit
        for event in page.rows:
            assert event.seq > marks[event.stream_id]
            marks[event.stream_id] = event.seq
            found.append((event.stream_id, event.seq))
        if not page.more:
            break
    expected = {(row[4], row[5]) for row in library.known if row[0] == kind and row[5] > start[row[4]]}
    assert len(found) == len(expected)
    assert set(found) == expected


@pytest.mark.parametrize("since", [0, 1, 17, 10_000])
@pytest.mark.parametrize("limit", [1, 4, 2_000])
def test_all_events_of_a_stream_since_a_seq_leave_nothing_out(
    books: Reader, library: Library, since: int, limit: int
) -> None:
    for info in library.streams:
        stored = library.marks[info.stream]
        covered, found = since, []
        while True:
            page = books.stream_since(info.stream, covered, limit)
            assert len(page.rows) <= limit
            for event in page.rows:
                assert event.stream_id == info.stream
                found += range(max(event.seq, since + 1), event.last_seq + 1)
            assert found == list(range(since + 1, page.last + 1)) or page.last <= since
            covered = page.last
            if not page.more:
                break
        assert covered == stored
        assert found == list(range(since + 1, stored + 1))
    assert books.stream_since(b"nobody's stream!", 0) == Page([], False, 0)


def test_watermarks_are_of_all_streams_or_those_of_a_run(books: Reader, library: Library) -> None:
    assert books.watermarks() == library.marks
    assert books.watermarks("a") == {info.stream: library.marks[info.stream] for info in library.streams[:2]}
    assert books.watermarks("nobody's") == {}


def test_gaps_metrics_and_frames_are_filters_of_the_events(books: Reader, library: Library) -> None:
    assert seen(all_pages(lambda at: books.gaps(None, at, 3))) == library.expected(kinds=["gap"])
    assert seen(all_pages(lambda at: books.gaps("a", at))) == library.expected(run="a", kinds=["gap"])
    assert seen(all_pages(lambda at: books.frames("a", None, at, 2))) == library.expected(run="a", kinds=["frame"])
    everything = all_pages(lambda at: books.metrics("a", None, None, at, 2))
    assert seen(everything) == library.expected(run="a", kinds=["metric"])
    losses = all_pages(lambda at: books.metrics("a", "loss", None, at, 2))
    assert losses == [event for event in everything if values.decode(event.event)[2] == "loss"]
    assert 0 < len(losses) < len(everything)


def test_a_frame_is_found_by_its_name(books: Reader, library: Library) -> None:
    seq = library.expected(run="a", kinds=["frame"])[-1][6]
    found = books.frame("a", f"f{seq}")
    assert found is not None
    assert found.seq == seq
    assert books.frame("a", "no such frame") is None


def test_a_frame_is_found_by_its_place(books: Reader, library: Library) -> None:
    for event in all_pages(lambda at: books.frames("a", None, at, 2)):
        _, _, agent, env, episode, step, *_ = values.decode(event.event)
        near = books.frame_at("a", agent, env, episode, step)
        assert near is not None
        assert values.decode(near.event)[5] == step
        page = books.frames_for_episode("a", agent, env, episode)
        assert event in page.rows
        assert books.frame_at("a", agent, env, episode + 1_000, step) is None


# -- episodes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [1, 5, 2_000])
@pytest.mark.parametrize("agent", [None, "agent_1", "nobody"])
def test_episodes_of_a_run_come_by_agent_environment_and_index(
    path: Path, opener: Open, limit: int, agent: str | None
) -> None:
    info = stream()
    keys = [(who, env, index) for index in range(6) for env in (1, 0) for who in ("agent_1", "agent_0")]
    with Scribe(path) as scribe:
        for seq, (who, env, index) in enumerate([*keys, keys[0]], 1):  # the first one twice
            scribe.put(info, episode(seq, who, env_index=env, episode_index=index, game_id="Lake"))
        other = stream("other")
        scribe.put(other, episode(1))
        scribe.commit()
    with opener(path) as reader:
        found = []
        after = None
        while True:
            page = reader.episodes_for_run("run", agent, after, limit)
            assert len(page.rows) <= limit
            found += page.rows
            if not page.more:
                break
            after = page.rows[-1].key
    expected = sorted([*keys, keys[0]] if agent is None else [key for key in [*keys, keys[0]] if key[0] == agent])
    assert [(row.agent_id, row.env_index, row.episode_index) for row in found] == expected
    assert len({row.id for row in found}) == len(found)
    assert all((row.total_reward, row.game_id, row.stream_id) == (5.0, "Lake", info.stream) for row in found)


@pytest.mark.parametrize("limit", [1, 3, 2_000])
def test_steps_of_an_episode_come_by_index_page_by_page(path: Path, opener: Open, limit: int) -> None:
    info = stream()
    with Scribe(path) as scribe:
        order = [3, 0, 2, 1, 2]  # out of order, one index twice
        for seq, index in enumerate(order, 1):
            scribe.put(info, step(seq, episode_index=4, step_index=index))
        scribe.put(info, step(6, episode_index=5), step(7, env_index=1, episode_index=4), step(8, "other"))
        scribe.commit()
    with opener(path) as reader:
        found: list[StoredEvent] = []
        after = None
        while True:
            page = reader.steps_for_episode("run", "agent_0", 0, 4, after, limit)
            found += page.rows
            if not page.more:
                break
            last = page.rows[-1]
            after = StepKey(order[last.seq - 1], last.id)
    assert [event.seq for event in found] == [2, 4, 3, 5, 1]


def test_a_page_of_episodes_stays_below_its_bytes_too(path: Path, opener: Open) -> None:
    info, words = stream(), "w" * 1_000_000
    with Scribe(path) as scribe:
        for seq in range(1, 21):
            scribe.put(info, episode(seq, episode_index=seq, end_reason=words))
        scribe.commit()
    with opener(path) as reader:
        page = reader.episodes_for_run("run")
        assert (page.more, 1 <= len(page.rows) <= limits.QUERY_BYTES_MAX // len(words)) == (True, True)
        rows = page.rows
        while page.more:
            page = reader.episodes_for_run("run", after=rows[-1].key)
            rows += page.rows
        assert [row.episode_index for row in rows] == list(range(1, 21))


def test_a_page_of_no_rows_goes_on_where_it_was_asked_from(books: Reader, library: Library) -> None:
    stream_id = library.streams[0].stream
    assert books.stream_since(stream_id, 1, limit=0) == Page([], True, 1)
    assert books.events(3, limit=0) == Page([], True, 3)
    assert books.steps_since({stream_id: 0}, limit=0).rows == books.newest(0).rows == []
    assert books.episodes_for_run("a", limit=0).rows == books.overview("agent_0", "reward", 1, run_id="a", limit=0).rows
    assert books.runs(), "it still answers"


# -- runs, streams, overview -------------------------------------------------------------------------------------
def test_runs_and_streams_come_whole_however_large_their_metadata(path: Path, opener: Open) -> None:
    infos = [stream(f"run{number}", metadata=values.encode({"x": "y" * 200_000})) for number in range(60)]
    with Scribe(path) as scribe:
        for info in infos:
            scribe.put(info, step(1))
        scribe.commit()
    with opener(path) as reader:
        assert [run.run_id for run in reader.runs()] == [f"run{number}" for number in range(60)]
        assert [one.stream_id for one in reader.streams()] == [info.stream for info in infos]
        assert [(one.run_id, one.worker_id, one.stored_seq) for one in reader.streams("run7")] == [
            ("run7", "worker", 1)
        ]
        found = reader.run("run59")
        assert found is not None
        assert (found.status, found.control_mode, found.tags, found.notes) == ("running", "unknown", "[]", "")
        assert values.decode(found.metadata) == {"x": "y" * 200_000}
        assert reader.run("nobody's") is None


@pytest.mark.parametrize("limit", [1, 2, 2_000])
def test_an_overview_is_of_a_run_or_a_stream_and_a_range(path: Path, opener: Open, limit: int) -> None:
    one, two = stream(worker="one"), stream(worker="two")
    with Scribe(path) as scribe:
        for info in (one, two):
            scribe.put(info, *(step(seq, reward=float(seq)) for seq in range(1, 1_025)))
            scribe.put(info, metric(1_025, "loss", 1.0))
        scribe.commit()

    def buckets(**asked: Any) -> list[tuple[bytes, int, float, float, int]]:
        found: list[Any] = []
        after = None
        while True:
            page = reader.overview("agent_0", "reward", 1, **asked, after=after, limit=limit)
            found += page.rows
            if not page.more:
                return [(row.stream_id, row.bucket, row.min, row.max, row.count) for row in found]
            after = page.rows[-1].key

    with opener(path) as reader:
        of_one = [(one.stream, place, max(1.0, 256.0 * place), 256.0 * place + 255, 256) for place in range(4)]
        of_one[0] = (one.stream, 0, 1.0, 255.0, 255)
        of_one.append((one.stream, 4, 1_024.0, 1_024.0, 1))
        of_two = [(two.stream, *row[1:]) for row in of_one]
        assert buckets(run_id="run") == [*of_one, *of_two]
        assert buckets(stream_id=two.stream) == of_two
        assert buckets(run_id="run", first_bucket=1, last_bucket=2) == [*of_one[1:3], *of_two[1:3]]
        assert buckets(run_id="nobody's") == []
        assert [each.series for each in reader.series("run")] == ["metric/loss", "reward"]
        with pytest.raises(UsageError, match="needs a run or a stream"):
            reader.overview("agent_0", "reward", 1)


# -- what cannot be asked ----------------------------------------------------------------------------------------
def test_a_question_that_makes_no_sense_is_the_callers_fault(books: Reader) -> None:
    with pytest.raises(UsageError, match=r"'dance' is not a kind of stored event; the kinds are: episode, "):
        books.events(kinds=["step", "dance"])
    with pytest.raises(UsageError, match="cannot have -1 rows"):
        books.events(limit=-1)
    with pytest.raises(UsageError, match="at most 10000 streams"):
        books.steps_since({number.to_bytes(16, "big"): 0 for number in range(10_001)})


def test_a_question_that_takes_too_long_is_cut_off_and_the_next_is_answered(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_PROGRESS_STEPS", 50)
    late = False
    marks = dict.fromkeys(library.marks, 0)
    with FileReader(library.path, cancelled=lambda: late) as reader:
        late = True
        for ask in (reader.events, lambda: reader.newest(500), lambda: reader.steps_since(marks)):
            with pytest.raises(StoreError, match="was dropped"):
                ask()
        late = False
        assert len(reader.runs()) == 3
    with (
        FileReader(library.path, deadline_s=0.0) as reader,
        pytest.raises(StoreError, match="was cut off after 0 s: ask for less"),
    ):
        reader.steps_since(marks)


def test_a_file_reader_cannot_write(library: Library) -> None:
    with FileReader(library.path) as reader, pytest.raises(Exception, match="readonly"):
        reader._db.execute("DELETE FROM steps")
