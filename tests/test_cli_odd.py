"""Odd values in events: every command that shows events shows them, and all the others beside them."""

from __future__ import annotations

import json
import math
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oddvalues import FOREIGN, ODD, by_name, odd_values
from processes import TELEFABRIC, Service, free_ports, run, wait_for
from skips import requires
from slowness import patience
from store_fixtures import TIME_NS

from telefabric.cli import read
from telefabric.exchange import json_form
from telefabric.store.file.database import FILE_NAME
from telefabric.store.read.query import StoredEvent
from telefabric_schemas import events, values
from telefabric_workers import connect

RENDERERS = {"json": json_form.json_line, "people": read.human_line, "raw": json_form.raw_line}
NUMBERS = (math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324, -0.0)


def stored(raw: bytes) -> StoredEvent:
    """A step with one payload in all its places."""
    given = msgspec.Raw(raw)
    step = events.Step(
        1, "agent_0", 0, 0, 0, 0, math.nan, False, False, TIME_NS, 0, action=given, observation=given,
        render_hint=given, info=given,
    )  # fmt: skip
    event = msgspec.msgpack.encode(step)
    return StoredEvent(1, "step", "run", "worker", bytes(16), 1, 1, "agent_0", TIME_NS, None, None, event)


def one_line(line: bytes) -> bytes:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return line


@pytest.mark.parametrize("raw", **by_name({**{name: values.encode(value) for name, value in ODD.items()}, **FOREIGN}))
def test_an_odd_value_is_one_line_in_every_form(raw: bytes) -> None:
    for render in RENDERERS.values():
        one_line(render(stored(raw)))
    assert json.loads(json_form.json_line(stored(raw)))["worker_id"] == "worker"


@given(odd_values().map(values.encode) | st.binary(min_size=1, max_size=30))
def test_so_is_whatever_is_made_of_them(raw: bytes) -> None:
    for render in RENDERERS.values():
        one_line(render(stored(raw)))


# -- through a real worker and a real store ----------------------------------------------------------------------
class Recorded(NamedTuple):
    url: str
    file: Path
    emitted: int


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A run for each odd value as its metadata, and one run with all of them in every place."""
    folder = tmp_path_factory.mktemp("odd")
    command = [*TELEFABRIC, "up", "--listen", f"tcp://127.0.0.1:{free_ports()}", "--data", str(folder)]
    options: dict[str, Any] = {"spool": folder / "spool", "exit_flush_s": 60}
    with Service(command) as service:
        emitted = 0
        for number, value in enumerate(ODD.values()):
            metadata = {"obs_mean": value, "game_id": value, "seed": value}
            with connect(service.url, run=f"odd-{number}", metadata=metadata, **options) as worker:
                worker.set_metadata({"later": value})
            emitted += worker.emitted
        frame = np.zeros((16, 16, 3), np.uint8)
        with connect(service.url, run="all", metadata=ODD, store_frames="steps:1", **options) as worker:
            for number, value in enumerate(ODD.values()):
                worker.step(
                    episode=0, step=number, action=value, observation=value, render_hint={"grid": value}, info=value,
                    reward=NUMBERS[number % len(NUMBERS)], hud={"odd": NUMBERS[number % len(NUMBERS)]}, frame=frame,
                )  # fmt: skip
            for number in NUMBERS:
                worker.metric("odd" * 3_000, number, unit="\x1b[31m")
                worker.episode(
                    episode=0, total_reward=number, length=2**40, end_reason="\n" * 9, metadata={"a": number}
                )
            worker.log("\x1b]0;title\x07" * 1_000, level="\x00")
            assert worker.flush(patience(60))
        emitted += worker.emitted
        yield Recorded(service.url, folder / FILE_NAME, emitted)


def done(*arguments: object) -> str:
    found = run(*map(str, arguments), timeout_s=120)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


@pytest.mark.parametrize("source", ["--store", "--connect"])
def test_dump_and_tail_show_each_event_with_its_odd_values(recorded: Recorded, source: str) -> None:
    where = (source, recorded.file if source == "--store" else recorded.url)
    dumped = [json.loads(line) for line in done("dump", *where).splitlines()]
    assert len(dumped) == recorded.emitted
    for form in ((), ("--json",), ("--raw",)):
        assert done("tail", "--no-follow", "-n", "2000", *where, *form).count("\n") == recorded.emitted
    grid = next(one for one in dumped if one["kind"] == "step" and one["step_index"] == 1)
    assert grid["observation"] == {"dtype": "<f8", "shape": [3, 3], "data": [[0.0] * 3] * 3}


def test_verify_and_status_count_them(recorded: Recorded) -> None:
    assert f"Verified: {recorded.emitted} rows" in done("store", "verify", "--store", recorded.file)
    assert "broker" in done("status", "--connect", recorded.url)


@requires("av", "PIL")
def test_an_episode_of_them_is_exported(recorded: Recorded, tmp_path: Path) -> None:
    video = tmp_path / "odd.mp4"
    found = run("export", "mp4", str(video), "--store", str(recorded.file), "--run", "all", "--episode", "0")
    assert (found.returncode, f"{len(ODD)} steps" in found.stdout) == (0, True), found.stderr
    assert video.stat().st_size


@pytest.mark.parametrize("form", [(), ("--json",), ("--raw",)], ids=["people", "json", "raw"])
def test_they_are_followed_from_the_start_and_hold_up_no_other_run(
    recorded: Recorded, form: tuple[str, ...], tmp_path: Path
) -> None:
    def followed(run_id: str) -> int:
        output, errors = tmp_path / "output", tmp_path / "errors"
        command = [*TELEFABRIC, "tail", "--from-start", "--run", run_id, "--connect", recorded.url, *form]
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        mark = b"run_completed" if form != ("--raw",) else b'"completed"'
        try:
            wait_for(lambda: process.poll() is not None or mark in output.read_bytes(), f"{run_id} to its end")
            assert process.poll() is None, errors.read_text()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(patience(20))
        assert "Traceback" not in errors.read_text()
        return output.read_bytes().count(b"\n")

    assert followed("all") > len(ODD)
    assert followed("odd-0") >= 3


def test_they_are_shown_live(recorded: Recorded, tmp_path: Path) -> None:
    output, errors = tmp_path / "output", tmp_path / "errors"
    command = [*TELEFABRIC, "tail", "--live", "--json", "--run", "live", "--connect", recorded.url]
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    with connect(recorded.url, run="live", spool=tmp_path / "spool", metadata=ODD, exit_flush_s=patience(60)) as worker:
        shown: set[int] = set()
        for number, value in enumerate(ODD.values()):

            def said(number: int = number, value: Any = value) -> bool:
                worker.step(episode=0, step=number, observation=value, info={"odd": value})
                assert process.poll() is None, errors.read_text()
                return f'"step_index":{number},'.encode() in output.read_bytes()

            wait_for(said, f"step {number} is shown")
            shown.add(number)
    process.send_signal(signal.SIGINT)
    process.wait(patience(20))
    assert len(shown) == len(ODD)
    assert "Traceback" not in errors.read_text()
