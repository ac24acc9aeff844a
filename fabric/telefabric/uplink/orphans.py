"""Spools that dead workers left on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from telefabric import limits
from telefabric.errors import SpoolError
from telefabric.files.lock import FileLock
from telefabric.log.limit import library_logger
from telefabric.spool import Spool, fabrics_in, parent_in
from telefabric.uplink.core.stream import admits
from telefabric.uplink.linked_stream import LinkedStream

log = library_logger("telefabric.link")

_SCAN_S = 5.0
_STREAM_ID = re.compile("[0-9a-f]{32}")


class Orphans:
    """Spools under a root whose owner is gone, taken over a few at a time."""

    def __init__(self, root: Path) -> None:
        self.waiting: list[Path] = []
        self.unreadable: set[Path] = set()
        self.held: set[Path] = set()
        """Those that belong to other stores than `fabric`."""
        self.fabric: bytes | None = None
        """The store of the broker that they would be delivered to."""
        self.scanned = False
        self.drained_spools = 0
        self.drained_events = 0
        self.lost_events = 0
        """Delivered events that no spool held any more: each is in a gap."""
        self._root = root
        self._scan_due_ns = 0
        self._parents: dict[Path, bytes | None] = {}
        """The stream that each spool's stream helps, as its folder says."""

    def next(self, carried: dict[bytes, LinkedStream], now_ns: int) -> list[Spool]:
        """Spools to drain now."""
        free = limits.ORPHANS_AT_ONCE - sum(linked.adopted for linked in carried.values())
        if free <= 0:
            return []
        if not self.waiting and now_ns >= self._scan_due_ns:
            self._scan_due_ns = now_ns + int(_SCAN_S * limits.NS)
            self.waiting = self._look()
            self.held.clear()
        found: list[Spool] = []
        for _ in range(min(limits.ORPHANS_TRIED_A_TURN, len(self.waiting))):
            spool = None if self._is_held(self.waiting[-1], carried) else self._try(self.waiting[-1])
            if spool is not None:
                found.append(spool)
            self.waiting.pop()
            if len(found) == free:
                break
        return found

    def left(self, carried: dict[bytes, LinkedStream]) -> int:
        """The number of left spools: draining, waiting or unreadable; at most as many as one turn finds."""
        waiting = self.waiting[-limits.ORPHANS_TRIED_A_TURN :]
        dead = sum(not FileLock.is_elsewhere(one / "lock") for one in waiting if bytes.fromhex(one.name) not in carried)
        return sum(linked.adopted for linked in carried.values()) + len(self.unreadable) + len(self.held) + dead

    def hurry(self) -> None:
        """Look again at the next turn. Any thread."""
        self._scan_due_ns = 0

    def left_by_helpers(self, parent: bytes) -> list[Path]:
        """Spools of streams that help this one and that nobody else holds: their process has ended. Any thread.

        Those that this process drains are among them. Streams that help a helper count, too.
        """
        folders = self._look()
        known = self._parents
        self._parents = {one: known[one] if one in known else parent_in(one) for one in folders}
        found: list[Path] = []
        waiting = {parent}
        while waiting:
            helpers = [one for one in folders if self._parents[one] in waiting]
            waiting = {bytes.fromhex(one.name) for one in helpers}
            found += helpers
        return [one for one in found if not FileLock.is_elsewhere(one / "lock") and not (one / "closed").exists()]

    def _look(self) -> list[Path]:
        try:
            return orphan_candidates(self._root)
        except SpoolError as error:
            if self._root not in self.unreadable:
                self.unreadable.add(self._root)
                log.warning("spool.unreadable: %s", error)
            return []

    def drained(self, spool: Spool) -> None:
        self.drained_spools += 1
        self.drained_events += spool.delivered_events
        self.lost_events += spool.lost_events

    def _is_held(self, directory: Path, carried: dict[bytes, LinkedStream]) -> bool:
        if admits(fabrics_in(directory), self.fabric) or (directory / "closed").exists():
            return False
        if bytes.fromhex(directory.name) not in carried and not FileLock.is_elsewhere(directory / "lock"):
            self.held.add(directory)
        return True

    def _try(self, directory: Path) -> Spool | None:
        if directory in self.unreadable:
            return None
        try:
            return Spool.adopt(directory)
        except SpoolError as error:
            self.unreadable.add(directory)
            log.warning("spool.unreadable: %s", error)
            return None


def orphan_candidates(root: Path) -> list[Path]:
    """Spool directories under a root, newest last; whether their owners live only the lock tells.

    Raises `SpoolError` when the root cannot be read.
    """
    try:
        return sorted(path for path in root.iterdir() if _STREAM_ID.fullmatch(path.name) and path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SpoolError(f"{root} is not a folder of spools: {error.strerror}: name another with --spool") from None
