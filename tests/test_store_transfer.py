"""`telefabric store extract` and `store merge`: runs move between files exactly, again after a kill, or not at all."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner
from faultvfs import FaultVFS
from store_fixtures import (
    Scribe,
    episode,
    frame,
    log,
    metric,
    reset,
    run_completed,
    run_metadata,
    run_started,
    step,
    stream,
    void,
)

from telefabric import limits
from telefabric.cli.read import dump
from telefabric.cli.services import store
from telefabric.errors import StoreError, UsageError
from telefabric.store.file.database import MIGRATIONS
from telefabric.store.file.verify import verify
from telefabric.store.read.file_reader import FileReader
from telefabric.store.write import transfer
from telefabric.store.write.transfer import extract, merge
from telefabric.wire.control import StreamInfo
from telefabric.wire.edits import Bookmark, Marked

SAMPLES = Path(__file__).parent / "samples"
A, B = "run a", "run b"


def infos() -> tuple[StreamInfo, StreamInfo, StreamInfo]:
    """Two attempts at a run, and another run."""
    first, other = stream(A, metadata=b"\x81\xa1x\x01"), stream(B, agent="ada", host="mars", pid=7, carrier="key")
    return first, stream(A, worker="second", after_ns=10**15), other


def fill(path: Path) -> tuple[StreamInfo, StreamInfo, StreamInfo]:
    """Everything that a store can hold, of two runs whose events came by turns."""
    first, second, other = infos()
    with Scribe(path) as scribe:
        scribe.put(first, run_started(1, first, {"x": 1}), reset(2), *map(step, range(3, 1_500)))
        scribe.put(other, run_started(1, other), *(step(seq, "ada") for seq in range(2, 40)))
        scribe.commit()
        scribe.put_gap(first, 1_500, 1_510, "spool_full")
        scribe.put(
            first, episode(1_511), void(1_512, 3), metric(1_513, value=float("nan")), run_metadata(1_514, {"x": 2})
        )
        scribe.put(other, log(40), b"\x93\xa7unknown\x29\x01", metric(42, agent="ada"), first_seq=40)
        scribe.put_conflict(first, 1_400, *map(step, range(1_400, 1_405)))
        scribe.put_conflict(first, 1_400, *map(step, range(1_400, 1_405)))
        scribe.commit()
        scribe.put(second, run_started(1, second), *map(step, range(2, 1_300)), frame(1_300), run_completed(1_301))
        scribe.rows.lost.append(first.stream)
        scribe.commit()
        scribe.edit("tag", A, "good")
        scribe.edit("note", A, "why it is")
        scribe.edit("bookmark", A, Bookmark("agent_0", 0, 1, 2, None, "here"))
        scribe.edit("tag", B, "odd")
        scribe.edit("mark", A, Marked("failed", "by eye"))
        scribe.edit("untag", A, "no such tag")
    return first, second, other


def dumped(path: Path, run: str | None = None) -> list[dict[str, Any]]:
    """What `dump` writes, but for ids; and the times at which the store put something aside."""
    result = CliRunner().invoke(dump, ["--store", str(path), *(["--run", run] if run else [])], catch_exceptions=False)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return [{key: value for key, value in each.items() if key != "id"} for each in found]


def told(path: Path, run: str) -> list[Any]:
    """All that a file says of a run besides its events; without the file's own numbers."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    of_run = "WHERE run = (SELECT run FROM runs WHERE run_id = ?)"
    of_streams = f"stream IN (SELECT stream FROM streams {of_run})"
    queries = (
        ("runs", f"SELECT * FROM runs {of_run}"),
        ("streams", f"SELECT * FROM streams {of_run} ORDER BY stream_id"),
        ("bookmarks", f"SELECT * FROM bookmarks {of_run} ORDER BY bookmark"),
        ("edits", "SELECT * FROM edits WHERE run_id = ? ORDER BY edit"),
        ("overview", f"SELECT stream_id, overview.* FROM overview JOIN streams USING (stream) WHERE {of_streams}"),
        ("counts", f"SELECT stream_id, counts.* FROM counts JOIN streams USING (stream) WHERE {of_streams}"),
        ("places", f"SELECT stream_id, places.* FROM places JOIN streams USING (stream) WHERE {of_streams}"),
        ("marks", f"SELECT stream_id, stored_seq FROM watermarks JOIN streams USING (stream) WHERE {of_streams}"),
    )
    own = {"run", "stream", "bookmark", "edit", "id"}
    found = []
    for name, sql in queries:
        cursor = db.execute(sql, (run,))
        for row in cursor:
            columns = [column for column, _ in cursor.get_description()]
            found.append((name, {key: value for key, value in zip(columns, row, strict=True) if key not in own}))
    db.close()
    return sorted(found, key=repr)


def cli(*arguments: object) -> str:
    result = CliRunner().invoke(store, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_store_extracted_and_merged_elsewhere_is_equal_but_for_ids(tmp_path: Path) -> None:
    fill(source := tmp_path / "source.sqlite")
    with Scribe(there := tmp_path / "there.sqlite") as scribe:
        own = stream("its own")
        scribe.put(own, run_started(1, own), *map(step, range(2, 30)))
        scribe.commit()
    assert "Copied" in cli("extract", tmp_path / "both.sqlite", "--run", A, "--run", B, "--store", source)
    cli("merge", tmp_path / "both.sqlite", "--store", there)
    assert dumped(tmp_path / "both.sqlite") == dumped(source)
    assert [one for one in dumped(there) if one["run_id"] != "its own"] == dumped(source)
    for path in (tmp_path / "both.sqlite", there):
        assert verify(path).contradictions == 0
        for run in (A, B):
            assert told(path, run) == told(source, run)
    assert [name for name in os.listdir(tmp_path) if name.startswith("both")] == ["both.sqlite"]


def test_one_run_of_several_is_extracted_alone(tmp_path: Path) -> None:
    fill(source := tmp_path / "source.sqlite")
    moved = extract(source, tmp_path / "b.sqlite", [B])
    assert (moved.runs, moved.events) == (1, 42)
    assert dumped(tmp_path / "b.sqlite") == dumped(source, B)
    assert told(tmp_path / "b.sqlite", B) == told(source, B)


def test_of_a_run_in_both_what_is_newer_continues_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    first, second, _ = fill(source := tmp_path / "source.sqlite")
    merge(source, there := tmp_path / "there.sqlite")
    with Scribe(source) as scribe:
        scribe.put(second, metric(1_302), *map(step, range(1_303, 3_000)))
        scribe.put(first, log(1_515), run_metadata(1_516, {"y": 3}), run_completed(1_517, "failed", "out of memory"))
        scribe.rows.revived.append(first.stream)
        scribe.put_conflict(first, 1_400, *map(step, range(1_400, 1_405)))
        scribe.commit()
        scribe.edit("tag", A, "newer")
        scribe.edit("unbookmark", A, 1)
    moved = merge(source, there)
    assert moved.events == 1_698 + 3 + 1
    assert moved.notes == []
    assert told(there, A) == told(source, A)
    assert verify(there).contradictions == 0
    before = dumped(there), told(there, A)
    assert merge(source, there).events == 0
    assert (dumped(there), told(there, A)) == before
    with FileReader(source) as one, FileReader(there) as other:
        for info in (first, second):
            assert [row.event for row in one.stream_since(info.stream, 1_000).rows] == [
                row.event for row in other.stream_since(info.stream, 1_000).rows
            ]


def test_an_older_copy_takes_nothing_back(tmp_path: Path) -> None:
    first, *_ = fill(source := tmp_path / "source.sqlite")
    extract(source, older := tmp_path / "older.sqlite", [A])
    with Scribe(source) as scribe:
        scribe.put(first, run_metadata(1_515, {"x": 4}))
        scribe.commit()
        scribe.edit("note", A, "newer")
        scribe.edit("mark", A, Marked(None, None))
    before = told(source, A), dumped(source)
    assert merge(older, source) == (1, 0, [])
    assert (told(source, A), dumped(source)) == before


def test_a_gap_that_is_known_in_part_is_cut(tmp_path: Path) -> None:
    info = stream(A)
    for name, known in (("source", 5), ("there", 7)):
        with Scribe(tmp_path / name) as scribe:
            scribe.put(info, run_started(1, info), *map(step, range(2, 5)))
            scribe.put_gap(info, 5, known, "spool_full")
            if name == "source":
                scribe.put_gap(info, 6, 20, "spool_full")
                scribe.put(info, step(21))
            scribe.commit()
    assert merge(tmp_path / "source", tmp_path / "there").events == 2
    assert verify(tmp_path / "there").contradictions == 0
    with FileReader(tmp_path / "there") as reader:
        assert [(row.seq, row.last_seq) for row in reader.gaps().rows] == [(5, 7), (8, 20)]


def test_edits_made_apart_stay_and_are_told(tmp_path: Path) -> None:
    fill(source := tmp_path / "source.sqlite")
    merge(source, there := tmp_path / "there.sqlite", [A])
    for path, tag in ((source, "here"), (there, "there")):
        with Scribe(path) as scribe:
            scribe.edit("tag", A, tag)
    (note,) = merge(source, there).notes
    assert note.startswith(f"run {A!r} was edited in both files: it keeps the tags")
    with FileReader(there) as reader:
        run = reader.run(A)
    assert run is not None
    assert json.loads(run.tags) == ["good", "there"]


# -- what is refused ---------------------------------------------------------------------------------------------
def test_streams_that_differ_move_nothing(tmp_path: Path) -> None:
    info = stream(A)
    for name, reward in (("source", 1.0), ("there", 2.0)):
        with Scribe(tmp_path / name) as scribe:
            scribe.put(info, run_started(1, info), step(2, reward=reward), *map(step, range(3, 9 + int(reward))))
            scribe.put(info, step(9 + int(reward), reward=reward))
            other = stream("run " + name)
            scribe.put(other, run_started(1, other))
            scribe.commit()
    before = dumped(tmp_path / "there")
    with pytest.raises(StoreError, match=r"seq 10 of stream .* differs in .*: nothing was moved"):
        merge(tmp_path / "source", tmp_path / "there")
    assert dumped(tmp_path / "there") == before
    assert merge(tmp_path / "source", tmp_path / "there", ["run source"]).events == 1


def test_a_run_that_was_deleted_there_stays_deleted(tmp_path: Path) -> None:
    fill(source := tmp_path / "source.sqlite")
    merge(source, there := tmp_path / "there.sqlite")
    with Scribe(there) as scribe:
        assert scribe.edit("delete", A).outcome == "done"
    with pytest.raises(StoreError, match=f"run '{A}' was deleted from .*, and what is deleted stays so: nothing was"):
        merge(source, there)
    extract(source, only := tmp_path / "b.sqlite", [B])
    with Scribe(source) as scribe:
        scribe.edit("delete", A)
    extracted = dumped(source)
    assert extracted == dumped(only)


def test_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    fill(source := tmp_path / "source.sqlite")
    with pytest.raises(StoreError, match="there is no run 'c' in"):
        extract(source, tmp_path / "c.sqlite", ["c"])
    assert not [name for name in os.listdir(tmp_path) if name.startswith("c")]
    with pytest.raises(StoreError, match="are the same file"):
        merge(source, source)
    with pytest.raises(StoreError, match="is there already"):
        extract(source, source, [A])
    with Scribe(tmp_path / "there.sqlite"), pytest.raises(StoreError, match="is being written by another store"):
        merge(source, tmp_path / "there.sqlite")
    with pytest.raises(UsageError, match="name the runs with --run"):
        cli("extract", tmp_path / "c.sqlite", "--store", source)
    merge(source, tmp_path / "c.sqlite.part", [B])
    with pytest.raises(StoreError, match="is of another extract, with run run b"):
        extract(source, tmp_path / "c.sqlite", [A])


# -- while the store runs, a kill, a full disk --------------------------------------------------------------------
def test_an_extract_beside_a_running_store_takes_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, other = fill(source := tmp_path / "source.sqlite")
    expected = dumped(source)
    with Scribe(source) as scribe:
        monkeypatch.setattr(limits, "QUERY_ROWS_MAX", 100)
        seqs = iter(range(1_515, 10_000))

        def write_on(done: int, total: int) -> None:
            scribe.put(first, step(next(seqs)))
            late = stream("late")
            scribe.put(late, run_started(1, late))
            scribe.commit()

        extract(source, tmp_path / "both.sqlite", [A, B], write_on)
    assert dumped(tmp_path / "both.sqlite") == expected
    assert other.run_id == B


_KILLED = """
import os, sys
from pathlib import Path
from telefabric.store.write import transfer
def stop(done, total):
    if done >= int(sys.argv[3]): os.kill(os.getpid(), 9)
transfer.extract(Path(sys.argv[1]), Path(sys.argv[2]), ["run a", "run b"], stop)
"""


def test_an_extract_that_is_killed_again_and_again_is_whole_in_the_end(tmp_path: Path) -> None:
    fill(source := tmp_path / "source.sqlite")
    target = tmp_path / "both.sqlite"
    for done in (1, 1_900, 2_800):
        command = [sys.executable, "-c", _KILLED, str(source), str(target), str(done)]
        assert subprocess.run(command, check=False).returncode == -9
        assert not target.exists()
    extract(source, target, [A, B])
    assert dumped(target) == dumped(source)
    assert verify(target).contradictions == 0
    assert told(target, A) == told(source, A)


def test_the_last_line_counts_all_that_was_copied_and_says_where_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(source := tmp_path / "source.sqlite")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", _KILLED, str(source), "both.sqlite", "1900"]
    assert subprocess.run(command, check=False).returncode == -9
    rows = len(dumped(source))
    said = cli("extract", "both.sqlite", "--run", A, "--run", B, "--store", source)
    assert said == f"Copied: {rows:,} events of 2 runs to {tmp_path / 'both.sqlite'}.\n"
    one = len(dumped(source, B))
    assert json.loads(cli("extract", "b.sqlite", "--run", B, "--store", source, "--json")) == {
        "file": str(tmp_path / "b.sqlite"), "runs": 1, "events": one, "notes": []
    }  # fmt: skip
    assert cli("merge", "b.sqlite", "--store", "both.sqlite").startswith("Copied: 0 events of 1 run to /")
    assert cli("backup", "copy.sqlite", "--store", source).endswith(f"bytes to {tmp_path / 'copy.sqlite'}.\n")


@pytest.mark.parametrize(
    ("command", "again"), [("extract", "continues"), ("merge", "continues"), ("backup", "begins again")]
)
def test_a_copy_that_is_interrupted_says_what_the_same_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, again: str
) -> None:
    def interrupt(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    fill(source := tmp_path / "source.sqlite")
    monkeypatch.setattr(transfer, "merge", interrupt)
    monkeypatch.setattr("telefabric.store.file.backup.backup", interrupt)
    more = ["--run", A] if command == "extract" else []
    there = tmp_path / "there.sqlite"
    files = [there, "--store", source] if command != "merge" else [source, "--store", source]
    result = CliRunner().invoke(store, list(map(str, [command, *files, *more])))
    assert result.stderr.startswith(f"telefabric: interrupted: the same command {again}\n")


def test_merge_says_that_it_makes_a_store_and_nothing_of_lost_streams(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(source := tmp_path / "source.sqlite")
    there = tmp_path / "typo.sqlite"
    for said in (f"telefabric: there was no store {there}: merge made it\n", ""):
        result = CliRunner().invoke(store, ["merge", str(source), "--store", str(there)])
        assert (result.exit_code, result.stderr) == (0, said)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_full_disk_is_a_sentence_and_the_next_attempt_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(source := tmp_path / "source.sqlite")
    target = tmp_path / "there.sqlite"
    merge(source, target, [B])
    vfs, writer = FaultVFS("full", "write", 40, lasting=True), transfer.Writer
    monkeypatch.setattr(transfer, "Writer", lambda path, **given: writer(path, "full", **given))
    with pytest.raises(StoreError, match=r"the disk of .* is full: make room"):
        merge(source, target)
    vfs.heal()
    merge(source, target)
    vfs.unregister()
    assert sorted(map(repr, dumped(target))) == sorted(map(repr, dumped(source)))
    assert verify(target).contradictions == 0
    assert told(target, A) == told(source, A)


@pytest.mark.parametrize("version", MIGRATIONS)
def test_files_of_older_versions_are_merged(tmp_path: Path, version: int) -> None:
    source, there = tmp_path / "source.sqlite", tmp_path / "there.sqlite"
    connection = apsw.Connection(str(source))
    connection.execute((SAMPLES / f"store-{version}.sql").read_text("utf-8")).fetchall()
    connection.close()
    merge(source, there)
    assert dumped(there) == dumped(source)
    assert verify(there).contradictions == 0
