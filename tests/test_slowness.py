"""The tests' own machinery: deadlines grow on a slow machine, and children get the signals of an ordinary program."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import slowness
from processes import wait_for

PROBE = """
import subprocess, sys

def test_a_child_hears_an_interrupt():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"True\\n"
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One at rest, as fast as the one that the deadlines are for."""
    monkeypatch.setattr(slowness, "_took", lambda work: slowness._TURNS_S if work is slowness._turns else 0.0)
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.5, 0.5))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    slowness._machine.cache_clear()
    yield monkeypatch
    slowness._machine.cache_clear()


def test_a_machine_at_rest_keeps_the_deadlines(machine: pytest.MonkeyPatch) -> None:
    assert slowness.patience(20) == 20


def test_a_slow_machine_and_a_busy_one_are_waited_for(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(slowness, "_took", lambda work: 2 * slowness._TURNS_S)
    assert slowness.patience(20) == pytest.approx(40)
    machine.setattr("os.getloadavg", lambda: (6.0, 0, 0))
    assert slowness.patience(20) == pytest.approx(120)
    machine.setattr("os.getloadavg", lambda: (600.0, 0, 0))
    assert slowness.patience(20) == 20 * slowness._MOST


def test_what_never_happens_fails_in_time(machine: pytest.MonkeyPatch) -> None:
    began_s = time.monotonic()
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: a miracle"):
        wait_for(lambda: False, "a miracle", 0.1)
    assert time.monotonic() - began_s >= 0.1


def test_children_hear_an_interrupt_though_the_tests_were_started_without(tmp_path: Path) -> None:
    """As nohup and jobs in the background do."""
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_probe.py").write_text(PROBE)
    tests = str(Path(__file__).parent)
    done = subprocess.run(
        ["sh", "-c", f"trap '' INT; exec {sys.executable} -m pytest -q -p no:cacheprovider test_probe.py"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={"PYTHONPATH": tests, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
