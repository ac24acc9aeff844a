"""Reading a store from its file, over a connection that cannot write."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from sys import getsizeof
from typing import Any, TypeVar, cast

import apsw
import msgspec

from telefabric import limits
from telefabric.errors import StoreError, UsageError
from telefabric.store.file import access
from telefabric.store.file.database import DAMAGE, open_reader, unreadable
from telefabric.store.read import attempts, event_parts, query
from telefabric.store.read.attempts import OF_EPISODE, OF_RUN
from telefabric.store.read.query import (
    BookmarkRow,
    Bucket,
    EpisodeRow,
    Mark,
    Moment,
    Page,
    Run,
    RunName,
    Series,
    StoredEvent,
    Stream,
)
from telefabric.store.read.reader import KINDS
from telefabric.store.read.rows_by_number import EPISODES, ID, SELECT, SEQ, RowsByNumber, select
from telefabric.store.tables.columns import COLUMNS, KINDS_OF, RANGES
from telefabric_schemas import EXPIRED, Frame
from telefabric_schemas.decoding import Decoder

T = TypeVar("T")
Row = tuple[Any, ...]

_COVERING = " AND reason <> 'conflict'"
"""A conflict contradicts stored rows, so it does not count as its seq."""


assert {kind for kinds in KINDS_OF.values() for kind in kinds} == set(KINDS)

_NOT_DELETED = "stream NOT IN (SELECT stream FROM deleted_streams WHERE rows_left)"
"""The rows of a deleted run go in pieces."""
_WINDOW_IDS = 50_000
"""Ids that are searched between two looks at the clock."""
_PAGE_S = 0.25
"""A search that finds little ends its page after this time, and names the id at which to continue."""
_ROW_BYTES = 128
"""Bytes of a row besides its event."""
_PROGRESS_STEPS = 10_000
"""SQLite's virtual machine takes well under a millisecond for these."""


_STREAMS_OF_RUN = "FROM streams WHERE run = runs.run"
_MARKED = "mark IS NOT NULL AND status <> 'running'"
"""A run that was heard again runs, whatever it was marked."""
_RUNS = select(
    Run,
    status=f"iif({_MARKED}, mark, status)",
    reason=f"iif({_MARKED}, mark_reason, reason)",
    marked_by=f"iif({_MARKED}, mark_by, NULL)",
    marked_ns=f"iif({_MARKED}, mark_ns, NULL)",
    computed_status="status",
    attempts=f"(SELECT coalesce(max(attempt), 1) {_STREAMS_OF_RUN})",
    helpers=f"(SELECT count(*) {_STREAMS_OF_RUN} AND role = 'helper')",
    superseded=f"(SELECT count(*) {_STREAMS_OF_RUN} AND role = 'superseded')",
)
_STORED_SEQ = "coalesce(stored_seq, 0)"
_WITH_MARKS = "LEFT JOIN watermarks USING (stream)"
_MARKS = f"{select(Mark, stored_seq=_STORED_SEQ)} FROM streams {_WITH_MARKS}"
_STREAMS = (
    select(Stream, started_ns="streams.started_ns", stored_seq=_STORED_SEQ)
    + f" FROM streams JOIN runs USING (run) {_WITH_MARKS}"
)
_LOST = "(SELECT coalesce(sum(stream * 2654435761 % 4294967296), 0) FROM streams WHERE outcome = 'lost')"
"""Nothing else in the file changes when a stream is lost or heard again. Each stream's share is mixed, so that two sets
of streams have the same sum by chance only."""
_RUNS_NOW = (
    "SELECT coalesce((SELECT max(id) FROM lifecycle), 0), coalesce((SELECT max(stream) FROM streams), 0),"
    f" coalesce((SELECT max(edit) FROM edits), 0), {_LOST}"
)
_CHANGED_RUNS = (
    "WITH changed AS (SELECT run FROM lifecycle WHERE id > :lifecycle_id"
    " UNION SELECT run FROM streams WHERE stream > :stream"
    f" UNION SELECT run FROM streams WHERE outcome = 'lost' AND {_LOST} <> :lost"
    f" UNION SELECT run FROM runs WHERE status = 'running' AND {_LOST} <> :lost)"
    " SELECT run_id FROM (SELECT run_id FROM runs JOIN changed USING (run)"
    " UNION SELECT run_id FROM edits WHERE edit > :edit AND outcome = 'done')"
)
_BOOKMARKS = f"{select(BookmarkRow)} FROM bookmarks JOIN runs USING (run)"
_NEWEST_OF_MODE = "SELECT id FROM episodes WHERE control_mode = :mode_{} AND id < :below{} ORDER BY id DESC"
"""Of each mode by itself: in one statement for all, SQLite would sort all that there are."""
_OF_STREAM = "stream = (SELECT stream FROM streams WHERE stream_id = :stream_id)"
_OF_PLACE = f"{OF_EPISODE} AND +stream = :meant AND +seq > :voided_below"
"""The rows of an episode in the stream that is meant. The plus keeps SQLite on the index by episode, in whose order the
rows are wanted."""
_ALL_IDS = 2**63 - 1
_Search = query.Events | query.Newest


class FileReader(RowsByNumber):
    """Reads the file itself, over a connection that cannot write. Raises `StoreError` when it is not a store."""

    def __init__(
        self, path: Path, *, deadline_s: float = limits.QUERY_DEADLINE_S, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """`cancelled` is asked while a question is in work; when it says so the question fails."""
        path = path.absolute()
        self.where = str(path)
        self._db = open_reader(path)
        event_parts.make_known(self._db)
        self._deadline_s = deadline_s
        self._cancelled = cancelled
        self._sources: dict[int, Row] = {}
        """Run, worker, id and agent of a stream by its number."""
        self._cursors: list[apsw.Cursor] = []

    def close(self) -> None:
        self._db.close()

    def answer(self, question: query.Question[T]) -> Page[T]:
        """Read in a transaction of its own, by the method that has the question's name."""
        with self._snapshot():
            return cast("Page[T]", getattr(self, f"_{question.name_on_wire}")(question))

    @property
    def notice(self) -> str:
        """A sentence for users of this store; usually empty."""
        sentence = "This store cannot be written where it is: it is read as it is now, without locks."
        return sentence if self._db.still else ""

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All reads inside show the same moment; nothing is held afterwards."""
        deadline = time.monotonic() + self._deadline_s
        if self._db.still:
            access.require_still(Path(self.where))
        try:
            self._db.execute("BEGIN")
            self._db.set_progress_handler(lambda: time.monotonic() > deadline or self._cancelled(), _PROGRESS_STEPS)
            try:
                yield
            finally:
                self._db.set_progress_handler(None)
                for cursor in self._cursors:
                    cursor.close(True)
                self._cursors.clear()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except apsw.InterruptError:
            if self._cancelled():
                raise StoreError(f"a question to {self.where} was dropped") from None
            raise StoreError(
                f"a question to {self.where} was cut off after {self._deadline_s:g} s: ask for less at a time"
            ) from None
        except (apsw.Error, *DAMAGE) as error:
            raise unreadable(Path(self.where), error) from error

    def _query(self, sql: str, question: query.Question[Any] | None = None, **more: Any) -> apsw.Cursor:
        """Rows as they are needed; closed with the snapshot. A question's items and keywords are values by name."""
        cursor = self._db.cursor()
        self._cursors.append(cursor)
        return cursor.execute(sql, more if question is None else question.values() | more)

    # -- runs and streams ----------------------------------------------------------------------------------------

    def _runs(self, question: query.Runs) -> Page[Run]:
        return self._numbered(question, Run, f"{_RUNS} FROM runs", "run", of_run="run_id = :run_id")

    def _runs_now(self, question: query.RunsNow) -> Page[Moment]:
        return Page([Moment(*row) for row in self._query(_RUNS_NOW)], False)

    def _changed_runs(self, question: query.ChangedRuns) -> Page[RunName]:
        after = _given(question, after="run_id > :after_run_id")
        sql = f"{_CHANGED_RUNS} WHERE true{after} ORDER BY run_id"
        return self._rows(RunName, sql, question, **msgspec.structs.asdict(question.since))

    def _streams(self, question: query.Streams) -> Page[Stream]:
        return self._numbered(question, Stream, _STREAMS, "stream", of_run=f"streams.{OF_RUN}")

    def _marks(self, question: query.Marks) -> Page[Mark]:
        return self._numbered(question, Mark, _MARKS, "stream", of_run=f"streams.{OF_RUN}")

    def _bookmarks(self, question: query.Bookmarks) -> Page[BookmarkRow]:
        return self._numbered(question, BookmarkRow, _BOOKMARKS, "bookmark", of_run=OF_RUN)

    def _numbered(
        self, question: query.Numbered[T], kind: Callable[..., T], select: str, number: str, of_run: str
    ) -> Page[T]:
        where = f"{number} > :after{_given(question, run_id=of_run)}"
        found, more = _cut(self._query(f"{select} WHERE {where} ORDER BY {number}", question), question.limit)
        return Page([kind(*row) for row in found], more, found[-1][0] if found else question.after)

    def _source(self, stream: int) -> Row:
        sql = "SELECT run_id, worker_id, stream_id, agent_id FROM streams JOIN runs USING (run) WHERE stream = ?"
        source = self._sources[stream] = self._db.execute(sql, (stream,)).fetchone() or ("", "", b"", "")
        return source

    def _event(self, row: Row) -> StoredEvent:
        number, kind, stream, seq, last_seq, agent, time_ns, reason, detail, event = row
        run_id, worker_id, stream_id, agent_of_stream = self._sources.get(stream) or self._source(stream)
        if agent is None:
            agent = agent_of_stream
        return StoredEvent(
            number, kind, run_id, worker_id, stream_id, seq, last_seq, agent, time_ns, reason, detail, event
        )

    def _page(self, rows: Iterable[Row], limit: int, others: list[bytes] | None = None) -> Page[StoredEvent]:
        found, more = _cut(rows, limit, _event_bytes)
        return Page([self._event(row) for row in found], more, others=others or [])

    # -- events by id --------------------------------------------------------------------------------------------

    def _events(self, question: query.Events) -> Page[StoredEvent]:
        newest = self._newest_id()
        first, last = self._bounds(question, newest)
        starts = range(max(question.since_id, first - 1), last, _WINDOW_IDS)
        windows = iter([(at, min(at + _WINDOW_IDS, last)) for at in starts])
        page = self._page(self._search(question, windows, min(_PAGE_S, self._deadline_s / 2)), question.limit)
        if page.more:
            page.last = page.rows[-1].id if page.rows else question.since_id
        else:
            left = next(windows, None)
            page.more, page.last = (True, left[0]) if left else (False, max(newest, question.since_id))
        return page

    def _newest(self, question: query.Newest) -> Page[StoredEvent]:
        newest = self._newest_id()
        first, last = self._bounds(question, newest)
        windows = iter([(max(at - _WINDOW_IDS, first - 1), at) for at in range(last, first - 1, -_WINDOW_IDS)])
        page = self._page(self._search(question, windows, self._deadline_s / 2, newest_first=True), question.limit)
        return Page(page.rows[::-1], False, newest)

    def _search(
        self, question: _Search, windows: Iterator[tuple[int, int]], time_s: float, *, newest_first: bool = False
    ) -> Iterator[Row]:
        """Rows of one window of ids after the other, by id; when the time is over, the other windows are left."""
        until = time.monotonic() + time_s
        statements = _searches(question, "DESC" if newest_first else "ASC")
        for above, last in windows:
            yield from self._merged(statements, question, ID, reverse=newest_first, above=above, until=last)
            if time.monotonic() > until:
                return

    def _newest_id(self) -> int:
        union = " UNION ALL ".join(f"SELECT max(id) AS id FROM {table}" for table in COLUMNS)
        return self._db.execute(f"SELECT coalesce(max(id), 0) FROM ({union})").get  # type: ignore[no-any-return]

    def _bounds(self, question: _Search, newest: int) -> tuple[int, int]:
        """The first and last id that can be of a run; all ids without one.

        A batch in conflict with what is stored goes to quarantine without moving a watermark.
        """
        if question.run_id is None:
            return 1, newest
        streams = f"SELECT stream FROM streams WHERE {OF_RUN}"
        ((first, last),) = self._query(
            "SELECT min(first), max(last) FROM ("
            f"SELECT min(first_id) AS first, max(last_id) AS last FROM watermarks WHERE stream IN ({streams})"
            f" UNION ALL SELECT min(id), max(id) FROM quarantine WHERE stream IN ({streams}))",
            question,
        )
        return (newest + 1, newest) if first is None else (first, last)

    def _merged(
        self, statements: list[str], question: query.Question[Any], by: int, *, reverse: bool = False, **values: int
    ) -> Iterable[Row]:
        """The rows of all statements, each of which has them in this order, by a column."""
        cursors = [self._query(sql, question, **values) for sql in statements]
        return cursors[0] if len(cursors) == 1 else heapq.merge(*cursors, key=itemgetter(by), reverse=reverse)

    # -- events by other keys ------------------------------------------------------------------------------------

    def _since(self, question: query.Since) -> Page[StoredEvent]:
        if question.kind not in ("step", "episode"):
            raise UsageError(f"{question.kind!r} cannot be asked for by seq: step and episode can")
        sql = f"{SELECT[f'{question.kind}s']} WHERE {_OF_STREAM} AND seq > :seq ORDER BY seq"
        of_streams = (self._query(sql, stream_id=mark.stream, seq=mark.seq) for mark in question.marks)
        return self._page(chain.from_iterable(of_streams), question.limit)

    def _stream_since(self, question: query.StreamSince) -> Page[StoredEvent]:
        """Bounded by the watermark, so that tables that are read one after the other agree."""
        of_deleted = "SELECT 0, stream_id, stored_seq FROM deleted_streams WHERE stream_id = :stream_id"
        found = self._query(f"{_MARKS} WHERE stream_id = :stream_id UNION ALL {of_deleted}", question)
        stream, _, stored = next(iter(found), (0, b"", 0))
        statements = [
            f"{events} WHERE stream = :stream AND {'last_seq' if table in RANGES else 'seq'} > :seq AND seq <= :stored"
            f"{_COVERING if table == 'quarantine' else ''} ORDER BY seq"
            for table, events in SELECT.items()
        ]
        page = self._page(self._merged(statements, question, SEQ, stream=stream, stored=stored), question.limit)
        if page.more:
            page.last = page.rows[-1].last_seq if page.rows else question.seq
        else:
            page.last = stored
        return page

    def _episodes_of(self, question: query.EpisodesOf) -> Page[EpisodeRow]:
        key = "(episodes.agent_id, env_index, episode_index, id)"
        where, others = f"episodes.{OF_RUN}", []
        where += _given(
            question,
            agent_id="episodes.agent_id = :agent_id",
            stream_id="stream_id = :stream_id",
            after=f"{key} > (:after_agent_id, :after_env_index, :after_episode_index, :after_id)",
        )
        counting = "" if question.voided else f" AND {attempts.not_voided('newer')}"
        if question.stream_id is None and (others := attempts.older(self._query, question)):
            place = ("run", "agent_id", "env_index", "episode_index")
            where += f" AND {attempts.newest_attempt('episodes', place, counting)}"
        if not question.voided:
            where += f" AND {attempts.not_voided('episodes')}"
        return self._rows(EpisodeRow, f"{EPISODES} WHERE {where} ORDER BY {key[1:-1]}", question, others)

    def _episodes_in(self, question: query.EpisodesIn) -> Page[EpisodeRow]:
        given = _given(question, run_id=OF_RUN)
        if not question.voided:
            given += f" AND {attempts.not_voided('episodes')}"
        modes = {f"mode_{place}": mode for place, mode in enumerate(question.modes)}
        newest = [f"SELECT * FROM ({_NEWEST_OF_MODE.format(n, given)} LIMIT :limit + 1)" for n in range(len(modes))]
        sql = f"{EPISODES} WHERE id IN ({' UNION ALL '.join(newest) or 'NULL'}) ORDER BY id DESC"
        page = self._rows(EpisodeRow, sql, question, below=question.before or _ALL_IDS, **modes)
        page.last = page.rows[-1].id if page.rows else question.before
        return page

    def _steps_of(self, question: query.StepsOf) -> Page[StoredEvent]:
        table = "frames" if isinstance(question, query.FramesOf) else "steps"
        after = _given(question, after="(step_index, id) > (:after_step_index, :after_id)")
        sql = f"{SELECT[table]} WHERE {_OF_PLACE}{after} ORDER BY step_index, id"
        meant, others = self._meant(table, question)
        return self._page(self._query(sql, question, **meant), question.limit, others)

    _frames_of = _steps_of

    def _meant(self, table: str, question: query.StepsOf | query.FrameAt) -> tuple[dict[str, int], list[bytes]]:
        """The values of `_OF_PLACE` for the stream that is meant; the streams that have the episode, too."""
        streams = attempts.streams_at(self._query, table, question)
        meant = streams[0][0] if streams else 0
        below = attempts.voided_below(self._query, meant, question)
        return {"meant": meant, "voided_below": below}, [bytes(row[1]) for row in streams[1:]]

    def _frame_of(self, question: query.FrameOf) -> Page[StoredEvent]:
        rows = self._query(
            f"{SELECT['frames']} WHERE {OF_RUN} AND frame_ref = :frame_ref"
            f"{_given(question, stream_id=_OF_STREAM)}"
            " ORDER BY (SELECT attempt FROM streams WHERE streams.stream = frames.stream) DESC, id DESC LIMIT 1",
            question,
        )
        return Page([self._event(row) for row in rows], False)

    def _frame_at(self, question: query.FrameAt) -> Page[StoredEvent]:
        meant, others = self._meant("frames", question)
        sides = (("<=", "DESC"), (">", "ASC"))
        near = [found for side in sides for found in self._frames_beside(question, meant, *side)]
        near.sort(key=lambda found: (_expired(found[1]), abs(found[1].step_index - question.step_index)))
        return Page([event for event, _ in near[:1]], False, others=others)

    def _frames_beside(
        self, question: query.FrameAt, meant: dict[str, int], side: str, order: str
    ) -> Iterator[tuple[StoredEvent, Frame]]:
        """The nearest frame on one side, and the nearest with a picture.

        Over a long run of expired ones: they are small.
        """
        nearest = f"step_index {side} :step_index ORDER BY step_index {order}, id DESC"
        rows = self._query(f"{SELECT['frames']} WHERE {_OF_PLACE} AND {nearest}", question, **meant)
        for place, row in enumerate(rows):
            event = self._event(row)
            frame = _frames.decode(event.event)
            if not _expired(frame) or place == 0:
                yield event, frame
            if not _expired(frame):
                return

    # -- overview ------------------------------------------------------------------------------------------------

    def _series_of(self, question: query.SeriesOf) -> Page[Series]:
        after = _given(question, after="(agent_id, series) > (:after_agent_id, :after_series)")
        sql = (
            "SELECT DISTINCT agent_id, series FROM overview WHERE level = 3 AND stream IN"
            f" (SELECT stream FROM streams WHERE {OF_RUN}){after} ORDER BY agent_id, series"
        )
        return self._rows(Series, sql, question)

    def _buckets(self, question: query.Buckets) -> Page[Bucket]:
        where, others = "stream_id = :stream_id", []
        if question.run_id is not None and question.stream_id is None:
            where, others = f"streams.{OF_RUN}", attempts.older(self._query, question)
        if others:
            where += f" AND {attempts.newest_attempt('overview', ('agent_id', 'series', 'level', 'bucket'))}"
        where += _given(question, after="(stream, bucket) > (:after_stream, :after_bucket)")
        sql = (
            f"{select(Bucket)} FROM streams JOIN overview USING (stream) WHERE {where}"
            " AND overview.agent_id = :agent_id AND series = :series AND level = :level"
            " AND bucket BETWEEN :first_bucket AND :last_bucket ORDER BY stream, bucket"
        )
        return self._rows(Bucket, sql, question, others)

    def _rows(
        self, kind: Callable[..., T], sql: str, question: Any, others: list[bytes] | None = None, /, **more_values: Any
    ) -> Page[T]:
        found, more = _cut(self._query(sql, question, **more_values), question.limit)
        return Page([kind(*row) for row in found], more, others=others or [])


def _searches(question: _Search, order: str) -> list[str]:
    """The statements for ids above :above and until :until. Raises `UsageError` for a kind that there is not.

    They go by id whatever else there is an index for: that is the order which is wanted, and the range is short.
    """
    wanted = frozenset(KINDS if question.kinds is None else question.kinds)
    if unknown := sorted(wanted - set(KINDS)):
        raise UsageError(f"{unknown[0]!r} is not a kind of stored event; the kinds are: {', '.join(KINDS)}")
    statements = []
    for table, kinds in KINDS_OF.items():
        of_agent = "agent_id = :agent_id"
        if "agent_id" not in COLUMNS[table]:
            of_agent = f"stream IN (SELECT stream FROM streams WHERE {of_agent})"
        conditions = _given(question, run_id=OF_RUN, agent_id=of_agent)
        if not wanted.issuperset(kinds):
            named = ", ".join(f"'{kind}'" for kind in kinds if kind in wanted)
            conditions += f" AND kind IN ({named})"
        if table == "metrics" and isinstance(question, query.Events):
            conditions += _given(question, name="name = :name")
        if not wanted.isdisjoint(kinds):
            ids = f"id > :above AND id <= :until AND {_NOT_DELETED}{conditions} ORDER BY id {order}"
            statements.append(f"{SELECT[table]} NOT INDEXED WHERE {ids}")
    return statements


def _expired(frame: Frame) -> bool:
    return frame.encoding == EXPIRED


def _given(question: query.Question[Any], **conditions: str) -> str:
    """The conditions of those items of a question that are not nil."""
    return "".join(f" AND {text}" for item, text in conditions.items() if getattr(question, item) is not None)


def _event_bytes(row: Row) -> int:
    if row[-1] is None:  # the schema forbids it
        raise apsw.CorruptError(f"row {row[0]} has no event")
    return len(row[-1])


def _row_bytes(row: Row) -> int:
    return sum(map(getsizeof, row))


def _cut(rows: Iterable[Row], limit: int, size: Callable[[Row], int] = _row_bytes) -> tuple[list[Row], bool]:
    """The first of `rows`, up to a number and a size, at least one, however large; whether there are more."""
    found: list[Row] = []
    total = 0
    for row in rows:
        total += size(row) + _ROW_BYTES
        if len(found) >= limit or (total > limits.QUERY_BYTES_MAX and found):
            return found, True
        found.append(row)
    return found, False


_frames: Decoder[Frame] = Decoder(Frame)
