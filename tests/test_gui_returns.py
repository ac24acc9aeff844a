"""The return of an episode up to the step at the cursor, though the episode's beginning is not in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import test_gui_window
from processes import wait_for
from store_fixtures import Scribe, reset, run_started, step, stream, void

from telefabric import limits
from telefabric.feed import FileFeed
from telefabric.store.file.database import FILE_NAME

pytestmark = test_gui_window.pytestmark
if test_gui_window.THERE:
    from PySide6.QtCore import QCoreApplication

    from telefabric_gui.agent_stream import AgentKey, AgentStream
    from telefabric_gui.model.cursor import Subject
    from telefabric_gui.model.pages import PAGE, Of, Pages
    from telefabric_gui.model.returns import Returns

ENVS, STEPS, EPISODES = 3, 400, 3
INFO = stream()


def reward(env: int, episode: int, at: int) -> float:
    return env + 10 * episode + at / 8


def events() -> list[Any]:
    """Environments take turns; the second episode of environment 1 was begun twice."""
    seq, found = 1, [run_started(1, INFO)]

    def play(env: int, episode: int, at: int, *, counts: bool = True) -> None:
        nonlocal seq
        seq += 1
        paid = reward(env, episode, at) if counts else 1e6
        found.append(step(seq, env_index=env, episode_index=episode, step_index=at, reward=paid, global_step=seq))

    for episode in range(EPISODES):
        for env in range(ENVS):
            seq += 1
            found.append(reset(seq, env_index=env, episode_index=episode))
        if episode == 1:
            for at in range(50):
                play(1, 1, at, counts=False)
            seq += 1
            found.append(msgspec.structs.replace(void(seq, 1), env_index=1))
        for at in range(STEPS):
            for env in range(ENVS):
                play(env, episode, at)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / FILE_NAME
    with Scribe(path) as scribe:
        for at in range(0, len(told := events()), 500):
            scribe.put(INFO, *told[at : at + 500])
        scribe.commit()
    return path


@pytest.mark.parametrize("a_page", [None, 100])
def test_the_return_so_far_is_the_sum_from_the_beginning_of_the_episode(
    qapp: Any, file: Path, monkeypatch: pytest.MonkeyPatch, a_page: int | None
) -> None:
    if a_page is not None:
        monkeypatch.setattr(limits, "QUERY_BYTES_MAX", a_page * 8 * 4)
    feed = FileFeed(file)
    feed.start()
    held = AgentStream(AgentKey("run", "agent_0"), INFO.stream)
    held.voided[1, 1] = next(event.seq for event in events() if event.kind == "episode_voided")
    rows = Pages(held.steps, Of("run", INFO.stream, "step", "agent_0"), feed, voided=held.voided)
    returns = Returns(feed, Subject("run", "agent_0", INFO.stream), held.voided)
    steps = [event for event in events() if event.kind == "step"]

    def return_at(row: int) -> float:
        def look() -> tuple[float] | None:
            QCoreApplication.processEvents()
            rows.refresh()
            rows.see(row, row)
            found = rows.row(row)
            so_far = None if found is None else returns.so_far(rows.lines, found)
            return None if so_far is None else (so_far,)

        return float(wait_for(look, f"the return at row {row}")[0])

    try:
        void_at = held.voided[1, 1]
        for row in (3_000, 3_001, 3_003, 3_000 + PAGE, 700, 701, 1_700, 2_300, len(steps) - 1, 5):
            at = steps[row]
            place = at.env_index, at.episode_index
            paid = [one.reward for one in steps[: row + 1] if (one.env_index, one.episode_index) == place
                    and (place != (1, 1) or one.seq > void_at)]  # fmt: skip
            assert return_at(row) == pytest.approx(np.sum(paid)), row
    finally:
        returns.close()
        rows.close()
        feed.stop()
