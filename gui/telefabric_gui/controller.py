"""Between the feed and the window: one timer drains the feed, tracks take the events, views update once a tick."""

from __future__ import annotations

import time
from collections import deque

from PySide6.QtCore import QObject, QTimer, Signal

from telefabric.feed import (
    Connection,
    Failures,
    Feed,
    FeedEvent,
    FramePlace,
    LinkState,
    Range,
    RunView,
    StreamView,
    Update,
)
from telefabric_gui.rows import GAP, HOLE, Mark
from telefabric_gui.track import Track, TrackKey
from telefabric_schemas import Episode, EpisodeVoided, Frame, Gap, Metric, Reset, Step

TICK_MS = 50
TRACKS_MAX = 32
"""Open tabs; agents beyond are counted and not shown."""
MARKS_MAX = 500
"""Missing ranges of one stream in a table, the newest."""
LATENCIES_MAX = 1_200
"""Samples of the live path's latency: a minute of ticks."""


_OF_TRACKS = frozenset((Step, Episode, Metric, Reset, EpisodeVoided))


def _newness(track: Track) -> tuple[int, int, int]:
    """Streams that the store does not know yet are the newest; one that helps another comes after it."""
    source = track.source
    return (1, 0, 0) if source is None else (0, source.attempt, source.started_ns if source.role != "helper" else 0)


class Controller(QObject):
    """Owns the tracks. Everything on the GUI thread; the feed's own thread is behind `Feed.drain`."""

    runs_changed = Signal()
    track_opened = Signal(object)
    track_closed = Signal(object)
    ticked = Signal()
    """After each tick; views read what they show."""
    paused_changed = Signal(bool)

    def __init__(self, feed: Feed, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._feed = feed
        self.connection = Connection(LinkState.CONNECTING, "")
        self.runs: dict[str, RunView] = {}
        self.tracks: dict[tuple[str, str, bytes], Track] = {}
        """Run, agent and stream → track."""
        self.left_out: dict[tuple[str, str, bytes], int] = {}
        """Events of streams that gave way to newer ones of their agent: the store has them."""
        self.watched: list[str] = []
        self.paused = False
        self.paused_since_s = 0.0
        self.latencies: deque[float] = deque(maxlen=LATENCIES_MAX)
        self.skipped: dict[bytes, int] = {}
        self.unknown_events = 0
        """Events of kinds or versions that this program does not know."""
        self.hidden_agents: set[TrackKey] = set()
        """Agents for which there was no tab left."""
        self.failures = Failures()
        """Events and views that failed."""
        self.shown_events = 0
        self.tick_s = 0.0
        self._chosen = False
        self._run_of_stream: dict[bytes, str] = {}
        self._holes: dict[bytes, tuple[Range, ...]] = {}
        self._gaps: dict[bytes, tuple[Range, ...]] = {}
        self._reasons: dict[tuple[bytes, int], str] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self.tick)

    def start(self) -> None:
        self._feed.start()
        self._timer.start()

    def stop(self) -> None:
        """Ends the timer and the feed's thread."""
        self._timer.stop()
        self._feed.stop()

    # -- what the user asks for ----------------------------------------------------------------------------------

    def watch(self, run_id: str) -> None:
        """Open a run; once it is, this does nothing."""
        self._chosen = True
        self._watch(run_id)

    def unwatch(self, run_id: str) -> None:
        """Close a run's tabs and forget what is held of it; the store has it all."""
        if run_id not in self.watched:
            return
        self.watched.remove(run_id)
        for key in [key for key in self.tracks if key[0] == run_id]:
            self.track_closed.emit(self.tracks.pop(key))
        self.hidden_agents = {key for key in self.hidden_agents if key.run_id != run_id}
        self.left_out = {key: number for key, number in self.left_out.items() if key[0] != run_id}
        for stream_id in [one for one, of in self._run_of_stream.items() if of == run_id]:
            for table in (self._run_of_stream, self._holes, self._gaps, self.skipped):
                table.pop(stream_id, None)
            self._reasons = {key: reason for key, reason in self._reasons.items() if key[0] != stream_id}
        self._feed.watch(frozenset(self.watched))

    def want_pictures(self, run_ids: frozenset[str]) -> None:
        """Live pictures of these runs are in sight."""
        self._feed.want_pictures(run_ids)

    def ask_frame(self, place: FramePlace) -> None:
        """Ask the store for the frame of a step; the step's track gets the answer."""
        self._feed.ask_frame(place)

    def set_paused(self, paused: bool) -> None:
        """While paused, tables and charts do not change; the tracks still receive events."""
        if paused == self.paused:
            return
        self.paused = paused
        self.paused_since_s = time.monotonic()
        self.paused_changed.emit(paused)

    # -- what is shown -------------------------------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Events that have not come yet, or are being fetched."""
        return sum(last - first + 1 for ranges in self._holes.values() for first, last in ranges)

    @property
    def lost(self) -> int:
        """Events that are known to be lost for good."""
        return sum(last - first + 1 for ranges in self._gaps.values() for first, last in ranges)

    # -- the tick ------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take all that came since the last one."""
        begun = time.perf_counter()
        with self.failures.outlived("The feed"):
            self._take(self._feed.drain())
        self.tick_s = time.perf_counter() - begun
        self.ticked.emit()

    def _take(self, update: Update) -> None:
        self.connection = update.connection
        if update.connection.behind_s is not None:
            self.latencies.append(update.connection.behind_s)
        if update.runs is not None:
            self._take_runs(update.runs)
        self._take_events(update)
        if update.frame is not None:
            place = update.frame.place
            if track := self.tracks.get((place.run_id, place.agent_id, place.stream_id or b"")):
                track.found = update.frame

    def _take_runs(self, runs: tuple[RunView, ...]) -> None:
        self.runs = {run.run_id: run for run in runs}
        if not self._chosen and not self.watched and runs:
            self._watch(next((run.run_id for run in runs if run.state == "running"), runs[0].run_id))
        for track in self.tracks.values():
            track.source = self._source_of(track.key.run_id, track.stream_id) or track.source
        self.runs_changed.emit()

    def _watch(self, run_id: str) -> None:
        if run_id in self.watched:
            return
        agents = max(1, len(self.runs[run_id].agents)) if run_id in self.runs else 1
        while self.watched and len(self.tracks) + agents > TRACKS_MAX:
            self.unwatch(self.watched[0])
        self.watched.append(run_id)
        self._feed.watch(frozenset(self.watched))

    def _take_events(self, update: Update) -> None:
        tracks = self.tracks
        for event in update.events:
            inner = event.event
            kind = type(inner)
            if kind in _OF_TRACKS:
                key = (event.run_id, inner.agent_id, event.stream_id)  # type: ignore[union-attr]
                track = tracks.get(key) or self._open(*key)
                if track is not None:
                    track.pending.append(event)
            else:
                self._take_other(event)
        self.shown_events += len(update.events)
        changed = self._take_missing(update)
        for track in list(self.tracks.values()):
            fresh = track.new_streams()
            self._run_of_stream.update((stream_id, track.key.run_id) for stream_id in fresh)
            streams = fresh | {stream_id for stream_id in changed if stream_id in track.streams}
            if streams or track.pending:
                with self.failures.outlived(f"Agent {track.key.agent_id} of {track.key.run_id}"):
                    track.apply({stream_id: self._marks(stream_id) for stream_id in streams})

    def _take_other(self, event: FeedEvent) -> None:
        if event.event is None:
            self.unknown_events += 1
        elif isinstance(event.event, Frame):
            if track := self.tracks.get((event.run_id, event.event.agent_id, event.stream_id)):
                track.show_frame(event.event)
        elif isinstance(event.event, Gap):
            self._reasons[event.stream_id, event.seq] = event.event.reason

    def _open(self, run_id: str, agent_id: str, stream_id: bytes) -> Track | None:
        """A track for a stream's first event of an agent, unless nobody watches its run any more or no room is left."""
        key, of_stream = TrackKey(run_id, agent_id), (run_id, agent_id, stream_id)
        if run_id not in self.watched:
            return None
        if of_stream in self.left_out:
            self.left_out[of_stream] += 1
            return None
        track = Track(key, stream_id)
        track.source = self._source_of(run_id, stream_id)
        if len(self.tracks) >= TRACKS_MAX and not self._make_room(track):
            return None
        self.tracks[of_stream] = track
        self.track_opened.emit(track)
        return track

    def tracks_of(self, key: TrackKey) -> list[Track]:
        """The tracks of one agent of a run, one per stream: newest attempt first, within it newest stream first."""
        found = [track for track in reversed(self.tracks.values()) if track.key == key]
        return sorted(found, key=_newness, reverse=True)

    def _make_room(self, track: Track) -> bool:
        """Let an older stream of an agent go that has a newer one; if none has, the new track's agent is hidden."""
        groups = [self.tracks_of(key) for key in {one.key for one in self.tracks.values()}]
        oldest = [group[-1] for group in groups if len(group) > 1 or group[0].key == track.key]
        if not oldest:
            self.hidden_agents.add(track.key)
            return False
        gone = min([*oldest, track], key=_newness)
        self.left_out[*gone.key, gone.stream_id] = 1 if gone is track else gone.steps.events
        if gone is not track:
            self.track_closed.emit(self.tracks.pop((*gone.key, gone.stream_id)))
        return gone is not track

    def _source_of(self, run_id: str, stream_id: bytes) -> StreamView | None:
        run = self.runs.get(run_id)
        return next((one for one in run.streams if one.stream_id == stream_id), None) if run else None

    def _take_missing(self, update: Update) -> set[bytes]:
        for stream_id, skipped in update.skipped.items():
            self.skipped[stream_id] = self.skipped.get(stream_id, 0) + skipped
        self._holes.update(update.holes)
        self._gaps.update(update.gaps)
        return update.holes.keys() | update.gaps.keys()

    def _marks(self, stream_id: bytes) -> list[Mark]:
        holes = [Mark(first, last, HOLE) for first, last in self._holes.get(stream_id, ())]
        gaps = [
            Mark(first, last, GAP, self._reasons.get((stream_id, first), ""))
            for first, last in self._gaps.get(stream_id, ())
        ]
        return sorted(holes + gaps)[-MARKS_MAX:]
