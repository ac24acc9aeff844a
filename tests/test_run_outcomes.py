"""The outcome of a run of real processes: taken up again, with a pool, as a daemon, distributed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import broker, free_ports, store, wait_for

from telefabric.store.file.database import FILE_NAME
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import Run, Stream

pytestmark = pytest.mark.timeout(180)
LOST_AFTER_S = 6

HEAD = """
import multiprocessing, os, signal, sys
from telefabric_workers import connect
url, spool, run = sys.argv[1:]
worker = connect(url, run=run, spool=spool, exit_flush_s=60)
def steps(count):
    for number in range(count):
        worker.step(episode=0, step=number, reward=1.0)
    assert worker.flush(60)
"""
KILLED = "steps(150)\nos.kill(os.getpid(), signal.SIGKILL)"
COMPLETED = "steps(20)\nworker.close()"
BESIDE = """
import pathlib, time
steps(20)
while not (pathlib.Path(spool).parent / "go").exists():
    time.sleep(0.02)
steps(20)
worker.close()
"""
CANCELLED = "with worker:\n    steps(20)\n    os.kill(os.getpid(), signal.SIGINT)\n    signal.pause()"
POOL = """
def task(number):
    worker.metric("loss", number)
    assert worker.flush(60)
with worker:
    steps(20)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(task, range(30), chunksize=1)
"""
DAEMON = """
steps(20)
if os.fork():
    os._exit(0)
os.setsid()
steps(20)
worker.close()
"""


class Fabric:
    """A broker and a store that soon calls a silent worker lost; programs that emit to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports()
        self.broker = broker(self.port)
        self.store = store(self.port, folder, "--lost-after-s", str(LOST_AFTER_S))

    def start(self, run: str, program: str) -> subprocess.Popen[bytes]:
        words = [f"tcp://127.0.0.1:{self.port}", self.folder / "spool", run]
        return subprocess.Popen([sys.executable, "-c", HEAD + program, *map(str, words)])

    def run(self, run: str, program: str) -> int:
        """To its end; its exit status."""
        process = self.start(run, program)
        return process.wait(90)

    def told(self, run_id: str) -> tuple[Run, list[Stream]]:
        with FileReader(self.folder / FILE_NAME) as reader:
            run = reader.run(run_id)
            assert run is not None
            return run, reader.streams(run_id)

    def begun(self, run_id: str) -> bool:
        with FileReader(self.folder / FILE_NAME) as reader:
            return reader.run(run_id) is not None

    def await_status(self, run_id: str, status: str) -> None:
        wait_for(lambda: self.told(run_id)[0].status == status, f"{run_id} is {status}")


def test_everyday_endings_of_real_processes(tmp_path: Path) -> None:
    fabric = Fabric(tmp_path)
    with fabric.broker, fabric.store:
        beside = fabric.start("beside", BESIDE)
        wait_for(lambda: fabric.begun("beside"), "one of two workers runs")
        assert fabric.run("beside", KILLED) == -signal.SIGKILL
        (tmp_path / "go").touch()
        assert beside.wait(90) == 0
        assert fabric.run("resumed", KILLED) == -signal.SIGKILL
        assert fabric.run("resumed", COMPLETED) == 0
        fabric.run("stopped", CANCELLED)
        assert fabric.told("stopped")[0].status == "cancelled"
        assert fabric.run("stopped", COMPLETED) == 0
        assert fabric.run("pool", POOL) == 0
        assert fabric.run("daemon", DAEMON) == 0

        fabric.await_status("resumed", "completed")
        run, streams = fabric.told("resumed")
        assert (run.attempts, run.helpers, run.superseded) == (2, 0, 1)
        assert [(one.role, one.attempt, one.outcome) for one in streams] == [
            ("superseded", 1, "lost"), ("counts", 2, "completed"),
        ]  # fmt: skip

        run, streams = fabric.told("stopped")
        assert (run.status, run.attempts, run.superseded) == ("completed", 2, 1)

        wait_for(lambda: all(one.outcome for one in fabric.told("pool")[1]), "the pool's processes are lost")
        run, streams = fabric.told("pool")
        assert (run.status, run.attempts, run.superseded) == ("completed", 1, 0)
        assert run.helpers == len(streams) - 1 >= 1

        fabric.await_status("daemon", "completed")
        run, streams = fabric.told("daemon")
        assert {(one.role, one.outcome) for one in streams} == {("superseded", "lost"), ("counts", "completed")}

        fabric.await_status("beside", "lost")
        assert fabric.told("beside")[0].superseded == 0
