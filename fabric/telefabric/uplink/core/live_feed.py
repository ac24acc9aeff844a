"""The worker's side of the live path: the newest events of one stream, by kind, numbered, while somebody watches.

Events are numbered per kind from the moment a run is watched. What is not sent (too far behind, a full pipe) is
numbered too and reported in an ``overflow`` event before the next batch, so that every receiver's sum is exact.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

from telefabric import limits


class KindBatch(NamedTuple):
    """A live batch to send: the records of events of one kind."""

    kind: str
    first_seq: int
    last_seq: int
    events: int
    counter: int
    body: bytes


class Skip(NamedTuple):
    """Events of one kind that were numbered up to `reached` and not sent."""

    kind: str
    reason: str
    events: int
    reached: int


class LiveFeed:
    """One stream's live feed. Not thread-safe: the link's thread owns it."""

    def __init__(self) -> None:
        self.watched = False
        self.pictures = False
        """Whether a live subscriber wants pictures."""
        self.cursor = 1
        """The next seq to look at."""
        self.counters: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        """All events ever skipped, by reason."""
        self.waiting: deque[KindBatch] = deque()
        """Numbered, and not yet taken by the pipe; nothing is sorted or skipped before they are."""
        self._untold: dict[tuple[str, str], Skip] = {}

    def watch(self, watched: bool, head: int, *, pictures: bool = False) -> None:
        """Whether somebody watches from now on. A new watcher gets what is emitted after `head`."""
        self.pictures = pictures
        if watched and not self.watched:
            self.cursor = head + 1
            self._untold.clear()
            self.waiting.clear()
        self.watched = watched

    @property
    def numbered(self) -> int:
        """The newest number over all kinds; 0 while the stream is not watched."""
        return sum(self.counters.values()) if self.watched else 0

    def behind(self, head: int) -> bool:
        """So far behind that the older part is better skipped: live is what is new."""
        return head - self.cursor >= limits.LIVE_BEHIND_EVENTS_MAX

    def sort(self, first_seq: int, kinds_and_records: Iterable[tuple[str, bytes]]) -> list[KindBatch]:
        """Consecutive events from `first_seq` on, as batches by kind; numbers them and moves the cursor past them."""
        of_kind: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for seq, (kind, record) in enumerate(kinds_and_records, first_seq):
            of_kind[kind].append((seq, record))
        self.cursor = first_seq + sum(map(len, of_kind.values()))
        return [self._number(kind, numbered) for kind, numbered in of_kind.items()]

    def skip(self, batch: KindBatch, reason: str) -> None:
        """A batch was not sent."""
        self.skipped[reason] += batch.events
        before = self._untold.pop((batch.kind, reason), None)
        events = batch.events + (before.events if before else 0)
        self._untold[batch.kind, reason] = Skip(batch.kind, reason, events, batch.counter)

    def untold(self) -> list[Skip]:
        """Skipped events not yet reported to receivers, of each kind in order; call `told` when they have been."""
        return list(self._untold.values())

    def told(self, skip: Skip) -> None:
        self._untold.pop((skip.kind, skip.reason), None)

    def next_number(self, kind: str) -> int:
        """Number an event that is live only."""
        self.counters[kind] += 1
        return self.counters[kind]

    def unsent(self, kind: str) -> None:
        """The event that was just numbered was not sent and need not be: the next one gets its number."""
        self.counters[kind] -= 1

    def _number(self, kind: str, numbered: list[tuple[int, bytes]]) -> KindBatch:
        self.counters[kind] += len(numbered)
        body = b"".join([record for _, record in numbered])
        return KindBatch(kind, numbered[0][0], numbered[-1][0], len(numbered), self.counters[kind], body)
