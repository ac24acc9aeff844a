"""What the client shows is true and has room: the mode, who acts, silent environments, figures beside low plots."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
from skips import requires
from store_fixtures import frame, metric, raw, step
from test_gui_feed import ScriptedFeed, told, update, view

from telefabric.feed.interface import Connection, LinkState
from telefabric.ring import TileHud

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication, Qt
    from PySide6.QtGui import QFontMetrics, QTextLayout
    from PySide6.QtWidgets import QLabel

    from telefabric_gui import theme
    from telefabric_gui.item_models.runs import COLUMNS, RunRow
    from telefabric_gui.model.cursor import Mode
    from telefabric_gui.model.tiles import STALLED_S, Ages, silent
    from telefabric_gui.rows import NO_STEP
    from telefabric_gui.views.details import held
    from telefabric_gui.views.plot import _OVER_PX, _Axis
    from telefabric_gui.views.styled import Caption, TickBox
    from telefabric_gui.window import MainWindow

NARROW_PX = 1280


@pytest.fixture
def window(windows: Callable[..., MainWindow]) -> Callable[..., MainWindow]:
    return partial(windows, ticking=False)


def tick(window: MainWindow, times: int = 1) -> None:
    for _ in range(times):
        window.controller.tick()
    QCoreApplication.processEvents()


# -- the bar on top ----------------------------------------------------------------------------------------------
def test_follow_is_green_only_while_more_is_expected(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(told(step(1)), runs=(view(),)), update(told(step(2))))
    main = window(feed)
    tick(main, 3)
    assert (main.top._follow.text(), main.top._follow.property("live")) == ("●  Follow live", "true")
    feed.updates.append(update(runs=(view(state="completed", finished_ns=2),)))
    tick(main, 2)
    assert (main.top._follow.text(), main.top._follow.property("live")) == ("●  At the end", "false")
    assert main.top._follow.isEnabled()
    assert main.page is not None
    assert main.page.steps_card.caption.toolTip().startswith("at the end ·")
    main.tabs.setCurrentWidget(main.tabs.human)
    tick(main)
    assert not main.top._follow.isEnabled(), "there is nothing to follow"


def test_what_came_since_one_paused_does_not_make_the_window_wider(window: Callable[..., MainWindow]) -> None:
    main = window(ScriptedFeed())
    tick(main)
    before = main.minimumSizeHint().width()
    main.top.show_mode(Mode.PAUSED, ["14 803 new steps, 2 h 14 min behind", "14 803"], live=True)
    QCoreApplication.processEvents()
    assert main.minimumSizeHint().width() == before <= NARROW_PX


def test_a_selection_of_many_steps_does_not_make_the_window_wider_nor_cut_a_speed(
    window: Callable[..., MainWindow],
) -> None:
    main = window(ScriptedFeed(update(*(told(step(seq)) for seq in range(1, 400)), runs=(view(),))), (NARROW_PX, 800))
    tick(main, 3)
    assert main.page is not None
    bar, cursor = main.bottom.transport, main.page.time.cursor
    cursor.pause()
    for last, words in ((4, {"Loop 5 steps"}), (10**12 - 1, {"Loop 1" + 4 * "\u202f000", "Loop"})):
        bar.show_cursor(_Selected(cursor, (0, last)), "")
        QCoreApplication.processEvents()
        assert bar._loop.text() in words
        assert main.width() == NARROW_PX >= main.minimumSizeHint().width()
        buttons = (*bar._speeds.values(), bar._loop, bar._buttons["bookmark"], bar._by)
        assert all(one.width() >= one.sizeHint().width() for one in buttons), "none is cut"
    main.resize(1_920, 1_080)
    QCoreApplication.processEvents()
    bar.show_cursor(_Selected(cursor, (0, last)), "")
    assert bar._loop.text().endswith("000 steps")


class _Selected:
    """A cursor with another selection."""

    def __init__(self, cursor: Any, selection: tuple[int, int]) -> None:
        self._cursor, self.selection = cursor, selection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def test_nothing_live_goes_on_while_an_ended_run_is_replayed(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(*(told(step(seq)) for seq in range(1, 400)), runs=(view(),)))
    main = window(feed)
    tick(main, 3)
    main.playing.act("first")
    main.playing.replay()
    tick(main)
    assert main.status._figures["replay"].text().endswith(" steps/s, live goes on")
    feed.updates.append(update(runs=(view(state="completed", finished_ns=2),)))
    tick(main, 2)
    assert main.status._figures["replay"].text().endswith(" steps/s")


def test_the_picture_of_a_run_that_has_ended_has_no_age(window: Callable[..., MainWindow]) -> None:

    feed = ScriptedFeed(update(told(step(1)), told(frame(2)), runs=(view(),)))
    main = window(feed)
    tick(main, 3)
    page = main.page
    assert page is not None
    assert page.frame_age_s is not None
    feed.updates.append(update(runs=(view(state="completed", finished_ns=2),)))
    tick(main, 2)
    assert page.frame_age_s is None


# -- who acts ----------------------------------------------------------------------------------------------------
def test_the_name_of_a_stream_is_none_of_several_agents() -> None:
    several = view(control_mode="multi_agent")
    assert RunRow(several, ()).caption == "running"
    assert RunRow(several, (), 3).caption == "3 agents · running"
    assert RunRow(view(), (), 1).caption == "agent_0 · running"
    assert RunRow(view(), ()).caption == "running", "nothing is known of an agent of that name"
    assert RunRow(view(), (0.0, 1.0)).caption == "agent_0 · running"
    agents = next(column for column in COLUMNS if column.title == "AGENTS")
    assert (agents.text(several), agents.text(view())) == ("", "agent_0")


def test_the_list_says_how_many_agents_of_a_run_are_open(window: Callable[..., MainWindow]) -> None:
    events = [told(step(seq, agent)) for seq, agent in enumerate(("red", "blue"), 1)]
    main = window(ScriptedFeed(update(*events, runs=(view(control_mode="multi_agent"),))))
    tick(main, 2)
    main._show_runs()
    assert main.known_runs.rows["run"].caption == "2 agents · running"


def test_metrics_of_the_machine_open_no_tab_and_are_there_once_one_is(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(told(metric(1, "system/cpu_percent")), told(step(2, "red")), runs=(view(),)))
    main = window(feed)
    tick(main, 2)
    assert [tab.stream.key.agent_id for tab in main.tabs.agents] == ["red"]
    feed.updates.append(update(told(step(3))))
    tick(main, 2)
    assert {tab.stream.key.agent_id for tab in main.tabs.agents} == {"red", "agent_0"}
    (own,) = (tab.stream for tab in main.tabs.agents if tab.stream.key.agent_id == "agent_0")
    assert list(own.metrics) == ["system/cpu_percent"]


# -- environments ------------------------------------------------------------------------------------------------
def test_an_environment_that_was_silent_all_the_time_has_a_tile() -> None:
    (found,) = silent({0, 1, 3}, None, STALLED_S)
    assert (found.env, found.step, found.stalled, found.age_s) == (2, NO_STEP, True, STALLED_S)
    assert [tile.env for tile in silent({0, 1}, 4, 60.0)] == [2, 3], "of which the run's metadata tells"
    assert silent({0, 2}, None, STALLED_S / 2) == [], "one cannot know yet"
    assert silent({0}, None, 60.0) == [], "of one environment nobody speaks"
    assert silent({0, 5_000}, None, 60.0) == [], "more than are shown"


def test_what_lay_in_the_ring_before_one_looked_says_nothing_of_a_stall() -> None:
    ages, huds = Ages(), [TileHud(0, 0, 1), TileHud(1, 0, 1)]
    ages.see(huds, 10.0, came_s=40.0)
    assert (ages.tile(huds[0], 40.0).age_s, ages.tile(huds[0], 40.0).stalled) == (30.0, False)
    assert ages.tile(huds[0], 40.0 + STALLED_S).stalled, "one has looked for long enough"
    ages.see([TileHud(0, 0, 2), TileHud(1, 0, 1, fresh=False)], 40.1, came_s=40.1)
    assert [ages.tile(hud, 40.2).stalled for hud in huds] == [False, True], "the other one goes on"


def test_steps_of_several_environments_name_theirs(window: Callable[..., MainWindow]) -> None:
    feed = ScriptedFeed(update(told(step(1)), runs=(view(),)))
    main = window(feed)
    tick(main, 2)
    page = main.page
    assert page is not None
    titles = [column.title for column in page.step_table.columns]
    assert titles[:3] == ["SEQ", "EP", "STEP"]
    feed.updates.append(update(told(step(2, env_index=7))))
    tick(main, 3)
    assert [column.title for column in page.step_table.columns][:4] == ["SEQ", "ENV", "EP", "STEP"]
    assert page.step_table.cell(0, 1).text == "7"
    page.show_columns(["SEQ", "REWARD"])
    tick(main)
    assert [column.title for column in page.step_table.columns] == ["SEQ", "REWARD"], "as it was chosen"


# -- room --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("height", [40, 60, 84, 200])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (-0.5, 0.5), (0.0, 487.0), (-3e7, 5e9)])
def test_figures_beside_a_plot_do_not_overlap_and_there_are_two(
    qapp: Any, height: int, ends: tuple[float, float]
) -> None:
    theme.use(qapp, "dark")
    low, high = ends
    ((_, values),) = _Axis("right").tickValues(low, high, height)
    line_px = QFontMetrics(theme.text_font(11)).height()
    places = [(value - low) / (high - low) * height for value in values]
    assert len(values) >= 2
    assert min(upper - lower for lower, upper in pairwise(places)) >= line_px
    assert line_px / 2 <= _OVER_PX, "one at the very edge is written, too"


def test_a_caption_is_cut_with_dots_and_left_out_where_hardly_anything_is_left(qtbot: Any, qapp: Any) -> None:
    theme.use(qapp, "dark")
    caption = Caption()
    qtbot.addWidget(caption)
    caption.setText("min/max per pixel")

    def drawn(width: int) -> Any:
        caption.resize(width, 20)
        return caption.grab().toImage()

    plain = QLabel()
    qtbot.addWidget(plain)
    plain.setProperty("role", "caption")
    cut = caption.fontMetrics().elidedText(caption.text(), Qt.TextElideMode.ElideRight, 80)
    for width, text in ((30, ""), (80, cut)):
        plain.resize(width, 20)
        plain.setText(text)
        assert drawn(width) == plain.grab().toImage(), width


def test_a_tick_box_has_room_for_its_words(qtbot: Any, qapp: Any) -> None:
    theme.use(qapp, "dark")
    box = TickBox("stalled first")
    qtbot.addWidget(box)
    box.show()
    box.resize(box.sizeHint())
    narrow = box.grab().toImage()
    box.resize(box.sizeHint().width() + 40, box.height())
    assert box.grab(box.rect().adjusted(0, 0, -40, 0)).toImage() == narrow, "nothing is cut"


def test_an_address_that_does_not_answer_has_its_remedy_once(window: Callable[..., MainWindow]) -> None:
    url = "tcp://127.0.0.1:9000"
    said = f"Nobody answers at {url}: is the broker running there? Start one with: telefabric up --listen {url}"
    away = Connection(LinkState.UNREACHABLE, url, said)
    main = window(ScriptedFeed(update(connection=away), connection=away))
    tick(main, 2)
    assert main.empty._command.text() == f"telefabric up --listen {url}"
    assert main.empty._sentence.text() == f"Nobody answers at {url}: is the broker running there?"


def test_options_and_addresses_in_a_sentence_are_not_broken(qapp: Any) -> None:
    sentence = "Start one with: telefabric up --listen tcp://127.0.0.1:17750"
    for width in range(120, 300, 10):
        layout = QTextLayout(held(sentence), theme.text_font(theme.CAPTION_PX))
        layout.beginLayout()
        lines = []
        while (line := layout.createLine()).isValid():
            line.setLineWidth(width)
            lines.append(layout.text()[line.textStart() : line.textStart() + line.textLength()])
        layout.endLayout()
        assert not [one for one in lines if one.rstrip("\u2060").endswith(("-", "/"))], lines


def test_a_small_window_shows_the_first_figures_of_the_status_and_does_not_grow(
    window: Callable[..., MainWindow],
) -> None:
    main = window(ScriptedFeed())
    tick(main)
    before = main.minimumSizeHint().width()
    main.status.show_figure("replay", "replay 12 000 steps/s, live goes on")
    QCoreApplication.processEvents()
    assert main.minimumSizeHint().width() == before <= NARROW_PX
    main.resize(NARROW_PX, 800)
    QCoreApplication.processEvents()
    shown = {name: one.geometry() for name, one in main.status._figures.items() if one.isVisible()}
    assert shown["rate"].left() >= 0
    bar = main.status._figures["rate"].parentWidget()
    assert bar is not None
    assert all(one.right() < bar.width() for one in shown.values()), "none is cut"


def test_figures_of_the_time_line_are_not_written_over_each_other(
    window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a thousand steps are missing, ticks of steps that are far from each other are beside each other."""
    from telefabric_gui.views import timeline

    written: list[Any] = []
    write = timeline.write

    def noted(painter: Any, area: Any, text: str, *how: Any) -> None:
        if how and how[-1] in (theme.LEFT, theme.CENTRED, theme.RIGHT):
            written.append((area, text, how[-1]))
        write(painter, area, text, *how)

    events = [told(step(seq, global_step=seq if seq < 1_000 else seq + 5_000)) for seq in range(1, 2_000)]
    main = window(ScriptedFeed(update(*events, runs=(view(),))))
    monkeypatch.setattr(timeline, "write", noted)
    tick(main, 3)
    main.bottom.line._still = None
    written.clear()
    main.bottom.line.grab()
    metrics = QFontMetrics(theme.figure_font(11))
    spans = []
    for area, text, how in written:
        wide = metrics.horizontalAdvance(text)
        left = {theme.LEFT: area.left(), theme.RIGHT: area.right() - wide}.get(how, area.center().x() - wide / 2)
        spans.append((left, left + wide))
    assert len(spans) > 3
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert max(end for _, end in spans) <= main.bottom.line._room + 1, "the last one is not cut"


def test_the_chosen_row_stays_in_sight_when_a_table_grows_and_shrinks(window: Callable[..., MainWindow]) -> None:
    main = window(ScriptedFeed(update(*(told(step(seq)) for seq in range(1, 60)), runs=(view(),))))
    tick(main, 2)
    assert main.page is not None
    table = main.page.steps
    table.resize(400, 200)
    table.show_row(0)
    for height in (1_000, 200):
        table.resize(400, height)
        QCoreApplication.processEvents()
        line = main.page.step_table.rowCount() - 1
        assert 0 <= line - table.verticalScrollBar().value() < table._lines_in_sight
    table.scrollToTop()
    table.resize(400, 180)
    assert table.verticalScrollBar().value() == 0, "one has scrolled away from it"


@pytest.mark.parametrize("width", [360, 480, 540, 580, 620, 900])
def test_spare_room_of_a_table_goes_to_the_observation(window: Callable[..., MainWindow], width: int) -> None:
    main = window(ScriptedFeed(update(told(step(1, observation=raw([0.125] * 9))), runs=(view(),))))
    tick(main, 2)
    page = main.page
    assert page is not None
    page.steps.resize(width, 200)
    table, columns = page.steps, [column.title for column in page.step_table.columns]
    widths = {title: table.columnWidth(at) for at, title in enumerate(columns) if not table.isColumnHidden(at)}
    assert sum(widths.values()) <= table.viewport().width(), "none is cut"
    last = list(widths)[-1]
    if "OBS" in widths and last != "OBS":
        own = table._widths[columns.index("OBS")]
        spare = widths[last] - table._widths[columns.index(last)]
        assert spare <= 1 or widths["OBS"] > own + 200
