"""From accepted batches to rows: what one transaction will write."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import msgspec

from telefabric.errors import WireError
from telefabric.store.overview import Key, Overview
from telefabric.wire import records
from telefabric.wire.batch import Header, Record, decode_body
from telefabric_schemas import events

CONTROL_MODES = frozenset({"human", "agent", "multi_agent", "hybrid", "replay"})
INT64_MAX = 2**63 - 1

Row = tuple[Any, ...]


class Place(NamedTuple):
    """A stream and its run as the database numbers them."""

    run: int
    stream: int


class Lifecycle(NamedTuple):
    """A lifecycle event that changes its run or stream."""

    place: Place
    event: events.RunStarted | events.RunMetadata | events.RunCompleted


class Rows:
    """The rows of one transaction, by table, and the watermarks they lead to."""

    def __init__(self, first_id: int) -> None:
        self.tables: dict[str, list[Row]] = {}
        self.marks: dict[bytes, tuple[int, int, int]] = {}
        """Stream id → (stored_seq, first id, last id)."""
        self.lifecycle: list[Lifecycle] = []
        self.overview = Overview()
        self.events = 0
        self.quarantined = 0
        self.next_id = first_id
        self.began_ns = time.monotonic_ns()

    def add(self, place: Place, header: Header, body: bytes, skip: int) -> None:
        """All events of an accepted batch, but the first `skip`. Whatever cannot be read goes to quarantine."""
        first_id = self.next_id
        try:
            spans = records.spans(body, header.events)
        except WireError as error:  # it passes its checksum and lies about its records: never one of our senders
            self.quarantine_batch(place, header, body, error.reason, str(error))
        else:
            if header.is_gap:
                self._add_gap(place, header, body[slice(*spans[0])], skip)
            else:
                self._add_events(place, header, body, spans, skip)
        previous = self.marks.get(header.stream)
        self.marks[header.stream] = (header.last_seq, previous[1] if previous else first_id, self.next_id - 1)

    def _add_events(self, place: Place, header: Header, body: bytes, spans: list[records.Span], skip: int) -> None:
        first = header.first_seq
        try:
            decoded: list[Record | None] = list(decode_body(body, header.events))
        except (msgspec.DecodeError, RecursionError):
            decoded = [None] * header.events
        for index in range(skip, header.events):
            start, end = spans[index]
            record = decoded[index]
            self._add_event(place, first + index, record.event if record else None, body[start:end])
        self.events += header.events - skip

    def _add_event(self, place: Place, seq: int, event: events.AnyEvent | None, raw: bytes) -> None:
        number = self.next_id
        self.next_id = number + 1
        if event is None:
            try:
                event = _decoder.decode(raw)
            except (msgspec.DecodeError, RecursionError) as error:
                self.quarantine(number, place, seq, "undecodable", str(error), raw)
                return
        if event.seq != seq:
            self.quarantine(number, place, seq, "wrong_seq", f"the event says seq {event.seq}", raw)
            return
        maker = _MAKERS.get(type(event))
        if maker is None:
            self.quarantine(number, place, seq, "not_durable", f"kind {event.kind} is never stored", raw)
            return
        table, row = maker(self, number, place, event, raw)
        self.table(table).append(row)

    def _add_gap(self, place: Place, header: Header, raw: bytes, skip: int) -> None:
        number, self.next_id = self.next_id, self.next_id + 1
        first = header.first_seq + skip
        try:
            gap = msgspec.msgpack.decode(raw, type=events.Gap)
            reason, time_ns = gap.reason, gap.time_ns
        except msgspec.DecodeError:
            reason, time_ns = "unreadable", header.time_ns
        self.table("gaps").append((number, *place, first, header.last_seq, reason, time_ns, raw))

    def quarantine(self, number: int, place: Place, seq: int, reason: str, detail: str, raw: bytes) -> None:
        row = (number, *place, seq, seq, reason, detail, time.time_ns(), raw)
        self.table("quarantine").append(row)
        self.quarantined += 1

    def quarantine_batch(self, place: Place, header: Header, body: bytes, reason: str, detail: str) -> None:
        """Keep a whole batch that contradicts what is stored; the watermark does not move."""
        number, self.next_id = self.next_id, self.next_id + 1
        row = (number, *place, header.first_seq, header.last_seq, reason, detail, time.time_ns(), body)
        self.table("quarantine").append(row)
        self.quarantined += header.events

    def table(self, name: str) -> list[Row]:
        rows = self.tables.get(name)
        if rows is None:
            rows = self.tables[name] = []
        return rows

    def __bool__(self) -> bool:
        return bool(self.tables)


def _mode(value: str | None) -> str:
    return value if value in CONTROL_MODES else "unknown"


def _step(rows: Rows, number: int, place: Place, event: Any, raw: bytes) -> tuple[str, Row]:
    step = event.seq if event.global_step is None else event.global_step
    rows.overview.add(Key(place.stream, event.agent_id, "reward"), step, event.reward)
    return "steps", (
        number, place.run, place.stream, event.seq, event.agent_id, event.env_index, event.episode_index,
        event.step_index, event.global_step, event.reward, event.terminated, event.truncated, event.time_ns,
        _mode(event.control_mode), raw,
    )  # fmt: skip


def _episode(rows: Rows, number: int, place: Place, event: Any, raw: bytes) -> tuple[str, Row]:
    step = event.seq if event.global_step is None else event.global_step
    rows.overview.add(Key(place.stream, event.agent_id, "return"), step, event.total_reward)
    return "episodes", (
        number, place.run, place.stream, event.seq, event.agent_id, event.env_index, event.episode_index,
        event.total_reward, event.length, event.global_step, event.end_reason, event.game_id, event.time_ns,
        _mode(event.control_mode), raw,
    )  # fmt: skip


def _metric(rows: Rows, number: int, place: Place, event: Any, raw: bytes) -> tuple[str, Row]:
    step = event.seq if event.global_step is None else event.global_step
    rows.overview.add(Key(place.stream, event.agent_id, f"metric/{event.name}"), step, event.value)
    return "metrics", (
        number, place.run, place.stream, event.seq, event.agent_id, event.name, event.value, event.unit,
        event.global_step, event.time_ns, raw,
    )  # fmt: skip


def _log(rows: Rows, number: int, place: Place, event: Any, raw: bytes) -> tuple[str, Row]:
    return "logs", (
        number, place.run, place.stream, event.seq, event.agent_id, event.level, event.message, event.time_ns, raw,
    )  # fmt: skip


def _frame(rows: Rows, number: int, place: Place, event: Any, raw: bytes) -> tuple[str, Row]:
    return "frames", (
        number, place.run, place.stream, event.seq, event.agent_id, event.env_index, event.episode_index,
        event.step_index, event.frame_ref, event.time_ns, raw,
    )  # fmt: skip


def _lifecycle(rows: Rows, number: int, place: Place, event: Any, raw: bytes) -> tuple[str, Row]:
    rows.lifecycle.append(Lifecycle(place, event))
    return "lifecycle", (number, place.run, place.stream, event.seq, event.kind, event.time_ns, raw)


_Maker = Callable[[Rows, int, Place, Any, bytes], tuple[str, Row]]
_MAKERS: dict[type[events.Event], _Maker] = {
    events.Step: _step,
    events.Episode: _episode,
    events.Metric: _metric,
    events.Log: _log,
    events.Frame: _frame,
    events.RunStarted: _lifecycle,
    events.RunMetadata: _lifecycle,
    events.RunCompleted: _lifecycle,
}
_decoder = cast("msgspec.msgpack.Decoder[events.AnyEvent]", msgspec.msgpack.Decoder(events.AnyEvent))
