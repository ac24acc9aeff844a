"""From accepted batches to rows: what one transaction will write."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import msgspec

from telefabric import limits
from telefabric.errors import WireError
from telefabric.store.tables.columns import COLUMNS, EVENTS, KINDS_OF, RANGES
from telefabric.store.tables.overview import Overview
from telefabric.store.tables.places import Span, spans
from telefabric.wire import records
from telefabric.wire.batch import ARRAY_BYTES, Header, array_of, check_body, decode_array
from telefabric_schemas import events, values
from telefabric_schemas.decoding import Decoder, decode_event

_MODES: dict[str | None, str] = {mode: mode for mode in ("human", "agent", "multi_agent", "hybrid", "replay")}

_STEP_WIDTH = len(COLUMNS["steps"])
# The first columns of all tables with a series are the same.
_STREAM, _SEQ, _AGENT, _NAME = map(COLUMNS["metrics"].index, ("stream", "seq", "agent_id", "name"))
_GLOBAL_STEP, _REWARD = map(COLUMNS["steps"].index, ("global_step", "reward"))

_VALUES = {"steps": "reward", "episodes": "total_reward", "metrics": "value"}
"""The tables with a numeric series, and its column."""
_SERIES = {table: (COLUMNS[table].index("global_step"), COLUMNS[table].index(_VALUES[table])) for table in _VALUES}

_KEPT = {KINDS_OF[table][0]: (table, *COLUMNS[table][5:]) for table in RANGES}
"""The kinds that are no events of their stream, their table, and its columns behind `last_seq`."""

UNREADABLE = "unreadable"
"""The reason of a gap whose own cannot be read."""


class Place(NamedTuple):
    """A stream and its run as the database numbers them, and their names."""

    run: int
    stream: int
    run_id: str
    stream_id: bytes
    deleted: bool = False
    """Its run was: what still comes is acknowledged, counted and not stored."""
    carrier: str | None = None
    """The key that carried it last."""


class Lifecycle(NamedTuple):
    """A lifecycle event that changes its run or stream."""

    place: Place
    event: events.RunStarted | events.RunMetadata | events.RunCompleted


class StoredRow(Protocol):
    """A row of any table, as readers of a store have it."""

    @property
    def kind(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def event(self) -> bytes: ...


class Rows:
    """The rows of one transaction, by table, and the watermarks they lead to."""

    def __init__(self, first_id: int) -> None:
        self.tables: defaultdict[str, list[Any]] = defaultdict(list)
        """The values of a table's rows, one row after the other: tuples cost a quarter more to make and bind."""
        self.marks: dict[bytes, tuple[int, int, int]] = {}
        """Stream id → (stored_seq, first id, last id)."""
        self.discarded: dict[bytes, tuple[int, int]] = {}
        """Stream id → (stored_seq, events) of streams that were deleted."""
        self.lifecycle: list[Lifecycle] = []
        self.lost: list[bytes] = []
        """Ids of the lost streams."""
        self.revived: list[bytes] = []
        self.carriers: dict[bytes, str] = {}
        """Stream id → another key than carried it before."""
        self.overview = Overview()
        """The rows' contribution to the overview."""
        self.step_spans: list[Span] = []
        """The rows of steps by stream and agent."""
        self.bytes = 0
        """The size of the bodies that were added."""
        self.quarantined = 0
        self.first_id = self.next_id = first_id
        self.began_ns = time.monotonic_ns()

    def add(self, place: Place, header: Header, body: records.Buffer, skip: int, *, whole: bool = True) -> None:
        """All events of an accepted batch, but the first `skip`. Whatever cannot be read goes to quarantine.

        So does a batch that is not `whole`, all of it: nobody can tell what of it is right.
        """
        if place.deleted:
            events = self.discarded.get(header.stream, (0, 0))[1] + header.events
            self.discarded[header.stream] = (header.last_seq, events)
            return
        first_id = self.next_id
        before = len(self.tables["steps"])
        self.bytes += len(body)
        try:
            if not whole:
                check_body(header, body)
            if header.is_gap:
                self._add_gap(place, header, body, skip)
            else:
                self._add_events(place, header, body, skip)
        except WireError as error:  # never of one of our senders
            left = header._replace(first_seq=header.first_seq + skip)
            self.quarantine_batch(place, left, body, error.reason, str(error))
        self._added(place, first_id, before, header.last_seq)

    def copy(self, place: Place, stored: Iterable[StoredRow]) -> None:
        """Consecutive rows of a stream in another store, as they are there."""
        first_id, before, last_seq = self.next_id, len(self.tables["steps"]), 0
        for row in stored:
            number, self.next_id = self.next_id, self.next_id + 1
            if row.kind in _KEPT:
                table, *columns = _KEPT[row.kind]
                head = (number, place.run, place.stream, row.seq, row.last_seq)
                self.tables[table].extend((*head, *(getattr(row, column) for column in columns)))
            else:
                self._add_event(number, place, row.seq, None, row.event)
            if row.reason != "conflict":
                last_seq = row.last_seq
        if last_seq:
            self._added(place, first_id, before, last_seq)

    def _added(self, place: Place, first_id: int, before: int, last_seq: int) -> None:
        """Sum up what was added of a stream: all from `first_id` on, and the steps whose values begin at `before`."""
        steps = self.tables["steps"]
        if len(steps) > before:
            self._sum_up(place.stream, steps, before)
        previous = self.marks.get(place.stream_id)
        self.marks[place.stream_id] = (last_seq, previous[1] if previous else first_id, self.next_id - 1)

    def _add_events(self, place: Place, header: Header, body: records.Buffer, skip: int) -> None:
        array = array_of(body, header.events)
        try:
            decoded = decode_array(array)
        except msgspec.DecodeError:
            self._add_one_by_one(place, header, body, skip)
            return
        if sum([record.length for record in decoded]) + records.PREFIX_BYTES * header.events != len(body):
            raise WireError("bad_body", f"the records of a batch body of {len(body)} bytes do not add up")
        steps = self.tables["steps"]
        run, stream, step, modes = place.run, place.stream, events.Step, _MODES
        number, seq, end = self.next_id, header.first_seq - 1, ARRAY_BYTES
        for record in decoded:
            event = record.event
            start = end + records.PREFIX_BYTES
            end = start + record.length
            seq += 1
            if skip:
                skip -= 1
            elif type(event) is step and event.seq == seq:  # nearly all events: no call, no look-up
                steps += (
                    number, run, stream, seq, event.agent_id, event.env_index, event.episode_index, event.step_index,
                    event.global_step, event.reward, event.terminated, event.truncated, event.time_ns,
                    modes.get(event.control_mode, "unknown"), array[start:end],
                )  # fmt: skip
                number += 1
            else:
                self._add_event(number, place, seq, event, array[start:end])
                number += 1
        self.next_id = number

    def _add_one_by_one(self, place: Place, header: Header, body: records.Buffer, skip: int) -> None:
        """When some event of a batch has no schema here: the others are stored as what they are."""
        for index, (start, end) in enumerate(records.spans(body, header.events)):
            if index >= skip:
                self._add_event(self.next_id, place, header.first_seq + index, None, bytes(body[start:end]))
                self.next_id += 1

    def _add_event(self, number: int, place: Place, seq: int, event: events.AnyEvent | None, raw: bytes) -> None:
        if event is None:
            try:
                event = decode_event(raw)
            except msgspec.DecodeError as error:
                self.quarantine(number, place, seq, "undecodable", str(error), raw)
                return
        if (fault := _fault(event, seq, place)) is not None:
            self.quarantine(number, place, seq, *fault, raw)
            return
        table = _TABLES[type(event)]
        row = [number, place.run, place.stream, *_FIELDS[table](event), raw]
        for column, convert in _CONVERTED[table]:
            row[column] = convert(row[column])
        self.tables[table].extend(row)
        if table == "lifecycle":
            self.lifecycle.append(Lifecycle(place, event))  # type: ignore[arg-type]  # by its table
        elif table in _SERIES and table != "steps":  # `_sum_up` has those
            _add_value(self.overview, table, row)

    def _add_gap(self, place: Place, header: Header, body: records.Buffer, skip: int) -> None:
        """Raises `WireError` when the event is of other seqs than its batch."""
        raw = bytes(body[slice(*records.spans(body, 1)[0])])
        try:
            gap = _gaps.decode(raw)
        except msgspec.DecodeError:
            reason, time_ns = UNREADABLE, min(header.time_ns, events.INT_MAX)
        else:
            reason, time_ns = gap.reason, gap.time_ns
            if (gap.seq, gap.last_seq) != (header.first_seq, header.last_seq):
                raise WireError("wrong_seq", f"the gap says seqs {gap.seq} to {gap.last_seq}")
        number, self.next_id = self.next_id, self.next_id + 1
        first = header.first_seq + skip
        self.tables["gaps"].extend((number, place.run, place.stream, first, header.last_seq, reason, time_ns, raw))

    def quarantine(self, number: int, place: Place, seq: int, reason: str, detail: str, raw: bytes) -> None:
        row = (number, place.run, place.stream, seq, seq, reason, detail, time.time_ns(), raw)
        self.tables["quarantine"].extend(row)
        self.quarantined += 1

    def quarantine_batch(self, place: Place, header: Header, body: records.Buffer, reason: str, detail: str) -> None:
        """Keep a whole batch that contradicts what is stored; the watermark does not move."""
        number, self.next_id = self.next_id, self.next_id + 1
        row = (number, place.run, place.stream, header.first_seq, header.last_seq, reason, detail, time.time_ns(), body)
        self.tables["quarantine"].extend(row)
        self.quarantined += header.events

    def _sum_up(self, stream: int, steps: list[Any], before: int) -> None:
        """Overview and places of a batch's steps, whose values begin at `before`.

        All at once when they are consecutive steps of one agent, as nearly always.
        """
        columns = (_SEQ, _AGENT, _GLOBAL_STEP, _REWARD)
        seqs, agents, numbers, rewards = (steps[before + column :: _STEP_WIDTH] for column in columns)
        first, agent = numbers[0], agents[0]
        one_agent = agents.count(agent) == len(agents)
        row = before // _STEP_WIDTH
        self.step_spans += [Span(stream, agent, row, len(agents))] if one_agent else spans("steps", steps, row)
        consecutive = first is not None and numbers == list(range(first, first + len(numbers)))
        if consecutive and one_agent and None not in rewards:
            self.overview.add_run((stream, agent, "reward"), first, rewards)
            return
        for seq, agent, number, reward in zip(seqs, agents, numbers, rewards, strict=True):
            self.overview.add((stream, agent, "reward"), seq if number is None else number, reward)

    def spans(self, table: str) -> Iterable[Span]:
        """The rows of a table by stream and agent."""
        return self.step_spans if table == "steps" else spans(table, self.tables[table])

    def keep(self, table: str, values: list[Any]) -> None:
        """Keep only these rows of a table: the others could not be stored."""
        self.tables[table] = values
        if table == "steps":
            self.step_spans = list(spans(table, values))
        self.overview = _overview_of(self.tables)

    @property
    def events(self) -> int:
        return self.next_id - self.first_id

    @property
    def full(self) -> bool:
        """These rows fill a transaction, by their number or by the bytes that they came from."""
        return self.events >= limits.COMMIT_EVENTS_MAX or self.bytes >= limits.COMMIT_BYTES_MAX

    def __bool__(self) -> bool:
        return self.next_id > self.first_id or bool(self.lost or self.revived or self.carriers or self.discarded)


def _fault(event: events.AnyEvent, seq: int, place: Place) -> tuple[str, str] | None:
    """Reason and detail of an event that cannot be a row."""
    if event.seq != seq:
        return "wrong_seq", f"the event says seq {event.seq}"
    if type(event) is events.Gap:
        return "not_durable", "a gap comes in a batch of its own"
    if type(event) not in _TABLES:
        return "not_durable", f"kind {event.kind} is never stored"
    if type(event) is events.RunStarted and event.run_id != place.run_id:
        return "wrong_run", f"the event names run {event.run_id!r}, its stream belongs to {place.run_id!r}"
    return None


def row_of(number: int, place: Place, seq: int, raw: bytes) -> tuple[str, list[Any]]:
    """The table and the row that an event's bytes lead to, by themselves."""
    rows = Rows(number)
    rows._add_event(number, place, seq, None, raw)
    ((table, row),) = rows.tables.items()
    return table, row


def _overview_of(tables: dict[str, list[Any]]) -> Overview:
    """Collects the rows' contribution to the overview, row by row."""
    found = Overview()
    for table in _SERIES.keys() & tables.keys():
        values, width = tables[table], len(COLUMNS[table])
        for at in range(0, len(values), width):
            _add_value(found, table, values[at : at + width])
    return found


def _add_value(overview: Overview, table: str, row: list[Any]) -> None:
    """Add a row's value to its series, at the agent's own count of steps, or else at the seq."""
    step, value = _SERIES[table]
    series = f"metric/{row[_NAME]}" if table == "metrics" else "return" if table == "episodes" else "reward"
    overview.add((row[_STREAM], row[_AGENT], series), row[_SEQ] if row[step] is None else row[step], row[value])


def known_mode(value: str | None) -> str:
    return _MODES.get(value, "unknown")


def seed_column(seed: msgspec.Raw) -> int | str | None:
    """The seed in the form of its column. None without a seed, and if its JSON form is missing or very long."""
    try:
        value = _seeds.decode(seed)
        if value is None or (type(value) is int and -(2**63) <= value < 2**63):
            return value
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError):
        return None
    return text if len(text) <= limits.SEED_CHARACTERS_MAX else None


def _ext_hook(code: int, data: memoryview) -> Any:
    if code == values.EXT_BIGINT:
        return int.from_bytes(data, "big", signed=True)
    raise TypeError(f"extension {code} has no JSON form")


_TABLES = {event: table for table, found in EVENTS.items() for event in found if table not in RANGES}
_FIELDS = {table: attrgetter(*COLUMNS[table][3:-1]) for table in _TABLES.values()}
"""The columns from seq on are fields of the event that have the same name; the last one is the event itself."""
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"control_mode": known_mode, "seed": seed_column}
_CONVERTED = {
    table: [(at, _CONVERSIONS[column]) for at, column in enumerate(COLUMNS[table]) if column in _CONVERSIONS]
    for table in _FIELDS
}
"""The columns whose values are not the field's, and the function between them."""
_gaps: Decoder[events.Gap] = Decoder(events.Gap)
_seeds: Decoder[Any] = Decoder(ext_hook=_ext_hook)
