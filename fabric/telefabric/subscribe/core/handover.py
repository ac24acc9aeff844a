"""Live and stored events of one stream as one sequence, by seq, without a seam.

Live events come first and in any order of kinds; what they leave out is a hole. Stored ones come in pages, from the
beginning or from where a reader chose, up to the watermark, and fill holes; an event that came both ways counts once.
Cursor and holes are all there is to know, so a reader that keeps its cursor goes on after any restart of anybody.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Numbered(NamedTuple, Generic[T]):
    """An event and its seq."""

    seq: int
    event: T


class Range(NamedTuple):
    """Seqs, both ends included."""

    first: int
    last: int


class SeqSet:
    """A set of seqs as sorted, disjoint, non-adjacent ranges."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __contains__(self, seq: int) -> bool:
        place = bisect_right(self._firsts, seq) - 1
        return place >= 0 and seq <= self._lasts[place]

    def add(self, first: int, last: int) -> None:
        """Put a whole range in; merges with what it touches."""
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def truncate(self, last: int) -> None:
        """Take out all that comes after `last`."""
        end = bisect_right(self._firsts, last)
        del self._firsts[end:], self._lasts[end:]
        if end and self._lasts[-1] > last:
            self._lasts[-1] = last

    def missing(self, first: int, last: int) -> list[Range]:
        """The ranges of `first` … `last` that are not in."""
        found: list[Range] = []
        place = bisect_left(self._lasts, first)
        while first <= last:
            if place >= len(self._firsts) or self._firsts[place] > last:
                found.append(Range(first, last))
                break
            if self._firsts[place] > first:
                found.append(Range(first, self._firsts[place] - 1))
            first = self._lasts[place] + 1
            place += 1
        return found

    @property
    def newest(self) -> int:
        return self._lasts[-1] if self._lasts else 0

    def through(self, seq: int) -> int:
        """The last of the unbroken run that follows `seq`; `seq` itself when its successor is missing."""
        place = bisect_right(self._firsts, seq + 1) - 1
        return max(seq, self._lasts[place]) if place >= 0 and self._lasts[place] > seq else seq


class StreamHandover(Generic[T]):
    """One stream towards one reader, which applies what `live` and `stored` return, at once or in order of seq.

    `since` is the reader's cursor: it has everything up to there already.
    """

    def __init__(self, since: int = 0) -> None:
        self.since = since
        self.watermark = 0
        """The last seq that the store is known to hold. It may fall: a store can be restored from a backup."""
        self._seen = SeqSet()

    # -- inputs --------------------------------------------------------------------------------------------------

    def live(self, events: Iterable[Numbered[T]]) -> list[Numbered[T]]:
        """Live events: those that are new."""
        fresh: list[Numbered[T]] = []
        for numbered in events:
            if numbered.seq > self.since and numbered.seq not in self._seen:
                self._seen.add(numbered.seq, numbered.seq)
                fresh.append(numbered)
        return fresh

    def stored(self, asked_since: int, events: Iterable[Numbered[T]], *, covers: int) -> list[Numbered[T]]:
        """A page of stored events after `asked_since`: those that are new.

        `covers` is the seq up to which the page is complete: what it leaves out up to there is a recorded gap.
        """
        fresh = self.live(events)
        if covers > max(asked_since, self.since):
            self._seen.add(max(asked_since, self.since) + 1, covers)
        return fresh

    def let_go(self, after: int) -> None:
        """The reader did not keep what came after `after`: that is missing again, and the store has it."""
        self._seen.truncate(after)

    # -- decisions -----------------------------------------------------------------------------------------------

    @property
    def newest(self) -> int:
        return max(self._seen.newest, self.since)

    @property
    def cursor(self) -> int:
        """Everything up to here has been applied or is known to be lost."""
        return self._seen.through(self.since)

    def holes(self) -> list[Range]:
        """The missing ranges below the newest event."""
        return self._seen.missing(self.since + 1, self.newest)

    def ask(self) -> Range | None:
        """The next question to the store: the lowest missing range that it holds; None without one."""
        missing = self._seen.missing(self.since + 1, self.watermark)
        return missing[0] if missing else None


class InOrder(Generic[T]):
    """Holds events back until all before them have come, for a reader that prints a stream in order of seq.

    When too many wait, the newest half is let go again, for the store to bring.
    """

    def __init__(self, handover: StreamHandover[T], *, held_max: int = 100_000) -> None:
        self._handover = handover
        self._held: dict[int, T] = {}
        self._held_max = held_max
        self._told = handover.since

    def take(self, fresh: Iterable[Numbered[T]]) -> list[Numbered[T]]:
        """Add new events; returns those that can be passed on now, in order."""
        self._held.update(fresh)
        ready: list[int] = []
        if self._handover.cursor > self._told:
            self._told = self._handover.cursor
            ready = sorted(seq for seq in self._held if seq <= self._told)
        told = [Numbered(seq, self._held.pop(seq)) for seq in ready]
        if len(self._held) > self._held_max:
            kept = sorted(self._held)[: max(self._held_max // 2, 1)]
            self._held = {seq: self._held[seq] for seq in kept}
            self._handover.let_go(kept[-1])
        return told
