"""The client's data of one agent of one run: the tables and series that a tab shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from telefabric.feed import FeedEvent, FoundFrame, FramePlace, StreamView
from telefabric_gui.rows import EPISODE_ROW, NO_STEP, STEP_ROW, EventRows, Mark
from telefabric_schemas import EXPIRED, STORED, Episode, EpisodeVoided, Frame, Metric, Reset, Step

STEP_ROWS_MAX = 100_000
EPISODE_ROWS_MAX = 50_000
STEP_BYTES_MAX = 32 * 2**20
"""Encoded steps of one track; those beyond keep their columns and lose action and observation."""
EPISODE_BYTES_MAX = 8 * 2**20
SERIES_POINTS_MAX = 50_000
STORED_FRAME_BYTES_MAX = 64 * 2**20
"""Stored frames of one track; the ones that came first go, of the episode that came first."""
FRAME_OLD_NS = 2_000_000_000
"""A picture that is so much older than a step says nothing of it."""
SERIES_MAX = 64
"""Named metrics of one track; more are not charted."""


_NAN = float("nan")


class TrackKey(NamedTuple):
    run_id: str
    agent_id: str


class Points(NamedTuple):
    """A series to draw: x rising, both float64."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    infinite: int = 0
    """Values that cannot be drawn."""


class Track:
    """Tables and series of one agent in one stream of a run. `version` rises with every change. GUI thread."""

    def __init__(self, key: TrackKey, stream_id: bytes = b"") -> None:
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
        self.streams: dict[bytes, int] = {}
        """Streams that have had events of this agent, with the number by which rows know them."""
        self.pending: list[FeedEvent] = []
        """Steps, episodes and metrics of this agent for the next `apply`."""

    def new_streams(self) -> set[bytes]:
        """Streams among the pending events that had no events before."""
        new = {event.stream_id for event in self.pending} - self.streams.keys()
        for stream_id in sorted(new):
            self.streams[stream_id] = len(self.streams)
        return new

    def apply(self, marks: dict[bytes, Iterable[Mark]]) -> None:
        """Put what is pending into the tables, and for some streams all that is missing now."""
        steps: list[tuple[Any, ...]] = []
        episodes: list[tuple[Any, ...]] = []
        step_raws: list[bytes] = []
        episode_raws: list[bytes] = []
        voids: list[tuple[int, int, int]] = []
        streams, pending, resets = self.streams, self.pending, 0
        self.pending = []
        for _, stream_id, seq, _, inner, raw, live in pending:
            if self.voided and self._is_void(inner, seq):
                continue
            if type(inner) is Step:
                steps.append(_step_row(streams[stream_id], seq, inner))
                step_raws.append(raw)
                self.live = live
            elif type(inner) is Episode:
                episodes.append(_episode_row(streams[stream_id], seq, inner))
                episode_raws.append(raw)
            elif type(inner) is Metric:
                self._add_point(inner)
            elif type(inner) is Reset:
                steps.append(_reset_row(streams[stream_id], seq, inner))
                step_raws.append(raw)
                resets += 1
            elif type(inner) is EpisodeVoided:
                voids.append((inner.env_index, inner.episode_index, seq))
                self.voided[voids[-1][:2]] = max(seq, self.voided.get(voids[-1][:2], 0))
        own = {streams[stream_id]: given for stream_id, given in marks.items() if stream_id in streams}
        self.steps.apply(steps, step_raws, own, resets=resets)
        self.episodes.apply(episodes, episode_raws, own)
        for env, episode, seq in voids:
            self._void(env, episode, seq)
        self.version += 1

    def _is_void(self, event: Any, seq: int) -> bool:
        place = getattr(event, "env_index", -1), getattr(event, "episode_index", -1)
        return type(event) is not EpisodeVoided and seq < self.voided.get(place, 0)

    def _void(self, env: int, episode: int, before: int) -> None:
        """The record keeps what is void; tables, charts and pictures do not."""
        self.steps.remove_episode(env, episode, before)
        self.episodes.remove_episode(env, episode, before)
        frames = self._stored.get((env, episode), {})
        for step in [step for step, frame in frames.items() if frame.seq < before]:
            self._stored_bytes -= len(frames.pop(step).data)
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
                place, oldest = next(iter(self._stored.items()))
                self._stored_bytes -= len(oldest.pop(next(iter(oldest))).data)
                if not oldest:
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
        there = np.flatnonzero(~np.isnan(rows.column("total")) & (rows.column("mark") == 0))
        at, y = rows.column("global_step")[there].astype(np.float64), rows.column("total")[there]
        if (at == NO_STEP).any():
            at = np.arange(len(there), dtype=np.float64)
        return _points(at, y)

    def metric(self, name: str) -> Points:
        """One named series by step."""
        points = np.array(self.metrics.get(name, ()), np.float64).reshape(-1, 2)
        return _points(points[:, 0], points[:, 1])

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


def return_so_far(steps: EventRows, position: int) -> float:
    """Sum of the rewards of the episode of a step, up to that step, as far as they are held."""
    end = position + 1 if position >= 0 else len(steps) + position + 1
    row = steps.row(end - 1)
    begin = max(0, end - 1 - 4 * (int(row["step"]) + 1))
    same = (steps.column("episode")[begin:end] == row["episode"]) & (steps.column("env")[begin:end] == row["env"])
    same &= (steps.column("stream")[begin:end] == row["stream"]) & (steps.column("mark")[begin:end] == 0)
    with np.errstate(over="ignore", invalid="ignore"):  # the sum of what users pay may well be infinite
        return float(np.nansum(steps.column("reward")[begin:end][same]))


def _points(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Points:
    """The finite points, by rising x."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if (np.diff(x) < 0).any():
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    return Points(x, y, int(np.count_nonzero(~finite)))


def _step_row(stream: int, seq: int, step: Step) -> tuple[Any, ...]:
    return (
        0, stream, seq, seq, step.env_index, step.episode_index, step.step_index,
        NO_STEP if step.global_step is None else step.global_step, _NAN if step.reward is None else step.reward,
        step.terminated, step.truncated,
        step.time_ns, False,
    )  # fmt: skip


def _reset_row(stream: int, seq: int, reset: Reset) -> tuple[Any, ...]:
    """The step before the first."""
    return (
        0, stream, seq, seq, reset.env_index, reset.episode_index, -1, NO_STEP, _NAN, False, False, reset.time_ns, True,
    )  # fmt: skip


def _episode_row(stream: int, seq: int, episode: Episode) -> tuple[Any, ...]:
    return (
        0, stream, seq, seq, episode.env_index, episode.episode_index,
        _NAN if episode.total_reward is None else episode.total_reward,
        NO_STEP if episode.length is None else episode.length,
        NO_STEP if episode.global_step is None else episode.global_step, episode.time_ns,
    )  # fmt: skip
