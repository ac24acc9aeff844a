"""What the client holds of one agent in one stream of a run: the tables and series that a tab shows."""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from telefabric.feed import FeedEvent, StreamView
from telefabric_gui.budget import Part, Sort
from telefabric_gui.formatting import decoded
from telefabric_gui.held_frames import HeldFrames
from telefabric_gui.info import INFO, number_in, part_of, paths_of
from telefabric_gui.reduction import Floats
from telefabric_gui.rows import (
    EPISODE_ROW,
    EVENT,
    GAP,
    HOLE,
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
from telefabric_gui.tail import Tail
from telefabric_schemas import EXPIRED, STORED, Episode, EpisodeVoided, Frame, Metric, Reset, Step, event_of

STEP_ROWS_MAX = 100_000
EPISODE_ROWS_MAX = 50_000
STEP_BYTES_MAX = 32 * 2**20
"""Encoded steps of one agent's stream; those beyond keep their columns and lose action and observation."""
EPISODE_BYTES_MAX = 8 * 2**20
STORED_FRAME_BYTES_MAX = 64 * 2**20
"""Stored frames of one agent's stream; the ones that came first go, of the episode that came first."""
NEWEST_ROWS = 5_000
"""By these the pace of replay is known, and how each environment is."""
FRAME_OLD_NS = 2_000_000_000
"""A picture that is so much older than a step says nothing of it."""
SERIES_MAX = 64
"""Named metrics of one agent's stream, and named parts of `info`; more are not charted."""
RAW_EVENTS_MAX = 100
"""Events that the raw view lists."""
RAW_BYTES_MAX = 8 * 2**20
"""The newest events that are kept as they came, most of them in the tables, too."""
_PART_VALUES_FIRST = 4_096
"""Steps in memory that are decoded when a part of `info` is first drawn; the store has those before."""
_PART_VALUES_A_DRAIN = 512
"""Of more steps in one drain, the newest are decoded for charts, which takes 5 ms; the store has the others."""
_PART_STEPS = 16
"""Steps of one drain that are looked at for new parts of `info`."""

_FIRST_SEQS = 3
"""The beginning and the metadata of a run come before its first step."""
RETURN, REWARD, METRIC = "return", "reward", "metric/"
"""Names of series in the store's overview; of metrics, how they begin."""


class AgentKey(NamedTuple):
    run_id: str
    agent_id: str


class AgentStream:
    """Tables and series of one agent in one stream of a run. `version` rises with every change. GUI thread."""

    def __init__(self, key: AgentKey, stream_id: bytes = b"") -> None:
        self.key = key
        self.stream_id = stream_id
        self.source: StreamView | None = None
        """The store's data of the stream; None until it comes."""
        self.steps = EventRows(STEP_ROW, STEP_ROWS_MAX, STEP_BYTES_MAX)
        self.episodes = EventRows(EPISODE_ROW, EPISODE_ROWS_MAX, EPISODE_BYTES_MAX)
        self.metrics: dict[str, Tail] = {}
        self.raws: dict[int, bytes] = {}
        """The newest events, of all kinds that come, encoded, by seq; the newest first."""
        self._parts: dict[str, Tail] = {}
        """Parts of `info` that were asked for, by path."""
        self._part_names: dict[str, None] = {}
        """Paths of numbers in `info` that have been seen."""
        self.version = 0
        self.frame: Frame | None = None
        """The newest picture of the environment."""
        self.held = HeldFrames(STORED_FRAME_BYTES_MAX)
        """Stored pictures."""
        self.voided: dict[tuple[int, int], int] = {}
        """Environment and episode → the seq before which its events do not count."""
        self.live = False
        """The newest step came over the live path."""
        self.marks_changed = False
        """Other events are missing than at the last `apply`."""
        self.pending: list[FeedEvent] = []
        """Steps, episodes and metrics of this agent for the next `apply`."""

    def apply(self, marks: Collection[Mark] | None = None) -> None:
        """Put what is pending into the tables, and all that is missing now, if that has changed."""
        steps: list[Row] = []
        episodes: list[Row] = []
        voids: list[tuple[int, int, int]] = []
        fresh: list[Step] = []
        pending, self.pending = self.pending, []
        self._see_parts(pending)
        self._keep_raws(pending)
        for _, _, seq, _, inner, raw, live in pending:
            void = bool(self.voided) and self._is_void(inner, seq)
            if isinstance(inner, Step | Reset):
                steps.append(_voided(step_row(seq, inner, raw)) if void else step_row(seq, inner, raw))
                if type(inner) is Step and not void:
                    self.live = live
                    fresh.append(inner)
            elif isinstance(inner, Episode):
                episodes.append(_voided(episode_row(seq, inner, raw)) if void else episode_row(seq, inner, raw))
            elif void:
                continue
            elif isinstance(inner, Metric):
                self._add_value(seq, inner)
            elif isinstance(inner, EpisodeVoided):
                place = inner.env_index, inner.episode_index
                voids.append((*place, seq))
                self.voided[place] = max(seq, self.voided.get(place, 0))
        self._add_parts(fresh)
        for gap in [mark for mark in set(marks or ()) - self.steps.marks if mark.kind == GAP]:
            for values in (*self.metrics.values(), *self._parts.values()):
                values.remove(gap.first, gap.last)
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
        self._parts.clear()  # they are made again of the steps that are left
        self.held.void((env, episode), before)
        if self.frame is not None and (self.frame.env_index, self.frame.episode_index) == (env, episode):
            self.frame = None

    def show_frame(self, frame: Frame) -> None:
        """Keep a picture, unless a newer one has come already; and a stored one in any case."""
        if frame.encoding in (EXPIRED, STORED) or (frame.seq and self._is_void(frame, frame.seq)):
            return
        if self.frame is None or frame.time_ns >= self.frame.time_ns:
            self.frame = frame
        if frame.seq:
            self.held.add(frame)

    def keep_stored(self, frame: Frame) -> None:
        """Keep a picture that the store was asked for."""
        if not self._is_void(frame, frame.seq):
            self.held.add(frame)

    def frame_of(self, row: Any, *, exact: bool) -> Frame | None:
        """The picture of a step, or the nearest held one of its episode; when not `exact`, one of about its time."""
        frame = self.frame
        if not exact:
            return frame if frame is not None and abs(int(row["time_ns"]) - frame.time_ns) < FRAME_OLD_NS else None
        env, episode, step = int(row["env"]), int(row["episode"]), int(row["step"])
        if frame is not None and (env, episode, step) == (frame.env_index, frame.episode_index, frame.step_index):
            return frame
        return self.held.nearest((env, episode), step)

    def begin_again(self) -> None:
        """Forget what is held, which the store has: the next events do not go on from it."""
        self.pending.clear()
        for rows in (self.steps, self.episodes):
            rows.begin_again()
        self.metrics.clear()
        self._parts.clear()
        self.raws.clear()
        self.version += 1

    def parts(self) -> list[Part]:
        """What is held, for the memory's limit."""
        rows = [Part(Sort.ROWS, rows.bytes_held, rows.let_go) for rows in (self.steps, self.episodes)]
        values = [
            Part(Sort.ROWS, tail.bytes_held, tail.let_go) for tail in (*self.metrics.values(), *self._parts.values())
        ]
        return [Part(Sort.FRAMES, self.held.bytes, self.held.let_go), *rows, *values]

    def returns(self) -> Floats:
        """Returns of episodes that are numbers."""
        _, y = self.tail(RETURN)
        return y[np.isfinite(y)]

    def series(self) -> list[str]:
        """Names of the series of which values are held, as in the store's overview."""
        parts = (INFO + path for path in self._part_names)
        return [RETURN, REWARD, *(METRIC + name for name in self.metrics), *parts]

    def tail(self, series: str, after: int = 0) -> tuple[Floats, Floats]:
        """Steps and values of a series behind a seq, as far as they are held here, in the order of seq."""
        if series.startswith(METRIC):
            found = self.metrics.get(series.removeprefix(METRIC))
            return found.arrays(after) if found else (np.empty(0), np.empty(0))
        if series.startswith(INFO):
            return self._part(series.removeprefix(INFO)).arrays(after)
        rows, column = (self.episodes, "total") if series == RETURN else (self.steps, "reward")
        records = rows.records[(rows.column("mark") == EVENT) & ~rows.column("reset") & (rows.column("seq") > after)]
        return _steps(records), records[column]

    def whole_from(self, stored_seq: float) -> int:
        """The seq behind which nothing of what the store has, up to a seq, is still missing here."""
        newest = max((int(rows.column("seq")[-1]) for rows in (self.steps, self.episodes) if len(rows)), default=0)
        if newest < stored_seq:
            return int(stored_seq)  # the tail has not come as far as the store
        holes = [mark.last for mark in self.steps.marks if mark.kind == HOLE and mark.first <= stored_seq]
        return max(holes, default=0)

    @property
    def begins(self) -> bool:
        """Whether its first events are held, so that nothing older is in the store alone."""
        held = [int(rows.column("seq")[0]) for rows in (self.steps, self.episodes) if len(rows)]
        return min(held) <= _FIRST_SEQS if held else bool(self.metrics)

    def gaps(self, stored_seq: float) -> Floats:
        """What is missing among the steps, in the store too: the steps before and behind, in a row of an array."""
        records = self.steps.records
        there = np.flatnonzero((records["mark"] == EVENT) & ~records["reset"])
        lost, unstored = records["mark"] == GAP, records["seq"] > stored_seq
        missing = np.flatnonzero(lost | ((records["mark"] == HOLE) & unstored))
        behind = np.searchsorted(there, missing)
        # What lies before all that is held here is between steps that the store alone knows.
        behind = np.unique(behind[(behind < len(there)) & ((behind > 0) | unstored[missing])])
        x = _steps(records[there])
        return np.column_stack((np.where(behind > 0, x[behind - 1], -np.inf), x[behind]))

    def metric_at(self, name: str, step: int) -> float | None:
        """The value of a series at a step; None if it has none there, or not any more."""
        x, y = self.tail(METRIC + name)
        found = y[x == step]
        return float(found[-1]) if len(found) else None

    def raws_around(self, seq: int, number: int) -> dict[int, bytes]:
        """Encoded steps and episodes in memory around an event, `number` before it and behind it, newest first."""
        found = {}
        for rows in (self.steps, self.episodes):
            at = int(np.searchsorted(rows.column("seq"), seq))
            for record in rows.records[max(0, at - number) : at + number]:
                if (raw := rows.raw(record)) is not None and abs(int(record["seq"]) - seq) <= number:
                    found[int(record["seq"])] = raw
        return dict(sorted(found.items(), reverse=True))

    def _keep_raws(self, events: list[FeedEvent]) -> None:
        least = min(self.raws) if len(self.raws) == RAW_EVENTS_MAX else 0
        came = sorted((one.seq, one.raw) for one in events if one.seq > least)[-RAW_EVENTS_MAX:]
        kept = sorted({**self.raws, **dict(came)}.items(), reverse=True)[:RAW_EVENTS_MAX]
        sizes = accumulate(len(raw) for _, raw in kept)
        self.raws = {seq: raw for (seq, raw), size in zip(kept, sizes, strict=True) if size <= RAW_BYTES_MAX}

    def steps_whole_from(self) -> int:
        """From this seq on, all events have come, or are holes; of older times, some kinds may have come alone."""
        rows = counted(self.steps.records)
        return int(self.steps.column("seq")[rows.argmax()]) if rows.any() else 0

    def newest_steps(self) -> Any:
        """Records of the steps among the newest rows."""
        records = self.steps.records[-NEWEST_ROWS:]
        return records[(records["mark"] == EVENT) & ~records["reset"]]

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

    def _part(self, path: str) -> Tail:
        """The values of a part of `info`: those of the newest steps in memory, and then of all that come."""
        if path not in self._parts:
            tail = self._parts[path] = Tail()
            for record in self.steps.records[-_PART_VALUES_FIRST:]:
                raw = self.steps.raw(record)
                step = event_of(raw) if raw else None
                if isinstance(step, Step):
                    tail.add(step.seq, step.global_step, number_in(decoded(step.info), path))
        return self._parts[path]

    def _add_parts(self, steps: list[Step]) -> None:
        if self._parts and len(steps) > _PART_VALUES_A_DRAIN:
            self._parts = {path: Tail() for path in self._parts}
        for step in steps[-_PART_VALUES_A_DRAIN:] if self._parts else ():
            info = decoded(step.info)
            for path, tail in self._parts.items():
                tail.add(step.seq, step.global_step, number_in(info, path))

    def _see_parts(self, events: list[FeedEvent]) -> None:
        """Note the parts of `info` that are numbers, of the newest step and of those that ended an episode."""
        steps = [one.event for one in events if type(one.event) is Step]
        ended = [step for step in steps if step.terminated or step.truncated]
        for step in (*ended[-_PART_STEPS:], *steps[-1:]):
            info = decoded(step.info)
            for path in paths_of(info):
                if len(self._part_names) < SERIES_MAX and isinstance(part_of(info, path), int | float):
                    self._part_names[path] = None

    def _add_value(self, seq: int, metric: Metric) -> None:
        if metric.name not in self.metrics and len(self.metrics) >= SERIES_MAX:
            return
        self.metrics.setdefault(metric.name, Tail()).add(seq, metric.global_step, metric.value)


def _steps(records: Any) -> Floats:
    """At the agent's own count, or else the seq: as in the store's overview."""
    step = records["global_step"]
    found: Floats = np.where(step == NO_STEP, records["seq"], step).astype(np.float64)
    return found


def _voided(row: Row) -> Row:
    """A row that keeps its number, and is not shown."""
    return (VOID, *row[1:-1], b"")
