"""Between the feed and the window: one timer drains the feed, streams take the events, views update once a tick."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from telefabric.feed import (
    Answer,
    Asked,
    Connection,
    Counts,
    Failures,
    Feed,
    FeedEvent,
    LinkState,
    Question,
    Range,
    RunView,
    StreamView,
    Update,
)
from telefabric_gui import agent_stream
from telefabric_gui.agent_stream import AgentKey, AgentStream
from telefabric_gui.collector import Collector
from telefabric_gui.formatting import plural
from telefabric_gui.model.asking import Asking
from telefabric_gui.model.drops import Drops, drops_of
from telefabric_gui.redraw import TICK_MS, Redraw, is_due
from telefabric_gui.rows import GAP, HOLE, Mark
from telefabric_gui.sight import Sight
from telefabric_schemas import Episode, EpisodeVoided, Frame, Gap, Metric, Reset, Step

AGENTS_AGAIN_MS = 2_000
"""When the store did not say which agents a run has."""
STREAMS_MAX = 32
"""Open tabs; agents beyond are counted and not shown."""
MARKS_MAX = 500
"""Missing ranges of one stream in a table, the newest."""
ANSWER_S = 8.0
"""How long the answer to an edit is in sight."""
ANSWERS_MAX = 3
"""The number of last answers that are shown."""
LATENCIES_MAX = 1_200
"""Samples of the live path's latency: a minute of ticks, each of which brought live events."""


StreamKey = tuple[str, str, bytes]
"""Run, agent and stream."""
OF_MACHINE = "system/"
"""How the names of metrics begin that a worker sends by itself: an agent without any other event has no tab."""
EARLY_MAX = 1_000
"""Of them that wait for an agent's first other event; the store has those before."""
_OF_AGENTS = frozenset((Step, Episode, Metric, Reset, EpisodeVoided))


@dataclass
class Missing:
    """What has not come of one stream, and its run."""

    run_id: str = ""
    holes: tuple[Range, ...] = ()
    gaps: tuple[Range, ...] = ()
    reasons: dict[int, str] = field(default_factory=dict)
    """First seq of a gap → why it is lost."""
    skipped: int = 0

    def marks(self) -> list[Mark]:
        """The newest ranges that tables show."""
        holes = [Mark(*missing, HOLE) for missing in self.holes]
        gaps = [Mark(*lost, GAP, self.reasons.get(lost.first, "")) for lost in self.gaps]
        return sorted(holes + gaps)[-MARKS_MAX:]


def _newness(stream: AgentStream) -> tuple[int, int, int]:
    """Streams that the store does not know yet are the newest; one that helps another comes after it."""
    source = stream.source
    return (1, 0, 0) if source is None else (0, source.attempt, source.started_ns if source.role != "helper" else 0)


class Controller(QObject):
    """Owns the streams of agents. Everything on the GUI thread; the feed's own thread is behind `Feed.drain`."""

    runs_changed = Signal(object, object)
    """The runs that came or changed, and the names of those that are gone."""
    stream_opened = Signal(object)
    stream_closed = Signal(object)
    ticked = Signal()
    """After each tick; views read what they show."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self.feed = feed
        self.connection = Connection(LinkState.CONNECTING, "")
        self.runs: dict[str, RunView] = {}
        self.streams: dict[StreamKey, AgentStream] = {}
        """By run, agent and stream."""
        self.left_out: dict[tuple[str, str, bytes], int] = {}
        """Events of streams that gave way to newer ones of their agent: the store has them."""
        self.watched: list[str] = []
        self.resting: frozenset[str] = frozenset()
        """Open runs that nobody has in sight."""
        self._sight = Sight()
        self.redraw = Redraw()
        self._ticks = 0
        self.latencies: deque[float] = deque(maxlen=LATENCIES_MAX)
        self.unknown_events = 0
        """Events of kinds or versions that this program does not know."""
        self.hidden_agents: set[AgentKey] = set()
        """Agents for which there was no tab left."""
        self._early: defaultdict[StreamKey, deque[FeedEvent]] = defaultdict(lambda: deque(maxlen=EARLY_MAX))
        """Metrics of the machine, by stream, of agents that have shown nothing else yet."""
        self.failures = Failures()
        """Events and views that failed."""
        self.shown_events = 0
        self.tick_s = 0.0
        self._answers: deque[str] = deque(maxlen=ANSWERS_MAX)
        self._answered_s, self._edits_left = 0.0, 0
        self._asking = Asking(feed, self)
        self._chosen = False
        self._missing: defaultdict[bytes, Missing] = defaultdict(Missing)
        self._collector = Collector(self)
        self._timer = QTimer(self, interval=TICK_MS)
        self._timer.timeout.connect(self.tick)

    def start(self) -> None:
        self._collector.start()
        self.feed.start()
        self._timer.start()

    def stop(self) -> None:
        """Ends the timer and the feed's threads."""
        self._timer.stop()
        self.feed.stop()
        self._collector.stop()

    # -- what the user asks for ----------------------------------------------------------------------------------

    def use(self, feed: Feed) -> None:
        """Show another feed: forget all of the one before, which ends on a thread of its own, and start this one."""
        for run_id in list(self.watched):
            self.unwatch(run_id)
        threading.Thread(target=self.feed.stop, name="telefabric-feed-end", daemon=True).start()
        self._asking.close()
        self._asking.deleteLater()
        self.feed, self._asking = feed, Asking(feed, self)
        self.connection = Connection(LinkState.CONNECTING, "")
        gone, self.runs = tuple(self.runs), {}
        self.left_out.clear()
        self.hidden_agents.clear()
        self.latencies.clear()
        self._missing.clear()
        self.shown_events = self.unknown_events = 0
        self._chosen = False
        self._answers.clear()
        feed.start()
        self.runs_changed.emit((), gone)

    def watch(self, run_id: str) -> None:
        """Open a run; once it is, this does nothing."""
        self._chosen = True
        self._watch(run_id)

    def edit(self, run_id: str, command: str, value: object = None) -> None:
        """Ask for an edit of a run; `answer` says what became of it."""
        self.feed.edit(run_id, command, value)

    def ask(self, question: Question[Any], answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        """Ask the store of the feed that is shown; `answered` is called on a thread of the feed."""
        return self.feed.ask(question, answered, urgent=urgent)

    def unwatch(self, run_id: str) -> None:
        """Close a run's tabs and forget what is held of it; the store has it all."""
        if run_id not in self.watched:
            return
        self.watched.remove(run_id)
        for key in [key for key in self.streams if key[0] == run_id]:
            self.stream_closed.emit(self.streams.pop(key))
        self.hidden_agents = {key for key in self.hidden_agents if key.run_id != run_id}
        self.left_out = {key: number for key, number in self.left_out.items() if key[0] != run_id}
        for early in [key for key in self._early if key[0] == run_id]:
            del self._early[early]
        for stream_id in [stream_id for stream_id, missing in self._missing.items() if missing.run_id == run_id]:
            del self._missing[stream_id]
        self.feed.watch(frozenset(self.watched))

    def show_runs(self, in_sight: frozenset[str]) -> None:
        """These runs are in sight: the other open ones rest after a moment, and go on when they are seen again."""
        resting = self._sight.resting({key[0] for key in self.streams}, in_sight)
        woken, self.resting = self.resting - resting, resting
        again = self.feed.rest(resting)
        for key, stream in self.streams.items():
            if key[2] in again:
                stream.begin_again()
        for run_id in woken:
            self._look_for_agents(run_id)

    # -- what is shown -------------------------------------------------------------------------------------------

    @property
    def answer(self) -> str:
        """What became of the last edits, for a while, and how many are under way."""
        if time.monotonic() - self._answered_s >= ANSWER_S:
            self._answers.clear()
        left = f"{plural(self._edits_left, 'edit')} to do." if self._edits_left > 1 else ""
        return " ".join((*self._answers, left)).strip()

    @property
    def missing(self) -> int:
        """Events that have not come yet, or are being fetched."""
        return sum(last - first + 1 for one in self._missing.values() for first, last in one.holes)

    @property
    def lost(self) -> int:
        """Events that are known to be lost for good."""
        return sum(last - first + 1 for one in self._missing.values() for first, last in one.gaps)

    @property
    def skipped(self) -> int:
        """Events that the feed left out, because they are old or too many; the store has them."""
        return sum(one.skipped for one in self._missing.values())

    def drops_of(self, key: AgentKey, stream_id: bytes, frames: int = 0) -> Drops:
        """What a tab of this stream does not show; `frames` are pictures that it skipped."""
        one = self._missing.get(stream_id, Missing())
        lost, waiting = (sum(last - first + 1 for first, last in ranges) for ranges in (one.gaps, one.holes))
        left_out = sum(number for of, number in self.left_out.items() if of[:2] == key)
        reasons = one.reasons.values() if lost else ()
        return drops_of(lost, reasons, waiting, left_out=left_out, older=one.skipped, frames=frames)

    def streams_of(self, key: AgentKey) -> list[AgentStream]:
        """The streams of one agent of a run: newest attempt first, within it newest stream first."""
        found = [stream for stream in reversed(self.streams.values()) if stream.key == key]
        return sorted(found, key=_newness, reverse=True)

    def held_of(self, run_id: str, agent_id: str) -> tuple[AgentStream | None, bool]:
        """What is held of an agent of a run, else of its first agent; and whether the run still goes on."""
        run = self.runs.get(run_id)
        found = self.streams_of(AgentKey(run_id, agent_id))
        found = found or [stream for stream in self.streams.values() if stream.key.run_id == run_id]
        return found[0] if found else None, run is not None and run.finished_ns is None

    # -- the tick ------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take all that came since the last one."""
        begun = time.perf_counter()
        with self.failures.outlived("The feed"):
            self._take(self.feed.drain())
        self.tick_s = time.perf_counter() - begun
        self.ticked.emit()

    def _take(self, update: Update) -> None:
        before, self.connection = self.connection, update.connection
        if update.connection.behind_s is not None and update.connection.received != before.received:
            self.latencies.append(update.connection.behind_s)
        if update.runs or update.gone:
            self._take_runs(update.runs or (), update.gone)
        self._take_events(update)
        self._edits_left = update.edits_left
        if update.answers:
            self._answers.extend(update.answers)
            self._answered_s = time.monotonic()

    def _take_runs(self, changed: tuple[RunView, ...], gone: tuple[str, ...]) -> None:
        for run_id in gone:
            self.runs.pop(run_id, None)
        self.runs.update((run.run_id, run) for run in changed)
        if not self._chosen and not self.watched and changed:
            self._watch(next((run.run_id for run in changed if run.state == "running"), changed[0].run_id))
        for stream in self.streams.values():
            stream.source = self._source_of(stream.key.run_id, stream.stream_id) or stream.source
        self.runs_changed.emit(changed, gone)

    def _watch(self, run_id: str) -> None:
        if run_id in self.watched:
            return
        agents = max(1, len(self.runs[run_id].agents)) if run_id in self.runs else 1
        while self.watched and len(self.streams) + agents > STREAMS_MAX:
            self.unwatch(self.watched[0])
        self.watched.append(run_id)
        self.feed.watch(frozenset(self.watched))
        self._look_for_agents(run_id)

    def _look_for_agents(self, run_id: str) -> None:
        """Open the streams of agents that emit no more: of them nothing may come by itself."""
        if run_id in self.watched:
            self._asking.ask(Counts(run_id), partial(self._take_agents, run_id))

    def _take_agents(self, run_id: str, answer: Answer) -> None:
        if answer.page is None:
            QTimer.singleShot(AGENTS_AGAIN_MS, self, lambda: self._look_for_agents(run_id))
            return
        found = {(run_id, row.agent_id, row.stream_id) for row in answer.page.rows if row.kind in ("step", "episode")}
        sources = {key: self._source_of(run_id, key[2]) for key in found}
        for key in sorted(found, key=lambda key: (source.started_ns if (source := sources[key]) else 0, key)):
            if key not in self.streams and key not in self.left_out:
                self._open(*key)

    def _take_events(self, update: Update) -> None:
        for event in update.events:
            inner = event.event
            if type(inner) in _OF_AGENTS:
                key = (event.run_id, inner.agent_id, event.stream_id)  # type: ignore[union-attr]
                if key not in self.streams and type(inner) is Metric and inner.name.startswith(OF_MACHINE):
                    self._early[key].append(event)
                    continue
                stream = self.streams.get(key) or self._open(*key)
                if stream is not None:
                    stream.pending.append(event)
            else:
                self._take_other(event)
            self._missing[event.stream_id].run_id = event.run_id
        self.shown_events += len(update.events)
        for stream_id, skipped in update.skipped.items():
            self._missing[stream_id].skipped += skipped
        for stream_id, holes in update.holes.items():
            self._missing[stream_id].holes = holes
        for stream_id, gaps in update.gaps.items():
            self._missing[stream_id].gaps = gaps
        changed = update.holes.keys() | update.gaps.keys()
        self._ticks += 1
        for number, stream in enumerate(list(self.streams.values())):
            stream.marks_changed |= stream.version == 0 or stream.stream_id in changed
            due = is_due(self.redraw.tables_ms, self._ticks + number)  # not all of them with the same tick
            if due and (stream.marks_changed or stream.pending):
                with self.failures.outlived(f"Agent {stream.key.agent_id} of {stream.key.run_id}"):
                    marks = self._missing[stream.stream_id].marks() if stream.marks_changed else None
                    stream.marks_changed = False
                    stream.steps.rows_max = min(self.redraw.rows_max, agent_stream.STEP_ROWS_MAX)
                    stream.apply(marks)

    def _take_other(self, event: FeedEvent) -> None:
        if event.event is None:
            self.unknown_events += 1
        elif isinstance(event.event, Frame):
            if stream := self.streams.get((event.run_id, event.event.agent_id, event.stream_id)):
                stream.show_frame(event.event)
        elif isinstance(event.event, Gap):
            self._missing[event.stream_id].reasons[event.seq] = event.event.reason

    def _open(self, run_id: str, agent_id: str, stream_id: bytes) -> AgentStream | None:
        """For a stream's first event of an agent, unless nobody watches its run any more or no room is left."""
        key = run_id, agent_id, stream_id
        if run_id not in self.watched:
            return None
        if key in self.left_out:
            self.left_out[key] += 1
            return None
        stream = AgentStream(AgentKey(run_id, agent_id), stream_id)
        stream.source = self._source_of(run_id, stream_id)
        if len(self.streams) >= STREAMS_MAX and not self._make_room(stream):
            return None
        self.streams[key] = stream
        stream.pending.extend(self._early.pop(key, ()))
        self.stream_opened.emit(stream)
        return stream

    def _make_room(self, stream: AgentStream) -> bool:
        """Let an older stream of an agent go that has a newer one; if none has, the new stream's agent is hidden."""
        groups = [self.streams_of(key) for key in {one.key for one in self.streams.values()}]
        oldest = [group[-1] for group in groups if len(group) > 1 or group[0].key == stream.key]
        if not oldest:
            self.hidden_agents.add(stream.key)
            return False
        gone = min([*oldest, stream], key=_newness)
        key = (*gone.key, gone.stream_id)
        self.left_out[key] = 1 if gone is stream else gone.steps.events
        if gone is stream:
            return False
        self.stream_closed.emit(self.streams.pop(key))
        return True

    def _source_of(self, run_id: str, stream_id: bytes) -> StreamView | None:
        streams = self.runs[run_id].streams if run_id in self.runs else ()
        return next((one for one in streams if one.stream_id == stream_id), None)
