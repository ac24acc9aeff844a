"""Which mistakes of peers a broker answers, and which of them its status still names.

Whoever floods it with nonsense gets few answers, and all floods together get not many more. An answer is short, so that
nobody can use a broker to send a third party more than was sent to it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from telefabric import limits
from telefabric.errors import WireError
from telefabric.peer.core.principal import Peer
from telefabric.wire import control
from telefabric.wire.names import cut

_SENTENCE_BYTES_MAX = limits.ERROR_BYTES_MAX // 2
_WORD_BYTES_MAX = 64
_SHOWN_BYTES = 4
"""Of a routing id: enough to tell peers apart, and no use to who would take a peer's place with it."""


class Quota:
    """Limits the answers in a second, to each peer and to all together."""

    def __init__(self, each: int = limits.ERRORS_A_SECOND, together: float = limits.ERRORS_OF_ALL_A_SECOND) -> None:
        self._each, self._together = each, together
        self._given: Counter[Hashable] = Counter()
        self._since_ns = 0

    def grants(self, peer: Hashable, now_ns: int) -> bool:
        """Whether this peer is answered once more now."""
        if now_ns - self._since_ns >= limits.NS:
            self._since_ns = now_ns
            self._given.clear()
        if self._given[peer] >= self._each or self._given.total() >= self._together:
            return False
        self._given[peer] += 1
        return True


@dataclass(slots=True)
class _Mistake:
    message: str
    told_ns: int
    times: int = 0
    """How often it was answered."""


class Mistakes:
    """Keeps the newest mistake of each kind. Times are monotonic nanoseconds."""

    def __init__(self, instance: bytes) -> None:
        self._instance = instance
        self._quota = Quota()
        self._kept: OrderedDict[tuple[Peer | None, str, str, str, str], _Mistake] = OrderedDict()

    def grants(self, peer: Peer | None, now_ns: int) -> bool:
        """Whether a mistake of this peer is looked at closer; it is counted anyhow."""
        return self._quota.grants(peer, now_ns)

    def note(self, peer: Peer | None, name: str, error: WireError, now_ns: int) -> control.Error:
        """Remember a mistake that was looked at, of a peer that is known by some name; what to answer."""
        reason, message = cut(error.reason, _WORD_BYTES_MAX), cut(str(error), _SENTENCE_BYTES_MAX)
        field, about = cut(error.field, _WORD_BYTES_MAX), cut(error.about, _WORD_BYTES_MAX // 2)
        key = (peer, name, reason, field, about)
        kept = self._kept.setdefault(key, _Mistake(message, now_ns))
        self._kept.move_to_end(key)
        kept.message, kept.told_ns, kept.times = message, now_ns, kept.times + 1
        if len(self._kept) > limits.MISTAKES_KEPT:
            self._kept.popitem(last=False)
        return control.Error(self._instance, reason, message, field or None, about or None)

    def status(self, now_ns: int) -> list[dict[str, Any]]:
        """The newest first."""
        return [
            {
                "peer": peer.id[:_SHOWN_BYTES].hex() if peer else "",
                "name": name,
                "reason": reason,
                "field": field,
                "about": about,
                "message": kept.message,
                "times": kept.times,
                "ago_s": round((now_ns - kept.told_ns) / limits.NS, 3),
            }
            for (peer, name, reason, field, about), kept in reversed(self._kept.items())
        ]
