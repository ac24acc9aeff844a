"""A path that a caller gives means the same file for ever, whatever folder the program goes to afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from processes import broker, free_ports, run, store

from telefabric import settings
from telefabric.address import Address
from telefabric.cli import read
from telefabric.errors import UsageError
from telefabric.feed.file_feed import FileFeed
from telefabric.ring import RingReader
from telefabric.service.embedded import Services
from telefabric.store.file.database import FILE_NAME, store_file
from telefabric.store.read.file_reader import FileReader
from telefabric.store.service import Store
from telefabric.store.write.writer import Writer
from telefabric.uplink.drain import Drain
from telefabric_workers.environment import WorkerEnvironment

PATHS = [name for name, setting in settings.SETTINGS.items() if setting.parse is settings._path]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, and a way out of it: tests change the folder after they have given a path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "later").mkdir()
    return tmp_path / "later"


@pytest.mark.parametrize("name", PATHS)
def test_paths_from_flags_and_variables_begin_at_the_current_folder(
    name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.resolve(name, "x").value == elsewhere.parent / "x"
    assert settings.resolve(name, "x/../y").value.is_absolute()
    monkeypatch.setenv(settings.SETTINGS[name].variable, "x")
    assert settings.resolve(name).value == elsewhere.parent / "x"


@pytest.mark.parametrize("name", PATHS)
def test_paths_from_a_file_begin_at_its_folder(name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.SETTINGS[name].variable, raising=False)
    (elsewhere.parent / "conf").mkdir()
    (elsewhere.parent / "conf" / "mine.toml").write_text(f"{name} = '../x'")
    monkeypatch.setenv("TELEFABRIC_CONFIG", "conf/mine.toml")
    found = settings.resolve(name)
    assert (found.value.resolve(), found.source) == (elsewhere.parent / "x", "file")
    monkeypatch.delenv("TELEFABRIC_CONFIG")
    monkeypatch.chdir(elsewhere)
    Path("telefabric.toml").write_text(f"{name} = 'x'")
    assert settings.resolve(name).value == elsewhere / "x"


def test_what_a_worker_is_told_stays(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = WorkerEnvironment.read(spool="spool")
    monkeypatch.setenv("TELEFABRIC_RING", "ring")
    ring = settings.runtime_folder()
    monkeypatch.chdir(elsewhere)
    assert told.spool == elsewhere.parent / "spool"
    assert ring.parent == elsewhere.parent / "ring"
    assert settings.runtime_folder(Path("mine")).parent == elsewhere / "mine"


def test_objects_that_live_long_keep_their_path(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address("127.0.0.1", free_ports())
    Writer(Path(FILE_NAME)).close()
    reader, feed, ring = FileReader(Path(FILE_NAME)), FileFeed(Path(FILE_NAME)), RingReader(Path("ring"))
    services, named = Services(address, Path("data")), store_file(Path())
    writer, source = Store(address, Path(FILE_NAME)), read.open_source(Path(), None)
    with Drain(address, Path("spool")) as drain:
        monkeypatch.chdir(elsewhere)
        home = elsewhere.parent
        assert drain._root == home / "spool"
    assert (writer.path, reader.where, named) == (home / FILE_NAME, str(home / FILE_NAME), home / FILE_NAME)
    assert (feed._path, ring.folder, services.file) == (home / FILE_NAME, home / "ring", home / "data" / FILE_NAME)
    assert source.where == str(home / FILE_NAME)
    writer.close()
    reader.close()
    source.close()
    Writer(named).close()
    assert not list(elsewhere.iterdir())


def test_a_current_folder_that_is_gone_is_told(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere)
    shutil.rmtree(elsewhere)
    with pytest.raises(UsageError, match="begins at the current folder, which is gone: change to one that exists"):
        settings.resolve("data", "x")
    assert settings.resolve("data", "/x").value == Path("/x")
    assert settings.resolve("data").value is None


def test_a_path_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("~no such user/x", "a\0b"):
        with pytest.raises(UsageError, match="should be a path"):
            settings.resolve("data", given)


def test_a_command_elsewhere_reads_the_store_that_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "telefabric.toml").write_text("data = 'runs'")
    told = {"TELEFABRIC_CONFIG": str(tmp_path / "telefabric.toml")}
    port = free_ports()
    with broker(port, env=told), store(port, tmp_path / "other"):
        pass
    shutil.copytree(tmp_path / "other", tmp_path / "runs")
    done = run("dump", env=told)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
