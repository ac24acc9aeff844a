"""Parts that start slowly, are stuck, or are killed while they start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest
from eventlog import logged_events
from processes import TELEFABRIC, broker, free_ports, wait_for
from slowness import patience

from telefabric.errors import EnvironmentProblem, PartFailed
from telefabric.service import supervisor
from telefabric.service.supervisor import Part, Supervisor
from telefabric.store.file.database import FILE_NAME, open_writer

SILENCE_S = 1.5
"""Longer than Python needs to begin; a start of three times as long has to show that it gets on."""


def part(tmp_path: Path, program: str) -> Part:
    """A program of a few lines; it may leave a file named ``been`` in its folder."""
    code = f"import os, sys, time\nfrom pathlib import Path\nbeen = Path({str(tmp_path / 'been')!r})\n"
    code += textwrap.dedent(program) + "\nprint('ready tcp://127.0.0.1:1', flush=True)\nsys.stdin.read()\n"
    return Part("fake", lambda: [sys.executable, "-S", "-c", code], silence_s=SILENCE_S)


def start(one: Part) -> None:
    assert Supervisor([one]).start()


@pytest.mark.parametrize(
    "getting_on",
    [
        "print('starting counting', n, flush=True); time.sleep(0.1)",
        "Path(sys.executable).read_bytes(); time.sleep(0.1)",
        "until = time.monotonic() + 0.1\n    while time.monotonic() < until: pass",
    ],
    ids=["says", "reads", "computes"],
)
def test_a_part_may_start_as_slowly_as_it_likes_while_it_gets_on(getting_on: str, tmp_path: Path) -> None:
    slow = part(tmp_path, f"for n in range({int(30 * SILENCE_S)}):\n    {getting_on}")
    try:
        start(slow)
        assert (slow.url, slow.restarts) == ("tcp://127.0.0.1:1", 0)
    finally:
        slow.stop()


def test_a_signal_ends_the_loop_whichever_step_of_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler runs between two steps of the loop, and whatever lock the loop holds then is not given back before."""
    monkeypatch.setattr(supervisor, "_POLL_S", 0.001)

    def interrupted_at(moment: int) -> None:
        interrupted, steps = Supervisor([]), count()

        def step(frame: Any, event: str, argument: Any) -> Any:
            if next(steps) == moment:
                interrupted.stop()
            return step

        sys.settrace(step)
        interrupted.run()

    for moment in range(60):
        loop = threading.Thread(target=interrupted_at, args=(moment,), daemon=True)
        loop.start()
        loop.join(patience(5))
        assert not loop.is_alive(), f"interrupted at step {moment} it goes on for good"


def test_a_start_tells_what_it_does(tmp_path: Path) -> None:
    slow = part(tmp_path, "print('starting migrating, 43 %', flush=True)\nwhile not been.exists(): time.sleep(0.01)")
    with logged_events() as logs:
        wait_for(lambda: slow.is_up() or [line for line in logs if line["event"] == "part.starting"], "it says so")
        (tmp_path / "been").touch()
        start(slow)
        slow.stop()
    assert logs[0]["doing"] == "migrating, 43 %"


def test_a_part_that_does_nothing_is_told_to_be_stuck(tmp_path: Path) -> None:
    stuck = part(tmp_path, "time.sleep(600)")
    with pytest.raises(EnvironmentProblem, match=r"the fake did not start: it did nothing for 1.5 s"):
        start(stuck)
    assert stuck.pid is None


def test_a_part_that_says_no_more_that_it_is_alive_is_killed_and_started_again() -> None:
    code = "import sys, time; print('ready x', flush=True); print('alive', flush=True); time.sleep(600)"
    hanging = Part("fake", lambda: [sys.executable, "-S", "-c", code], hang_s=0.5)
    with logged_events() as logs:
        try:
            wait_for(lambda: hanging.tend() or hanging.restarts == 2, "it hangs, and is started again")
        finally:
            hanging.stop()
    told = [line["event"] for line in logs if line["event"] in ("part.hangs", "part.died")]
    assert told == ["part.hangs", "part.died"] * 2


@pytest.mark.parametrize("said", ["pass", "print('alive', flush=True)"], ids=["never", "while we were away"])
def test_a_part_is_not_blamed_for_what_was_not_heard(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never says that it is alive, as the query service, and one whose supervisor was stopped meanwhile."""
    code = f"import sys, time; print('ready x', flush=True); {said}; time.sleep(600)"
    quiet = Part("fake", lambda: [sys.executable, "-S", "-c", code], hang_s=60)
    try:
        wait_for(quiet.is_up, "it is ready")
        later = time.monotonic() + 1_000
        monkeypatch.setattr("telefabric.service.supervisor.time.monotonic", lambda: later)
        for _ in range(100):
            quiet.tend()
        assert quiet.restarts == 0
        assert quiet.pid is not None
    finally:
        monkeypatch.undo()
        quiet.stop()


def test_one_that_is_stuck_when_it_was_started_again_is_killed(tmp_path: Path) -> None:
    again = part(tmp_path, "if been.exists(): been.unlink(); time.sleep(600)")
    start(again)
    first = again.pid
    assert first is not None
    (tmp_path / "been").touch()
    os.kill(first, signal.SIGKILL)
    try:
        wait_for(lambda: again.tend() or again.restarts == 2, "the one that hangs is killed and started again")
    finally:
        again.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_one_that_a_signal_ends_before_it_is_ready_is_started_again(number: int, tmp_path: Path) -> None:
    killed = part(tmp_path, f"if not been.exists(): been.touch(); os.kill(os.getpid(), {int(number)}); time.sleep(600)")
    try:
        start(killed)
        assert killed.restarts == 1
    finally:
        killed.stop()


def test_one_that_ends_by_itself_is_not(tmp_path: Path) -> None:
    with pytest.raises(PartFailed) as caught:
        start(part(tmp_path, "sys.exit(2)"))
    assert caught.value.exit_code == 2
    with pytest.raises(EnvironmentProblem, match="ended with 3 before it was ready"):
        start(part(tmp_path, "sys.exit(3)"))


def test_an_earlier_part_is_tended_while_a_later_one_starts(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first = part(folders[0], "")
    second = part(folders[1], "while not been.exists(): print('starting', time.time(), flush=True); time.sleep(0.1)")
    together = Supervisor([first, second])
    starting = threading.Thread(target=together.start)
    starting.start()
    pid = wait_for(lambda: second.pid and first.pid, "both run")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: first.restarts == 1, "the first is started again")
    (folders[1] / "been").touch()
    starting.join()
    together.stop()
    together.run()


# -- real services -----------------------------------------------------------------------------------------------
SLOW_STORE = """
import sys, time
import apsw

class SlowFile(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__("unix", name, flags)

    def xRead(self, amount, offset):
        time.sleep(0.02)
        return super().xRead(amount, offset)

class SlowDisk(apsw.VFS):
    def xOpen(self, name, flags):
        return SlowFile(name, flags)

disk = SlowDisk("slow", "unix", makedefault=True)
from telefabric.cli.main import main
main()
"""


def left_log(folder: Path, size: int) -> None:
    """A store as a killed writer leaves it: so many bytes of its newest rows are in the log alone."""
    writer = open_writer(folder / "writing" / FILE_NAME)
    writer.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    writer.execute("CREATE TABLE filling (data)")
    for _ in range(-(-size // 2**20)):
        writer.execute("INSERT INTO filling VALUES (randomblob(1048576))")
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        shutil.copy(folder / "writing" / name, folder / name)
    writer.close()


def test_a_store_on_a_slow_disk_recovers_its_log_in_peace(tmp_path: Path) -> None:
    left_log(tmp_path, 200_000)
    port = free_ports()
    command = [sys.executable, "-c", SLOW_STORE, "store", "--tied", "--connect", f"tcp://127.0.0.1:{port}"]
    slow = Part(
        "store", lambda: [*command, "--data", str(tmp_path), "--query", "tcp://127.0.0.1:0"], silence_s=SILENCE_S
    )
    with broker(port):
        try:
            start(slow)
            assert slow.restarts == 0
        finally:
            slow.stop()
    with apsw.Connection(str(tmp_path / FILE_NAME)) as connection:
        assert connection.execute("SELECT count(*) FROM filling").get == 1
    connection.close()


def children(pid: int) -> dict[str, int]:
    """The words of a process's children's command lines, and their pids."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                words = (folder / "cmdline").read_text().split("\0")
            except OSError:
                continue  # it ended meanwhile
            if parent == pid:
                found.update(dict.fromkeys(words, int(folder.name)))
    return found


def test_up_says_that_a_long_log_is_recovered_and_starts_a_killed_store_again(tmp_path: Path) -> None:
    left_log(tmp_path, 70 * 2**20)
    command = [*TELEFABRIC, "up", "--listen", f"tcp://127.0.0.1:{free_ports()}", "--data", str(tmp_path)]
    log = tmp_path / "log"
    with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as up:
        try:
            os.kill(wait_for(lambda: children(up.pid).get("store"), "the store begins"), signal.SIGKILL)
            assert up.stdout is not None
            assert up.stdout.readline().startswith("ready ")
        finally:
            up.terminate()
        assert up.wait(patience(20)) == 0
    said = log.read_text()
    assert "recovering a log of 7" in said
    assert "part.died" in said
    assert "Traceback" not in said


def test_up_that_is_told_to_stop_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    port = free_ports()
    command = [*TELEFABRIC, "up", "--listen", f"tcp://127.0.0.1:{port}", "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        wait_for(lambda: children(up.pid).get("store"), "the store begins")
        up.terminate()
        said, errors = up.communicate(timeout=patience(20))  # ends when the last of its parts has
    assert (up.returncode, said, "Traceback" in errors) == (0, "", False), errors
