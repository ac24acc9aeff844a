"""Which events an export takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from telefabric.errors import UsageError
from telefabric.store.read.query import StoredEvent
from telefabric.store.read.reader import Reader
from telefabric_schemas import TOPICS
from telefabric_schemas.decoding import event_of

WITH_EPISODE = frozenset(
    kind for kind, topic in TOPICS.items() if "episode_index" in topic.event_type.__struct_fields__
)
WITH_STEP = frozenset(kind for kind, topic in TOPICS.items() if "global_step" in topic.event_type.__struct_fields__)
_Episode = tuple[bytes, str, int, int]


class Range(NamedTuple):
    """Whole numbers from `first` to `last`, both of them included."""

    first: int
    last: int | None

    @classmethod
    def parse(cls, text: str) -> Range:
        """``7``, ``10-19`` or ``10-``. Raises `UsageError`."""
        first, dash, last = text.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or (last and int(last) < int(first)):
            raise UsageError(f"{text} is not a range: write one number, or 10-19, or 10- for all from 10 on")
        return cls(int(first), int(last) if last else None if dash else int(first))

    def has(self, number: int | None) -> bool:
        return number is not None and self.first <= number and (self.last is None or number <= self.last)


class Page(NamedTuple):
    """Chosen events, in order of id, and the id up to which nothing more is to come."""

    rows: list[StoredEvent]
    done: int


class Selection(msgspec.Struct, frozen=True):
    """Events of one run and agent, or of all; with a range only kinds that name an episode, or a global step.

    What an `episode_voided` event covers is left out, unless `voided`.
    """

    kinds: tuple[str, ...]
    run: str | None = None
    agent: str | None = None
    episodes: Range | None = None
    steps: Range | None = None
    voided: bool = False

    def pages(self, reader: Reader, after: int, until: int) -> Iterator[Page]:
        """The events with an id above `after`, up to `until`. Raises what `Reader` raises."""
        kinds = self._kinds()
        voids = {} if self.voided else self._voids(reader, until)
        looks_inside = bool(voids or self.episodes or self.steps)
        while after < until and kinds:
            page = reader.events(after, self.run, kinds, self.agent)
            after = min(page.last if page.more else until, until)
            rows = [row for row in page.rows if row.id <= until]
            yield Page([row for row in rows if self._has(row, voids)] if looks_inside else rows, after)

    def _kinds(self) -> list[str]:
        found = set(self.kinds)
        if self.episodes:
            found &= WITH_EPISODE
        if self.steps:
            found &= WITH_STEP
        return sorted(found)

    def _voids(self, reader: Reader, until: int) -> dict[_Episode, int]:
        """Each voided episode, and the seq below which its events do not count."""
        found: dict[_Episode, int] = {}
        for page in Selection(("episode_voided",), self.run, self.agent, voided=True).pages(reader, 0, until):
            for row in page.rows:
                if (place := _episode(row, event_of(row.event))) is not None:
                    found[place] = max(row.seq, found.get(place, 0))
        return found

    def _has(self, row: StoredEvent, voids: dict[_Episode, int]) -> bool:
        event = event_of(row.event)
        if self.episodes and not self.episodes.has(getattr(event, "episode_index", None)):
            return False
        if self.steps and not self.steps.has(getattr(event, "global_step", None)):
            return False
        place = _episode(row, event)
        return place is None or row.seq >= voids.get(place, 0)


def _episode(row: StoredEvent, event: object) -> _Episode | None:
    if row.kind not in WITH_EPISODE or event is None:
        return None
    return row.stream_id, row.agent_id, getattr(event, "env_index", 0), getattr(event, "episode_index", 0)
