"""Rows by number: the n-th row of an agent in a stream is the n-th that was sent, whatever is between them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest
from olderstores import as_version, write
from store_fixtures import Scribe, episode, frame, log, metric, query_behind_broker, raw, step, stream, void

from telefabric.errors import StoreError, UsageError
from telefabric.store.read import query, rows_by_number
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import Condition
from telefabric.store.read.reader import Reader
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.store.tables.places import EVERY
from telefabric_schemas import Episode, Event, Metric, Step

Open = Callable[[Path], Any]
STREAMS = [stream("run", f"w{number}") for number in range(3)]
AGENTS = ("agent_0", "agent_1")
POLICIES = ("first", "second", None)


@contextmanager
def open_remote(path: Path) -> Iterator[Reader]:
    with query_behind_broker(path) as broker, RemoteReader(broker) as reader:
        yield reader


class Library:
    """Three streams of a run: one of two agents, one of an agent alone, one of a vector environment that goes back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: dict[bytes, list[Event]] = {info.stream: [] for info in STREAMS}
        chance = Random(5)
        with Scribe(path) as scribe:
            seqs = [1, 1, 1]
            for part in range(45):
                for number, info in enumerate(STREAMS):
                    first = seqs[number]
                    found = [self._event(chance, number, seq, part) for seq in range(first, first + 150)]
                    scribe.put(info, *found)
                    self.events[info.stream] += found
                    seqs[number] += 150
                    if chance.random() < 0.2:
                        scribe.put_gap(info, seqs[number], seqs[number] + 9, "spool_full")
                        seqs[number] += 10
                scribe.commit()

    def _event(self, chance: Random, number: int, seq: int, part: int) -> Event:
        agent = chance.choice(AGENTS) if number == 0 else AGENTS[0]
        env = seq % 4 if number == 2 else 0
        drawn = chance.random()
        if drawn < 0.05:
            seed = raw(chance.choice([chance.randrange(50), "a name", None]))
            reward = chance.choice([float(chance.randrange(9)), None])
            word = chance.choice(["goal", "terminated"])
            return episode(
                seq, agent, env_index=env, total_reward=reward, seed=seed, end_reason=word, length=chance.randrange(30)
            )
        if drawn < 0.1:
            value = chance.choice([0.5, -1.0, float(seq), None])
            return metric(seq, chance.choice(["loss", "lr"]), value, agent)
        if drawn < 0.11:
            return frame(seq, f"f{seq}", agent=agent)
        if drawn < 0.12:
            return log(seq, agent=agent)
        global_step = None if number == 1 and part % 9 == 0 else seq % 4_000 if number == 2 else seq
        return step(
            seq, agent, env_index=env, episode_index=seq // 40, global_step=global_step, reward=chance.uniform(-1, 1),
            control_mode="human" if 700 < seq < 720 or (number == 2 and seq > 3_000) else "agent",
            policy_label=POLICIES[part // 15], info=raw({"lives": seq % 3, "reward": {"goal": seq / 2}, "a.b": "word"}),
        )  # fmt: skip

    def of(self, info: Any, kind: str, agent: str = AGENTS[0]) -> list[Any]:
        return [one for one in self.events[info.stream] if one.kind == kind and getattr(one, "agent_id", None) == agent]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library") / "telemetry.sqlite")


@pytest.fixture(params=["file", "remote"])
def books(request: pytest.FixtureRequest, library: Library) -> Iterator[Reader]:
    with (FileReader if request.param == "file" else open_remote)(library.path) as reader:  # type: ignore[operator]
        yield reader


def seqs(events: list[Any]) -> list[int]:
    return [one.seq for one in events]


def each(library: Library) -> Iterator[tuple[Any, str, str, list[Any]]]:
    for info in STREAMS:
        for kind in ("step", "episode", "metric", "frame", "log"):
            for agent in AGENTS:
                if found := library.of(info, kind, agent):
                    yield info, kind, agent, found


# -- rows --------------------------------------------------------------------------------------------------------
def test_counts_are_of_each_stream_kind_and_agent(
    books: Reader, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {(info.stream, kind, agent): len(found) for info, kind, agent, found in each(library)}
    assert {(one.stream_id, one.kind, one.agent_id): one.n for one in books.counts("run")} == expected
    in_pages, page = [], books.answer(query.Counts("run", None, 3))
    while True:
        in_pages += page.rows
        if not page.more:
            break
        last = page.rows[-1]
        page = books.answer(query.Counts("run", query.CountKey(last.stream_id, last.kind, last.agent_id), 3))
    assert in_pages == books.counts("run")
    assert books.counts("no such run") == []


def test_row_n_is_the_nth_that_was_sent(books: Reader, library: Library) -> None:
    chance = Random(1)
    for info, kind, agent, found in each(library):
        edges = [0, 1, len(found) - 1, len(found), len(found) + 5, EVERY - 1, EVERY, EVERY + 1]
        for first in [*edges, *(chance.randrange(len(found)) for _ in range(5))]:
            page = books.rows_at(info.stream, kind, agent, first, 7)
            assert [row.seq for row in page.rows] == seqs(found[first : first + 7])
            assert (page.more, page.last) == (first + 7 < len(found), first + len(page.rows))
    assert books.rows_at(b"0" * 16, "step", AGENTS[0], 0).rows == []


def test_places_are_every_1024th_row(books: Reader, library: Library) -> None:
    for info, kind, agent, found in each(library):
        places = books.places(info.stream, kind, agent)
        assert [(place.n, place.seq) for place in places] == [(n, found[n].seq) for n in range(0, len(found), EVERY)]
        assert books.places(info.stream, kind, agent, after=0) == places[1:]


def test_a_row_is_found_by_what_it_has(books: Reader, library: Library) -> None:
    chance = Random(2)
    for info, kind, agent, found in each(library):
        for _ in range(6):
            n = chance.randrange(len(found))
            assert (books.row_of(info.stream, kind, agent, "seq", found[n].seq) or 0).n == n  # type: ignore[union-attr]
            behind = books.row_of(info.stream, kind, agent, "time_ns", found[n].time_ns)
            assert behind is not None
            assert (behind.n, behind.seq, behind.time_ns) == (n, found[n].seq, found[n].time_ns)
            by_id = books.row_of(info.stream, kind, agent, "id", behind.id)
            assert by_id == behind
        assert books.row_of(info.stream, kind, agent, "seq", found[-1].seq + 1) is None
        first = books.row_of(info.stream, kind, agent, "seq", -5)
        assert first is not None
        assert first.n == 0


def test_a_step_is_found_by_episode_environment_and_global_step(books: Reader, library: Library) -> None:
    for info in (STREAMS[0], STREAMS[2]):
        steps = library.of(info, "step")
        for wanted in (0, 1, 17, 60, 99, 10_000):
            for env in (None, 0, 3):
                fits = [
                    n for n, one in enumerate(steps) if one.episode_index >= wanted and env in (None, one.env_index)
                ]
                found = books.row_of(info.stream, "step", AGENTS[0], "episode", wanted, env)
                assert (found and found.n) == (fits[0] if fits else None), (wanted, env)
    steps = library.of(STREAMS[0], "step")
    found = books.row_of(STREAMS[0].stream, "step", AGENTS[0], "global_step", steps[1_500].global_step)
    assert found is not None
    assert (found.n, found.global_step) == (1_500, steps[1_500].global_step)


# -- numbers -----------------------------------------------------------------------------------------------------
def numbers(packed: bytes) -> list[float]:
    return list(array("d", packed))


def test_columns_are_the_numbers_of_the_rows(books: Reader, library: Library) -> None:
    fields = [
        "seq",
        "reward",
        "terminated",
        "global_step",
        "agent_id",
        "info/lives",
        "info/reward.goal",
        "info/no",
        "action",
    ]
    for info in STREAMS:
        steps = library.of(info, "step")
        page = books.columns(info.stream, "step", AGENTS[0], 100, 1_500, fields)
        (chunk,) = page.rows
        assert (chunk.first, page.last) == (100, 100 + chunk.rows)
        rows = steps[100 : 100 + chunk.rows]
        assert rows
        columns = [numbers(column) for column in chunk.columns]
        assert columns[0] == seqs(rows)
        assert columns[1] == [one.reward for one in rows]
        assert columns[2] == [0.0] * len(rows)
        assert [None if math.isnan(one) else one for one in columns[3]] == [one.global_step for one in rows]
        assert all(map(math.isnan, columns[4] + columns[7]))
        assert columns[5] == [one.seq % 3 for one in rows]
        assert columns[6] == [one.seq / 2 for one in rows]
        assert columns[8] == [one.seq % 4 for one in rows]


def test_columns_go_on_behind_the_last_row_whatever_ends_a_page(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_by_number, "_PAGE_S", 0.0)
    monkeypatch.setattr(rows_by_number, "_SLICE", 100)
    found, first = [], 0
    with FileReader(library.path) as books:
        while True:
            page = books.columns(STREAMS[0].stream, "step", AGENTS[0], first, 65_536, ["seq"])
            found += numbers(page.rows[0].columns[0])
            if not page.more:
                break
            assert page.last == first + 100
            first = page.last
    assert found == seqs(library.of(STREAMS[0], "step"))


@pytest.mark.parametrize("impatient", [False, True])
def test_points_of_a_range_of_steps_come_in_order_of_arrival(
    library: Library, monkeypatch: pytest.MonkeyPatch, impatient: bool
) -> None:
    if impatient:
        monkeypatch.setattr(rows_by_number, "_PAGE_S", 0.0)
    series: dict[str, Callable[[Any], Any]] = {
        "reward": lambda one: one.reward if isinstance(one, Step) else ...,
        "return": lambda one: one.total_reward if isinstance(one, Episode) else ...,
        "metric/loss": lambda one: one.value if isinstance(one, Metric) and one.name == "loss" else ...,
    }
    with FileReader(library.path) as books:
        for info in STREAMS:
            for name, value in series.items():
                for low, high in ((0, 10**9), (1_000, 1_300), (3_990, 4_010), (5_000, 4_000)):
                    expected = []
                    for one in library.events[info.stream]:
                        if getattr(one, "agent_id", None) == AGENTS[0] and value(one) is not ...:
                            x = one.seq if one.global_step is None else one.global_step  # type: ignore[attr-defined]
                            expected += [(x, value(one))] if low <= x <= high else []
                    found: list[Any] = []
                    after, more = 0, True
                    while more:
                        page = books.points(info.stream, AGENTS[0], name, low, high, after=after, limit=400)
                        both = numbers(page.rows[0].points)
                        assert len(both) == 2 * page.rows[0].rows
                        found += zip(both[::2], [None if math.isnan(one) else one for one in both[1::2]], strict=True)
                        assert page.last > after or not page.more
                        after, more = page.last, page.more
                    assert found == expected, (name, low, high)


# -- episodes ----------------------------------------------------------------------------------------------------
ORDERS: dict[str, Callable[[Any], Any]] = {
    "total_reward": lambda row: row.total_reward,
    "length": lambda row: row.length,
    "seed": lambda row: row.seed,
    "time_ns": lambda row: row.time_ns,
    "end_reason": lambda row: row.end_reason,
    "episode_index": lambda row: (row.env_index, row.episode_index),
}


def rank(value: Any) -> tuple[int, Any]:
    """SQLite's order: null, numbers, texts."""
    return (0, 0) if value is None else (2, value) if isinstance(value, str) else (1, value)


@pytest.mark.parametrize("by", ORDERS)
@pytest.mark.parametrize("descending", [False, True])
def test_episodes_come_sorted_page_by_page(books: Reader, library: Library, by: str, descending: bool) -> None:
    for info in (STREAMS[0], STREAMS[2]):
        rows = [row for row in books.episodes_for_run("run", stream_id=info.stream).rows if row.agent_id == AGENTS[0]]
        key = ORDERS[by]
        expected = sorted(rows, key=lambda row: (rank(key(row)), row.id), reverse=descending)
        found, first, more = [], 0, True
        while more:
            page = books.episodes_by(info.stream, AGENTS[0], by, descending=descending, first=first, limit=40)
            found += page.rows
            first, more = page.last, page.more
        assert found == expected
    assert books.episodes_by(STREAMS[0].stream, "nobody", by).rows == []


@pytest.mark.parametrize("alone", [True, False])
def test_voided_episodes_are_left_out_unless_asked_for(tmp_path: Path, alone: bool) -> None:
    path, info = tmp_path / "telemetry.sqlite", stream()
    with Scribe(path) as scribe:
        scribe.put(
            info,
            episode(10, episode_index=0, length=3),
            episode(11, episode_index=1, length=2),
            void(12, 0),
            first_seq=10,
        )
        scribe.put(info, episode(13, episode_index=2, length=1))
        if not alone:
            scribe.put(stream(), episode(1))
        scribe.commit()
    with FileReader(path) as books:
        assert [row.episode_index for row in books.episodes_by(info.stream, "agent_0", "length").rows] == [2, 1]
        page = books.episodes_by(info.stream, "agent_0", "length", voided=True)
        assert [row.episode_index for row in page.rows] == [2, 1, 0]


def test_episodes_of_some_modes_come_newest_first_of_all_runs_or_of_one(tmp_path: Path) -> None:
    path, modes = tmp_path / "telemetry.sqlite", ["human", "agent", None, "multi_agent"]
    infos = [stream("a"), stream("b")]
    with Scribe(path) as scribe:
        for first in (1, 41):
            for info in infos:
                scribe.put(info, *(episode(n, control_mode=modes[n % 4]) for n in range(first, first + 40)))
                scribe.commit()
        scribe.put(infos[0], void(81, 8))
        scribe.commit()
    with FileReader(path) as books, open_remote(path) as remote:
        every = [row for run_id in "ab" for row in books.episodes_for_run(run_id, voided=True).rows]
        assert {row.control_mode for row in every} == {"human", "agent", "unknown", "multi_agent"}
        for run_id in (None, "a", "b", "nobody"):
            expected = sorted(
                (row for row in every if row.control_mode in ("human", "unknown") and run_id in (None, row.run_id)),
                key=lambda row: -row.id,
            )
            for reader in (books, remote):
                found, before, more = [], 0, True
                while more:
                    page = reader.episodes_in(["human", "unknown"], run_id, before, 7, voided=True)
                    found += page.rows
                    before, more = page.last, page.more
                assert found == expected
        kept = books.episodes_in(["human", "agent", "unknown", "multi_agent"]).rows
        counting = [row.id for row in every if (row.run_id, row.episode_index) != ("a", 8)]
        assert [row.id for row in kept] == sorted(counting, reverse=True)
        assert len(kept) < len(every)
        assert books.episodes_in([]).rows == []
        wanted = "SELECT id FROM episodes WHERE control_mode = 'human' AND id < 9 ORDER BY id DESC LIMIT 5"
        plan = [row[-1] for row in books._db.execute(f"EXPLAIN QUERY PLAN {wanted}")]
        assert plan == ["SEARCH episodes USING COVERING INDEX episodes_by_control_mode (control_mode=? AND rowid<?)"]


# -- searches ----------------------------------------------------------------------------------------------------
CONDITIONS: dict[str, tuple[list[Condition], Callable[[Any], bool]]] = {
    "none": ([], lambda one: True),
    "a column": ([Condition("reward", ">", 0.9)], lambda one: one.reward > 0.9),
    "two": (
        [Condition("reward", "<=", 0.0), Condition("episode_index", "=", 17)],
        lambda one: one.reward <= 0.0 and one.episode_index == 17,
    ),
    "a text": ([Condition("control_mode", "contains", "HUM")], lambda one: one.control_mode == "human"),
    "nil": ([Condition("global_step", "=", None)], lambda one: one.global_step is None),
    "not nil": ([Condition("policy_label", "!=", None)], lambda one: one.policy_label is not None),
    "a part": (
        [Condition("info/lives", ">=", 2), Condition("env_index", "!=", 1)],
        lambda one: one.seq % 3 == 2 and one.env_index != 1,
    ),
    "a key with a dot": ([Condition("info/a.b", "=", "word"), Condition("seq", "<", 50)], lambda one: one.seq < 50),
    "nothing": ([Condition("info/no.such", "=", 1)], lambda one: False),
    "a truth": ([Condition("terminated", "=", True)], lambda one: one.terminated),
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("impatient", [False, True])
def test_a_search_finds_each_row_that_fits_with_its_number(
    library: Library, monkeypatch: pytest.MonkeyPatch, name: str, impatient: bool
) -> None:
    if impatient:
        monkeypatch.setattr(rows_by_number, "_PAGE_S", 0.0)
    conditions, fits = CONDITIONS[name]
    with FileReader(library.path) as books:
        for info in STREAMS:
            steps = library.of(info, "step")
            found: list[Any] = []
            after, more = -1, True
            while more:
                page = books.scan(info.stream, "step", AGENTS[0], conditions, after, 300)
                assert all(after < row.n <= page.last for row in page.rows)
                assert page.last > after or not page.more
                found += page.rows
                after, more = page.last, page.more
            assert after == len(steps) - 1
            assert [(row.n, row.event.seq) for row in found] == [
                (n, one.seq) for n, one in enumerate(steps) if fits(one)
            ]


@pytest.mark.parametrize("limit", [1, 2_000])
@pytest.mark.parametrize("impatient", [False, True])
def test_bands_are_where_mode_or_policy_change(
    library: Library, monkeypatch: pytest.MonkeyPatch, limit: int, impatient: bool
) -> None:
    if impatient:
        monkeypatch.setattr(rows_by_number, "_PAGE_S", 0.0)
    with FileReader(library.path) as books:
        for info in STREAMS:
            steps = library.of(info, "step")
            states = [(n, (one.control_mode, one.policy_label)) for n, one in enumerate(steps)]
            expected = [(next(group)[0], *state) for state, group in groupby(states, lambda pair: pair[1])]
            found: list[Any] = []
            after, more = -1, True
            while more:
                page = books.answer(query.Bands(info.stream, AGENTS[0], after, limit))
                found += page.rows
                after, more = page.last, page.more
            assert [(one.n, one.control_mode, one.policy_label) for one in found] == expected


# -- what cannot be answered -------------------------------------------------------------------------------------
def test_a_question_that_makes_no_sense_is_the_callers_fault(books: Reader) -> None:
    at, agent = STREAMS[0].stream, AGENTS[0]
    for ask, sentence in (
        (lambda: books.rows_at(at, "gap", agent, 0), "rows of the kind 'gap' have no numbers: ask for one of "),
        (lambda: books.row_of(at, "step", agent, "reward", 1), "a row is not found by 'reward'; by these it is: seq"),
        (lambda: books.row_of(at, "metric", agent, "episode", 1), "rows of the kind 'metric' are of no episode"),
        (lambda: books.columns(at, "step", agent, 0, 9, ["no"]), "rows of the kind 'step' have no field 'no'"),
        (lambda: books.columns(at, "step", agent, 0, 9, ["event"]), "rows of the kind 'step' have no field 'event'"),
        (lambda: books.points(at, agent, "loss", 0, 9), "'loss' is not a series: name reward, return or metric/NAME"),
        (
            lambda: books.episodes_by(at, agent, "id"),
            "episodes are not sorted by 'id'; by these they are: total_reward",
        ),
        (lambda: books.scan(at, "step", agent, [Condition("x'y", "=", 1)]), 'no field "x\'y"'),
        (lambda: books.scan(at, "step", agent, [Condition("seq", "~", 1)]), "'~' does not compare; these do: =, !="),
        (lambda: books.rows_at(at, "step", agent, 0, -1), "a page cannot have -1 rows: ask for 1 to 2000"),
    ):
        with pytest.raises(UsageError, match=sentence):
            ask()  # type: ignore[no-untyped-call]


def test_a_quote_in_a_path_is_a_key_like_others(books: Reader) -> None:
    page = books.scan(
        STREAMS[0].stream, "step", AGENTS[0], [Condition("info/it's", "=", None), Condition("seq", "<", 9)]
    )
    assert page.rows


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_older_version_is_one_sentence(tmp_path: Path, version: int) -> None:
    path = as_version(version, write(tmp_path, 300), tmp_path / "old.sqlite")
    with FileReader(path) as books, open_remote(path) as remote:
        (info, *_) = books.streams()
        for reader in (books, remote):
            for ask in (
                lambda reader: reader.counts(info.run_id),
                lambda reader: reader.places(info.stream_id, "step", "agent_0"),
                lambda reader: reader.rows_at(info.stream_id, "step", "agent_0", 0),
                lambda reader: reader.row_of(info.stream_id, "step", "agent_0", "seq", 0),
                lambda reader: reader.columns(info.stream_id, "step", "agent_0", 0, 1, ["seq"]),
                lambda reader: reader.points(info.stream_id, "agent_0", "reward", 0, 1),
                lambda reader: reader.episodes_by(info.stream_id, "agent_0", "seed"),
                lambda reader: reader.scan(info.stream_id, "step", "agent_0", []),
                lambda reader: reader.bands(info.stream_id, "agent_0"),
            ):
                with pytest.raises(StoreError, match="was written by an older version, and its rows have no numbers"):
                    ask(reader)
            assert reader.events(limit=3).rows


def test_a_store_whose_upgrade_was_cut_off_is_one_sentence_too(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "cut.sqlite"
    path.write_bytes(library.path.read_bytes())
    db = apsw.Connection(str(path))
    db.execute("INSERT INTO upgrade VALUES ('events', 500)")
    db.close()
    with FileReader(path) as books, pytest.raises(StoreError, match="ask again when that is through"):
        books.counts("run")
