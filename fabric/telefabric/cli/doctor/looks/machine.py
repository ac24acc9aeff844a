"""Looks at this machine: its limits, folders, disks and what workers left."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from telefabric.cli.doctor.verdicts.machine import FolderSeen, file_system_of
from telefabric.errors import SpoolError
from telefabric.filelock import FileLock
from telefabric.link import orphan_candidates


def look_at_open_files() -> tuple[int, int]:
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 30
    return soft if soft >= 0 else most, hard if hard >= 0 else most


def look_at_shm() -> int | None:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def look_at_folder(path: Path) -> FolderSeen:
    path = path.absolute()
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    error = ""
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as problem:
        error, free = problem.strerror or str(problem), 0
    try:
        mounts = Path("/proc/mounts").read_text()
    except OSError:
        mounts = ""
    return FolderSeen(path, error, free, file_system_of(there.resolve(), mounts))


def look_for_spools(root: Path) -> tuple[list[int], str]:
    """The bytes of each spool whose owner is gone; and why nobody can tell, if so."""
    try:
        return [_bytes(spool) for spool in orphan_candidates(root) if _is_left(spool)], ""
    except (SpoolError, OSError) as error:
        return [], str(error)


def _is_left(spool: Path) -> bool:
    if (spool / "closed").exists() or not (spool / "lock").exists():
        return False
    lock = FileLock.take(spool / "lock")
    if lock is None:
        return False
    lock.release()
    return True


def _bytes(folder: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in folder.iterdir())
