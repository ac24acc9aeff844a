"""The broker's wall clock as a peer sees it, from the middle of a round trip (as NTP does)."""

from __future__ import annotations

from typing import NamedTuple

from telefabric.wire import control

_ROUND_TRIP_NS_MAX = 60_000_000_000
"""A later answer does not belong to a heartbeat of this connection."""


class Clock(NamedTuple):
    offset_ns: int
    """How far the broker's wall clock is ahead."""
    round_trip_ns: int


def clock_of(message: control.Alive, now_ns: int, wall_ns: int) -> Clock | None:
    """None if the answer is absurd: a heartbeat could not encode it."""
    round_trip_ns = now_ns - message.echo_ns
    if not 0 <= round_trip_ns <= _ROUND_TRIP_NS_MAX or not 0 <= message.broker_ns <= control.COUNT_MAX:
        return None
    return Clock(message.broker_ns - (wall_ns - round_trip_ns // 2), round_trip_ns)
