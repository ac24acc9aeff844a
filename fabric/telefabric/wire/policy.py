"""Queue policies by name: what a user writes for one, and what it means.

The presets weigh how old an event may be against how many are let go when a client falls behind.
"""

from __future__ import annotations

from telefabric import limits
from telefabric.wire.live import DROP_OLDEST, LATEST_PER_KEY, SAMPLE, QueuePolicy

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
