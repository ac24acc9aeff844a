"""Finds the rings of this user on this machine."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from telefabric import limits
from telefabric.files.lock import FileLock
from telefabric.ring import places
from telefabric.ring.places import Manifest
from telefabric.ring.reader import RingReader


class RingInfo(NamedTuple):
    """One ring of this user."""

    folder: Path
    manifest: Manifest
    state: str
    """One of the states of `RingReader.state`."""


def rings_of(run_id: str, agent_id: str, base: Path | None = None, *, worker_id: str | None = None) -> list[Path]:
    """The folders of the rings of one agent of one run, of one worker or of all, newest first.

    Looks at the manifests alone.
    """
    found = []
    for folder in places.ring_folders(base):
        manifest = places.read_manifest(folder)
        if manifest is None or worker_id not in (None, manifest.name.worker_id):
            continue
        if (manifest.name.run_id, manifest.name.agent_id) == (run_id, agent_id):
            found.append((manifest.created_ns, folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def discover(base: Path | None = None) -> list[RingInfo]:
    """All rings with a manifest that this version reads, oldest first."""
    found = []
    for folder in places.ring_folders(base):
        manifest = places.read_manifest(folder)
        if manifest is not None:
            reader = RingReader(folder)
            found.append(RingInfo(folder, manifest, reader.state))
            reader.close()
    return sorted(found, key=lambda one: one.manifest.created_ns)


_OURS = (places.MANIFEST, places.STATS, places.LOCK, places.BELLS, places.READERS)


class Cleared(NamedTuple):
    folder: Path
    bytes: int


def collect_garbage(base: Path | None = None, *, grace_s: float = limits.RING_GRACE_S) -> list[Cleared]:
    """Remove the rings that nobody writes any more and that have not changed for `grace_s`; what went.

    A folder whose lock is held is somebody's, whatever else it looks like. Never another user's, nor a folder that
    holds a file that does not belong to a ring.
    """
    cleared = []
    for folder in places.ring_folders(base):
        with contextlib.suppress(OSError):
            if time.time() - _changed_s(folder) < grace_s or not all(map(_is_ours, folder.iterdir())):
                continue
            lock = FileLock.take(folder / places.LOCK)
            if lock is None:
                continue
            try:
                size = sum(path.stat().st_size for path in folder.glob("ring.*"))
                shutil.rmtree(folder)
                cleared.append(Cleared(folder, size))
            finally:
                lock.release()
    return cleared


def _changed_s(folder: Path) -> float:
    """Wall clock; a map that is written to changes no file's time, but the statistics are written each second."""
    return max(path.stat().st_mtime for path in (folder, *folder.glob("*.json")))


def _is_ours(path: Path) -> bool:
    return path.name in _OURS or path.name.startswith(("ring.", ".manifest.json.", ".stats.json."))
