"""A log that a program has left, or still writes: its lines become events of streams, each once.

The streams are those of `FileStream`: the id of each is made of the run and of the first line of the run in the file.
So the store knows how many events of the file it has, and a second reading adds only what is new, under whatever name
the file is found then. A file that has less than what is stored, or something else, is not that one: it is compared
with the next stream that such a file has made, and in the end makes one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from telefabric.doctor.finding import counted, counted_kinds
from telefabric.store.read.reader import Reader
from telefabric.wire.names import DEMAND
from telefabric_schemas.events import Event, RunMetadata
from telefabric_workers.emitter import PLAIN
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.foreign.lines import BadLines, Lines, Now, run_named_in, text_event
from telefabric_workers.foreign.tail import Tail
from telefabric_workers.imports.filestream import FileStream, stream_id_of
from telefabric_workers.metadata import encode_metadata
from telefabric_workers.problems import Problem
from telefabric_workers.program import Ending
from telefabric_workers.repair import coerce, name_of

_OPEN_MAX = 16
"""Runs of one file whose streams are open: each has a spool of some MB. One that goes on is opened again."""
_HELD_MAX = 1_000
"""Lines of text at the beginning of a file that wait for a run's name."""


class _Other(Exception):
    """The file is not the one of which a stream has events; its argument is the beginning of the run in the file."""


@dataclass
class _Run:
    """One run of a file."""

    begins: bytes
    """The run and its first line in the file, as an id."""
    lines: Lines
    stream: FileStream | None
    """None in a dry run."""
    ending: Ending | None = None


@dataclass
class Report:
    """What was read, of all files that had the name."""

    lines: int = 0
    texts: int = 0
    """Lines that are no JSON object."""
    added: dict[str, Counter[str]] = field(default_factory=dict)
    """Events by run and kind."""
    bad: BadLines = field(default_factory=BadLines)
    unfinished_bytes: int = 0
    """Of a last line without its end, which is read when it has one."""
    is_whole: bool = False
    """The reading came to the end of the file."""

    def sentences(self) -> list[str]:
        nothing = "nothing new" if self.is_whole else "nothing new so far"
        found = [f"{run_id}: {counted_kinds(added) or nothing}" for run_id, added in self.added.items()]
        if self.texts * 2 > self.lines:
            found.append(
                f"{self.texts} of {counted(self.lines, 'line')} are not JSON objects and become log events: check that "
                "this is a log of JSON lines."
            )
        if self.unfinished_bytes:
            unfinished = counted(self.unfinished_bytes, "byte")
            found.append(f"The last line has {unfinished} and no end: it is read when it has one.")
        return [*found, *self.bad.sentences()] or ["No line was read."]


class LogFile:
    """Reads the file that has a name, and those that have it later. One thread; `close` it.

    Raises `EnvironmentProblem` for a file that cannot be read, and `UsageError`.
    """

    def __init__(self, path: Path, environment: WorkerEnvironment, reader: Reader | None, run_id: str | None) -> None:
        """Without a reader it is a dry run. `run_id` is that of all lines, whatever they say."""
        self.report = Report()
        self._environment, self._reader, self._given = environment, reader, run_id
        self._others: Counter[bytes] = Counter()
        """How many other files begin so."""
        self._begin(Tail(path))

    def _begin(self, tail: Tail) -> None:
        self.tail = tail
        self._number = 0
        self._runs: dict[str, _Run] = {}
        self._current = self._given
        """The run of a line that names none; None until a line that is an object has told."""
        self._held: list[bytes] = []
        """The lines before that."""

    @property
    def is_over(self) -> bool:
        """Each run in it has said how it ended."""
        return bool(self._runs) and all(run.ending is not None for run in self._runs.values())

    def read(self, *, last: bool) -> Iterator[int]:
        """Take in what is there, and yield how far it is read. `last`: the last line, too, if it is a whole object."""
        while True:
            self.report.is_whole = False
            is_over = self.tail.is_replaced() or self.tail.is_cut()
            try:
                yield from self._read(last=last, is_over=is_over)
            except _Other as other:
                self._others[other.args[0]] += 1
                self.report.lines, self.report.texts, self.report.bad, is_over = 0, 0, BadLines(), True
            self.report.is_whole = True
            if not is_over:
                return
            self.close()
            self._begin(Tail(self.tail.path))

    def close(self) -> None:
        """A run whose file was not read to its end has none. Raises `EnvironmentProblem` when not all is stored."""
        self.report.unfinished_bytes = len(self.tail.part)
        for run in self._runs.values():
            self._end(run)
        self.tail.close()

    def _read(self, *, last: bool, is_over: bool) -> Iterator[int]:
        for line in self.tail.lines():
            self._hold(line)
            yield self.tail.offset
        if is_over or (last and run_named_in(self.tail.part)[1]):
            self._hold(self.tail.last())
        if is_over or last:
            self._release()
        for run in self._runs.values():
            if run.stream is not None and run.stream.is_short:
                raise _Other(run.begins)

    def _hold(self, raw: bytes) -> None:
        """The next line; the first ones of text wait for the run that follows."""
        if not raw:
            return
        named, is_object = run_named_in(raw)
        if named and self._given is None:
            self._current = name_of(named) or self._current
        self.report.texts += not is_object and not raw.isspace()
        self._held.append(raw)
        if self._current is not None or is_object or len(self._held) == _HELD_MAX:
            self._release()

    def _release(self) -> None:
        held, self._held = self._held, []
        if held and self._current is None:
            self._current = name_of(self.tail.path.stem) or "run"
        for raw in held:
            self._take(raw, self._current or "")

    def _take(self, raw: bytes, run_id: str) -> None:
        self._number += 1
        self.report.lines += 1
        now_ns = time.time_ns()
        at = Now(now_ns, now_ns)  # so that monotonic times differ as those that the lines give
        run = self._runs.get(run_id) or self._open(run_id, raw)
        line = run.lines.read(raw, at)
        if line.reason:
            self.report.bad.add(self._number, line.reason)
        events = line.events
        if line.metadata is not None:
            usable, problems = encode_metadata(line.metadata)
            self._note(problems)
            events = (*events, RunMetadata(0, msgspec.Raw(PLAIN.encode(usable)), run.lines.agent, *at))
        if not line.is_event:
            text = text_event(raw, self._number, line.reason, run.lines.agent, at)
            events = () if text is None else (text,)
        for event in events:
            self.report.added[run_id][event.kind] += self._add(run, event)
        run.ending = line.ending or run.ending

    def _add(self, run: _Run, event: Event) -> bool:
        """Whether it is new."""
        self._note(coerce(event))
        given = event.agent_id  # type: ignore[attr-defined]
        name = name_of(given) or run.lines.agent
        if name != given:
            self._note([Problem(event.kind, "agent", f"it should be {DEMAND}")])
            event.agent_id = name  # type: ignore[attr-defined]
        if run.stream is None:
            return True
        is_new = run.stream.add(event)
        if not is_new and run.stream.is_last_stored(event) is False:
            raise _Other(run.begins)
        return is_new

    def _note(self, problems: Iterable[Problem]) -> None:
        """What of the line is left out."""
        for problem in problems:
            self.report.bad.add(self._number, f"{problem.kind}.{problem.field}: {problem.why}")

    def _open(self, run_id: str, first: bytes) -> _Run:
        begins, path, stream = stream_id_of("lines", run_id, first), self.tail.path, None
        self.report.added.setdefault(run_id, Counter())
        if self._reader is not None:
            growing = [run for run in self._runs.values() if run.stream is not None and run.stream.is_open]
            if len(growing) >= _OPEN_MAX:
                self._end(growing[0])
            stream = FileStream(
                self._environment, self._reader, stream_id_of(begins, str(self._others[begins])), run_id, path.name,
                time.time_ns(), {"file": str(path)},
            )  # fmt: skip
        run = self._runs[run_id] = _Run(begins, Lines(self._environment.agent_id), stream)
        return run

    def _end(self, run: _Run) -> None:
        if run.stream is not None:
            at_end = Ending("completed", "the end of its file") if self.report.is_whole else None
            run.stream.close(run.ending or at_end)
