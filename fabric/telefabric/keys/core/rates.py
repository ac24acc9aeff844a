"""How much each key may send in a second, so that one that is stolen or runs wild leaves room for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from telefabric import limits
from telefabric.keys.core.roles import Domain


class Rate(NamedTuple):
    """The limits of one key: messages and bytes in a second."""

    messages: int
    size: int
    """In bytes; one message may always come."""


_BATCHES = Rate(limits.BATCHES_OF_KEY_A_SECOND, limits.BATCHES_OF_KEY_BYTES_A_SECOND)
_WORDS = Rate(limits.WORDS_OF_KEY_A_SECOND, limits.WORDS_OF_KEY_BYTES_A_SECOND)
RATES: Mapping[Domain, Rate] = {
    Domain.CONTROL: _WORDS, Domain.QUERY: _WORDS, Domain.DATA: _BATCHES, Domain.LIVE: _BATCHES,
}  # fmt: skip


class Rates:
    """Counts what each key sends to the sockets of one service. Times are monotonic nanoseconds."""

    def __init__(self) -> None:
        self._messages: Counter[tuple[str, Domain]] = Counter()
        self._bytes: Counter[tuple[str, Domain]] = Counter()
        self._since_ns = 0

    def grants(self, name: str, domain: Domain, size: int, now_ns: int) -> bool:
        """Whether this key may send one more message of this size now."""
        if now_ns - self._since_ns >= limits.NS:
            self._since_ns = now_ns
            self._messages.clear()
            self._bytes.clear()
        key, rate = (name, domain), RATES[domain]
        used = self._bytes[key]
        if self._messages[key] >= rate.messages or (used and used + size > rate.size):
            return False
        self._messages[key] += 1
        self._bytes[key] = used + size
        return True
