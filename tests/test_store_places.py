"""A place is (stream, agent, environment, episode, step): one stream is meant, and the others are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run
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
    run_started,
    step,
    stream,
    void,
)

from telefabric.errors import UsageError
from telefabric.store.file.database import open_reader
from telefabric.store.file.verify import verify
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.reader import Reader
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.store.tables.places import EVERY

Open = Callable[[Path], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite"


@contextmanager
def open_remote(path: Path) -> Iterator[Reader]:
    with query_behind_broker(path) as broker, RemoteReader(broker) as reader:
        yield reader


@pytest.fixture(params=["file", "remote"])
def opener(request: pytest.FixtureRequest) -> Open:
    return FileReader if request.param == "file" else open_remote


# -- attempts ----------------------------------------------------------------------------------------------------
FIRST, AGAIN = stream(worker="first"), stream(worker="again", after_ns=1_000)
BESIDE = stream(worker="beside", after_ns=1_001)


def shifted(events: list[Any], after_ns: int) -> list[Any]:
    return [msgspec.structs.replace(each, time_ns=each.time_ns + after_ns) for each in events]


@pytest.fixture
def attempts(path: Path) -> Path:
    """Episodes 0 to 2 of an attempt that failed; 1 to 3 of a second one by two workers, one of which has only 3."""
    with Scribe(path) as scribe:
        events = [run_started(1, FIRST), *(step(seq, episode_index=seq // 10, reward=1.0) for seq in range(2, 30))]
        events += [frame(30, "f9"), *(episode(30 + n, episode_index=n, seed=raw(n)) for n in (1, 2, 3))]
        events[-1] = episode(33, episode_index=0)
        scribe.put(FIRST, *events)
        scribe.put(FIRST, run_completed(34, "failed", "out of memory"))
        scribe.commit()
        events = [run_started(1, AGAIN), *(step(seq, episode_index=seq // 10, reward=2.0) for seq in range(10, 40))]
        numbered = [msgspec.structs.replace(each, seq=seq) for seq, each in enumerate(events, 1)]
        scribe.put(AGAIN, *shifted(numbered, 1_000), episode(32, episode_index=1), frame(33, "f9"))
        scribe.put(BESIDE, run_started(1, BESIDE), step(2, episode_index=3), episode(3, episode_index=1))
        scribe.commit()
    return path


def test_of_an_episode_the_newest_stream_of_the_newest_attempt_is_meant(attempts: Path, opener: Open) -> None:
    with opener(attempts) as reader:
        assert {one.worker_id: one.attempt for one in reader.streams()} == {"first": 1, "again": 2, "beside": 2}

        def of(number: int, **named: Any) -> tuple[set[str], list[bytes]]:
            page = reader.steps_for_episode("run", "agent_0", 0, number, **named)
            return {one.worker_id for one in page.rows}, page.others

        assert of(0) == ({"first"}, [])
        assert of(1) == ({"again"}, [FIRST.stream])
        assert of(3) == ({"beside"}, [AGAIN.stream])
        assert of(4) == (set(), [])
        assert of(1, stream_id=FIRST.stream) == ({"first"}, [])
        assert of(1, stream_id=b"nobody's stream.") == (set(), [])


def test_frames_are_of_the_stream_that_is_meant(attempts: Path, opener: Open) -> None:
    with opener(attempts) as reader:
        found = reader.frame_at("run", "agent_0", 0, 3, 3)
        assert (found.worker_id, found.seq) == ("again", 33), "the newest one that has frames of it"
        assert reader.frame_at("run", "agent_0", 0, 3, 0, stream_id=FIRST.stream).seq == 30
        assert reader.frame_at("run", "agent_0", 0, 3, 3, stream_id=BESIDE.stream) is None
        page = reader.frames_for_episode("run", "agent_0", 0, 3)
        assert ([one.seq for one in page.rows], page.others) == ([33], [FIRST.stream])
        assert reader.frame("run", "f9").worker_id == "again"
        assert reader.frame("run", "f9", stream_id=FIRST.stream).worker_id == "first"


def test_episodes_of_a_run_are_of_the_newest_attempt_that_has_each(attempts: Path, opener: Open) -> None:
    with opener(attempts) as reader:

        def of(**named: Any) -> list[tuple[int, bytes]]:
            return [(one.episode_index, one.stream_id) for one in reader.episodes_for_run("run", **named).rows]

        assert of() == [(0, FIRST.stream), (1, AGAIN.stream), (1, BESIDE.stream), (2, FIRST.stream)]
        assert of(stream_id=FIRST.stream) == [(0, FIRST.stream), (1, FIRST.stream), (2, FIRST.stream)]
        assert reader.episodes_for_run("run").others == [FIRST.stream]
        assert [one.seed for one in reader.episodes_for_run("run", stream_id=FIRST.stream).rows] == [None, 1, 2]


def test_the_overview_of_a_run_is_of_the_newest_attempt(attempts: Path, opener: Open) -> None:
    with opener(attempts) as reader:
        page = reader.overview("agent_0", "reward", 1, run_id="run")
        assert [one.stream_id for one in page.rows] == [AGAIN.stream, BESIDE.stream]
        assert page.others == [FIRST.stream]
        (first,) = reader.overview("agent_0", "reward", 1, stream_id=FIRST.stream).rows
        assert (first.min, first.max, first.count) == (1.0, 1.0, 28)


# -- voids -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [False, True], ids=["one-stream", "two-streams"])
def test_a_voided_episode_stays_in_the_record_and_out_of_tables(path: Path, opener: Open, more: bool) -> None:
    info, other = stream(), stream(worker="other")
    with Scribe(path) as scribe:
        scribe.put(
            info, run_started(1, info), reset(2, episode_index=0), step(3, episode_index=0, step_index=0),
            episode(4, episode_index=0), frame(5), void(6, 0), step(7, episode_index=0, step_index=0, reward=9.0),
            step(8, episode_index=1), episode(9, episode_index=1), void(10, 1), step(11, agent="b", episode_index=1),
        )  # fmt: skip
        if more:
            scribe.put(other, run_started(1, other))
        scribe.commit()
    with opener(path) as reader:

        def steps(number: int, agent: str = "agent_0", **asked: Any) -> list[int]:
            return [one.seq for one in reader.steps_for_episode("run", agent, 0, number, **asked).rows]

        assert steps(0) == [7], "what came after the void counts"
        assert steps(0, voided=True) == [3, 7]
        assert steps(0, voided=True, stream_id=info.stream) == [3, 7]
        assert steps(1) == []
        assert steps(1, voided=True) == [8]
        assert steps(1, "b") == [11]
        assert [one.seq for one in reader.episodes_for_run("run").rows] == []
        assert [one.seq for one in reader.episodes_for_run("run", voided=True).rows] == [4, 9]
        assert reader.frame_at("run", "agent_0", 0, 0, 5) is None
        assert reader.frame_at("run", "agent_0", 0, 0, 5, voided=True).seq == 5
        kinds = [one.kind for one in reader.events().rows]
        assert kinds.count("episode_voided") == 2
        assert "reset" in kinds
    assert verify(path).contradictions == 0


def test_an_episode_that_the_newest_attempt_voided_is_that_of_the_one_before(attempts: Path, opener: Open) -> None:
    with Scribe(attempts) as scribe:
        scribe.put(AGAIN, void(34, 1))
        scribe.put(BESIDE, void(4, 1))
        scribe.commit()
    with opener(attempts) as reader:
        page = reader.steps_for_episode("run", "agent_0", 0, 1)
        assert ({one.worker_id for one in page.rows}, page.others) == ({"first"}, [])
        assert [one.stream_id for one in reader.episodes_for_run("run").rows] == [FIRST.stream] * 3


# -- every 1,024th row -------------------------------------------------------------------------------------------
def places(path: Path) -> tuple[list[Any], list[Any]]:
    """Counts, and places, as stored."""
    db = open_reader(path)
    counts = db.execute("SELECT stream, kind, agent_id, n FROM counts ORDER BY 1, 2, 3").fetchall()
    found = db.execute(
        "SELECT stream, kind, agent_id, n, seq, id, global_step, time_ns FROM places ORDER BY 1, 2, 3, 4"
    ).fetchall()
    db.close()
    return counts, found


def recounted(path: Path) -> tuple[list[Any], list[Any]]:
    """The same, counted row by row."""
    numbers: dict[Any, int] = {}
    found = []
    db = open_reader(path)
    tables = {"step": "steps", "episode": "episodes", "reset": "resets", "episode_voided": "voids",
              "metric": "metrics", "log": "logs", "frame": "frames"}  # fmt: skip
    for kind, table in tables.items():
        step = "global_step" if table in ("steps", "episodes", "metrics") else "NULL"
        rows: Any = db.execute(f"SELECT stream, agent_id, seq, id, {step}, time_ns FROM {table} ORDER BY stream, seq")
        for each, agent, *row in rows:
            number = numbers.get((each, kind, agent), 0)
            numbers[each, kind, agent] = number + 1
            if number % EVERY == 0:
                found.append((each, kind, agent, number, *row))
    db.close()
    return sorted((*key, n) for key, n in numbers.items()), sorted(found)


def test_every_1024th_row_has_its_place_across_restarts_gaps_and_quarantine(path: Path) -> None:
    one, two = stream(), stream(worker="two")
    seq = 1
    for turn in range(12):
        with Scribe(path) as scribe:  # a writer of its own each time
            for info in (one, two):
                agents = ["agent_0"] if turn % 3 else ["agent_0", "agent_1"]
                events = [step(seq + n, agents[n % len(agents)]) for n in range(400)]
                scribe.put(info, *events[:200])
                scribe.put(info, *events[200:])
            scribe.put_gap(one, seq + 400, seq + 404, "spool_full")
            scribe.put(two, *map(metric, range(seq + 400, seq + 403)), b"\xc1", log(seq + 404), first_seq=seq + 400)
            scribe.commit()
        seq += 405
    assert places(path) == recounted(path)
    assert len(places(path)[1]) > 10
    assert verify(path).contradictions == 0


def test_a_row_that_cannot_be_stored_has_no_place(path: Path) -> None:
    info = stream()
    unfit = step(5)
    with Scribe(path) as scribe:
        scribe.put(info, *map(step, range(1, 5)), unfit, *map(step, range(6, 1_100)))
        scribe.rows.tables["steps"][4 * 15 + 4] = None  # the agent of seq 5, which its column does not take
        scribe.commit()
    assert places(path) == recounted(path)
    assert places(path)[0] == [(1, "step", "agent_0", 1_098)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("smlerv"), st.sampled_from("ab"), st.integers(1, 700)), max_size=12))
def test_places_equal_a_recount_whatever_arrives(tmp_path_factory: pytest.TempPathFactory, batches: Any) -> None:
    makers: dict[str, Callable[..., Any]] = {
        "s": step, "m": lambda seq, agent: metric(seq, agent=agent), "l": lambda seq, agent: log(seq, agent=agent),
        "e": episode, "r": reset, "v": lambda seq, agent: void(seq, 10**6, agent),
    }  # fmt: skip
    path = tmp_path_factory.mktemp("places") / "telemetry.sqlite"
    info, seq = stream(), 1
    with Scribe(path) as scribe:
        for number, (kind, agent, count) in enumerate(batches):
            scribe.put(info, *(makers[kind](seq + n, agent) for n in range(count)), first_seq=seq)
            seq += count
            if number % 3 == 2:
                scribe.commit()
        scribe.commit()
    assert places(path) == recounted(path)


# -- export ------------------------------------------------------------------------------------------------------
def test_export_says_what_it_left_out_and_takes_the_stream_that_is_named(attempts: Path, tmp_path: Path) -> None:
    from telefabric.exchange.mp4 import find

    with FileReader(attempts) as reader:
        place, others = find(reader, ("run", "agent_0", 0, 1), None, None, False)
        assert place.stream_id == AGAIN.stream
        assert others == [f"attempt 1, worker first, --stream {FIRST.stream.hex()}"]
        for stream_hex, worker in ((FIRST.stream.hex()[:8], None), (None, "first")):
            place, others = find(reader, ("run", "agent_0", 0, 1), stream_hex, worker, False)
            assert (place.stream_id, others) == (FIRST.stream, [])
        with pytest.raises(UsageError, match="in the named stream"):
            find(reader, ("run", "agent_0", 0, 1), None, "nobody", False)
    told = run("export", "mp4", str(tmp_path / "v.mp4"), "--store", str(attempts), "--run", "run", "--episode", "9")
    assert told.returncode == 2
    assert "has no steps of episode 9" in told.stderr


def test_a_run_with_thousands_of_series_names_them_all(path: Path, opener: Open) -> None:
    info = stream()
    with Scribe(path) as scribe:
        for first in range(1, 4_501, 500):
            scribe.put(info, *(metric(seq, f"m{seq:05}") for seq in range(first, first + 500)))
        scribe.commit()
    with opener(path) as reader:
        assert [one.series for one in reader.series("run")] == [f"metric/m{seq:05}" for seq in range(1, 4_501)]
