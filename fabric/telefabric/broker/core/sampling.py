"""The part of a live batch that one subscriber gets, by its agents and its policy.

A batch that a subscriber gets whole, which is usual, is not opened. Another is opened once for all subscribers, and
packed again from the records that are left. A damaged batch is forwarded unchanged: its receiver judges it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec

from telefabric.errors import WireError
from telefabric.wire import batch, records, series
from telefabric.wire.policy import LATEST_PER_KEY, SAMPLE, QueuePolicy
from telefabric_schemas import TOPICS, AnyEvent

_SCATTER = 2_654_435_761
"""Knuth's multiplicative hash (The Art of Computer Programming, 6.4): scatters consecutive numbers evenly."""


class SubBatch(NamedTuple):
    """Some events of a batch, as a message."""

    events: int
    message: bytes
    key: Hashable = None
    """A newer part with the same key replaces this one; None: it is never replaced."""


Choice = tuple[Sequence[SubBatch], Counter[str]]
"""The parts, and the events that were left out, by reason."""


class LiveBatch:
    """One batch from a worker. Its checksum is looked at, and its body read, only when a subscriber's wish needs it."""

    def __init__(self, kind: str, header: batch.Header, message: bytes) -> None:
        self.kind = kind
        self.header = header
        self.message = message

    @cached_property
    def body(self) -> bytes:
        return batch.body_of(self.message)

    @cached_property
    def spans(self) -> list[records.Span] | None:
        """Where each event lies in the body; None when the batch is damaged."""
        try:
            batch.check_body(self.header, self.body)
            return records.spans(self.body, self.header.events)
        except WireError:
            return None

    @cached_property
    def keys(self) -> list[series.Key] | None:
        """The key of each event; None for kinds without keys, and if a key cannot be read."""
        return None if self.spans is None else series.keys_of(self.kind, self.body, self.header.events)

    def events(self) -> list[AnyEvent]:
        """All events, decoded; none when the batch is damaged or of a newer version."""
        if self.spans is None:
            return []
        try:
            return [record.event for record in batch.decode_body(self.body, self.header.events)]
        except msgspec.DecodeError:
            return []

    def part(self, places: Sequence[int], counter: int, key: Hashable = None) -> SubBatch:
        """The events at these places as a batch of their own."""
        assert self.spans is not None
        if len(places) == self.header.events and counter == self.header.counter:
            return SubBatch(self.header.events, self.message, key)
        found = (self.spans[place] for place in places)
        body = b"".join(self.body[start - records.PREFIX_BYTES : end] for start, end in found)
        header = self.header._replace(events=len(places), counter=counter)
        return SubBatch(len(places), batch.pack(header, body), key)


def choose(live: LiveBatch, agents: frozenset[str] | None, policy: QueuePolicy) -> Choice:
    """The parts of a batch for a subscriber with these agents (None: all) and this policy.

    The source's numbers only count, so what is left out takes the first ones of the batch, and the parts those behind.
    """
    thinned = live.kind in TOPICS and TOPICS[live.kind].thinned and policy.mode in (SAMPLE, LATEST_PER_KEY)
    if (agents is None and not thinned) or live.spans is None:
        return [SubBatch(live.header.events, live.message)], Counter()
    left_out: Counter[str] = Counter()
    places: Sequence[int] = range(live.header.events)
    if agents is not None and live.keys is not None:
        places = [place for place in places if live.keys[place].agent_id in agents]
        left_out["not_wanted"] = live.header.events - len(places)
    if thinned and policy.mode == SAMPLE:
        kept = _sampled(live.header, policy.every)
        wanted, places = len(places), [place for place in places if place in kept]
        left_out["sampled"] = wanted - len(places)
    if thinned and policy.mode == LATEST_PER_KEY:
        return _latest(live, places, left_out)
    return [live.part(places, live.header.counter)] if places else [], +left_out


def _sampled(header: batch.Header, every: int) -> frozenset[int]:
    """One place in each `every` consecutive numbers of the source, scattered: environments that take turns all come."""
    first = header.counter - header.events
    blocks = range(max(first, 0) // every, (header.counter - 1) // every + 1)
    chosen = (block * every + (block * _SCATTER >> 8) % every for block in blocks)
    return frozenset(number - first for number in chosen if first <= number < header.counter)


def _latest(live: LiveBatch, places: Sequence[int], left_out: Counter[str]) -> Choice:
    """The newest event of each key, each a part of its own."""
    newest: dict[Hashable, int] = {}
    for place in places:
        key = live.keys[place] if live.keys is not None else None
        newest.pop(key, None)
        newest[key] = place
    left_out["replaced"] = len(places) - len(newest)
    before = live.header.counter - len(newest)
    parts = [
        live.part([place], before + number, (live.header.stream, live.kind, key))
        for number, (key, place) in enumerate(newest.items(), start=1)
    ]
    return parts, +left_out
