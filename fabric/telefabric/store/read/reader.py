"""Reading a store: one interface, over the file itself or over the store's query service.

Every answer is a short page: at most `limits.QUERY_ROWS_MAX` rows and about `limits.QUERY_BYTES_MAX` bytes, read in one
transaction that ends with the page and is cut off after `limits.QUERY_DEADLINE_S`. So no reader holds up the writer's
checkpoints, and within a page all tables show the same moment: an event that is stored while one pages has a higher
`id` than all that were seen, and comes in a later page.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Self, TypeVar

import msgspec

from telefabric import limits
from telefabric.errors import UsageError
from telefabric.store.read import query
from telefabric.store.read.query import (
    Band,
    BookmarkRow,
    Bucket,
    ColumnChunk,
    Condition,
    EpisodeRow,
    FoundRow,
    Moment,
    Page,
    Place,
    PointChunk,
    RowCount,
    Run,
    Series,
    StoredEvent,
    Stream,
)
from telefabric.store.read.recording import Recording
from telefabric.wire.control import StreamSeq
from telefabric_schemas import DURABLE_KINDS

T = TypeVar("T")

QUARANTINE = "quarantine"
KINDS = (*sorted(DURABLE_KINDS), QUARANTINE)
"""All that `StoredEvent.kind` can be."""
_ROWS = limits.QUERY_ROWS_MAX
FIRST_BUCKET, LAST_BUCKET = -(2**63), 2**63 - 1


class Reader(ABC):
    """Reads a store. One thread at a time; close it, or use it in a `with`.

    A run, stream or agent that is not stored yet simply has no rows. All methods raise `StoreError` when the
    file cannot be read or a question takes too long, `UsageError` for a question that makes no sense, and over the
    network `Unreachable`. `where` names the store for people.
    """

    where: str

    @abstractmethod
    def answer(self, question: query.Question[T]) -> Page[T]:
        """One page."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getitem__(self, run_id: str) -> Recording:
        """A run with its events, one by one and as columns. Raises `StoreError` when the store has no such run."""
        return Recording(self, run_id)

    def __iter__(self) -> Iterator[Recording]:
        """All runs, in order of appearance."""
        return (Recording(self, run.run_id) for run in self.runs())

    # -- runs and streams ----------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """All runs, in order of appearance."""
        return self._all(query.Runs(None, 0, _ROWS))

    def run(self, run_id: str) -> Run | None:
        """One run, or None when nothing of it is stored."""
        return _only(self.answer(query.Runs(run_id, 0, 1)))

    def runs_now(self) -> Moment:
        """The moment of the list of runs: it stays the same until a run begins, changes or goes."""
        return self.answer(query.RunsNow()).rows[0]

    def changed_runs(self, since: Moment) -> list[str]:
        """Names of the runs that have begun, changed or gone since a moment, and maybe of some others."""
        found = self._all(query.ChangedRuns(since), behind=lambda page: page.rows[-1])
        return [one.run_id for one in found]

    def streams(self, run_id: str | None = None) -> list[Stream]:
        """All streams, or those of a run, in order of appearance."""
        return self._all(query.Streams(run_id, 0, _ROWS))

    def bookmarks(self, run_id: str | None = None) -> list[BookmarkRow]:
        """All bookmarks, or those of a run, in the order in which they were set."""
        return self._all(query.Bookmarks(run_id, 0, _ROWS))

    def watermarks(self, run_id: str | None = None) -> dict[bytes, int]:
        """Stream id → the highest seq up to which all of the stream is stored, quarantined or a gap."""
        return {mark.stream_id: mark.stored_seq for mark in self._all(query.Marks(run_id, 0, _ROWS))}

    def _all(self, question: query.Question[T], behind: Callable[[Page[T]], object] = attrgetter("last")) -> list[T]:
        """The rows of all pages; `behind` says from where to ask on."""
        page = self.answer(question)
        rows = page.rows
        while page.more:
            page = self.answer(msgspec.structs.replace(question, after=behind(page)))
            rows += page.rows
        return rows

    # -- events by id --------------------------------------------------------------------------------------------

    def events(
        self,
        since_id: int = 0,
        run_id: str | None = None,
        kinds: Iterable[str] | None = None,
        agent_id: str | None = None,
        limit: int = _ROWS,
    ) -> Page[StoredEvent]:
        """The next events of all tables in the order of id; go on with ``since_id=page.last``.

        With filters a page may be short or empty although there are more: a page also ends after some time. When not
        `more`, `page.last` is the newest id of the whole store: what is stored later follows it. Kinds that name no
        agent, lifecycle, gap and quarantine, belong to the agent of their stream.
        """
        return self.answer(query.Events(since_id, run_id, _listed(kinds), agent_id, None, _capped(limit)))

    def newest(
        self, limit: int, run_id: str | None = None, kinds: Iterable[str] | None = None, agent_id: str | None = None
    ) -> Page[StoredEvent]:
        """The last events, in the order of id; `page.last` is the newest id of the whole store, to go on from."""
        return self.answer(query.Newest(run_id, _listed(kinds), agent_id, _capped(limit)))

    def metrics(
        self, run_id: str, name: str | None = None, agent_id: str | None = None, since_id: int = 0, limit: int = _ROWS
    ) -> Page[StoredEvent]:
        """Metrics of a run, or one series of it, in the order of id; pages as `events`."""
        return self.answer(query.Events(since_id, run_id, ["metric"], agent_id, name, _capped(limit)))

    def frames(
        self, run_id: str, agent_id: str | None = None, since_id: int = 0, limit: int = _ROWS
    ) -> Page[StoredEvent]:
        """Stored frames of a run in the order of id; pages as `events`."""
        return self.events(since_id, run_id, ["frame"], agent_id, limit)

    def frame(self, run_id: str, frame_ref: str, *, stream_id: bytes | None = None) -> StoredEvent | None:
        """The frame that a step's `frame_ref` names; of several the newest attempt's, and the last one stored."""
        return _only(self.answer(query.FrameOf(run_id, frame_ref, stream_id)))

    def frame_at(
        self,
        run_id: str,
        agent_id: str,
        env_index: int,
        episode_index: int,
        step_index: int,
        *,
        stream_id: bytes | None = None,
        voided: bool = False,
    ) -> StoredEvent | None:
        """The stored frame of a step, or the nearest one of its episode, the earlier of two; None when it has none.

        A frame whose picture has expired only if no other exists. Stream and voids as in `steps_for_episode`.
        """
        question = query.FrameAt(run_id, agent_id, env_index, episode_index, step_index, stream_id, voided)
        return _only(self.answer(question))

    def frames_for_episode(
        self,
        run_id: str,
        agent_id: str,
        env_index: int,
        episode_index: int,
        *,
        after: query.StepKey | None = None,
        limit: int = _ROWS,
        stream_id: bytes | None = None,
        voided: bool = False,
    ) -> Page[StoredEvent]:
        """Stored frames of one episode in the order of step, after `after`: step and id of the last one seen.

        Stream and voids as `steps_for_episode`.
        """
        question = query.FramesOf(run_id, agent_id, env_index, episode_index, after, _capped(limit), stream_id, voided)
        return self.answer(question)

    def gaps(self, run_id: str | None = None, since_id: int = 0, limit: int = _ROWS) -> Page[StoredEvent]:
        """Ranges known to be lost, in the order of id; pages as `events`."""
        return self.events(since_id, run_id, ["gap"], None, limit)

    # -- events by stream and seq --------------------------------------------------------------------------------

    def steps_since(self, marks: Mapping[bytes, int], limit: int = _ROWS) -> Page[StoredEvent]:
        """Steps after a seq of each stream: stream after stream, each in order. Go on with the seqs last seen."""
        return self._behind("step", marks, limit)

    def episodes_since(self, marks: Mapping[bytes, int], limit: int = _ROWS) -> Page[StoredEvent]:
        """Episodes after a seq of each stream; pages as `steps_since`."""
        return self._behind("episode", marks, limit)

    def _behind(self, kind: str, marks: Mapping[bytes, int], limit: int) -> Page[StoredEvent]:
        if len(marks) > query.STREAMS_A_QUESTION_MAX:
            raise UsageError(f"a question names at most {query.STREAMS_A_QUESTION_MAX} streams: ask in parts")
        after = [StreamSeq(stream, seq) for stream, seq in marks.items()]
        return self.answer(query.Since(kind, after, _capped(limit)))

    def stream_since(self, stream_id: bytes, seq: int, limit: int = _ROWS) -> Page[StoredEvent]:
        """All events of one stream after a seq, in the order of seq; up to `page.last` nothing is left out.

        A gap or a quarantined batch that begins before `seq` and ends after it is among them.
        """
        return self.answer(query.StreamSince(stream_id, seq, _capped(limit)))

    # -- episodes and their steps --------------------------------------------------------------------------------

    def episodes_for_run(
        self,
        run_id: str,
        agent_id: str | None = None,
        after: query.EpisodeKey | None = None,
        limit: int = _ROWS,
        *,
        stream_id: bytes | None = None,
        voided: bool = False,
    ) -> Page[EpisodeRow]:
        """Episodes by agent, environment and index; go on with ``after=page.rows[-1].key``.

        An episode that several attempts have is that of the newest, unless `stream_id` names a stream; `page.others`
        names the streams of older attempts, which may be left out. Voided episodes are left out unless `voided`.
        """
        question = query.EpisodesOf(run_id, agent_id, after, _capped(limit), stream_id, voided)
        return self.answer(question)

    def episodes_in(
        self,
        modes: Iterable[str],
        run_id: str | None = None,
        before: int = 0,
        limit: int = _ROWS,
        *,
        voided: bool = False,
    ) -> Page[EpisodeRow]:
        """Episodes of some control modes, of all runs or of one, newest first; go on with ``before=page.last``."""
        return self.answer(query.EpisodesIn(list(modes), run_id, before, _capped(limit), voided))

    def steps_for_episode(
        self,
        run_id: str,
        agent_id: str,
        env_index: int,
        episode_index: int,
        after: query.StepKey | None = None,
        limit: int = _ROWS,
        *,
        stream_id: bytes | None = None,
        voided: bool = False,
    ) -> Page[StoredEvent]:
        """Steps of one episode by index; go on after the step index and id of the last.

        They are of one stream: the newest one of the newest attempt that has the episode, unless `stream_id` names it.
        `page.others` are the streams that have the episode, too. What is voided is left out unless `voided`.
        """
        question = query.StepsOf(run_id, agent_id, env_index, episode_index, after, _capped(limit), stream_id, voided)
        return self.answer(question)

    # -- overview ------------------------------------------------------------------------------------------------

    def series(self, run_id: str) -> list[Series]:
        """The numeric series of a run that have an overview."""
        return self._all(query.SeriesOf(run_id), behind=lambda page: page.rows[-1])

    def overview(
        self,
        agent_id: str,
        series: str,
        level: int,
        *,
        run_id: str | None = None,
        stream_id: bytes | None = None,
        first_bucket: int = FIRST_BUCKET,
        last_bucket: int = LAST_BUCKET,
        after: query.BucketKey | None = None,
        limit: int = _ROWS,
    ) -> Page[Bucket]:
        """Buckets of a series of one stream, or of all streams of a run: by stream, then bucket.

        Of a bucket of a run that several attempts have, those of the newest; `page.others` as `episodes_for_run`.
        Go on with ``after=page.rows[-1].key``.
        """
        if (run_id is None) == (stream_id is None):
            raise UsageError("an overview needs a run or a stream: name one of them")
        question = query.Buckets(
            run_id, stream_id, agent_id, series, level, first_bucket, last_bucket, after, _capped(limit)
        )
        return self.answer(question)

    # -- rows by number ------------------------------------------------------------------------------------------

    def counts(self, run_id: str) -> list[RowCount]:
        """How many rows each stream, kind and agent of a run has. Rows are numbered from 0 in the order of seq.

        These questions and all that follow raise `StoreError` for a store that was written by a version without them.
        """

        def behind(page: Page[RowCount]) -> query.CountKey:
            last = page.rows[-1]
            return query.CountKey(last.stream_id, last.kind, last.agent_id)

        return self._all(query.Counts(run_id), behind)

    def places(self, stream_id: bytes, kind: str, agent_id: str, after: int = -1) -> list[Place]:
        """Where every 1,024th row is, from the first one after row `after` on."""
        return self._all(query.Places(stream_id, kind, agent_id, after, _ROWS))

    def rows_at(self, stream_id: bytes, kind: str, agent_id: str, first: int, limit: int = _ROWS) -> Page[StoredEvent]:
        """Rows from number `first` on; go on with ``first=page.last``."""
        return self.answer(query.RowsAt(stream_id, kind, agent_id, first, _capped(limit)))

    def row_of(
        self, stream_id: bytes, kind: str, agent_id: str, by: str, value: int, env_index: int | None = None
    ) -> Place | None:
        """The first row at or behind a value of seq, id, global_step, time_ns or episode."""
        return _only(self.answer(query.RowOf(stream_id, kind, agent_id, by, value, env_index)))

    def columns(
        self, stream_id: bytes, kind: str, agent_id: str, first: int, limit: int, fields: Iterable[str]
    ) -> Page[ColumnChunk]:
        """Numbers of rows from `first` on, one chunk; go on with ``first=page.last``."""
        limit = _capped(limit, limits.QUERY_NUMBERS_MAX)
        return self.answer(query.Columns(stream_id, kind, agent_id, first, limit, list(fields)))

    def points(
        self,
        stream_id: bytes,
        agent_id: str,
        series: str,
        first_step: int,
        last_step: int,
        *,
        after: int = 0,
        limit: int = limits.QUERY_NUMBERS_MAX,
    ) -> Page[PointChunk]:
        """The values of a series in a range of steps, in order of arrival; go on with ``after=page.last``."""
        limit = _capped(limit, limits.QUERY_NUMBERS_MAX)
        return self.answer(query.Points(stream_id, agent_id, series, first_step, last_step, after, limit))

    def episodes_by(
        self,
        stream_id: bytes,
        agent_id: str,
        by: str,
        *,
        descending: bool = False,
        first: int = 0,
        limit: int = _ROWS,
        voided: bool = False,
    ) -> Page[EpisodeRow]:
        """Episodes from position `first` on in the order of a column; go on with ``first=page.last``."""
        return self.answer(query.EpisodesBy(stream_id, agent_id, by, descending, first, _capped(limit), voided))

    def scan(
        self,
        stream_id: bytes,
        kind: str,
        agent_id: str,
        conditions: Iterable[Condition],
        after: int = -1,
        limit: int = _ROWS,
    ) -> Page[FoundRow]:
        """Rows that fit all conditions; a page may be empty although there are more. Go on with ``after=page.last``."""
        return self.answer(query.Scan(stream_id, kind, agent_id, list(conditions), after, _capped(limit)))

    def bands(self, stream_id: bytes, agent_id: str) -> list[Band]:
        """Where control mode or policy of an agent's steps change."""
        return self._all(query.Bands(stream_id, agent_id, -1, _ROWS))


def _listed(kinds: Iterable[str] | None) -> list[str] | None:
    return None if kinds is None else list(kinds)


def _only(page: Page[T]) -> T | None:
    return page.rows[0] if page.rows else None


def _capped(limit: int, most: int = _ROWS) -> int:
    if limit < 0:
        raise UsageError(f"a page cannot have {limit} rows: ask for 1 to {most}")
    return min(limit, most)
