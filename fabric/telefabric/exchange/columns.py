"""The columns of each kind of event in a table, with their types in SQL."""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from telefabric.store.read.reader import KINDS, QUARANTINE
from telefabric_schemas import TOPICS

_TYPES: dict[Any, str] = {
    int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN", str: "VARCHAR", bytes: "BLOB", msgspec.Raw: "JSON",
}  # fmt: skip
_IDS = {"id": "BIGINT", "kind": "VARCHAR", "run_id": "VARCHAR", "worker_id": "VARCHAR", "stream_id": "VARCHAR"}
_QUARANTINED = {"last_seq": "BIGINT", "reason": "VARCHAR", "time_ns": "BIGINT", "detail": "VARCHAR"}


def _of_kind(kind: str) -> dict[str, str]:
    if kind == QUARANTINE:
        return {**_IDS, "seq": "BIGINT", **_QUARANTINED}
    hints = typing.get_type_hints(TOPICS[kind].event_type)
    fields = {name: next(iter(typing.get_args(hint)), hint) for name, hint in hints.items()}
    return _IDS | {name: _TYPES[plain] for name, plain in fields.items()}


COLUMNS = {kind: _of_kind(kind) for kind in KINDS}
"""Kind → column → type. A JSON column holds any value, in the form of `json_form`."""
