"""The client's window: opens by data, follows, pauses, says what is wrong, and leaves nothing running."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from processes import run
from skips import requires
from slowness import patience
from store_fixtures import episode, metric, raw, step
from test_gui_feed import LIVE, ScriptedFeed, told, update, view

from telefabric.address import Address
from telefabric.errors import UsageError
from telefabric.feed import Answer, FrameAt, Page, StoredEvent
from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import Connection, FeedEvent, LinkState
from telefabric.peer.requests import nobody_at
from telefabric.subscribe.core.handover import Range
from telefabric_schemas import Frame

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from click.testing import CliRunner
    from PySide6.QtCore import QBuffer, QCoreApplication, QEvent, QObject, Qt, QTimer, Signal
    from PySide6.QtGui import QImage
    from PySide6.QtWidgets import QWidget

    from telefabric_gui import app, theme
    from telefabric_gui import window as window_module
    from telefabric_gui.command import gui
    from telefabric_gui.controller import STREAMS_MAX, Controller
    from telefabric_gui.model.cursor import Mode
    from telefabric_gui.views import scenes
    from telefabric_gui.views import step_picture as picture_module
    from telefabric_gui.views.status import FIGURES
    from telefabric_gui.window import MainWindow

S = b"s" * 16


def some(first: int, last: int, **given: Any) -> list[FeedEvent]:
    return [told(episode(seq) if seq % 10 == 0 else step(seq, **given)) for seq in range(first, last + 1)]


@pytest.fixture
def window(windows: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch) -> Callable[..., MainWindow]:
    """Shows a feed; ticks come from the test, not from the clock, and each brings the details, too."""
    monkeypatch.setattr(window_module, "_DETAILS_TICKS", 1)
    monkeypatch.setattr(picture_module, "LOOKING_S", -1.0)
    monkeypatch.setattr(picture_module, "KEPT_S", -1.0)
    return partial(windows, ticking=False)


def tick(window: MainWindow, times: int = 1) -> None:
    for _ in range(times):
        window.controller.tick()
    QCoreApplication.processEvents()


def mode(window: MainWindow) -> Mode:
    assert window.page is not None
    return window.page.time.cursor.mode


def test_the_newest_running_run_opens_by_itself_with_its_first_step(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(runs=(view("done", "completed"), view("run"), view("older"))), update(*some(1, 30)))
    main = window(feed)
    tick(main)
    assert feed.watched == {"run"}
    assert not main.tabs.agents
    assert main.tabs.currentWidget() is main.empty
    tick(main)
    assert main.tabs.tabText(0) == "Agent-0-Online"
    assert main.page is not None
    assert (main.page.step_table.rowCount(), main.page.episode_table.rowCount()) == (27, 3)
    assert main.tabs.currentWidget() is main.tabs.agents[0]
    assert main.tabs.indexOf(main.empty) < 0


def test_a_window_is_as_large_as_the_last_one_was(window: Callable[..., MainWindow]) -> None:
    """As far as there is room on the screen, which is 800 pixels high here."""
    window(ScriptedFeed(), (1_111, 657)).close()
    again = MainWindow(Controller(ScriptedFeed()))
    assert again.height() == 657
    again.memory._file.setValue("geometry", "spoiled by somebody")
    assert MainWindow(Controller(ScriptedFeed())).height() == 900


def test_a_latency_is_counted_once_and_not_again_while_nothing_comes(window: Callable[..., MainWindow]) -> None:
    late, soon = (LIVE._replace(behind_s=behind, received=number) for number, behind in ((1, 0.2), (5, 0.1)))
    main = window(ScriptedFeed(update(connection=late), *[update(connection=soon)] * 4))
    tick(main, 5)
    assert list(main.controller.latencies) == [0.2, 0.1]


def test_a_tab_for_each_agent_and_none_twice(window: Callable[..., MainWindow]) -> None:
    events = [told(step(seq, agent=f"agent_{seq % 3}")) for seq in range(1, 31)]
    main = window(ScriptedFeed(update(runs=(view(agents=("agent_0", "agent_1", "agent_2")),)), update(*events)))
    tick(main, 3)
    assert [main.tabs.tabText(at) for at in range(3)] == [f"Agent-{n}-Online" for n in (1, 2, 0)]
    assert [len(stream.steps) for stream in main.controller.streams.values()] == [10, 10, 10]
    main.tabs.setCurrentIndex(2)
    assert main.page is not None
    assert (main.page.stream.key.agent_id, main.page.step_table.rowCount()) == ("agent_0", 10)


def test_more_agents_than_tabs_are_counted(window: Callable[..., MainWindow]) -> None:
    events = [told(step(seq, agent=f"a{seq}")) for seq in range(1, STREAMS_MAX + 6)]
    main = window(ScriptedFeed(update(runs=(view(),)), update(*events)))
    tick(main, 2)
    assert len(main.tabs.agents) == STREAMS_MAX
    assert len(main.controller.hidden_agents) == 5


def test_choosing_a_run_opens_it_and_closing_it_forgets_it(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(runs=(view("run"), view("other", "completed"))), update(*some(1, 30)))
    main = window(feed)
    tick(main, 2)
    main.runs.chosen.emit("other")
    assert feed.watched == {"run", "other"}
    feed.updates.append(update(*[told(step(1), "other", b"o" * 16)]))
    tick(main)
    assert len(main.tabs.agents) == 2
    assert main.page is not None
    assert main.page.stream.key.run_id == "other"
    main.tabs.close_front()
    assert feed.watched == {"run"}
    assert len(main.tabs.agents) == 1
    feed.updates.append(update(*[told(step(2), "other", b"o" * 16)]))
    tick(main)
    assert len(main.tabs.agents) == 1


def test_paused_stands_still_receives_and_says_how_much(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(runs=(view(),)), update(*some(1, 30)))
    main = window(feed)
    tick(main, 2)
    page = main.page
    assert page is not None
    main.playing.pause()
    shown = page.details, page.steps.chosen
    feed.updates.append(update(*some(31, 49)))
    tick(main)
    assert page.time.cursor.row == 26
    assert (page.details, page.steps.chosen) == shown
    assert page.step_table.rowCount() == 45, "what is new is in the table, above the step that is shown"
    assert main.top._waiting.text().startswith("18 new steps, ")
    assert main.top._pause.isChecked()
    main.playing.follow()
    tick(main)
    assert page.step_table.rowCount() == 45
    assert main.top._waiting.text() == ""
    assert main.top._follow.isChecked()


def test_keys(window: Callable[..., MainWindow], qtbot: Any) -> None:
    main = window(ScriptedFeed(update(runs=(view(),)), update(*some(1, 30))))
    tick(main, 2)
    main.activateWindow()
    qtbot.keyClick(main, Qt.Key.Key_P)
    assert mode(main) is Mode.PAUSED
    qtbot.keyClick(main, Qt.Key.Key_F)
    assert mode(main) is Mode.FOLLOW
    qtbot.keyClick(main, Qt.Key.Key_BracketLeft)
    assert not main.runs.isVisible()
    qtbot.keyClick(main, Qt.Key.Key_BracketRight)
    assert not main.details.isVisible()
    qtbot.keyClick(main, Qt.Key.Key_T)
    assert theme.active().name == "light"
    qtbot.keyClick(main, Qt.Key.Key_Slash)
    assert main.runs.isVisible()
    assert main.runs.filter.hasFocus()
    qtbot.keyClicks(main.runs.filter, "fp")
    assert main.runs.filter.text() == "fp"
    assert mode(main) is Mode.FOLLOW


def test_a_table_follows_at_its_top_and_stands_still_elsewhere(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(runs=(view(),)), update(*some(1, 999)))
    main = window(feed)
    tick(main, 2)
    page = main.page
    assert page is not None
    view_ = page.steps
    assert view_.following
    view_.verticalScrollBar().setValue(100)
    QCoreApplication.processEvents()
    before = page.step_table.index(view_.rowAt(0), 0).data()
    feed.updates.append(update(*some(1_001, 1_049)))
    tick(main)
    assert page.step_table.index(view_.rowAt(0), 0).data() == before
    assert not view_.following
    main.playing.follow()
    tick(main)
    assert view_.following
    assert page.step_table.index(view_.rowAt(0), 0).data() == "1\u202f049"


def test_a_chosen_step_stays_chosen_while_others_come(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(runs=(view(),)), update(*some(1, 49)))
    main = window(feed)
    tick(main, 2)
    page = main.page
    assert page is not None
    page.steps.selectRow(5)
    chosen = page.step_table.index(5, 0).data()
    feed.updates.append(update(*some(51, 79)))
    tick(main)
    assert ("seq", chosen) in page.details
    main._let_go()
    tick(main)
    assert ("seq", "79") in page.details


def test_holes_and_gaps_are_counted_and_the_verdict_says_so(window: Callable[..., MainWindow]) -> None:
    events = [*some(1, 9), *some(21, 29)]
    feed = ScriptedFeed(update(runs=(view(),)), update(*events, holes={S: (Range(10, 20),)}))
    main = window(feed)
    tick(main, 2)
    assert main.details._verdict.text() == "11 being fetched"
    assert main.status._figures["missing"].text() == "missing 11"
    feed.updates.append(update(connection=LIVE._replace(absent=("store",))))
    tick(main)
    assert main.details._verdict.text() == "11 wait for a store"
    feed.updates.append(update(*some(10, 20), holes={S: ()}))
    tick(main)
    assert main.details._verdict.text() == "all accounted for"
    assert main.page is not None
    assert main.page.step_table.rowCount() == 27


@pytest.mark.parametrize(
    ("connection", "runs", "title", "command"),
    [
        (Connection(LinkState.CONNECTING, "tcp://lab:7750"), None, "Connecting", ""),
        (
            Connection(LinkState.UNREACHABLE, "tcp://127.0.0.1:9000", nobody_at(Address("127.0.0.1", 9000))),
            None,
            "Not reachable",
            "telefabric up --listen tcp://127.0.0.1:9000",
        ),
        (
            Connection(LinkState.UNREACHABLE, "tcp://lab:7750", nobody_at(Address("lab", 7750))),
            None,
            "Not reachable",
            "",
        ),
        (Connection(LinkState.REFUSED, "tcp://lab:7750", "lab:7750 refused this key."), None, "Refused", ""),
        (Connection(LinkState.FILE, "/data/telemetry.sqlite"), (), "No run yet", "telefabric demo --data /data"),
        (
            LIVE,
            (),
            "No run yet",
            "TELEFABRIC_CONNECT=tcp://lab-broker:7750 python -m telefabric_workers.demo.frozenlake",
        ),
        (LIVE, (view("r"),), "Waiting for the first step", ""),
    ],
)
def test_with_nothing_to_show_it_says_why_and_what_to_type(
    window: Callable[..., MainWindow], connection: Connection, runs: Any, title: str, command: str
) -> None:
    main = window(ScriptedFeed(update(connection=connection, runs=runs), connection=connection))
    tick(main, 2)
    assert main.empty._title.text() == title
    assert main.empty._command.text() == command
    assert main.empty._command.isVisible() is bool(command)
    if connection.sentence:
        assert connection.sentence == " Start one with: ".join(filter(None, (main.empty._sentence.text(), command)))


def test_a_lost_connection_and_a_stalled_run_are_said_above_what_stays(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(runs=(view(),)), update(*some(1, 9)))
    main = window(feed)
    tick(main, 2)
    gone = Connection(LinkState.UNREACHABLE, "tcp://lab:7750", "Can't reach lab:7750: connection refused.")
    feed.updates += [update(connection=gone, runs=(view(state="stalled", silent_s=14.0),))]
    tick(main)
    assert main.banner._text.text() == gone.sentence
    assert main.banner.isVisible()
    assert main.page is not None
    assert main.page.banner._text.text() == "Stalled: nothing from run for 14 s. Its last step is stored."
    assert main.page.step_table.rowCount() == 9


def test_every_figure_at_the_bottom_has_room_for_its_longest(window: Callable[..., MainWindow]) -> None:
    bar = window(ScriptedFeed()).status
    for name, (longest, _) in FIGURES.items():
        bar.show_figure(name, longest)
        figure = bar._figures[name]
        assert figure.sizeHint().width() <= figure.minimumWidth(), name


def test_the_right_dock_starts_collapsed_in_a_small_window(window: Callable[..., MainWindow]) -> None:
    assert not window(ScriptedFeed(), (1100, 700)).details.isVisible()
    assert window(ScriptedFeed(), (1280, 800)).details.isVisible()


def test_runs_are_filtered_by_any_of_their_words(window: Callable[..., MainWindow]) -> None:
    runs = (
        view("lake"),
        view("pole", "failed", metadata=bytes(raw({"game_id": "CartPole-v1"}))),
        view("sea", "completed"),
    )
    main = window(ScriptedFeed(update(runs=runs)))
    tick(main, 2)
    for text, left in (("", 3), ("failed", 1), ("cartpole-v1", 1), ("agent run", 1), ("nothing", 0)):
        main.runs.filter.setText(text)
        assert main.runs.table.rowCount() == left
    assert main.runs._hint.isVisible()
    main.runs.filter.clear()
    main.controller.feed.updates.append(update(runs=(view("new"), *runs)))  # type: ignore[attr-defined]
    tick(main)
    assert len(main.known_runs.rows) == 4


def test_a_chart_shows_a_metric_when_asked(window: Callable[..., MainWindow], qtbot: Any) -> None:
    events = [told(metric(seq, "loss", 1 / seq)) for seq in range(101, 201)]
    main = window(ScriptedFeed(update(runs=(view(),)), update(*some(1, 99), *events)))
    tick(main, 2)
    page = main.page
    assert page is not None
    main.charting.layout.show_alone("metric/loss")
    tick(main)
    qtbot.waitUntil(lambda: page.charts_card.title.text() == "loss", timeout=patience(5_000))
    assert page.charts.charts[0].lines[0].curve.samples.mean.tolist() == [1 / seq for seq in range(101, 201)]


def test_nothing_runs_after_the_window_is_closed(qtbot: Any, qapp: Any, tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    main = MainWindow(Controller(FileFeed(tmp_path / "none.sqlite")))
    main.show()
    qtbot.waitUntil(lambda: main.controller.connection.link is LinkState.UNREACHABLE, timeout=patience(5_000))
    main.close()
    assert set(threading.enumerate()) <= threads
    assert not [timer for timer in main.findChildren(QTimer) if timer.isActive()]
    main.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def test_calls_without_a_result_leave_none_as_it_was(qapp: Any) -> None:
    """PySide6 6.12.0 on Python 3.11 takes a reference from None in each, and ends the process after 5,000."""

    class Sender(QObject):
        sent = Signal()

    widget, sender, heard = QWidget(), Sender(), []
    sender.sent.connect(lambda: heard.append(1))
    before = sys.getrefcount(None)
    for _ in range(2_000):
        widget.update()
        widget.setToolTip("")
        sender.sent.emit()
    assert abs(sys.getrefcount(None) - before) < 200
    assert len(heard) == 2_000


# -- a real run --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo")
    done = run("demo", "--json", "--episodes", "150", "--data", str(folder))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@requires("gymnasium", find_spec("gymnasium") is not None)
def test_a_real_run_is_shown_whole(qtbot: Any, qapp: Any, demo: dict[str, Any]) -> None:
    theme.use(qapp, "light")
    main = MainWindow(Controller(FileFeed(Path(demo["store"]))))
    main.show()
    qtbot.waitUntil(lambda: main.controller.shown_events == demo["emitted"], timeout=patience(20_000))
    QCoreApplication.processEvents()
    page = main.page
    assert page is not None
    assert page.stream.key == (demo["run_id"], "agent_0")
    assert page.step_table.rows.held == page.step_table.rows.events == demo["steps"]
    assert page.step_table.rowCount() == demo["steps"] + demo["episodes"], "and a row for each reset"
    assert page.episode_table.rowCount() == demo["episodes"]
    assert isinstance(page.environment.scene, scenes.GridScene)
    qtbot.waitUntil(lambda: main.details._verdict.text() == "all accounted for", timeout=patience(20_000))
    assert len(page.stream.returns()) == demo["episodes"]
    main.close()
    main.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@requires("gymnasium", find_spec("gymnasium") is not None)
def test_the_command_takes_a_picture_and_ends(demo: dict[str, Any], tmp_path: Path, qapp: Any) -> None:
    picture = tmp_path / "window.png"
    arguments = ["--store", demo["store"], "--theme", "dark", "--screenshot", str(picture), "--after", "0.5"]
    done = CliRunner().invoke(gui, [*arguments, "--size", "1280x800"], catch_exceptions=False)
    assert done.exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_refuses_what_makes_no_sense() -> None:
    done = CliRunner().invoke(gui, ["--store", "a", "--connect", "tcp://b:1"])
    assert isinstance(done.exception, UsageError)


def test_a_picture_that_cannot_be_written_is_a_failure(tmp_path: Path, qapp: Any) -> None:
    picture = tmp_path / "no" / "x.png"
    with pytest.raises(app.EnvironmentProblem, match="could not be written"):
        app.run(ScriptedFeed(), theme_name="dark", screenshot=picture, after_s=0.0, size=None, tied=False)


def picture(width: int, height: int) -> bytes:
    image = QImage(width, height, QImage.Format.Format_RGB888)
    image.fill(Qt.GlobalColor.red)
    buffer = QBuffer()
    buffer.open(QBuffer.OpenModeFlag.WriteOnly)
    image.save(buffer, "PNG")
    return bytes(buffer.data().data())


def test_a_live_picture_is_shown_with_its_step_and_not_with_another(window: Callable[..., MainWindow]) -> None:
    def frame(of: int, data: bytes, encoding: str = "png") -> FeedEvent:
        return told(Frame(0, "agent_0", 0, of // 10, of % 10, "", 8, 4, encoding, data, step(of).time_ns, 0))

    feed = ScriptedFeed(update(runs=(view(),)), update(*some(1, 29)))
    main = window(feed)
    tick(main, 2)
    page = main.page
    assert page is not None
    for event in (frame(29, picture(8, 4)), frame(29, bytes(8 * 4 * 3), "raw")):
        feed.updates.append(update(event))
        tick(main)
        assert isinstance(page.environment.scene, scenes.FrameScene)
        assert not page.environment.grab().isNull()
    page.steps.selectRow(5)
    tick(main)
    assert not isinstance(page.environment.scene, scenes.FrameScene)
    page.steps.selectRow(0)
    tick(main)
    assert isinstance(page.environment.scene, scenes.FrameScene)
    feed.updates.append(update(frame(29, b"no picture")))
    tick(main)
    assert not isinstance(page.environment.scene, scenes.FrameScene)


# -- scenes ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("observation", "hint", "metadata", "kind"),
    [
        (4, None, {"game_id": "FrozenLake-v1"}, "GridScene"),
        (4, {"grid": ["SF", "FG"], "agent": [1, 0]}, {}, "GridScene"),
        (np.zeros(4, np.float32), None, {"game_id": "CartPole-v1"}, "CartPoleScene"),
        (np.zeros((84, 84), np.uint8), None, {}, "ImageScene"),
        (np.zeros((4, 84, 84), np.uint8), None, {}, "ImageScene"),
        (np.zeros((20, 30, 3), np.uint8), None, {}, "ImageScene"),
        ([0.5, -1.0, float("nan")], None, {}, "BarScene"),
        ({"a": 1}, None, {}, "TextScene"),
        (None, "two\nlines", {}, "TextScene"),
        (99, None, {"game_id": "FrozenLake-v1"}, "TextScene"),
        (np.zeros((0, 3), np.uint8), None, {}, "TextScene"),
    ],
)
def test_each_observation_has_its_picture(
    window: Callable[..., MainWindow], observation: Any, hint: Any, metadata: dict[str, Any], kind: str
) -> None:
    event = told(step(1, observation=raw(observation), render_hint=raw(hint)))
    main = window(ScriptedFeed(update(runs=(view(metadata=bytes(raw(metadata))),)), update(event)))
    tick(main, 2)
    assert main.page is not None
    scene = main.page.environment.scene
    assert type(scene).__name__ == kind
    assert scene is not None
    assert scene.words
    assert not main.page.environment.grab().isNull()


# -- health ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("connection", "stored", "caption", "tone"),
    [
        (LIVE, "100 stored", "20 events on the way", "good"),
        (LIVE._replace(absent=("store",)), "100 stored", "Not attached to the broker", "warning"),
        (LIVE._replace(sentence="The store does not answer."), "100 stored", "The store does not answer.", "warning"),
    ],
)
def test_the_chain_tells_of_each_part_from_worker_to_client(
    window: Callable[..., MainWindow], connection: Connection, stored: str, caption: str, tone: str
) -> None:
    runs = (view(emitted=120, backlog=20),)
    main = window(ScriptedFeed(update(connection=connection, runs=runs), update(*some(1, 9), connection=connection)))
    tick(main, 2)
    parts = {part.name: part for part in main.details._chain._parts}
    assert list(parts) == ["Worker", "Broker", "Store", "This client"]
    assert parts["Worker"].figure == "120 emitted"
    assert parts["Store"].figure == stored
    assert parts["Store"].caption.startswith(caption)
    assert parts["Store"].tone == tone


def test_a_sentence_in_the_chain_has_as_many_lines_as_it_needs(window: Callable[..., MainWindow]) -> None:
    connection = LIVE._replace(absent=("store",))
    main = window(ScriptedFeed(update(runs=(view(),)), update(*some(1, 9), connection=LIVE)))
    tick(main, 2)
    chain = main.details._chain
    before = chain.height()
    main.controller.feed.updates.append(update(connection=connection))
    tick(main)
    assert chain.height() > before


def test_a_chosen_step_shows_the_nearest_stored_frame_of_its_episode_and_says_how_far(
    window: Callable[..., MainWindow],
) -> None:
    """Steps of episode 1 are the seqs 10 to 19."""
    stored = [
        told(Frame(100 + at, "agent_0", 0, 1, at, "f", 8, 4, "png", picture(8, 4), step(10 + at).time_ns, 0))
        for at in (2, 6)
    ]
    main = window(ScriptedFeed(update(runs=(view(),)), update(*some(1, 29), *stored)))
    tick(main, 2)
    page = main.page
    assert page is not None
    caption, badge = page.environment_card.caption, page.picture.badge
    said = {}
    for row in range(page.step_table.rowCount()):
        page.steps.selectRow(row)
        tick(main)
        found = page.step_table.at(row).record
        if int(found["episode"]) == 1:
            said[int(found["step"])] = badge.text(), badge.property("badge")
            assert isinstance(page.environment.scene, scenes.FrameScene)
        else:
            assert caption.toolTip() == "looking for its frame"
            assert not isinstance(page.environment.scene, scenes.FrameScene)
    assert said[2] == said[6] == ("exact frame", "good")
    assert said[1] == ("nearest +1", "warning")
    assert said[4] == ("nearest \u22122", "warning")
    assert said[9] == ("nearest \u22123", "warning")


def test_the_store_is_asked_for_a_frame_that_is_not_held(window: Callable[..., MainWindow]) -> None:
    main = window(ScriptedFeed(update(runs=(view(),)), update(*some(1, 29))))
    feed = main.controller.feed
    assert isinstance(feed, ScriptedFeed)
    tick(main, 2)
    assert not feed.asked_for(FrameAt), "nothing was chosen"
    assert feed.pictures == {"run"}
    page = main.page
    assert page is not None
    page.steps.selectRow(5)
    tick(main)
    tick(main, 3)
    asked = feed.asked_for(FrameAt)
    place = asked[0].question
    assert isinstance(place, FrameAt)
    assert (len(asked), place.step_index) == (1, page.steps.chosen.record["step"]), "once"

    seqs = count(1)

    def answer(step_index: int | None, encoding: str = "png") -> str:
        data = picture(8, 4) if encoding == "png" else b""
        frame = Frame(next(seqs), "agent_0", 0, place.episode_index, step_index or 0, "f", 8, 4, encoding, data, 1, 1)
        data = msgspec.msgpack.encode(frame)
        row = StoredEvent(1, "frame", "run", "w", b"s" * 16, 1, 1, "agent_0", 1, None, None, data)
        rows = [] if step_index is None else [row]
        page.picture.stored._take(1, place, Answer(place, Page(rows, False)))
        tick(main)
        badge = page.picture.badge
        return badge.text() if badge.isVisibleTo(page) else page.environment_card.caption.toolTip()

    at = place.step_index
    assert answer(None) == "no frame of this episode is stored"
    assert answer(at, "expired") == "its frames have expired"
    assert not isinstance(page.environment.scene, scenes.FrameScene)
    assert answer(at + 2) == "nearest +2"
    assert isinstance(page.environment.scene, scenes.FrameScene)
    assert answer(at) == "exact frame"
    assert answer(at, "unknown") == "its frame cannot be read as a picture"
    assert not isinstance(page.environment.scene, scenes.FrameScene)
    assert answer(at) == "exact frame"
    page.steps.selectRow(7)
    tick(main)
    assert len(feed.asked_for(FrameAt)) == 2, "the answer was for another step"
    assert page.picture.badge.text() == f"nearest {at - page.steps.chosen.record['step']:+}".replace("-", "\u2212")


def test_pictures_are_wanted_of_the_run_in_front_alone(window: Callable[..., MainWindow]) -> None:
    runs = (view("a"), view("b"))
    main = window(ScriptedFeed(update(runs=runs)))
    feed = main.controller.feed
    assert isinstance(feed, ScriptedFeed)
    tick(main)
    for run_id in ("a", "b"):
        main.open_run(run_id)
        feed.updates.append(update(told(step(1), run_id, run_id.encode() * 16)))
        tick(main, 2)
        assert feed.pictures == {run_id}
    main.tabs.setCurrentIndex(0)
    tick(main)
    assert feed.pictures == {"a"}
    assert main.page is not None
    main.page.lane.state = "live"
    tick(main)
    assert not feed.pictures, "the ring shows them"


def test_replay_is_as_fast_as_the_environment_of_the_run(window: Callable[..., MainWindow]) -> None:
    metadata = msgspec.msgpack.encode({"environment": {"render_fps": 30}})
    main = window(ScriptedFeed(update(runs=(view(metadata=metadata),)), update(*some(1, 29))))
    tick(main, 2)
    assert main.page is not None
    assert main.page.time.cursor.rows_per_s == 30
    main.playing.replay(2.0)
    assert main.page.time.cursor.rows_per_s == 60
