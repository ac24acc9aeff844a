"""The numbers of an event, as tools for curves take them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from telefabric.exchange.writer import Writer
from telefabric.store.read.query import StoredEvent
from telefabric_schemas import Episode, Metric, Step
from telefabric_schemas.decoding import event_of

KINDS = ("episode", "metric", "step")


class Scalar(NamedTuple):
    """One point of a curve."""

    name: str
    value: float
    step: int | None
    """The global step; None when the event has none."""
    time_ns: int


def scalars(row: StoredEvent, writer: Writer) -> Iterator[Scalar]:
    """A metric under its name, `episode/return`, `episode/length` and `step/reward`; counted in `writer`."""
    left_out = writer.left_out
    event = event_of(row.event)
    match event:
        case Metric():
            found = {event.name: event.value}
        case Episode():
            found = {"episode/return": event.total_reward, "episode/length": event.length}
        case Step():
            found = {"step/reward": event.reward}
        case _:
            left_out["events that cannot be read"] += 1
            return
    writer.written[row.kind] += 1
    for name, value in found.items():
        if value is None:
            left_out["values that are null"] += 1
        else:
            yield Scalar(name, value, event.global_step, event.time_ns)
