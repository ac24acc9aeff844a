"""Event types of Telefabric, their topic table, and the values inside them."""

from telefabric_schemas.events import (
    EXPIRED,
    STORED,
    AnyEvent,
    Control,
    Episode,
    Event,
    Frame,
    Gap,
    Log,
    Metric,
    Overflow,
    RunCompleted,
    RunHeartbeat,
    RunMetadata,
    RunStarted,
    Step,
)
from telefabric_schemas.topics import DURABLE_KINDS, LIVE_ONLY_KINDS, TOPICS, Topic

__all__ = [
    "DURABLE_KINDS",
    "EXPIRED",
    "LIVE_ONLY_KINDS",
    "STORED",
    "TOPICS",
    "AnyEvent",
    "Control",
    "Episode",
    "Event",
    "Frame",
    "Gap",
    "Log",
    "Metric",
    "Overflow",
    "RunCompleted",
    "RunHeartbeat",
    "RunMetadata",
    "RunStarted",
    "Step",
    "Topic",
]
