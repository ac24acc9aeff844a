"""`connect`: from arguments and environment to a worker."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from telefabric.errors import TelefabricError, UsageError
from telefabric_schemas.events import CONTROL_MODES, ControlMode
from telefabric_workers import parent_stream
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.lifetime import Terms, close_earlier
from telefabric_workers.notebook import current_cell
from telefabric_workers.outbox import unforked
from telefabric_workers.worker import Worker, open_worker

log = logging.getLogger("telefabric.worker")


def connect(
    address: str | None = None,
    *,
    run: str | None = None,
    agent: str | None = None,
    worker: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    control_mode: ControlMode = "agent",
    mode: str | None = None,
    spool: Path | str | None = None,
    when_full: str | None = None,
    fsync: str | None = None,
    exit_flush_s: float | None = None,
    video: str | None = None,
    store_frames: str | None = None,
    strict: bool = False,
    on_fork: Literal["new", "off"] = "new",
    on_error: Literal["raise", "off"] = "raise",
) -> Worker:
    """Begin a stream of events. Returns at once, whether or not a broker answers.

    Use it as a context manager, or call `Worker.close`; at the interpreter's exit open workers are closed. What is not
    given comes from ``TELEFABRIC_CONNECT``, ``_RUN_ID``, ``_AGENT_ID``, ``_WORKER_ID``, ``_MODE``, ``_SPOOL``,
    ``_WHEN_FULL`` and ``_FSYNC``, then from ``telefabric.toml``, then from the defaults (see ``telefabric.settings``).

    :param address: the broker, ``tcp://host:port``.
    :param run: run id; several workers may share one. Made from the time by default.
    :param agent: agent id of events that name none.
    :param metadata: what is worth knowing of the run, such as ``{"game_id": "FrozenLake-v1"}``.
    :param control_mode: the actor: human, agent, multi_agent, hybrid or replay.
    :param mode: dual (store, and show live), durable (as dual, but no frames), fast-lane (frames on this machine, and
        nothing else), off, or dry-run (validate and count, strict, no broker).
    :param spool: folder of the spools on this machine's disk.
    :param when_full: what a call does while the spool is full: drop_oldest drops what is oldest and records the loss,
        block waits for room, error raises `telefabric.errors.SpoolFull` and emits nothing. `Worker.close` never waits
        for room: the last events of a run are taken over the limit.
    :param fsync: when the spool is synced. Every event survives a kill of the process; a power loss costs with off what
        the system had not written yet, with interval the last second, with always nothing, at a sync for each event.
    :param exit_flush_s: how long `Worker.close` waits for acknowledgements, in seconds.
    :param video: whose frames are shown: grid (of the first ``video_tiles`` environments of an agent), single (of the
        first), or off.
    :param store_frames: which frames are stored with the events, to be seen when the run is replayed: off, ``steps:N``
        (each whose step divides by N), ``episodes:N`` (all of each Nth episode), or best (those of each episode whose
        return is the best so far). The caller's thread encodes them.
    :param strict: raise `UsageError` for unusable values instead of leaving them out.
    :param on_fork: whether a child process that uses the worker gets a stream of its own, or emits nothing.
    :param on_error: what happens when settings are malformed or the spool cannot be written: raise
        `telefabric.errors.UsageError` or `telefabric.errors.SpoolError`; or off, a warning and a worker that records
        nothing, for a program that must run all the same.

    In a notebook, the same cell run again ends the worker that it opened before for this run.
    """
    _check("control_mode", control_mode, sorted(CONTROL_MODES))
    _check("on_fork", on_fork, ["new", "off"])
    _check("on_error", on_error, ["raise", "off"])

    try:
        _require_threads()
        with unforked():
            environment = WorkerEnvironment.read(
                connect=address, run_id=run, agent_id=agent, worker_id=worker, mode=mode, spool=spool,
                when_full=when_full, fsync=fsync, exit_flush_s=exit_flush_s, video=video, store_frames=store_frames,
            )  # fmt: skip
        cell = current_cell()
        if cell is not None:
            close_earlier(cell, environment)
        helps = parent_stream.parent_of(environment.run_id)
        return open_worker(Terms(environment, {}, control_mode, strict, on_fork, on_error, helps, cell), metadata)
    except TelefabricError as error:
        if on_error == "raise":
            raise
        log.warning("worker.off: nothing is recorded: %s", error)
    environment = WorkerEnvironment.read(mode="off", spool=".", environ={}, file={})
    return open_worker(Terms(environment, {}, control_mode, strict, on_fork, on_error), {})


def _require_threads() -> None:
    """Raises `UsageError` where a library has put its own for threads: the link would never get its turn."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        raise UsageError(
            "gevent has replaced Python's threads, which connect() needs: call gevent.monkey.patch_all(thread=False)"
        )
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        raise UsageError(
            "eventlet has replaced Python's threads, which connect() needs: call eventlet.monkey_patch(thread=False)"
        )


def _check(name: str, given: object, choices: list[str]) -> None:
    if not isinstance(given, str) or given not in choices:
        raise UsageError(f"{name} is {given!r} and should be one of {', '.join(choices)}")
