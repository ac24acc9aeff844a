"""One program under `telefabric run`: its worker, its process, and how both end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from telefabric_workers import capture, parent_stream
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.foreign.lines import Lines
from telefabric_workers.lifetime import Terms
from telefabric_workers.run.child import Child, Interrupted, NotStarted, Signals, ending_of_code
from telefabric_workers.run.pump import Pump
from telefabric_workers.run.recorder import Recorder
from telefabric_workers.system import SystemMetrics
from telefabric_workers.worker import Worker, open_worker

_CONTROL_MODE = "agent"


class ProgramRun:
    """Opens the worker. For the main thread. Raises `telefabric.errors.SpoolError`."""

    def __init__(self, environment: WorkerEnvironment, command: Sequence[str]) -> None:
        self._settings = environment
        self._command = command
        self.worker = _open(environment, command)
        self.recorder = Recorder(self.worker, Lines(self.worker.agent_id, _CONTROL_MODE))

    def run(self, environ: Mapping[str, str], signals: Signals) -> int:
        """Until the program has ended; its exit code, or minus the number of its signal. Raises `NotStarted`.

        A worker that the program itself opens joins the run, and helps ours.
        """
        ours = {parent_stream.VARIABLE: os.environ.get(parent_stream.VARIABLE, "")}
        try:
            child = Child(self._command, {**environ, **ours}, signals)
        except Interrupted as interrupted:
            return -interrupted.number
        except NotStarted as error:
            self.worker.close("failed", str(error))
            raise
        pump = Pump(child.output, self.recorder.record, child.copy_modes)
        system = self._measure(child.pid)
        code = child.watch()
        if system is not None:
            system.stop()
        self.worker._outbox.end()  # nothing more is printed: what is left goes over the limit of a full spool
        pump.finish()
        self.recorder.finish()
        return code

    def close(self, code: int) -> None:
        """End the run as the program says itself, or as its exit code does."""
        try:
            self.worker.close(*(self.recorder.ending or ending_of_code(code)))
        except KeyboardInterrupt:  # nobody wants to wait: the rest is delivered later
            pass

    def _measure(self, pid: int) -> SystemMetrics | None:
        settings, worker = self._settings, self.worker
        if not settings.system_metrics_s:
            return None
        return SystemMetrics(
            worker.metrics, lambda: worker.emitted, settings.system_metrics_s, settings.spool, process=pid
        )


def _open(environment: WorkerEnvironment, command: Sequence[str]) -> Worker:
    """A worker whose metadata and system metrics are of the program, not of this process."""
    about: dict[str, Any] = {}
    if "command" in environment.captured:
        about["command"] = capture.masked(command)
    if "git" in environment.captured and (commit := capture.git(_folder(command))):
        about["git"] = commit
    ours = environment._replace(captured=frozenset(), system_metrics_s=0)
    helps = parent_stream.parent_of(environment.run_id)
    terms = Terms(ours, {}, _CONTROL_MODE, strict=False, on_fork="off", on_error="raise", helps=helps)
    return open_worker(terms, {"program": about} if about else {})


def _folder(command: Sequence[str]) -> Path:
    """Where the program's script is, or where it was started."""
    script = next((Path(one) for one in command[1:] if os.path.isfile(one)), None)
    return script.absolute().parent if script else Path.cwd()
