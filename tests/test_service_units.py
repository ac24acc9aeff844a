"""Units of systemd: valid, hardened, and right for those who install them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import confined
import pytest
from processes import TELEFABRIC, free_ports, run
from servicemanager import ServiceManager
from skips import requires
from slowness import patience

from telefabric import limits
from telefabric.cli import service as command
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.service import units
from telefabric_workers import connect

OLDEST = 252
THERE = shutil.which("systemd-analyze") is not None
needs_systemd = requires("systemd-analyze, of systemd", THERE)
ALL = [(service, user) for service in units.SERVICES for user in (False, True)]
each_unit = pytest.mark.parametrize(("service", "user"), ALL, ids=[f"{one}{' --user' * user}" for one, user in ALL])
EXPOSURE_MAX = 16
"""Tenths: what `systemd-analyze security` may say of a broker and a store."""


def unit(service: str, *, user: bool = False, python: Path = Path(sys.executable), systemd: int = OLDEST) -> str:
    return units.render(service, python, user=user, systemd=systemd)


def write(folder: Path, service: str, *, user: bool) -> Path:
    file = folder / units.unit_name(service)
    file.write_text(unit(service, user=user))
    return file


@needs_systemd
@each_unit
def test_systemd_finds_nothing_to_say_against_it(service: str, user: bool, tmp_path: Path) -> None:
    file = write(tmp_path, service, user=user)
    checked = subprocess.run(
        ["systemd-analyze", "verify", *(["--user"] if user else []), str(file)],
        capture_output=True, text=True, check=False, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    ours = [line for line in checked.stderr.splitlines() if file.name in line]
    assert (checked.returncode, ours) == (0, []), checked.stderr


@needs_systemd
@pytest.mark.parametrize("service", units.SERVICES)
def test_little_of_the_machine_is_exposed_to_it(service: str, tmp_path: Path) -> None:
    file = write(tmp_path, service, user=False)
    checked = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


@each_unit
def test_no_mark_of_the_template_is_left(service: str, user: bool) -> None:
    for systemd in (OLDEST, 300):
        text = unit(service, user=user, systemd=systemd)
        assert not re.search(r"^@|\$(?!MAINPID)", text, re.MULTILINE), text
        assert ("User=telefabric" in text) != user
        assert ("RestartSteps=" in text) == (systemd >= units.STEPS_SINCE)


def test_a_path_with_signs_of_systemd_is_one_word() -> None:
    odd = unit("up", python=Path('/opt/my "50 %" $HOME/python'))
    assert 'ExecStart="/opt/my \\"50 %%\\" $$HOME/python" -P -m telefabric.cli.main up' in odd


def test_deadlines_are_those_of_the_parts() -> None:
    assert f"WatchdogSec={limits.HANG_S:.0f}\n" in unit("up")
    allowed = int(re.findall(r"TimeoutStopSec=(\d+)", unit("up"))[0])
    assert allowed > limits.STOP_STORE_S + limits.STOP_S
    assert limits.STOP_S < limits.STOP_STORE_S / 2, "a store at its end waits for its query service"


@pytest.mark.parametrize(
    "path", ["/home/ada/.venv/bin/python", "/root/.local/share/uv/python", "/tmp/x/python", "/run/user/1000/python"]
)
def test_an_interpreter_that_the_service_cannot_see_is_refused_with_the_way_out(path: str) -> None:
    with pytest.raises(UsageError, match=r"is in /\w+.*python3 -m venv /opt/telefabric.*or add --user"):
        units.require_reachable("up", [Path("/usr/bin/python3"), Path(path)])
    units.require_reachable("up", [Path("/opt/telefabric/bin/python"), Path("/usr/lib/python3.11"), Path("/homes/x")])


def test_what_a_dry_run_prints_is_what_an_install_does(tmp_path: Path) -> None:
    written = {
        step.path: step.text for step in command.to_install("store", unit("store"), user=False)
        if isinstance(step, command.Write)
    }  # fmt: skip
    assert list(written) == [units.SYSUSERS, units.FOLDER / "telefabric-store.service"]
    shown = run("service", "install", "store", "--user", "--dry-run", env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[0] == f"# write: {tmp_path}/systemd/user/telefabric-store.service"
    assert shown.stdout.splitlines()[-3:] == [
        "# run: systemctl --user daemon-reload",
        "# run: systemctl --user enable telefabric-store.service",
        "# run: systemctl --user restart telefabric-store.service",
    ]
    assert not list(tmp_path.iterdir())


SYSTEMCTL = """#!/bin/sh
here="$(dirname "$0")"
echo "$@" >> "$here/calls"
case "$*" in
    --version) echo "systemd 252 (252.38-1)" ;;
    *show*) echo "ActiveState=$(cat "$here/state")"; echo SubState=x; echo MainPID=7; echo NRestarts=2
        echo StatusText=listening ;;
esac
"""
"""Enough of it for a machine that systemd does not run."""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose systemctl is ours."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    (folder / "state").write_text("active")
    return {"PATH": f"{folder}:/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_a_service_of_a_user_is_installed_shown_and_removed(machine: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "config" / "systemd" / "user" / "telefabric-up.service"
    installed = run("service", "install", "up", "--user", env=machine)
    assert installed.returncode == 0, installed.stderr
    assert "loginctl enable-linger" in installed.stdout
    assert file.read_text() == unit("up", user=True)
    shown = run("service", "status", env=machine)
    assert shown.stdout == "up (of the user)   active, x   process 7   restarts: 2   listening\n"
    (tmp_path / "bin" / "state").write_text("failed")
    assert run("service", "status", "--json", env=machine).returncode == 1
    assert run("service", "uninstall", "up", "--user", env=machine).returncode == 0
    assert not file.exists()
    again = run("service", "uninstall", "up", "--user", env=machine)
    assert (again.returncode, "is not there" in again.stderr) == (2, True)
    asked = (tmp_path / "bin" / "calls").read_text().splitlines()
    assert [line for line in asked if "show" not in line and "version" not in line] == [
        "--user daemon-reload", "--user enable telefabric-up.service", "--user restart telefabric-up.service",
        "--user disable --now telefabric-up.service", "--user daemon-reload",
    ]  # fmt: skip


def test_a_step_that_fails_is_one_sentence(tmp_path: Path) -> None:
    without = run("service", "install", "up", "--user", env={"PATH": str(tmp_path)})
    assert without.stderr.startswith("telefabric: there is no systemctl here, so systemd does not run this machine: ")
    with pytest.raises(EnvironmentProblem, match=r"^sh -c 'echo no >&2; exit 3' failed: no$"):
        command._run(("sh", "-c", "echo no >&2; exit 3"))


# -- as the unit confines it -------------------------------------------------------------------------------------
needs_seccomp = requires(confined.why_not() or "systemd-analyze and libseccomp", not confined.why_not())


@needs_seccomp
def test_a_service_does_its_work_without_what_its_unit_forbids(tmp_path: Path) -> None:
    port, data = free_ports(), tmp_path / "data"
    up = [*TELEFABRIC, "up", "--listen", f"tcp://127.0.0.1:{port}", "--data", str(data)]
    with ServiceManager(confined.inside(write(tmp_path, "up", user=False), up), tmp_path) as manager:
        manager.start()
        with connect(f"tcp://127.0.0.1:{port}", run="r", spool=tmp_path / "spool", exit_flush_s=patience(60)) as worker:
            for step in range(100):
                worker.step(episode=0, step=step, action=1, observation=step, reward=0.0)
            assert worker.flush(patience(60))
        counted = run("dump", "--connect", f"tcp://127.0.0.1:{port}", "--kind", "step")
        assert len(counted.stdout.splitlines()) == 100, "queries are answered, too"
        assert manager.stop() == 0, manager.log.read_text()


@needs_seccomp
@pytest.mark.parametrize("code", ["import os; os.setuid(1)", "import socket; socket.socket(socket.AF_PACKET)"])
def test_what_is_forbidden_really_is(code: str, tmp_path: Path) -> None:
    command_line = confined.inside(write(tmp_path, "up", user=False), [sys.executable, "-c", code])
    ended = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert "PermissionError" in ended.stderr
