"""`telefabric status`: names and numbers are shown as they are, however narrow the terminal is."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from processes import TELEFABRIC, Service, broker, free_ports, run, wait_for
from rich.console import Console
from slowness import patience

from telefabric.address import Address
from telefabric.broker.core.hops import Hop
from telefabric.cli.ring import _show
from telefabric.cli.status import _shown
from telefabric.peer.requests import ask_status
from telefabric.subscribe import LiveSubscription
from telefabric_workers import connect

ADDRESS = Address("127.0.0.1", 7750)
NAMES = "run[/b]", "sweep[lr=0.1]", ":smile:"
MANY = 12_345_678


def found(**changes: Any) -> dict[str, Any]:
    """A status of one stream and one live subscriber, both with large numbers."""
    hops = [Hop(name, "durable", MANY, 0, 0.0) for name in ("worker", "broker", "store")]
    stream = {
        "run_id": "run", "worker_id": "host-1", "agent_id": "agent_0", "state": "running", "hops": hops,
        "first_behind": None, "credit_bytes": MANY, "clock_offset_ms": 0.1, "round_trip_ms": 0.2,
    }  # fmt: skip
    live = {
        "name": "telefabric tail",
        "policy": {"mode": "sample", "every": 1000, "events_max": 10_000, "age_ms_max": 2_000},
        "dropped": {"queue_full": MANY, "too_old": MANY, "replaced": MANY},
        **dict.fromkeys(("numbered", "delivered", "received"), MANY),
        **dict.fromkeys(("queued", "lost_in_transit"), 12_345),
    }  # fmt: skip
    durable = [{"name": "store", "required": True}]
    whole = {"absent": [], "streams": [stream], "live": [live], "dropped": {"stale": MANY}, "live_dropped": {}}
    return {**whole, "durable": durable, **changes}


def shown(status: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False)
    console.print(_shown(ADDRESS, status, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 84, 88, 92, 120])
def test_a_number_stands_in_one_line(width: int) -> None:
    text = shown(found(), width)
    assert text.count("12\u202f345\u202f678") == 10
    assert text.count("12\u202f345") - 10 == 2
    assert "10\u202f000 events" in text
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text


def test_running_streams_come_first_and_of_them_the_newest() -> None:
    (one,) = found()["streams"]
    states = [
        ("old", "running", 1), ("gone", "stalled", 9), ("new", "running", 3), ("late", "running", 2),
        ("idle", "idle", 8),
    ]  # fmt: skip
    streams = [
        {**one, "run_id": run, "state": state, "started_ns": began, "first_behind": "store" if run == "late" else None}
        for run, state, began in states
    ]
    first_words = [next(iter(line.split()), "") for line in shown(found(streams=streams), 120).splitlines()]
    runs = {run for run, *_ in states}
    assert [word for word in first_words if word in runs] == ["late", "new", "old", "gone", "idle"]


def test_each_that_is_absent_has_its_own_remedy() -> None:
    text = shown(found(absent=["store", "returns"]), 1_000)
    assert "no store and no returns is attached." in text
    assert f"telefabric store --connect {ADDRESS.url}" in text
    assert "start the program that subscribes as returns, or leave returns out of the broker's --required" in text
    assert "telefabric store" not in shown(found(absent=["returns"]), 1_000)


def test_a_name_steers_no_terminal() -> None:
    stream = {**found()["streams"][0], "run_id": "\x1b[2Jrun"}
    assert "\x1b" not in shown(found(streams=[stream], absent=["\x1b[2J"]), 200)


def test_names_are_shown_as_they_are_whatever_rich_makes_of_them(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port), LiveSubscription(Address.parse(url), name="a [/b] reader", runs=["run"]) as reader:
        options: dict[str, Any] = {"agent": "[red]agent[/]", "spool": tmp_path, "exit_flush_s": 0}
        workers = [connect(url, run=name, worker=f"[/w] {name}", **options) for name in NAMES]
        try:
            wait_for(lambda: reader.poll(0.02) or len(told(url)["streams"]) == len(NAMES), "all streams are known")
            wait_for(lambda: reader.poll(0.02) or told(url)["live"], "the reader is known")
            once = run("status", "--connect", url, env={"COLUMNS": "200"})
            assert (once.returncode, once.stderr) == (0, "")
            watched = watch(url)
        finally:
            for worker in workers:
                worker.close()
    for text in (once.stdout, watched):
        for name in (*NAMES, "a [/b] reader", "[red]agent[/]", *(f"[/w] {name}" for name in NAMES)):
            assert name in text


def test_so_are_those_of_rings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    row = {"agent_id": ":smile:", "worker_id": "[/w]", "state": "live", "published": 1, "shape": None, "folder": "/x/y"}
    _show([{"run_id": name, **row} for name in NAMES])
    text = capsys.readouterr().out
    assert all(name in text for name in (*NAMES, "[/w]"))


def told(url: str) -> dict[str, Any]:
    return ask_status(Address.parse(url)).status


def watch(url: str) -> str:
    """What `--watch` shows until it is interrupted, on a terminal that it is told of."""
    env = {**os.environ, "COLUMNS": "200", "FORCE_COLOR": "1", "TERM": "xterm"}
    command = [*TELEFABRIC, "status", "--connect", url, "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not any("reader" in line for line in lines):
            line = process.stdout.readline()
            assert line, "it ended"
            lines.append(line)
        process.send_signal(signal.SIGINT)
        return "".join(lines)


def test_what_dead_workers_left_on_a_machine_is_in_the_status(tmp_path: Path) -> None:
    """A spool that nobody can read is never delivered: whoever looks at the status is told."""
    port = free_ports()
    left = tmp_path / "spool" / ("ab" * 16)
    left.mkdir(parents=True)
    (left / "stream").write_bytes(b"\xc1")
    (left / "lock").touch()
    address = Address("127.0.0.1", port)
    with broker(port), connect(address.url, spool=tmp_path / "spool", exit_flush_s=0) as worker:
        worker.step(episode=0, step=0)
        told = wait_for(lambda: ask_status(address, 5).status["left_spools"], "the worker has told of it")
    assert list(told.values()) == [1]
    assert f"{next(iter(told))} has 1 spools of workers that have ended" in shown(found(left_spools=told), 200)


def test_a_run_that_was_taken_up_again_has_its_attempt_and_what_was_superseded(tmp_path: Path) -> None:
    command = [*TELEFABRIC, "up", "--listen", f"tcp://127.0.0.1:{free_ports()}", "--data", str(tmp_path)]
    options: dict[str, Any] = {"run": "walker", "spool": tmp_path / "spool", "exit_flush_s": patience(20)}
    with Service(command) as service:
        with pytest.raises(ZeroDivisionError), connect(service.url, **options) as worker:
            worker.step(episode=0, step=0, reward=1 / 0)
        with connect(service.url, **options) as worker:
            worker.step(episode=0, step=0, reward=1.0)
            assert worker.flush(patience(20))
            for_people = run("status", "--connect", service.url).stdout
            for_programs = json.loads(run("status", "--json", "--connect", service.url).stdout)
    assert "run walker: attempt 2, 1 stream superseded\n" in for_people
    assert for_programs["runs"] == [{"run_id": "walker", "attempts": 2, "helpers": 0, "superseded": 1}]
