"""Where rings are, and the manifest by which people and readers find one.

BASE/telefabric-UID/NAME/      0700; NAME is made of run, agent and worker
    lock                       held by the writer while it lives
    manifest.json              for discovery; a reader believes only the ring's own start
    ring.GENERATION            the frames
    bell/                      a socket of each reader that wants to be woken
    stats.json                 the writer's counters, about once a second
    reader/                    the counters of each reader that goes on for a while, about once a second
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from telefabric.errors import EnvironmentProblem
from telefabric.files import private as privatefile
from telefabric.settings import runtime_folder

MANIFEST, LOCK, STATS, BELLS, READERS = "manifest.json", "lock", "stats.json", "bell", "reader"
_MANIFEST_BYTES_MAX = 64 * 1024


class Name(msgspec.Struct, frozen=True):
    """The run, agent and worker of the frames in a ring."""

    run_id: str
    agent_id: str
    worker_id: str


class Manifest(msgspec.Struct, frozen=True):
    """manifest.json. `generation` names the ring file; 0 before the first frame."""

    format: str
    name: Name
    generation: int
    slots: int
    capacity: int
    fps_max: float
    pid: int
    host: str
    created_ns: int

    @property
    def file_name(self) -> str:
        return f"ring.{self.generation:016x}"


FORMAT = "telefabric ring 1"


def make_folder(folder: Path) -> None:
    """Make the folder with its parents, for this user only. Raises `EnvironmentProblem`."""
    try:
        if not privatefile.make_own_folder(folder.parent):
            raise EnvironmentProblem(
                f"{folder.parent} belongs to another user: name another folder with TELEFABRIC_RING"
            )
        privatefile.make_folder(folder)
    except OSError as error:
        raise no_ring(folder, error) from None


def no_ring(folder: Path, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"no frame ring can be made in {folder}: {error.strerror}: name another folder with TELEFABRIC_RING"
    )


def folder_names(name: Name) -> Iterator[str]:
    """Short ones, since socket paths are: the first for the usual case, others while that is somebody's."""
    digest = hashlib.sha256("\0".join((name.run_id, name.agent_id, name.worker_id)).encode()).hexdigest()[:16]
    yield digest
    for number in range(2, 100):
        yield f"{digest}-{number}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """At one stroke. The generation as in the file's name: readers of JSON in other languages round large numbers."""
    write_json(folder / MANIFEST, {**msgspec.structs.asdict(manifest), "generation": f"{manifest.generation:016x}"})


def write_json(path: Path, value: Any) -> None:
    """At one stroke. Raises `OSError`."""
    making = path.with_name(f".{path.name}.{os.getpid()}")
    privatefile.write(making, msgspec.json.encode(value))
    os.replace(making, path)


def read_manifest(folder: Path) -> Manifest | None:
    """None without a manifest, or if this version cannot read it."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            told = msgspec.json.decode(file.read(_MANIFEST_BYTES_MAX), type=dict[str, Any])
        generation = told.get("generation")
        if isinstance(generation, str):  # a number in versions before this one
            told["generation"] = int(generation, 16)
        found = msgspec.convert(told, Manifest)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return None
    return found if found.format == FORMAT and 0 <= found.generation < 2**64 else None


def ring_folders(base: Path | None = None) -> list[Path]:
    """All of this user, oldest name first; none when there are none."""
    folder = runtime_folder(base)
    try:
        mine = privatefile.is_own(folder)
        return sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink()) if mine else []
    except OSError:
        return []
