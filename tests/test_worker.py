"""The worker SDK: beginnings, ends, threads, forks, modes, hooks, and values that cannot be used."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from processes import wait_for
from scripted import script
from skips import requires
from slowness import patience

from telefabric import limits
from telefabric.errors import ClosedError, SpoolError, UsageError
from telefabric.settings import SETTINGS
from telefabric.wire import records
from telefabric_schemas import Episode, Log, Metric, RunCompleted, RunMetadata, RunStarted, Step, values
from telefabric_workers import Worker, WorkerEnvironment, connect
from telefabric_workers.problems import NAMES_MAX as PROBLEM_NAMES_MAX

if TYPE_CHECKING:
    from conftest import FabricService

NOBODY = "tcp://127.0.0.1:1"
STREAMS = "SELECT run_id, worker_id, hex(stream_id), pid, outcome FROM streams JOIN runs USING (run)"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Makes workers whose broker is not there, so that everything stays in the spool."""
    made: list[Worker] = []

    def make(**options: Any) -> Worker:
        made.append(connect(NOBODY, spool=tmp_path / "spool", exit_flush_s=0, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def spooled(worker: Worker) -> list[Any]:
    """The events in the worker's spool, decoded as the store would."""
    chunk = worker._outbox.spool.read(1, limits.SEGMENT_BYTES)  # type: ignore[attr-defined]
    assert (chunk.first_seq, chunk.last_seq) == (1, worker.emitted)
    bodies = [chunk.body[start:end] for start, end in records.spans(chunk.body, worker.emitted)]
    return [DECODERS[_kind(body)].decode(body) for body in bodies]


def _kind(event: bytes) -> str:
    return str(msgspec.msgpack.decode(event)[0])


DECODERS = {
    kind.__struct_config__.tag: msgspec.msgpack.Decoder(kind)
    for kind in (Step, Episode, Metric, Log, RunStarted, RunMetadata, RunCompleted)
}


def emit_one(worker: Worker, **fields: Any) -> None:
    worker.step(**{"episode": 0, "step": 0, **fields})


# -- beginnings --------------------------------------------------------------------------------------------------


def test_ids_are_made_up_when_nobody_gives_them() -> None:
    with connect(mode="dry-run") as worker:
        assert worker.agent_id == "agent_0"
        assert worker.worker_id.endswith(f"-{os.getpid()}")
        assert worker.run_id.startswith("run-20")
        assert len(worker.stream_id) == 16
        assert worker.emitted == 1
    with connect(mode="dry-run") as another:
        assert another.run_id != worker.run_id
        assert another.stream_id != worker.stream_id


def test_the_environment_gives_what_arguments_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "CONNECT": "tcp://127.0.0.1:9", "RUN_ID": "r", "AGENT_ID": "a", "WORKER_ID": "w", "MODE": "dry-run",
        "SPOOL": str(tmp_path), "EXIT_FLUSH_S": "2.5",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"TELEFABRIC_{name}", value)
    found = WorkerEnvironment.read()
    assert (found.address.url, found.run_id, found.agent_id, found.worker_id) == ("tcp://127.0.0.1:9", "r", "a", "w")
    assert (found.mode, found.spool, found.exit_flush_s) == ("dry-run", tmp_path, 2.5)
    with connect(run="mine", agent="me") as worker:
        assert (worker.run_id, worker.agent_id, worker.worker_id) == ("mine", "me", "w")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONNECT", "localhost"),
        ("CONNECT", "tcp://host"),
        ("CONNECT", "tcp://host:99999"),
        ("RUN_ID", ""),
        ("RUN_ID", "x" * 256),
        ("AGENT_ID", "line\nbreak"),
        ("WORKER_ID", " "),
        ("MODE", "fast"),
        ("SPOOL", ""),
        ("SPOOL_BYTES_MAX", "many"),
        ("SPOOL_BYTES_MAX", "1"),
        ("EXIT_FLUSH_S", "-1"),
        ("EXIT_FLUSH_S", "nan"),
    ],
)
def test_malformed_environment_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    assert variable.lower() in SETTINGS
    monkeypatch.setenv(f"TELEFABRIC_{variable}", value)
    with pytest.raises(UsageError, match=f"^TELEFABRIC_{variable} is .* and should be "):
        connect()


def test_a_spool_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="TELEFABRIC_SPOOL"):
        connect(NOBODY, spool=tmp_path / "file" / "spool")


def test_strict_refuses_metadata_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"metadata\.bad"):
        connect(NOBODY, spool=tmp_path / "spool", strict=True, metadata={"bad": object()})
    assert not (tmp_path / "spool").exists()


# -- ends --------------------------------------------------------------------------------------------------------


def completed(fabric_service: FabricService) -> list[tuple[Any, ...]]:
    rows = fabric_service.rows("SELECT event FROM lifecycle WHERE kind = 'run_completed' ORDER BY id")
    events = [msgspec.msgpack.decode(raw, type=RunCompleted) for (raw,) in rows]
    return [(event.outcome, event.reason, event.steps, event.episodes) for event in events]


def test_every_way_out_of_the_with_block(fabric_service: FabricService) -> None:
    def leave_by(error: BaseException | None) -> None:
        with fabric_service.connect(run="r") as worker:
            emit_one(worker)
            worker.episode(episode=0, total_reward=1.0, length=1)
            if error is not None:
                raise error
        assert worker.closed
        assert worker.acknowledged == worker.emitted

    leave_by(None)
    with pytest.raises(ZeroDivisionError, match="by zero"):
        leave_by(ZeroDivisionError("by zero"))
    with pytest.raises(KeyboardInterrupt):
        leave_by(KeyboardInterrupt())
    with pytest.raises(SystemExit):
        leave_by(SystemExit(0))
    with pytest.raises(SystemExit):
        leave_by(SystemExit(3))
    with pytest.raises(ValueError, match="long"):
        leave_by(ValueError("long" * 10_000_000))
    found = completed(fabric_service)
    assert [row[:2] for row in found[:5]] == [
        ("completed", None),
        ("failed", "ZeroDivisionError: by zero"),
        ("cancelled", "interrupted"),
        ("completed", None),
        ("failed", "exit code 3"),
    ]
    assert found[5][1].startswith("ValueError: longlong")
    assert {row[2:] for row in found} == {(1, 1)}


END = """
    import sys
    from telefabric_workers import connect
    worker = connect(sys.argv[1], run="r", spool=sys.argv[2], exit_flush_s=30)
    assert worker.flush(30)
    for step in range(1000):
        worker.step(episode=0, step=step)
"""


@pytest.mark.parametrize(
    ("last_line", "outcome"),
    [
        ("", ("completed", None)),
        ("raise RuntimeError('lost')", ("failed", "RuntimeError: lost")),
        ("raise KeyboardInterrupt", ("cancelled", "interrupted")),
        ("sys.exit(0)", ("completed", None)),
        ("del worker", ("completed", None)),
    ],
)
def test_the_interpreter_s_end_closes_workers(
    fabric_service: FabricService, last_line: str, outcome: tuple[Any, ...]
) -> None:
    code = textwrap.dedent(END) + last_line
    done = script(code, fabric_service.url, fabric_service.spool, check=False)
    assert (done.returncode == 0) == (outcome[0] == "completed"), done.stderr
    assert fabric_service.rows("SELECT count(*) FROM steps") == [(1_000,)], "flushed before the end"
    assert [row[:2] for row in completed(fabric_service)] == [outcome]
    assert not list(fabric_service.spool.iterdir())


def test_calls_after_close_are_ignored_told_and_counted(
    alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker = alone()
    worker.close()
    head = worker.emitted
    for _ in range(3):
        emit_one(worker)
        worker.episode(episode=0, total_reward=0.0, length=1)
        worker.metric("x", 1.0)
        worker.log("late")
        worker.set_metadata(late=True)
        assert not worker.close()
        assert not worker.flush()
    assert worker.emitted == head
    assert worker.problems == {"worker.closed": 15}
    (said,) = [record.message for record in caplog.records if "after close" in record.message]
    assert said.startswith("worker.closed: it was called after close(), and the call was ignored")


def test_a_callback_that_raises_is_logged_as_one_and_not_as_a_value(
    alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker = alone()

    def broken(_: object) -> None:
        raise ValueError("of the program")

    worker.register_on_step(broken)
    emit_one(worker)
    (said,) = [record.message for record in caplog.records if "broken" in record.message]
    assert said.startswith("worker.callback_failed: callback.test_a_callback")
    assert "value_left_out" not in caplog.text


def test_calls_after_close_raise_when_strict() -> None:
    with connect(mode="dry-run") as worker:
        pass
    for call in (
        lambda: emit_one(worker),
        lambda: worker.metric("x", 1.0),
        lambda: worker.log("late"),
        lambda: worker.set_metadata(late=True),
        lambda: worker.episode(episode=0, total_reward=0.0, length=1),
    ):
        with pytest.raises(ClosedError, match="connect"):
            call()


def test_what_is_not_stored_stays_in_the_spool(
    alone: Callable[..., Worker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = alone()
    emit_one(worker)
    assert worker.flush(0.01) is False
    assert worker.close() is False
    assert "3 of 3 events are not stored yet" in caplog.text
    assert (tmp_path / "spool" / worker.stream_id.hex()).is_dir()


# -- threads and processes ---------------------------------------------------------------------------------------


@pytest.fixture
def _threads_switch_often() -> Iterator[None]:
    """Between almost any two steps of the interpreter, so that a missing lock shows."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("_threads_switch_often")
def test_events_of_many_threads_are_numbered_without_a_hole(fabric_service: FabricService) -> None:
    threads, each = 8, 400
    start = threading.Barrier(threads)

    def work(worker: Worker, index: int) -> None:
        start.wait()
        for step in range(each):
            worker.step(episode=index, step=step, agent="shared")
            if step % 10 == 0:
                worker.metric("m", float(step), agent="shared")
                worker.log("l")
            if step % 100 == 99:
                worker.episode(episode=index, total_reward=0.0, length=each, agent=f"agent_{index}")

    with fabric_service.connect(run="r") as worker:
        running = [threading.Thread(target=work, args=(worker, index)) for index in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        emitted = worker.emitted
    tables = ("steps", "episodes", "metrics", "logs", "lifecycle")
    seqs = sorted(seq for table in tables for (seq,) in fabric_service.rows(f"SELECT seq FROM {table}"))
    assert seqs == list(range(1, emitted + 2))
    assert emitted == 1 + threads * (each + each // 10 * 2 + each // 100)
    counted = [row[0] for row in fabric_service.rows("SELECT global_step FROM steps ORDER BY seq")]
    assert counted == list(range(threads * each)), "global_step counts in the order of seq"
    for index in range(threads):
        own = fabric_service.rows("SELECT step_index FROM steps WHERE episode_index = ? ORDER BY seq", index)
        assert [row[0] for row in own] == list(range(each))


@pytest.mark.usefixtures("_threads_switch_often")
def test_a_close_while_others_emit_is_the_last_event(alone: Callable[..., Worker]) -> None:
    for _ in range(3):
        worker = alone()
        spool = worker._outbox.spool  # type: ignore[attr-defined]
        errors: list[BaseException] = []
        begun = threading.Event()

        def work(worker: Worker = worker, begun: threading.Event = begun, errors: list[Any] = errors) -> None:
            try:
                while not worker.closed:
                    emit_one(worker)
                    begun.set()
                for _ in range(100):
                    emit_one(worker)
                    worker.metric("late", 1.0)
            except BaseException as error:  # noqa: BLE001  told by the test's thread
                errors.append(error)

        running = [threading.Thread(target=work) for _ in range(4)]
        for thread in running:
            thread.start()
        begun.wait(patience(10))
        worker.close()
        head = worker.emitted
        for thread in running:
            thread.join(patience(20))
        assert errors == []
        assert worker.emitted == head == spool.head


def test_a_step_that_waited_while_the_worker_was_closed_is_ignored(alone: Callable[..., Worker]) -> None:
    worker = alone()
    late = threading.Thread(target=emit_one, args=(worker,))
    with worker._outbox.lock:
        late.start()
        code = Worker.step.__code__
        wait_for(lambda: sys._current_frames()[late.ident or 0].f_code is code, "the step stands at the lock")
        late.join(0.05)
        worker._unusual = "closed"  # as close() does under the lock
    late.join(patience(10))
    assert worker.emitted == 1
    worker._unusual = ""
    worker.close()


class Emits:
    """A value that emits while it is encoded, as a signal handler may at any moment."""

    def __init__(self, emit: Callable[[], object]) -> None:
        self.emit = emit

    def __array__(self, *_: Any, **__: Any) -> np.ndarray[Any, Any]:
        self.emit()
        return np.array([1])


def test_what_a_value_emits_while_it_is_converted_comes_before_its_event(alone: Callable[..., Worker]) -> None:
    worker = alone()
    ended: list[Episode] = []
    worker.register_on_episode_end(ended.append)

    def inside() -> None:
        worker.step(episode=0, step=1, reward=2.0)
        worker.episode(episode=0, total_reward=2.0, length=2)
        worker.set_metadata(color="red")
        worker.metric("loss", 0.5)
        worker.log("inside")

    worker.step(episode=0, step=0, observation=Emits(inside))
    worker.episode(episode=1, total_reward=None, length=None, metadata={"x": Emits(inside)})
    kinds = [Step, Episode, RunMetadata, Metric, Log, Step, Step, Episode, RunMetadata, Metric, Log, Episode]
    events = spooled(worker)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [type(event) for event in events[1:]] == kinds
    assert [event.episode_index for event in ended] == [0, 0, 1]
    assert worker.problems == {}


class Nameless:
    def __str__(self) -> str:
        raise RuntimeError("no name")


def test_an_agent_without_a_text_and_a_complex_reward_are_told(alone: Callable[..., Worker]) -> None:
    worker = alone()
    worker.step(episode=0, step=0, agent=Nameless(), reward=1.0)  # type: ignore[arg-type]
    worker.step(episode=0, step=1, reward=np.complex128(1 + 2j))  # type: ignore[arg-type]
    worker.metric("loss", 1 + 2j, agent=Nameless())  # type: ignore[arg-type]
    first, second, third = spooled(worker)[1:]
    assert (first.agent_id, second.reward, third.value, third.agent_id) == ("agent_0", None, None, "agent_0")
    assert worker.problems == {"event.agent": 2, "step.reward": 1, "metric.loss": 1}


def test_a_silent_broker_is_waited_for_once(tmp_path: Path) -> None:
    workers = [connect(NOBODY, spool=tmp_path, exit_flush_s=30) for _ in range(5)]
    start = time.monotonic()
    for worker in workers:
        assert not worker.close()
    assert time.monotonic() - start < 4, "each for itself would be 5 s"


def test_a_close_while_a_value_is_converted_comes_before_its_event(alone: Callable[..., Worker]) -> None:
    worker = alone()
    worker.step(episode=0, step=0, observation=Emits(lambda: worker.close("cancelled")))
    assert worker.closed
    assert worker.emitted == 2, "run_started, run_completed"
    assert worker.problems == {"worker.closed": 1}


@requires("interval timers", hasattr(signal, "setitimer"))
def test_a_signal_handler_may_emit() -> None:
    done = script(
        """
        import signal, sys, tempfile
        from telefabric_workers import connect
        nobody = "tcp://127.0.0.1:1"
        with tempfile.TemporaryDirectory() as spool, connect(nobody, spool=spool, exit_flush_s=0) as worker:
            calls = 0
            def handler(*_):
                global calls
                calls += 1
                worker.step(episode=1, step=calls)
                worker.metric("calls", calls)
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            steps = 0
            while calls < 300:
                worker.step(episode=0, step=steps)
                steps += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert worker.emitted == 1 + steps + 2 * calls, (worker.emitted, steps, calls)
            assert not worker.problems
        """
    )
    assert "Traceback" not in done.stderr


FORK = requires("fork", hasattr(os, "fork"))


@FORK
def test_a_forked_child_gets_a_stream_of_its_own(fabric_service: FabricService) -> None:
    script(
        """
        import os, sys
        from telefabric_workers import connect
        with connect(sys.argv[1], run="r", spool=sys.argv[2], exit_flush_s=30) as worker:
            assert worker.flush(30)
            parents = worker.stream_id
            for step in range(100):
                worker.step(episode=0, step=step)
            child = os.fork()
            if not child:
                for step in range(50):
                    worker.step(episode=1, step=step)
                assert worker.flush(30)
                assert worker.stream_id != parents
                assert worker.worker_id.endswith(f"-{os.getpid()}")
                assert worker.close()
                os._exit(0)
            for step in range(100, 200):
                worker.step(episode=0, step=step)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            assert worker.stream_id == parents
        """,
        fabric_service.url,
        fabric_service.spool,
    )
    streams = fabric_service.rows(STREAMS)
    assert len({row[1] for row in streams}) == len({row[2] for row in streams}) == 2
    assert {row[0] for row in streams} == {"r"}
    assert {row[4] for row in streams} == {"completed"}
    counts = fabric_service.rows(
        "SELECT episode_index, count(*), min(global_step), max(global_step), count(DISTINCT seq) "
        "FROM steps GROUP BY stream ORDER BY episode_index"
    )
    assert counts == [(0, 200, 0, 199, 200), (1, 50, 0, 49, 50)]
    assert not list(fabric_service.spool.iterdir())


@FORK
def test_threads_of_a_forked_child_share_its_one_stream(fabric_service: FabricService) -> None:
    script(
        """
        import os, sys, threading
        from telefabric_workers import connect
        with connect(sys.argv[1], run="r", spool=sys.argv[2], exit_flush_s=30) as worker:
            assert worker.flush(30)
            child = os.fork()
            if not child:
                start = threading.Barrier(8)
                def work(index):
                    start.wait()
                    for step in range(20):
                        worker.step(episode=index, step=step)
                threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                assert worker.emitted == 161, worker.emitted
                assert worker.flush(30)
                assert worker.close()
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
        """,
        fabric_service.url,
        fabric_service.spool,
    )
    assert fabric_service.rows("SELECT count(*), count(DISTINCT seq), min(seq) FROM steps") == [(160, 160, 2)]
    assert len(fabric_service.rows(STREAMS)) == 2
    assert fabric_service.rows("SELECT count(*) FROM quarantine") == [(0,)]


@FORK
def test_a_forked_child_may_be_kept_silent(fabric_service: FabricService) -> None:
    script(
        """
        import os, sys
        from telefabric_workers import connect
        with connect(sys.argv[1], run="r", spool=sys.argv[2], on_fork="off") as worker:
            worker.step(episode=0, step=0)
            child = os.fork()
            if not child:
                worker.step(episode=0, step=1)
                worker.metric("x", 1.0)
                assert worker.flush() and worker.close()
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            worker.step(episode=0, step=2)
        """,
        fabric_service.url,
        fabric_service.spool,
    )
    assert fabric_service.rows("SELECT step_index FROM steps ORDER BY seq") == [(0,), (2,)]
    assert len(fabric_service.rows(STREAMS)) == 1


@FORK
def test_a_child_that_never_emits_leaves_the_parent_s_stream_alone(fabric_service: FabricService) -> None:
    script(
        """
        import os, sys
        from telefabric_workers import connect
        worker = connect(sys.argv[1], run="r", spool=sys.argv[2], exit_flush_s=30)
        assert worker.flush(30)
        child = os.fork()
        if not child:
            sys.exit(0)  # with the interpreter's whole end
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        for step in range(100):
            worker.step(episode=0, step=step)
        """,
        fabric_service.url,
        fabric_service.spool,
    )
    assert fabric_service.rows("SELECT count(*) FROM steps") == [(100,)]
    assert [row[4] for row in fabric_service.rows(STREAMS)] == ["completed"]


@pytest.mark.parametrize("method", [pytest.param("fork", marks=FORK), "spawn"])
def test_children_of_multiprocessing_flush_at_their_end(
    fabric_service: FabricService, tmp_path: Path, method: str
) -> None:
    """They end without atexit. A forked one uses the worker that it inherits, a spawned one connects itself."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            from telefabric_workers import connect

            worker = None

            def work(index, fails):
                mine = worker or connect(sys.argv[1], run="r", spool=sys.argv[2], exit_flush_s=30)
                mine.log("hello")
                assert mine.flush(30)
                for step in range(50):
                    mine.step(episode=index, step=step)
                if fails:
                    sys.stderr = None
                    raise RuntimeError("lost")

            if __name__ == "__main__":
                context = multiprocessing.get_context(sys.argv[3])
                if sys.argv[3] == "fork":
                    worker = connect(sys.argv[1], run="r", spool=sys.argv[2], exit_flush_s=30)
                children = [context.Process(target=work, args=(index, index == 2)) for index in range(3)]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
            """
        )
    )
    script(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')", fabric_service.url,
           fabric_service.spool, method)  # fmt: skip
    counts = fabric_service.rows("SELECT episode_index, count(*) FROM steps GROUP BY stream ORDER BY 1")
    assert counts == [(0, 50), (1, 50), (2, 50)]
    ends = sorted(completed(fabric_service), key=str)
    assert [end[:3] for end in ends if end[2]] == [
        ("completed", None, 50), ("completed", None, 50), ("failed", "RuntimeError: lost", 50),
    ]  # fmt: skip
    assert not list(fabric_service.spool.iterdir())


# -- modes -------------------------------------------------------------------------------------------------------


def test_dry_run_validates_and_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "telefabric.worker")
    with connect(mode="dry-run", spool=tmp_path / "spool") as worker:
        emit_one(worker, observation=np.zeros(3), info={"deep": [1, {"x": None}]})
        emit_one(worker)
        worker.episode(episode=0, total_reward=1.0, length=2)
        worker.metric("loss", math.nan)
        worker.log("line")
        assert worker.emitted == worker.acknowledged == 6
    assert "worker.dry_run: 7 events valid" in caplog.text
    assert "1 episode, 1 log, 1 metric, 1 run_completed, 1 run_started, 2 step" in caplog.text
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"action": object()},
        {"info": {"deep": [{1, object()}]}},
        {"reward": "much"},
        {"reward": 1 + 2j},
        {"episode": 1.5},
        {"step": None},
        {"env_index": 2**63},
        {"global_step": 2**64},
        {"terminated": "yes"},
        {"observation": np.ma.masked_array([1.0, 2.0])},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_dry_run_is_strict(fields: dict[str, Any]) -> None:
    with connect(mode="dry-run") as worker:
        with pytest.raises(UsageError, match=rf"^step\.{next(iter(fields))}(_index|\.deep\.0\.\d)? cannot be used: "):
            emit_one(worker, **fields)
        assert worker.emitted == 1, "nothing is emitted"
        emit_one(worker)
        assert worker.emitted == 2


def test_off_does_nothing(tmp_path: Path) -> None:
    steps: list[Step] = []
    with connect(mode="off", spool=tmp_path / "spool") as worker:
        worker.register_on_step(steps.append)
        emit_one(worker, action=object())
        worker.metric("x", 1.0)
        worker.set_metadata(x=1)
        assert worker.flush()
        assert (worker.emitted, worker.dropped, worker.problems) == (0, 0, {})
    assert steps == []
    assert not (tmp_path / "spool").exists()


def test_off_never_imports_zmq() -> None:
    script(
        """
        import sys
        from telefabric_workers import connect
        with connect(mode="off") as worker:
            worker.step(episode=0, step=0)
        assert not {"zmq", "numpy", "apsw"} & set(sys.modules)
        """
    )


# -- hooks -------------------------------------------------------------------------------------------------------


def test_hooks_are_called_until_unregistered() -> None:
    steps: list[Step] = []
    episodes: list[Episode] = []
    with connect(mode="dry-run") as worker:
        end_steps = worker.register_on_step(steps.append)
        end_episodes = worker.register_on_episode_end(episodes.append)
        emit_one(worker, action={"left": 1})
        worker.episode(episode=3, total_reward=1.5, length=1, end_reason="goal")
        end_steps()
        end_steps()
        end_episodes()
        emit_one(worker)
        worker.episode(episode=4, total_reward=0.0, length=1)
    assert [(step.seq, step.action, step.global_step) for step in steps] == [(2, {"left": 1}, 0)]
    assert [(episode.seq, episode.episode_index, episode.end_reason) for episode in episodes] == [(3, 3, "goal")]


def test_a_hook_may_emit_and_unregister(alone: Callable[..., Worker]) -> None:
    worker = alone()

    def once(step: Step) -> None:
        worker.metric("seen", step.seq)
        end()

    end = worker.register_on_step(once)
    emit_one(worker)
    emit_one(worker)
    assert worker.emitted == 4
    worker.close()


def test_what_a_hook_raises_is_told_once_and_counted(
    alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker, seen = alone(), []

    def broken(step: Step) -> None:
        raise KeyError("gone")

    worker.register_on_step(broken)
    worker.register_on_step(seen.append)
    emit_one(worker)
    emit_one(worker)
    assert [step.seq for step in seen] == [2, 3], "the others are still called"
    assert sum(worker.problems.values()) == 2
    assert caplog.text.count("KeyError") == 1
    worker.close()


def test_what_a_hook_raises_is_raised_when_strict() -> None:
    def broken(step: Step) -> None:
        raise KeyError("gone")

    with connect(mode="dry-run") as worker:
        worker.register_on_step(broken)
        with pytest.raises(KeyError, match="gone"):
            emit_one(worker)
        assert worker.emitted == 2, "the event was emitted before"


# -- values ------------------------------------------------------------------------------------------------------


class Hostile:
    """Raises whatever it is asked."""

    def __float__(self) -> float:
        raise RuntimeError("no number")

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no array")


class Tensor:
    """As torch's of one number that has a gradient."""

    shape = (1,)

    def __init__(self, number: float) -> None:
        self._number = number

    def item(self) -> float:
        return self._number

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


def test_a_part_without_a_form_goes_alone_and_is_named_by_its_path(
    alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker = alone(metadata={"obs": [{"x": object(), "y": 1}], "good": 1})
    worker.step(episode=0, step=0, action=[1, Hostile(), 3], info={"good": 1, "bad": object()})
    worker.log("text", fields={"good": 1, "bad": object()})
    worker.metric("loss", "much")  # type: ignore[arg-type]
    worker.episode(episode=0, total_reward=1.0, length=1, metadata={"bad": {"worse": iter(())}})
    names = {
        "metadata.obs.0.x", "step.action.1", "step.info.bad", "log.fields.bad", "metric.loss",
        "episode.metadata.bad.worse",
    }  # fmt: skip
    assert worker.problems == dict.fromkeys(names, 1)
    said = " ".join(record.message for record in caplog.records)
    assert all(f"{name} was left out: " in said for name in names)
    started, step, line, metric, episode = spooled(worker)
    assert values.decode(started.metadata) == {"obs": [{"y": 1}], "good": 1}
    assert values.decode(step.action) == [1, None, 3]
    assert values.decode(step.info) == values.decode(line.fields) == {"good": 1}
    assert metric.value is None
    assert values.decode(episode.metadata) == {"bad": {}}


def test_the_paths_that_are_named_are_bounded_and_all_are_counted(alone: Callable[..., Worker]) -> None:
    worker = alone()
    for number in range(2 * PROBLEM_NAMES_MAX):
        emit_one(worker, info={f"bad-{number}": object()})
    assert len(worker.problems) == PROBLEM_NAMES_MAX + 1
    assert sum(worker.problems.values()) == 2 * PROBLEM_NAMES_MAX
    assert worker.problems["step.info"] == PROBLEM_NAMES_MAX


@pytest.mark.parametrize(
    "one", [np.array([1.5]), np.array(1.5), np.array([[1.5]], np.float32), np.float16(1.5), Tensor(1.5)]
)
def test_one_number_in_an_array_is_that_number(alone: Callable[..., Worker], one: Any) -> None:
    worker = alone()
    worker.step(episode=np.array([3]), step=np.array(4), reward=one, terminated=np.array([True]))  # type: ignore[arg-type]
    worker.metric("loss", one)
    _, step, metric = spooled(worker)
    assert (step.episode_index, step.step_index, step.reward, step.terminated) == (3, 4, 1.5, True)
    assert metric.value == 1.5
    assert not worker.problems


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("action", object(), None),
        ("action", Hostile(), None),
        ("observation", Hostile(), None),
        ("info", lambda: 0, None),
        ("reward", "much", None),
        ("reward", Hostile(), None),
        ("reward", [1.0, 2.0], None),
        ("reward", np.array([1.0, 2.0]), None),
        ("reward", np.ma.masked, None),
        ("terminated", "yes", False),
        ("truncated", None, False),
        ("episode", "one", -1),
        ("step", None, -1),
        ("step", 2**63, -1),
        ("env_index", -(2**70), -1),
        ("global_step", 2**63, 0),
        ("global_step", Hostile(), 0),
    ],
)
def test_an_unusable_value_costs_its_field_alone(
    alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture, field: str, value: Any, left: Any
) -> None:
    worker = alone()
    good = {"episode": 1, "step": 2, "action": 3, "observation": 4, "reward": 5.0, "info": {"six": 6}}
    emit_one(worker, **{**good, field: value})
    emit_one(worker, **{**good, field: value})
    emit_one(worker, **good)
    name = f"step.{field}" if field not in {"episode", "step"} else f"step.{field}_index"
    assert worker.problems == {name: 2}
    assert len([record for record in caplog.records if name in record.message]) == 1, "told once"
    _, first, _, third = spooled(worker)
    names = {"episode": "episode_index", "step": "step_index"}
    for each, expected in {**good, field: left}.items():
        found = getattr(first, names.get(each, each))
        if isinstance(found, msgspec.Raw):
            found = values.decode(found)
        assert found == expected, each
    assert third.global_step == (2 if field != "global_step" else third.global_step)
    worker.close()


def test_steps_are_counted_past_an_unusable_global_step(alone: Callable[..., Worker]) -> None:
    worker = alone()
    for given in (None, np.int64(10), None, "eleven", None, 2**70, None, 3.5, None):
        emit_one(worker, global_step=given)
    assert [event.global_step for event in spooled(worker)[1:]] == list(map(int, [0, *range(10, 18)]))
    worker.close()


def test_an_agent_of_any_type_has_a_name(alone: Callable[..., Worker]) -> None:
    worker = alone()
    for agent in (7, ["a", "b"], np.str_("np"), "\ud800", None):
        emit_one(worker, agent=agent)
        worker.metric("m", 1.0, agent=agent)
    events = spooled(worker)[1:]
    assert [event.agent_id for event in events[::2]] == [event.agent_id for event in events[1::2]]
    assert [event.agent_id for event in events[::2]] == ["7", "['a', 'b']", "np", "\\ud800", "agent_0"]
    assert {event.global_step for event in events} == {0}
    assert not worker.problems
    worker.close()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("z" * 100_000, "z" * 255),
        ("z" * 255, None),
        ("\u00e9" * 200, "\u00e9" * 127),
        ("line\nbreak", "line?break"),
        ("", "agent_0"),
        (" " * 300 + "a", "agent_0"),
    ],
    ids=["long", "just short enough", "two bytes each", "newline", "empty", "blank"],
)
def test_an_agent_s_name_is_as_usable_as_the_worker_s_own(
    alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture, given: str, name: str | None
) -> None:
    worker = alone()
    for step in range(2):
        worker.step(episode=0, step=step, agent=given)
    worker.episode(episode=0, total_reward=0.0, length=2, agent=given)
    worker.metric("loss", 0.5, agent=given)
    worker.log("line", agent=given)
    events = spooled(worker)[1:]
    assert [event.agent_id for event in events] == [name or given] * 5
    assert [event.global_step for event in events[:4]] == [0, 1, 1, 1]
    assert worker.problems == ({"event.agent": 5} if name else {})
    assert caplog.text.count("printable text of 1 to 255 bytes") == (1 if name else 0)


def test_a_strict_worker_refuses_an_agent_without_a_usable_name() -> None:
    with connect(mode="dry-run") as worker:
        for given in ("z" * 256, "", "line\nbreak"):
            with pytest.raises(UsageError, match=r"event\.agent cannot be used: it should be printable text"):
                worker.step(episode=0, step=0, agent=given)
            with pytest.raises(UsageError, match=r"event\.agent cannot be used"):
                worker.log("line", agent=given)
        assert worker.emitted == 1


def test_labels_and_numpy_numbers_are_no_problem(alone: Callable[..., Worker]) -> None:
    worker = alone()
    emit_one(worker, reward=np.float32(0.5), episode=np.int64(3), terminated=np.bool_(True), policy_label="greedy",
             control_mode="human", backend="b", frame_ref="f")  # fmt: skip
    emit_one(worker, reward=1, policy_label=7)
    emit_one(worker, reward=True)
    worker.metric("loss", np.float64(0.25))
    worker.episode(
        episode=np.uint8(3), total_reward=np.float32(2), length=np.int32(4), seed=np.random.SeedSequence(1).entropy
    )
    _, first, second, third, metric, episode = spooled(worker)
    assert (first.reward, first.episode_index, first.terminated) == (0.5, 3, True)
    assert (first.policy_label, first.control_mode, first.backend, first.frame_ref) == ("greedy", "human", "b", "f")
    assert (second.reward, second.policy_label, third.reward) == (1.0, "7", 1.0)
    assert metric.value == 0.25
    assert (episode.episode_index, episode.total_reward, episode.length) == (3, 2.0, 4)
    assert not worker.problems
    worker.close()


@pytest.mark.parametrize(
    "emit",
    [
        lambda worker, big: emit_one(worker, observation=big, action=1),
        lambda worker, big: emit_one(worker, info={"picture": big}, action=1),
        lambda worker, big: worker.log("x", fields={"dump": big}),
        lambda worker, big: worker.log("\U0001f600" * (limits.EVENT_BYTES_MAX // 3)),
        lambda worker, big: worker.episode(episode=0, total_reward=0.0, length=1, metadata={"big": big}),
    ],
    ids=["observation", "info", "fields", "message", "metadata"],
)
def test_an_event_over_the_limit_goes_without_its_largest_value(alone: Callable[..., Worker], emit: Any) -> None:
    big = np.zeros(limits.EVENT_BYTES_MAX + 1, np.uint8)
    sizes: list[int] = []
    worker = alone()
    append = worker._outbox.append
    worker._outbox.append = lambda seq, event: (sizes.append(len(event)), append(seq, event))  # type: ignore[assignment]
    emit(worker, big)
    assert sum(worker.problems.values()) == 1
    assert worker.emitted == 2
    assert sizes[0] < 100_000
    worker.close()
    with connect(mode="dry-run") as strict:
        with pytest.raises(UsageError, match=f"larger than {limits.EVENT_BYTES_MAX} bytes"):
            emit(strict, big)
        assert strict.emitted == 1


def test_an_event_at_the_limit_is_stored_whole(fabric_service: FabricService) -> None:
    picture = np.random.default_rng(1).integers(0, 256, limits.EVENT_BYTES_MAX - 2_000, np.uint8)
    with fabric_service.connect(run="r") as worker:
        emit_one(worker, observation=picture)
        emit_one(worker, observation=1)
    assert not worker.problems
    ((raw,), _) = fabric_service.rows("SELECT event FROM steps ORDER BY seq")
    assert np.array_equal(values.decode(msgspec.msgpack.decode(raw, type=Step).observation), picture)


def test_metadata_is_merged_without_what_cannot_be_used(fabric_service: FabricService) -> None:
    first = {"game_id": "G-v0", "bad": object(), "lr": 0.1, "big": bytes(limits.METADATA_BYTES_MAX)}
    with fabric_service.connect(run="r", metadata=first) as worker:
        worker.set_metadata({"lr": 0.2, "worse": Hostile()}, layers=[64, 64], array=np.arange(2))
        worker.episode(episode=0, total_reward=0.0, length=1)
        assert set(worker.problems) == {"metadata.bad", "metadata.big", "metadata.worse"}
    ((metadata,),) = fabric_service.rows("SELECT metadata FROM runs")
    found = values.decode(metadata)
    assert found.pop("array").tolist() == [0, 1]
    assert found == {"game_id": "G-v0", "lr": 0.2, "layers": [64, 64]}
    assert fabric_service.rows("SELECT game_id FROM episodes") == [("G-v0",)]


def test_strict_metadata_is_refused_whole() -> None:
    with connect(mode="dry-run", metadata={"a": 1}) as worker:
        with pytest.raises(UsageError, match=r"metadata\.b cannot be used"):
            worker.set_metadata(a=2, b=object())
        assert worker.emitted == 1


def test_counting_follows_each_agent(alone: Callable[..., Worker]) -> None:
    worker = alone()
    emit_one(worker, agent="a")
    emit_one(worker, agent="b")
    emit_one(worker, agent="a", global_step=100)
    emit_one(worker, agent="a")
    worker.metric("loss", 1.0, agent="a")
    worker.metric("loss", 1.0, agent="never")
    worker.metric("loss", 1.0, agent="b", global_step=7)
    worker.episode(episode=0, total_reward=0.0, length=1, agent="b")
    assert [event.global_step for event in spooled(worker)[1:]] == [0, 0, 100, 101, 101, None, 7, 0]
    worker.close()


def test_emitting_stays_cheap(alone: Callable[..., Worker]) -> None:
    """Not a benchmark: a labelled step must not take the slow way, which costs several times as much."""
    worker, calls = alone(), []
    import telefabric_workers.worker as module

    original = module.coerce
    module.coerce = lambda event: (calls.append(event), original(event))[1]  # type: ignore[assignment]
    try:
        labels = {"policy_label": "p", "control_mode": "agent", "backend": "b", "frame_ref": "f"}
        emit_one(worker, action=1, observation=np.zeros(4), reward=1.0, info={"x": 1}, **labels)
    finally:
        module.coerce = original
    assert calls == []
    worker.close()


def test_the_callers_values_are_not_changed() -> None:
    info = json.loads('{"a": [1, {"b": 2}]}')
    array = np.arange(3.0)
    with connect(mode="dry-run") as worker:
        emit_one(worker, info=info, observation=array)
    assert info == {"a": [1, {"b": 2}]}
    assert array.tolist() == [0, 1, 2]


def test_an_unknown_control_mode_is_refused_or_left_out(alone: Callable[..., Worker]) -> None:
    with pytest.raises(UsageError, match="control_mode"):
        alone(control_mode="robot")
    worker = alone()
    worker.step(episode=0, step=0, control_mode="human")
    worker.step(episode=0, step=1, control_mode="robot")
    worker.step(episode=0, step=2, control_mode=["human"])  # type: ignore[arg-type]
    assert [event.control_mode for event in spooled(worker)] == ["agent", "human", "unknown", "unknown"]
    assert worker.problems == {"step.control_mode": 2}


class _Forwarding(logging.Handler):
    """What a program does that wants its log in the run's."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self._worker.log(record.getMessage())


def test_a_log_handler_may_emit_what_the_worker_itself_logs(alone: Callable[..., Worker]) -> None:
    worker = alone()
    handler = _Forwarding(worker)
    logging.getLogger().addHandler(handler)
    try:
        worker.step(episode=0, step=0, observation=object())
        worker.metric("loss", object())  # type: ignore[arg-type]
    finally:
        logging.getLogger().removeHandler(handler)
    assert [event.kind for event in spooled(worker)] == ["run_started", "step", "log", "metric", "log"]


def test_metadata_with_names_that_are_no_text_is_kept(alone: Callable[..., Worker]) -> None:
    worker = alone(metadata={"\ud800": 1, 7: 2})
    worker.set_metadata({"\udfff": 3})
    started, told = spooled(worker)
    assert values.decode(started.metadata) == {"\\ud800": 1, "7": 2}
    assert values.decode(told.metadata) == {"\\udfff": 3}


class Unnamed(Hostile):
    """A key that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __bool__(self) -> bool:
        raise RuntimeError("neither")


@pytest.mark.parametrize("value", [np.zeros(2), Unnamed()], ids=["array", "unnamed"])
def test_a_label_that_is_neither_true_nor_false_costs_its_field_alone(alone: Callable[..., Worker], value: Any) -> None:
    worker = alone(store_frames="steps:1")
    picture = np.zeros((4, 4, 3), np.uint8)
    worker.step(episode=0, step=0, control_mode=value)
    worker.step(episode=0, step=1, terminated=value, frame_ref=value, frame=picture)
    worker.episode(episode=0, total_reward=1.0, length=2, game_id=value, control_mode=value)
    worker.metric("loss", 0.5)
    worker.close()
    assert worker.emitted >= 6
    assert {"step.control_mode", "step.terminated", "episode.control_mode"} <= set(worker.problems)


def test_an_empty_label_is_none(alone: Callable[..., Worker]) -> None:
    worker = alone(control_mode="human", metadata={"game_id": "G-v0"})
    worker.step(episode=0, step=0, control_mode="")
    worker.episode(episode=0, total_reward=1.0, length=1, game_id="", control_mode="")
    _, step, episode = spooled(worker)
    assert (step.control_mode, episode.control_mode, episode.game_id) == ("human", "human", "G-v0")


def test_a_name_without_a_text_costs_itself_alone(alone: Callable[..., Worker]) -> None:
    worker = alone(metadata={Unnamed(): 1, "first": 1})
    worker.set_metadata({Unnamed(): 1, 10**5000: 2, "good": 3})
    worker.set_metadata([1], late=4)  # type: ignore[arg-type]
    started, *told = spooled(worker)
    assert values.decode(started.metadata) == {"first": 1}
    assert [values.decode(each.metadata) for each in told] == [{"good": 3}, {"late": 4}]
    assert worker.problems == {"metadata.a Unnamed": 2, "metadata.a int": 1, "run_metadata.metadata": 1}


def test_a_name_that_is_too_long_leaves_room_for_the_others(alone: Callable[..., Worker]) -> None:
    worker = alone(metadata={"n" * limits.METADATA_BYTES_MAX: 1, "first": 1})
    (started,) = spooled(worker)
    assert values.decode(started.metadata) == {"first": 1}
    assert worker.problems == {f"metadata.{'n' * 100}": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": [1]},
        {"metadata": np.zeros(2)},
        {"metadata": 7},
        {"on_fork": "zzz"},
        {"on_fork": None},
        {"control_mode": []},
        {"control_mode": np.zeros(2)},
    ],
    ids=str,
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_opened(tmp_path: Path, options: Any) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(options))} is .* and should be "):
        connect(NOBODY, spool=tmp_path / "spool", **options)
    assert not (tmp_path / "spool").exists()
