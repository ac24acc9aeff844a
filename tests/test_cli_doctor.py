"""`telefabric doctor`: what it says of machines that are fine, and of those that are not."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from emitter import Progress
from processes import Service, broker, free_ports, run, store, wait_for
from test_kills import emitter

from telefabric.address import DEFAULT, Address
from telefabric.cli.doctor.finding import OK, PROBLEM, WARNING
from telefabric.cli.doctor.verdicts import broker as on_broker
from telefabric.cli.doctor.verdicts import installation, machine, storefile
from telefabric.cli.doctor.verdicts.broker import BrokerSeen
from telefabric.cli.doctor.verdicts.machine import FolderSeen
from telefabric.store import database

HERE = Address.parse(DEFAULT)
LDD = """\
/venv/PySide6/QtGui.abi3.so:
\tlinux-vdso.so.1 (0x00007fd7f2d7a000)
\tlibQt6Gui.so.6 => /venv/PySide6/Qt/lib/libQt6Gui.so.6 (0x00007fd7f2d53000)
\tlibEGL.so.1 => not found
/venv/PySide6/Qt/plugins/platforms/libqxcb.so:
\tlibxcb-cursor.so.0 => not found
\tlibEGL.so.1 => not found
\tlibstrange.so.9 => not found
"""
MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
nas:/home /home nfs4 rw 0 0
/dev/sdb /home/ada/fast\\040disk xfs rw 0 0
"""


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
    for check in ("python", "zmq", "packages", "sqlite", "broker", "store", "clock", "left spools"):
        assert found[check]["state"] == OK, found[check]
    assert "protocol 1 answers" in found["broker"]["sentence"]
    assert "store is attached and answers queries at tcp://127.0.0.1:" in found["store"]["sentence"]
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
    assert rows[0].startswith("ok       python        Python ")
    problem = next(row for row in rows if row.startswith("problem"))
    assert f"{port} (control, by process " in problem
    assert rows[rows.index(problem) + 1].strip().startswith("→ Stop what listens there")
    assert done.stderr.startswith("telefabric: 1 of ")
    assert done.stderr.count("\n") == 1


def test_a_malformed_address_is_a_mistake_of_usage() -> None:
    assert run("doctor", "--connect", "host").returncode == 2


def test_it_does_not_load_qt() -> None:
    code = (
        "import sys; from telefabric.cli.doctor.looks.installation import look_for_qt_libraries as look;"
        "look(); print('PySide6' in sys.modules)"
    )
    with Service([sys.executable, "-c", "print('ready', flush=True);" + code]) as process:
        assert process.process is not None
        assert process.process.stdout is not None
        assert process.process.stdout.readline() == "False\n"


# -- verdicts ----------------------------------------------------------------------------------------------------
def test_versions_that_lose_data_or_crash_are_problems() -> None:
    assert installation.SQLITE_MIN == database.SQLITE_MIN
    assert installation.judge_python((3, 10, 4)).state == PROBLEM
    assert installation.judge_zmq("26.0", (4, 3, 4)).state == PROBLEM
    assert installation.judge_sqlite("3.50", (3, 50, 4)).remedy == "pip install -U apsw"
    assert installation.judge_sqlite(None, ()).state == WARNING
    assert installation.judge_qt("6.12.0", (3, 11, 7), []).state == PROBLEM
    assert installation.judge_qt("6.12.0", (3, 12, 1), []).state == OK
    assert installation.judge_qt("6.11.3", (3, 11, 7), []).state == OK
    assert installation.judge_qt(None, (3, 11, 7), None).state == OK
    assert installation.judge_others({"msgspec": None, "msgpack": "1"}).state == PROBLEM


def test_what_qt_misses_is_named_with_the_packages_that_bring_it() -> None:
    missing = installation.missing_libraries(LDD)
    assert missing == ["libEGL.so.1", "libstrange.so.9", "libxcb-cursor.so.0"]
    found = installation.judge_qt("6.11.3", (3, 12, 1), missing)
    assert found.state == WARNING
    assert found.remedy == "sudo apt-get install libegl1 libxcb-cursor0; install what brings libstrange.so.9"
    packages = {"libegl1", "libgl1", "libxkbcommon-x11-0", "libxcb-cursor0", "libdbus-1-3", "libfontconfig1"}
    assert packages <= set(installation.DEBIAN_PACKAGES.values())


def test_few_open_files_are_told_as_workers() -> None:
    assert machine.judge_open_files(20_000, 20_000).state == OK
    few = machine.judge_open_files(1_024, 1_048_576)
    assert few.state == WARNING
    assert "308 workers" in few.sentence
    assert few.remedy == "ulimit -n 3100, in the shell that starts the broker"
    assert "LimitNOFILE" in machine.judge_open_files(1_024, 2_048).remedy
    assert machine.judge_open_files(64, 64).state == PROBLEM


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib", "ext4"), ("/tmp/x", "tmpfs"), ("/home/ada", "nfs4"), ("/home/ada/fast disk/store", "xfs"),
        ("/homestead", "ext4"),
    ],
)  # fmt: skip
def test_the_file_system_is_that_of_the_longest_mount(path: str, expected: str) -> None:
    assert machine.file_system_of(Path(path), MOUNTS) == expected


def test_folders_on_a_network_or_a_full_disk_are_problems() -> None:
    def state(free: int, kind: str) -> str:
        return machine.judge_folder("data folder", "TELEFABRIC_DATA", FolderSeen(Path("/x"), "", free, kind)).state

    assert state(10**12, "ext4") == OK
    assert state(10**12, "nfs4") == PROBLEM
    assert state(10**9, "ext4") == WARNING
    assert state(10**7, "ext4") == PROBLEM


def test_a_log_that_a_reader_holds_is_a_warning() -> None:
    assert f"{database.FILE_NAME}-wal" == storefile.STORE_LOG
    log = Path("/data") / storefile.STORE_LOG
    assert storefile.judge_store_log(log, 0) is storefile.judge_store_log(log, 256 << 20) is None
    held = storefile.judge_store_log(log, 300 << 20)
    assert held is not None
    assert (held.state, held.remedy.split()[:2]) == (WARNING, ["lsof", str(log)])


def test_clock_shared_memory_and_a_broker_elsewhere() -> None:
    assert on_broker.judge_clock(0.002).state == OK  # type: ignore[union-attr]
    assert "2.5 s behind" in on_broker.judge_clock(2.5).sentence  # type: ignore[union-attr]
    assert "3.0 s ahead" in on_broker.judge_clock(-3.0).sentence  # type: ignore[union-attr]
    assert machine.judge_shm(None).state == machine.judge_shm(64 << 20).state == WARNING
    assert machine.judge_shm(1 << 30).state == OK
    assert on_broker.judge_broker(Address("lab", 7750), BrokerSeen(None)).state == PROBLEM
    assert on_broker.judge_broker(HERE, BrokerSeen(None, taken={})).remedy == "telefabric up"
    without = BrokerSeen({"absent": [], "durable": [{"name": "store"}]})
    assert on_broker.judge_store(HERE, without).state == WARNING  # type: ignore[union-attr]
