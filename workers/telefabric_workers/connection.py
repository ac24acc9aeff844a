"""`connect`: from arguments and environment to a worker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from telefabric.errors import UsageError
from telefabric_schemas.events import CONTROL_MODES, ControlMode
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.worker import Worker


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
    exit_flush_s: float | None = None,
    strict: bool = False,
    on_fork: Literal["new", "off"] = "new",
) -> Worker:
    """Begin a stream of events. Returns at once, whether or not a broker answers.

    Use it as a context manager, or call `Worker.close`; at the interpreter's exit open workers are closed. What is not
    given comes from ``TELEFABRIC_CONNECT``, ``_RUN_ID``, ``_AGENT_ID``, ``_WORKER_ID``, ``_MODE`` and ``_SPOOL``, then
    from ``telefabric.toml``, then from the defaults (see ``telefabric.settings``).

    :param address: the broker, ``tcp://host:port``.
    :param run: run id; several workers may share one. Made from the time by default.
    :param agent: agent id of events that name none.
    :param metadata: what is worth knowing of the run, such as ``{"game_id": "FrozenLake-v1"}``.
    :param control_mode: who acts: human, agent, multi_agent, hybrid or replay.
    :param mode: dual or durable (send and store), off, or dry-run (validate and count, strict, no broker).
    :param spool: folder of the spools on this machine's disk.
    :param exit_flush_s: how long `Worker.close` waits for acknowledgements, in seconds.
    :param strict: raise `UsageError` for unusable values instead of leaving them out.
    :param on_fork: whether a forked child that uses the worker gets a stream of its own, or emits nothing.

    Raises `telefabric.errors.UsageError` for malformed settings and `telefabric.errors.SpoolError` when the spool
    cannot be written.
    """
    if control_mode not in CONTROL_MODES:
        raise UsageError(f"control_mode is {control_mode!r} and should be one of {', '.join(sorted(CONTROL_MODES))}")
    environment = WorkerEnvironment.read(
        connect=address, run=run, agent=agent, worker=worker, mode=mode, spool=spool, exit_flush_s=exit_flush_s
    )
    return Worker(environment, metadata=metadata, control_mode=control_mode, strict=strict, on_fork=on_fork)
