"""Tabs of the centre: opened by data, named for what they show, and closed one by one or with their run."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from processes import wait_for
from skips import requires
from slowness import patience
from store_fixtures import Scribe, episode, metric, run_completed, run_started, step, stream
from test_gui_feed import ScriptedFeed, told, update, view

from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import FeedEvent
from telefabric.subscribe.core.handover import Range
from telefabric_schemas import Gap

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication, Qt
    from PySide6.QtWidgets import QLabel, QTabBar

    from telefabric_gui import window as window_module
    from telefabric_gui.agent_stream import AgentKey
    from telefabric_gui.model.tab_titles import cut, title_of
    from telefabric_gui.window import MainWindow


S = b"s" * 16


@pytest.fixture
def show(windows: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch) -> Callable[..., MainWindow]:
    """Shows a feed; ticks come from the test, and each does all that a window does from time to time."""
    for name in ("_DETAILS_TICKS", "_SLOW_TICKS"):
        monkeypatch.setattr(window_module, name, 1)
    return partial(windows, size=(1300, 800), ticking=False)


def tick(main: MainWindow, *events: FeedEvent, **given: Any) -> None:
    if events or given:
        main.controller.feed.updates.append(update(*events, **given))  # type: ignore[attr-defined]
    main.controller.tick()
    QCoreApplication.processEvents()


def titles(main: MainWindow) -> list[str]:
    return [main.tabs.tabText(main.tabs.indexOf(tab)) for tab in main.tabs.agents]


@pytest.mark.parametrize(
    ("agent_id", "given", "title"),
    [
        ("agent_0", {"replay": False}, "Agent-0-Online"),
        ("agent-7", {"replay": True}, "Agent-7-Replay"),
        ("player", {"replay": False}, "Agent-player-Online"),
        ("agent_0", {"replay": True, "copy": 1}, "Agent-0-Replay"),
        ("agent_0", {"replay": True, "copy": 2}, "Agent-0-Replay-2"),
        ("agent_0", {"replay": False, "run_id": "lunar"}, "Agent-0-Online · lunar"),
        ("agent", {"replay": False}, "Agent-agent-Online"),
        ("a\nb" + 40 * "x", {"replay": False}, "Agent-a bxxxxxxxxx…xxxxxxxxxxx-Online"),
    ],
)
def test_a_title_names_agent_and_purpose(agent_id: str, given: Any, title: str) -> None:
    assert title_of(agent_id, **given) == title


def test_a_long_name_keeps_both_ends() -> None:
    assert cut("lunar-lander-ppo-seed-0012", 20) == "lunar-land…seed-0012"
    assert len(cut(100 * "x", 20)) == 20


def test_a_run_that_ends_makes_its_tab_a_replay_and_one_that_goes_on_again_online(
    show: Callable[..., MainWindow],
) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    tick(main)
    tick(main, told(step(1)))
    assert titles(main) == ["Agent-0-Online"]
    page = main.page
    tick(main, runs=(view(state="completed", finished_ns=5),))
    assert titles(main) == ["Agent-0-Replay"]
    assert main.page is page, "what is in sight stays"
    main.tabs.open_replay(AgentKey("run", "agent_0"))
    assert titles(main) == ["Agent-0-Replay", "Agent-0-Replay-2"]
    main.tabs.close_front()
    tick(main, runs=(view(state="running"),))
    assert titles(main) == ["Agent-0-Online"]


def test_runs_are_named_where_two_have_the_same_agent(show: Callable[..., MainWindow]) -> None:
    long = "lunar-lander-ppo-seed-0012"
    main = show(ScriptedFeed(update(runs=(view("a"), view(long)))))
    tick(main)
    tick(main, told(step(1), "a", b"a" * 16))
    assert titles(main) == ["Agent-0-Online"]
    main.open_run(long)
    tick(main, told(step(1), long, b"b" * 16), told(step(2, agent="other"), long, b"b" * 16))
    assert titles(main) == ["Agent-0-Online · a", "Agent-0-Online · lunar-land…seed-0012", "Agent-other-Online"]
    assert long in main.tabs.tabToolTip(1)
    assert main.page is not None
    assert main.page.stream.key.run_id == long, "the run that was chosen comes to the front"
    main.tabs.close_front()
    assert titles(main) == ["Agent-0-Online"]


def test_a_further_replay_has_a_cursor_of_its_own_and_goes_alone(show: Callable[..., MainWindow], qtbot: Any) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    tick(main)
    tick(main, *(told(step(seq)) for seq in range(1, 30)))
    live, key = main.page, AgentKey("run", "agent_0")
    main.tabs.open_replay(key)
    tick(main)
    assert titles(main) == ["Agent-0-Online", "Agent-0-Replay"]
    replay = main.page
    assert replay is not None
    assert live is not None
    assert replay is not live
    replay.time.cursor.go_to(3)
    tick(main, told(step(30)))
    assert (replay.time.cursor.row, live.time.cursor.mode.value) == (3, "follow")
    main.tabs.open_replay(key)
    assert titles(main) == ["Agent-0-Online", "Agent-0-Replay", "Agent-0-Replay-2"]
    main.tabs.setCurrentIndex(1)
    qtbot.keyClick(main, Qt.Key.Key_W, Qt.KeyboardModifier.ControlModifier)
    assert titles(main) == ["Agent-0-Online", "Agent-0-Replay-2"]
    assert main.controller.watched == ["run"]
    main.tabs.open_replay(key)
    assert titles(main) == ["Agent-0-Online", "Agent-0-Replay-2", "Agent-0-Replay"]
    main.controller.unwatch("run")
    assert titles(main) == []
    assert main.tabs.currentWidget() is main.empty


def test_a_tab_counts_what_it_does_not_show_and_says_where_and_why(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view(control_mode="human"),))))
    tick(main)
    tick(main, told(step(1)), told(step(9)))
    tab = main.tabs.agents[0]
    at = main.tabs.indexOf(tab)
    side = QTabBar.ButtonPosition.RightSide
    assert main.tabs.tabBar().tabButton(at, side) is None
    assert main.tabs.tabToolTip(at) == "Agent agent_0 of run run, control mode human"
    assert main.tabs.tabBar().tabData(at)[0] == "human"
    gap = Gap(4, 6, "spool_full", 1, 1)
    tick(main, told(gap), holes={S: (Range(2, 3), Range(7, 8))}, gaps={S: (Range(4, 6),)})
    main.controller._missing[S].skipped = 70
    main.controller.left_out["run", "agent_0", b"o" * 16] = 100
    tick(main)
    badge = main.tabs.tabBar().tabButton(at, side)
    assert isinstance(badge, QLabel)
    assert badge.text() == "107"
    assert main.tabs.tabToolTip(at).splitlines()[1:] == [
        "3 events lost for good before the store: spool_full.",
        "4 events dropped on the live path, being fetched from the store.",
        "100 events of older attempts left out here, since there was no room; the store has them.",
        "70 events skipped here, because they are old or too many at once; read from the store when in sight.",
    ]
    main.controller.left_out.clear()
    tick(main, holes={S: ()}, gaps={S: ()})
    assert main.tabs.tabBar().tabButton(at, side) is None


def test_the_menu_of_a_tab_replays_and_closes(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    tick(main)
    tick(main, told(step(1)))

    def act(text: str, at: int) -> None:
        menu = main.tabs.menu(main.tabs.agents[at])
        next(action for action in menu.actions() if action.text() == text).trigger()

    act("Replay in a further tab", 0)
    assert titles(main) == ["Agent-0-Online", "Agent-0-Replay"]
    act("Close this replay", 1)
    act("Close the run", 0)
    assert titles(main) == []


def test_a_run_that_goes_on_is_replayed_beside(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    tick(main)
    tick(main, *(told(step(seq)) for seq in range(1, 20_000)))
    main.open_run("run", replay=True)
    tick(main)
    tick(main)
    assert titles(main) == ["Agent-0-Online", "Agent-0-Replay"]
    assert main.page is not None
    assert main.page.apart
    assert main.page.time.cursor.mode.value == "replay"
    assert main.page.replay_bar._badge.text() == "replay"


def test_an_ended_run_is_read_only_with_what_is_known_of_the_episode(
    show: Callable[..., MainWindow], tmp_path: Path
) -> None:
    path, info = tmp_path / "telemetry.sqlite", stream()
    with Scribe(path) as scribe:
        events: list[Any] = [run_started(1, info)]
        for number in range(4):
            for at in range(10):
                seq = len(events) + 1
                events.append(step(seq, episode_index=number, step_index=at, global_step=10 * number + at))
            values = {"train/value_loss": 9.0, "train/loss": 0.5 / (number + 1), "epsilon": 1 - number / 4}
            for name, value in values.items():
                made = metric(len(events) + 1, name, value)
                events.append(msgspec.structs.replace(made, global_step=10 * number + 5))
            events.append(
                episode(len(events) + 1, episode_index=number, total_reward=float(number), length=10,
                        global_step=10 * number + 9)
            )  # fmt: skip
        events.append(step(len(events) + 1, episode_index=4, step_index=0, global_step=40))
        events.append(run_completed(len(events) + 1))
        scribe.put(info, *events)
        scribe.commit()
    main = show(FileFeed(path))
    said: set[str] = set()

    def facts() -> str:
        tick(main)
        text = main.page.replay_bar._facts.text() if main.page is not None else ""
        said.add(text)
        return text

    wait_for(lambda: "not ended" in facts(), "the last episode, which has no end", patience(10))
    page = main.page
    assert page is not None
    page.time.cursor.go_to(35)
    wait_for(lambda: "epsilon" in facts(), "the last one that has ended", patience(10))
    assert sorted(facts().split("   ")) == ["episode 3:", "epsilon 0.2500", "length 10", "loss 0.1250", "return 3.00"]
    assert page.replay_bar.isVisible()
    assert page.replay_bar._badge.text() == "read-only"
    assert page.replay_bar._said.text().startswith("completed ")
    assert page.replay_bar._said.toolTip().startswith("The run has ended: completed at ")
    page.time.cursor.go_to(12)
    wait_for(lambda: "epsilon" in facts() and "episode 1:" in facts(), "the episode at the cursor", patience(10))
    assert "loss 0.2500" in facts()
    assert not page.grab().isNull()
    assert "episode 1" in said, "nothing is said of an episode before the store has answered"
    assert {text for text in said if "not ended" in text} == {"episode 4:   not ended"}
