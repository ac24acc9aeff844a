"""The receiver's account of the live path: received + dropped + lost in transit = newest number seen, at any moment.

Twice over: by the numbers that the broker gives each delivery to this subscriber, and by the numbers that each source
gives the events of each kind. Drops are those that a part reported with their reason; what is then still missing no
part reported (a killed process, a cut connection), and it is lost in transit between the two that know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from telefabric.wire.live import Delivery


@dataclass(slots=True)
class Account:
    """One numbered sequence as its receiver sees it."""

    newest: int = 0
    received: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Events by reason, as their dropper reported."""

    @property
    def lost_in_transit(self) -> int:
        return self.newest - self.received - sum(self.dropped.values())


class Ledger:
    """All accounts of one subscription. A new subscription begins a new ledger; `total` sums ended ones up."""

    def __init__(self) -> None:
        self.broker_hop = Account()
        self.sources: dict[tuple[bytes, str], Account] = {}
        self._bases: dict[tuple[bytes, str], int] = {}

    def delivered(self, delivery: Delivery, events: int) -> None:
        """A delivery of so many events; 0 for a tick."""
        hop = self.broker_hop
        hop.newest = max(hop.newest, delivery.number)
        hop.received += events
        for drop in delivery.drops:
            hop.dropped[drop.reason] += drop.events
            source = self.sources.get((drop.stream, drop.kind))
            if source is not None:
                source.dropped[drop.reason] += drop.events

    def batch(self, stream: bytes, kind: str, counter: int, events: int) -> None:
        """A batch of a source, numbered up to `counter`. The first one seen sets where its account begins."""
        source = self._source(stream, kind, counter - events)
        source.received += events
        self._reach(stream, kind, source, counter)

    def ticked(self, stream: bytes, counters: Iterable[tuple[str, int]]) -> None:
        """A source's own tick: its newest number of each kind, so that a lost tail is seen too."""
        for kind, counter in counters:
            self._reach(stream, kind, self._source(stream, kind, counter), counter)

    def overflowed(self, stream: bytes, kind: str, reason: str, events: int, counter: int) -> None:
        """The source itself dropped events before it numbered up to `counter`."""
        source = self._source(stream, kind, counter - events)
        source.dropped[reason] += events
        self._reach(stream, kind, source, counter)

    @property
    def dropped(self) -> Counter[str]:
        """All reported drops of this subscription, by reason."""
        found: Counter[str] = Counter()
        for source in self.sources.values():
            found.update(source.dropped)
        return found

    def _source(self, stream: bytes, kind: str, before: int) -> Account:
        source = self.sources.get((stream, kind))
        if source is None:
            source = self.sources[stream, kind] = Account()
            self._bases[stream, kind] = before
        return source

    def _reach(self, stream: bytes, kind: str, source: Account, counter: int) -> None:
        source.newest = max(source.newest, counter - self._bases[stream, kind])
