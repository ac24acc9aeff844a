"""Workers in child processes: spawned, forked, pickled, copied; whose stream they help, and what they leave."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from processes import wait_for
from scripted import script
from skips import requires

from telefabric.spool import parent_in
from telefabric_workers import Worker, connect, parent_stream

if TYPE_CHECKING:
    from conftest import FabricService

NOBODY = "tcp://127.0.0.1:1"
FORK = requires("fork", hasattr(os, "fork"))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(**options: Any) -> Worker:
        made.append(connect(NOBODY, **{"spool": tmp_path / "spool", "exit_flush_s": 0, **options}))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def program(tmp_path: Path, code: str, *arguments: object) -> str:
    """A program in a file, as a spawned child wants it; what it printed."""
    file = tmp_path / "program.py"
    file.write_text(code)
    return script("import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')", file, *arguments).stdout


# -- within a process --------------------------------------------------------------------------------------------


def test_a_worker_that_is_copied_or_pickled_in_its_process_stays_the_same(alone: Callable[..., Worker]) -> None:
    worker = alone()
    assert copy.copy(worker) is copy.deepcopy({"deep": [worker]})["deep"][0] is worker
    assert pickle.loads(pickle.dumps(worker)) is worker


def test_what_is_pickled_of_a_closed_worker_is_closed(alone: Callable[..., Worker]) -> None:
    worker = alone()
    token = pickle.dumps(worker)
    worker.close()
    closed = pickle.loads(pickle.dumps(worker))
    closed.step(episode=0, step=0)
    assert closed.closed
    assert closed.problems == {"worker.closed": 1}
    revived = pickle.loads(token)
    revived.step(episode=0, step=0)
    assert (revived.emitted, revived.helps) == (2, worker.stream_id), "it was open when it was pickled"
    revived.close()


# -- in others ---------------------------------------------------------------------------------------------------

CHILDREN = """
import multiprocessing, sys
from telefabric_workers import connect

def work(worker, number):
    for step in range(5):
        worker.step(episode=number, step=step, env_index=number)
    return worker.stream_id.hex(), worker.worker_id

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[3])
    with connect(sys.argv[1], run="r", spool=sys.argv[2], metadata={"lr": 0.1}, exit_flush_s=60) as worker:
        worker.step(episode=9, step=0)
        with context.Pool(2) as pool:
            streams = set(pool.starmap(work, [(worker, number) for number in range(6)]))
            assert 1 <= len(streams) <= 2, streams
        # the pool has ended its processes by SIGTERM: what they emitted lies in their spools
        assert worker.flush(60)
    assert worker.close()
"""


@FORK
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_each_process_of_a_pool_has_one_stream_that_helps_its_parents(
    fabric_service: FabricService, tmp_path: Path, method: str
) -> None:
    program(tmp_path, CHILDREN, fabric_service.url, fabric_service.spool, method)
    rows = fabric_service.rows(
        "SELECT stream_id, parent, worker_id, run_id FROM streams JOIN runs USING (run) ORDER BY parent IS NOT NULL"
    )
    (first, none, parent_id, _), *helpers = rows
    assert none is None
    assert 1 <= len(helpers) <= 2
    assert all((parent, run_id) == (first, "r") for _, parent, _, run_id in helpers)
    assert len({parent_id, *(worker_id for _, _, worker_id, _ in helpers)}) == 1 + len(helpers)
    assert fabric_service.rows("SELECT count(*), count(DISTINCT episode_index) FROM steps") == [(31, 7)]
    assert fabric_service.rows("SELECT status FROM runs") == [("completed",)], "its helpers are lost, and it is not"


CHILD = """
import sys
from telefabric_workers import connect
for run in ("r", "other"):
    with connect("tcp://127.0.0.1:1", run=run, spool=sys.argv[1], exit_flush_s=0) as worker:
        print(worker.helps.hex() if worker.helps else None)
"""


def test_children_that_connect_by_themselves_help_the_run_of_their_parent(tmp_path: Path) -> None:
    code = """
        import subprocess, sys
        from telefabric_workers import connect
        def helped():
            command = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        with connect("tcp://127.0.0.1:1", run="r", spool=sys.argv[1], exit_flush_s=0) as worker:
            with connect("tcp://127.0.0.1:1", run="r", spool=sys.argv[1], exit_flush_s=0) as second:
                assert second.helps is None, "of the same process"
            assert helped() == [worker.stream_id.hex(), "None"]
        assert helped() == ["None", "None"]
        """
    script(code, tmp_path, CHILD)


def test_who_comes_after_the_end_of_its_parent_helps_nobody(
    alone: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = script("import os; print(os.getpid())").stdout.strip()
    monkeypatch.setenv(
        parent_stream.VARIABLE, f"{gone}:{'ab' * 16}:r;{os.getppid()}:nonsense:r;{os.getppid()}:{'cd' * 16}:q"
    )
    assert alone(run="r").helps is None
    assert alone(run="q").helps == bytes.fromhex("cd" * 16)
    monkeypatch.setenv(parent_stream.VARIABLE, ";;:\x01::")
    assert alone(run="r").helps is None


def test_vector_environments_may_spawn_their_children_with_a_worker(tmp_path: Path) -> None:
    code = """
import sys
import gymnasium
from functools import partial
from telefabric_workers import connect
from telefabric_workers.integrations.gym import TelemetryWrapper

def make(worker, index):
    return TelemetryWrapper(gymnasium.make("CartPole-v1"), worker, env_index=index)

if __name__ == "__main__":
    worker = connect("tcp://127.0.0.1:1", run="r", spool=sys.argv[1], exit_flush_s=0)
    envs = gymnasium.vector.AsyncVectorEnv([partial(make, worker, index) for index in range(2)], context="spawn")
    envs.reset(seed=1)
    for _ in range(30):
        envs.step(envs.action_space.sample())
    envs.close()
    worker.close()
"""
    program(tmp_path, code, tmp_path / "spool")
    parents = [parent_in(folder) for folder in (tmp_path / "spool").iterdir()]
    (own,) = {parent for parent in parents if parent is not None}
    assert sorted(map(str, parents)) == sorted(map(str, [None, own, own]))
    assert (tmp_path / "spool" / own.hex()).is_dir()


@FORK
def test_a_program_that_becomes_a_daemon_goes_on_as_a_helper_of_what_ended(fabric_service: FabricService) -> None:
    script(
        """
        import os, sys
        from telefabric_workers import connect
        worker = connect(sys.argv[1], run="r", spool=sys.argv[2], exit_flush_s=60)
        worker.step(episode=0, step=0)
        if os.fork():
            os._exit(0)  # as a program does that goes on in the background
        os.setsid()
        for file in (1, 2):
            os.close(file)
        with worker:
            worker.step(episode=1, step=0)
        """,
        fabric_service.url, fabric_service.spool,
    )  # fmt: skip
    count = "SELECT count(*) FROM streams WHERE outcome = 'completed' AND parent IS NOT NULL"
    wait_for(lambda: fabric_service.rows(count) == [(1,)], "the daemon's stream has ended", 60)
    (first,), (second,) = fabric_service.rows("SELECT episode_index FROM steps ORDER BY id")
    assert (first, second) == (0, 1)


@FORK
def test_a_child_of_a_worker_with_much_metadata_is_introduced_with_what_has_room(
    fabric_service: FabricService,
) -> None:
    script(
        """
        import os, sys
        from telefabric_workers import connect
        with connect(sys.argv[1], run="r", spool=sys.argv[2], exit_flush_s=60) as worker:
            for index in range(4):
                worker.set_metadata({f"part-{index}": "x" * 100_000})
            child = os.fork()
            if not child:
                worker.step(episode=0, step=0)
                os._exit(0)
            os.waitpid(child, 0)
            assert worker.flush(60)
        """,
        fabric_service.url, fabric_service.spool,
    )  # fmt: skip
    assert fabric_service.rows("SELECT count(*) FROM streams WHERE parent IS NOT NULL") == [(1,)]
    assert fabric_service.rows("SELECT count(*) FROM steps") == [(1,)]


@FORK
def test_what_children_leave_that_no_broker_takes_is_said_at_the_end(
    alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker = alone(run="r")
    child = os.fork()
    if not child:
        worker.step(episode=0, step=0)
        os._exit(0)
    os.waitpid(child, 0)
    assert not worker.flush(0.1)
    assert not worker.close()
    assert "child processes have left 1 spools in" in caplog.text
