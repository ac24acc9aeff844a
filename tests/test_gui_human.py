"""Human Replay: episodes that people played, from the store, of all runs or of one; a double click replays one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for
from skips import requires
from slowness import patience
from store_fixtures import Scribe, episode, query_behind_broker, run_completed, run_started, step, stream
from test_gui_feed import ScriptedFeed, update, view
from test_gui_tabs import THERE, show, tick, titles

if THERE:
    from PySide6.QtCore import QCoreApplication, Qt
    from PySide6.QtTest import QAbstractItemModelTester, QTest

    from telefabric.feed import BrokerFeed, Feed, FileFeed
    from telefabric_gui.item_models import human as human_module
    from telefabric_gui.model.cursor import Mode
    from telefabric_gui.window import MainWindow

__all__ = ["show"]
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]


class Played:
    """Runs of one agent, with ten steps an episode, and who played each episode."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.infos: dict[str, Any] = {}
        self.ends: dict[str, int] = {}
        self.scribe = Scribe(path)

    def put(self, run_id: str, mode: str | None, episodes: range, *, done: bool = True) -> None:
        info = self.infos.setdefault(run_id, stream(run_id))
        found: list[Any] = [] if run_id in self.ends else [run_started(1, info)]
        seq = self.ends.get(run_id, 1)
        for number in episodes:
            found += [
                step(seq + n, episode_index=number, step_index=n - 1, control_mode=mode, global_step=10 * number + n)
                for n in range(1, 11)
            ]
            seq += 11
            found.append(episode(seq, episode_index=number, total_reward=float(number), length=10, control_mode=mode))
        if done:
            seq += 1
            found.append(run_completed(seq))
        self.scribe.put(info, *found, first_seq=found[0].seq)
        self.scribe.commit()
        self.ends[run_id] = seq


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    made = Played(tmp_path / "telemetry.sqlite")
    with made.scribe:
        made.put("by-hand", "human", range(3))
        made.put("learnt", "agent", range(4))
        made.put("old", None, range(2))
        made.put("team", "multi_agent", range(2))
        yield made


@pytest.fixture(params=["file", "broker"])
def feed(request: pytest.FixtureRequest, played: Played) -> Iterator[Feed]:
    if request.param == "file":
        yield FileFeed(played.path)
        return
    with query_behind_broker(played.path) as address:
        yield BrokerFeed(address)


def until(main: MainWindow, true: Callable[[], bool], what: str) -> None:
    def ticked() -> bool:
        tick(main)
        main.tabs.human.episodes.refresh()
        return true()

    wait_for(ticked, what, patience(10))


def shown(main: MainWindow) -> list[tuple[str, str]]:
    rows = main.tabs.human.episodes
    return [(rows.index(at, 0).data(), rows.index(at, 1).data()) for at in range(rows.rowCount())]


def test_episodes_of_people_and_of_nobody_known_are_listed_and_one_is_replayed(
    show: Callable[..., MainWindow], feed: Feed
) -> None:
    main = show(feed)
    human = main.tabs.human
    assert main.tabs.tabText(main.tabs.indexOf(human)) == "Human Replay"
    QAbstractItemModelTester(human.episodes, QAbstractItemModelTester.FailureReportingMode.Fatal, main)
    main.tabs.setCurrentWidget(human)
    until(main, lambda: len(shown(main)) == 5, "the episodes")
    assert shown(main) == [("old", "1"), ("old", "0"), ("by-hand", "2"), ("by-hand", "1"), ("by-hand", "0")]
    assert not human.grab().isNull()
    until(main, lambda: bool(main.tabs.agents), "the run that opens by itself")
    assert main.tabs.currentWidget() is human, "which does not take the place of what is in front"
    at = human.list.visualRect(human.episodes.index(3, 2)).center()
    QTest.mouseClick(human.list.viewport(), Qt.MouseButton.LeftButton, pos=at)
    QTest.mouseDClick(human.list.viewport(), Qt.MouseButton.LeftButton, pos=at)
    until(main, lambda: main.page is not None and main.page.time.cursor.row == 10, "the first step of the episode")
    page = main.page
    assert page is not None
    assert (page.stream.key.run_id, page.time.cursor.mode) == ("by-hand", Mode.PAUSED)
    until(main, lambda: ("episode", "1") in page.details, "its step")
    assert all(title.startswith("Agent-0-Replay") for title in titles(main))


def test_one_run_alone_and_what_comes_later(show: Callable[..., MainWindow], played: Played) -> None:
    main = show(FileFeed(played.path))
    main.tabs.setCurrentWidget(main.tabs.human)
    human = main.tabs.human
    until(main, lambda: len(shown(main)) == 5 and bool(main.tabs.agents), "the episodes")
    main.controller.watch("by-hand")
    tick(main)
    assert "by-hand" in human.run_ids
    human.choose("by-hand")
    assert human._runs.text() == "by-hand \u25be"
    until(main, lambda: {run for run, _ in shown(main)} == {"by-hand"}, "one run")
    played.put("by-hand-2", "human", range(2))
    played.put("by-hand", "human", range(3, 4))
    until(main, lambda: len(shown(main)) == 4, "a new episode on top")
    assert shown(main)[0] == ("by-hand", "3")
    main.controller.unwatch("by-hand")
    until(main, lambda: len(shown(main)) == 8, "all again, since the run is closed")
    assert human._runs.text() == "All runs \u25be"


def test_pages_are_read_as_one_scrolls(
    show: Callable[..., MainWindow], played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(human_module, "PAGE", 40)
    played.put("by-hand", "human", range(10, 200))
    main = show(FileFeed(played.path))
    rows = main.tabs.human.episodes
    QAbstractItemModelTester(rows, QAbstractItemModelTester.FailureReportingMode.Fatal, main)
    main.tabs.setCurrentWidget(main.tabs.human)
    until(main, lambda: rows.rowCount() == 40, "the first page")

    def scrolled() -> bool:
        main.tabs.human.list.scrollToBottom()
        QCoreApplication.processEvents()
        return rows.rowCount() == 195

    wait_for(scrolled, "all of them", patience(20))
    assert len({row.id for row in rows.rows}) == 195
    assert [row.id for row in rows.rows] == sorted((row.id for row in rows.rows), reverse=True)


def test_a_run_that_goes_on_is_left_as_it_is_and_replayed_beside(
    show: Callable[..., MainWindow], played: Played
) -> None:
    played.put("now", "human", range(3), done=False)
    main = show(FileFeed(played.path))
    main.open_run("now")
    until(main, lambda: titles(main) == ["Agent-0-Online"] and main.page is not None, "the run")
    live = main.page
    assert live is not None
    main.tabs.setCurrentWidget(main.tabs.human)
    until(main, lambda: len(shown(main)) == 8, "the episodes")
    main.tabs.human.wanted.emit(main.tabs.human.episodes.rows[2])
    until(main, lambda: main.page is not live and main.page is not None, "a replay beside")
    page = main.page
    assert page is not None
    until(main, lambda: page.time.cursor.mode is Mode.PAUSED, "its episode")
    assert page.time.cursor.row == 0
    assert titles(main) == ["Agent-0-Online", "Agent-0-Replay"]
    assert live.time.cursor.mode is Mode.FOLLOW


def test_without_an_episode_it_says_what_to_do(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    main.tabs.setCurrentWidget(main.tabs.human)
    tick(main)
    human = main.tabs.human
    assert human.isVisible()
    human.episodes.asked = True
    human.say()
    assert human.empty.isVisible()
    assert 'control_mode="human"' in human.empty._command.text()
