"""Files and folders that only their user may read, whatever the process's umask allows others."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Unless it is there. Its parents are as the umask says. Raises `OSError`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def write(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Raises `OSError`."""
    with open(path, "wb", opener=_private) as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
