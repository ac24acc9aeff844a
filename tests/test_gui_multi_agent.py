"""Multi-Agent: all agents of a run at one moment, who is alive, each one's share of the return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for
from skips import requires
from slowness import patience
from store_fixtures import TIME_NS, Scribe, episode, query_behind_broker, run_completed, run_started, step, stream
from test_gui_feed import ScriptedFeed, told, update, view
from test_gui_tabs import THERE, show, tick

if THERE:
    import numpy as np
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    from telefabric.feed import BrokerFeed, Feed, FileFeed
    from telefabric_gui.model.cursor import Mode
    from telefabric_gui.model.side_by_side import shares
    from telefabric_gui.views.multi_agent import MultiAgentPage
    from telefabric_gui.window import MainWindow

__all__ = ["show"]
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
TEAM = "hunter_0", "hunter_1", "prey"
STEPS = 10
PREY_DIES = 4
REWARDS = {"hunter_0": 2.0, "hunter_1": 1.0, "prey": -0.5}


def chase(episodes: int) -> list[Any]:
    """Episodes of three agents in one environment: the prey is out after some steps, the hunters go on."""
    found: list[Any] = []
    counts = dict.fromkeys(TEAM, 0)
    for number in range(episodes):
        for at in range(STEPS):
            for agent in TEAM:
                if agent == "prey" and at > PREY_DIES:
                    continue
                seq = len(found) + 2
                found.append(
                    step(
                        seq, agent, episode_index=number, step_index=at, global_step=counts[agent],
                        reward=REWARDS[agent], terminated=agent == "prey" and at == PREY_DIES,
                        truncated=at == STEPS - 1, control_mode="multi_agent", time_ns=TIME_NS + seq * 1_000,
                    )
                )  # fmt: skip
                counts[agent] += 1
        for agent in TEAM:
            length = PREY_DIES + 1 if agent == "prey" else STEPS
            total = length * REWARDS[agent]
            found.append(episode(len(found) + 2, agent, episode_index=number, length=length, total_reward=total))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run of three agents and 400 episodes, 12,000 events, of which a feed brings the newest 5,000 by itself."""
    path, info, other = tmp_path / "telemetry.sqlite", stream("chase", agent="hunter_0"), stream("chase", "scout-1")
    with Scribe(path) as scribe:
        found = chase(400)
        scribe.put(info, run_started(1, info), *found, run_completed(len(found) + 2))
        scouts = [
            step(
                n, "scout", episode_index=n // 50, step_index=n % 50, reward=0.25, control_mode="multi_agent",
                time_ns=TIME_NS + n * 100_000,
            )
            for n in range(2, 100)
        ]  # fmt: skip
        scribe.put(other, run_started(1, other), *scouts, run_completed(100))
        scribe.commit()
    return path


@pytest.fixture(params=["file", "broker"])
def feed(request: pytest.FixtureRequest, path: Path) -> Iterator[Feed]:
    if request.param == "file":
        yield FileFeed(path)
        return
    with query_behind_broker(path) as address:
        yield BrokerFeed(address)


def until(main: MainWindow, true: Callable[[], object], what: str) -> None:
    def ticked() -> bool:
        tick(main)
        return bool(true())

    wait_for(ticked, what, patience(10))


def to_team(main: MainWindow) -> MultiAgentPage:
    main.open_run("chase")
    until(main, lambda: len(main.tabs.agents) == 4, "a tab of each agent")
    assert len(main.tabs.runs) == 1
    at = main.tabs.indexOf(main.tabs.runs[0])
    assert main.tabs.tabText(at) == "Multi-Agent-chase"
    main.tabs.setCurrentIndex(at)
    page = main.front
    assert isinstance(page, MultiAgentPage)
    until(main, lambda: page.time.cursor.total >= 4_000 and page.moment is not None, "the rows")
    return page


def standings(page: MultiAgentPage) -> dict[str, Any]:
    moment = page.moment
    return {} if moment is None else {peer.stream.key.agent_id: peer.at(moment) for peer in page.peers}


def test_all_are_shown_at_the_cursor_s_episode_and_step(show: Callable[..., MainWindow], feed: Feed) -> None:
    main = show(feed)
    page = to_team(main)
    assert page.lead.key.agent_id in TEAM[:2], "one that has the most steps"
    for row in (3_999, 3_213, 1_234, 7):  # the tail has the first two, the store alone the others
        page.time.cursor.go_to(row)
        number, at = divmod(row, STEPS)

        def there(number: int = number, at: int = at) -> bool:
            found = standings(page)
            return all(found.get(agent) and found[agent].episode == number for agent in TEAM)

        until(main, there, f"all at row {row}")
        found = standings(page)
        for agent in TEAM:
            last = min(at, PREY_DIES) if agent == "prey" else at
            one = found[agent]
            assert (one.step, one.so_far) == (last, (last + 1) * REWARDS[agent]), (row, agent)
            ended = "terminated" if agent == "prey" and at >= PREY_DIES else "truncated" if last == STEPS - 1 else ""
            assert one.ended == ended, (row, agent)
    assert "episode 0, step 7" in page.place
    until(main, lambda: page.cards[[p.stream.key.agent_id for p in page.peers].index("prey")].state.text() ==
          f"dead since {PREY_DIES}", "who is out")  # fmt: skip
    assert "3 of 4 agents alive" in page._said.text()
    assert not page.grab().isNull()


def test_an_agent_of_another_stream_is_matched_by_time(show: Callable[..., MainWindow], feed: Feed) -> None:
    main = show(feed)
    page = to_team(main)
    page.time.cursor.go_to(1_000)
    until(main, lambda: standings(page).get("scout") is not None, "the scout")
    moment, scout = page.moment, standings(page)["scout"]
    assert moment is not None
    n = (moment.time_ns - TIME_NS) // 100_000
    assert (scout.episode, scout.step) == (n // 50, n % 50)
    assert scout.so_far == pytest.approx(0.25 * (n % 50 + 1 if n >= 50 else n - 1))


def test_a_click_opens_the_agent_at_that_moment(show: Callable[..., MainWindow], feed: Feed) -> None:
    main = show(feed)
    page = to_team(main)
    page.time.cursor.go_to(1_232)
    until(main, lambda: standings(page).get("prey") is not None, "the prey")
    at = [peer.stream.key.agent_id for peer in page.peers].index("prey")
    QTest.mouseClick(page.cards[at], Qt.MouseButton.LeftButton)
    until(main, lambda: main.page is not None and main.page.time.cursor.row == 123 * 5 + 2, "its tab at the step")
    own = main.page
    assert own is not None
    assert own.stream.key.agent_id == "prey"
    until(main, lambda: own.step is not None and int(own.step.record["step"]) == 2, "its step")


def test_another_agent_leads_from_the_same_moment_on(show: Callable[..., MainWindow], path: Path) -> None:
    main = show(FileFeed(path))
    page = to_team(main)
    page.time.cursor.go_to(1_232)
    until(main, lambda: standings(page).get("prey") is not None, "the prey")
    at = [peer.stream.key.agent_id for peer in page.peers].index("prey")
    page.cards[at].lead.click()
    until(main, lambda: page.time.cursor.row == 123 * 5 + 2 and page.moment is not None, "its own row")
    assert page.moment is not None
    assert (page.moment.episode, page.moment.step) == (123, 2)
    assert page.cards[at].lead.text() == "leads"
    main.playing.act("on")
    until(main, lambda: page.moment is not None and page.moment.step == 3, "the next step")


def test_live_it_follows_the_newest_of_all_and_opens_with_the_second_agent(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view("chase", control_mode="multi_agent"),))))
    tick(main)
    tick(main, told(step(1, "prey", step_index=0, reward=-1.0), "chase"))
    assert main.tabs.runs == []
    tick(main, told(step(2, "hunter", step_index=0, reward=3.0), "chase"))
    assert len(main.tabs.runs) == 1
    assert isinstance(main.tabs.currentWidget(), type(main.tabs.agents[0])), "what is in front stays there"
    main.tabs.setCurrentWidget(main.tabs.runs[0])
    tick(main, told(step(3, "prey", step_index=1, reward=-1.0, terminated=True), "chase"))
    tick(main, told(step(4, "hunter", step_index=1, reward=3.0), "chase"))
    tick(main, told(step(5, "hunter", step_index=2, reward=2.0), "chase"))
    tick(main)
    page = main.front
    assert isinstance(page, MultiAgentPage)
    assert page.time.cursor.mode is Mode.FOLLOW
    found = standings(page)
    assert (found["prey"].step, found["prey"].so_far, found["prey"].ended) == (1, -2.0, "terminated")
    assert (found["hunter"].step, found["hunter"].so_far) == (2, 8.0)
    assert {card.share.text() for card in page.cards} == {"\u221220 %", "80 %"}
    main.tabs.close_front()
    assert main.tabs.runs == []
    assert main.tabs.agents == []


def test_an_agent_that_came_first_leads_only_until_another_has_more_steps(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view("chase"),))))
    tick(main)
    tick(main, told(step(1, "scout"), "chase"), told(step(2, "hunter"), "chase"))
    main.tabs.setCurrentWidget(main.tabs.runs[0])
    page = main.front
    assert isinstance(page, MultiAgentPage)
    assert page.lead.key.agent_id == "scout"
    tick(main, *(told(step(seq, "hunter"), "chase") for seq in range(3, 30)))
    assert page.lead.key.agent_id == "hunter"
    at = [peer.stream.key.agent_id for peer in page.peers].index("scout")
    page.follow_agent(at)
    tick(main, told(step(30, "hunter"), "chase"))
    assert page.lead.key.agent_id == "scout", "since it was chosen"


def test_shares_are_parts_of_what_all_won_and_lost() -> None:
    assert shares([3.0, 1.0]) == [0.75, 0.25]
    assert shares([3.0, -1.0]) == [0.75, -0.25]
    assert shares([0.0, 0.0]) == [0.0, 0.0]
    assert shares([np.inf, 1.0]) == [0.0, 1.0]


def test_a_step_of_all_agents_is_bookmarked_at_the_one_that_leads(
    show: Callable[..., MainWindow], feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = show(feed)
    page = to_team(main)
    edits: list[tuple[str, str, Any]] = []
    monkeypatch.setattr(main.bookmarks, "_edit", lambda *edit: edits.append(edit))
    page.time.cursor.go_to(1_234)
    main.playing.act("bookmark")
    main.bottom.transport.name.setText("caught")
    main.bottom.transport.name.returnPressed.emit()
    until(main, lambda: bool(edits), "it is asked for")
    (run_id, command, (agent, env, episode_index, step_index, stream_id, label)) = edits[0]
    assert (run_id, command, agent, label) == ("chase", "bookmark", page.lead.key.agent_id, "caught")
    assert (env, episode_index, step_index, stream_id) == (0, 123, 4, page.lead.stream_id)
