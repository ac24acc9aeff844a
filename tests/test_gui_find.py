"""Finding rows in a window on a real store: places, conditions, orders and columns, by mouse and keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from skips import requires
from slowness import patience
from store_fixtures import Scribe, metric, run_started, stream
from test_gui_pages import events, steps_of

from telefabric.feed import Condition, FileFeed, file_feed

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication, QEvent, QPoint, Qt
    from PySide6.QtTest import QAbstractItemModelTester

    from telefabric_gui import agent_stream, formatting, theme
    from telefabric_gui.controller import Controller
    from telefabric_gui.info import paths_of
    from telefabric_gui.model.search import OF_EPISODES, Goal, asked_for
    from telefabric_gui.views.columns import _column, columns_named, names_of, with_column
    from telefabric_gui.views.page import AgentPage
    from telefabric_gui.window import MainWindow

LAST = 6_000
FOUND = events(2, LAST)
STEPS = steps_of(*FOUND)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("find") / "telemetry.sqlite"
    with Scribe(path) as scribe:
        info = stream()
        scribe.put(info, run_started(1, info))
        for at in range(0, len(FOUND), 500):
            scribe.put(info, *FOUND[at : at + 500])
        scribe.put(info, metric(LAST + 1, "late"))
        scribe.commit()
    return path


@pytest.fixture
def page(qtbot: Any, qapp: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentPage]:
    """Of a client that holds few rows: most come as pages."""
    monkeypatch.setattr(agent_stream, "STEP_ROWS_MAX", 200)
    monkeypatch.setattr(file_feed, "TAIL_IDS", 300)
    theme.use(qapp, "dark")
    main = MainWindow(Controller(FileFeed(store)))
    main.resize(1440, 900)
    main.show()
    qtbot.waitExposed(main)
    qtbot.waitUntil(lambda: main.page is not None and main.page.step_rows.rows == len(STEPS), timeout=patience(20_000))
    assert main.page is not None
    fatal = QAbstractItemModelTester.FailureReportingMode.Fatal
    testers = [QAbstractItemModelTester(table, fatal) for table in (main.page.step_table, main.page.episode_table)]
    yield main.page
    assert testers
    assert not main.controller.failures.number, main.controller.failures.last
    main.close()
    main.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.fixture
def until(qtbot: Any) -> Callable[[Callable[[], object]], None]:
    return lambda true: qtbot.waitUntil(lambda: bool(true()), timeout=patience(20_000))


def type_in(page: AgentPage, qtbot: Any, text: str) -> None:
    qtbot.keyClick(page, Qt.Key.Key_G, Qt.KeyboardModifier.ControlModifier)
    field = page.step_finder.line.field
    assert field.isVisible()
    field.clear()
    qtbot.keyClicks(field, text)
    qtbot.keyClick(field, Qt.Key.Key_Return)


def cells(table: Any, title: str) -> list[str]:
    at = [one.title for one in table.columns].index(title)
    return [table.index(line, at).data() for line in range(table.rowCount())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 283 932", Goal("global_step", 1_283_932) if THERE else None),
        ("step 12", Goal("global_step", 12) if THERE else None),
        ("Episode 7\u202f413", Goal("episode", 7_413) if THERE else None),
        ("row 5", Goal("row", 5) if THERE else None),
        ("reward > 1", [Condition("reward", ">", 1)]),
        ("reward>=-1.5 and terminated = true", [Condition("reward", ">=", -1.5), Condition("terminated", "=", True)]),
        ("ep = 3, info/deep.er != 4", [Condition("episode_index", "=", 3), Condition("info/deep.er", "!=", 4)]),
        ('mode ~ "hum an"', [Condition("control_mode", "contains", "hum an")]),
        ("global_step = none", [Condition("global_step", "=", None)]),
    ],
)
def test_what_is_typed_is_a_place_or_conditions(text: str, expected: object) -> None:
    assert asked_for(text) == expected


def test_what_is_not_understood_is_said() -> None:
    assert str(asked_for("reward > 1 or so")).startswith("“or so” is not understood: type step")


def test_a_step_and_an_episode_are_gone_to_by_their_numbers(page: AgentPage, qtbot: Any, until: Any) -> None:
    type_in(page, qtbot, "step 2 003")
    until(lambda: not isinstance(page.steps.chosen, int | None))
    assert int(page.steps.chosen.record["seq"]) == 2_003  # type: ignore[union-attr]
    until(lambda: ("seq", "2\u202f003") in page.details)
    assert not page.steps.following
    type_in(page, qtbot, "episode 77")
    until(lambda: ("episode", "77") in page.details)
    assert int(page.steps.chosen.record["seq"]) == 77 * 20 + 1  # type: ignore[union-attr]
    type_in(page, qtbot, "step 99999")
    until(lambda: page.step_finder.line._said.text().startswith("There is none"))


def test_an_episode_that_is_double_clicked_is_gone_to(page: AgentPage, qtbot: Any, until: Any) -> None:
    view = page.episodes
    until(lambda: page.episode_table.found(3) is not None)
    place = QPoint(20, 3 * 24 + 12)
    wanted = int(page.episode_table.found(3).record["episode"])  # type: ignore[union-attr]
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)
    qtbot.mouseDClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)
    until(lambda: ("episode", str(wanted)) in page.details)


def test_a_search_finds_all_rows_in_the_background_and_ends_with_escape(
    page: AgentPage, qtbot: Any, until: Any
) -> None:
    type_in(page, qtbot, "info/lives = 3 and global_step > 2000")
    search = page.step_finder.search
    assert search is not None
    until(lambda: search.searched == len(STEPS))
    expected = [seq for seq in STEPS if seq % 5 == 3 and seq > 2_000]
    assert page.step_table.rowCount() == len(expected)
    assert cells(page.step_table, "SEQ")[0] == f"{expected[-1]:,}".replace(",", "\u202f")
    assert page.step_finder.line._said.text() == f"searched all · {len(expected)} found"
    page.steps.selectRow(1)
    until(lambda: ("seq", f"{expected[-2]:,}".replace(",", "\u202f")) in page.details)
    qtbot.keyClick(page.step_finder.line.field, Qt.Key.Key_Escape)
    assert page.step_table.rowCount() > len(STEPS)
    assert not page.step_finder.line.isVisible()


def test_a_search_can_be_stopped_and_a_wrong_field_is_said(page: AgentPage, qtbot: Any, until: Any) -> None:
    type_in(page, qtbot, "nonsense > 3")
    until(lambda: page.step_finder.search is not None and page.step_finder.search.problem)
    assert "nonsense" in page.step_finder.line._said.text()
    type_in(page, qtbot, "reward > -1")
    search = page.step_finder.search
    assert search is not None
    page.step_finder.line.stop_wanted.emit()
    qtbot.wait(50)
    assert search.searched == 0
    assert page.step_finder.line._said.text() == f"searched 0 of {formatting.count(len(STEPS))} · 0 found"


def test_episodes_are_sorted_by_the_store_and_back(page: AgentPage, qtbot: Any, until: Any) -> None:
    table, head = page.episode_table, page.episodes.horizontalHeader()
    totals = [one.total_reward for one in FOUND if one.kind == "episode"]

    def click(title: str) -> None:
        at = [one.title for one in table.columns].index(title)
        place = QPoint(head.sectionViewportPosition(at) + 10, 8)
        qtbot.mouseClick(head.viewport(), Qt.MouseButton.LeftButton, pos=place)

    for expected in (sorted(totals, reverse=True), sorted(totals)):
        click("RETURN")
        until(lambda: table.rowCount() == len(totals) and table.found(0))
        table.want(len(totals) - 20, len(totals) - 1)
        until(lambda: all(table.found(line) for line in range(128)) and table.found(len(totals) - 1))
        shown = [float(table.found(line).record["total"]) for line in range(128)]  # type: ignore[union-attr]
        assert shown == expected[:128]
    click("RETURN")
    assert table.listing is table.whole


def test_episodes_are_filtered_as_steps_are_and_by_the_words_of_their_own_table(
    page: AgentPage, qtbot: Any, until: Any
) -> None:
    table, line = page.episode_table, page.episode_finder.line
    episodes = [one for one in FOUND if one.kind == "episode"]
    assert asked_for("return > 3 and end = truncated, mode = human", OF_EPISODES) == [
        Condition("total_reward", ">", 3), Condition("end_reason", "=", "truncated"),
        Condition("control_mode", "=", "human"),
    ]  # fmt: skip
    assert asked_for("12", OF_EPISODES) == Goal("episode", 12)

    def filter_by(text: str) -> None:
        line.open_line()
        line.field.clear()
        qtbot.keyClicks(line.field, text)
        qtbot.keyClick(line.field, Qt.Key.Key_Return)

    middle = sorted(one.total_reward for one in episodes)[len(episodes) // 2]
    filter_by(f"return > {middle} and length >= 1")
    wanted = [one.total_reward for one in episodes if one.total_reward > middle and (one.length or 0) >= 1]
    assert 0 < len(wanted) < len(episodes)
    until(lambda: table.rowCount() == len(wanted) and line._said.text().startswith("searched all"))
    assert cells(table, "RETURN")[0] == formatting.real(wanted[-1])
    until(lambda: page.episodes_card.caption.text().startswith(f"{formatting.count(len(wanted))} of "))
    page.episodes.order_wanted.emit("length")  # an order is of all
    assert page.episode_finder.search is None
    until(lambda: table.rowCount() == len(episodes))
    filter_by("return < -1e9")
    until(lambda: table.rowCount() == 0 and line._said.text().endswith("0 found"))
    assert table.order == ("", True)
    filter_by("episode 100")
    until(lambda: (found := page._shown) is not None and int(found.record["episode"]) == 100)
    qtbot.keyClick(line.field, Qt.Key.Key_Escape)
    until(lambda: table.listing is table.whole)
    assert not line.isVisible()


def test_parts_of_info_and_metrics_become_columns(page: AgentPage, qtbot: Any, until: Any) -> None:
    assert paths_of({"lives": 1, "deep": {"er": 2, "est": {"x": 1}}, 3: 4}) == ["lives", "deep.er", "deep.est.x"]
    table = page.step_table
    for source in ("info/lives", "metric/loss"):
        page.step_finder.show_columns(with_column(table, _column(source), on=True))
    assert [one.title for one in table.columns][5:7] == ["lives", "loss"]
    type_in(page, qtbot, "step 1 003")
    until(lambda: not isinstance(page.steps.chosen, int | None))
    until(lambda: table.found(0) and cells_in_sight(page, "lives"))
    assert cells_in_sight(page, "lives")[0].isdigit()
    page.step_finder.show_columns(with_column(table, table.columns[5], on=False))
    assert [one.title for one in table.columns][5] == "loss"


def test_chosen_columns_are_those_of_every_page_and_of_the_next_start(
    page: AgentPage, qtbot: Any, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    wanted = ["EP", "STEP", "info/lives", "OBS", "metric/loss"]
    for _ in range(2):
        main = MainWindow(Controller(FileFeed(store)))
        main.show()
        qtbot.waitUntil(
            lambda main=main: main.page is not None and main.page.step_rows.rows == len(STEPS), timeout=patience(20_000)
        )
        assert main.page is not None
        if not main.memory.step_columns:
            page_columns = [one.title for one in main.page.step_table.columns]
            assert page_columns == [one.title for one in main.page.step_table.usual]
            main.page.columns_chosen.emit(wanted)
        assert names_of(main.page.step_table.columns) == wanted
        assert main.page.step_rows.series_wanted == ("loss",)
        main.close()
        main.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert columns_named(page.step_table, ["no such", ""]) == tuple(page.step_table.usual)


def cells_in_sight(page: AgentPage, title: str) -> list[str]:
    at = [one.title for one in page.step_table.columns].index(title)
    first = page.steps.rowAt(0)
    return [page.step_table.index(line, at).data() for line in range(first, first + 5) if page.step_table.found(line)]
