"""Which rings there are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from telefabric.ring import places
from telefabric.ring.places import Manifest
from telefabric.ring.reader import RingReader


class RingInfo(NamedTuple):
    """One ring of this user."""

    folder: Path
    manifest: Manifest
    state: str
    """As `RingReader.state` says."""


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
