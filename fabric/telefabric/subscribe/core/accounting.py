"""The receiver's account of the live path: received + dropped + lost in transit = newest number seen, at any moment.

Twice over: by the numbers that the broker gives each delivery to this subscriber, and by the numbers that each source
gives the events of each kind. Drops are those that a part reported with their reason; what is then still missing no
part reported (a killed process, a cut connection), and it is lost in transit between the two that know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from telefabric import limits
from telefabric.wire.batch import SEQ_MAX
from telefabric.wire.delivery import Delivery
from telefabric_schemas import TOPICS

SOURCES_MAX = limits.STREAMS_KNOWN_MAX * len(TOPICS)
OTHER_REASON = "other"
_RESUMED_S = 3
_REASONS_MAX = 32
_REASON_LENGTH_MAX = 64


@dataclass(slots=True)
class Account:
    """One numbered sequence as its receiver sees it, from the first word of it on."""

    before: int | None = None
    """The number before the first one that counts here; None until there was a word."""
    newest: int = 0
    """How many were numbered since, as far as is known."""
    received: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Events by reason, as their dropper reported."""
    resumed: int = 0
    """For this many seconds, skipped numbers are not a loss: they were not asked for."""

    @property
    def lost_in_transit(self) -> int:
        return self.newest - self.received - sum(self.dropped.values())

    def reach(self, number: int, events: int = 0) -> int:
        """Note that `number` was seen, and that `events` up to it have just been counted as received or dropped.

        A source that begins to number again gives less than is accounted for: its account goes on from there. Returns
        how many more are numbered now.
        """
        newest = self.newest
        accounted = self.received + sum(self.dropped.values())
        if self.before is None or self.resumed or accounted > max(self.newest, number - self.before):
            self.before = number - events - self.newest
        self.newest = max(self.newest, number - self.before)
        return self.newest - newest


class Lost(NamedTuple):
    """Events that no part reported, by hop."""

    to_broker: int
    to_client: int


class Ledger:
    """All accounts of one subscription to these kinds (None: all). A new subscription begins with `renew`.

    For a delivery, call `delivered` for its drops, then `batch` for its batch, then the methods for its events.
    """

    def __init__(self, kinds: Iterable[str] | None = None) -> None:
        self.broker_hop = Account(before=0)
        self.sources: dict[tuple[bytes, str], Account] = {}
        self.dropped: Counter[str] = Counter()
        """All reported drops of this subscription, by reason."""
        self._kinds = None if kinds is None else frozenset(kinds)
        self._resumed: list[Account] = []
        self._lost = 0
        """The sum over all sources, also forgotten ones; updated with each change, as it is read after each message."""

    def delivered(self, delivery: Delivery, events: int) -> None:
        """Count a delivery with its events; 0 for a tick."""
        hop = self.broker_hop
        hop.received += events
        reached: dict[tuple[bytes, str], tuple[Account, int, int]] = {}
        for drop in delivery.drops:
            reason = self._reason(drop.reason)
            hop.dropped[reason] += drop.events
            self.dropped[reason] += drop.events
            if drop.kind:
                named = drop.stream, drop.kind
                source, number, before = reached.get(named) or (self._source(*named), 0, 0)
                source.dropped[reason] += drop.events
                self._lost -= drop.events
                reached[named] = (source, max(number, drop.reached), before + drop.events)
        for source, number, dropped in reached.values():
            self._lost += source.reach(number, dropped)
        hop.reach(delivery.number)

    def batch(self, stream: bytes, kind: str, counter: int, events: int) -> None:
        """A batch of a source, numbered up to `counter`."""
        source = self._source(stream, kind)
        source.received += events
        self._lost += source.reach(counter, events) - events

    def ticked(self, stream: bytes, counters: Iterable[tuple[str, int]]) -> None:
        """A source's own tick: its newest number of each kind, so that a lost tail is seen too."""
        for kind, counter in counters:
            if self._wants(kind) and 0 <= counter <= SEQ_MAX:
                self._lost += self._source(stream, kind).reach(counter)

    def overflowed(self, stream: bytes, kind: str, reason: str, events: int, counter: int) -> None:
        """The source itself dropped events, the last of them numbered `counter`. What cannot be is ignored."""
        if self._wants(kind) and 0 <= events <= counter <= SEQ_MAX:
            source, reason = self._source(stream, kind), self._reason(reason)
            source.dropped[reason] += events
            self.dropped[reason] += events
            self._lost += source.reach(counter, events) - events

    def by_stream(self) -> dict[bytes, list[Account]]:
        """The accounts of the kinds of each stream."""
        found: dict[bytes, list[Account]] = {}
        for (stream, _), account in self.sources.items():
            found.setdefault(stream, []).append(account)
        return found

    def forget(self, stream: bytes) -> None:
        """The stream is not wanted any more; its losses stay counted; its account begins again later."""
        for source in [source for source in self.sources if source[0] == stream]:
            del self.sources[source]

    @property
    def lost_in_transit(self) -> Lost:
        """Events that the sources numbered and no report accounts for, and how many of them the broker had."""
        to_client = self.broker_hop.lost_in_transit
        return Lost(max(self._lost - to_client, 0), to_client)

    def resume(self, streams: Container[bytes]) -> None:
        """Another choice of runs holds from now on: what these streams number meanwhile is for nobody.

        A source goes on for a moment after it was asked to end, and its numbers with it; what it had sent by then may
        arrive when it has been asked again. So this holds for some calls of `settle`.
        """
        for (stream, _), source in self.sources.items():
            if stream in streams and source.before is not None:
                if not source.resumed:
                    self._resumed.append(source)
                source.resumed = _RESUMED_S

    def settle(self) -> None:
        """Call it once a second."""
        for source in self._resumed:
            source.resumed -= 1
        self._resumed = [source for source in self._resumed if source.resumed]

    def renew(self) -> None:
        """Begin a new subscription, whose numbers begin again. The sources continue: events under way are lost."""
        self.broker_hop = Account(before=0)

    def _wants(self, kind: str) -> bool:
        return self._kinds is None or kind in self._kinds

    def _source(self, stream: bytes, kind: str) -> Account:
        """The account of a source; beyond the limit one that nobody keeps, which loses nothing."""
        found = self.sources.get((stream, kind))
        if found is None:
            found = Account()
            if len(self.sources) < SOURCES_MAX and len(kind) <= limits.NAME_BYTES_MAX:
                self.sources[stream, kind] = found
        return found

    def _reason(self, reason: str) -> str:
        """The reason as reported; beyond a number of reasons, and for a long one, `other`."""
        if reason in self.dropped or (len(self.dropped) < _REASONS_MAX and len(reason) <= _REASON_LENGTH_MAX):
            return reason
        return OTHER_REASON
