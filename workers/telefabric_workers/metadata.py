"""A run's metadata: each value encoded by itself, within their limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from telefabric import limits
from telefabric.errors import UsageError
from telefabric_schemas import values
from telefabric_schemas.events import NIL
from telefabric_workers.problems import Problem
from telefabric_workers.repair import raw, said, text


def as_mapping(metadata: Any) -> dict[Any, Any]:
    """A copy of the caller's metadata. Raises `UsageError` if it is not a mapping."""
    try:
        return {} if metadata is None else dict(metadata)
    except Exception:  # noqa: BLE001  whatever the caller's own object raises
        given = type(metadata).__name__
        raise UsageError(f"metadata is of type {given} and should be a mapping of names to values") from None


def encode_metadata(metadata: Mapping[Any, Any]) -> tuple[dict[str, msgspec.Raw], list[Problem]]:
    """Metadata by name, each value encoded; without what cannot be encoded or makes it too large."""
    problems: list[Problem] = []
    usable: dict[str, msgspec.Raw] = {}
    size = 0
    for key, value in metadata.items():
        name = f"a {type(key).__name__}"
        try:
            name = text(key)
        except Exception as error:  # noqa: BLE001  whatever the caller's own objects raise
            problems.append(Problem("metadata", name, said(error)))
            continue
        encoded, left = raw(value, f"metadata.{values.path_part(name)}")
        problems += left
        if left and encoded == NIL:
            continue
        grown = size + len(bytes(encoded)) + len(name) * 4
        if grown > limits.METADATA_BYTES_MAX:
            why = f"metadata is over {limits.METADATA_BYTES_MAX} bytes"
            problems.append(Problem("metadata", values.path_part(name), why))
            continue
        size = grown
        usable[name] = encoded
    return usable, problems


def introducing(metadata: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The part of the metadata that introduces a stream. A child's parent has sent the rest to the store."""
    found: dict[str, msgspec.Raw] = {}
    room = limits.METADATA_BYTES_MAX - 1_024
    for name, value in metadata.items():
        room -= len(bytes(value)) + len(name) * 4
        if room > 0:
            found[name] = value
    return found
