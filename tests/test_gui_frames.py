"""Stored frames in memory, and those that replay comes to next: what is asked for, and what is kept."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import test_gui_window
from hypothesis import given
from hypothesis import strategies as st
from store_fixtures import frame
from test_gui_feed import ScriptedFeed

from telefabric.feed import Answer, Asked, FrameAt, Page, Place, RowOf, RowsAt, StoredEvent
from telefabric_schemas import Frame

pytestmark = test_gui_window.pytestmark
if test_gui_window.THERE:
    from PySide6.QtCore import QCoreApplication

    from telefabric_gui.held_frames import HeldFrames
    from telefabric_gui.model.cursor import Subject
    from telefabric_gui.model.pace import pace_of
    from telefabric_gui.model.stored_frames import AHEAD_BYTES_MAX, AHEAD_FRAMES, StoredFrames

RATE = 50.0


def of_step(step: int, seq: int = 0, data: bytes = b"12345678", **more: Any) -> Frame:
    return msgspec.structs.replace(frame(seq or 2 * step + 2, data=data), episode_index=0, step_index=step, **more)


# -- what is held ------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 40), max_size=60), st.integers(0, 50))
def test_the_nearest_held_frame_is_found_and_memory_has_an_end(steps: list[int], wanted: int) -> None:
    held = HeldFrames(10 * 8)
    for step in steps:
        held.add(of_step(step))
    kept = list(dict.fromkeys(reversed(steps)))[:10]
    assert (len(held), held.bytes) == (len(kept), 8 * len(kept))
    found = held.nearest((0, 0), wanted)
    nearest = min(kept, key=lambda step: (abs(step - wanted), step), default=None)
    assert (found.step_index if found else None) == nearest


def test_the_frame_that_was_shown_stays_and_the_later_one_of_a_step_counts() -> None:
    held = HeldFrames(2 * 8)
    held.add(of_step(1))
    held.add(of_step(2))
    assert held.nearest((0, 0), 1) == of_step(1)
    held.add(of_step(3))
    assert held.nearest((0, 0), 2) == of_step(1), "that of step 2 had to go"
    held.add(of_step(3, seq=100))
    assert held.nearest((0, 0), 3) == of_step(3, seq=100)
    held.add(of_step(3))
    assert held.nearest((0, 0), 3) == of_step(3, seq=100)
    held.void((0, 0), before=50)
    assert (len(held), held.bytes) == (1, 8)
    assert held.nearest((1, 0), 3) is None


# -- how fast replay is ------------------------------------------------------------------------------------------
def turns(envs: int, steps: int, interval_ns: int, pause_ns: int = 0) -> tuple[Any, Any]:
    """Environments and times of steps; environments take turns, and every tenth step is followed by a pause."""
    env = np.tile(np.arange(envs), steps)
    at = np.repeat(np.arange(steps), envs)
    return env, 10**18 + at * interval_ns + at // 10 * pause_ns + env


@pytest.mark.parametrize(("metadata", "steps", "pace"), [
    ({"environment": {"render_fps": 30}}, turns(1, 100, 10**6), 30),
    ({"environment": {"render_fps": 30}}, turns(4, 100, 10**6), 120),
    ({"environment": {"render_fps": None}}, turns(1, 100, 10**8), 10),
    ({"environment": "CartPole"}, turns(1, 100, 10**8), 10),
    ({}, turns(4, 100, 10**8, pause_ns=10**10), 40),
    ({}, turns(1, 100, 10**3), 1_000),
    ({}, turns(1, 5, 10**8), 50),
    ({}, turns(1, 100, 0), 50),
    ({}, (np.empty(0, np.int64), np.empty(0, np.int64)), 50),
    ({"environment": {"render_fps": float("nan")}}, turns(1, 0, 1), 50),
    ({"environment": {"render_fps": -1}}, turns(1, 0, 1), 50),
])  # fmt: skip
def test_replay_is_as_fast_as_the_environment(metadata: Any, steps: Any, pace: float) -> None:
    found = pace_of(metadata, *steps)
    assert found.rows_per_s == pytest.approx(pace)
    assert "steps/s" in found.why


# -- what is asked for -------------------------------------------------------------------------------------------
class Store(ScriptedFeed):
    """Answers as a store does that has these frames: frame n is of row n, with the seq 2n + 2; rows have 2n + 1."""

    def __init__(self, frames: int, data: bytes = b"12345678") -> None:
        super().__init__()
        self.frames = [of_step(step, data=data) for step in range(frames)]

    def answer(self) -> int:
        """All that is waiting; how many questions that was."""
        waiting, self.asked = self.asked, []
        for asked in waiting:
            asked.answered(self._answer(asked))
        QCoreApplication.processEvents()
        return len(waiting)

    def _answer(self, asked: Asked) -> Answer:
        question: Any = asked.question
        if isinstance(question, RowOf):
            n = int(np.searchsorted([frame.seq for frame in self.frames], question.value))
            places: list[Any] = [Place(n, 0, 0, None, 0)] if n < len(self.frames) else []
            return Answer(question, Page(places, False))
        assert isinstance(question, RowsAt)
        found = self.frames[question.first : question.first + question.limit]
        rows = [
            StoredEvent(1, "frame", "run", "w", b"s" * 16, one.seq, one.seq, "agent_0", 1, None, None,
                        msgspec.msgpack.encode(one)) for one in found
        ]  # fmt: skip
        return Answer(question, Page(rows, question.first + len(found) < len(self.frames)))


@pytest.fixture
def kept() -> list[int]:
    """The steps of frames that came."""
    return []


def frames_of(store: ScriptedFeed, kept: list[int]) -> StoredFrames:
    return StoredFrames(store, Subject("run", "agent_0", b"s" * 16), lambda one: kept.append(one.step_index))


def seq(row: int) -> int:
    return 2 * row + 1


def test_replay_has_the_next_frames_before_it_comes_to_them(qapp: Any, kept: list[int]) -> None:
    store = Store(300)
    frames = frames_of(store, kept)
    for row in range(100, 260):
        frames.read_ahead(seq(row), RATE)
        if row % 10 == 0:  # slow answers
            while store.answer():
                pass
        assert frames.knows(seq(row))
        assert set(range(row, min(300, row + AHEAD_FRAMES - 10))) <= set(kept), row
    assert kept == sorted(set(kept)), "none is read twice"
    assert kept[0] == 100 - 8, "with some before: the nearest may be one of them"


def test_a_jump_begins_to_read_there_and_the_end_is_not_asked_for_at_every_tick(qapp: Any, kept: list[int]) -> None:
    store = Store(300)
    frames = frames_of(store, kept)

    def replay_at(row: int) -> list[int]:
        kept.clear()
        frames.read_ahead(seq(row), RATE)
        while store.answer():
            pass
        return kept

    assert replay_at(10)[0] == 2
    assert not frames.knows(seq(200))
    assert replay_at(200)[0] == 192
    assert not frames.knows(seq(10))
    assert replay_at(10)[0] == 2
    assert replay_at(295) == list(range(287, 300))
    for row in range(296, 300):
        assert not replay_at(row)
    assert replay_at(20)[0] == 12, "a loop goes back"
    store.frames.clear()
    frames = frames_of(store, kept)
    assert not replay_at(5)
    frames.read_ahead(seq(6), RATE)
    assert not store.asked, "a run without frames is not asked at every tick"


def test_fast_replay_reads_more_ahead_and_large_frames_less(qapp: Any, kept: list[int]) -> None:
    store = Store(2_000)
    frames = frames_of(store, kept)
    for row in range(100, 700, 16):
        frames.read_ahead(seq(row), 10 * RATE)
        while store.answer():
            pass
    assert kept[-1] - row >= 10 * RATE / 4
    large = Store(300, data=bytes(AHEAD_BYTES_MAX // 4))
    few: list[int] = []
    frames = frames_of(large, few)
    for row in (100, 105, 110, 115):
        frames.read_ahead(seq(row), RATE)
        large.answer()
        large.answer()
    large.asked.clear()
    for row in range(116, 150):
        frames.read_ahead(seq(row), RATE)
        asked = [one.question.limit for one in large.asked if isinstance(one.question, RowsAt)]
        assert all(limit <= 4 for limit in asked)
        large.answer()


def test_a_frame_of_a_step_is_asked_for_while_others_are_on_the_way_and_at_most_two(qapp: Any, kept: list[int]) -> None:
    feed = ScriptedFeed()
    frames = frames_of(feed, kept)
    for row in (1, 2, 3, 3):
        assert frames.look({"env": 0, "episode": 0, "step": row}) is None
    assert [one.question.step_index for one in feed.asked_for(FrameAt)] == [1, 2]  # type: ignore[attr-defined]
    first = feed.asked[0]
    first.answered(Answer(first.question, None, "the store is away"))
    QCoreApplication.processEvents()
    assert frames.look({"env": 0, "episode": 0, "step": 3}) is None
    assert len(feed.asked_for(FrameAt)) == 3
    found = frames.look({"env": 0, "episode": 0, "step": 1})
    assert found is not None
    assert found.problem == "the store is away"
