"""Flipped bits in a store's file and log: one sentence with the remedy, or named by verify, and never a traceback."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw
import pytest
from processes import free_ports, run
from store_fixtures import Scribe, episode, metric, raw, run_started, step, stream

from telefabric.errors import StoreError
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import verify
from telefabric.store.read.file_reader import FileReader
from telefabric.store.write.writer import Writer

Found = TypeVar("Found")
PAGE = 8_192
FLIPS = 40
INFO = stream()


def write(path: Path) -> None:
    """1,201 events: the first 801 in the file, the rest in the log alone."""
    chance = random.Random(1)
    with Scribe(path) as scribe:
        scribe.put(INFO, run_started(1, INFO))
        for first in range(2, 1_202, 100):
            seqs = range(first, first + 100)
            observations = (raw(chance.randbytes(60)) for _ in seqs)
            makers = ((metric if seq % 20 else episode) if seq % 10 == 0 else step for seq in seqs)
            found = zip(makers, seqs, observations, strict=True)
            scribe.put(INFO, *(make(seq, observation=seen) if make is step else make(seq) for make, seq, seen in found))
            scribe.commit()
            if first == 702:
                scribe.writer.checkpoint()
        (path.parent / "live").mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", path.parent / "live" / f"{path.name}{suffix}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a log; in `live` beside it, the same with one."""
    path = tmp_path_factory.mktemp("whole") / FILE_NAME
    write(path)
    return path


def pages(path: Path, *names: str) -> list[int]:
    """The bytes of the pages of tables or indexes."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = [page for name, page in connection.execute("SELECT name, pageno FROM dbstat") if name in names]
    connection.close()
    return [offset for page in found for offset in range((page - 1) * PAGE, page * PAGE)]


def rows(path: Path) -> list[str]:
    """All that `telefabric dump` reads."""
    found: list[str] = []
    with FileReader(path) as reader:
        page = reader.events()
        found += map(repr, page.rows)
        while page.more:
            page = reader.events(page.last)
            found += map(repr, page.rows)
    return found


def outcome(path: Path, expected: list[str]) -> str:
    """What reading and verifying make of a file. Anything but a `StoreError` of one line fails the test."""
    found = attempt(lambda: rows(path))
    read = "refused" if found is None else "right" if found == expected else "wrong"
    if found is not None and len(found) < len(expected) and found == expected[: len(found)]:
        read = "shorter"
    report = attempt(lambda: verify(path))
    attempt(lambda: Writer(path).close())
    return f"{read}, {'named' if report is None or report.contradictions else 'clean'}"


def attempt(call: Callable[[], Found]) -> Found | None:
    """What it returns; None when it raises `StoreError`."""
    try:
        return call()
    except StoreError as error:
        if len(str(error).splitlines()) > 1:
            raise
        return None


def flipped(whole: Path, folder: Path, offsets: list[int], seed: int, suffix: str = "") -> Counter[str]:
    """Outcomes of single flips at random places."""
    chance = random.Random(seed)
    expected = rows(whole)
    source = whole.parent / "live" / whole.name if suffix else whole
    found: Counter[str] = Counter()
    for number in range(FLIPS):
        place = folder / str(number)
        place.mkdir()
        for each in ("", "-wal") if suffix else ("",):
            shutil.copy(f"{source}{each}", f"{place / whole.name}{each}")
        with Path(f"{place / whole.name}{suffix}").open("rb+") as file:
            offset = chance.choice(offsets)
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1 << chance.randrange(8)]))
        found[outcome(place / whole.name, expected)] += 1
        shutil.rmtree(place)
    return found


@pytest.mark.parametrize("region", ["header", "schema", "streams", "metrics", "steps", "steps_by_episode"])
def test_a_flip_in_the_file_is_refused_or_named_or_inside_a_value(whole: Path, tmp_path: Path, region: str) -> None:
    offsets = {"header": list(range(100)), "schema": list(range(100, PAGE))}.get(region) or pages(whole, region)
    found = flipped(whole, tmp_path, offsets, 7)
    assert sum(found.values()) == FLIPS
    if region != "steps":
        assert not found["wrong, clean"]
    else:  # a flip inside an observation makes another observation: nothing in the file contradicts it
        assert found["wrong, clean"] <= FLIPS // 2
        assert found["wrong, named"] >= FLIPS // 4


@pytest.mark.parametrize("table", ["lifecycle", "watermarks"])
def test_no_flip_in_the_head_of_a_row_is_a_traceback(whole: Path, tmp_path: Path, table: str) -> None:
    """There it makes a column another type or length, and with that all that follow it in the row."""
    content = whole.read_bytes()
    page = pages(whole, table)[0]
    cell = page + int.from_bytes(content[page + 5 : page + 7], "big")  # the only row
    expected = rows(whole)
    path = tmp_path / whole.name
    found: Counter[str] = Counter()
    for bit in range(8 * 10):
        changed = bytearray(content)
        changed[cell + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        found[outcome(path, expected)] += 1
    assert found["right, named"] + found["refused, named"] + found["wrong, named"] >= 64, found
    assert not found["wrong, clean"]


@pytest.mark.parametrize("region", ["header", "frames"])
def test_a_flip_in_the_log_ends_it_before_there_as_a_power_loss_would(whole: Path, tmp_path: Path, region: str) -> None:
    """SQLite's own checksums: what lies behind is as if it had never been, watermark and all."""
    end = Path(f"{whole.parent / 'live' / whole.name}-wal").stat().st_size
    found = flipped(whole, tmp_path, list(range(32) if region == "header" else range(32, end)), 8, "-wal")
    assert set(found) == {"shorter, clean"}


def test_the_commands_say_it_in_one_sentence_with_the_remedy(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / whole.name
    content = whole.read_bytes()
    path.write_bytes(content[:110] + bytes(40) + content[150:])
    for command in (
        ["store", "--data", str(tmp_path), "--connect", f"tcp://127.0.0.1:{free_ports()}"],
        ["store", "verify", "--store", str(path)],
        ["dump", "--store", str(path)],
    ):
        done = run(*command, timeout_s=20)
        assert done.returncode == 1, command
        (sentence,) = done.stderr.splitlines()
        assert "move it, its -wal and its -shm aside together, and restore a backup" in sentence


def test_a_text_that_is_none_is_damage_and_no_traceback(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / whole.name
    content = bytearray(whole.read_bytes())
    for offset in pages(whole, "steps", "metrics", "episodes"):
        if content[offset : offset + 7] == b"agent_0":
            content[offset + 3] = 0xFF
    path.write_bytes(content)
    assert outcome(path, rows(whole)) == "refused, named"
    done = run("dump", "--store", str(path))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
