"""Reading a store from its file, over a connection that cannot write."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import apsw

from telefabric import limits
from telefabric.errors import StoreError, UsageError
from telefabric.store.file import access
from telefabric.store.file.database import DAMAGE, open_reader, unreadable
from telefabric.store.read import attempts, query
from telefabric.store.read.attempts import OF_EPISODE, OF_RUN
from telefabric.store.read.query import (
    Bucket,
    BucketKey,
    EpisodeRow,
    Mark,
    Page,
    Run,
    Series,
    StepKey,
    StoredEvent,
    Stream,
)
from telefabric.store.read.reader import FIRST_BUCKET, KINDS, QUARANTINE, Reader
from telefabric_schemas import EXPIRED, Frame
from telefabric_schemas.decoding import Decoder

T = TypeVar("T")
Row = tuple[Any, ...]

_SEQ, _LAST_SEQ = 3, 4
_COVERING = " AND reason <> 'conflict'"
"""A conflict contradicts stored rows, so it does not count as its seq."""
_EVENT = "id, {kind}, {table}.stream, seq, {last_seq}, {agent}, time_ns, {reason}, {detail}, event"


class _Table(NamedTuple):
    """How rows of a table are read as events."""

    name: str
    kinds: frozenset[str]
    columns: str
    agent: str
    """Condition for rows of one agent."""
    is_range: bool
    """A row covers seq to last_seq."""


def _table(
    name: str, kind: str | None, *, has_agent: bool = True, range_: bool = False, detail: str = "NULL"
) -> _Table:
    columns = _EVENT.format(
        table=name,
        kind="kind" if kind is None else f"'{kind}'",
        last_seq="last_seq" if range_ else "seq",
        agent="agent_id" if has_agent else "NULL",
        reason="reason" if range_ else "NULL",
        detail=detail,
    )
    kinds = frozenset({"run_started", "run_metadata", "run_completed"} if kind is None else {kind})
    agent = "agent_id = ?" if has_agent else "stream IN (SELECT stream FROM streams WHERE agent_id = ?)"
    return _Table(name, kinds, columns, agent, range_)


_TABLES = (
    _table("lifecycle", None, has_agent=False),
    _table("steps", "step"),
    _table("resets", "reset"),
    _table("episodes", "episode"),
    _table("voids", "episode_voided"),
    _table("metrics", "metric"),
    _table("logs", "log"),
    _table("frames", "frame"),
    _table("gaps", "gap", has_agent=False, range_=True),
    _table("quarantine", QUARANTINE, has_agent=False, range_=True, detail="detail"),
)
_BY_KIND = {kind: table for table in _TABLES for kind in table.kinds}
assert set(_BY_KIND) == set(KINDS)

_WINDOW_IDS = 50_000
"""Ids that are searched between two looks at the clock."""
_PAGE_S = 0.25
"""A search that finds little ends its page after this time, and names the id at which to continue."""
_ROW_BYTES = 128
"""Bytes of a row besides its event."""
_PROGRESS_STEPS = 10_000
"""SQLite's virtual machine takes well under a millisecond for these."""

_RUNS = (
    "SELECT run, run_id, status, reason, created_ns, started_ns, finished_ns, control_mode, metadata, tags, notes,"
    " (SELECT coalesce(max(attempt), 1) FROM streams WHERE run = runs.run),"
    " (SELECT count(*) FROM streams WHERE run = runs.run AND role = 'helper'),"
    " (SELECT count(*) FROM streams WHERE run = runs.run AND role = 'superseded')"
    " FROM runs WHERE run > ?{one} ORDER BY run"
)
_STREAMS = (
    "SELECT stream, stream_id, run_id, worker_id, agent_id, streams.started_ns, host, pid, sdk_version, outcome,"
    " coalesce(stored_seq, 0), parent, attempt, role, outcome_reason, last_ns"
    " FROM streams JOIN runs USING (run) LEFT JOIN watermarks USING (stream)"
)
_MARKS = "SELECT stream, stream_id, coalesce(stored_seq, 0) FROM streams LEFT JOIN watermarks USING (stream)"
_EPISODES = (
    "SELECT id, stream_id, seq, episodes.agent_id, env_index, episode_index, total_reward, length, global_step,"
    " end_reason, game_id, time_ns, control_mode, seed FROM episodes JOIN streams USING (stream)"
)
_BUCKETS = (
    "SELECT stream, stream_id, bucket, min, max, first, last, total, count FROM streams JOIN overview USING (stream)"
)


_OF_STREAM = " AND stream = (SELECT stream FROM streams WHERE stream_id = ?)"


class _Place(NamedTuple):
    """The stream's data, which rows have only by the stream's number."""

    run_id: str
    worker_id: str
    stream_id: bytes
    agent_id: str


class FileReader(Reader):
    """Reads the file itself, over a connection that cannot write. Raises `StoreError` when it is not a store."""

    def __init__(
        self,
        path: Path,
        *,
        deadline_s: float = limits.QUERY_DEADLINE_S,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """`cancelled` is asked while a question is in work; when it says so the question fails."""
        path = path.absolute()
        self.where = str(path)
        self._db = open_reader(path)
        self._deadline_s = deadline_s
        self._cancelled = cancelled
        self._places: dict[int, _Place] = {}
        self._cursors: list[apsw.Cursor] = []
        self._handlers: dict[type[query.Question], Callable[[Any], Page[Any]]] = {
            query.Runs: self._runs,
            query.Streams: self._streams,
            query.Marks: self._marks,
            query.Events: self._events,
            query.Newest: self._newest,
            query.Since: self._since_seq,
            query.StreamSince: self._stream_since,
            query.EpisodesOf: self._episodes_of,
            query.StepsOf: self._steps_of,
            query.FrameOf: self._frame_of,
            query.FrameAt: self._frame_at,
            query.FramesOf: self._frames_of,
            query.SeriesOf: self._series_of,
            query.Buckets: self._buckets,
        }

    def close(self) -> None:
        self._db.close()

    def answer(self, question: query.Question) -> Page[Any]:
        """One page, read in a transaction of its own. Raises `StoreError` and `UsageError`."""
        with self._snapshot():
            return self._handlers[type(question)](question)

    @property
    def notice(self) -> str:
        """A sentence for users of this store; usually empty."""
        sentence = "This store cannot be written where it is: it is read as it is now, without locks."
        return sentence if self._db.still else ""

    def _ask(self, question: query.Question, answer: type[Page[T]]) -> Page[T]:
        return cast("Page[T]", self.answer(question))

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
            raise StoreError(
                f"a question to {self.where} was cut off after {self._deadline_s:g} s: ask for less at a time"
            ) from None
        except (apsw.Error, *DAMAGE) as error:
            raise unreadable(Path(self.where), error) from error

    def _query(self, sql: str, values: Iterable[Any] = ()) -> apsw.Cursor:
        """Rows as they are needed; closed with the snapshot."""
        cursor = self._db.cursor()
        self._cursors.append(cursor)
        return cursor.execute(sql, tuple(values))

    # -- runs and streams ----------------------------------------------------------------------------------------

    def _runs(self, question: query.Runs) -> Page[Run]:
        one, values = ("", ()) if question.run_id is None else (" AND run_id = ?", (question.run_id,))
        rows = (Run(*row) for row in self._query(_RUNS.format(one=one), (question.after, *values)))
        page = _cut(rows, question.limit, lambda run: len(run.metadata) + len(run.tags) + len(run.notes))
        page.last = page.rows[-1].run if page.rows else question.after
        return page

    def _streams(self, question: query.Streams) -> Page[Stream]:
        rows = (Stream(*row) for row in self._by_stream(_STREAMS, question))
        page = _cut(rows, question.limit, lambda stream: _ROW_BYTES)
        page.last = page.rows[-1].stream if page.rows else question.after
        return page

    def _marks(self, question: query.Marks) -> Page[Mark]:
        rows = (Mark(*row) for row in self._by_stream(_MARKS, question))
        page = _cut(rows, question.limit, lambda mark: 0)
        page.last = page.rows[-1].stream if page.rows else question.after
        return page

    def _by_stream(self, select: str, question: query.Streams | query.Marks) -> apsw.Cursor:
        if question.run_id is None:
            return self._query(f"{select} WHERE stream > ? ORDER BY stream", (question.after,))
        return self._query(
            f"{select} WHERE stream > ? AND streams.{OF_RUN} ORDER BY stream", (question.after, question.run_id)
        )

    def _place(self, stream: int) -> _Place:
        place = self._places.get(stream)
        if place is None:
            select = "SELECT run_id, worker_id, stream_id, agent_id FROM streams JOIN runs USING (run) WHERE stream = ?"
            row = self._db.execute(select, (stream,)).fetchone()
            place = self._places[stream] = _Place(*row) if row else _Place("", "", b"", "")
        return place

    def _event(self, row: Row) -> StoredEvent:
        number, kind, stream, seq, last_seq, agent_id, time_ns, reason, detail, event = row
        place = self._places.get(stream) or self._place(stream)
        return StoredEvent(
            number, kind, place.run_id, place.worker_id, place.stream_id, seq, last_seq,
            place.agent_id if agent_id is None else agent_id, time_ns, reason, detail, event,
        )  # fmt: skip

    # -- events by id --------------------------------------------------------------------------------------------

    def _events(self, question: query.Events) -> Page[StoredEvent]:
        until = time.monotonic() + min(_PAGE_S, self._deadline_s / 2)
        newest = self._newest_id()
        first, last = self._bounds(question.run_id, newest)
        search = _Search.of(question, question.name)
        gathered: _Gathered = _Gathered(question.limit)
        at = max(question.since_id, first - 1)
        while at < last:
            end = min(at + _WINDOW_IDS, last)
            for row in self._window(search, at, end):
                if not gathered.add(row):
                    return Page([self._event(row) for row in gathered.rows], True, gathered.last(question.since_id))
            at = end
            if time.monotonic() > until:
                break
        more = at < last
        return Page([self._event(row) for row in gathered.rows], more, at if more else max(newest, question.since_id))

    def _newest(self, question: query.Newest) -> Page[StoredEvent]:
        until = time.monotonic() + self._deadline_s / 2
        newest = self._newest_id()
        first, at = self._bounds(question.run_id, newest)
        search = _Search.of(question, None)
        gathered: _Gathered = _Gathered(question.limit)
        while at >= first and time.monotonic() < until and question.limit:
            start = max(at - _WINDOW_IDS, first - 1)
            if not all(gathered.add(row) for row in self._window(search, start, at, newest_first=True)):
                break
            at = start
        return Page([self._event(row) for row in reversed(gathered.rows)], False, newest)

    def _newest_id(self) -> int:
        union = " UNION ALL ".join(f"SELECT max(id) AS id FROM {table.name}" for table in _TABLES)
        return self._db.execute(f"SELECT coalesce(max(id), 0) FROM ({union})").get  # type: ignore[no-any-return]

    def _bounds(self, run_id: str | None, newest: int) -> tuple[int, int]:
        """The first and last id that can be of a run; all ids without one.

        A batch in conflict with what is stored goes to quarantine without moving a watermark.
        """
        if run_id is None:
            return 1, newest
        streams = f"SELECT stream FROM streams WHERE {OF_RUN}"
        first, last = self._db.execute(
            "SELECT min(first), max(last) FROM ("
            f"SELECT min(first_id) AS first, max(last_id) AS last FROM watermarks WHERE stream IN ({streams})"
            f" UNION ALL SELECT min(id), max(id) FROM quarantine WHERE stream IN ({streams}))",
            (run_id, run_id),
        ).get
        return (newest + 1, newest) if first is None else (first, last)

    def _window(self, search: _Search, after: int, until: int, *, newest_first: bool = False) -> Iterable[Row]:
        """Rows with an id in (after, until] that fit, of all tables, by id."""
        order = "DESC" if newest_first else "ASC"
        cursors = [
            self._query(
                # By id whatever else there is an index for: that is the order which is wanted, and the range is short.
                f"SELECT {table.columns} FROM {table.name} NOT INDEXED"
                f" WHERE id > ? AND id <= ?{conditions} ORDER BY id {order}",
                (after, until, *values),
            )
            for table, conditions, values in search.parts
        ]
        if len(cursors) == 1:
            return cursors[0]
        return heapq.merge(*cursors, key=itemgetter(0), reverse=newest_first)

    # -- events by other keys ------------------------------------------------------------------------------------

    def _since_seq(self, question: query.Since) -> Page[StoredEvent]:
        if question.kind not in ("step", "episode"):
            raise UsageError(f"{question.kind!r} cannot be asked for by seq: step and episode can")
        table = _BY_KIND[question.kind]
        gathered: _Gathered = _Gathered(question.limit)
        for mark in question.marks:
            rows = self._query(
                f"SELECT {table.columns} FROM {table.name}"
                " WHERE stream = (SELECT stream FROM streams WHERE stream_id = ?) AND seq > ? ORDER BY seq",
                (mark.stream, mark.seq),
            )
            if not all(gathered.add(row) for row in rows):
                return Page([self._event(row) for row in gathered.rows], True)
        return Page([self._event(row) for row in gathered.rows], False)

    def _stream_since(self, question: query.StreamSince) -> Page[StoredEvent]:
        """Bounded by the watermark, so that tables that are read one after the other agree."""
        found = self._query(f"{_MARKS} WHERE stream_id = ?", (question.stream_id,))
        stream, _, stored = next(iter(found), (0, b"", 0))
        cursors = [
            self._query(
                f"SELECT {table.columns} FROM {table.name}"
                f" WHERE stream = ? AND {'last_seq' if table.is_range else 'seq'} > ? AND seq <= ?"
                f"{_COVERING if table.name == 'quarantine' else ''} ORDER BY seq",
                (stream, question.seq, stored),
            )
            for table in _TABLES
        ]
        gathered: _Gathered = _Gathered(question.limit)
        more = not all(gathered.add(row) for row in heapq.merge(*cursors, key=itemgetter(_SEQ)))
        covered = gathered.rows[-1][_LAST_SEQ] if more else stored
        return Page([self._event(row) for row in gathered.rows], more, covered)

    def _episodes_of(self, question: query.EpisodesOf) -> Page[EpisodeRow]:
        where: list[tuple[str, list[Any]]] = [(f"episodes.{OF_RUN}", [question.run_id])]
        others: list[bytes] = []
        if question.agent_id is not None:
            where.append(("episodes.agent_id = ?", [question.agent_id]))
        if question.stream_id is not None:
            where.append(("stream_id = ?", [question.stream_id]))
        elif others := attempts.older(self._query, question.run_id):
            place, counting = ("run", "agent_id", "env_index", "episode_index"), ""
            if not question.voided:
                counting = f" AND {attempts.not_voided('newer')}"
            where.append((attempts.newest_attempt("episodes", place, counting), []))
        if not question.voided:
            where.append((attempts.not_voided("episodes"), []))
        if (after := question.after) is not None:
            key = [after.agent_id, after.env_index, after.episode_index, after.id]
            where.append(("(episodes.agent_id, env_index, episode_index, id) > (?, ?, ?, ?)", key))
        text = " AND ".join(condition for condition, _ in where)
        rows = self._query(
            f"{_EPISODES} WHERE {text} ORDER BY episodes.agent_id, env_index, episode_index, id",
            [value for _, values in where for value in values],
        )
        page = _cut((EpisodeRow(*row) for row in rows), question.limit, lambda row: _ROW_BYTES)
        page.others = others
        return page

    def _steps_of(self, question: query.StepsOf) -> Page[StoredEvent]:
        return self._of_episode("step", question)

    def _frames_of(self, question: query.FramesOf) -> Page[StoredEvent]:
        return self._of_episode("frame", question)

    def _of_episode(self, kind: str, question: query.StepsOf | query.FramesOf) -> Page[StoredEvent]:
        after = question.after or StepKey(-(2**63), -(2**63))
        where, values, others = self._place_of(kind, question)
        table = _BY_KIND[kind]
        rows = self._query(
            f"SELECT {table.columns} FROM {table.name} WHERE {where}"
            " AND (step_index, id) > (?, ?) ORDER BY step_index, id",
            (*values, after.step_index, after.id),
        )
        gathered: _Gathered = _Gathered(question.limit)
        more = not all(gathered.add(row) for row in rows)
        return Page([self._event(row) for row in gathered.rows], more, others=others)

    def _place_of(
        self, kind: str, question: query.StepsOf | query.FramesOf | query.FrameAt
    ) -> tuple[str, tuple[Any, ...], list[bytes]]:
        """The condition for the rows of an episode in the stream that is meant; the streams that have it, too.

        The plus keeps SQLite on the index by episode, in whose order the rows are wanted.
        """
        streams = attempts.streams_at(self._query, _BY_KIND[kind].name, question)
        meant = streams[0][0] if streams else 0
        below = attempts.voided_below(self._query, meant, question)
        values = (question.run_id, question.agent_id, question.env_index, question.episode_index, meant, below)
        return f"{OF_EPISODE} AND +stream = ? AND +seq > ?", values, [bytes(row[1]) for row in streams[1:]]

    def _frame_of(self, question: query.FrameOf) -> Page[StoredEvent]:
        named, values = ("", ()) if question.stream_id is None else (_OF_STREAM, (question.stream_id,))
        rows = self._query(
            f"SELECT {_BY_KIND['frame'].columns} FROM frames WHERE {OF_RUN} AND frame_ref = ?{named}"
            " ORDER BY (SELECT attempt FROM streams WHERE streams.stream = frames.stream) DESC, id DESC LIMIT 1",
            (question.run_id, question.frame_ref, *values),
        )
        return Page([self._event(row) for row in rows], False)

    def _frame_at(self, question: query.FrameAt) -> Page[StoredEvent]:
        where, values, others = self._place_of("frame", question)
        sides = (("<=", "DESC"), (">", "ASC"))
        near = [row for side in sides for row in self._frames_beside(question.step_index, where, values, *side)]
        nearest = min(near, key=lambda row: (row[-1], abs(row[-2] - question.step_index)), default=None)
        return Page([] if nearest is None else [self._event(nearest[:-2])], False, others=others)

    def _frames_beside(
        self, step_index: int, where: str, values: tuple[Any, ...], side: str, order: str
    ) -> Iterator[tuple[Any, ...]]:
        """The nearest frame on one side, and the nearest with a picture; then step, and whether that has expired.

        Over a long run of expired ones: they are small.
        """
        rows = self._query(
            f"SELECT {_BY_KIND['frame'].columns}, step_index FROM frames WHERE {where}"
            f" AND step_index {side} ? ORDER BY step_index {order}, id DESC",
            (*values, step_index),
        )
        for place, row in enumerate(rows):
            expired = _frames.decode(self._event(row[:-1]).event).encoding == EXPIRED
            if not expired or place == 0:
                yield *row, expired
            if not expired:
                return

    # -- overview ------------------------------------------------------------------------------------------------

    def _series_of(self, question: query.SeriesOf) -> Page[Series]:
        after = question.after or Series("", "")
        rows = self._query(
            "SELECT DISTINCT agent_id, series FROM overview WHERE level = 3 AND stream IN"
            f" (SELECT stream FROM streams WHERE {OF_RUN}) AND (agent_id, series) > (?, ?) ORDER BY agent_id, series",
            (question.run_id, after.agent_id, after.series),
        )
        return _cut((Series(*row) for row in rows), question.limit, lambda row: _ROW_BYTES)

    def _buckets(self, question: query.Buckets) -> Page[Bucket]:
        of, named, others = "stream_id = ?", question.stream_id, []
        if question.run_id is not None and named is None:
            of, others = f"streams.{OF_RUN}", attempts.older(self._query, question.run_id)
        if others:
            of += f" AND {attempts.newest_attempt('overview', ('agent_id', 'series', 'level', 'bucket'))}"
        after = question.after or BucketKey(0, FIRST_BUCKET)
        rows = self._query(
            f"{_BUCKETS} WHERE {of} AND overview.agent_id = ? AND series = ? AND level = ?"
            " AND bucket BETWEEN ? AND ? AND (stream, bucket) > (?, ?) ORDER BY stream, bucket",
            (
                named or question.run_id, question.agent_id, question.series, question.level, question.first_bucket,
                question.last_bucket, after.stream, after.bucket,
            ),
        )  # fmt: skip
        page = _cut((Bucket(*row) for row in rows), question.limit, lambda row: 0)
        page.others = others
        return page


class _Search(NamedTuple):
    """Which tables to search, and with what conditions."""

    parts: list[tuple[_Table, str, list[Any]]]

    @classmethod
    def of(cls, question: query.Events | query.Newest, name: str | None) -> _Search:
        """Raises `UsageError` for a kind that there is not."""
        wanted = frozenset(KINDS if question.kinds is None else question.kinds)
        if unknown := sorted(wanted - set(KINDS)):
            raise UsageError(f"{unknown[0]!r} is not a kind of stored event; the kinds are: {', '.join(KINDS)}")
        parts = []
        for table in _TABLES:
            kinds = table.kinds & wanted
            if not kinds:
                continue
            conditions: list[tuple[str, list[Any]]] = []
            if question.run_id is not None:
                conditions.append((OF_RUN, [question.run_id]))
            if question.agent_id is not None:
                conditions.append((table.agent, [question.agent_id]))
            if kinds < table.kinds:
                conditions.append((f"kind IN ({', '.join('?' * len(kinds))})", sorted(kinds)))
            if name is not None and table.name == "metrics":
                conditions.append(("name = ?", [name]))
            text = "".join(f" AND {condition}" for condition, _ in conditions)
            parts.append((table, text, [value for _, values in conditions for value in values]))
        return cls(parts)


class _Gathered:
    """Event rows up to a number and a size; at least one, however large."""

    def __init__(self, limit: int) -> None:
        self.rows: list[Row] = []
        self._limit = limit
        self._bytes = 0

    def add(self, row: Row) -> bool:
        """False when the row does not fit any more."""
        if row[-1] is None:  # the schema forbids it
            raise apsw.CorruptError(f"row {row[0]} has no event")
        self._bytes += len(row[-1]) + _ROW_BYTES
        if len(self.rows) >= self._limit or (self._bytes > limits.QUERY_BYTES_MAX and self.rows):
            return False
        self.rows.append(row)
        return True

    def last(self, otherwise: int) -> int:
        return self.rows[-1][0] if self.rows else otherwise


_frames: Decoder[Frame] = Decoder(Frame)


def _cut(rows: Iterator[T], limit: int, size: Callable[[T], int]) -> Page[T]:
    """The first of `rows`, up to a number and a size; at least one, however large."""
    found: list[T] = []
    total = 0
    for row in rows:
        total += size(row) + _ROW_BYTES
        if len(found) >= limit or (total > limits.QUERY_BYTES_MAX and found):
            return Page(found, True)
        found.append(row)
    return Page(found, False)
