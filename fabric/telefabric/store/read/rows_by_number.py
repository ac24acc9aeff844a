"""The answers that go by the number of a row: the n-th row of an agent in a stream, in the order of seq.

`places` has the way to every 1,024th row, so whatever lies before a row is not read. Where an agent is alone in its
stream with a kind, the rows behind a place are passed over in the index by seq, else in the table.
"""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import msgspec

from telefabric import limits
from telefabric.errors import StoreError, UsageError
from telefabric.store.read import attempts, query
from telefabric.store.read.attempts import OF_RUN
from telefabric.store.read.event_parts import expression
from telefabric.store.read.query import (
    Band,
    ColumnChunk,
    EpisodeRow,
    FoundRow,
    Page,
    Place,
    PointChunk,
    RowCount,
    StoredEvent,
)
from telefabric.store.read.reader import Reader
from telefabric.store.tables.columns import COLUMNS, KINDS_OF, RANGES
from telefabric.store.tables.places import EVERY, KINDS, PICKED
from telefabric_schemas.events import CONTROL_MODES

T = TypeVar("T")
Row = tuple[Any, ...]

_EVENT = ("id", "kind", "stream", "seq", "last_seq", "agent_id", "time_ns", "reason", "detail", "event")
"""The columns of a row of any table, read as an event."""
ID, SEQ = _EVENT.index("id"), _EVENT.index("seq")


def _select_events(table: str) -> str:
    stored = set(COLUMNS[table]) if table in RANGES else {*COLUMNS[table]} - {"reason"}  # a void's is not of its row
    otherwise = {"kind": f"'{KINDS_OF[table][0]}'", "last_seq": "seq"}
    columns = ", ".join(column if column in stored else otherwise.get(column, "NULL") for column in _EVENT)
    return f"SELECT {columns} FROM {table}"


SELECT = {table: _select_events(table) for table in COLUMNS}
"""How rows of each table are read as events."""


def select(row: type[msgspec.Struct], **otherwise: str) -> str:
    """The columns of a row are its fields, but for those that are computed or ambiguous."""
    return "SELECT " + ", ".join(otherwise.get(field, field) for field in row.__struct_fields__)


_RUN_ID = "(SELECT run_id FROM runs WHERE runs.run = streams.run)"
_EPISODE = select(EpisodeRow, agent_id="episodes.agent_id", run_id=_RUN_ID)
EPISODES = f"{_EPISODE} FROM episodes JOIN streams USING (stream)"
_TABLES = {kind: table for table, kind in KINDS.items()}
_PAGE_S = 0.05
"""A page of columns, points, found rows or bands ends after this time, and says how far it came."""
_SLICE = 1_024
"""Rows between two looks at the clock."""
_END = 2**63 - 1
_NAN = float("nan")
_OPERATORS = {
    "=": "{} IS {}", "!=": "{} IS NOT {}", "<": "{} < {}", "<=": "{} <= {}", ">": "{} > {}", ">=": "{} >= {}",
    "contains": "instr(lower({}), lower({})) > 0",
}  # fmt: skip
_ORDERS = {
    **{by: (by,) for by in ("total_reward", "length", "seed", "time_ns", "end_reason")},
    "episode_index": ("env_index", "episode_index"),
}
"""How episodes can be sorted, and by which columns."""
_OF_AGENT = "stream = :stream AND kind = :kind AND agent_id = :agent_id"
_OTHER_MODES = ", ".join(f"'{mode}'" for mode in sorted(CONTROL_MODES - {"agent"}))
_MODE = "SELECT control_mode, of_event(event, 'policy_label') FROM steps"


class _Rows(NamedTuple):
    """The rows of a kind and agent in a stream."""

    stream: int
    kind: str
    agent_id: str
    n: int
    """How many there are."""
    alone: bool
    """No other agent has rows of this kind in the stream."""

    @property
    def table(self) -> str:
        return _TABLES[self.kind]

    @property
    def behind(self) -> str:
        """The condition of its rows from a seq on."""
        return "stream = :stream AND seq >= :seq" + ("" if self.alone else " AND agent_id = :agent_id")

    @property
    def step(self) -> str:
        return "coalesce(global_step, seq)" if "global_step" in COLUMNS[self.table] else "seq"

    @property
    def values(self) -> dict[str, Any]:
        return {"stream": self.stream, "kind": self.kind, "agent_id": self.agent_id}


class _At(NamedTuple):
    """Where a row is. The one behind all has no step."""

    n: int
    seq: int
    id: int
    step: int | None


class _Clock:
    """Says before each part of a page whether the page has to end; not before the first, so that each page goes on."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _PAGE_S
        self._begun = False

    def over(self) -> bool:
        begun, self._begun = self._begun, True
        return begun and time.monotonic() > self._until


class RowsByNumber(Reader):
    """The part of a reader of a file that answers questions about numbered rows."""

    @abstractmethod
    def _query(self, sql: str, question: query.Question[Any] | None = None, **more: Any) -> Any: ...
    @abstractmethod
    def _event(self, row: Row) -> StoredEvent: ...
    @abstractmethod
    def _page(self, rows: Iterable[Row], limit: int, others: list[bytes] | None = None) -> Page[StoredEvent]: ...
    @abstractmethod
    def _rows(
        self, kind: Callable[..., T], sql: str, question: Any, others: list[bytes] | None = None, /, **more: Any
    ) -> Page[T]: ...

    # -- which rows, and the way to them -------------------------------------------------------------------------

    def _rows_of(self, stream_id: bytes, kind: str, agent_id: str) -> _Rows | None:
        """None when there are none. Raises `UsageError` for a kind without numbers, `StoreError` for an older store."""
        if kind not in _TABLES:
            raise UsageError(f"rows of the kind {kind!r} have no numbers: ask for one of {', '.join(_TABLES)}")
        self._require_numbers()
        of_stream = "stream = (SELECT stream FROM streams WHERE stream_id = :stream_id)"
        counts = f"SELECT stream, agent_id, n FROM counts WHERE {of_stream} AND kind = :kind"
        found = self._query(counts, stream_id=stream_id, kind=kind).fetchall()
        return next((_Rows(s, kind, agent, n, len(found) == 1) for s, agent, n in found if agent == agent_id), None)

    def _require_numbers(self) -> None:
        if self._query("SELECT count(*) FROM upgrade").get:
            raise StoreError(
                f"{self.where} was written by an older version, and its rows have no numbers yet: start telefabric "
                "store on it, which upgrades it, and ask again when that is through"
            )

    def _asked(self, question: query.OfAgent[Any]) -> _Rows | None:
        return self._rows_of(question.stream_id, question.kind, question.agent_id)

    def _at(self, of: _Rows, n: int) -> _At:
        """Where row `n` is."""
        if n >= of.n:
            return _At(of.n, _END, _END, None)
        place = f"SELECT seq FROM places WHERE {_OF_AGENT} AND n = :n"
        start = self._query(place, **of.values, n=n - n % EVERY).get
        skip = f"SELECT seq FROM {of.table} WHERE {of.behind} ORDER BY seq LIMIT 1 OFFSET :skip"
        seq = self._query(skip, **of.values, seq=start, skip=n % EVERY).get
        row = f"SELECT seq, id, {of.step} FROM {of.table} WHERE stream = :stream AND seq = :seq"
        return _At(n, *self._query(row, **of.values, seq=seq).fetchone())

    def _blocks(self, of: _Rows, first: int) -> Iterator[tuple[_At, _At]]:
        """The rows from number `first` on, in blocks that end at a place: each with the first row behind it."""
        if first >= of.n:
            return
        start = self._at(of, first)
        places = f"SELECT n, seq, id, coalesce(global_step, seq) FROM places WHERE {_OF_AGENT} AND n > :n ORDER BY n"
        for end in map(_At._make, self._query(places, **of.values, n=first)):
            yield start, end
            start = end
        yield start, self._at(of, of.n)

    # -- counts, places, rows ------------------------------------------------------------------------------------

    def _counts(self, question: query.Counts) -> Page[RowCount]:
        self._require_numbers()
        after = ""
        if question.after is not None:
            number = "(SELECT stream FROM streams WHERE stream_id = :after_stream_id)"
            after = f" AND (stream, kind, counts.agent_id) > ({number}, :after_kind, :after_agent_id)"
        sql = (
            "SELECT stream_id, kind, counts.agent_id, n FROM streams JOIN counts USING (stream)"
            f" WHERE streams.{OF_RUN}{after} ORDER BY stream, kind, counts.agent_id"
        )
        return self._rows(RowCount, sql, question)

    def _places(self, question: query.Places) -> Page[Place]:
        of = self._asked(question)
        if of is None:
            return Page([], False, question.after)
        sql = f"SELECT n, {', '.join(PICKED)} FROM places WHERE {_OF_AGENT} AND n > :after ORDER BY n"
        page = self._rows(Place, sql, question, **of.values)
        page.last = page.rows[-1].n if page.rows else question.after
        return page

    def _rows_at(self, question: query.RowsAt) -> Page[StoredEvent]:
        of = self._asked(question)
        if of is None or question.first >= of.n:
            return Page([], False, question.first)
        sql = f"{SELECT[of.table]} WHERE {of.behind} ORDER BY seq"
        seq = self._at(of, question.first).seq
        page = self._page(self._query(sql, **of.values, seq=seq), question.limit)
        page.last = question.first + len(page.rows)
        return page

    def _row_of(self, question: query.RowOf) -> Page[Place]:
        of = self._asked(question)
        if question.by not in (*PICKED, "episode"):
            raise UsageError(f"a row is not found by {question.by!r}; by these it is: {', '.join(PICKED)}, episode")
        by, env, table = question.by, question.env_index, of.table if of else "steps"
        in_episode = "episode_index" in COLUMNS[table]
        if not in_episode and (by == "episode" or env is not None):
            raise UsageError(f"rows of the kind {question.kind!r} are of no episode: find them by {', '.join(PICKED)}")
        if of is None:
            return Page([], False)
        columns = [column if column in COLUMNS[table] else "NULL" for column in PICKED]
        columns += ["env_index", "episode_index"] if in_episode else ["NULL", "NULL"]
        sql = f"SELECT {', '.join(columns)} FROM {table} WHERE {of.behind} ORDER BY seq"
        wanted = len(PICKED) + 1 if by == "episode" else PICKED.index(by)

        def rows(place: int, most: int | None = None) -> Iterator[tuple[int, Row]]:
            """Those of the environment among the rows from a place on, with their numbers."""
            seq = self._at(of, place * EVERY).seq
            for n, row in enumerate(islice(self._query(sql, **of.values, seq=seq), most), place * EVERY):
                if env is None or row[len(PICKED)] == env:
                    yield n, row

        def is_behind(place: int) -> bool:
            """Whether this place is at or behind the value; also if the environment has no row soon after it."""
            near = next(rows(place, EVERY), None)
            return near is None or near[1][wanted] >= question.value

        if by == "episode":
            place = bisect_left(range(-(-of.n // EVERY)), True, key=is_behind)
        else:
            first = f"SELECT n FROM places WHERE {_OF_AGENT} AND {by} >= :value ORDER BY n LIMIT 1"
            n = self._query(first, **of.values, value=question.value).get
            place = -(-of.n // EVERY) if n is None else n // EVERY
        for n, row in rows(max(place - 1, 0)):
            if row[wanted] is not None and row[wanted] >= question.value:
                return Page([Place(n, *row[: len(PICKED)])], False)
        return Page([], False)

    # -- numbers -------------------------------------------------------------------------------------------------

    def _columns(self, question: query.Columns) -> Page[ColumnChunk]:
        of = self._asked(question)
        parts = [_required(question.kind, field) for field in question.fields]
        limit = min(question.limit, limits.QUERY_BYTES_MAX // (8 * len(parts)))
        if of is None or question.first >= of.n or limit == 0:
            return Page([ColumnChunk(question.first, 0, [b""] * len(parts))], of is not None and limit == 0)
        sql = f"SELECT {', '.join(parts)} FROM {of.table} WHERE {of.behind} ORDER BY seq LIMIT :limit"
        values = of.values | {"seq": self._at(of, question.first).seq, "limit": limit}
        found, clock = self._query(sql, **values), _Clock()
        columns, rows = [bytearray() for _ in parts], 0
        while not clock.over() and (part := list(islice(found, _SLICE))):
            rows += len(part)
            for column, numbers in zip(columns, zip(*part, strict=True), strict=True):
                column.extend(_packed(numbers))
        last = question.first + rows
        return Page([ColumnChunk(question.first, rows, [bytes(column) for column in columns])], last < of.n, last)

    def _points(self, question: query.Points) -> Page[PointChunk]:
        kind, column, name = _series(question.series)
        of = self._rows_of(question.stream_id, kind, question.agent_id)
        if of is None:
            return Page([PointChunk(0, b"")], False, question.after)
        sql = (
            f"SELECT {of.step} AS step, {column}, seq FROM {of.table} WHERE {of.behind} AND seq < :end"
            f"{'' if name is None else ' AND +name = :name'} AND step BETWEEN :first_step AND :last_step"
            " ORDER BY seq LIMIT :left"
        )
        before = f"SELECT n FROM places WHERE {_OF_AGENT} AND seq <= :after + 1 ORDER BY n DESC LIMIT 1"
        first = self._query(before, **of.values, after=question.after).get or 0
        points, rows, clock = bytearray(), 0, _Clock()
        last, more = question.after, False
        for start, end in self._blocks(of, first):
            if more := rows >= question.limit or clock.over():
                break
            if _may_have(start.step, end.step, question.first_step, question.last_step):
                values = of.values | {"seq": max(start.seq, question.after + 1), "end": end.seq, "name": name}
                left = question.limit - rows
                found = self._query(sql, question, **values, left=left).fetchall()
                rows += len(found)
                points += _packed([value for point in found for value in point[:2]])
                last = found[-1][2] if found else last
                if len(found) == left:
                    more = True
                    break
            last = max(last, end.seq - 1 if end.step is not None else self._at(of, of.n - 1).seq)
        return Page([PointChunk(rows, bytes(points))], more, last)

    # -- episodes in another order -------------------------------------------------------------------------------

    def _episodes_by(self, question: query.EpisodesBy) -> Page[EpisodeRow]:
        if question.by not in _ORDERS:
            raise UsageError(f"episodes are not sorted by {question.by!r}; by these they are: {', '.join(_ORDERS)}")
        of = self._rows_of(question.stream_id, "episode", question.agent_id)
        if of is None:
            return Page([], False, question.first)
        order = ", ".join(
            f"{column} DESC" if question.descending else column for column in (*_ORDERS[question.by], "id")
        )
        where = self._whose(of, question.by)
        voids = self._query("SELECT 1 FROM voids WHERE stream = :stream LIMIT 1", **of.values).get
        if voids and not question.voided:
            where += f" AND {attempts.not_voided('episodes')}"
        sql = (
            f"{EPISODES} WHERE id IN"
            f" (SELECT id FROM episodes WHERE {where} ORDER BY {order} LIMIT :limit + 1 OFFSET :first) ORDER BY {order}"
        )
        page = self._rows(EpisodeRow, sql, question, **of.values)
        page.last = question.first + len(page.rows)
        return page

    def _whose(self, of: _Rows, by: str) -> str:
        """The condition of the episodes of an agent in a stream.

        When the run has no others, that of the run: the indexes by which they are sorted begin with it, and rows are
        passed over there.
        """
        run = "(SELECT run FROM streams WHERE stream = :stream)"
        of_run = f"SELECT sum(n) FROM streams JOIN counts USING (stream) WHERE run = {run} AND kind = :kind"
        if self._query(of_run, **of.values).get == of.n:
            return f"run = {run}" + (" AND agent_id = :agent_id" if by == "episode_index" else "")
        return "stream = :stream AND agent_id = :agent_id"

    # -- searches ------------------------------------------------------------------------------------------------

    def _scan(self, question: query.Scan) -> Page[FoundRow]:
        of = self._asked(question)
        where, values = _conditions(question)
        if of is None:
            return Page([], False, question.after)
        sql = f"{SELECT[of.table]} WHERE {of.behind} AND seq < :end{where} ORDER BY seq"
        between = f"SELECT count(*) FROM {of.table} WHERE {of.behind} AND seq < :end"
        found: list[FoundRow] = []
        clock, last, size = _Clock(), question.after, 0
        for start, end in self._blocks(of, question.after + 1):
            if clock.over():
                return Page(found, True, last)
            n, seq = start.n, start.seq
            for row in self._query(sql, **of.values, **values, seq=start.seq, end=end.seq):
                size += len(row[-1])
                if len(found) >= question.limit or (size > limits.QUERY_BYTES_MAX and found):
                    return Page(found, True, found[-1].n if found else last)
                n += self._query(between, **of.values, seq=seq, end=row[SEQ]).get
                seq = row[SEQ]
                found.append(FoundRow(n, self._event(row)))
            last = end.n - 1
        return Page(found, False, last)

    def _bands(self, question: query.Bands) -> Page[Band]:
        of = self._rows_of(question.stream_id, "step", question.agent_id)
        if of is None:
            return Page([], False, question.after)
        found: list[Band] = []
        clock, last = _Clock(), question.after
        now = self._mode(self._at(of, question.after)) if 0 <= question.after < of.n else None
        of_start = None
        for start, end in self._blocks(of, question.after + 1):
            if clock.over() or len(found) > question.limit:
                return _first(found, question.limit, last)
            of_start = of_start or self._mode(start)
            of_end = None if end.step is None else self._mode(end)
            rows: Iterable[Row] = [of_start]
            if of_end != of_start or self._changes(of, start, end, of_start[0]):
                rows = self._query(
                    f"{_MODE} WHERE {of.behind} AND seq < :end ORDER BY seq", **of.values, seq=start.seq, end=end.seq
                )
            for n, row in enumerate(rows, start.n):
                if row != now:
                    found.append(Band(n, *row))
                    now = row
            last, of_start = end.n - 1, of_end
        page = _first(found, question.limit, last)
        page.more = len(found) > question.limit
        return page

    def _mode(self, at: _At) -> Row:
        """Control mode and policy of a step."""
        row: Row = self._query(f"{_MODE} WHERE id = :id", id=at.id).fetchone()
        return row

    def _changes(self, of: _Rows, start: _At, end: _At, mode: str) -> bool:
        """Whether some step of a block has another mode. Those that are not an agent's have an index."""
        where = f"{of.behind} AND seq < :end AND +control_mode <> :mode"
        if mode == "agent":
            where = (
                f"control_mode <> 'agent' AND control_mode IN ({_OTHER_MODES}) AND id >= :first AND id < :last"
                " AND +stream = :stream AND +agent_id = :agent_id"
            )
        values = of.values | {"seq": start.seq, "end": end.seq, "first": start.id, "last": end.id, "mode": mode}
        return self._query(f"SELECT 1 FROM steps WHERE {where} LIMIT 1", **values).get is not None


def _first(found: list[Band], limit: int, last: int) -> Page[Band]:
    """A page that others follow."""
    return Page(found[:limit], True, found[limit].n - 1 if len(found) > limit else last)


def _required(kind: str, field: str) -> str:
    """A field in SQL. Raises `UsageError` for one that rows of this kind do not have."""
    found = expression(_TABLES[kind], field)
    if found is None:
        raise UsageError(f"rows of the kind {kind!r} have no field {field!r}: name a column, or info/KEY")
    return found


def _conditions(question: query.Scan) -> tuple[str, dict[str, Any]]:
    """In SQL, and their values by name. Raises `UsageError`."""
    where, values = "", {}
    for index, condition in enumerate(question.conditions):
        if condition.operator not in _OPERATORS:
            raise UsageError(f"{condition.operator!r} does not compare; these do: {', '.join(_OPERATORS)}")
        field = _required(question.kind, condition.field)
        where += f" AND {_OPERATORS[condition.operator].format(field, f':value{index}')}"
        values[f"value{index}"] = condition.value
    return where, values


def _series(series: str) -> tuple[str, str, str | None]:
    """The kind and the column of a series, and the name of a metric. Raises `UsageError`."""
    group, _, name = series.partition("/")
    if group == "metric" and name:
        return "metric", "value", name
    if series in ("reward", "return"):
        return ("step", "reward", None) if series == "reward" else ("episode", "total_reward", None)
    raise UsageError(f"{series!r} is not a series: name reward, return or metric/NAME")


def _may_have(start: int | None, end: int | None, first: int, last: int) -> bool:
    """Whether a block of rows may have a step of a range, by the steps at its ends; it may where a step goes back."""
    return start is None or end is None or end < start or (start <= last and end >= first)


def _packed(numbers: Sequence[Any]) -> bytes:
    try:
        packed = array("d", numbers)
    except TypeError:
        packed = array("d", [one if isinstance(one, int | float) else _NAN for one in numbers])
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
