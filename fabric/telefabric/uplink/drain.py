"""Delivering the spools that dead workers left on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypedDict

from telefabric import limits
from telefabric.address import Address
from telefabric.spool import admit, fabrics_in
from telefabric.uplink import Link, orphan_candidates
from telefabric.uplink.core.stream import admits

_PATIENCE_S = 3 * limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S
"""A machine under load takes seconds to open spools, and a broker there as long to answer."""


class DrainReport(TypedDict):
    delivered_spools: int
    delivered_events: int
    lost_events: int
    """Damaged or dropped before: each is in a gap."""
    known_events: int
    left_spools: int
    held_spools: int
    """Of those that are left: they belong to another store than the one of this broker."""
    unreadable: list[str]


def admit_store(root: Path, fabric: bytes) -> None:
    """Let a store have the spools under `root` that belong to others, also those of workers that live.

    Raises `SpoolError` when the root cannot be read, and `OSError` when a spool cannot be written.
    """
    for spool in orphan_candidates(root):
        fabrics = fabrics_in(spool)
        if not admits(fabrics, fabric):
            admit(spool, (*fabrics, fabric))


class Drain:
    """Adopts every spool under `root` whose owner is gone, a few at a time, until none is left.

    Raises `SpoolError` when the root cannot be read.
    """

    def __init__(self, address: Address, root: Path) -> None:
        self._address = address
        self._root = root = root.absolute()
        orphan_candidates(root)
        self._link = Link(address, root)
        self._started_s = time.monotonic()

    def __enter__(self) -> Drain:
        return self

    def __exit__(self, *exception: object) -> None:
        self._link.stop()

    @property
    def finished(self) -> bool:
        """Every spool was looked at, and none that could be drained is left."""
        orphans = self._link.orphans
        return orphans.scanned and not orphans.waiting and not self._link.streams

    @property
    def hopeless(self) -> bool:
        """Nobody answers, or the broker refuses."""
        silent_s = time.monotonic() - self._started_s
        return self._link.refusal is not None or (self._link.instance is None and silent_s > _PATIENCE_S)

    def obstacle(self) -> str:
        """Why it does not go on: a phrase with the remedy."""
        if self._link.refusal is not None:
            return self._link.refusal
        if self._link.instance is None:
            start = f"one with {self._address.up}" if self._address.is_here else "it there"
            return f"no broker answers at {self._address.url}: start {start}, or name another with --connect"
        reasons = {linked.session.wait_reason for linked in self._link.streams.values()} - {None}
        return ", ".join(sorted(map(str, reasons))) or "the time is up"

    def report(self) -> DrainReport:
        orphans = self._link.orphans
        spools = [linked.spool for linked in self._link.streams.values()]
        return DrainReport(
            delivered_spools=orphans.drained_spools,
            delivered_events=orphans.drained_events + sum(spool.delivered_events for spool in spools),
            lost_events=orphans.lost_events + sum(spool.lost_events for spool in spools),
            known_events=orphans.drained_events + orphans.lost_events + sum(spool.known_events for spool in spools),
            left_spools=len(spools) + len(orphans.waiting) + len(orphans.unreadable) + len(orphans.held),
            held_spools=len(orphans.held),
            unreadable=[str(path) for path in sorted(orphans.unreadable)],
        )
