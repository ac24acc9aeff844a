"""The store's side of all streams: which batch is the next of its stream, and which is not.

A stream's events are accepted in order, without holes and once. `expected` runs ahead of what is committed: after a
failed commit `reset` takes it back to what the database says.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import NamedTuple

from telefabric.wire.batch import Header

REMEMBERED_BATCHES = 4
DAMAGED_TIMES_MAX = 3
"""How often the same damaged bytes come for the same seqs before their sender's own copy counts as damaged."""
DAMAGED_IN_A_ROW_MAX = 8
"""How often damaged bytes of any kind come for the same seqs: a sender may cut each try at another place."""


class Verdict(Enum):
    ACCEPT = "accept"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    """Same seqs as an accepted batch, other bytes: two owners of one stream. Never overwrite."""
    NACK = "nack"
    AHEAD = "ahead"
    """Follows a hole that was reported already."""
    UNKNOWN = "unknown"


class Judgement(NamedTuple):
    verdict: Verdict
    skip: int = 0
    """With ACCEPT: the number of its first seqs that are stored already."""
    expected: int = 0


@dataclass(slots=True)
class _Stream:
    expected: int
    nacked: tuple[bytes, int] | None = None
    damage: tuple[int, int] = (0, 0)
    """The first seq of the last damaged batch that was next, and the CRC-32 of what came as its body."""
    damaged_times: int = 0
    damaged_in_a_row: int = 0
    recent: OrderedDict[tuple[int, int], int] = field(default_factory=OrderedDict)


class Intake:
    """In-order acceptance. Not thread-safe."""

    def __init__(self) -> None:
        self._streams: dict[bytes, _Stream] = {}

    def reset(self, stream: bytes, stored_seq: int) -> None:
        """The database holds the stream up to `stored_seq`."""
        self._streams[stream] = _Stream(stored_seq + 1)

    def learn(self, stream: bytes, stored_seq: int) -> None:
        """Like `reset`, but not for a stream with accepted batches that are on their way into the database."""
        known = self._streams.get(stream)
        if known is None or known.expected <= stored_seq:
            self.reset(stream, stored_seq)

    def forget_oldest(self, most: int, keep: Container[bytes]) -> list[bytes]:
        """Forget the streams known longest, but those to `keep`, until `most` are left; which they were."""
        surplus = len(self._streams) - most
        forgotten = [stream for stream in islice(self._streams, max(surplus, 0)) if stream not in keep]
        for stream in forgotten:
            del self._streams[stream]
        return forgotten

    def __len__(self) -> int:
        """How many streams are kept."""
        return len(self._streams)

    def knows(self, stream: bytes) -> bool:
        return stream in self._streams

    def judge(self, header: Header) -> Judgement:
        """The verdict on a batch; ACCEPT moves `expected` past it."""
        stream = self._streams.get(header.stream)
        if stream is None:
            return Judgement(Verdict.UNKNOWN)
        if header.last_seq < stream.expected:
            if header.is_gap:  # reported again with another time, or events that were stored before they were dropped
                return Judgement(Verdict.DUPLICATE)
            crc = stream.recent.get((header.first_seq, header.last_seq), header.body_crc)
            return Judgement(Verdict.DUPLICATE if crc == header.body_crc else Verdict.CONFLICT)
        if header.first_seq > stream.expected:
            return self._nack(stream, header)
        skip = stream.expected - header.first_seq
        stream.expected = header.last_seq + 1
        if not header.is_gap:
            stream.recent[header.first_seq, header.last_seq] = header.body_crc
        if len(stream.recent) > REMEMBERED_BATCHES:
            stream.recent.popitem(last=False)
        return Judgement(Verdict.ACCEPT, skip=skip, expected=stream.expected)

    def judge_damaged(self, header: Header, crc: int) -> Judgement:
        """Like `judge`, for a batch whose body does not have the CRC-32 in its header. NACK: it may come whole again.

        ACCEPT: it never will. It is to be kept aside as it came, so that its stream goes on.
        """
        stream = self._streams.get(header.stream)
        if stream is None or header.first_seq > stream.expected:
            return self.judge(header)
        if header.last_seq < stream.expected:
            return Judgement(Verdict.DUPLICATE)
        damage = (stream.expected, crc)
        stream.damaged_times = stream.damaged_times + 1 if stream.damage == damage else 1
        stream.damaged_in_a_row = stream.damaged_in_a_row + 1 if stream.damage[0] == stream.expected else 1
        stream.damage = damage
        hopeless = stream.damaged_times >= DAMAGED_TIMES_MAX or stream.damaged_in_a_row >= DAMAGED_IN_A_ROW_MAX
        return self.judge(header) if hopeless else self._nack(stream, header)

    @staticmethod
    def _nack(stream: _Stream, header: Header) -> Judgement:
        """Once for each instance and epoch: what follows under it is of no use either."""
        under = (header.session, header.epoch)
        verdict = Verdict.AHEAD if stream.nacked == under else Verdict.NACK
        stream.nacked = under
        return Judgement(verdict, expected=stream.expected)
