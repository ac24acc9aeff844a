"""The list of runs is followed by what changed in it: its moment, and the runs that changed since an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from olderstores import as_version
from store_fixtures import Scribe, episode, query_behind_broker, run_completed, run_metadata, run_started, step, stream

from telefabric.errors import OlderStore
from telefabric.feed import stored_runs
from telefabric.feed.stored_runs import StoredRun, StoredRuns
from telefabric.store.file.database import FILE_NAME
from telefabric.store.read import query
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.reader import Reader
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.wire.control import StreamInfo

RUNS = ("lake", "pole", "taxi")
NAMES = [f"run{number}" for number in range(12)]


class Lab:
    """A store with three runs of one stream each, and its reader."""

    def __init__(self, scribe: Scribe, reader: Reader) -> None:
        self.scribe, self.reader = scribe, reader
        self.streams = {name: stream(name, after_ns=place) for place, name in enumerate(RUNS)}
        self.seqs: dict[bytes, int] = {}
        for info in self.streams.values():
            self.put(info, run_started, info, {"lr": 0.1})
        scribe.commit()

    def put(self, info: StreamInfo, make: Callable[..., Any], *given: Any) -> None:
        """The next event of a stream."""
        seq = self.seqs[info.stream] = self.seqs.get(info.stream, 0) + 1
        self.scribe.put(info, make(seq, *given))

    def lose(self, info: StreamInfo) -> None:
        self.scribe.rows.lost.append(info.stream)

    def revive(self, info: StreamInfo) -> None:
        self.scribe.rows.revived.append(info.stream)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Scribe(tmp_path / FILE_NAME) as scribe, FileReader(scribe.path) as reader:
        yield Lab(scribe, reader)


CHANGES: dict[str, Callable[[Lab, StreamInfo], object]] = {
    "a worker joins": lambda lab, info: lab.put(stream(info.run_id, "second", after_ns=99), step),
    "metadata": lambda lab, info: lab.put(info, run_metadata, {"lr": 0.2}),
    "completed": lambda lab, info: lab.put(info, run_completed),
    "failed": lambda lab, info: lab.put(info, run_completed, "failed", "a reason"),
    "lost": lambda lab, info: lab.lose(info),
    "a tag": lambda lab, info: lab.scribe.edit("tag", info.run_id, "good"),
    "a note": lambda lab, info: lab.scribe.edit("note", info.run_id, "a note"),
    "archived": lambda lab, info: lab.scribe.edit("archive", info.run_id),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_run_is_named_and_no_other(lab: Lab, what: str) -> None:
    before = lab.reader.runs_now()
    CHANGES[what](lab, lab.streams["pole"])
    lab.scribe.commit()
    assert lab.reader.runs_now() != before
    named = lab.reader.changed_runs(before)
    assert "pole" in named
    assert named == ["pole"] or what == "lost", "when streams are lost, all that run are named"


def test_a_run_that_is_heard_again_or_marked_or_deleted_is_named(lab: Lab) -> None:
    lab.lose(lab.streams["pole"])
    lab.scribe.commit()
    steps: list[Callable[[], object]] = [
        lambda: lab.scribe.edit("mark", "pole", ["completed", "it was done"]),
        lambda: lab.revive(lab.streams["pole"]),
        lambda: lab.lose(lab.streams["pole"]),
        lambda: lab.scribe.edit("delete", "pole"),
    ]
    for change in steps:
        before = lab.reader.runs_now()
        change()
        lab.scribe.commit()
        assert "pole" in lab.reader.changed_runs(before)
    assert lab.reader.run("pole") is None


def test_events_of_a_run_are_no_change_of_the_list(lab: Lab) -> None:
    before = lab.reader.runs_now()
    for info in lab.streams.values():
        lab.put(info, step)
        lab.put(info, episode)
    lab.scribe.commit()
    assert lab.reader.runs_now() == before
    assert lab.reader.changed_runs(before) == []


def test_an_edit_that_is_refused_is_no_change(lab: Lab) -> None:
    before = lab.reader.runs_now()
    assert lab.scribe.edit("untag", "pole", "nothing").outcome == "refused"
    assert lab.reader.changed_runs(before) == []


def test_names_come_in_pages(lab: Lab) -> None:
    question = query.ChangedRuns(query.Moment(0, 0, 0, 0), limit=2)
    page = lab.reader.answer(question)
    assert ([one.run_id for one in page.rows], page.more) == (["lake", "pole"], True)
    page = lab.reader.answer(msgspec.structs.replace(question, after=page.rows[-1]))
    assert ([one.run_id for one in page.rows], page.more) == (["taxi"], False)


def looked(followed: StoredRuns, reader: Reader) -> dict[str, StoredRun | None]:
    found: dict[str, StoredRun | None] = {}
    followed.look(reader, found.update)
    return found


def whole(reader: Reader) -> dict[str, StoredRun]:
    found = {run.run_id: StoredRun(run, []) for run in reader.runs()}
    for one in reader.streams():
        found[one.run_id].streams.append(msgspec.structs.replace(one, stored_seq=0))
    return found


def still(found: StoredRun) -> StoredRun:
    """How far its streams are stored is no part of the list of runs."""
    return StoredRun(found.run, [msgspec.structs.replace(one, stored_seq=0) for one in found.streams])


def change_by_chance(chance: Random, scribe: Scribe, infos: list[StreamInfo], seqs: dict[bytes, int]) -> None:
    info = chance.choice(infos) if infos else None
    deed = chance.randrange(9)
    if info is None or deed == 0:
        infos.append(stream(chance.choice(NAMES), f"worker{len(infos)}", after_ns=len(infos) * 1_000))
        return
    makes = {1: step, 2: run_completed, 3: lambda seq: run_metadata(seq, {"lr": chance.random()})}
    if deed in makes:
        seq = seqs[info.stream] = seqs.get(info.stream, 0) + 1
        scribe.put(info, makes[deed](seq))
    elif deed == 4:
        scribe.rows.lost.append(info.stream)
    elif deed == 5:
        scribe.rows.revived.append(info.stream)
    else:
        scribe.commit()
        command, value = chance.choice(
            [("tag", "a"), ("untag", "a"), ("archive", None), ("note", "n"), ("delete", None)]
        )
        scribe.edit(command, info.run_id, value)
        scribe.writer.remove_deleted(2)


@pytest.mark.parametrize("seed", range(8))
def test_what_changed_joined_is_the_whole_list_whatever_happens(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(seed)
    monkeypatch.setattr(stored_runs, "_ONE_BY_ONE_MAX", 6)
    followed, shown = StoredRuns(), dict[str, StoredRun]()
    infos: list[StreamInfo] = []
    seqs: dict[bytes, int] = {}
    with Scribe(tmp_path / FILE_NAME) as scribe, FileReader(scribe.path) as reader:
        for _ in range(60):
            for _ in range(chance.randrange(6)):
                change_by_chance(chance, scribe, infos, seqs)
            scribe.commit()
            for run_id, found in looked(followed, reader).items():
                if found is None:
                    shown.pop(run_id, None)
                else:
                    shown[run_id] = still(found)
            assert shown == whole(reader)


def test_what_could_not_be_taken_comes_again(lab: Lab) -> None:
    followed = StoredRuns()
    looked(followed, lab.reader)
    lab.put(lab.streams["pole"], run_completed)
    lab.scribe.commit()
    with pytest.raises(ZeroDivisionError):
        followed.look(lab.reader, lambda found: 1 / 0)
    assert list(looked(followed, lab.reader)) == ["pole"]
    assert looked(followed, lab.reader) == {}


def test_another_reader_reads_all_again(lab: Lab, tmp_path: Path) -> None:
    followed = StoredRuns()
    assert list(looked(followed, lab.reader)) == list(RUNS)
    assert looked(followed, lab.reader) == {}
    (tmp_path / "other").mkdir()
    with Scribe(tmp_path / "other" / FILE_NAME) as scribe, FileReader(scribe.path) as reader:
        info = stream("taxi")
        scribe.put(info, run_started(1, info))
        scribe.commit()
        found = looked(followed, reader)
    assert {name for name, one in found.items() if one is None} == {"lake", "pole"}
    assert found["taxi"] is not None


class Older(FileReader):
    """Does not know the questions for what changed."""

    def answer(self, question: query.Question[Any]) -> query.Page[Any]:
        if isinstance(question, query.RunsNow | query.ChangedRuns):
            raise OlderStore("it does not know the question")
        return super().answer(question)


def test_an_older_store_is_read_as_a_whole_each_time(lab: Lab) -> None:
    followed = StoredRuns()
    with Older(lab.scribe.path) as reader:
        for _ in range(2):
            assert list(looked(followed, reader)) == list(RUNS)
        lab.lose(lab.streams["pole"])
        lab.scribe.commit()
        lab.scribe.edit("delete", "pole")
        assert looked(followed, reader)["pole"] is None


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_file_of_an_older_version_has_a_moment(lab: Lab, tmp_path: Path, version: int) -> None:
    with FileReader(as_version(version, lab.scribe.path, tmp_path / "older.sqlite")) as reader:
        now = reader.runs_now()
        assert now.edit == 0
        assert reader.changed_runs(msgspec.structs.replace(now, stream=0)) == list(RUNS)


def test_the_same_through_the_query_service(lab: Lab) -> None:
    followed = StoredRuns()
    with query_behind_broker(lab.scribe.path) as broker, RemoteReader(broker) as reader:
        assert list(looked(followed, reader)) == list(RUNS)
        lab.put(lab.streams["lake"], run_completed)
        lab.scribe.commit()
        (found,) = looked(followed, reader).values()
        assert found is not None
        assert (found.run.run_id, found.run.status) == ("lake", "completed")
