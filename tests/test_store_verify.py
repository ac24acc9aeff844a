"""`telefabric store verify` names what a file says wrongly of itself; `store backup` copies one moment of it."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest
from processes import run
from store_fixtures import Scribe, episode, metric, raw, reset, run_started, step, stream, void

from telefabric.errors import StoreError
from telefabric.store.file.backup import backup
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import Finding, verify

INFO = stream()
NAME = INFO.stream.hex()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Seqs 1 to 14: a gap at 5 to 7, an event that nobody can read at 8."""
    path = tmp_path / FILE_NAME
    with Scribe(path) as scribe:
        scribe.put(INFO, run_started(1, INFO), step(2), step(3, reward=float("nan")), metric(4))
        scribe.put_gap(INFO, 5, 7, "spool_full")
        scribe.put(INFO, b"\xc1", first_seq=8)
        scribe.put(INFO, episode(9), step(10, observation=raw([1.5])), step(11), step(12))
        scribe.put(INFO, reset(13, seed=raw(5)), void(14, 1))
        scribe.commit()
    return path


def found_after(file: Path, change: str) -> list[Finding]:
    connection = apsw.Connection(str(file))
    connection.execute(change).fetchall()
    connection.close()
    return [one for one in verify(file).findings if one.contradicts]


def test_gaps_and_quarantine_are_named_and_contradict_nothing(file: Path) -> None:
    report = verify(file)
    assert [one[:4] for one in report.findings] == [("gap", NAME, 5, 7), ("quarantine", NAME, 8, 8)]
    assert report.findings[0].detail == "spool_full"
    assert (report.streams, report.rows, report.contradictions) == (1, 12, 0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DELETE FROM steps WHERE seq IN (10, 11)", ("missing", 10, 11)),
        ("UPDATE runs SET run_id = 'rin'", ("differs", 1, 1)),
        ("UPDATE gaps SET reason = 'disk_full'", ("differs", 5, 7)),
        ("UPDATE resets SET seed = 7", ("differs", 13, 13)),
        ("UPDATE voids SET episode_index = 2", ("differs", 14, 14)),
        ("UPDATE episodes SET seed = 7", ("differs", 9, 9)),
        ("UPDATE places SET time_ns = 1 WHERE kind = 'step'", ("differs", 2, 2)),
        ("DELETE FROM places WHERE kind = 'reset'", ("differs", 13, 13)),
        ("INSERT INTO places VALUES (1, 'step', 'agent_0', 1024, 3, 3, 3, 3)", ("differs", 3, 3)),
        ("UPDATE counts SET n = n + 1 WHERE kind = 'step'", ("differs", 1, 14)),
        ("DELETE FROM counts WHERE kind = 'metric'", ("differs", 1, 14)),
        ("DELETE FROM steps WHERE seq = 12", ("missing", 12, 12)),
        ("DELETE FROM gaps", ("missing", 5, 7)),
        ("UPDATE gaps SET last_seq = 7, time_ns = 1", ("differs", 5, 7)),
        ("UPDATE watermarks SET stored_seq = 13", ("beyond", 14, 14)),
        ("DELETE FROM watermarks", ("beyond", 1, 14)),
        ("UPDATE steps SET reward = 0.75 WHERE seq = 2", ("differs", 2, 2)),
        ("UPDATE metrics SET event = (SELECT event FROM steps WHERE seq = 2)", ("differs", 4, 4)),
        ("UPDATE metrics SET event = x'c1'", ("differs", 4, 4)),
    ],
)
def test_what_contradicts_is_named_with_its_seqs(file: Path, change: str, expected: tuple[str, int, int]) -> None:
    found = found_after(file, change)
    assert [(one.kind, one.first_seq, one.last_seq) for one in found] == [expected]


def test_the_command_ends_with_1_when_the_file_contradicts_itself(file: Path) -> None:
    fine = run("store", "verify", "--store", str(file.parent))  # its folder will do
    assert (fine.returncode, fine.stderr) == (0, "")
    assert f"gap {NAME} 5..7: spool_full" in fine.stdout
    found_after(file, "DELETE FROM steps WHERE seq = 11")
    wrong = run("store", "verify", "--store", str(file), "--json")
    assert wrong.returncode == 1
    assert {"kind": "missing", "contradicts": True}.items() <= json.loads(wrong.stdout)["findings"][-1].items()
    assert len(wrong.stderr.splitlines()) == 1


def test_a_backup_is_one_moment_of_a_store_that_is_written(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    with Scribe(file) as scribe:

        def write(done: int, total: int) -> None:
            scribe.put(INFO, step(15))
            scribe.commit()

        backup(file, copy, write)
        assert scribe.writer.stored_seq(INFO.stream) == 15
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.sqlite"]
    report = verify(copy)
    assert (report.rows, report.contradictions) == (12, 0)
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.sqlite"], "reading leaves nothing beside it"
    with pytest.raises(StoreError, match="is there already"):
        backup(file, copy)
    with Scribe(copy) as restored:
        assert restored.writer.stored_seq(INFO.stream) == 14


def test_the_command_copies_a_store(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    done = run("store", "backup", str(copy), "--store", str(file), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"file": str(copy), "bytes": copy.stat().st_size}
    again = run("store", "backup", str(copy), "--store", str(file))
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
    assert "is there already" in again.stderr
