"""Files of a store are for their owner; a store that nothing can write where it is can be read there."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import run
from skips import requires
from store_fixtures import Scribe, run_completed, run_started, step, stream

from telefabric.address import Address
from telefabric.errors import StoreError
from telefabric.service.embedded import Services
from telefabric.store.file.backup import backup
from telefabric.store.file.database import FILE_NAME, open_reader, open_writer
from telefabric.store.file.verify import verify
from telefabric.store.read.file_reader import FileReader
from telefabric.store.write.writer import Writer

NOBODY = 65_534
_is_root = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = requires("root, to be two users", _is_root)
INFO = stream()


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def store() -> Iterator[Path]:
    """A finished store in a folder that other users can enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = Path(name) / "data" / FILE_NAME
        with Scribe(path) as scribe:
            scribe.put(INFO, run_started(1, INFO), *map(step, range(2, 20)), run_completed(20))
            scribe.commit()
        yield path


def modes(folder: Path) -> dict[str, str]:
    return {path.name: f"{path.stat().st_mode & 0o777:o}" for path in folder.iterdir()}


READING = (
    "import os, sys; from pathlib import Path; from telefabric.errors import StoreError;"
    "from telefabric.store.read.file_reader import FileReader"
)
"""Before the rights are given up: where Python lies another user may not read."""


def as_nobody(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python of another user."""
    head = f"{READING}; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    command = [sys.executable, "-c", head + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


READ = """
try:
    with FileReader(Path(sys.argv[1])) as reader:
        print(len(reader.events().rows))
except StoreError as error:
    print(error)
"""


# -- rights ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("group_readable", "file", "folder"), [(False, "600", "700"), (True, "640", "750")])
def test_files_are_for_their_owner_or_for_reading_by_the_group(
    group_readable: bool, file: str, folder: str, tmp_path: Path
) -> None:
    path = tmp_path / "data" / FILE_NAME
    writer = Writer(path, group_readable=group_readable)
    try:
        endings = ("", "-wal", "-shm", ".lock")
        assert modes(path.parent) == {FILE_NAME + ending: file for ending in endings}
        assert modes(tmp_path)["data"] == folder
    finally:
        writer.close()
    copy = tmp_path / "copies" / "copy.sqlite"
    copy.parent.mkdir()
    backup(path, copy, group_readable=group_readable)
    assert modes(copy.parent) == {"copy.sqlite": file}


def test_a_store_that_others_could_read_is_closed_when_it_is_opened_again(store: Path) -> None:
    store.chmod(0o644)
    Writer(store).close()
    assert modes(store.parent)[FILE_NAME] == "600"


def test_the_setting_opens_a_store_to_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEFABRIC_GROUP_READABLE", "on")
    with Services(Address("127.0.0.1", 0), tmp_path / "data") as services:
        path = services.file
        assert modes(tmp_path / "data")[FILE_NAME] == "640"
    copy = tmp_path / "copy.sqlite"
    told = run("store", "backup", str(copy), "--store", str(path))
    assert (told.returncode, told.stderr) == (0, "")
    assert modes(tmp_path)["copy.sqlite"] == "640"


@needs_root
def test_another_user_can_read_nothing_of_a_store_and_is_told_so(store: Path) -> None:
    writer = Writer(store)
    store.parent.chmod(0o755)  # as somebody's --data . may be
    try:
        for file in store.parent.iterdir():
            told = as_nobody("open(sys.argv[1], 'rb').read()", file)
            assert told.returncode != 0, file
            assert "Permission denied" in told.stderr
        told = as_nobody(READ, store)
        assert told.stdout.strip() == f"{store} cannot be opened for reading: ask its owner for the right to read it"
    finally:
        writer.close()


@needs_root
def test_the_group_reads_a_store_that_is_being_written(store: Path) -> None:
    writer = Writer(store, group_readable=True)
    try:
        for file in (store.parent, *store.parent.iterdir()):
            os.chown(file, 0, NOBODY)
        store.parent.chmod(0o750)
        told = as_nobody(READ, store)
        assert (told.stdout.strip(), told.stderr) == ("20", ""), "through the log's index, not as immutable"
    finally:
        writer.close()


# -- where nothing can write -------------------------------------------------------------------------------------
@needs_root
def test_a_finished_store_in_anothers_folder_is_read_and_it_is_said(store: Path) -> None:
    store.chmod(0o644)
    store.parent.chmod(0o755)
    told = as_nobody(READ, store)
    assert told.stdout.strip() == "20"
    assert told.stderr.strip() == f"store.immutable: {store} cannot be written where it is, and is read without locks"
    assert sorted(modes(store.parent)) == [FILE_NAME, f"{FILE_NAME}.lock"]


@needs_root
def test_a_store_of_another_that_is_written_is_not_taken_for_finished(store: Path) -> None:
    writer = Writer(store)
    try:
        store.chmod(0o644)  # but not the index of its log
        store.parent.chmod(0o755)
        told = as_nobody(READ, store)
        assert "cannot be opened for reading: check the rights of the file and its folder" in told.stdout
        assert "immutable" not in told.stderr
    finally:
        writer.close()


@needs_root
def test_a_log_that_is_not_merged_is_no_finished_store(store: Path) -> None:
    with Scribe(store) as scribe:
        scribe.put(stream("more"), step(1))
        scribe.commit()
        killed = Path(shutil.copytree(store.parent, store.parent.with_name("killed"))) / FILE_NAME
    killed.with_name(FILE_NAME + "-shm").unlink()
    for file in killed.parent.iterdir():
        file.chmod(0o644)
    killed.parent.chmod(0o755)
    told = as_nobody(READ, killed)
    assert f"a part of it is in {FILE_NAME}-wal" in told.stdout
    assert "copy both together into one" in told.stdout


@pytest.fixture
def read_only(store: Path) -> Iterator[Path]:
    """The store on a file system that is mounted read-only."""
    mounted = store.parent.with_name("mounted")
    mounted.mkdir()
    subprocess.run(["mount", "--bind", "-o", "ro", str(store.parent), str(mounted)], check=True)
    yield mounted / FILE_NAME
    subprocess.run(["umount", str(mounted)], check=True)


def _can_mount() -> bool:
    if not _is_root or shutil.which("unshare") is None:
        return False
    there = subprocess.run(
        ["unshare", "-m", "mount", "--bind", "-o", "ro", "/tmp", "/mnt"], capture_output=True, check=False
    )
    return there.returncode == 0


@requires("the right to mount", _can_mount())
def test_a_finished_store_on_a_read_only_medium_is_read_copied_and_verified(
    read_only: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), FileReader(read_only) as reader:
        assert len(reader.events().rows) == 20
    assert "store.immutable" in caplog.text
    assert verify(read_only).contradictions == 0
    copy = tmp_path / "copy.sqlite"
    for command in (["dump"], ["store", "verify"], ["store", "backup", str(copy)], ["tail", "--no-follow"]):
        told = run(*command, "--store", str(read_only))
        assert told.returncode == 0, told.stderr
        assert told.stderr == f"store.immutable: {read_only} cannot be written where it is, and is read without locks\n"
    with Scribe(copy) as scribe:
        assert scribe.writer.stored_seq(INFO.stream) == 20
    with pytest.raises(StoreError, match="cannot be written: Read-only file system"):
        Writer(read_only)


@requires("the right to mount", _can_mount())
def test_a_writer_that_begins_beside_a_read_only_mount_ends_what_is_read_without_locks(
    store: Path, read_only: Path
) -> None:
    with FileReader(read_only) as reader:
        assert reader.runs()
        writer = Writer(store)
        try:
            with pytest.raises(StoreError, match="is being written since it was opened: open it again"):
                reader.runs()
            with FileReader(read_only) as again:
                assert again.runs(), "by the index of the log that the writer keeps"
            connection = open_reader(read_only)
            assert not connection.still
            connection.close()
        finally:
            writer.close()


@requires("/proc/locks", Path("/proc/locks").exists())
def test_a_writer_that_opens_ends_no_lock_of_a_reader_in_its_process(store: Path) -> None:
    def locks() -> list[str]:
        mine = f" {os.getpid()} ", f":{store.stat().st_ino} "
        lines = Path("/proc/locks").read_text().splitlines()
        return sorted(line.split(maxsplit=1)[1] for line in lines if all(part in line for part in mine))

    reader = open_reader(store)
    with reader:
        assert reader.execute("SELECT count(*) FROM runs").get
        before = locks()
        assert before
        open_writer(store).close()
        assert locks() == before
    reader.close()
