"""A store of every version that there was opens, is whole, and goes on; a migration happens whole or not at all."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from store_fixtures import TIME_NS, Scribe, step

from telefabric.errors import StoreError
from telefabric.store.file import database
from telefabric.store.file.database import FILE_NAME, MIGRATIONS, open_reader, open_writer
from telefabric.store.file.verify import verify
from telefabric.store.read.file_reader import FileReader
from telefabric.wire.control import StreamInfo

SAMPLES = Path(__file__).with_name("samples")
DONE = StreamInfo(bytes(range(16)), "done", "worker-a", "agent_0", TIME_NS)
OPEN = StreamInfo(bytes(range(16, 32)), "open", "worker-b", "agent_0", TIME_NS)


RUNS = [("done", "completed"), ("open", "running")]
MORE = ("more", "completed")
MORE_KINDS = ["run_started", "reset", "step", "episode", "episode_voided", "run_completed", "run_started", "log"]


def sample(version: int, folder: Path) -> Path:
    """The store that the program of that version wrote."""
    path = folder / FILE_NAME
    connection = apsw.Connection(str(path))
    connection.execute((SAMPLES / f"store-{version}.sql").read_text("utf-8")).fetchall()
    connection.close()
    return path


def version_of(path: Path) -> int:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = int(connection.pragma("user_version"))
    connection.close()
    return found


@pytest.mark.parametrize("version", MIGRATIONS)
def test_a_store_of_every_version_opens_and_goes_on(version: int, tmp_path: Path) -> None:
    path = sample(version, tmp_path)
    assert version_of(path) == version
    with Scribe(path) as scribe:
        assert scribe.writer.stored_seq(DONE.stream) == 22
        assert scribe.writer.stored_seq(OPEN.stream) == 3
        scribe.put(OPEN, step(4))
        assert scribe.commit() == {OPEN.stream: 4}
    assert version_of(path) == database.VERSION
    report = verify(path)
    assert report.contradictions == 0
    assert [one[2:4] for one in report.findings] == [(17, 20), (21, 21)]
    with FileReader(path) as reader:
        edited = {one.run_id: (one.tags, one.notes, one.marked_by) for one in reader.runs()}
        carriers = {None, "rig"} if version >= 5 else {None}
        assert {one.carrier for one in reader.streams()} == carriers
        assert [one.label for one in reader.bookmarks()] == (["a goal"] if version >= 4 else [])
        assert [(one.run_id, one.status) for one in reader.runs()] == [*RUNS, *([MORE] if version >= 3 else [])]
        assert [one.kind for one in reader.events(run_id="more").rows] == (MORE_KINDS if version >= 3 else [])
        kinds = [one.kind for run_id, _ in RUNS for one in reader.events(run_id=run_id).rows]
    if version >= 4:
        assert edited["done"] == ('["good"]', "the first\nof all", None)
        assert edited["more"][2] == "ada"
    steps = ["step"] * 10
    assert kinds == [
        "run_started", *steps, "episode", "metric", "log", "frame", "run_metadata", "gap", "quarantine",
        "run_completed", "run_started", "step", "metric", "step",
    ]  # fmt: skip


def pretend(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one more version, to which this script leads."""
    file = folder / "next.sql"
    file.write_text(script)
    following = max(MIGRATIONS) + 1
    monkeypatch.setattr(database, "MIGRATIONS", {**MIGRATIONS, following: str(file)})
    monkeypatch.setattr(database, "VERSION", following)


def test_a_next_version_is_migrated_to_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample(1, tmp_path)
    pretend("ALTER TABLE runs ADD COLUMN colour TEXT; UPDATE runs SET colour = 'red';", tmp_path, monkeypatch)
    open_reader(path).close()
    assert version_of(path) == 1, "who reads changes nothing"
    for _ in range(2):
        connection = open_writer(path)
        assert connection.execute("SELECT run_id, colour FROM runs").fetchall() == [("done", "red"), ("open", "red")]
        connection.close()
        assert version_of(path) == database.VERSION
    assert verify(path).contradictions == 0


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample(1, tmp_path)
    pretend("ALTER TABLE runs ADD COLUMN colour TEXT; UPDATE nothing SET colour = 'red';", tmp_path, monkeypatch)
    with pytest.raises(StoreError):
        open_writer(path)
    assert version_of(path) == 1
    connection = open_reader(path)
    assert "colour" not in str(connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'runs'").get)
    connection.close()
