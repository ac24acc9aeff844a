"""System metrics: real figures of this process and machine, from a thread that is in nobody's way."""

from __future__ import annotations

import logging
import mmap
import os
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import wait_for
from test_worker import spooled

from telefabric import limits
from telefabric_schemas import Metric
from telefabric_workers import Worker, connect, environment, system
from telefabric_workers.system import Sample

NOBODY = "tcp://127.0.0.1:1"
INTERVAL_S = 0.05


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Worker]:
    """Makes workers that tell of the system twenty times a second; nobody takes their events."""
    read = environment.WorkerEnvironment.read

    def often(**given: Any) -> environment.WorkerEnvironment:
        found = read(**given)
        return found._replace(system_metrics_s=INTERVAL_S) if found.system_metrics_s else found  # type: ignore[arg-type]

    monkeypatch.setattr(environment.WorkerEnvironment, "read", often)
    monkeypatch.setenv("TELEFABRIC_SYSTEM_METRICS_S", "10")
    return lambda **options: connect(NOBODY, spool=tmp_path / "spool", exit_flush_s=0, **options)


def told(worker: Worker) -> list[Metric]:
    return [event for event in spooled(worker) if isinstance(event, Metric) and event.name.startswith("system/")]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "telefabric-system"]


def steps_until(worker: Worker, condition: Callable[[], object], what: str) -> None:
    def look() -> object:
        worker.step(episode=0, step=0)
        return condition()

    wait_for(look, what)


@contextmanager
def forked() -> Iterator[None]:
    """Around what a forked child does: it ends there, with 0 when nothing was raised."""
    code = 1
    try:
        yield
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


# -- the figures -------------------------------------------------------------------------------------------------


def test_a_sample_is_of_this_process_and_machine(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    first = sample.take()
    assert not [name for name in first if name.endswith(("_per_s", "_cores"))], "rates need two looks"
    ballast = np.frombuffer(mmap.mmap(-1, 50 * limits.MIB), np.uint8)  # a heap may have as much free
    ballast[:] = 1
    deadline = time.process_time() + 0.2
    start = time.monotonic()
    while time.process_time() < deadline:
        pass
    (tmp_path / "file").write_bytes(ballast.tobytes())
    with (tmp_path / "file").open("rb+") as file:
        os.fsync(file)
    second = sample.take()
    span_s = time.monotonic() - start
    assert second["system/process_memory_bytes"] - first["system/process_memory_bytes"] > 45 * limits.MIB
    assert second["system/process_cpu_cores"] * span_s > 0.1
    assert second["system/machine_cpu_cores"] <= (os.cpu_count() or 1) * 1.5
    assert second["system/machine_memory_bytes"] > second["system/process_memory_bytes"]
    assert second["system/process_write_bytes_per_s"] * span_s > 30 * limits.MIB
    disk = os.statvfs(tmp_path)
    assert second["system/disk_free_bytes"] == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.2)
    assert {"system/machine_read_bytes_per_s", "system/machine_write_bytes_per_s"} <= second.keys()


def test_a_sample_costs_less_than_a_millisecond(tmp_path: Path) -> None:
    sample = Sample(tmp_path)

    def seconds() -> float:
        start = time.thread_time()
        sample.take()
        return time.thread_time() - start

    assert min(seconds() for _ in range(50)) < 0.001


def test_a_gpu_library_that_is_broken_costs_the_metrics_and_is_logged(
    watched: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", types.ModuleType("pynvml"))  # with nothing in it
    with watched() as worker:
        steps_until(worker, lambda: "worker.system_metrics_off" in caplog.text, "the warning")


def test_a_source_that_is_missing_costs_its_own_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = system._read

    def refuse(name: str) -> str:
        if name == "self/io":
            raise PermissionError("not yours")
        return "nonsense" if name == "meminfo" else read(name)

    monkeypatch.setattr(system, "_read", refuse)
    found = Sample(tmp_path).take()
    assert "system/process_memory_bytes" in found
    assert "system/machine_memory_bytes" not in found


class NvmlError(Exception):
    pass


def nvml(*, works: bool) -> Any:
    """As much of pynvml as is used, with two GPUs."""
    module = types.ModuleType("pynvml")

    def begin() -> None:
        if not works:
            raise NvmlError("no driver")

    for name, value in {
        "NVMLError": NvmlError,
        "nvmlInit": begin,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUtilizationRates": lambda handle: types.SimpleNamespace(gpu=40 + handle),
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(used=1_000 + handle),
        "nvmlDeviceGetPowerUsage": lambda _: 2_500,
    }.items():
        setattr(module, name, value)
    return module


def test_gpus_are_told_where_nvml_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(works=True))
    found = Sample(tmp_path).take()
    assert found["system/gpu0_busy_share"] == 0.4
    assert found["system/gpu1_memory_bytes"] == 1_001
    assert found["system/gpu1_power_watts"] == 2.5
    monkeypatch.setitem(sys.modules, "pynvml", nvml(works=False))
    assert not [name for name in Sample(tmp_path).take() if "gpu" in name]


# -- the thread --------------------------------------------------------------------------------------------------


def test_they_are_metrics_of_the_stream_while_the_program_emits(watched: Callable[..., Worker]) -> None:
    worker = watched(agent="ada")
    steps_until(worker, lambda: len(told(worker)) > 20, "several samples")
    one = next(metric for metric in told(worker) if metric.name == "system/process_memory_bytes")
    assert (one.agent_id, one.value is not None and one.value > limits.MIB) == ("ada", True)
    assert one.global_step is not None
    assert worker.close() is False
    assert not threads()
    assert worker.problems == {}


def test_a_program_that_emits_nothing_is_left_idle(watched: Callable[..., Worker]) -> None:
    worker = watched()
    worker.step(episode=0, step=0)
    wait_for(lambda: told(worker), "a last sample of what it did")
    head = 0

    def quiet() -> bool:
        nonlocal head
        before, head = head, worker.emitted
        time.sleep(5 * INTERVAL_S)
        return head == before

    wait_for(quiet, "no more of them")
    steps_until(worker, lambda: len(told(worker)) > 20, "they go on with the program")
    worker.close()


@pytest.mark.parametrize("mode", ["off", "dry-run", "fast-lane"])
def test_none_where_nothing_is_recorded(watched: Callable[..., Worker], mode: str) -> None:
    with watched(mode=mode):
        assert not threads()


def test_none_when_the_setting_says_so(watched: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEFABRIC_SYSTEM_METRICS_S", "0")
    with watched():
        assert not threads()


def test_a_forked_child_has_none_until_its_own_stream_begins(watched: Callable[..., Worker]) -> None:
    with watched() as worker:
        child = os.fork()
        if not child:
            with forked():
                assert not threads()
                worker.step(episode=0, step=0)
                assert len(threads()) == 1
                steps_until(worker, lambda: told(worker), "the child's own")
                worker.close()
                wait_for(lambda: not threads(), "the thread has ended")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(threads()) == 1, "the parent's goes on"
        steps_until(worker, lambda: told(worker), "the parent's own")


def test_a_fork_while_the_gpu_library_is_slow_to_import_costs_the_child_no_metrics(
    watched: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of an import that another thread has begun is held in the child for ever."""
    begun = tmp_path / "begun"
    (tmp_path / "pynvml.py").write_text(
        "import pathlib, time\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "time.sleep(0.3)\n"
        "class NVMLError(Exception): pass\n"
        "def nvmlInit(): raise NVMLError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    with watched() as worker:
        wait_for(begun.exists, "the import has begun")
        child = os.fork()
        if not child:
            with forked():
                steps_until(worker, lambda: told(worker), "the child's own")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sys.modules.pop("pynvml", None)


def test_a_worker_that_cannot_emit_loses_its_system_metrics_alone(
    watched: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Worker, series: Any, **_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(Worker, "metrics", fail)
    with caplog.at_level(logging.WARNING, "telefabric.worker"):
        worker = watched()
        wait_for(lambda: not threads(), "the thread has ended")
    assert "worker.system_metrics_off: no more system metrics: no room" in caplog.text
    worker.step(episode=0, step=0)
    worker.close()
