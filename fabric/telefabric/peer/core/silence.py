"""Whether a broker still answers: three heartbeats without a word, none of them while its hearer did something else."""

from __future__ import annotations

from telefabric import limits

_SILENT_NS = int(limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S * 1_000_000_000)


class Hearing:
    """The silence on one connection. A pause between two looks does not count as silence, as messages may be unread."""

    def __init__(self, now_ns: int) -> None:
        self._heard_ns = now_ns
        self._unanswered = 0

    def asked(self) -> None:
        """A heartbeat was sent, which the broker answers."""
        self._unanswered += 1

    def heard(self, now_ns: int) -> None:
        self._heard_ns = now_ns
        self._unanswered = 0

    def silent(self, now_ns: int) -> bool:
        """Ask when all that is at hand was taken."""
        return self._unanswered >= limits.MISSED_HEARTBEATS_MAX and now_ns - self._heard_ns > _SILENT_NS
