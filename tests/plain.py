"""Events as plain values, to be compared in tests: a dict for each, with its kind, without times and versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from telefabric import limits
from telefabric.wire import records
from telefabric_schemas import decode_event, values
from telefabric_workers import Worker

_OF_ITS_TIME = ("time_ns", "mono_ns", "payload_version", "seq")


def plain(event: bytes) -> dict[str, Any]:
    """Arrays are lists, and tuples too."""
    found = msgspec.structs.asdict(decode_event(event))
    kept = {name: _plain(value) for name, value in found.items() if name not in _OF_ITS_TIME}
    return {"kind": str(msgspec.msgpack.decode(event)[0]), **kept}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        value = values.decode(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def spooled(worker: Worker, *kinds: str) -> list[dict[str, Any]]:
    """The events of these kinds in the worker's spool, from the first one; the worker is one without a broker."""
    chunk = worker._outbox.spool.read(1, limits.SEGMENT_BYTES)  # type: ignore[attr-defined]
    assert (chunk.first_seq, chunk.last_seq) == (1, worker.emitted)
    found = [plain(bytes(chunk.body[start:end])) for start, end in records.spans(chunk.body, worker.emitted)]
    return [event for event in found if event["kind"] in kinds]


def only(events: Iterable[dict[str, Any]], kind: str, *names: str) -> list[tuple[Any, ...]]:
    """Some fields of the events of a kind."""
    return [tuple(event[name] for name in names) for event in events if event["kind"] == kind]
