"""Files and folders that only their user may read, whatever the process's umask allows others."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Unless it is there. Its parents are as the umask says. Raises `OSError`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_own_folder(folder: Path) -> bool:
    """Make it where everybody may make folders; False when another user was there first. Raises `OSError`."""
    make_folder(folder)
    if not is_own(folder):
        return False
    if not is_private(folder):
        folder.chmod(0o700)  # versions before this one made it as the umask said
    return True


def is_own(path: Path) -> bool:
    """It belongs to this user. Raises `OSError`."""
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()


def write(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Raises `OSError`."""
    with open(path, "wb", opener=_private) as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def replace(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write by rename: a reader sees the old file or the new one. It belongs to the owner of its folder, so that a
    service can read what its administrator wrote. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary, data, sync=sync)
        _give(temporary, path.parent.stat())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def give_to_owner_of_parent(folder: Path) -> None:
    """Raises `OSError`."""
    _give(folder, folder.parent.stat())


def _give(path: Path, like: os.stat_result) -> None:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        os.chown(path, like.st_uid, like.st_gid)


def is_private(path: Path) -> bool:
    """Nobody but its owner may read or write it. Raises `OSError`."""
    return os.name != "posix" or not path.stat().st_mode & 0o077


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
