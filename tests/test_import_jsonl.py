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

import click
import pytest
from click.testing import CliRunner, Result
from processes import TELEFABRIC, wait_for
from slowness import patience
from store_fixtures import LOOPBACK

from telefabric import TelefabricError, open_store
from telefabric.errors import StoreError
from telefabric.service.embedded import Services
from telefabric.store.file.database import open_reader
from telefabric_schemas import Episode, Log, Step, decode_event
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.imports.command import importing
from telefabric_workers.imports.filestream import FileStream
from telefabric_workers.imports.jsonl import logfile
from telefabric_workers.outbox import link_of
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

    def said(self, *more: str) -> Result:
        """What the import says to people, or how it fails."""
        return CliRunner().invoke(importing, ["jsonl", str(self.log), *more, *self.options], standalone_mode=False)

    def outcomes(self, run_id: str) -> list[tuple[str | None, str | None]]:
        with open_store(self.services.file) as reader:
            return [(one.outcome, one.outcome_reason) for one in reader.streams(run_id)]

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


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_what_of_a_line_is_left_out_is_said(desk: Desk, more: tuple[str, ...]) -> None:
    desk.write(json.dumps({"type": "run_started", "run_id": desk.run_id, "big": "x" * 300_000, "lr": 1}) + "\n")
    desk.write(json.dumps({"type": "step", "observation": "y" * 9_000_000, "reward": 1}) + "\n")
    desk.write(json.dumps({"type": "step", "agent": "a" * 300}) + "\n")
    assert desk.said(*more).stdout.splitlines()[1:] == [
        "line 1: metadata.big: metadata is over 262144 bytes",
        "line 2: step.observation: it makes the event larger than 8388608 bytes",
        "line 3: step.agent: it should be printable text of 1 to 255 bytes",
    ]
    if not more:
        assert [event.agent_id for event in desk.events() if isinstance(event, Step)] == ["agent_0", "a" * 255]


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
    assert follower.stderr is not None
    assert follower.stderr.readline().decode() == f"telefabric: waiting for {desk.log}\n"
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
    with pytest.raises(TelefabricError, match=r"^1 problem in 2 lines: an import would store"):
        desk.bring("--dry-run")


def test_what_is_no_file_is_one_sentence(desk: Desk) -> None:
    with pytest.raises(TelefabricError, match=r"cannot be read: No such file"):
        desk.bring()
    desk.log.mkdir()
    with pytest.raises(TelefabricError, match=r"cannot be read: Is a directory"):
        desk.bring()
    desk.log = Path("-")
    for option in ("--dry-run", "--follow"):
        with pytest.raises(TelefabricError, match=r"- is not a file: telefabric run -- cat records"):
            desk.bring(option)


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """End the import as ^C does, when this many events of a file were added."""
    add, left = FileStream.add, iter(range(after))

    def adding(stream: FileStream, event: Any) -> bool:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return add(stream, event)

    monkeypatch.setattr(FileStream, "add", adding)


def test_an_import_that_is_interrupted_ends_no_run_and_the_same_command_continues(desk: Desk) -> None:
    desk.write(*(desk.step(n) for n in range(10)))
    for after, added in ((6, "6 steps"), (3, "nothing new so far")):
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, after)
            result = desk.said()
        assert isinstance(result.exception, click.Abort)
        assert result.stdout == f"{desk.run_id}: {added}\n"
        assert "telefabric: interrupted: the same command continues\n" in result.stderr
        assert desk.outcomes(desk.run_id) == [(None, None)]
    assert desk.bring() == {"step": 4}
    assert desk.steps() == list(range(10))
    assert desk.outcomes(desk.run_id) == [("completed", "the end of its file")]


def test_what_a_long_file_ends_with_is_waited_for_though_the_link_had_nothing_to_send_before(desk: Desk) -> None:
    desk.write(desk.step(0))
    environment = WorkerEnvironment.read(connect=desk.options[1], spool=desk.options[3], mode="durable")
    with link_of(environment) as link:
        link.cut_off_s = time.monotonic() - 100
        assert desk.bring() == {"step": 1}


def test_an_interrupted_log_of_many_runs_ends_only_those_that_say_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "_OPEN_MAX", 2)
    runs = [f"{desk.run_id}-{name}" for name in "abcd"]
    desk.write(f'{{"type": "run_completed", "status": "failed", "a": 1, "run_id": "{runs[0]}"}}\n')
    for run_id in (*runs[1:], *runs):
        desk.write(f'{{"type": "episode", "run_id": "{run_id}"}}\n')
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        desk.said()
    assert [desk.outcomes(run_id) for run_id in runs] == [[("failed", None)], *[[(None, None)]] * 3]
    desk.said()
    for run_id, episodes in zip(runs, (1, 2, 2, 2), strict=True):
        assert sum(isinstance(event, Episode) for event in desk.events(run_id)) == episodes
    at_end = ("completed", "the end of its file")
    assert [desk.outcomes(run_id) for run_id in runs] == [[("failed", None)], *[[at_end]] * 3]


def test_the_environment_names_no_run_of_a_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEFABRIC_RUN_ID", "of-the-environment")
    desk.write(desk.step(0))
    assert desk.said().stdout == f"{desk.run_id}: 1 step\n"
    assert desk.said("--run", f"{desk.run_id}-given").stdout == f"{desk.run_id}-given: 1 step\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ["No line was read."]),
        (b"\x7fELF\x01\n\x00\x02\n", ["train: 2 logs", "2 of 2 lines are not JSON objects and become log events"]),
        (b'text\n{"type": "step"}\n\n', ["train: 1 log, 1 step"]),
    ],
)
def test_a_file_that_is_hardly_a_log_of_lines_gets_a_remark(desk: Desk, content: bytes, said: list[str]) -> None:
    desk.log.write_bytes(content)
    lines = desk.said("--dry-run").stdout.splitlines()
    assert [line.partition(":")[0] if "objects" in line else line for line in lines] == said


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "give a program after --"),
        (["--from", "F", "--", "cat"], "give only one of a program and --from"),
        (["--from", "F", "--follow", "F"], "give only one of --from and --follow"),
    ],
)
def test_run_has_one_source_of_lines(given: list[str], sentence: str) -> None:
    result = CliRunner().invoke(run_command, given, standalone_mode=False)
    assert str(result.exception).startswith(sentence)
