"""Metrics of the process and its machine, ``system/…``: from /proc, and of NVIDIA's GPUs where pynvml is installed.

A thread of each worker takes a sample at an interval while the program emits: a stream whose program emits
nothing is idle and stays so. Base units, the unit last in the name; a share is of 1, and a load counts cores.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from telefabric_workers.outbox import unforked

log = logging.getLogger("telefabric.worker")

_LEAVING_S = 0.2
_SECTOR_BYTES = 512
"""Size of a sector in /proc/diskstats, for every disk."""
_RATES = ("_cores", "_per_s")
"""Totals of seconds and bytes, which become rates per second."""
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NOT_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")
"""Block devices without a disk of their own: their bytes are counted at the disk below, or nowhere."""


class SystemMetrics:
    """The thread of one worker. It emits as the program itself does, and ends with the worker."""

    def __init__(
        self,
        emit: Callable[[dict[str, float]], None],
        emitted: Callable[[], int],
        interval_s: float,
        folder: Path,
        process: int | None = None,
    ) -> None:
        """`process` is the measured one; this one by default."""
        self._emit, self._emitted = emit, emitted
        self._interval_s = interval_s
        self._sample = Sample(folder, process)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telefabric-system", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread is left to this user, or the interpreter ends
            log.warning("worker.system_metrics_off: no system metrics: %s", error)

    def stop(self) -> None:
        """Any thread but its own. Waits for a sample that is under way, but not for long."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_LEAVING_S)

    def _run(self) -> None:
        ours = theirs = 0
        try:
            self._sample.take()
            while not self._ending.wait(self._interval_s):
                if self._emitted() - ours == theirs:
                    continue
                theirs = self._emitted() - ours
                found = self._sample.take()
                if not self._ending.is_set():
                    self._emit(found)
                ours += len(found)
        except Exception as error:  # noqa: BLE001  a thread's boundary: the program goes on without these metrics
            if not self._ending.is_set():
                log.warning("worker.system_metrics_off: no more system metrics: %s", error)


class Sample:
    """Sample the system; rates are since the last sample. For one thread."""

    def __init__(self, folder: Path, process: int | None = None) -> None:
        self._process = "self" if process is None else str(process)
        self._folder = folder
        """A folder on the file system whose free room is sampled."""
        self._totals: dict[str, float] = {}
        self._taken_s = 0.0
        self._gpus = _Gpus()

    def take(self) -> dict[str, float]:
        """Values by name. Where a source is missing, as in a container, so are its values."""
        now_s = time.monotonic()
        span_s, self._taken_s = now_s - self._taken_s, now_s
        found: dict[str, float] = {}
        for look in (self._cpu_and_memory, self._disk, *_LOOKS, self._room, self._gpus.look):
            try:
                values = dict(look())
            except (OSError, ValueError, LookupError):
                continue
            for name, value in values.items():
                if not name.endswith(_RATES):
                    found[f"system/{name}"] = value
                    continue
                before = self._totals.get(name)
                self._totals[name] = value
                if before is not None:
                    found[f"system/{name}"] = max(0.0, value - before) / span_s
        return found

    def _cpu_and_memory(self) -> Iterator[tuple[str, float]]:
        fields = _read(f"{self._process}/stat").rpartition(")")[2].split()
        yield "process_cpu_cores", (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
        yield "process_memory_bytes", int(_read(f"{self._process}/statm").split()[1]) * _PAGE_BYTES

    def _disk(self) -> Iterator[tuple[str, float]]:
        counts = dict(line.split(": ") for line in _read(f"{self._process}/io").splitlines())
        yield "process_read_bytes_per_s", int(counts["read_bytes"])
        yield "process_write_bytes_per_s", int(counts["write_bytes"])

    def _room(self) -> Iterator[tuple[str, float]]:
        stat = os.statvfs(self._folder)
        yield "disk_free_bytes", stat.f_bavail * stat.f_frsize


def _machine_cpu() -> Iterator[tuple[str, float]]:
    user, nice, system, _, _, irq, softirq, steal = map(int, _read("stat").split(None, 9)[1:9])
    yield "machine_cpu_cores", (user + nice + system + irq + softirq + steal) / _TICKS_A_SECOND


def _machine_memory() -> Iterator[tuple[str, float]]:
    sizes = dict(line.split(":") for line in _read("meminfo").splitlines())
    total, available = (int(sizes[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    yield "machine_memory_bytes", (total - available) * 1024


def _machine_disks() -> Iterator[tuple[str, float]]:
    disks = {name for name in os.listdir("/sys/block") if not name.startswith(_NOT_DISKS)}
    rows = [line.split() for line in _read("diskstats").splitlines()]
    for name, column in (("machine_read_bytes_per_s", 5), ("machine_write_bytes_per_s", 9)):
        yield name, sum(int(row[column]) for row in rows if row[2] in disks) * _SECTOR_BYTES


_LOOKS = (_machine_cpu, _machine_memory, _machine_disks)


class _Gpus:
    """The NVIDIA GPUs that this process may see."""

    def __init__(self) -> None:
        try:  # not in the thread, which may be forked at any moment
            with unforked():
                import pynvml
        except ImportError:
            pynvml = None
        self._nvml = pynvml
        self._handles: list[Any] | None = None

    def look(self) -> Iterator[tuple[str, float]]:
        """Looks for them the first time; what goes wrong with NVML then is that there are none."""
        nvml = self._nvml
        if nvml is None:
            return
        try:
            if self._handles is None:
                self._handles = []
                nvml.nvmlInit()
                self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            for index, handle in enumerate(self._handles):
                yield f"gpu{index}_busy_share", nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
                yield f"gpu{index}_memory_bytes", nvml.nvmlDeviceGetMemoryInfo(handle).used
                yield f"gpu{index}_power_watts", nvml.nvmlDeviceGetPowerUsage(handle) / 1000
        except nvml.NVMLError:
            return


def _read(name: str) -> str:
    return Path("/proc", name).read_text()
