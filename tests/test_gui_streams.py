"""A place is (stream, agent, environment, episode, step): attempts do not mix, resets come first, voids go."""

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
from store_fixtures import (
    TIME_NS,
    Scribe,
    episode,
    frame,
    log,
    metric,
    query_behind_broker,
    raw,
    run_completed,
    run_started,
    step,
    stream,
)
from test_gui_feed import ScriptedFeed, told, update, view

from telefabric.feed import Answer, FrameAt, Page
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import FeedEvent, StreamView
from telefabric.subscribe.core.handover import Range
from telefabric_schemas import EpisodeVoided, Reset

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication

    from telefabric_gui import agent_stream, health
    from telefabric_gui import controller as controller_module
    from telefabric_gui import window as window_module
    from telefabric_gui.formatting import NONE
    from telefabric_gui.views import scenes
    from telefabric_gui.views import step_picture as picture_module
    from telefabric_gui.window import MainWindow

OLD, NEW = b"o" * 16, b"n" * 16
SOURCES = (StreamView(OLD, "lab-1", 100, 1, "superseded"), StreamView(NEW, "lab-2", 200, 2))


def reset(seq: int, observation: int = 7, at: int | None = None) -> Reset:
    return Reset(seq, "agent_0", 0, seq // 10 if at is None else at, TIME_NS + seq, seq, observation=raw(observation))


def void(seq: int, of: int) -> EpisodeVoided:
    return EpisodeVoided(seq, "agent_0", 0, of, TIME_NS + seq, seq, "undone")


@pytest.fixture
def show(windows: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch) -> Callable[..., MainWindow]:
    for name in ("_DETAILS_TICKS", "_SLOW_TICKS"):
        monkeypatch.setattr(window_module, name, 1)
    monkeypatch.setattr(picture_module, "LOOKING_S", -1.0)
    monkeypatch.setattr(picture_module, "KEPT_S", -1.0)
    return partial(windows, size=(1300, 800), ticking=False)


def tick(main: MainWindow, *events: FeedEvent, **given: Any) -> None:
    if events or given:
        main.controller.feed.updates.append(update(*events, **given))  # type: ignore[attr-defined]
    main.controller.tick()
    QCoreApplication.processEvents()


def texts(main: MainWindow, title: str, of: str = "step_table") -> list[str]:
    assert main.page is not None
    table = getattr(main.page, of)
    at = [one.title for one in table.columns].index(title)
    return [table.index(row, at).data() for row in reversed(range(table.rowCount()))]


def of(stream_id: bytes, *events: Any) -> list[FeedEvent]:
    return [told(event, stream_id=stream_id) for event in events]


def two_attempts(show: Callable[..., MainWindow]) -> MainWindow:
    """Both with steps 1 to 9 of episode 0; the first also with 10 to 19."""
    main = show(ScriptedFeed(update(runs=(view(streams=SOURCES, attempts=2, superseded=1),))))
    tick(main)
    old = of(OLD, *(step(seq, reward=-1.0) for seq in range(1, 20)), episode(20, total_reward=-9.0))
    tick(main, *old)
    tick(main, *of(NEW, *(step(seq, reward=1.0) for seq in range(1, 10)), episode(10, total_reward=9.0), metric(11)))
    return main


def test_two_attempts_of_one_agent_share_a_tab_and_do_not_mix(show: Callable[..., MainWindow]) -> None:
    main = two_attempts(show)
    assert len(main.tabs.agents) == 1
    assert texts(main, "REWARD") == ["1.00"] * 9
    assert texts(main, "RETURN", "episode_table") == ["9.00"]
    page = main.page
    assert page is not None
    tick(main)
    assert page.stream.returns().tolist() == [9.0]
    assert dict(page.environment._figures)["return"] == "9.00"
    assert page.streams_bar.isVisible()
    said = "Attempt 2 of lab-2 is shown. Not shown: attempt 1 of lab-1 (superseded), 19 steps."
    assert page.streams_bar._text.text() == said
    assert not page.streams_bar.grab().isNull()


def test_another_stream_is_shown_when_it_is_chosen_and_stays(show: Callable[..., MainWindow]) -> None:
    main = two_attempts(show)
    page = main.page
    assert page is not None
    page.streams_bar.chosen.emit(next(one for one in main.controller.streams.values() if one.stream_id == OLD))
    tick(main)
    assert texts(main, "REWARD") == ["\u22121.00"] * 19
    tick(main, *of(NEW, step(12)))
    assert len(texts(main, "REWARD")) == 19
    assert main.page is not None
    main.page.streams_bar.chosen.emit(None)
    tick(main)
    assert len(texts(main, "REWARD")) == 10


def test_a_new_attempt_takes_the_page_but_not_while_it_is_paused(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view(streams=SOURCES[:1]),))))
    tick(main)
    tick(main, *of(OLD, step(1)))
    assert main.page is not None
    assert not main.page.streams_bar.isVisible()
    main.playing.pause()
    tick(main, *of(NEW, step(1), step(2)))
    assert len(texts(main, "SEQ")) == 1
    main.playing.follow()
    tick(main)
    assert len(texts(main, "SEQ")) == 2


def test_a_frame_belongs_to_the_step_of_its_own_stream(show: Callable[..., MainWindow]) -> None:
    main = two_attempts(show)
    page = main.page
    assert page is not None
    tick(main, *of(OLD, frame(25)))
    page.steps.selectRow(0)
    tick(main)
    asked = main.controller.feed.asked_for(FrameAt)[-1]  # type: ignore[attr-defined]
    place = asked.question
    assert (place.stream_id, place.episode_index, place.step_index) == (NEW, 0, 9)
    assert page.environment_card.caption.toolTip() == "looking for its frame"
    asked.answered(Answer(place, Page([], False)))
    tick(main)
    tick(main)
    assert page.environment_card.caption.toolTip() == "no frame of this episode is stored"


def test_older_streams_give_way_and_are_counted(
    show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "STREAMS_MAX", 3)
    ids = [bytes([number]) * 16 for number in range(6)]
    sources = tuple(StreamView(one, f"w{at}", at, at + 1) for at, one in enumerate(ids))
    main = show(ScriptedFeed(update(runs=(view(streams=sources),))))
    tick(main)
    for one in (ids[0], ids[5], ids[3], ids[1], ids[4], ids[2]):
        tick(main, *of(one, step(1), step(2)))
    tick(main)
    assert [stream.stream_id for stream in main.controller.streams_of(main.page.stream.key)] == [ids[5], ids[4], ids[3]]  # type: ignore[union-attr]
    assert main.page is not None
    assert main.page.streams_bar._text.text().endswith("6 events of older ones, in the store.")
    assert not main.controller.hidden_agents


def test_the_run_s_details_tell_of_its_attempts() -> None:
    told_of = dict(health.run_details(view(attempts=3, helpers=2, superseded=1)))
    assert [told_of[name] for name in ("attempts", "helpers", "superseded")] == ["3", "2", "1"]
    assert not {"attempts", "helpers", "superseded"} & dict(health.run_details(view())).keys()


def test_a_reset_is_the_step_before_the_first(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    tick(main)
    tick(main, *of(NEW, reset(10, observation=7)))
    tick(main)
    page = main.page
    assert page is not None
    assert isinstance(page.environment.scene, scenes.TextScene)
    assert page.environment.scene.words == "7"
    assert ("step", "reset") in page.details
    tick(main, *of(NEW, *(step(seq, observation=raw(seq)) for seq in range(11, 15))))
    assert texts(main, "STEP") == ["reset", "1", "2", "3", "4"]
    assert texts(main, "OBS") == ["7", "11", "12", "13", "14"]
    assert texts(main, "ACTION")[0] == NONE
    assert page.steps_card.caption.text().endswith("· 4"), "a reset is no step"
    page.steps.selectRow(4)
    tick(main)
    assert dict(page.details)["observation"] == "7"


def test_a_voided_episode_leaves_tables_charts_and_pictures_and_is_counted(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    tick(main)
    events = [
        reset(10), *(step(seq) for seq in range(11, 20)), episode(19, total_reward=1.0), frame(18),
        *(step(seq) for seq in range(20, 25)), episode(25, total_reward=2.0),
    ]  # fmt: skip
    tick(main, *of(NEW, *events))
    page = main.page
    assert page is not None
    assert page.steps_card.caption.text().endswith("· 14")
    tick(main, *of(NEW, void(30, of=1)))
    tick(main)
    assert texts(main, "EP") == ["2"] * 5
    assert texts(main, "RETURN", "episode_table") == ["2.00"]
    assert page.stream.returns().tolist() == [2.0]
    assert page.steps_card.caption.text().endswith("· 5")
    assert page.episodes_card.caption.text() == "1 · 1 episode voided, in the store alone"
    assert page.stream.held.nearest((0, 1), 8) is None
    again = [reset(31, at=1), step(32, episode_index=1, step_index=0), episode(33, episode_index=1, total_reward=3.0)]
    late = step(12)
    tick(main, *of(NEW, *again, late))
    seqs = ["20", "21", "22", "23", "24", "31", "32"]
    assert texts(main, "SEQ") == seqs, "what comes after the void counts; what comes late of before does not"
    assert texts(main, "RETURN", "episode_table") == ["2.00", "3.00"]


def test_pictures_have_a_limit_after_an_episode_was_voided_too(
    show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    tick(main)
    pictures = [frame(12), *(frame(seq) for seq in range(21, 25))]
    monkeypatch.setattr(agent_stream, "STORED_FRAME_BYTES_MAX", 2 * len(pictures[0].data))
    tick(main, *of(NEW, step(11), pictures[0]))
    tick(main, *of(NEW, void(14, of=1)))
    tick(main, *of(NEW, *pictures[1:]))
    assert main.page is not None
    assert [picture.seq for picture in main.page.stream.held._frames.values()] == [23, 24]


def test_what_was_missing_of_a_closed_run_is_not_counted_any_more(show: Callable[..., MainWindow]) -> None:
    main = show(ScriptedFeed(update(runs=(view(),))))
    tick(main)
    tick(main, *of(NEW, log(5)), holes={NEW: (Range(1, 4),)}, gaps={NEW: (Range(6, 7),)})
    assert (main.controller.missing, main.controller.lost) == (4, 2)
    main.controller.unwatch("run")
    assert (main.controller.missing, main.controller.lost) == (0, 0)


def test_two_attempts_in_a_store_file_are_told_apart(
    show: Callable[..., MainWindow], tmp_path: Path, qtbot: Any
) -> None:
    with Scribe(tmp_path / "telemetry.sqlite") as scribe:
        first = stream(worker="lab-1")
        scribe.put(first, run_started(1, first), *(step(seq, reward=-1.0) for seq in range(2, 9)))
        scribe.put(first, run_completed(9, "failed", "killed"))
        second = msgspec.structs.replace(stream(worker="lab-2"), started_ns=TIME_NS + 10**12)
        late = {"time_ns": TIME_NS + 10**12}
        scribe.put(second, msgspec.structs.replace(run_started(1, second), **late))
        scribe.put(second, reset(2, at=0), *(step(seq, reward=1.0, **late) for seq in range(3, 9)))
        scribe.commit()
    main = show(FileFeed(tmp_path / "telemetry.sqlite"))
    main.controller._timer.start()
    qtbot.waitUntil(lambda: main.controller.shown_events == 17, timeout=patience(20_000))
    qtbot.waitUntil(lambda: main.page is not None and main.page.streams_bar.isVisible(), timeout=patience(20_000))
    assert texts(main, "REWARD") == [NONE, *["1.00"] * 6]
    assert main.page is not None
    assert "attempt 1 of lab-1 (superseded), 7 steps" in main.page.streams_bar._text.text()
    assert ("attempts", "2") in health.run_details(main.controller.runs["run"])


def test_what_was_voided_long_ago_comes_with_the_newest(tmp_path: Path) -> None:
    """Of old times a broker's feed fetches only what makes some of them void: a client asks for the others."""
    info = stream()
    with Scribe(tmp_path / "telemetry.sqlite") as scribe:
        scribe.put(
            info, run_started(1, info), episode(2), step(3), void(4, of=0), *(step(seq) for seq in range(5, 400))
        )
        scribe.commit()
    found: list[FeedEvent] = []
    with query_behind_broker(tmp_path / "telemetry.sqlite") as broker:
        feed = BrokerFeed(broker, history_events=100)
        feed.watch(frozenset({"run"}))
        feed.start()
        wait_for(lambda: found.extend(feed.drain().events) or len(found) >= 101, "the newest and what is void")
        feed.stop()
    assert sorted(one.seq for one in found) == [4, *range(300, 400)]
