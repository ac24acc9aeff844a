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
