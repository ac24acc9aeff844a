"""The outcome of a run, from those of its streams: helpers and superseded attempts are said beside it."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_fixtures import Scribe, query_behind_broker, run_completed, run_started, step, stream

from telefabric.store.core.outcomes import StreamEnd, judge, known_outcome
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.remote_reader import RemoteReader


def end(name: str, started: int, last: int | None = None, outcome: str | None = None, parent: str = "") -> StreamEnd:
    """A stream named by a letter; without an outcome it runs."""
    reason = None if outcome in (None, "completed") else f"{name} {outcome}"
    return StreamEnd(ord(name), name.encode(), parent.encode() or None, started, last, outcome, reason)


EVERYDAY = {
    "killed at step 150, resumed under the same id, completed": (
        [end("a", 0, 150, "lost"), end("b", 200, 300, "completed")],
        ("completed", None), {"a": ("superseded", 1), "b": ("counts", 2)},
    ),
    "a pool of 3 helpers ended by SIGTERM while the parent completed": (
        [end("a", 0, 100, "completed"), *(end(each, 10, 90, "lost", "a") for each in "bcd")],
        ("completed", None), {"a": ("counts", 1), "b": ("helper", 1), "c": ("helper", 1), "d": ("helper", 1)},
    ),
    "a program that went on in its child": (
        [end("a", 0, 10, "lost"), end("b", 20, 100, "completed", "a")],
        ("completed", None), {"a": ("superseded", 1), "b": ("counts", 1)},
    ),
    "a program that goes on in its child": (
        [end("a", 0, 10, "lost"), end("b", 20, None, None, "a")],
        ("running", None), {"a": ("superseded", 1), "b": ("counts", 1)},
    ),
    "a program that went on in the child of its child": (
        [end("a", 0, 10, "lost"), end("b", 20, 30, "lost", "a"), end("c", 40, 90, "failed", "b")],
        ("failed", "c failed"), {"a": ("superseded", 1), "b": ("helper", 1), "c": ("counts", 1)},
    ),
    "two distributed workers of which one is lost": (
        [end("a", 0, 50, "lost"), end("b", 1, 100, "completed")],
        ("lost", "a lost"), {"a": ("counts", 1), "b": ("counts", 1)},
    ),
    "cancelled and resumed": (
        [end("a", 0, 50, "cancelled"), end("b", 60, 100, "completed")],
        ("completed", None), {"a": ("superseded", 1), "b": ("counts", 2)},
    ),
    "failed, then resumed and running": (
        [end("a", 0, 50, "failed"), end("b", 60)],
        ("running", None), {"a": ("superseded", 1), "b": ("counts", 2)},
    ),
    "resumed twice, the last attempt failed": (
        [end("a", 0, 50, "lost"), end("b", 60, 80, "failed"), end("c", 90, 99, "failed")],
        ("failed", "c failed"), {"a": ("superseded", 1), "b": ("superseded", 2), "c": ("counts", 3)},
    ),
    "helpers of a parent of which nothing is stored": (
        [end("b", 0, 50, "completed", "z"), end("c", 0, 60, "failed", "z")],
        ("failed", "c failed"), {"b": ("counts", 1), "c": ("counts", 1)},
    ),
    "completed, and evaluated later under the same id": (
        [end("a", 0, 50, "completed"), end("b", 60, 100, "completed")],
        ("completed", None), {"a": ("counts", 1), "b": ("counts", 2)},
    ),
    "two workers that both run, of which one has been quiet": (
        [end("a", 0), end("b", 60)],
        ("running", None), {"a": ("counts", 1), "b": ("counts", 1)},
    ),
    "a parent that runs with helpers that are gone": (
        [end("a", 0), end("b", 10, 20, "failed", "a")],
        ("running", None), {"a": ("counts", 1), "b": ("helper", 1)},
    ),
    "a resumed run with a pool": (
        [end("a", 0, 50, "lost"), end("b", 10, 40, "lost", "a"), end("c", 60, 99, "completed"),
         end("d", 70, 90, "lost", "c")],
        ("completed", None),
        {"a": ("superseded", 1), "b": ("helper", 1), "c": ("counts", 2), "d": ("helper", 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("pattern", EVERYDAY)
def test_everyday_patterns_in_whatever_order_their_streams_are_given(pattern: str) -> None:
    streams, expected, parts = EVERYDAY[pattern]
    for order in permutations(streams):
        verdict = judge(order)
        assert (verdict.status, verdict.reason) == expected
        assert {chr(number): tuple(part) for number, part in verdict.parts.items()} == parts


def test_the_worst_outcome_is_the_runs_and_it_ends_with_the_last_word() -> None:
    ends = [end("a", 0, 50, "completed"), end("b", 1, 90, "cancelled"), end("c", 2, 60, "failed")]
    assert judge(ends)[:3] == ("failed", "c failed", 90)
    assert judge([*ends, end("d", 3, 55, "lost")])[:3] == ("lost", "d lost", 90)


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.one_of(st.none(), st.integers(-9, 30)),
                  st.sampled_from(["completed", "failed", "lost"]), st.integers(-1, 9)),
        min_size=1, max_size=10,
    )
)  # fmt: skip
def test_whatever_the_streams_there_is_a_verdict_and_attempts_are_as_defined(drawn):
    streams = [
        StreamEnd(
            number, bytes([number]), None if parent in (-1, number) else bytes([parent]), start,
            None if length is None else start + length, None if length is None else outcome,
        )
        for number, (start, length, outcome, parent) in enumerate(drawn)
    ]  # fmt: skip
    verdict = judge(streams)
    counting = [each for each in streams if verdict.parts[each.stream].role == "counts"]
    assert counting, "something always counts"
    assert (verdict.status == "running") == any(each.outcome is None for each in counting)
    own = [each for each in streams if each.parent is None]
    for each in own:
        before = [verdict.parts[one.stream].attempt for one in own if one.ended_before(each.started_ns)]
        assert verdict.parts[each.stream].attempt == 1 + max(before, default=0)
        if verdict.parts[each.stream].role == "superseded":
            assert any(each.ended_before(one.started_ns) for one in streams)


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (("completed", None), ("completed", None)),
        (("cancelled", "^C"), ("cancelled", "^C")),
        (("failed", "out of memory"), ("failed", "out of memory")),
        (("lost", None), ("failed", "ended as 'lost'")),
        (("on fire", "heat"), ("failed", "ended as 'on fire': heat")),
    ],
)
def test_a_worker_ends_in_a_known_word_or_has_failed(said, known):
    assert known_outcome(*said) == known


def lose(scribe: Scribe, *ids: bytes) -> None:
    scribe.rows.lost += ids
    scribe.commit()


def test_the_store_tells_a_resumed_run_its_attempts_and_helpers(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite"
    first = stream(worker="first")
    pooled = stream(worker="pooled", after_ns=5, parent=first.stream)
    again = stream(worker="again", after_ns=500)
    with Scribe(path) as scribe:
        scribe.put(first, run_started(1, first), *map(step, range(2, 152)))
        scribe.put(pooled, run_started(1, pooled, parent=first.stream))
        scribe.commit()
        lose(scribe, first.stream, pooled.stream)
        with FileReader(path) as reader:
            assert [(one.status, one.reason) for one in reader.runs()] == [("lost", "no word from first any more")]
        scribe.put(again, run_started(1, again))
        scribe.commit()
        with FileReader(path) as reader:
            assert [(one.status, one.reason, one.finished_ns) for one in reader.runs()] == [("running", None, None)]
        scribe.put(again, *map(step, range(2, 600)), run_completed(600))
        scribe.commit()
    with FileReader(path) as here, query_behind_broker(path) as broker, RemoteReader(broker) as there:
        for reader in (here, there):
            (run,) = reader.runs()
            assert (run.status, run.reason, run.attempts, run.helpers, run.superseded) == ("completed", None, 2, 1, 1)
            assert [(one.worker_id, one.attempt, one.role, one.outcome, one.parent) for one in reader.streams()] == [
                ("first", 1, "superseded", "lost", None),
                ("pooled", 1, "helper", "lost", first.stream),
                ("again", 2, "counts", "completed", None),
            ]
            assert reader.streams()[0].outcome_reason == "no word from first any more"
            assert [one.last_ns for one in reader.streams()] == [
                first.started_ns + 151,
                first.started_ns + 1,
                run.finished_ns,
            ]


def test_a_lost_stream_that_speaks_again_runs_and_an_unknown_word_is_a_failure(tmp_path: Path) -> None:
    path, info = tmp_path / "telemetry.sqlite", stream()

    def told() -> tuple[str, str | None, int | None]:
        with FileReader(path) as reader:
            (run,) = reader.runs()
            return run.status, run.reason, run.finished_ns

    with Scribe(path) as scribe:
        scribe.put(info, run_started(1, info))
        scribe.commit()
        lose(scribe, info.stream)
        assert told()[:2] == ("lost", "no word from worker any more")
        scribe.rows.revived.append(info.stream)
        scribe.commit()
        assert told() == ("running", None, None)
        lose(scribe, info.stream)
        scribe.put(info, run_completed(2, "on fire"))
        scribe.commit()
        assert told()[:2] == ("failed", "ended as 'on fire'")
