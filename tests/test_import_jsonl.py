"""`telefabric import jsonl` and `telefabric run --from`: logs become runs, once, whatever happens to the file."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import TELEFABRIC, wait_for
from slowness import patience
from store_fixtures import LOOPBACK

from telefabric import TelefabricError, open_store
from telefabric.errors import StoreError
from telefabric.service.embedded import Services
from telefabric.store.file.database import open_reader
from telefabric_schemas import Episode, Log, Step, decode_event
from telefabric_workers.imports.command import importing
from telefabric_workers.run.command import run as run_command


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with tempfile.TemporaryDirectory(prefix="tf-") as folder, Services(LOOPBACK, Path(folder), log_level="error") as up:
        yield up


class Desk:
    """Imports one log, of a run that nobody else has."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.services = services
        self.run_id = folder.name
        self.log = folder / "train.jsonl"
        self.options = ["--connect", services.address.url, "--spool", str(folder / "spool")]

    def step(self, number: int, **more: Any) -> str:
        return json.dumps({"type": "step", "run_id": self.run_id, "episode": 0, "step": number, **more}) + "\n"

    def write(self, *lines: str, mode: str = "a") -> None:
        with self.log.open(mode) as file:
            file.write("".join(lines))

    def bring(self, *more: str) -> dict[str, Any]:
        """The events that were added to the run, by kind."""
        return self.report("jsonl", str(self.log), "--json", *more)["runs"].get(self.run_id, {})  # type: ignore[no-any-return]

    def report(self, *arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(importing, [*arguments, *self.options])
        if isinstance(result.exception, TelefabricError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)  # type: ignore[no-any-return]

    def follow(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*TELEFABRIC, "run", "--follow", str(self.log), *self.options], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def steps(self) -> list[int]:
        """The numbers of all stored steps, in the order of the store."""
        return [event.step_index for event in self.events() if isinstance(event, Step)]

    def steps_of_store(self) -> list[int]:
        """The same by SQL, of any number."""
        connection = open_reader(self.services.file)
        try:
            tables = "steps JOIN streams USING (stream) JOIN runs USING (run)"
            found = connection.execute(f"SELECT step_index FROM {tables} WHERE run_id = ? ORDER BY id", (self.run_id,))
            return [number for (number,) in found]
        finally:
            connection.close()

    def events(self, run_id: str | None = None) -> list[Any]:
        with open_store(self.services.file) as reader:
            return [decode_event(row.event) for row in reader.events(0, run_id or self.run_id).rows]


@pytest.fixture
def desk(services: Services, tmp_path: Path) -> Desk:
    return Desk(services, tmp_path)


def test_a_log_is_brought_once_and_then_what_is_new(desk: Desk) -> None:
    desk.write("Starting\n", *(desk.step(n, ts_unix_ns=1_790_000_000_000_000_000 + n) for n in range(3)))
    assert desk.bring() == {"log": 1, "step": 3}
    before = desk.events()
    assert desk.bring() == {}
    assert desk.events() == before, "a second reading changes nothing"
    desk.write(desk.step(3), '{"type": "run_completed", "status": "failed", "reason": "no data"}\n')
    assert desk.bring() == {"step": 1}
    assert desk.steps() == [0, 1, 2, 3]
    assert [event.global_step for event in desk.events() if isinstance(event, Step)] == [0, 1, 2, 3]
    assert [event.time_ns % 10 for event in before if isinstance(event, Step)] == [0, 1, 2]
    with open_store(desk.services.file) as reader:
        (stream,) = reader.streams(desk.run_id)
    assert (stream.outcome, stream.outcome_reason) == ("failed", "no data")


def test_run_from_reads_the_same(desk: Desk) -> None:
    desk.write(desk.step(0), "text\n", mode="w")
    result = CliRunner().invoke(run_command, ["--from", str(desk.log), *desk.options], standalone_mode=False)
    assert result.stdout == f"{desk.run_id}: 1 log, 1 step\n"
    assert desk.bring() == {}
    asked = CliRunner().invoke(run_command, ["--lines-read", desk.run_id, *desk.options], standalone_mode=False)
    assert asked.stdout == f"Lines 1 to 2 of the output of {desk.run_id} were read and are stored.\n"
    nobody = CliRunner().invoke(run_command, ["--lines-read", "nobody", *desk.options], standalone_mode=False)
    assert isinstance(nobody.exception, StoreError)
    assert "there is no run 'nobody'" in str(nobody.exception)


def test_a_run_whose_lines_have_no_numbers_is_told_from_one_that_is_not_there(desk: Desk) -> None:
    desk.write(desk.step(0), mode="w")
    desk.bring()
    asked = CliRunner().invoke(run_command, ["--lines-read", desk.run_id, *desk.options], standalone_mode=False)
    assert str(asked.exception).startswith(f"run {desk.run_id} has no lines with numbers")


def test_a_moved_log_is_the_same_and_a_new_one_of_its_name_is_another(desk: Desk) -> None:
    """Also when all of them begin with the same line."""
    desk.write(desk.step(0), desk.step(1))
    assert desk.bring() == {"step": 2}
    moved = desk.log.rename(desk.log.with_suffix(".1"))
    desk.write(desk.step(0), desk.step(7), desk.step(8))
    assert desk.bring() == {"step": 3}
    assert desk.bring() == {}
    desk.write(desk.step(9))
    assert desk.bring() == {"step": 1}
    desk.log = moved
    assert desk.bring() == {}
    assert desk.steps() == [0, 1, 0, 7, 8, 9]


def test_a_log_that_was_cut_or_written_again_is_another(desk: Desk) -> None:
    desk.write(desk.step(0), desk.step(1), desk.step(2))
    assert desk.bring() == {"step": 3}
    desk.write(desk.step(0), desk.step(1), mode="w")
    assert desk.bring() == {"step": 2}
    desk.write(desk.step(0), desk.step(5), desk.step(6), desk.step(7), mode="w")
    assert desk.bring() == {"step": 4}
    assert desk.bring() == {}


def test_a_file_of_a_name_is_the_same_whatever_other_files_had_the_name(desk: Desk) -> None:
    desk.write(desk.step(0), desk.step(1))
    follower = desk.follow()
    wait_for(lambda: desk.steps() == [0, 1], "the first file")
    for count, name in ((3, "2"), (4, "3")):  # the first begins with a line that is known, the second does not
        desk.log.rename(desk.log.with_suffix("." + name))
        desk.write(desk.step(int(name) - 2), desk.step(count * 10))
        wait_for(lambda count=count: count * 10 in desk.steps(), "the next file")  # type: ignore[misc]
    desk.write('{"type": "run_completed"}\n')
    follower.communicate(timeout=patience(30))
    assert desk.bring() == {}
    assert desk.steps() == [0, 1, 0, 30, 1, 40]


def test_several_runs_of_one_log_are_several_runs(desk: Desk) -> None:
    for name in "ab":
        desk.write(f'{{"type": "run_started", "run_id": "{desk.run_id}-{name}"}}\n', "text\n")
        desk.write('{"type": "episode", "total_reward": 1}\n')
    desk.report("jsonl", str(desk.log), "--json")
    for name in "ab":
        found = [event for event in desk.events(f"{desk.run_id}-{name}") if isinstance(event, (Log, Episode))]
        assert [event.kind for event in found] == ["log", "episode"]
    desk.report("jsonl", str(desk.log), "--json", "--run", desk.run_id)
    assert sum(isinstance(event, Episode) for event in desk.events()) == 2


def test_a_line_without_an_end_is_read_once(desk: Desk) -> None:
    desk.write(desk.step(0), desk.step(1).rstrip())
    assert desk.bring() == {"step": 2}
    desk.write("\n", desk.step(2))
    assert desk.bring() == {"step": 1}


def test_half_a_line_waits_for_the_other_half(desk: Desk) -> None:
    desk.write(desk.step(0), desk.step(1)[:20])
    assert desk.bring() == {"step": 1}
    desk.write(desk.step(1)[20:], "text that is not")
    assert desk.bring() == {"step": 1}
    desk.write(" complete\n")
    assert desk.bring() == {"log": 1}


def test_a_followed_log_may_grow_be_rotated_and_be_cut(desk: Desk) -> None:
    follower = desk.follow()
    time.sleep(0.1)
    desk.write(desk.step(0), desk.step(1)[:20])
    wait_for(lambda: desk.steps() == [0], "the first line")
    desk.write(desk.step(1)[20:])
    wait_for(lambda: desk.steps() == [0, 1], "a line in two parts")
    desk.log.rename(desk.log.with_suffix(".1"))
    desk.write(desk.step(2), desk.step(3))
    wait_for(lambda: desk.steps() == [0, 1, 2, 3], "the file that has the name now")
    desk.write(desk.step(4), mode="w")
    wait_for(lambda: desk.steps() == [0, 1, 2, 3, 4], "the file that was cut")
    desk.write('{"type": "run_completed"}\n')
    out, errors = follower.communicate(timeout=patience(30))
    assert (follower.returncode, errors) == (0, b"")
    assert out.decode() == f"{desk.run_id}: 5 steps\n"


def test_a_reader_that_is_killed_at_any_moment_leaves_nothing_out_and_nothing_twice(desk: Desk) -> None:
    desk.write(*(desk.step(n) for n in range(20_000)))
    for _ in range(2):
        follower = desk.follow()
        known = len(desk.steps_of_store())
        wait_for(lambda known=known: len(desk.steps_of_store()) > known, "steps")  # type: ignore[misc]
        time.sleep(random.random() / 10)
        follower.send_signal(signal.SIGKILL)
        follower.communicate()
    desk.bring()
    assert desk.steps_of_store() == list(range(20_000))


def test_a_dry_run_needs_no_broker(desk: Desk) -> None:
    desk.write(desk.step(0), '{"type": "step", "step": "one"}\n')
    desk.options[1] = "tcp://127.0.0.1:9"
    with pytest.raises(TelefabricError, match="1 of 2 lines name a kind of event and are none"):
        desk.bring("--dry-run")


def test_what_is_no_file_is_one_sentence(desk: Desk) -> None:
    with pytest.raises(TelefabricError, match=r"cannot be read: No such file"):
        desk.bring()
    desk.log.mkdir()
    with pytest.raises(TelefabricError, match=r"cannot be read: Is a directory"):
        desk.bring()
