"""What runs of the caller's while a worker is used (conversions, callbacks, log handlers) can stop nobody."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import script
from skips import requires

from telefabric.errors import UsageError
from telefabric.log.thread import log_thread
from telefabric_workers import Worker, connect

NOBODY = "tcp://127.0.0.1:1"
WAIT_S = 20.0


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = connect(NOBODY, spool=tmp_path / "spool", exit_flush_s=0)
    yield made
    made.close()


def others_can_emit(worker: Worker) -> bool:
    """Another thread gets its event into the worker's stream, now."""
    thread = threading.Thread(target=worker.metric, args=("from another thread", 1.0))
    thread.start()
    thread.join(WAIT_S)
    return not thread.is_alive()


def lock_is_free(worker: Worker) -> bool:
    """As `others_can_emit`, where the other thread must not log: a handler has a lock of its own."""
    got: list[bool] = []

    def take() -> None:
        with worker._outbox.lock:
            got.append(True)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return bool(got)


class Looks:
    """A value of any kind that looks, while its code runs, whether another thread can emit."""

    def __init__(self, worker: Worker, seen: list[bool], error: Exception | None = None) -> None:
        self._worker, self._seen, self._error = worker, seen, error

    def _look(self) -> None:
        self._seen.append(others_can_emit(self._worker))
        logging.getLogger("user").warning("converted")
        self._worker.log("from inside a value")
        if self._error is not None:
            raise self._error

    def __array__(self, *_: Any, **__: Any) -> np.ndarray[Any, Any]:
        self._look()
        return np.arange(3)

    def __float__(self) -> float:
        self._look()
        return 1.5

    def __index__(self) -> int:
        self._look()
        return 7

    def __str__(self) -> str:
        self._look()
        return "name"

    def __bool__(self) -> bool:
        self._look()
        return True


CALLS: dict[str, Callable[[Worker, Any], object]] = {
    **{
        f"step {field}": lambda worker, value, field=field: worker.step(**{"episode": 0, "step": 0, field: value})  # type: ignore[misc]
        for field in (
            "action", "observation", "info", "render_hint", "reward", "episode", "step", "env_index", "global_step",
            "agent", "policy_label", "backend", "control_mode", "frame_ref",
        )
    },
    "step deep inside": lambda worker, value: worker.step(episode=0, step=0, info={"a": [{"b": value}]}),
    "reset": lambda worker, value: worker.reset(episode=0, observation=value, options={"x": value}),
    "episode": lambda worker, value: worker.episode(
        episode=0, total_reward=value, length=value, seed=value, game_id=value, metadata={"x": value}
    ),
    "void_episode": lambda worker, value: worker.void_episode(episode=value, reason=value),
    "metric": lambda worker, value: worker.metric("loss", value, unit=value),
    "metrics": lambda worker, value: worker.metrics({"loss": value, "other": 1.0}),
    "log": lambda worker, value: worker.log(value, level=value, fields={"x": value}),
    "set_metadata": lambda worker, value: worker.set_metadata({"x": value}),
    "frame": lambda worker, value: worker.frame(value, episode=0, step=value, reward=value, hud={"x": value}),
    "step with a frame": lambda worker, value: worker.step(episode=0, step=0, frame=value, hud={"x": value}),
    "close": lambda worker, value: worker.close("failed", value),
}  # fmt: skip


@pytest.mark.parametrize("error", [None, RuntimeError("no")], ids=["converts", "raises"])
@pytest.mark.parametrize("call", CALLS)
def test_no_lock_is_held_while_a_value_of_the_caller_is_converted(
    worker: Worker, call: str, error: Exception | None
) -> None:
    seen: list[bool] = []
    CALLS[call](worker, Looks(worker, seen, error))
    assert seen or call in ("frame", "step with a frame"), "nobody looks at frames here, so that none is converted"
    assert all(seen)


class Counts:
    """A value that counts how often it is converted, and emits each time."""

    def __init__(self, worker: Worker, error: Exception | None = None) -> None:
        self._worker, self._error = worker, error
        self.times = 0

    def __array__(self, *_: Any, **__: Any) -> np.ndarray[Any, Any]:
        self.times += 1
        self._worker.metric("converted", 1.0)
        if self._error is not None:
            raise self._error
        return np.zeros(2)


@pytest.mark.parametrize("error", [None, RuntimeError("no")], ids=["converts", "raises"])
@pytest.mark.parametrize(
    "call",
    [
        lambda worker, value: worker.step(episode=0, step=0, observation=value),
        lambda worker, value: worker.step(episode=0, step=0, action=value, info={"bad": object()}),
        lambda worker, value: worker.step(episode=0, step=0, info={"deep": [value], "bad": object()}),
        lambda worker, value: worker.step(episode="?", step=0, info={"x": value}),
        lambda worker, value: worker.reset(episode=0, observation={"x": value, "bad": object()}),
        lambda worker, value: worker.log("line", fields={"x": value}),
        lambda worker, value: worker.set_metadata(x=value, bad=object()),
    ],
)
def test_a_value_is_converted_once_whatever_lies_beside_it(
    worker: Worker, call: Callable[[Worker, Any], object], error: Exception | None
) -> None:
    value = Counts(worker, error)
    call(worker, value)
    assert value.times == 1
    assert worker.emitted == 3, "run_started, what the value emitted, the event"


def test_a_value_that_emits_itself_ends(tmp_path: Path) -> None:
    script(
        """
        import sys
        from telefabric_workers import connect
        class Itself:
            def __array__(self, *_, **__):
                worker.step(episode=0, step=0, action=Itself())
        for strict in (False, True):
            worker = connect("tcp://127.0.0.1:1", spool=sys.argv[1], exit_flush_s=0, strict=strict)
            try:
                worker.step(episode=0, step=0, action=Itself())
            except Exception as error:
                assert strict, error
        """,
        tmp_path,
    )


@pytest.mark.parametrize("series", ["abc", 5, [1], None])
def test_metrics_that_are_no_mapping_are_told(worker: Worker, series: Any) -> None:
    worker.metrics(series)
    assert (worker.emitted, worker.problems) == (1, {"metric.series": 1} if series is not None else {})


def test_no_lock_is_held_while_a_callback_runs(worker: Worker) -> None:
    seen: list[bool] = []
    worker.register_on_step(lambda _: seen.append(others_can_emit(worker)))
    worker.register_on_episode_end(lambda _: seen.append(others_can_emit(worker)))
    worker.step(episode=0, step=0)
    worker.episode(episode=0, total_reward=1.0, length=1)
    assert seen == [True, True]


class Handler(logging.Handler):
    """Forwards lines to a worker, as people do who want their log beside their run."""

    def __init__(self, worker: Worker, seen: list[bool]) -> None:
        super().__init__()
        self._worker, self._seen = worker, seen

    def emit(self, record: logging.LogRecord) -> None:
        self._seen.append(lock_is_free(self._worker))
        self._worker.log(record.getMessage())


@pytest.fixture
def forwarded(worker: Worker) -> Iterator[list[bool]]:
    seen: list[bool] = []
    handler = Handler(worker, seen)
    root = logging.getLogger()
    root.addHandler(handler)
    yield seen
    root.removeHandler(handler)


def test_no_lock_is_held_while_the_worker_logs(worker: Worker, forwarded: list[bool]) -> None:
    worker.step(episode=0, step=0, action=object())
    worker.set_metadata(bad=object())
    worker.close()
    worker.metric("late", 1.0)
    assert len(forwarded) >= 3
    assert all(forwarded)


def test_a_ring_that_cannot_be_made_is_logged_without_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forwarded: list[bool]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TELEFABRIC_RING", str(tmp_path / "file"))
    with connect(NOBODY, spool=tmp_path / "spool", exit_flush_s=0) as other:
        other.step(episode=0, step=0, frame=np.zeros((4, 4), np.uint8))
    assert log_thread.settle(WAIT_S)
    assert forwarded
    assert all(forwarded)


def test_a_program_that_forwards_its_log_and_converts_values_that_log_does_not_stop(tmp_path: Path) -> None:
    script(
        """
        import logging, sys, threading
        import numpy as np
        from telefabric_workers import connect

        class Tensor:
            def __array__(self, *_, **__):
                logging.getLogger("tensor").warning("moved to the host")
                return np.zeros(3)

        class Forward(logging.Handler):
            def emit(self, record):
                worker.log(record.getMessage())

        worker = connect("tcp://127.0.0.1:1", spool=sys.argv[1], exit_flush_s=0)
        logging.getLogger().addHandler(Forward())
        sys.setswitchinterval(1e-5)

        def train():
            for step in range(2_000):
                worker.step(episode=0, step=step, observation=Tensor())

        def talk():
            for line in range(2_000):
                logging.getLogger("talk").warning("line %d", line)

        threads = [threading.Thread(target=each) for each in (train, train, talk, talk)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert worker.emitted == 1 + 2 * 2_000 + 2 * 2_000 + 2 * 2_000, worker.emitted
        """,
        tmp_path,
    )


def test_a_handler_that_waits_for_room_does_not_wait_for_the_thread_that_makes_it(tmp_path: Path) -> None:
    """The link says that a call waits; the handler's lock is held by that very call."""
    script(
        """
        import logging, sys
        from pathlib import Path
        from telefabric.service.embedded import Services
        from telefabric.address import Address
        from telefabric_workers import connect

        class Forward(logging.Handler):
            def emit(self, record):
                worker.log(record.getMessage(), fields={"ballast": bytes(100_000)})

        with Services(Address("127.0.0.1", 0), Path(sys.argv[1]), log_level="error") as services:
            worker = connect(services.address.url, spool=sys.argv[2], when_full="block", exit_flush_s=30)
            logging.getLogger().addHandler(Forward())
            for line in range(300):
                logging.getLogger("user").warning("line %d", line)
            logging.getLogger().handlers.clear()
            assert worker.close()
        """,
        tmp_path / "data", tmp_path / "spool",
        TELEFABRIC_SPOOL_BYTES_MAX=str(8 * 2**20),
    )  # fmt: skip


def test_problems_of_many_threads_are_all_counted_and_raise_nothing(worker: Worker) -> None:
    errors: list[BaseException] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(number: int) -> None:
        try:
            for index in range(500):
                worker.set_metadata({f"bad-{number}-{index}": object()})
        except BaseException as error:  # noqa: BLE001  told by the test's thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    assert sum(worker.problems.values()) == 3_000


def test_a_slow_conversion_holds_up_no_other_thread(worker: Worker) -> None:
    begun = threading.Event()

    class Slow:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray[Any, Any]:
            begun.set()
            time.sleep(1.0)
            return np.zeros(1)

    slow = threading.Thread(target=lambda: worker.step(episode=0, step=0, observation=Slow()))
    slow.start()
    begun.wait(WAIT_S)
    for step in range(100):
        worker.step(episode=1, step=step)
    assert slow.is_alive(), "a hundred steps take a millisecond"
    slow.join()
    assert worker.emitted == 102


@requires("gevent", __import__("importlib.util").util.find_spec("gevent") is not None)
def test_under_gevent_s_threads_it_refuses_with_the_remedy(tmp_path: Path) -> None:
    code = """
        import gevent.monkey, sys
        gevent.monkey.patch_all({})
        from telefabric_workers import connect
        with connect("tcp://127.0.0.1:1", spool=sys.argv[1], exit_flush_s=0{}) as worker:
            worker.step(episode=0, step=0)
            print(worker.emitted)
        """
    refused = script(code.format("", ""), tmp_path, check=False)
    assert refused.returncode == 1
    assert "gevent has replaced Python's threads" in refused.stderr
    assert "patch_all(thread=False)" in refused.stderr
    off = script(code.format("", ", on_error='off'"), tmp_path)
    assert (off.returncode, off.stdout) == (0, "0\n"), off.stderr
    done = script(code.format("thread=False", ""), tmp_path)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_a_program_that_must_run_runs_without_a_spool_or_with_settings_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with connect(NOBODY, spool=tmp_path / "file" / "spool", on_error="off") as worker:
        worker.step(episode=0, step=0)
    assert worker.close()
    assert "worker.off: nothing is recorded: the spool" in caplog.text
    monkeypatch.setenv("TELEFABRIC_FSYNC", "perhaps")
    with pytest.raises(UsageError):
        connect(NOBODY, spool=tmp_path / "spool")
    with connect(NOBODY, spool=tmp_path / "spool", on_error="off") as worker:
        worker.step(episode=0, step=0)
    assert "TELEFABRIC_FSYNC is 'perhaps'" in caplog.text
