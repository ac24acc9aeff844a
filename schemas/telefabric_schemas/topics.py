"""The one table of event kinds: what each is for, how often it comes, and what is dropped first.

All else (durable or live, queue limits, drop order, tests, documentation) is derived from this table.
"""

from __future__ import annotations

from typing import NamedTuple

from telefabric_schemas import events


class Topic(NamedTuple):
    """One kind of event."""

    kind: str
    event_type: type[events.Event]
    durable: bool
    """Spooled, acknowledged and stored; otherwise live only."""
    rate_hz: float
    """Expected rate of a busy run, for sizing; not a limit."""
    live_queue_events: int
    """How many a live subscriber's queue holds before it drops."""
    drop_order: int
    """Kinds with a lower number are dropped first."""
    thinned: bool = False
    """A policy that thins out (``sample``, ``latest_per_key``) thins out these; of the others each event counts."""


TOPICS: dict[str, Topic] = {
    topic.kind: topic
    for topic in (
        Topic("frame", events.Frame, True, 30.0, 4, 0, thinned=True),
        Topic("step", events.Step, True, 5_000.0, 20_000, 1, thinned=True),
        Topic("metric", events.Metric, True, 100.0, 5_000, 2, thinned=True),
        Topic("log", events.Log, True, 10.0, 5_000, 2),
        Topic("reset", events.Reset, True, 10.0, 5_000, 3),
        Topic("episode", events.Episode, True, 10.0, 5_000, 3),
        Topic("episode_voided", events.EpisodeVoided, True, 0.01, 1_000, 3),
        Topic("run_heartbeat", events.RunHeartbeat, False, 1.0, 100, 4),
        Topic("gap", events.Gap, True, 0.01, 1_000, 5),
        Topic("overflow", events.Overflow, False, 1.0, 1_000, 5),
        Topic("control", events.Control, False, 1.0, 1_000, 5),
        Topic("run_started", events.RunStarted, True, 0.01, 1_000, 6),
        Topic("run_metadata", events.RunMetadata, True, 0.01, 1_000, 6),
        Topic("run_completed", events.RunCompleted, True, 0.01, 1_000, 6),
    )
}

DURABLE_KINDS = frozenset(kind for kind, topic in TOPICS.items() if topic.durable)
LIVE_ONLY_KINDS = frozenset(TOPICS) - DURABLE_KINDS
