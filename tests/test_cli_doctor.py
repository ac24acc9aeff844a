"""`telefabric doctor`: what it says of machines that are fine, and of those that are not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from emitter import Progress
from processes import Service, broker, free_ports, run, store, wait_for
from test_kills import emitter

from telefabric.address import Address
from telefabric.doctor.finding import OK, PROBLEM, WARNING
from telefabric.peer.requests import ask_status


def examined(*arguments: str | Path, code: int = 0, env: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """The findings by check, of the command as users run it."""
    done = run("doctor", "--json", *map(str, arguments), env=env)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["healthy"] == (code == 0)
    for finding in found["findings"]:
        assert finding["sentence"].endswith(".")
        assert bool(finding["remedy"]) == (finding["state"] != OK)
    return {finding["check"]: finding for finding in found["findings"]}


# -- real machines -----------------------------------------------------------------------------------------------
def test_a_machine_with_broker_and_store_is_fine(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port), store(port, tmp_path):
        found = examined("--connect", url, "--data", tmp_path, "--spool", tmp_path / "spool")
    assert {check for check, finding in found.items() if finding["state"] == PROBLEM} == set()
    for check in (
        "python", "zmq", "packages", "sqlite", "settings", "broker", "version", "ports", "store", "queries",
        "live path", "clock", "round trip", "refusals", "store file", "store writers", "left spools",
    ):  # fmt: skip
        assert found[check]["state"] == OK, found[check]
    assert all(f"{port + place} (" in found["ports"]["sentence"] for place in (1, 2, 3, 5, 6))
    assert "Only process " in found["store writers"]["sentence"]
    assert "protocol 1 answers" in found["broker"]["sentence"]
    assert "store is attached, with queries at tcp://127.0.0.1:" in found["store"]["sentence"]
    assert not (tmp_path / "spool").exists(), "a doctor leaves nothing behind"


def test_without_a_broker_it_says_how_to_start_one_and_is_no_problem(tmp_path: Path) -> None:
    port = free_ports()
    found = examined("--connect", f"tcp://127.0.0.1:{port}", "--data", tmp_path, "--spool", tmp_path)
    assert found["broker"]["state"] == WARNING
    assert f"ports {port} to {port + 6} are free" in found["broker"]["sentence"]
    assert found["broker"]["remedy"] == f"telefabric up --listen tcp://127.0.0.1:{port}"
    assert "store" not in found
    assert "clock" not in found


def test_it_names_who_has_taken_a_port(tmp_path: Path) -> None:
    port = free_ports()
    with socket.create_server(("127.0.0.1", port + 3)):
        found = examined("--connect", f"tcp://127.0.0.1:{port}", "--data", tmp_path, "--spool", tmp_path, code=1)
    assert found["broker"]["state"] == PROBLEM
    assert f"{port + 3} (durable, by process " in found["broker"]["sentence"]


def test_a_broker_without_a_store_is_a_problem(tmp_path: Path) -> None:
    port = free_ports()
    with broker(port):
        found = examined("--connect", f"tcp://127.0.0.1:{port}", "--data", tmp_path, "--spool", tmp_path, code=1)
    assert found["broker"]["state"] == OK
    assert found["store"] == {
        "check": "store", "state": PROBLEM, "sentence": "Nothing is stored: no store is attached to the broker.",
        "remedy": f"telefabric store --connect tcp://127.0.0.1:{port}",
    }  # fmt: skip


def test_a_stopped_store_is_to_be_woken_and_not_started_once_more(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port), store(port, tmp_path) as keeper, emitter(url, tmp_path, "run"):
        wait_for(lambda: not told(url)["absent"] and told(url)["streams"], "all are there")
        assert keeper.process is not None
        keeper.signal(signal.SIGSTOP)
        wait_for(lambda: told(url)["absent"] == ["store"], "the broker misses it", 40)
        found = examined("--connect", url, "--data", tmp_path, "--spool", tmp_path / "spool", code=1)
        wake = f"kill -CONT {keeper.process.pid} wakes the store; kill -KILL {keeper.process.pid} ends it"
        for check in ("store", "streams: store"):
            assert found[check]["remedy"] == f"{wake}; no other store can open {tmp_path / 'telemetry.sqlite'}"
        assert found["store writers"]["remedy"] == wake
        shown = run("status", "--connect", url, env={"COLUMNS": "1000"}).stdout
        assert "For one that runs: telefabric doctor" in shown


def test_a_stopped_query_service_is_to_be_woken_and_is_no_tunnel(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port), store(port, tmp_path) as keeper:
        wait_for(lambda: ask_status(Address.parse(url)).endpoints.query, "the store is attached")
        assert keeper.process is not None
        (queries,) = children(keeper.process.pid)
        os.kill(queries, signal.SIGSTOP)
        try:
            found = examined("--connect", url, "--data", tmp_path, "--spool", tmp_path / "spool", code=1)
            asked = run("tail", "--no-follow", "--connect", url)
        finally:
            os.kill(queries, signal.SIGCONT)
    assert found["ports"]["state"] == PROBLEM
    assert f"kill -CONT {queries} wakes a stopped process" in found["ports"]["remedy"]
    assert "ssh" not in found["ports"]["remedy"]
    assert asked.stderr.rstrip().endswith(": see telefabric doctor")


def children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def told(url: str) -> dict[str, Any]:
    return ask_status(Address.parse(url)).status


def test_a_subscriber_that_is_missing_is_named_and_the_store_is_not_to_be_started(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port, "--required", "store,returns"), store(port, tmp_path):
        wait_for(lambda: told(url)["absent"] == ["returns"], "the store is attached")
        found = examined("--connect", url, "--data", tmp_path, "--spool", tmp_path / "spool", code=1)
    assert found["store"]["sentence"] == "Nothing is acknowledged: no returns is attached to the broker."
    assert found["store"]["remedy"] == (
        "start the program that subscribes as returns, or leave returns out of the broker's --required"
    )
    assert found["store writers"]["state"] == OK


def test_spools_of_dead_workers_are_counted_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    url = f"tcp://127.0.0.1:{free_ports()}"
    options = ["--connect", url, "--data", tmp_path, "--spool", tmp_path / "spool"]
    with emitter(url, tmp_path, "first") as first:
        wait_for(lambda: Progress(tmp_path / "first.progress").read()[1] > 100, "it emits")
        assert examined(*options)["left spools"]["state"] == OK
        first.kill()
        found = examined(*options)["left spools"]
    assert found["state"] == WARNING
    assert found["sentence"].startswith("1 spool of dead workers")
    assert found["remedy"] == f"telefabric spool drain --connect {url}"
    assert len(list((tmp_path / "spool").iterdir())) == 1


def test_a_folder_that_cannot_be_is_a_problem_with_the_name_of_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = f"tcp://127.0.0.1:{free_ports()}"
    found = examined("--connect", url, "--data", tmp_path / "file" / "data", "--spool", tmp_path, code=1)
    assert found["data folder"]["state"] == PROBLEM
    assert "TELEFABRIC_DATA" in found["data folder"]["remedy"]
    assert found["spool folder"]["state"] == OK


def test_for_people_it_is_a_row_a_check_with_the_remedy_below(tmp_path: Path) -> None:
    port = free_ports()
    with broker(port) as frozen:
        frozen.signal(signal.SIGSTOP)
        done = run("doctor", "--connect", f"tcp://127.0.0.1:{port}", "--data", str(tmp_path), "--spool", str(tmp_path))
    assert done.returncode == 1
    rows = done.stdout.splitlines()
    assert re.match(r"ok {7}python +Python ", rows[0])
    problem = next(row for row in rows if row.startswith("problem"))
    assert "takes connections and says nothing" in problem
    assert re.search(r"listening there: process \d+, ", problem)
    assert re.match(r" +→ kill -CONT \d+ wakes a stopped one. Stop what", rows[rows.index(problem) + 1])
    assert done.stderr.startswith("telefabric: 1 of ")
    assert done.stderr.count("\n") == 1


def test_a_malformed_address_is_a_mistake_of_usage() -> None:
    assert run("doctor", "--connect", "host").returncode == 2


def test_it_does_not_load_qt() -> None:
    code = (
        "import sys; from telefabric.doctor.installation import look_for_qt_libraries as look;"
        "look(); print('PySide6' in sys.modules)"
    )
    with Service([sys.executable, "-c", "print('ready', flush=True);" + code]) as process:
        assert process.process is not None
        assert process.process.stdout is not None
        assert process.process.stdout.readline() == "False\n"


def test_settings_that_end_other_commands_are_rows_here(tmp_path: Path) -> None:
    options = ["--connect", f"tcp://127.0.0.1:{free_ports()}", "--data", tmp_path, "--spool", tmp_path]
    broken = tmp_path / "broken.toml"
    broken.write_text("connect = \n")
    file = examined(*options, code=1, env={"TELEFABRIC_CONFIG": str(broken)})["settings"]
    assert str(broken) in file["sentence"]
    assert file["remedy"] == "correct it, or move it away"
    typo = examined(*options, env={"TELEFABRIC_CONECT": "tcp://lab:7750"})["settings"]
    assert (typo["state"], typo["remedy"]) == (WARNING, "unset TELEFABRIC_CONECT, and export TELEFABRIC_CONNECT")
    here = {"TELEFABRIC_DATA": " ", "XDG_DATA_HOME": str(tmp_path)}
    found = examined(*options[:2], "--spool", tmp_path, code=1, env=here)
    variable = found["settings"]
    assert (variable["state"], variable["remedy"]) == (PROBLEM, "unset TELEFABRIC_DATA, or export another value")
    assert f"{tmp_path}/telefabric can be written" in found["data folder"]["sentence"]
