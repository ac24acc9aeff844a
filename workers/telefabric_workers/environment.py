"""What the environment tells a worker: the same variables for every worker, read in this one place."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from telefabric.address import Address
from telefabric.settings import resolve, spool_folder


@dataclass(frozen=True, slots=True)
class WorkerEnvironment:
    """Settings of one worker, from arguments, environment, file and defaults in this order."""

    address: Address
    run_id: str
    agent_id: str
    worker_id: str
    mode: str
    spool: Path
    spool_bytes_max: int
    exit_flush_s: float

    @classmethod
    def read(
        cls,
        *,
        connect: str | None = None,
        run: str | None = None,
        agent: str | None = None,
        worker: str | None = None,
        mode: str | None = None,
        spool: Path | str | None = None,
        exit_flush_s: float | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> WorkerEnvironment:
        """Raises `telefabric.errors.UsageError` for a malformed value, with the name of what holds it."""

        def value(name: str, given: object = None) -> object:
            return resolve(name, given, environ=environ).value

        return cls(
            address=Address.parse(str(value("connect", connect))),
            run_id=str(value("run_id", run) or new_run_id()),
            agent_id=str(value("agent_id", agent)),
            worker_id=str(value("worker_id", worker) or default_worker_id()),
            mode=str(value("mode", mode)),
            spool=spool_folder(spool),
            spool_bytes_max=int(str(value("spool_bytes_max"))),
            exit_flush_s=float(str(value("exit_flush_s", exit_flush_s))),
        )


def new_run_id() -> str:
    """A run id that sorts by time: run-YYYYMMDD-HHMMSS-xxxx."""
    return time.strftime("run-%Y%m%d-%H%M%S-") + secrets.token_hex(2)


def default_worker_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"
