"""Puts written data on the disk, so that it survives a power loss."""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Bring a file, with what was written to its mappings, or a folder's entries to the disk. Raises `OSError`."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot, and its file systems write entries in order
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
