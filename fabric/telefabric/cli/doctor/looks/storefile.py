"""Looks at the store's file in the data folder."""

from __future__ import annotations

from pathlib import Path


def look_at_size(file: Path) -> int:
    """Its length; 0 when it is not there."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
