"""Queue policies: what a live subscriber asks for, and the names by which a user writes one.

The presets weigh how old an event may be against how many are let go when a client falls behind.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from telefabric import limits

DROP_OLDEST, LATEST_PER_KEY, SAMPLE = "drop_oldest", "latest_per_key", "sample"
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class QueuePolicy(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a subscriber's queue in the broker behaves. Asked for in WATCH; WATCHING says what was granted.

    In every mode the oldest goes first when there are too many, or when its age is over the limit.
    """

    events_max: Count = limits.LIVE_QUEUE_EVENTS
    age_ms_max: Count = limits.LIVE_QUEUE_AGE_MS
    mode: str = DROP_OLDEST
    """Events that are left out before that: none (``drop_oldest``), all but the newest of each stream, kind, agent,
    environment and series (``latest_per_key``), or all but one in `every` of each stream and kind (``sample``)."""
    every: Count = 1


PRESETS = {
    "low-latency": QueuePolicy(2_000, 500),
    "balanced": QueuePolicy(),
    "high-rate": QueuePolicy(200_000, 60_000),
}
"""low-latency: nothing older than half a second, for what is steered by eye; high-rate: everything of a burst of a
minute, for what is counted or written elsewhere; balanced: four seconds of a fast run, ten at most."""

FORMS = f"{', '.join(PRESETS)}, latest, sample:N, or drop_oldest:EVENTS:SECONDS"


def parse_policy(text: str) -> QueuePolicy:
    """The policy that a text names. Raises `ValueError` with the forms that there are."""
    if text in PRESETS:
        return PRESETS[text]
    name, *numbers = text.replace("-", "_").split(":")
    match name, [_number(one) for one in numbers]:
        case (("latest" | "latest_per_key"), []):
            return QueuePolicy(mode=LATEST_PER_KEY)
        case "sample", [every] if 1 <= every <= limits.LIVE_SAMPLE_MAX and every.is_integer():
            return QueuePolicy(mode=SAMPLE, every=int(every))
        case "drop_oldest", [events, age_s] if (
            1 <= events <= limits.LIVE_QUEUE_EVENTS_MAX
            and events.is_integer()
            and 0.001 <= age_s <= limits.LIVE_QUEUE_AGE_MS_MAX / 1_000
        ):
            return QueuePolicy(int(events), int(age_s * 1_000), DROP_OLDEST)
    raise ValueError(FORMS)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(FORMS) from None
