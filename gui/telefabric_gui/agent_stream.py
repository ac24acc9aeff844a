"""What the client holds of one agent in one stream of a run: the tables and series that a tab shows."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from telefabric.feed import FeedEvent, FoundFrame, FramePlace, StreamView
from telefabric_gui.rows import (
    EPISODE_ROW,
    EVENT,
    NO_STEP,
    STEP_ROW,
    VOID,
    EventRows,
    Mark,
    Row,
    counted,
    episode_row,
    step_row,
)
from telefabric_schemas import EXPIRED, STORED, Episode, EpisodeVoided, Frame, Metric, Reset, Step

STEP_ROWS_MAX = 100_000
EPISODE_ROWS_MAX = 50_000
STEP_BYTES_MAX = 32 * 2**20
"""Encoded steps of one agent's stream; those beyond keep their columns and lose action and observation."""
EPISODE_BYTES_MAX = 8 * 2**20
SERIES_POINTS_MAX = 50_000
STORED_FRAME_BYTES_MAX = 64 * 2**20
"""Stored frames of one agent's stream; the ones that came first go, of the episode that came first."""
FRAME_OLD_NS = 2_000_000_000
"""A picture that is so much older than a step says nothing of it."""
SERIES_MAX = 64
"""Named metrics of one agent's stream; more are not charted."""


class AgentKey(NamedTuple):
    run_id: str
    agent_id: str


class Points(NamedTuple):
    """A series to draw: x rising, both float64."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    infinite: int = 0
    """Values that cannot be drawn."""


class AgentStream:
    """Tables and series of one agent in one stream of a run. `version` rises with every change. GUI thread."""

    def __init__(self, key: AgentKey, stream_id: bytes = b"") -> None:
        self.key = key
        self.stream_id = stream_id
        self.source: StreamView | None = None
        """The store's data of the stream; None until it comes."""
        self.steps = EventRows(STEP_ROW, STEP_ROWS_MAX, STEP_BYTES_MAX)
        self.episodes = EventRows(EPISODE_ROW, EPISODE_ROWS_MAX, EPISODE_BYTES_MAX)
        self.metrics: dict[str, deque[tuple[float, float]]] = {}
        self.version = 0
        self.frame: Frame | None = None
        """The newest picture of the environment."""
        self._stored: dict[tuple[int, int], dict[int, Frame]] = {}
        """Stored frames by environment and episode, and by step."""
        self._stored_bytes = 0
        self.found: FoundFrame | None = None
        """The last question to the store."""
        self.voided: dict[tuple[int, int], int] = {}
        """Environment and episode → the seq before which its events do not count."""
        self.live = False
        """The newest step came over the live path."""
        self.pending: list[FeedEvent] = []
        """Steps, episodes and metrics of this agent for the next `apply`."""

    def apply(self, marks: Iterable[Mark] | None = None) -> None:
        """Put what is pending into the tables, and all that is missing now, if that has changed."""
        steps: list[Row] = []
        episodes: list[Row] = []
        voids: list[tuple[int, int, int]] = []
        pending, self.pending = self.pending, []
        for _, _, seq, _, inner, raw, live in pending:
            void = bool(self.voided) and self._is_void(inner, seq)
            if isinstance(inner, Step | Reset):
                steps.append(_voided(step_row(seq, inner, raw)) if void else step_row(seq, inner, raw))
                self.live = live if type(inner) is Step and not void else self.live
            elif isinstance(inner, Episode):
                episodes.append(_voided(episode_row(seq, inner, raw)) if void else episode_row(seq, inner, raw))
            elif void:
                continue
            elif isinstance(inner, Metric):
                self._add_point(inner)
            elif isinstance(inner, EpisodeVoided):
                place = inner.env_index, inner.episode_index
                voids.append((*place, seq))
                self.voided[place] = max(seq, self.voided.get(place, 0))
        self.steps.apply(steps, marks)
        self.episodes.apply(episodes, marks)
        for env, episode, seq in voids:
            self._void(env, episode, seq)
        self.version += 1

    def _is_void(self, event: Any, seq: int) -> bool:
        place = getattr(event, "env_index", -1), getattr(event, "episode_index", -1)
        return type(event) is not EpisodeVoided and seq < self.voided.get(place, 0)

    def _void(self, env: int, episode: int, before: int) -> None:
        """The record keeps what is void; tables, charts and pictures do not."""
        self.steps.void_episode(env, episode, before)
        self.episodes.void_episode(env, episode, before)
        for frame in list(self._stored.get((env, episode), {}).values()):
            if frame.seq < before:
                self._forget(frame)
        if self.frame is not None and (self.frame.env_index, self.frame.episode_index) == (env, episode):
            self.frame = None

    def show_frame(self, frame: Frame) -> None:
        """Keep a picture, unless a newer one has come already; and a stored one, with those of its episode."""
        if frame.encoding in (EXPIRED, STORED) or (frame.seq and self._is_void(frame, frame.seq)):
            return
        if self.frame is None or frame.time_ns >= self.frame.time_ns:
            self.frame = frame
        if frame.seq:
            episode = self._stored.setdefault((frame.env_index, frame.episode_index), {})
            if frame.step_index not in episode:
                episode[frame.step_index] = frame
                self._stored_bytes += len(frame.data)
            while self._stored_bytes > STORED_FRAME_BYTES_MAX:
                self._forget(next(iter(next(iter(self._stored.values())).values())))

    def _forget(self, frame: Frame) -> None:
        place = frame.env_index, frame.episode_index
        self._stored_bytes -= len(self._stored[place].pop(frame.step_index).data)
        if not self._stored[place]:
            del self._stored[place]

    def frame_of(self, row: Any, *, exact: bool) -> Frame | None:
        """The picture of a step, or the nearest stored one of its episode; when not `exact`, one of about its time."""
        frame = self.frame
        if not exact:
            return frame if frame is not None and abs(int(row["time_ns"]) - frame.time_ns) < FRAME_OLD_NS else None
        env, episode, step = int(row["env"]), int(row["episode"]), int(row["step"])
        if frame is not None and (env, episode, step) == (frame.env_index, frame.episode_index, frame.step_index):
            return frame
        held = list(self._stored.get((env, episode), {}).values())
        answer = self.answer(row)
        if answer is not None and answer.frame is not None and answer.frame.encoding != EXPIRED:
            held.append(answer.frame)
        return min(held, key=lambda one: (abs(one.step_index - step), one.step_index), default=None)

    def place_of(self, row: Any) -> FramePlace:
        place = int(row["env"]), int(row["episode"]), int(row["step"])
        return FramePlace(*self.key, *place, self.stream_id or None)

    def answer(self, row: Any) -> FoundFrame | None:
        """The store's, if it was asked for this step."""
        return self.found if self.found is not None and self.found.place == self.place_of(row) else None

    def returns(self) -> Points:
        """Episode returns by step, or by episode when the events do not tell the step."""
        rows = self.episodes
        there = np.flatnonzero(~np.isnan(rows.column("total")) & (rows.column("mark") == EVENT))
        at, y = rows.column("global_step")[there].astype(np.float64), rows.column("total")[there]
        if (at == NO_STEP).any():
            at = np.arange(len(there), dtype=np.float64)
        return _points(at, y)

    def metric(self, name: str) -> Points:
        """One named series by step."""
        points = np.array(self.metrics.get(name, ()), np.float64).reshape(-1, 2)
        return _points(points[:, 0], points[:, 1])

    def metric_at(self, name: str, step: int) -> float | None:
        """The value of a series at a step; None if it has none there, or not any more."""
        points = self.metrics.get(name, ())
        at = bisect_right(points, step, key=itemgetter(0)) - 1
        return points[at][1] if at >= 0 and points[at][0] == step else None

    def steps_whole_from(self) -> int:
        """From this seq on, all events have come, or are holes; of older times, some kinds may have come alone."""
        rows = counted(self.steps.records)
        return int(self.steps.column("seq")[rows.argmax()]) if rows.any() else 0

    def steps_per_s(self) -> float | None:
        """Steps in the newest second, by the worker's clock."""
        times = self.steps.column("time_ns")[-20_000:]
        times = times[times > 0]
        if len(times) < 2:
            return None
        newest = times[-1]
        recent = times[times > newest - 1_000_000_000]
        span_s = (newest - recent[0]) / 1e9 if len(recent) > 1 else 0.0
        return (len(recent) - 1) / span_s if span_s > 0 else None

    def _add_point(self, metric: Metric) -> None:
        if metric.value is None:
            return
        points = self.metrics.get(metric.name)
        if points is None:
            if len(self.metrics) >= SERIES_MAX:
                return
            points = self.metrics[metric.name] = deque(maxlen=SERIES_POINTS_MAX)
        points.append((float(len(points) if metric.global_step is None else metric.global_step), metric.value))


def _points(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Points:
    """The finite points, by rising x."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if (np.diff(x) < 0).any():
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    return Points(x, y, int(np.count_nonzero(~finite)))


def _voided(row: Row) -> Row:
    """A row that keeps its number, and is not shown."""
    return (VOID, *row[1:-1], b"")
