"""An older store becomes one of this version, killed at whatever moment and begun again; readers take it as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import apsw
import olderstores
import pytest
from eventlog import logged_events
from faultvfs import ObservedVFS
from processes import free_ports, run
from slowness import patience
from store_fixtures import Scribe, step, stream

from telefabric import limits
from telefabric.errors import StoreError
from telefabric.store.file import upgrade
from telefabric.store.file.backup import backup
from telefabric.store.file.database import FILE_NAME, open_reader, open_writer
from telefabric.store.file.verify import verify
from telefabric.store.read.file_reader import FileReader
from telefabric.store.write.writer import Writer

EVENTS = 6_000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return olderstores.write(tmp_path_factory.mktemp("written"), EVENTS)


@pytest.fixture(params=[1, 2, 3])
def older(request: pytest.FixtureRequest, written: Path, tmp_path: Path) -> Path:
    return olderstores.as_version(request.param, written, tmp_path / "older" / FILE_NAME)


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPGRADE_IDS", 500)
    monkeypatch.setattr(upgrade, "_RUNS_A_PIECE", 2)


class _Killed(ObservedVFS):
    """Copies the files as a kill leaves them before some of the operations."""

    def __init__(self, folder: Path, images: Path, chance: Random) -> None:
        super().__init__("killed")
        self._folder, self._images, self._chance = folder, images, chance
        self.images: list[Path] = []

    def before(self, operation: str, file: str, data: bytes, offset: int) -> None:
        if self._chance.random() < (0.8 if operation == "sync" else 0.03):
            self.images.append(Path(shutil.copytree(self._folder, self._images / str(len(self.images)))))


@pytest.mark.usefixtures("_small_pieces")
def test_killed_at_any_moment_and_begun_again_it_equals_a_store_written_new(
    older: Path, written: Path, tmp_path: Path
) -> None:
    expected = olderstores.contents(written)
    vfs = _Killed(older.parent, tmp_path / "images", Random(5))
    open_writer(older, vfs.name).close()
    vfs.unregister()
    assert len(vfs.images) > 20
    for file in [older, *(folder / FILE_NAME for folder in vfs.images)]:
        open_writer(file).close()
        assert olderstores.contents(file) == expected, file
    assert verify(older).contradictions == 0


@pytest.mark.usefixtures("_small_pieces")
def test_a_migration_in_a_process_that_is_killed_again_and_again_gets_through(older: Path, written: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from telefabric import limits;"
        "limits.UPGRADE_IDS = 500; from telefabric.store.file.database import open_writer; left = [2];\n"
        "def die(doing, done, total):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_writer(Path(sys.argv[1]), progress=die).close()"
    )
    codes = []
    while not codes or codes[-1]:
        codes.append(subprocess.run([sys.executable, "-c", program, str(older)], check=False).returncode)
        assert len(codes) < 100
    assert codes[:-1] == [-9] * (len(codes) - 1)
    assert len(codes) > EVENTS // 500
    assert olderstores.contents(older) == olderstores.contents(written)


@pytest.mark.usefixtures("_small_pieces")
def test_how_far_it_is_is_told_at_most_once_a_second_and_how_long_it_took(older: Path) -> None:
    pieces: list[tuple[str, int, int]] = []
    open_writer(older, progress=lambda *told: pieces.append(told)).close()
    done = [(at, total) for doing, at, total in pieces if doing == "events"]
    assert done == sorted(done)
    assert done[-1][0] < done[-1][1]
    assert {doing for doing, _, _ in pieces} >= {"events", "runs"}


def test_the_log_says_that_a_store_migrates_and_how_long_it_took(older: Path) -> None:
    with logged_events() as told:
        Writer(older).close()
        Writer(older).close()
    assert [one["event"] for one in told] == ["store.migrating", "store.migrated"]
    assert told[1]["seconds"] >= 0


def test_a_store_that_starts_says_to_whoever_started_it_that_it_migrates(older: Path) -> None:
    command = [sys.executable, "-m", "telefabric.cli.main", "store", "--connect", f"tcp://127.0.0.1:{free_ports()}"]
    process = subprocess.Popen(
        [*command, "--query", "tcp://127.0.0.1:0", "--data", str(older.parent)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] and not lines[-1].startswith("ready"):
        lines.append(process.stdout.readline())
    process.terminate()
    process.wait(patience(30))
    process.stdout.close()
    assert "starting migrating events, 0 %\n" in lines
    assert lines[-1] == f"ready {older}\n"


@pytest.mark.usefixtures("_small_pieces")
def test_a_reader_that_holds_the_log_stops_a_migration_with_a_sentence(
    older: Path, monkeypatch: pytest.MonkeyPatch, written: Path
) -> None:
    monkeypatch.setattr(limits, "LOG_BYTES_MAX", 200_000)
    connection = apsw.Connection(str(older), flags=apsw.SQLITE_OPEN_READONLY)
    connection.execute("BEGIN; SELECT count(*) FROM steps").fetchall()
    with pytest.raises(StoreError, match=r"because another process reads .*: end that process; the migration goes on"):
        open_writer(older)
    connection.close()
    monkeypatch.undo()
    open_writer(older).close()
    assert olderstores.contents(older) == olderstores.contents(written)


def test_an_older_store_is_read_as_it_is_and_stays_so(older: Path, written: Path, tmp_path: Path) -> None:
    before = older.read_bytes()
    with FileReader(older) as old, FileReader(written) as new:
        assert [one.run_id for one in old.runs()] == [one.run_id for one in new.runs()]
        has_attempts = int(old._db.pragma("user_version")) >= 3
        assert {one.attempt for one in old.streams()} == (
            {one.attempt for one in new.streams()} if has_attempts else {1}
        )
        run_id = max(new.runs(), key=lambda one: len(new.episodes_for_run(one.run_id).rows)).run_id
        for of_run in (None, run_id):
            assert old.events(run_id=of_run, limit=500).rows == new.events(run_id=of_run, limit=500).rows
        stream_id = old.streams(run_id)[0].stream_id
        of_stream = [reader.episodes_for_run(run_id, stream_id=stream_id).rows for reader in (old, new)]
        assert [one.id for one in of_stream[0]] == [one.id for one in of_stream[1]]
        seeds = {one.seed for one in of_stream[1]} if has_attempts else {None}
        assert {one.seed for one in of_stream[0]} == seeds
        row = of_stream[1][0]
        place = (run_id, row.agent_id, row.env_index, row.episode_index)
        assert old.steps_for_episode(*place).rows
        assert len(old.series(run_id)) >= 3
    report = verify(older)
    assert report.contradictions == 0
    assert report.rows == verify(written).rows
    copy = tmp_path / "copy.sqlite"
    backup(older, copy)
    told = run("dump", "--store", str(copy), "--run", run_id)
    assert (told.returncode, told.stderr) == (0, "")
    assert older.read_bytes() == before


@pytest.mark.usefixtures("_small_pieces")
def test_a_migration_that_was_stopped_is_read_and_named(older: Path) -> None:
    def stop(doing: str, done: int, total: int) -> None:
        if doing == "events" and done > total // 2:
            raise StoreError("stopped")

    with pytest.raises(StoreError, match="stopped"):
        open_writer(older, progress=stop)
    with FileReader(older) as reader:
        assert reader.runs()
        assert reader.events().rows
    assert verify(older).contradictions == 0
    reader = open_reader(older)
    assert reader.execute("SELECT count(*) FROM upgrade").get == 2
    reader.close()


def test_a_migrated_store_goes_on_with_its_counts(older: Path) -> None:
    info = stream("later")
    with Scribe(older) as scribe:
        scribe.put(info, *map(step, range(1, 1_500)))
        scribe.commit()
    report = verify(older)
    assert report.contradictions == 0
