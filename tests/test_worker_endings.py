"""How a run ends: by an exception, a signal or a second ^C, and what `close` and `flush` say then and afterwards."""

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from processes import wait_for
from scripted import script
from skips import requires

from telefabric import limits
from telefabric.errors import SpoolError
from telefabric.spool import Spool
from telefabric.wire import records
from telefabric_schemas import AnyEvent
from telefabric_workers import Worker, connect
from telefabric_workers.lifetime import _close_all
from telefabric_workers.outbox import Spooled

if TYPE_CHECKING:
    from conftest import FabricService

NOBODY = "tcp://127.0.0.1:1"
DECODER: msgspec.msgpack.Decoder[AnyEvent] = msgspec.msgpack.Decoder(AnyEvent)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Makes workers whose broker is not there, so that everything stays in the spool."""
    made: list[Worker] = []

    def make(**options: Any) -> Worker:
        made.append(connect(NOBODY, **{"spool": tmp_path / "spool", "exit_flush_s": 0, **options}))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def left(worker: Worker) -> list[Any]:
    """The events in the spool of a worker that is closed."""
    assert isinstance(worker._outbox, Spooled)
    events = events_of(worker._outbox.spool.directory)
    assert [event.seq for event in events] == list(range(1, worker.emitted + 1))
    return events


def events_of(folder: Path) -> list[Any]:
    """The events in a spool that nobody writes to."""
    spool = Spool.adopt(folder)
    assert spool is not None
    chunk = spool.read(1, limits.SEGMENT_BYTES)
    assert chunk is not None
    spool.close()
    count = chunk.last_seq - chunk.first_seq + 1
    return [DECODER.decode(chunk.body[start:end]) for start, end in records.spans(chunk.body, count)]


def kinds(worker: Worker) -> list[str]:
    return [event.kind for event in left(worker)]


def interrupt(worker: Worker, handler: Callable[[], object]) -> None:
    """Call `handler` under the lock, just before the next event is appended, as a signal may at any moment."""
    append = worker._outbox.append

    def interrupted(seq: int, event: bytes) -> None:
        worker._outbox.append = append  # type: ignore[method-assign]
        handler()
        append(seq, event)

    worker._outbox.append = interrupted  # type: ignore[method-assign]


# -- a handler's last words --------------------------------------------------------------------------------------


def last_words(worker: Worker, error: BaseException | None = None) -> Callable[[], None]:
    def handler() -> None:
        worker.log("told to stop")
        worker.metric("last", 1.0)
        if error is not None:
            raise error

    return handler


@pytest.mark.parametrize("call", ["step", "log"])
def test_what_a_handler_emits_before_it_ends_the_program_is_kept(alone: Callable[..., Worker], call: str) -> None:
    worker = alone()
    interrupt(worker, last_words(worker, SystemExit(0)))
    with pytest.raises(SystemExit), worker:
        worker.log("line") if call == "log" else worker.step(episode=0, step=0)
    assert kinds(worker) == ["run_started", "log", "metric", "run_completed"]
    assert worker.problems == {}


def test_what_a_handler_emits_comes_before_what_its_program_emits_next(alone: Callable[..., Worker]) -> None:
    with alone() as worker:
        interrupt(worker, last_words(worker, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            worker.step(episode=0, step=0)
        worker.step(episode=0, step=1)
    assert kinds(worker) == ["run_started", "log", "metric", "step", "run_completed"]


def test_a_close_carries_out_first_what_was_called_before_it(alone: Callable[..., Worker]) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    worker = alone()
    worker.register_on_step(stop)  # it ends the call before it has carried out what came from inside it
    interrupt(worker, last_words(worker))
    with pytest.raises(KeyboardInterrupt), worker:
        worker.step(episode=0, step=0)
    assert kinds(worker) == ["run_started", "step", "log", "metric", "run_completed"]
    assert worker.problems == {}


def test_a_close_in_a_handler_that_ends_the_program_is_the_one_that_counts(alone: Callable[..., Worker]) -> None:
    def handler() -> None:
        worker.log("told to stop")
        assert worker.close("cancelled", "told to") is False
        raise SystemExit(1)

    worker = alone()
    interrupt(worker, handler)
    with pytest.raises(SystemExit), worker:
        worker.step(episode=0, step=0)
    *_, log, end = left(worker)
    assert (log.kind, end.outcome, end.reason) == ("log", "cancelled", "told to")


def test_a_close_that_could_not_emit_its_end_may_be_called_again(
    alone: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = alone()

    def interrupted(seq: int, event: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(worker._outbox, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.close()
    assert not worker.closed
    worker.close()
    assert kinds(worker) == ["run_started", "run_completed"]


@requires("interval timers", hasattr(signal, "setitimer"))
def test_a_signal_that_ends_the_program_at_any_moment_loses_nothing_it_said(tmp_path: Path) -> None:
    done = script(
        """
        import signal, sys
        from telefabric_workers import connect
        def stop(*_):
            worker.log("told to stop")
            worker.metric("last", 1.0)
            sys.exit(0)
        signal.signal(signal.SIGALRM, stop)
        for index in range(12):
            try:
                with connect("tcp://127.0.0.1:1", spool=sys.argv[1], exit_flush_s=0) as worker:
                    signal.setitimer(signal.ITIMER_REAL, 0.002 + index * 1e-4)
                    while True:
                        worker.step(episode=0, step=0, observation=[1.0] * 200)
            except SystemExit:
                pass
            assert not worker.problems, (index, worker.problems)
        """,
        tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]


# -- what close and flush say ------------------------------------------------------------------------------------


def test_after_the_end_close_and_flush_say_what_was_stored(alone: Callable[..., Worker]) -> None:
    with alone() as worker:
        worker.step(episode=0, step=0)
        other = alone()  # the link that they share goes on
    before = time.monotonic()
    assert (worker.close(), worker.flush(30), worker.acknowledged) == (False, False, 0)
    assert time.monotonic() - before < 10, "nothing sends it any more, so that nothing is waited for"
    other.close()


def test_after_the_end_close_and_flush_say_that_all_is_stored(fabric_service: FabricService) -> None:
    with fabric_service.connect() as worker:
        worker.step(episode=0, step=0)
    assert (worker.close(), worker.flush(), worker.acknowledged) == (True, True, 3)


@pytest.mark.parametrize("mode", ["off", "dry-run", "fast-lane"])
def test_a_worker_that_stores_nothing_has_nothing_left(mode: str) -> None:
    with connect(mode=mode) as worker:
        worker.step(episode=0, step=0)
        assert worker.flush()
    assert worker.close()
    assert worker.flush()


# -- a ^C at the end ---------------------------------------------------------------------------------------------


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A ^C raises KeyboardInterrupt here, also where the program that runs the tests has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_when(look: Callable[[], Any]) -> threading.Thread:
    """Interrupt the main thread as ^C does, as soon as `look` is true."""

    def run() -> None:
        wait_for(look, "the moment for a ^C")
        _thread.interrupt_main()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_wait_says_what_is_left(alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture) -> None:
    worker = alone(exit_flush_s=30)
    worker.step(episode=0, step=0)
    outbox: Any = worker._outbox
    thread = interrupt_when(lambda: outbox._linked.closing)
    with pytest.raises(KeyboardInterrupt):
        worker.close()
    thread.join()
    assert "3 of 3 events are not stored yet" in caplog.text
    assert not outbox._link.alive, "let go of"
    assert (worker.close(), worker.flush(30)) == (False, False)
    assert kinds(worker) == ["run_started", "step", "run_completed"]


def test_a_second_interrupt_still_says_what_is_left(
    alone: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker = alone(exit_flush_s=30)
    outbox: Any = worker._outbox
    outbox._linked.done = InterruptedTwice(outbox._linked.done)
    with pytest.raises(KeyboardInterrupt):
        worker.close()
    assert "2 of 2 events are not stored yet" in caplog.text
    assert not outbox._link.alive
    assert not worker.close()


class InterruptedTwice:
    """An event for whose first waits a ^C comes."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event
        self._left = 2
        self.set, self.is_set = event.set, event.is_set

    def wait(self, timeout_s: float) -> bool:
        if self._left:
            self._left -= 1
            raise KeyboardInterrupt
        return self._event.wait(timeout_s)


# -- the program's own exception ---------------------------------------------------------------------------------


class Mute(Exception):
    """Fails when it is asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_without_a_text_goes_through_and_fails_the_run(alone: Callable[..., Worker]) -> None:
    error = Mute()
    with pytest.raises(Mute) as caught, alone() as worker:
        raise error
    assert caught.value is error
    end = left(worker)[-1]
    assert (end.outcome, end.reason) == ("failed", "Mute")


def test_a_value_whose_error_has_no_text_costs_itself_alone(alone: Callable[..., Worker]) -> None:
    def fail() -> None:
        raise Mute

    class Failing:
        def __array__(self, *_: Any, **__: Any) -> Any:
            fail()

    with alone(metadata={"bad": Failing(), "good": 1}) as worker:
        worker.register_on_step(lambda _: fail())
        worker.step(episode=0, step=0, observation=Failing(), frame=fail)
        worker.log("line", fields={"x": Failing()})
    assert kinds(worker) == ["run_started", "step", "log", "run_completed"]
    assert {"metadata.bad", "step.observation", "log.fields.x"} <= set(worker.problems)


def test_each_worker_is_closed_at_the_end_whatever_another_raises(
    alone: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(seq: int, event: bytes) -> None:
        raise SpoolError("the disk is gone")

    workers = [alone() for _ in range(5)]
    with monkeypatch.context() as context:
        context.setattr(workers[2]._outbox, "append", fail)
        with pytest.raises(SpoolError, match="the disk is gone"):
            _close_all()
    assert [worker.closed for worker in workers] == [True, True, False, True, True]


def test_the_end_of_a_program_by_an_exception_without_a_text_closes_its_workers(tmp_path: Path) -> None:
    done = script(
        """
        import sys
        from telefabric_workers import connect
        workers = [connect("tcp://127.0.0.1:1", run="r", spool=sys.argv[1], exit_flush_s=0) for _ in range(3)]
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("no text")
        raise Mute
        """,
        tmp_path, check=False,
    )  # fmt: skip
    assert done.stderr.count("worker.not_stored: 2 of 2") == 3
    assert "atexit" not in done.stderr
    ends = [event for folder in tmp_path.iterdir() for event in events_of(folder)[1:]]
    assert [(end.outcome, end.reason) for end in ends] == [("failed", "Mute")] * 3


def test_a_cancelled_task_cancels_its_run(alone: Callable[..., Worker]) -> None:
    worker = alone()

    async def train() -> None:
        with worker:
            worker.step(episode=0, step=0)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(train())
    end = left(worker)[-1]
    assert (end.outcome, end.reason) == ("cancelled", "its task was cancelled")


def test_a_closed_generator_cancels_its_run(alone: Callable[..., Worker]) -> None:
    worker = alone()

    def train() -> Generator[int]:
        with worker:
            for step in range(5):
                worker.step(episode=0, step=step)
                yield step

    steps = train()
    next(steps)
    steps.close()
    end = left(worker)[-1]
    assert (end.outcome, end.reason) == ("cancelled", "its generator was closed")


# -- how a program ends ------------------------------------------------------------------------------------------

OPEN = """
import sys
from telefabric_workers import connect
worker = connect("tcp://127.0.0.1:1", spool=sys.argv[1], exit_flush_s=0)
worker.step(episode=0, step=0)
"""


def end_of(tmp_path: Path, code: str, *options: str) -> tuple[str, str | None]:
    """Outcome and reason of the run of a program of that source."""
    file = tmp_path / "program.py"
    file.write_text(code)
    spool = tmp_path / "spool"
    subprocess.run(
        [sys.executable, *options, str(file), str(spool)],
        check=False, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, env=dict(os.environ),
    )  # fmt: skip
    (folder,) = spool.iterdir()
    end = events_of(folder)[-1]
    return end.outcome, end.reason


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        ("", "completed", None),
        ("for _ in range(3): pass\nif worker:\n    print(1)", "completed", None),
        ("sys.exit()", "completed", None),
        ("sys.exit(0)", "completed", None),
        ("sys.exit(3)", "failed", "exit code 3"),
        ("exit(3)", "failed", "exit code 3"),
        ("sys.exit('no data')", "failed", "no data"),
        ("def main():\n    sys.exit(4)\nmain()", "failed", "exit code 4"),
        ("raise SystemExit(3)", "completed", "ended, exit code unknown"),
        ("try:\n    sys.exit(3)\nexcept SystemExit:\n    pass", "completed", None),
        ("try:\n    sys.exit(3)\nfinally:\n    sys.exit(0)", "completed", None),
        ("1/0", "failed", "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", "cancelled", "interrupted"),
        ("import threading\nthreading.Thread(target=sys.exit, args=(3,)).start()", "completed", None),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--no'])", "failed", "exit code 2"),
    ],
)
def test_the_end_of_a_program_that_closes_nothing(tmp_path: Path, code: str, outcome: str, reason: str | None) -> None:
    assert end_of(tmp_path, OPEN + code) == (outcome, reason)


@pytest.mark.parametrize("call", ["main()", "thread = threading.Thread(target=main)\nthread.start()\nthread.join()"])
def test_a_worker_that_a_function_or_a_thread_opened_ends_as_its_program(tmp_path: Path, call: str) -> None:
    main = "import sys, threading\ndef main():\n" + OPEN.replace("import sys\n", "").replace("\n", "\n    ")
    assert end_of(tmp_path, f"{main}\n{call}\nsys.exit(3)") == ("failed", "exit code 3")


def test_an_error_of_before_the_run_is_not_its_end(tmp_path: Path) -> None:
    code = "import sys, code\nconsole = code.InteractiveConsole(globals())\nconsole.runsource('1/0')\n" + OPEN
    assert end_of(tmp_path, code) == ("completed", None)


def test_an_error_at_a_prompt_ends_no_run(tmp_path: Path) -> None:
    statements = OPEN + "1/0\nworker.step(episode=0, step=1)\n"
    subprocess.run(
        [sys.executable, "-i", "-c", "pass", str(tmp_path)],
        check=True, input=statements, capture_output=True, text=True, timeout=60, env=dict(os.environ),
    )  # fmt: skip
    (folder,) = tmp_path.iterdir()
    *_, step, end = events_of(folder)
    assert (step.kind, step.step_index) == ("step", 1)
    assert (end.outcome, end.reason) == ("completed", None)


def test_an_error_of_the_script_before_a_prompt_is_the_end_of_its_run(tmp_path: Path) -> None:
    assert end_of(tmp_path, OPEN + "1/0", "-i") == ("failed", "ZeroDivisionError: division by zero")


def test_a_word_that_is_no_outcome_is_told_and_fails_the_run(alone: Callable[..., Worker]) -> None:
    worker = alone()
    worker.close("done")  # type: ignore[arg-type]
    assert left(worker)[-1].outcome == "failed"
    assert left(worker)[-1].reason == "ended as 'done'"
    assert worker.problems == {"run_completed.outcome": 1}


# -- notebooks ---------------------------------------------------------------------------------------------------

NOTEBOOK = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
spool = sys.argv[1]
setup = '''
from telefabric_workers import connect
def new(**options):
    return connect("tcp://127.0.0.1:1", spool={!r}, exit_flush_s=0, **options)
'''
shell.run_cell(setup.format(spool), store_history=True)
def cell(source):
    shell.run_cell(source, store_history=True).raise_error()
def check(expression):
    assert shell.ev(expression), expression
"""


def test_the_same_cell_run_again_ends_what_it_had_opened(tmp_path: Path) -> None:
    script(
        NOTEBOOK
        + """
again = "first = new(run='r')\\nfirst.step(episode=0, step=0)"
cell(again)
cell("kept, other = first, new(run='r')")
check("not kept.closed")
cell(again)
check("kept.closed and not first.closed and not other.closed")
cell("pair = [new(run='r', agent=each) for each in 'ab'] + [new(run='s'), new(run='s')]")
check("not any(each.closed for each in pair)")
cell("unnamed = new()")
cell("before = unnamed")
cell("unnamed = new()")
check("before.closed and not unnamed.closed and before.run_id != unnamed.run_id")
""",
        tmp_path,
    )


def test_an_error_in_a_cell_ends_no_run(tmp_path: Path) -> None:
    script(
        NOTEBOOK
        + """
shell.run_cell("1/0", store_history=True)
cell("worker = new(run='after')")
shell.run_cell("1/0", store_history=True)
cell("worker.step(episode=0, step=0)")
""",
        tmp_path,
    )
    (folder,) = tmp_path.iterdir()
    end = events_of(folder)[-1]
    assert (end.outcome, end.reason) == ("completed", None)


# -- promises ----------------------------------------------------------------------------------------------------


def test_a_program_that_changes_its_folder_keeps_its_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    worker = connect(NOBODY, spool="spool", exit_flush_s=0)
    os.chdir(elsewhere)
    for step in range(30):
        worker.step(episode=0, step=step, observation=bytes(300_000))
    assert worker.dropped == 0
    worker.close()
    assert not list(elsewhere.iterdir())
    assert len(list((tmp_path / "spool" / worker.stream_id.hex()).glob("*.seg"))) >= 2


def test_close_and_flush_are_true_only_if_every_event_is_stored(
    fabric_service: FabricService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TELEFABRIC_SPOOL_BYTES_MAX", str(8 * 2**20))
    worker = connect(NOBODY, spool=fabric_service.spool, exit_flush_s=0)
    for step in range(200):
        worker.step(episode=0, step=step, observation=bytes(100_000))
    worker.close()
    dropped = worker.dropped
    assert dropped > 0
    assert f"{worker.emitted} events are not stored yet and stay in" in caplog.text
    assert f"and {dropped} of {worker.emitted} events were dropped and are lost" in caplog.text
