"""A worker's settings from the environment: the same variables for every worker, read in this one place."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from telefabric.address import Address
from telefabric.keys.core.ticket import Ticket
from telefabric.keys.saved_connections import address_of
from telefabric.settings import resolve, spool_folder
from telefabric.spool import SpoolPolicy


class FrameSettings(NamedTuple):
    """Settings of frames: which environments, how often, and how they are sent."""

    video: str
    tiles: int
    fps_max: int
    network_fps: int
    jpeg_quality: int
    stored: str
    """off, steps, episodes or best."""
    stored_every: int
    fastlane: bool = True
    """They go through shared memory, too."""


class WorkerEnvironment(NamedTuple):
    """Settings of one worker, from arguments, environment, file and defaults in this order."""

    address: Address
    ticket: Ticket | None
    """With which the worker gets itself a key, at this address."""
    run_id: str
    run_named: bool
    """The run's id was given, not made up."""
    agent_id: str
    worker_id: str
    """Empty for that of the process."""
    mode: str
    spool: Path
    spool_policy: SpoolPolicy
    exit_flush_s: float
    frames: FrameSettings
    captured: frozenset[str] = frozenset()
    """What the metadata record about the program."""
    system_metrics_s: int = 0

    @classmethod
    def read(
        cls, *, environ: Mapping[str, str] | None = None, file: Mapping[str, object] | None = None, **given: object
    ) -> WorkerEnvironment:
        """By the names of the settings: what is `given`, else of the environment, the file, or the defaults.

        Raises `telefabric.errors.UsageError` for a malformed value, with the name of what holds it.
        """

        line = (os.environ if environ is None else environ).get("TELEFABRIC_TICKET")
        ticket = Ticket.decode(line) if line and given.get("connect") is None else None

        def value(name: str) -> Any:
            return resolve(name, given.get(name), environ=environ, file=file).value

        run_id, mode = value("run_id"), value("mode")
        recorded = mode in ("dual", "durable")
        stored, stored_every = value("store_frames")
        frames = FrameSettings(
            value("video"), value("video_tiles"), value("frame_fps"), value("network_fps"), value("jpeg_quality"),
            stored, stored_every, value("fastlane") == "1",
        )  # fmt: skip
        policy = SpoolPolicy(
            value("spool_bytes_max"), value("spool_free_bytes_min"), value("when_full"), value("fsync")
        )
        return cls(
            address=Address.parse(ticket.address) if ticket else address_of(value("connect")),
            ticket=ticket,
            run_id=run_id or new_run_id(),
            run_named=run_id is not None,
            agent_id=value("agent_id"),
            worker_id=value("worker_id") or "",
            mode=mode,
            spool=spool_folder(given.get("spool")).absolute(),  # a program may change its folder later
            spool_policy=policy,
            exit_flush_s=value("exit_flush_s"),
            frames=frames,
            captured=value("capture") if recorded else frozenset(),
            system_metrics_s=value("system_metrics_s") if recorded else 0,
        )


def new_run_id() -> str:
    """A run id that sorts by time: run-YYYYMMDD-HHMMSS-xxxx."""
    return time.strftime("run-%Y%m%d-%H%M%S-") + os.urandom(2).hex()


def default_worker_id() -> str:
    return f"{hostname()}-{os.getpid()}"


def hostname() -> str:
    return os.uname().nodename
