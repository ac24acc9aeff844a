"""The writing side of the store: one transaction, nothing lost, nothing twice, and sentences when it cannot."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from slowness import patience
from store_fixtures import (
    TIME_NS,
    Scribe,
    episode,
    frame,
    log,
    metric,
    raw,
    run_completed,
    run_metadata,
    run_started,
    step,
    stream,
)  # fmt: skip

from telefabric import limits
from telefabric.errors import StoreError
from telefabric.store.file import database
from telefabric.store.file.database import APPLICATION_ID, VERSION, open_reader
from telefabric.store.tables.columns import COLUMNS
from telefabric.store.write.writer import Writer
from telefabric.wire import batch, records
from telefabric_schemas import events, values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite"


@pytest.fixture
def scribe(path: Path) -> Iterator[Scribe]:
    with Scribe(path) as found:
        yield found


def read(path: Path, query: str, *given: Any) -> list[Any]:
    connection = open_reader(path)
    try:
        return connection.execute(query, given).fetchall()
    finally:
        connection.close()


def covered(path: Path, stream_id: bytes) -> list[int]:
    """Every seq that a row, a quarantined event or a gap of the stream stands for, with repetitions."""
    seqs: list[int] = []
    for table in COLUMNS:
        last = "last_seq" if table in ("gaps", "quarantine") else "seq"
        query = f"SELECT seq, {last} FROM {table} JOIN streams USING (stream) WHERE stream_id = ?"
        for first_seq, last_seq in read(path, query, stream_id):
            seqs += range(first_seq, last_seq + 1)
    return sorted(seqs)


# -- one transaction ---------------------------------------------------------------------------------------------
def test_rows_and_watermark_appear_together_and_only_at_commit(scribe: Scribe, path: Path) -> None:
    info = stream()
    scribe.put(info, run_started(1, info), step(2), episode(3), metric(4), log(5), frame(6), run_completed(7))
    assert covered(path, info.stream) == []
    assert read(path, "SELECT * FROM runs") == []
    assert scribe.commit() == {info.stream: 7}
    assert covered(path, info.stream) == [1, 2, 3, 4, 5, 6, 7]
    assert read(path, "SELECT stored_seq, first_id, last_id FROM watermarks") == [(7, 1, 7)]


def test_a_commit_that_fails_leaves_nothing_and_the_next_writer_goes_on(path: Path) -> None:
    info = stream()
    with Scribe(path) as scribe:
        scribe.put(info, step(1))
        scribe.commit()
        admin = apsw.Connection(str(path))
        admin.execute("CREATE TRIGGER full BEFORE UPDATE ON watermarks BEGIN SELECT RAISE(ABORT, 'no room'); END")
        other = stream("other")
        scribe.put(info, step(2), episode(3))
        scribe.put(other, step(1))
        with pytest.raises(StoreError, match=r"cannot be written: .*no room"):
            scribe.commit()
        admin.execute("DROP TRIGGER full")
        admin.close()
    assert covered(path, info.stream) == [1]
    assert read(path, "SELECT run_id FROM runs") == [("run",)]
    assert read(path, "SELECT sum(count) FROM overview WHERE level = 1") == [(1,)]
    with Scribe(path) as scribe:
        assert scribe.writer.stored_seq(info.stream) == 1
        assert scribe.writer.stored_seq(other.stream) == 0
        scribe.put(info, step(2), episode(3))
        scribe.put(other, step(1))
        assert scribe.commit() == {info.stream: 3, other.stream: 1}
    assert covered(path, info.stream) == [1, 2, 3]


DIE_IN_TRANSACTION = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from store_fixtures import Scribe, step, stream
scribe = Scribe(Path(sys.argv[1]))
info = stream()
scribe.put(info, *map(step, range(1, 11)))
scribe.commit()
scribe.put(info, *map(step, range(11, 5_000)))
scribe.writer._db.execute("PRAGMA cache_size = 1")  # so that pages of the open transaction reach the file
scribe.writer._write(scribe.rows, scribe.writer._insert)
print(info.stream.hex(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_inside_the_transaction_leaves_what_was_committed(path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", DIE_IN_TRANSACTION, str(path), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=patience(60), check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    stream_id = bytes.fromhex(child.stdout.strip())
    with Scribe(path) as scribe:
        assert scribe.writer.stored_seq(stream_id) == 10
    assert covered(path, stream_id) == list(range(1, 11))
    assert read(path, "PRAGMA integrity_check") == [("ok",)]


def test_ids_ascend_over_all_tables_in_order_of_arrival_and_go_on_after_a_restart(path: Path) -> None:
    first, second = stream("a"), stream("b")
    makers = [step, episode, metric, log, frame]
    with Scribe(path) as scribe:
        for seq in range(1, 21):
            scribe.put(first, makers[seq % 5](seq))
            scribe.put(second, makers[seq % 3](seq))
            if seq % 7 == 0:
                scribe.commit()
        scribe.commit()
    with Scribe(path) as scribe:
        scribe.put(first, step(21))
        scribe.put_gap(second, 21, 30, "spool_full")
        scribe.commit()
    union = " UNION ALL ".join(f"SELECT id, stream, seq FROM {table}" for table in COLUMNS)
    rows = read(path, f"SELECT id, stream, seq FROM ({union}) ORDER BY id")
    expected = [(place, seq) for seq in range(1, 22) for place in (1, 2)]
    assert rows == [(number, *each) for number, each in enumerate(expected, 1)]


# -- quarantine and gaps -----------------------------------------------------------------------------------------
def encoded(event: events.Event) -> bytes:
    return msgspec.msgpack.encode(event)


BAD: dict[str, tuple[Callable[[int], bytes], str]] = {
    "no MessagePack": (lambda seq: b"\xc1", "undecodable"),
    "empty": (lambda seq: b"", "undecodable"),
    "unknown kind": (lambda seq: msgspec.msgpack.encode(["dance", seq]), "undecodable"),
    "too few fields": (lambda seq: msgspec.msgpack.encode(["step", seq, "agent_0"]), "undecodable"),
    "text that is not UTF-8": (lambda seq: encoded(log(seq, "abc")).replace(b"abc", b"a\xffc"), "undecodable"),
    "nested without end": (lambda seq: b"\x91" * 100_000, "undecodable"),
    "integer over 64 bits signed": (lambda seq: encoded(step(seq, episode_index=2**64 - 1)), "undecodable"),
    "another seq": (lambda seq: encoded(step(seq + 1_000)), "wrong_seq"),
    "a gap in an ordinary batch": (lambda seq: encoded(events.Gap(seq, seq, "spool_full", TIME_NS)), "not_durable"),
    "the beginning of another run": (lambda seq: encoded(run_started(seq, stream("another"))), "wrong_run"),
    "live only": (lambda seq: encoded(events.RunHeartbeat(seq, "running", 1, 0, 1, 1)), "not_durable"),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_event_goes_to_quarantine_and_its_neighbours_are_stored(path: Path, bad: str) -> None:
    make, reason = BAD[bad]
    infos = [stream(worker=f"w{place}") for place in range(3)]
    with Scribe(path) as scribe:
        for place, info in enumerate(infos):
            found: list[Any] = [step(1), episode(2), step(3)]
            found[place] = make(place + 1)
            scribe.put(info, *found, first_seq=1)
        assert scribe.rows.quarantined == 3
        assert scribe.commit() == {info.stream: 3 for info in infos}
    assert all(covered(path, info.stream) == [1, 2, 3] for info in infos)
    rows = read(path, "SELECT seq, last_seq, reason, detail <> '', event FROM quarantine ORDER BY stream")
    assert rows == [(seq, seq, reason, 1, make(seq)) for seq in (1, 2, 3)]


def test_an_event_that_does_not_fit_its_table_goes_to_quarantine_and_the_rest_is_stored(path: Path) -> None:
    info = stream()
    with Scribe(path) as scribe:
        scribe.put(info, step(1), step(2))
        scribe.commit()
        scribe.put(info, step(2, reward=9.0), step(3), first_seq=2)  # seq 2 of this stream is taken
        scribe.commit()
    assert read(path, "SELECT seq, reward FROM steps ORDER BY id") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert read(path, "SELECT id, seq, reason FROM quarantine") == [(3, 2, "not_storable")]
    assert read(path, "SELECT max, count FROM overview WHERE level = 1") == [(0.5, 3)], "it is of the rows"
    assert read(path, "SELECT n FROM counts") == [(3,)]
    with Scribe(path) as scribe:
        scribe.put(info, step(4))
        scribe.commit()
    assert read(path, "SELECT max(id) FROM steps") == [(5,)]


@pytest.mark.parametrize("place", [0, 49, 50, 119, 120])
def test_one_of_many_events_that_does_not_fit_leaves_its_neighbours_alone(path: Path, place: int) -> None:
    """Rows are inserted many at a time; the rest of a transaction, and of the statement, is stored all the same."""
    info, taken = stream(), 1 + place
    with Scribe(path) as scribe:
        scribe.put(info, step(taken), first_seq=taken)
        scribe.commit()
        scribe.put(info, *(step(seq) for seq in range(1, 122)))
        scribe.commit()
    assert read(path, "SELECT seq FROM steps ORDER BY seq") == [(seq,) for seq in range(1, 122)]
    assert read(path, "SELECT seq, reason FROM quarantine") == [(taken, "not_storable")]


@pytest.mark.parametrize("count", [1, 49, 50, 51, 100])
def test_rows_that_fit_are_written_at_the_first_attempt(
    path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one, row by row, would mend rows that are inserted twice, and nobody would see it."""

    def again(*_: object) -> None:
        raise AssertionError("it was begun again")

    monkeypatch.setattr(Writer, "_insert_what_fits", again)
    info = stream()
    with Scribe(path) as scribe:
        scribe.put(info, *map(step, range(1, count + 1)))
        assert scribe.commit() == {info.stream: count}
    assert read(path, "SELECT count(*) FROM steps") == [(count,)]


def test_when_the_disk_fails_at_the_second_attempt_nothing_is_stored(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = stream()
    with Scribe(path) as scribe:
        scribe.put(info, step(2), first_seq=2)
        scribe.commit()
        scribe.put(info, *map(step, (1, 2, 3)), first_seq=1)

        def full(*_: object) -> None:
            raise apsw.FullError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(scribe.writer, "_write_rest", full)
            with pytest.raises(StoreError):
                scribe.commit()
        assert not scribe.writer._db.in_transaction
        scribe.rows = scribe.writer.begin()
        scribe.put(info, *map(step, (1, 2, 3)), first_seq=1)
        assert scribe.commit() == {info.stream: 3}
    assert read(path, "SELECT seq FROM steps ORDER BY seq") == [(1,), (2,), (3,)]
    assert read(path, "SELECT seq, reason FROM quarantine") == [(2, "not_storable")]


def test_a_transaction_with_an_event_that_does_not_fit_is_written_once(path: Path) -> None:
    """It is begun again for that event; nothing of the first attempt is left, in any table."""
    info = stream()
    with Scribe(path) as scribe:
        scribe.put(info, step(4), first_seq=4)
        scribe.commit()
        found = [run_started(1, info, {"lr": 0.1}), metric(2), step(3), step(4), metric(5), episode(6), log(7)]
        scribe.put(info, *found, run_completed(8), first_seq=1)
        scribe.put_body(info, b"\xc1", 9, 9)
        assert scribe.commit() == {info.stream: 9}
    counts = {table: read(path, f"SELECT count(*) FROM {table}") for table in COLUMNS}
    expected = {"steps": 2, "metrics": 2, "episodes": 1, "logs": 1, "lifecycle": 2, "quarantine": 2}
    assert counts == {table: [(expected.get(table, 0),)] for table in COLUMNS}
    assert read(path, "SELECT seq, reason FROM quarantine ORDER BY seq") == [(4, "not_storable"), (9, "bad_body")]
    assert read(path, "SELECT kind, n FROM counts ORDER BY kind") == [
        ("episode", 1), ("log", 1), ("metric", 2), ("step", 2),
    ]  # fmt: skip
    assert read(path, "SELECT series, count, total FROM overview WHERE level = 1 ORDER BY series") == [
        ("metric/loss", 2, 0.5), ("return", 1, 5.0), ("reward", 2, 1.0),
    ]  # fmt: skip
    assert read(path, "SELECT status FROM runs") == [("completed",)]


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_transaction_is_full_by_its_events_or_by_their_bytes(scribe: Scribe, size: int) -> None:
    info, seq = stream(), 1
    while not scribe.rows.full:
        assert scribe.rows.events < limits.COMMIT_EVENTS_MAX
        assert scribe.rows.bytes < limits.COMMIT_BYTES_MAX
        scribe.put(info, *(step(seq + number, observation=raw(bytes(size))) for number in range(20)))
        seq += 20
    assert (scribe.rows.events >= limits.COMMIT_EVENTS_MAX, scribe.rows.bytes >= limits.COMMIT_BYTES_MAX) == (
        not size, bool(size),
    )  # fmt: skip
    rows = scribe.rows
    assert scribe.commit() == {info.stream: seq - 1}
    assert not rows.tables, "what is written is not kept in memory while the disk works"
    assert not scribe.rows.full


def test_a_batch_that_lies_about_its_records_is_kept_whole_and_passed(path: Path) -> None:
    info = stream()
    with Scribe(path) as scribe:
        scribe.put(info, step(1), step(2))
        scribe.commit()
        scribe.put_body(info, b"these are no records", 1, 4, skip=2)
        assert scribe.commit() == {info.stream: 4}
        scribe.put(info, step(5))
        assert scribe.commit() == {info.stream: 5}
    assert covered(path, info.stream) == [1, 2, 3, 4, 5]
    assert read(path, "SELECT seq, last_seq, reason, event FROM quarantine") == [
        (3, 4, "bad_body", b"these are no records")
    ]


def test_records_whose_lengths_do_not_fill_the_body_are_not_cut_into_wrong_events(path: Path) -> None:
    info = stream()
    event = encoded(step(1))
    body = b"\x93\xce" + (len(event) + 5).to_bytes(4, "big") + b"\xce\0\0\0\0" + event
    with Scribe(path) as scribe:
        scribe.put_body(info, body, 1, 1)
        assert scribe.commit() == {info.stream: 1}
    assert read(path, "SELECT seq, last_seq, reason, event FROM quarantine") == [(1, 1, "bad_body", body)]


def test_what_is_stored_already_is_skipped(path: Path) -> None:
    info = stream()
    with Scribe(path) as scribe:
        scribe.put(info, step(1), step(2), step(3))
        scribe.commit()
        scribe.put(info, step(2), step(3), episode(4), step(5), skip=2)
        assert scribe.commit() == {info.stream: 5}
    assert covered(path, info.stream) == [1, 2, 3, 4, 5]
    assert read(path, "SELECT count(*) FROM quarantine") == [(0,)]


def test_gaps_are_rows_with_their_range_and_reason(path: Path) -> None:
    info = stream()
    with Scribe(path) as scribe:
        scribe.put(info, step(1))
        scribe.put_gap(info, 2, 1_000, "spool_full")
        scribe.put(info, step(1_001))
        scribe.put_gap(info, 1_000, 1_010, "disk_full", skip=2)
        assert scribe.commit() == {info.stream: 1_010}
    assert covered(path, info.stream) == list(range(1, 1_011))
    rows = read(path, "SELECT seq, last_seq, reason, time_ns FROM gaps")
    assert rows == [(2, 1_000, "spool_full", TIME_NS), (1_002, 1_010, "disk_full", TIME_NS)]


def test_a_gap_that_is_of_other_seqs_than_its_batch_is_kept_aside(path: Path) -> None:
    info = stream()
    event = records.frame(encoded(events.Gap(2, 900, "spool_full", TIME_NS)))
    with Scribe(path) as scribe:
        scribe.put_body(info, event, 1, 9, flags=batch.FLAG_GAP)
        assert scribe.commit() == {info.stream: 9}
    assert read(path, "SELECT count(*) FROM gaps") == [(0,)]
    assert read(path, "SELECT seq, last_seq, reason, event FROM quarantine") == [(1, 9, "wrong_seq", event)]
    assert covered(path, info.stream) == list(range(1, 10))


def test_a_gap_that_cannot_be_read_is_still_a_gap(path: Path) -> None:
    info = stream()
    with Scribe(path) as scribe:
        scribe.put_body(info, records.frame(b"\x93\xa3gap\x01\xa1\xff"), 1, 9, flags=batch.FLAG_GAP)
        assert scribe.commit() == {info.stream: 9}
    assert read(path, "SELECT seq, last_seq, reason FROM gaps") == [(1, 9, "unreadable")]


# -- runs --------------------------------------------------------------------------------------------------------
def run_row(path: Path, run: str = "run") -> tuple[str, str | None, int | None, Any]:
    [(status, reason, finished, metadata)] = read(
        path, "SELECT status, reason, finished_ns, metadata FROM runs WHERE run_id = ?", run
    )
    return status, reason, finished, values.decode(metadata)


def test_a_run_is_over_when_its_last_stream_is_and_the_worst_outcome_is_its_own(path: Path) -> None:
    one, two = stream(worker="one"), stream(worker="two")
    with Scribe(path) as scribe:
        scribe.put(one, run_started(1, one))
        scribe.put(two, run_started(1, two))
        scribe.commit()
        assert run_row(path)[:3] == ("running", None, None)
        scribe.put(one, run_completed(2, "failed", "out of memory"))
        scribe.commit()
        assert run_row(path)[0] == "running"
        scribe.put(two, run_completed(2))
        scribe.commit()
        assert run_row(path)[:3] == ("failed", "out of memory", TIME_NS + 2)
        three = stream(worker="three")
        scribe.put(three, run_started(1, three))
        scribe.commit()
        assert run_row(path)[:3] == ("running", None, None)


def test_metadata_of_all_streams_of_a_run_is_merged_and_later_values_win(path: Path) -> None:
    one = stream(worker="one", metadata=values.encode({"game": "lake", "size": 4}))
    two = stream(worker="two")
    with Scribe(path) as scribe:
        scribe.put(one, run_started(1, one, {"game": "lake", "size": 4}))
        scribe.put(two, run_started(1, two, {"seed": 7, "size": 8}))
        scribe.put(one, run_metadata(2, {"note": [1, None, "é"]}))
        scribe.commit()
    assert run_row(path)[3] == {"game": "lake", "size": 8, "seed": 7, "note": [1, None, "é"]}
    assert len(read(path, "SELECT * FROM streams")) == 2


@pytest.mark.parametrize(
    "odd",
    [b"\xc0", b"\x93\x01\x02\x03", b"\x81\x01\x02", b"\x81\xa1\xff\x01", b"\x81\xa1a" + b"\x91" * 5_000 + b"\x01"],
)
def test_metadata_that_is_no_map_of_names_stops_nothing(path: Path, odd: bytes) -> None:
    info = stream(metadata=odd)
    with Scribe(path) as scribe:
        event = encoded(run_started(1, info, "@")).replace(values.encode("@"), odd)
        scribe.put(info, event, run_metadata(2, {"a": 1}), first_seq=1)
        assert scribe.commit() == {info.stream: 2}
    assert covered(path, info.stream) == [1, 2]
    found = msgspec.msgpack.decode(read(path, "SELECT metadata FROM runs")[0][0], type=dict[str, msgspec.Raw])
    assert found["a"] == msgspec.Raw(b"\x01")


def test_metadata_cannot_grow_without_end(path: Path) -> None:
    info = stream()
    with Scribe(path) as scribe:
        for seq in range(1, 6):
            scribe.put(info, run_metadata(seq, {f"blob{seq}": b"x" * 3 * 2**20}))
            scribe.commit()
    assert read(path, "SELECT count(*) FROM lifecycle") == [(5,)]
    assert set(run_row(path)[3]) == {"blob1", "blob2"}


# -- overview ----------------------------------------------------------------------------------------------------
def bucket_of(found: list[float]) -> tuple[float, float, float, float, int]:
    return min(found), max(found), found[0], found[-1], len(found)


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_overview_equals_a_recount_of_the_rows(path: Path, seed: int, ascending: bool) -> None:
    chance = random.Random(seed)
    strides = [1, 1, 1, 1, 1, 3, 200] if ascending else [1, 1, 1, 1, 1, 3, 200, -5]
    expected: dict[tuple[str, str, int, int], list[float]] = defaultdict(list)
    info = stream()
    seq = place = 0
    with Scribe(path) as scribe:
        for _ in range(60):
            found: list[events.Event] = []
            odd = {what for what in ("stride", "agent", "value", "kind", "step") if chance.random() < 0.4}  # else plain
            for _ in range(chance.randrange(1, 200)):
                seq += 1
                place += chance.choice(strides) if "stride" in odd else 1
                agent = chance.choice("aaaab") if "agent" in odd else "a"
                value: float | None = chance.uniform(-9, 9)
                if "value" in odd:
                    value = chance.choice([None, math.nan, math.inf, 0.0, value])
                kind = (
                    chance.choice(["reward"] * 8 + ["return", "metric/loss", "metric/é"]) if "kind" in odd else "reward"
                )
                step_known = ascending or "step" not in odd or chance.random() < 0.9
                if kind == "reward":
                    found.append(step(seq, agent, global_step=place if step_known else None, reward=value))
                elif kind == "return":
                    found.append(episode(seq, agent, global_step=place if step_known else None, total_reward=value))
                else:
                    found.append(metric(seq, kind.partition("/")[2], value, agent))
                    found[-1].global_step = place if step_known else None  # type: ignore[attr-defined]
                if value is not None and math.isfinite(value):
                    for level in (1, 2, 3):
                        at = (place if step_known else seq) >> (8 * level)
                        expected[agent, kind, level, at].append(value)
            scribe.put(info, *found)
            if chance.random() < 0.5:
                scribe.commit()
        scribe.commit()
    rows = read(path, "SELECT agent_id, series, level, bucket, min, max, first, last, count, total FROM overview")
    recount = {key: bucket_of(found) for key, found in expected.items()}
    assert {row[:4]: row[4:9] for row in rows if row[2] == 1} == {key: recount[key] for key in recount if key[2] == 1}
    # When steps go back, first and last of the coarser levels are of some of their buckets.
    exact = slice(5) if ascending else slice(2)
    assert {row[:4]: (row[4:9][exact], row[8]) for row in rows} == {
        key: (found[exact], found[4]) for key, found in recount.items()
    }
    for row in rows:
        assert row[9] == pytest.approx(math.fsum(expected[row[:4]]), abs=1e-6)


def test_a_total_that_is_no_number_stops_nothing(path: Path) -> None:
    info = stream()
    huge = 1.7e308
    with Scribe(path) as scribe:
        for seq, reward in [(1, huge), (3, -huge), (5, 1.0)]:
            scribe.put(info, step(seq, reward=reward), step(seq + 1, reward=reward))
            assert scribe.commit() == {info.stream: seq + 1}
    assert read(path, "SELECT min, max, count, total FROM overview WHERE level = 1") == [(-huge, huge, 6, None)]


# -- opening -----------------------------------------------------------------------------------------------------
def refusal(path: Path, opener: Callable[[Path], Any] = Writer) -> str:
    with pytest.raises(StoreError) as caught:
        opener(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert caught.value.exit_code == 1
    return sentence


def test_a_second_writer_is_refused(scribe: Scribe, path: Path) -> None:
    assert "is being written by another store process" in refusal(path)
    imports = "import sys; from pathlib import Path; from telefabric.store.write.writer import Writer; "
    code = imports + "Writer(Path(sys.argv[1]))"
    child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "is being written by another store process" in child.stderr
    scribe.close()
    try:
        Writer(path).close()
    finally:
        scribe.writer = Writer(path)


def test_a_file_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    assert "is a database of another program" in refusal(path)
    assert "is a database of another program" in refusal(path, open_reader)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"these are my notes, please keep them\n" * 100)
    before = path.read_bytes()
    assert "is not a database" in refusal(path)
    assert "is not a database: name a store file with --store" in refusal(path, open_reader)
    assert path.read_bytes() == before


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    Scribe(path).close()
    admin = apsw.Connection(str(path))
    admin.pragma("user_version", VERSION + 1)
    admin.close()
    for opener in (Writer, open_reader):
        sentence = refusal(path, opener)
        assert f"store version {VERSION + 1}, this program reads up to {VERSION}" in sentence
        assert "pip install -U telefabric" in sentence


def test_a_damaged_store_is_refused_with_what_to_do(path: Path) -> None:
    with Scribe(path) as scribe:
        scribe.put(stream(), step(1))
        scribe.commit()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4_000)
    assert "is damaged" in refusal(path)


def test_a_reader_says_when_there_is_no_store(path: Path) -> None:
    assert f"there is no store at {path}" in refusal(path, open_reader)
    path.touch()
    assert "holds no store yet" in refusal(path, open_reader)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "choose another folder with --data" in refusal(tmp_path / "file" / "below" / "telemetry.sqlite")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that anyone can enter, in a test without root's rights: root may write whatever the bits say."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            if not hasattr(os, "seteuid"):
                pytest.skip("rights cannot be given up here")
            yield folder  # the test makes its files first, and calls give_up_rights
            os.seteuid(0)
        else:
            yield folder
        for found in (folder, *folder.rglob("*")):
            found.chmod(0o755)


def give_up_rights() -> None:
    if os.geteuid() == 0:
        os.seteuid(65_534)


def test_a_folder_that_may_not_be_written_is_one_sentence(as_nobody: Path) -> None:
    as_nobody.chmod(0o555)
    give_up_rights()
    sentence = refusal(as_nobody / "telemetry.sqlite")
    assert "cannot be written: Permission denied: choose another folder with --data" in sentence


def test_a_file_that_may_not_be_written_is_one_sentence(as_nobody: Path) -> None:
    path = as_nobody / "telemetry.sqlite"
    Scribe(path).close()
    path.chmod(0o444)
    as_nobody.chmod(0o777)
    (as_nobody / "telemetry.sqlite.lock").chmod(0o666)
    give_up_rights()
    assert "check the rights of the file and its folder" in refusal(path)


def test_a_file_that_may_not_be_read_is_one_sentence(as_nobody: Path) -> None:
    path = as_nobody / "telemetry.sqlite"
    Scribe(path).close()
    path.chmod(0o000)
    give_up_rights()
    assert "cannot be opened for reading: check the rights" in refusal(path, open_reader)


def test_a_sqlite_that_can_corrupt_the_store_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for found in ("3.51.2", "3.9.99", "3.44.0"):
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda found=found: found)
        sentence = refusal(path)
        assert found in sentence
        assert "pip install -U apsw" in sentence
    assert not path.exists()
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.100.0")
    database.require_sqlite()


def test_an_empty_file_becomes_a_store_of_this_version(path: Path) -> None:
    path.touch()
    Scribe(path).close()
    connection = open_reader(path)
    assert connection.pragma("application_id") == APPLICATION_ID
    assert connection.pragma("user_version") == VERSION == max(database.MIGRATIONS)
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("page_size") == 8_192
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables >= {*COLUMNS, "runs", "streams", "watermarks", "overview"}
    strict = connection.execute("SELECT name FROM pragma_table_list WHERE type = 'table' AND NOT strict").fetchall()
    assert [name for (name,) in strict if not name.startswith("sqlite_")] == []
    connection.close()


def test_commits_wait_for_the_disk(scribe: Scribe) -> None:
    assert scribe.writer._db.pragma("synchronous") == 2


def test_a_checkpoint_empties_the_log_unless_a_reader_holds_it(scribe: Scribe, path: Path) -> None:
    wal = path.with_name(path.name + "-wal")
    info = stream()
    scribe.put(info, step(1))
    scribe.commit()
    assert not scribe.writer.checkpoint().busy
    assert wal.stat().st_size == 0
    reader = open_reader(path)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM steps").fetchall()
    scribe.writer._db.set_busy_timeout(1)
    scribe.put(info, step(2, info=raw({"a": 1})))
    scribe.commit()
    assert scribe.writer.checkpoint().busy
    reader.close()
    assert not scribe.writer.checkpoint().busy
    assert wal.stat().st_size == 0
