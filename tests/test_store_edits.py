"""Edits in the store: what each changes, that none is applied twice, and what stays of a run that was deleted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from store_fixtures import LOOPBACK, TIME_NS, Scribe, episode, frame, metric, run_completed, run_started, step, stream

from telefabric import limits
from telefabric.store.file.backup import backup
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import verify
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import Run
from telefabric.store.service import Store
from telefabric.store.tables.columns import COLUMNS
from telefabric.store.write.writer import Writer
from telefabric.wire import control
from telefabric.wire.edits import Bookmark, Marked

RUN, OTHER = "run", "other"
LATER_NS = 10 * 365 * 24 * 3_600 * 1_000_000_000
"""After any deletion of these tests."""


@pytest.fixture
def scribe(tmp_path: Path) -> Iterator[Scribe]:
    """Two runs, of which the first has ended."""
    with Scribe(tmp_path / FILE_NAME) as scribe:
        info, other = stream(RUN), stream(OTHER)
        scribe.put(info, run_started(1, info), *map(step, range(2, 2_000)))
        scribe.put(info, episode(2_000), metric(2_001), frame(2_002), run_completed(2_003, "failed", "the network"))
        scribe.put(other, run_started(1, other), *map(step, range(2, 50)))
        scribe.commit()
        scribe.infos = {RUN: info, OTHER: other}  # type: ignore[attr-defined]
        yield scribe


def info_of(scribe: Scribe, run: str = RUN) -> control.StreamInfo:
    found: control.StreamInfo = scribe.infos[run]  # type: ignore[attr-defined]
    return found


def the_run(scribe: Scribe, run_id: str = RUN) -> Run:
    with FileReader(scribe.path) as reader:
        found = reader.run(run_id)
    assert found is not None
    return found


def rows(scribe: Scribe, sql: str) -> list[tuple[Any, ...]]:
    db = apsw.Connection(str(scribe.path), flags=apsw.SQLITE_OPEN_READONLY)
    found: list[tuple[Any, ...]] = db.execute(sql).fetchall()
    db.close()
    return found


def remove_all(scribe: Scribe, a_piece: int = 100) -> int:
    """How many pieces it took."""
    pieces = 0
    while scribe.writer.remove_deleted(a_piece) is not None:
        pieces += 1
    return pieces


def test_tags_are_a_set_in_the_order_in_which_they_came(scribe: Scribe) -> None:
    for tag in ("good", "größe 2", "good"):
        assert scribe.edit("tag", RUN, tag).outcome == "done"
    assert json.loads(the_run(scribe).tags) == ["good", "größe 2"]
    assert scribe.edit("untag", RUN, "good").outcome == "done"
    assert json.loads(the_run(scribe).tags) == ["größe 2"]
    refused = scribe.edit("untag", RUN, "good")
    assert (refused.outcome, "no tag 'good'" in refused.sentence) == ("refused", True)
    assert json.loads(the_run(scribe, OTHER).tags) == []


def test_a_run_has_a_limited_number_of_tags(scribe: Scribe) -> None:
    answers = [scribe.edit("tag", RUN, f"tag {number}").outcome for number in range(limits.TAGS_MAX + 1)]
    assert answers == ["done"] * limits.TAGS_MAX + ["refused"]


def test_a_note_is_replaced(scribe: Scribe) -> None:
    scribe.edit("note", RUN, "first")
    scribe.edit("note", RUN, "second\nline")
    assert the_run(scribe).notes == "second\nline"


def test_bookmarks_are_places_with_a_label_and_go_by_number(scribe: Scribe) -> None:
    place = Bookmark("agent_0", 0, 17, 3, b"s" * 16, "the goal")
    assert scribe.edit("bookmark", RUN, place).outcome == "done"
    assert scribe.edit("bookmark", OTHER, ["agent_0", 0, 1, 2]).outcome == "done"
    with FileReader(scribe.path) as reader:
        mine, another = reader.bookmarks()
        assert reader.bookmarks(OTHER) == [another]
    assert (mine.run_id, mine.agent_id, mine.env_index, mine.episode_index, mine.step_index) == (
        RUN,
        "agent_0",
        0,
        17,
        3,
    )
    assert (mine.stream_id, mine.label, mine.by) == (b"s" * 16, "the goal", "ada")
    assert (another.stream_id, another.label) == (None, "")
    assert scribe.edit("unbookmark", OTHER, mine.bookmark).outcome == "refused", "of another run"
    assert scribe.edit("unbookmark", RUN, mine.bookmark).outcome == "done"
    with FileReader(scribe.path) as reader:
        assert reader.bookmarks() == [another]


def test_a_mark_wins_over_the_computed_outcome_and_is_kept_apart_from_it(scribe: Scribe) -> None:
    assert (the_run(scribe).status, the_run(scribe).marked_by) == ("failed", None)
    scribe.edit("mark", RUN, Marked("completed", "it was only the network"))
    run = the_run(scribe)
    assert (run.status, run.reason, run.marked_by) == ("completed", "it was only the network", "ada")
    assert run.computed_status == "failed"
    assert run.marked_ns is not None
    scribe.put(info_of(scribe), run_completed(2_004, "cancelled"))
    scribe.commit()
    assert (the_run(scribe).status, the_run(scribe).computed_status) == ("completed", "cancelled")
    scribe.edit("mark", RUN, Marked(None))
    assert (the_run(scribe).status, the_run(scribe).marked_by, the_run(scribe).marked_ns) == ("cancelled", None, None)


def test_a_run_that_runs_is_not_marked_and_one_that_was_marked_and_runs_again_runs(scribe: Scribe) -> None:
    assert "runs: mark it when it has ended" in scribe.edit("mark", OTHER, Marked("failed")).sentence
    scribe.rows.lost.append(info_of(scribe, OTHER).stream)
    scribe.commit()
    assert scribe.edit("mark", OTHER, Marked("failed", "the machine burnt")).outcome == "done"
    assert the_run(scribe, OTHER).status == "failed"
    scribe.rows.revived.append(info_of(scribe, OTHER).stream)
    scribe.commit()
    assert (the_run(scribe, OTHER).status, the_run(scribe, OTHER).marked_by) == ("running", None)


def test_a_run_is_archived_and_taken_back(scribe: Scribe) -> None:
    assert the_run(scribe).archived_ns is None
    scribe.edit("archive", RUN)
    assert the_run(scribe).archived_ns is not None
    scribe.edit("unarchive", RUN)
    assert the_run(scribe).archived_ns is None


def test_an_edit_that_comes_again_is_answered_as_before_and_changes_nothing(scribe: Scribe) -> None:
    first, second, id = b"1" * 16, b"2" * 16, os.urandom(16)
    answer = scribe.edit("note", RUN, "one", first)
    scribe.edit("note", RUN, "two", second)
    assert scribe.edit("note", RUN, "one", first) == answer
    assert the_run(scribe).notes == "two"
    other = scribe.edit("note", RUN, "three", first)
    assert (other.outcome, the_run(scribe).notes) == ("refused", "two")
    refused = scribe.edit("tag", "nothing", "x", id)
    scribe.put(later := stream("nothing", after_ns=LATER_NS), run_started(1, later))
    scribe.commit()
    assert scribe.edit("tag", "nothing", "x", id) == refused, "even where it would make sense by now"


def test_every_judged_edit_is_in_the_audit_with_its_principal(scribe: Scribe) -> None:
    scribe.edit("tag", RUN, "good", b"1" * 16)
    scribe.edit("tag", RUN, "good", b"1" * 16)
    scribe.edit("delete", OTHER, by="eve")
    scribe.edit("delete", RUN)
    audit = rows(scribe, "SELECT by, command, run_id, value, outcome, sentence FROM edits ORDER BY edit")
    assert [row[:3] for row in audit] == [("ada", "tag", RUN), ("eve", "delete", OTHER), ("ada", "delete", RUN)]
    assert [row[4] for row in audit] == ["done", "refused", "done"]
    assert msgspec.msgpack.decode(audit[0][3]) == "good"
    assert all(row[5] for row in audit)


@pytest.mark.parametrize(
    ("command", "value"),
    [("tag", 7), ("note", "x" * limits.EDIT_VALUE_BYTES_MAX), ("mark", ["splendid"]), ("delete", 1), ("explode", None)],
)
def test_the_store_checks_values_itself(scribe: Scribe, command: str, value: object) -> None:
    before = the_run(scribe)
    assert scribe.edit(command, RUN, value).outcome == "refused"
    assert the_run(scribe) == before


def test_an_unknown_run_is_a_sentence(scribe: Scribe) -> None:
    answer = scribe.edit("archive", "nothing")
    assert (answer.outcome, answer.sentence) == ("refused", "the store has no run 'nothing': see telefabric runs list")


def test_a_run_that_runs_is_not_deleted(scribe: Scribe) -> None:
    answer = scribe.edit("delete", OTHER)
    assert (answer.outcome, "stop it first" in answer.sentence) == ("refused", True)
    assert the_run(scribe, OTHER).status == "running"


def test_a_deleted_run_is_gone_at_once_and_its_rows_go_in_pieces(scribe: Scribe) -> None:
    scribe.edit("bookmark", RUN, Bookmark("agent_0", 0, 1, 2))
    id = info_of(scribe).stream
    with FileReader(scribe.path) as before:
        assert len(before.events(run_id=RUN).rows) == 2_000
        kept = before.events(run_id=OTHER).rows
        assert scribe.edit("delete", RUN).outcome == "done"
        for removed in (False, True):
            assert before.run(RUN) is None
            assert before.bookmarks() == before.streams(RUN) == before.series(RUN) == []
            assert before.events().rows == before.newest(5_000).rows == kept
            assert before.stream_since(id, 0).rows == before.steps_since({id: 0}).rows == []
            assert before.stream_since(id, 0).last == 2_003, "nobody waits for what will never come"
            assert before.events(run_id=RUN).rows == before.episodes_for_run(RUN).rows == []
            assert verify(scribe.path).contradictions == 0
            if not removed:
                assert scribe.writer.remove_deleted(100) is not None
                assert rows(scribe, "SELECT count(*) FROM steps")[0][0] > 1_000
                assert remove_all(scribe) > 10
    deleted = rows(scribe, "SELECT stream FROM deleted_streams")[0][0]
    for table in (*COLUMNS, "counts", "places", "overview", "watermarks", "streams"):
        assert rows(scribe, f"SELECT count(*) FROM {table} WHERE stream = {deleted}") == [(0,)], table


def test_a_spool_that_comes_after_the_deletion_is_acknowledged_counted_and_not_stored(scribe: Scribe) -> None:
    """Of a stream that was known, and of one that was not."""
    info = info_of(scribe)
    scribe.edit("delete", RUN)
    remove_all(scribe)
    assert scribe.writer.stored_seq(info.stream) == 2_003
    assert scribe.writer.over(info.stream), "nobody waits for its worker"
    unknown = stream(RUN, "another worker")
    scribe.put(info, step(2_004), step(2_005))
    scribe.put(unknown, run_started(1, unknown), *map(step, range(2, 11)))
    assert scribe.commit() == {info.stream: 2_005, unknown.stream: 10}
    scribe.put(unknown, step(11))
    assert scribe.commit() == {unknown.stream: 11}
    assert scribe.writer.stored_seq(info.stream) == 2_005
    assert rows(scribe, "SELECT stored_seq, discarded FROM deleted_streams ORDER BY stream") == [(2_005, 2), (11, 11)]
    with FileReader(scribe.path) as reader:
        assert [one.run_id for one in reader.runs()] == [OTHER]
        assert {one.run_id for one in reader.events().rows} == {OTHER}
    assert verify(scribe.path).contradictions == 0


def test_events_that_wait_for_their_commit_are_stored_before_an_edit_is_judged(tmp_path: Path) -> None:
    """So that no row is written for a run that is gone, and the watermark that stays is that of all that was taken."""
    info = stream(RUN)
    with Scribe(tmp_path / FILE_NAME) as scribe:
        scribe.put(info, run_started(1, info), run_completed(2))
        scribe.commit()
    service = Store(LOOPBACK, scribe.path)
    scribe.writer, scribe.rows = service._writer, service._rows
    scribe.put(info, step(3), step(4))
    service.edit(control.Edit(b"d" * 16, "delete", RUN))
    scribe.rows = service._rows
    scribe.put(info, step(5))
    service._commit_all()
    assert service._writer.stored_seq(info.stream) == 5
    service.close()
    assert rows(scribe, "SELECT stored_seq, discarded FROM deleted_streams") == [(5, 1)]
    assert verify(scribe.path).contradictions == 0


def test_a_run_of_the_same_name_that_begins_later_is_a_run_of_its_own(scribe: Scribe) -> None:
    scribe.edit("delete", RUN)
    again = stream(RUN, after_ns=LATER_NS)
    scribe.put(again, run_started(1, again), step(2))
    scribe.commit()
    remove_all(scribe)
    with FileReader(scribe.path) as reader:
        assert [one.kind for one in reader.events(run_id=RUN).rows] == ["run_started", "step"]
    assert the_run(scribe).started_ns == TIME_NS + LATER_NS


def test_numbers_of_what_was_deleted_are_never_used_again(tmp_path: Path) -> None:
    """A reader goes on from the newest id, and remembers streams by their numbers."""
    path = tmp_path / FILE_NAME
    with Scribe(path) as scribe:
        info = stream(RUN)
        scribe.put(info, run_started(1, info), run_completed(2))
        scribe.commit()
        scribe.edit("delete", RUN)
        remove_all(scribe)
    with Scribe(path) as scribe:
        other = stream(OTHER)
        scribe.put(other, run_started(1, other))
        scribe.commit()
        assert rows(scribe, "SELECT run, stream, id FROM lifecycle") == [(2, 2, 3)]


def test_a_deletion_goes_on_after_a_restart_and_backups_keep_what_was_deleted(scribe: Scribe, tmp_path: Path) -> None:
    scribe.edit("delete", RUN)
    scribe.writer.remove_deleted(100)
    copy = tmp_path / "copy.sqlite"
    backup(scribe.path, copy)
    writer = Writer(copy)
    while writer.remove_deleted(1_000) is not None:
        pass
    assert writer.stored_seq(info_of(scribe).stream) == 2_003
    writer.close()
    assert verify(copy).contradictions == 0
