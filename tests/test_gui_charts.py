"""Charts of the whole run in the real window, on a real store file: what is drawn, and what mouse and keys do."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from skips import requires
from slowness import patience
from store_fixtures import TIME_NS, Scribe, episode, metric, run_completed, run_started, step, stream

from telefabric.feed import Answer, Asked, FileFeed

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication, QEvent, QObject, QPoint, QPointF, Qt
    from PySide6.QtGui import QMouseEvent, QWheelEvent
    from PySide6.QtTest import QAbstractItemModelTester
    from PySide6.QtWidgets import QApplication

    from telefabric_gui import agent_stream, theme
    from telefabric_gui.controller import Controller
    from telefabric_gui.item_models.series_tree import SERIES_ROLE, SeriesTree
    from telefabric_gui.model import series as series_module
    from telefabric_gui.model import streams as streams_module
    from telefabric_gui.model.layout import AXES, Layout
    from telefabric_gui.model.overlay import Overlay
    from telefabric_gui.model.pyramid import TOP, Tile, buckets
    from telefabric_gui.model.scale import EPISODE, RELATIVE_TIME, STEP, WALL_TIME, Scale
    from telefabric_gui.model.series import SeriesData, SeriesKey
    from telefabric_gui.reduction import NOTHING
    from telefabric_gui.views.charts import name_of
    from telefabric_gui.window import MainWindow

STEPS = 6_000
LOST_FROM, LOST = 2_000, 500
"""The first step that is missing, and how many."""
STEP_NS = 10_000_000


def write_run(scribe: Scribe, name: str, after_ns: int, slope: float) -> None:
    """Steps of which some were lost, an episode for each 100, a metric for each 50 that is no number for a while."""
    info, seq, batch = stream(run=name, worker=name, after_ns=after_ns), 1, []
    batch.append(run_started(seq, info))
    for at in range(STEPS):
        if at == LOST_FROM:
            scribe.put(info, *batch)
            scribe.put_gap(info, seq + 1, seq + LOST, "spool full")
            batch, seq = [], seq + LOST
        if LOST_FROM <= at < LOST_FROM + LOST:
            continue
        seq += 1
        time_ns = TIME_NS + after_ns + at * STEP_NS
        found = step(seq, global_step=at, reward=slope * at + (at % 7), episode_index=at // 100, step_index=at % 100)
        batch.append(msgspec.structs.replace(found, time_ns=time_ns))
        if at % 100 == 99:
            seq += 1
            batch.append(episode(seq, global_step=at, episode_index=at // 100, total_reward=slope * at, length=100))
        if at % 50 == 0:
            seq += 1
            value = None if 4_000 <= at < 4_500 else float(at - 1_000)
            batch.append(msgspec.structs.replace(metric(seq, "loss/policy", value), global_step=at))
    batch.append(run_completed(seq + 1))
    scribe.put(info, *batch)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("charts") / "telemetry.sqlite"
    with Scribe(path) as scribe:
        for number, name in enumerate(("first", "second", "third")):
            write_run(scribe, name, number * 10**12, 0.01 * (number + 1))
        scribe.commit()
    return path


@pytest.fixture
def opened(
    windows: Callable[..., MainWindow], qtbot: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], MainWindow]:
    """Opens the store in a window, as a user does, and waits until it is there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def show() -> MainWindow:
        window = windows(FileFeed(store), (1600, 1000))
        qtbot.waitUntil(lambda: whole(window), timeout=patience(20_000))
        return window

    return show


def line_of(window: MainWindow, series: str, run: str = "third") -> Any:
    assert window.page is not None
    lines = [line for chart in window.page.charts.charts for line in chart.lines]
    return next((line for line in lines if line.key.name == series and line.key.run_id == run), None)


def drawn(window: MainWindow, series: str, run: str = "third") -> int:
    """Values of a series that are drawn."""
    line = line_of(window, series, run)
    return 0 if line is None else round(float(line.curve.samples.number.sum()))


def whole(window: MainWindow) -> bool:
    """Whether all of the run is there: its returns and the number of its rows."""
    page = window.page
    return page is not None and drawn(window, "return") == 55 and page.time.cursor.total == STEPS - LOST


def plot_of(window: MainWindow, number: int = 0) -> Any:
    assert window.page is not None
    return window.page.charts.charts[number].plot


def pixel(window: MainWindow, place: float) -> QPoint:
    plot = plot_of(window)
    assert plot.viewport().width() > 200
    return QPoint(round(plot.pixel_of(place)), plot.height() // 2)


def drag(window: MainWindow, qtbot: Any, begin: float, end: float, keys: Any = None) -> None:
    viewport, keys = plot_of(window).viewport(), keys or Qt.KeyboardModifier.NoModifier
    qtbot.mousePress(viewport, Qt.MouseButton.LeftButton, keys, pixel(window, begin))
    target = pixel(window, end)
    for share in (0.3, 0.7, 1.0):
        between = QPoint(round(pixel(window, begin).x() * (1 - share) + target.x() * share), target.y())
        qtbot.mouseMove(viewport, between)
        if share == 1.0:
            qtbot.mouseRelease(viewport, Qt.MouseButton.LeftButton, keys, between)


# -- what is drawn -----------------------------------------------------------------------------------------------
def test_a_stored_run_has_its_final_axes_from_the_first_picture_on(
    qtbot: Any, qapp: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    window = MainWindow(Controller(FileFeed(store)))
    window.show()
    qtbot.waitUntil(lambda: window.page is not None, timeout=patience(20_000))
    assert window.page is not None
    charts, sights, heights = window.page.charts, set(), set()

    def note() -> None:
        if drawn(window, "return"):
            sights.add(charts.charts[0].plot.sight)
            heights.add(charts.charts[0].lines[0].height)

    charts.drawn.connect(note)
    qtbot.waitUntil(lambda: drawn(window, "return") == 55, timeout=patience(20_000))
    qtbot.wait(300)
    assert sights == {(0.0, STEPS - 1.0)}
    assert len(heights) == 1
    window.close()
    window.deleteLater()


@pytest.mark.parametrize("tail", [5_000, 1_000])
def test_what_is_lost_and_what_is_no_number_are_cuts_in_the_line(
    opened: Callable[[], MainWindow], qtbot: Any, monkeypatch: pytest.MonkeyPatch, tail: int
) -> None:
    """Whether the client holds what is around the gap, or the store alone does."""
    monkeypatch.setattr("telefabric.feed.file_feed.TAIL_IDS", tail)
    window = opened()
    window.charting.layout.show_alone("metric/loss/policy")
    qtbot.waitUntil(lambda: drawn(window, "metric/loss/policy") == 100, timeout=patience(10_000))

    def lines() -> set[tuple[float, ...]]:
        x, _ = plot_of(window)._raws[0].getData()
        pairs = zip(x[0::2].tolist(), x[1::2].tolist(), strict=True)
        return {tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1]}

    qtbot.waitUntil(lambda: not any(begin < LOST_FROM < end for begin, end in lines()), timeout=patience(5_000))
    wide = lines()
    assert (1_900.0, 1_950.0) in wide
    assert not [one for one in wide if one[0] < 4_200 < one[1]]
    assert not [one for one in wide if one[1] - one[0] > 60], "lines go from value to value and nowhere else"


def test_few_values_are_drawn_as_dots(opened: Callable[[], MainWindow], qtbot: Any) -> None:
    window = opened()
    assert window.page is not None
    window.page.time.cursor.see(0, 1_500)
    qtbot.waitUntil(lambda: len(plot_of(window)._dots.data) in (15, 16), timeout=patience(5_000))
    window.page.time.cursor.see_all()
    window.charting.layout.show_alone("reward")
    qtbot.waitUntil(lambda: drawn(window, "reward") == STEPS - LOST, timeout=patience(10_000))
    assert len(plot_of(window)._dots.data) == 0


def test_a_logarithmic_scale_leaves_out_what_has_no_place_on_it_and_counts_it(
    opened: Callable[[], MainWindow], qtbot: Any
) -> None:
    window = opened()
    window.charting.layout.show_alone("metric/loss/policy")
    qtbot.waitUntil(lambda: drawn(window, "metric/loss/policy") == 100, timeout=patience(10_000))
    window.charting.layout.set_log(0, True)
    assert window.page is not None
    qtbot.waitUntil(lambda: plot_of(window).left_out == 21, timeout=patience(5_000))
    assert "21 values of 0 or less not drawn" in window.page.charts_card.caption.text()
    assert [bool(plot_of(window)._view.viewRange()[1][1] < 4.5)] == [True]
    assert not window.page.charts.grab().isNull()


@pytest.mark.parametrize("axis", AXES if THERE else ())
def test_every_axis_shows_all_of_the_run_and_the_cursor_at_its_step(
    opened: Callable[[], MainWindow], qtbot: Any, axis: str
) -> None:
    window = opened()
    window.charting.layout.set_axis(axis)
    page = window.page
    assert page is not None
    page.time.cursor.go_to(3_000)
    ends = {
        STEP: (0.0, STEPS - 1.0), EPISODE: (0.0, 55.0), RELATIVE_TIME: (0.0, (STEPS - 1) * STEP_NS / 1e9),
        WALL_TIME: ((TIME_NS + 2 * 10**12) / 1e9, (TIME_NS + 2 * 10**12 + (STEPS - 1) * STEP_NS) / 1e9),
    }  # fmt: skip
    qtbot.waitUntil(lambda: plot_of(window).sight == pytest.approx(ends[axis], abs=1.1), timeout=patience(5_000))
    qtbot.mouseClick(plot_of(window).viewport(), Qt.MouseButton.LeftButton, pos=pixel(window, sum(ends[axis]) / 2))
    middle = {STEP: STEPS / 2 - LOST, EPISODE: 2_750}.get(axis, STEPS / 2 - LOST)
    assert page.time.cursor.row == pytest.approx(middle, abs=30)
    assert not page.charts.grab().isNull()


# -- mouse and keys ----------------------------------------------------------------------------------------------
def test_a_click_moves_the_cursor_of_the_page_and_values_stand_beside_the_names(
    opened: Callable[[], MainWindow], qtbot: Any
) -> None:
    window = opened()
    page = window.page
    assert page is not None
    qtbot.mouseClick(plot_of(window).viewport(), Qt.MouseButton.LeftButton, pos=pixel(window, 1_000))
    row = page.time.cursor.row
    assert row == pytest.approx(1_000, abs=6)
    qtbot.waitUntil(lambda: page.steps.chosen is not None, timeout=patience(5_000))
    names, value = page.charts.charts[0].names, "29.97" if row >= 999 else "26.97"
    qtbot.waitUntil(lambda: (names.names[0].text, names.names[0].value) == ("return", value), timeout=patience(5_000))
    assert plot_of(window)._cursor.isVisible()
    assert len(plot_of(window)._at_cursor.data) == 1
    page.time.cursor.go_to(4_000)
    qtbot.waitUntil(lambda: page.charts.charts[0].names.names[0].value == "134.97", timeout=patience(5_000))


def test_the_pointer_moves_a_line_and_not_the_cursor(opened: Callable[[], MainWindow], qtbot: Any) -> None:
    window = opened()
    page = window.page
    assert page is not None
    before = page.time.cursor.row
    plot, at, none = plot_of(window), QPointF(pixel(window, 3_000)), Qt.MouseButton.NoButton
    there = plot.viewport().mapToGlobal(at)
    move = QMouseEvent(QEvent.Type.MouseMove, at, there, none, none, Qt.KeyboardModifier.NoModifier)
    QApplication.sendEvent(plot.viewport(), move)
    assert plot._pointer.value() * plot._units[0] == pytest.approx(3_000, abs=15)
    assert plot_of(window)._pointer.isVisible()
    assert page.time.cursor.row == before


def test_wheel_drag_and_double_click_change_what_the_page_has_in_sight(
    opened: Callable[[], MainWindow], qtbot: Any
) -> None:
    window = opened()
    page = window.page
    assert page is not None
    cursor, plot = page.time.cursor, plot_of(window)
    at = QPointF(pixel(window, 4_000))
    for _ in range(8):
        wheel = QWheelEvent(
            at, plot.viewport().mapToGlobal(at), QPoint(), QPoint(0, 120), Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(plot.viewport(), wheel)
        qtbot.wait(20)
    first, last = cursor.sight
    assert last - first < STEPS / 3
    assert first < 4_000 - LOST < last
    qtbot.waitUntil(lambda: plot.place_at(at.x()) == pytest.approx(4_000, abs=15), timeout=patience(5_000))
    left, right = plot.sight
    drag(window, qtbot, left + (right - left) * 0.3, left + (right - left) * 0.6)
    qtbot.waitUntil(lambda: plot.sight[0] < left - 100, timeout=patience(5_000))
    assert cursor.sight[0] < first
    assert cursor.row != pytest.approx(left, abs=1), "a drag is no click"
    qtbot.mouseDClick(plot.viewport(), Qt.MouseButton.LeftButton, pos=pixel(window, sum(plot.sight) / 2))
    assert cursor.sees_all
    qtbot.waitUntil(lambda: plot.sight == (0.0, STEPS - 1.0), timeout=patience(5_000))
    cursor.see(100, 200)
    qtbot.waitUntil(lambda: plot.sight == pytest.approx((100, 200), abs=1), timeout=patience(5_000))


def test_shift_and_a_drag_select(opened: Callable[[], MainWindow], qtbot: Any) -> None:
    window = opened()
    page = window.page
    assert page is not None
    drag(window, qtbot, 3_000, 1_000, Qt.KeyboardModifier.ShiftModifier)
    assert page.time.cursor.selection == pytest.approx((1_000, 3_000 - LOST), abs=12)
    qtbot.waitUntil(plot_of(window)._selection.isVisible, timeout=patience(5_000))


# -- choosing ----------------------------------------------------------------------------------------------------
def index_of(window: MainWindow, series: str) -> Any:
    """In the tree as it is filtered."""
    proxy = window.series.view.model()
    found = proxy.match(
        proxy.index(0, 0), SERIES_ROLE, series, 1, Qt.MatchFlag.MatchRecursive | Qt.MatchFlag.MatchExactly
    )
    return found[0] if found else None


def test_the_tree_chooses_what_is_drawn_and_the_choice_is_there_at_the_next_start(
    opened: Callable[[], MainWindow], qtbot: Any
) -> None:
    window = opened()
    layout = window.charting.layout
    qtbot.waitUntil(lambda: index_of(window, "metric/loss/policy") is not None, timeout=patience(5_000))
    assert window.series.view.columnWidth(1) == 0, "names have its room while there is one chart"
    layout.add_chart()
    assert window.series.view.columnWidth(1) > 0
    model = window.series.view.model()
    model.setData(index_of(window, "metric/loss/policy"), Qt.CheckState.Checked, Qt.ItemDataRole.CheckStateRole)
    window.series.view.setCurrentIndex(index_of(window, "reward"))
    qtbot.keyClick(window.series.view, Qt.Key.Key_Return)
    assert [chart.series for chart in layout.charts] == [["return"], ["metric/loss/policy", "reward"]]
    assert index_of(window, "reward").siblingAtColumn(1).data() == "chart 2"
    assert window.series._total.text() == "3 of 3 shown"
    model.setData(index_of(window, "metric/loss/policy"), Qt.CheckState.Unchecked, Qt.ItemDataRole.CheckStateRole)
    layout.set_axis(RELATIVE_TIME)
    layout.set_keep(0.99)
    qtbot.waitUntil(lambda: drawn(window, "reward") == STEPS - LOST, timeout=patience(10_000))
    window.close()
    again = opened()
    kept = again.charting.layout
    assert [chart.series for chart in kept.charts] == [["return"], ["reward"]]
    assert (kept.axis, kept.keep) == (RELATIVE_TIME, 0.99)
    assert [layout.slot(one) for one in ("return", "reward")] == [kept.slot(one) for one in ("return", "reward")]


def test_the_filter_leaves_series_with_all_words_and_their_groups(opened: Callable[[], MainWindow], qtbot: Any) -> None:
    window = opened()
    qtbot.waitUntil(lambda: index_of(window, "metric/loss/policy") is not None, timeout=patience(5_000))
    window.series.filter.setText("pol loss")
    assert index_of(window, "return") is None
    assert index_of(window, "metric/loss/policy") is not None
    window.series.filter.setText("nothing of the kind")
    assert window.series.view.model().rowCount() == 0


def test_runs_laid_over_each_other_have_letters_and_keep_their_colours(
    opened: Callable[[], MainWindow], qtbot: Any
) -> None:
    window = opened()
    runs = window.runs.list
    place = {runs.model().index(at, 0).data(): runs.model().index(at, 0) for at in range(3)}

    def lay(run: str) -> None:
        spot = runs.visualRect(place[run]).center()
        qtbot.mouseClick(runs.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ControlModifier, pos=spot)

    def colours() -> dict[str, tuple[str, str]]:
        assert window.page is not None
        lines = window.page.charts.charts[0].lines
        return {line.key.run_id: (line.name.letter, line.curve.colour) for line in lines}

    lay("first")
    lay("second")
    assert window.page is not None
    assert window.page.stream.key.run_id == "third", "the run in front stays there"
    for run in ("first", "second"):
        qtbot.waitUntil(lambda run=run: drawn(window, "return", run) == 55, timeout=patience(10_000))
    series = theme.active().series
    assert colours() == {"third": ("A", series[0]), "first": ("B", series[1]), "second": ("C", series[2])}
    lay("first")
    qtbot.waitUntil(lambda: set(colours()) == {"third", "second"}, timeout=patience(5_000))
    assert colours() == {"third": ("A", series[0]), "second": ("C", series[2])}
    lay("second")
    qtbot.waitUntil(lambda: colours() == {"third": ("", series[0])}, timeout=patience(5_000))


def test_a_series_is_named_in_full_where_it_has_room(qapp: Any) -> None:
    name = "group/" + 20 * "layer_" + "007/weight_norm"
    assert name_of(f"metric/{name}") == name


def test_the_tree_is_a_sound_model(qapp: Any) -> None:
    layout = Layout()
    tree = SeriesTree(layout)
    QAbstractItemModelTester(tree, QAbstractItemModelTester.FailureReportingMode.Fatal)
    tree.show_names(["return", "reward", "metric/a", "metric/a/b", "metric//", "metric/a/b/c/d/e/f/g/h"])
    tree.show_names(["return"])
    tree.show_names([])


# -- while the run is written ------------------------------------------------------------------------------------
def test_stored_and_live_values_meet_without_hole_or_double_while_the_run_goes_on(
    qtbot: Any, qapp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client holds the newest 400 steps only: what leaves has been read from the store before."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(agent_stream, "STEP_ROWS_MAX", 400)
    for module in (series_module, streams_module):
        monkeypatch.setattr(module, "AGAIN_S", 0.05)
    with Scribe(tmp_path / "telemetry.sqlite") as scribe:
        info = stream(run="third")
        scribe.put(info, *(step(seq, reward=float(seq % 5)) for seq in range(1, 1_001)))
        scribe.commit()
        window = MainWindow(Controller(FileFeed(tmp_path / "telemetry.sqlite")))
        window.show()
        qtbot.waitUntil(lambda: window.page is not None, timeout=patience(20_000))
        window.charting.layout.show_alone("reward")
        assert window.page is not None
        broken: list[Any] = []

        def look() -> None:
            line = line_of(window, "reward")
            if line is None or not len(line.curve.samples.x):
                return
            x = line.curve.samples.x
            if x[0] == 1 and not (np.diff(x) == 1).all():
                broken.append(x[np.flatnonzero(np.diff(x) != 1)])

        window.page.charts.drawn.connect(look)
        qtbot.waitUntil(lambda: drawn(window, "reward") == 1_000, timeout=patience(20_000))
        for first in range(1_001, 2_501, 100):
            scribe.put(info, *(step(seq, reward=float(seq % 5)) for seq in range(first, first + 100)))
            scribe.commit()
            qtbot.waitUntil(lambda last=first + 99: drawn(window, "reward") == last, timeout=patience(5_000))
        assert len(window.page.stream.steps) <= 400
        assert not broken, broken[:3]
        assert not window.controller.failures.number, window.controller.failures.last
        window.close()
        window.deleteLater()


# -- without a window --------------------------------------------------------------------------------------------
def test_a_series_keeps_its_colour_while_others_come_and_go(qapp: Any) -> None:
    layout = Layout()
    for series in ("a", "b", "c"):
        layout.put(series)
    layout.remove("a")
    assert (layout.slot("b"), layout.slot("c")) == (2, 3)
    layout.put("d")
    assert layout.slot("d") == 1
    again = Layout(layout.text)
    assert [again.slot(one) for one in ("return", "b", "c", "d")] == [0, 2, 3, 1]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"charts": []}', '{"charts": [{"series": [1]}]}', '{"charts": [{}], "axis": "moon"}',
             '{"charts": [{}], "keep": 2}'],
)  # fmt: skip
def test_what_is_no_layout_is_that_of_the_first_start(qapp: Any, text: str) -> None:
    assert [chart.series for chart in Layout(text).charts] == [["return"]]


def test_a_series_is_in_one_chart_and_the_last_chart_stays(qapp: Any) -> None:
    layout = Layout()
    layout.add_chart()
    layout.put("return")
    assert [chart.series for chart in layout.charts] == [[], ["return"]]
    layout.remove_chart(1)
    layout.remove_chart(0)
    assert [chart.series for chart in layout.charts] == [[]]
    assert layout.front == 0


def test_a_run_gets_the_first_free_letter(qapp: Any) -> None:
    overlay = Overlay()
    overlay.toggle("b", "a")
    overlay.toggle("c", "a")
    overlay.toggle("a", "a")
    assert [overlay.letter(run) for run in "abc"] == ["", "B", "C"]
    assert overlay.shown_with("x") == ["x", "b", "c"]
    overlay.toggle("d", "b")
    assert overlay.letter("d") == "A"


def test_places_on_an_axis_and_rows_are_each_other_s_inverse() -> None:
    row = np.arange(0.0, 5_000.0, 100.0)
    step = row * 3 + 7
    step[20:] += 10_000  # lost
    table = np.column_stack((row, row * 4 + 1, step, row * 0.02 + 1e9))
    ends = np.column_stack((np.arange(10.0), np.arange(10.0) * 1_900 + 500, np.full(10, np.nan), np.zeros(10)))
    scale = Scale.of(table, ends)
    wanted = np.array([0.0, 50, 1_950, 2_345, 4_900, 6_000])
    for kind in (STEP, EPISODE, WALL_TIME, RELATIVE_TIME):
        assert scale.rows(kind, scale.of_rows(kind, wanted)) == pytest.approx(wanted, abs=1e-3)
    untold = Scale.of(np.column_stack((row, row * 4 + 1, np.full(50, np.nan), row)), np.empty((0, 4)))
    assert untold.of_rows(STEP, wanted) == pytest.approx(wanted), "a step that is not told is its row"
    assert untold.places(STEP, wanted * 4 + 1) == pytest.approx(wanted), "and the overview has its seq"


class Feed:
    """Keeps questions, for a test to answer."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def ask(self, question: Any, answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        self.asked.append(Asked(question, answered))
        return self.asked[-1]


def test_what_is_not_in_sight_any_more_is_dropped_and_what_failed_is_asked_again(
    qapp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telefabric_gui.model.series.AGAIN_S", 0.0)
    feed, owner = Feed(), QObject()
    data, key = SeriesData(feed, owner), SeriesKey("run", "agent_0", b"s" * 16, "reward")

    def want(first: float, last: float) -> None:
        data.want(key, first, last, 800, NOTHING, grows=False)
        QCoreApplication.processEvents()

    want(0, 1e7)
    want(0, 1e7)
    assert len(feed.asked) == 1, "no question twice"
    feed.asked[0].answered(Answer(feed.asked[0].question, None, "the store is away: wait"))
    QCoreApplication.processEvents()
    assert data.problem == "the store is away: wait"
    want(0, 1e7)
    assert len(feed.asked) == 2
    number = np.arange(1.0)
    held = data._held[key]
    held.pyramid.put(Tile(TOP), buckets(TOP, np.column_stack((number, number, number + 1, number, number + 1e7))))
    want(0, 1e7)
    before = [asked for asked in feed.asked if not asked.dropped]
    data.forget()
    assert all(asked.dropped for asked in before[1:])
