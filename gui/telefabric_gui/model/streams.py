"""The streams that charts draw: where the rows of each are on all axes, by the store's places and what is live."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from PySide6.QtCore import QObject, Signal

from telefabric.feed import Answer, Columns, Counts, Events, Places, RowCount
from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.model.scale import Scale
from telefabric_gui.reduction import Floats
from telefabric_gui.rows import NO_STEP, STEP_ROW, EventRows, counted

AGAIN_S = 2.0
"""How often a stream that grows is looked at again."""
_PAGE = 2_000
_LIVE_EVERY = 64
"""Of live rows, every so manieth is a place."""
_FIELDS = ["seq", "global_step", "time_ns"]
_KINDS = "step", "episode"
_NOTHING = np.empty(0, STEP_ROW)


class Source(NamedTuple):
    """A run in charts: one agent's stream of it. None for a stream that has still to be found."""

    run_id: str
    agent_id: str
    stream_id: bytes | None
    live: AgentStream | None
    grows: bool


@dataclass
class _Track:
    """The stored rows of one kind: every 1,024th, and the last. Columns are row, seq, step and time in seconds.

    A step that the events do not tell is NaN.
    """

    n: int = 0
    places: Floats = field(default_factory=lambda: np.empty((0, 4)))
    end: Floats = field(default_factory=lambda: np.empty((0, 4)))

    @property
    def known(self) -> bool:
        return not self.n or (len(self.end) > 0 and len(self.places) > 0)

    def table(self, rows: EventRows | None) -> Floats:
        """With the live rows, whose numbers go on from those that are stored."""
        stored = np.concatenate((self.places, self.end))
        records = rows.records[counted(rows.records)] if rows is not None else _NOTHING
        if not len(records):
            return stored
        seq = records["seq"].astype(np.float64)
        if len(self.end) and seq[-1] < self.end[-1, 1]:
            return stored  # the tail has not come as far as the store, so its numbers are not known
        first = self.n - (np.searchsorted(seq, self.end[-1, 1], "right") if len(self.end) else 0)
        step = np.where(records["global_step"] == NO_STEP, np.nan, records["global_step"])
        live = np.column_stack((np.arange(len(seq)) + first, seq, step, records["time_ns"] / 1e9))
        picked = np.unique(np.append(np.arange(0, len(live), _LIVE_EVERY), len(live) - 1))
        return np.concatenate((stored[stored[:, 0] < live[0, 0]], live[picked]))


@dataclass
class _Stream:
    tracks: dict[str, _Track] = field(default_factory=lambda: {kind: _Track() for kind in _KINDS})
    asked_s: float = -AGAIN_S
    known: bool = False
    """The store has answered."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """First and last seq of what is missing for good."""
    gaps_after: int = 0
    version: int = 0
    made: tuple[object, Scale] | None = None

    @property
    def stored_seq(self) -> float:
        return max((float(track.end[0, 1]) for track in self.tracks.values() if len(track.end)), default=0.0)


class Streams(QObject):
    """Looks the rows of streams up. GUI thread; answers come from the feed's threads by a signal."""

    changed = Signal()

    def __init__(self, feed: Asker, parent: QObject) -> None:
        super().__init__(parent)
        self._asking = Asking(feed, self)
        self._streams: dict[tuple[bytes, str], _Stream] = {}
        self._of_runs: dict[tuple[str, str], tuple[float, tuple[str, bytes] | None]] = {}
        """Run and wanted agent → when it was asked for, and the agent and stream that are drawn."""

    def found(self, source: Source) -> Source:
        """The same with a stream, once one is known: of the agent of this name, else of the first."""
        if source.stream_id is not None:
            return source
        asked_s, found = self._of_runs.get((source.run_id, source.agent_id), (-AGAIN_S, None))
        if found is not None:
            return source._replace(agent_id=found[0], stream_id=found[1])
        if time.monotonic() - asked_s >= AGAIN_S:
            self._of_runs[source.run_id, source.agent_id] = time.monotonic(), None
            self._asking.ask(Counts(source.run_id), partial(self._take_run, source))
        return source

    def scale(self, source: Source) -> Scale | None:
        """Where its rows are; None before the store has answered, when nothing is live either."""
        if source.stream_id is None:
            return None
        stream = self._streams.setdefault((source.stream_id, source.agent_id), _Stream())
        due = source.grows or not stream.known
        if due and time.monotonic() - stream.asked_s >= AGAIN_S:
            stream.asked_s = time.monotonic()
            self._asking.ask(Counts(source.run_id), partial(self._take_counts, source, stream))
        live = source.live
        made = stream.version, live.version if live else 0
        if stream.made is None or stream.made[0] != made:
            steps = stream.tracks["step"].table(live.steps if live else None)
            ends = stream.tracks["episode"].table(live.episodes if live else None)
            stream.made = made, Scale.of(steps, ends)
        scale = stream.made[1]
        return scale if len(scale.row) else None

    def known(self, source: Source) -> bool:
        """Whether the store has said how long the stream is, and where its rows are; it has some."""
        stream = self._streams.get((source.stream_id or b"", source.agent_id))
        if stream is None or not stream.known:
            return False
        tracks = stream.tracks.values()
        return any(track.n for track in tracks) and all(track.known for track in tracks)

    def whole_from(self, source: Source) -> int:
        """The seq from which on nothing that is live is still to be fetched from the store."""
        return source.live.whole_from(self._stored_seq(source)) if source.live is not None else 0

    def gaps(self, source: Source) -> Floats:
        """What is missing: the step before and the step behind each range, in a row of an array."""
        scale, live = self.scale(source), source.live
        if source.stream_id is None or scale is None:
            return np.empty((0, 2))
        found = live.gaps(self._stored_seq(source)) if live is not None else np.empty((0, 2))
        known = self._streams[source.stream_id, source.agent_id].gaps
        held = live.steps.records[counted(live.steps.records)] if live is not None else _NOTHING
        first = float(held["seq"][0]) if len(held) else np.inf
        ends = np.array([(gap[0] - 1, gap[1] + 1) for gap in known if gap[0] < first], np.float64)
        return np.concatenate((scale.steps_of_seqs(ends.ravel()).reshape(-1, 2), found))

    def _stored_seq(self, source: Source) -> float:
        stream = self._streams.get((source.stream_id or b"", source.agent_id))
        return stream.stored_seq if stream is not None else 0.0

    def forget(self) -> None:
        """Another feed is shown."""
        self._asking.forget()
        self._streams.clear()
        self._of_runs.clear()

    # -- asking --------------------------------------------------------------------------------------------------

    def _take_run(self, source: Source, answer: Answer) -> None:
        rows: list[RowCount] = [] if answer.page is None else [row for row in answer.page.rows if row.n]
        if not rows:
            return
        agents = sorted({row.agent_id for row in rows})
        agent = source.agent_id if source.agent_id in agents else agents[0]
        longest = max((row for row in rows if row.agent_id == agent), key=lambda row: (row.kind == "step", row.n))
        self._of_runs[source.run_id, source.agent_id] = time.monotonic(), (agent, longest.stream_id)
        self.changed.emit()

    def _take_counts(self, source: Source, stream: _Stream, answer: Answer) -> None:
        if answer.page is None:
            return
        stream.known = True
        for row in answer.page.rows:
            track = stream.tracks.get(row.kind)
            if track is None or (row.stream_id, row.agent_id) != (source.stream_id, source.agent_id):
                continue
            if row.n > track.n:
                track.n = row.n
                of = row.stream_id, row.kind, row.agent_id
                last = Columns(*of, row.n - 1, 1, _FIELDS)
                self._asking.ask(last, partial(self._take_end, stream, track))
                after = int(track.places[-1, 0]) if len(track.places) else -1
                self._ask_places(of, stream, track, after)
        gaps = Events(stream.gaps_after, source.run_id, ["gap"], None, None, _PAGE)
        self._asking.ask(gaps, partial(self._take_gaps, source, stream))
        self.changed.emit()

    def _take_gaps(self, source: Source, stream: _Stream, answer: Answer) -> None:
        if answer.page is None:
            return
        stream.gaps += [(row.seq, row.last_seq) for row in answer.page.rows if row.stream_id == source.stream_id]
        stream.gaps_after = max(stream.gaps_after, answer.page.last)
        if answer.page.rows:
            self._changed(stream)

    def _ask_places(self, of: tuple[bytes, str, str], stream: _Stream, track: _Track, after: int) -> None:
        self._asking.ask(Places(*of, after, _PAGE), partial(self._take_places, of, stream, track))

    def _take_places(self, of: tuple[bytes, str, str], stream: _Stream, track: _Track, answer: Answer) -> None:
        if answer.page is None or not answer.page.rows:
            return
        rows = answer.page.rows
        came = [
            (row.n, row.seq, np.nan if row.global_step is None else row.global_step, row.time_ns / 1e9) for row in rows
        ]
        held = track.places[track.places[:, 0] < rows[0].n]
        track.places = np.concatenate((held, np.array(came, np.float64)))
        if answer.page.more:
            self._ask_places(of, stream, track, rows[-1].n)
        self._changed(stream)

    def _take_end(self, stream: _Stream, track: _Track, answer: Answer) -> None:
        if answer.page is None or not answer.page.rows or not answer.page.rows[0].rows:
            return
        chunk = answer.page.rows[0]
        seq, step, time_ns = (float(np.frombuffer(column, "<f8")[0]) for column in chunk.columns)
        track.end = np.array([[chunk.first, seq, step, time_ns / 1e9]])
        self._changed(stream)

    def _changed(self, stream: _Stream) -> None:
        stream.version += 1
        self.changed.emit()
