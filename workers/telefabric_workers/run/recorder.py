"""The lines of a program become events of a worker, and the store can tell how many lines were read.

A line that is an event emits one, or several of the same monotonic time, which no neighbouring line has. Any other line
emits a log event whose ``fields.line`` is its number. So the number of the last line follows from the newest log event
and the lines behind it. Where that would not be so, since a line emitted nothing, and at intervals, the metric
`LINES_READ` says before the events of a line how many lines came before it.
"""

from __future__ import annotations

import time
from collections import Counter

from telefabric.doctor.finding import counted, counted_kinds
from telefabric.errors import UsageError
from telefabric.store.read.reader import Reader
from telefabric_schemas import decode_event, values
from telefabric_schemas.events import AnyEvent, Episode, Log, Metric, Reset, RunMetadata, Step
from telefabric_workers.foreign.lines import LOGGER, BadLines, Line, Lines, Now, text_event
from telefabric_workers.program import Ending
from telefabric_workers.worker import Worker

LINES_READ = "run/lines_read"
_MARK_EVENTS = 1_000
"""Among so many of the newest events of a stream, and those of a line, one says the number of a line."""
_OF_THE_SYSTEM = "system/"
_OF_LINES = (Step, Episode, Reset, Metric, Log, RunMetadata)


class Recorder:
    """Records the lines of one program. One thread."""

    def __init__(self, worker: Worker, lines: Lines) -> None:
        self.ending: Ending | None = None
        """How the program itself says that its run ended."""
        self.number = 0
        """Of the last line that was read, from 1."""
        self.kinds: Counter[str] = Counter()
        self.bad = BadLines()
        self._worker = worker
        self._lines = lines
        self._told = 0
        """The number that a reader of the events gives to the last line."""
        self._marked_at = 0
        """The seq of the newest event that says a line's number."""
        self._mono_ns = 0
        """Of the last line."""

    def record(self, raw: bytes) -> bool:
        """Whether the next line, with its end, is an event. If it is none, its text is."""
        self.number += 1
        now = Now(time.time_ns(), time.monotonic_ns())
        line = self._lines.read(raw, now)
        self._mono_ns = line.apart_from(self._mono_ns)
        is_event = line.is_event and self._emit(line)
        if line.reason:
            self.bad.add(self.number, line.reason)
        if not is_event:
            self._emit_text(raw, line.reason, now)
        return is_event

    def finish(self) -> None:
        """The last line was read."""
        if self._marked_at:
            self._mark(self.number)

    def _mark(self, number: int) -> None:
        self._worker.metric(LINES_READ, float(number))
        self._told, self._marked_at = number, self._worker.emitted

    def report(self) -> str:
        """What a dry run has found."""
        kinds = counted_kinds(self.kinds) or "no event"
        return "\n".join([f"{counted(self.number, 'line')}: {kinds}", *self.bad.sentences()])

    def _emit(self, line: Line) -> bool:
        """False when the worker is strict, and a value cannot be used."""
        worker = self._worker
        is_due = not self._marked_at or worker.emitted - self._marked_at > _MARK_EVENTS
        if is_due or self._told != self.number - 1:
            self._mark(self.number - 1)
        try:
            for event in line.events:
                event.agent_id = worker._named(event.agent_id)  # type: ignore[attr-defined]
                worker.emit(event)
                self.kinds[event.kind] += 1
            if line.metadata is not None:
                worker.set_metadata(line.metadata)
                self.kinds["run_metadata"] += 1
        except UsageError as error:
            self.bad.add(self.number, str(error))
            return False
        self._told += bool(line.events) or line.metadata is not None
        if line.ending is not None:
            self.ending = line.ending
            self.kinds["run_completed"] += 1
        return True

    def _emit_text(self, raw: bytes, reason: str, now: Now) -> None:
        event = text_event(raw, self.number, reason, self._worker.agent_id, now)
        if event is not None:
            self._worker.emit(event)
            self.kinds["log"] += 1
            self._told, self._marked_at = self.number, self._worker.emitted


def lines_read(reader: Reader, run_id: str) -> int | None:
    """How many lines of the output of a program were read and are stored; None for a run of another kind."""
    for stream in reversed(reader.streams(run_id)):
        since = max(stream.stored_seq - 2 * _MARK_EVENTS, 0)
        number, behind, mono_ns, more = None, 0, 0, True
        while more:
            page = reader.stream_since(stream.stream_id, since)
            since, more = page.last, page.more
            for event in map(decode_event, (stored.event for stored in page.rows)):
                anchor = _number_in(event)
                if anchor is not None:
                    number, behind, mono_ns = anchor, 0, 0
                elif isinstance(event, _OF_LINES) and not _is_of_the_system(event):
                    behind += event.mono_ns != mono_ns
                    mono_ns = event.mono_ns
        if number is not None:
            return number + behind
    return None


def _number_in(event: AnyEvent) -> int | None:
    """The number of the last line, where an event says it."""
    if isinstance(event, Metric) and event.name == LINES_READ and event.value is not None:
        return int(event.value)
    fields = values.decode(event.fields) if isinstance(event, Log) and event.logger == LOGGER else None
    number = fields.get("line") if isinstance(fields, dict) else None
    return number if isinstance(number, int) else None


def _is_of_the_system(event: AnyEvent) -> bool:
    return isinstance(event, Metric) and event.name.startswith(_OF_THE_SYSTEM)
