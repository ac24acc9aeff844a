"""What brokers say of refused messages and rewinds, added up over their lives."""

from __future__ import annotations

from collections import Counter
from typing import Any

from telefabric.address import Address
from telefabric.peer.requests import ask_status

_ANSWER_S = 10.0


class Witness:
    """Ask it before a broker is killed: what that one has counted goes with it."""

    def __init__(self, broker: Address) -> None:
        self._broker = broker
        self._refused: dict[bytes, Counter[str]] = {}
        self._rewinds: Counter[tuple[bytes, str]] = Counter()

    def look(self) -> int:
        """All refusals and rewinds so far. Raises `telefabric.errors.Unreachable`."""
        reply = ask_status(self._broker, _ANSWER_S)
        self._refused[reply.instance] = Counter(reply.status["dropped"])
        for stream in reply.status["streams"]:
            self._rewinds[reply.instance, stream["stream_id"]] = stream["rewinds"]
        return self._rewinds.total() + sum(refused.total() for refused in self._refused.values())

    def report(self) -> dict[str, Any]:
        refused = sum(self._refused.values(), Counter())
        return {"brokers": len(self._refused), "rewinds": self._rewinds.total(), "refused": dict(refused)}
