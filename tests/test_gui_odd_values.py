"""Odd values in every place of every view: one cell shows them, and everything beside it goes on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oddvalues import FOREIGN, ODD, by_name, odd_values
from skips import requires
from slowness import patience
from store_fixtures import episode, metric, raw, step
from test_gui_feed import ScriptedFeed, told, update, view

from telefabric.address import Address
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import FeedEvent
from telefabric.service.embedded import Services
from telefabric.store.file.database import FILE_NAME
from telefabric_schemas import values
from telefabric_workers import connect

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication, Qt

    from telefabric_gui import formatting
    from telefabric_gui import window as window_module
    from telefabric_gui.views import scenes
    from telefabric_gui.window import MainWindow

REALS = [0.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e15, 1e15 + 1, -1e-9, 1.0]


@pytest.fixture
def show(windows: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch) -> Callable[..., MainWindow]:
    """A window on a feed; ticks come from the test."""
    for name in ("_DETAILS_TICKS", "_SLOW_TICKS"):
        monkeypatch.setattr(window_module, name, 1)
    return partial(windows, size=(1300, 700), ticking=False)


def tick(main: MainWindow) -> None:
    main.controller.tick()
    QCoreApplication.processEvents()


def look_everywhere(main: MainWindow) -> None:
    """Visit every view of every tab: rows chosen one by one, every series, every tooltip, both tables, the docks."""
    for tab in main.tabs.agents:
        main.tabs.setCurrentWidget(tab)
        page = main.page
        assert page is not None
        for series in page.stream.series():
            main.charting.layout.show_alone(series)
            tick(main)
            assert not page.charts.grab().isNull()
        for row in range(page.step_table.rowCount()):
            page.steps.selectRow(row)
            tick(main)
            assert not page.environment.grab().isNull()
        for table in (page.step_table, page.episode_table):
            for row in range(table.rowCount()):
                for column in range(table.columnCount()):
                    assert isinstance(table.index(row, column).data(), str)
        page.follow()
        tick(main)
    for row in range(main.runs.table.rowCount()):
        assert main.runs.table.index(row, 0).data(Qt.ItemDataRole.ToolTipRole)
    main.runs.filter.setText("run")
    assert not main.grab().isNull()
    main.runs.filter.clear()


def column(main: MainWindow, name: str) -> list[str]:
    """The texts of a column of the steps table in front, oldest first."""
    assert main.page is not None
    table = main.page.step_table
    at = [one.title for one in table.columns].index(name)
    return [table.index(row, at).data() for row in reversed(range(table.rowCount()))]


def everywhere(odd: msgspec.Raw) -> list[FeedEvent]:
    """Steps and episodes with this value in each of their fields, among ordinary ones."""
    hint = msgspec.Raw(b"\x84" + b"".join(bytes(raw(key)) + bytes(odd) for key in ("grid", "agent", "text", "game_id")))
    return [
        told(step(1)),
        told(step(2, action=odd, observation=odd, render_hint=odd, info=odd)),
        told(step(3, observation=raw(1), render_hint=hint)),
        told(step(4)),
        told(episode(5, seed=odd, metadata=odd)),
        told(step(6)),
        told(metric(7)),
    ]


def metadata(odd: msgspec.Raw) -> bytes:
    names = ("game_id", "grid", "action_names", "obs_mean")
    return bytes([0x80 + len(names)]) + b"".join(bytes(raw(name)) + bytes(odd) for name in names)


def assert_only_one_cell_is_odd(main: MainWindow, odd: msgspec.Raw) -> None:
    feed = main.controller.feed
    assert isinstance(feed, ScriptedFeed)
    feed.updates += [update(runs=(view(metadata=metadata(odd)), view("other"))), update(*everywhere(odd))]
    feed.updates += [update(runs=(view(metadata=metadata(odd)), view("other", "completed")))]
    for _ in range(3):
        tick(main)
    look_everywhere(main)
    assert column(main, "STEP") == ["1", "2", "3", "4", "6"]
    assert column(main, "SEQ") == ["1", "2", "3", "4", "6"]
    assert column(main, "REWARD") == ["0.50"] * 5
    assert main.controller.runs["other"].state == "completed"


ALL = {name: raw(value) for name, value in ODD.items()} | {name: msgspec.Raw(found) for name, found in FOREIGN.items()}


@pytest.mark.parametrize("odd", **by_name(ALL))
def test_an_odd_value_costs_its_own_cell_alone(show: Callable[..., MainWindow], odd: msgspec.Raw) -> None:
    assert_only_one_cell_is_odd(show(ScriptedFeed()), odd)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(odd=odd_values())
def test_any_value_is_text_and_a_picture(qapp: Any, odd: Any) -> None:
    decoded = formatting.decoded(raw(odd))
    for length in (1, 40, 400):
        assert len(formatting.short(decoded, length)) <= length
        assert len(formatting.short(decoded, length).splitlines()) <= 1
    told = formatting.metadata_of(bytes(raw(odd)))
    hint = {"grid": decoded, "agent": decoded, "text": decoded, "game_id": decoded}
    assert all(isinstance(one, str) for one in scenes.action_names({"action_names": decoded}))
    for scene in (scenes.scene_of(decoded, decoded, told), scenes.scene_of(1, hint, {"grid": decoded})):
        assert isinstance(scene.words, str)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(odd=odd_values())
def test_any_value_costs_its_own_cell_alone(show: Callable[..., MainWindow], odd: Any) -> None:
    assert_only_one_cell_is_odd(show(ScriptedFeed()), raw(odd))


def test_returns_and_metrics_beyond_all_measure_are_drawn_as_far_as_they_can_be(
    show: Callable[..., MainWindow],
) -> None:
    episodes = [told(episode(seq, total_reward=value)) for seq, value in enumerate(REALS, 1)]
    metrics = [told(metric(100 + at, f"m{at % 3}", value)) for at, value in enumerate(REALS * 3)]
    steps = [told(step(200 + at, reward=value)) for at, value in enumerate(REALS)]
    main = show(ScriptedFeed(update(runs=(view(),)), update(*episodes, *metrics, *steps)))
    for _ in range(3):
        tick(main)
    look_everywhere(main)
    page = main.page
    assert page is not None
    main.charting.layout.show_alone("return")
    tick(main)
    drawn = page.charts.charts[0].lines[0].curve.samples
    assert drawn.mean.tolist() == [value for value in REALS if math.isfinite(value)]
    assert "2 values beyond all numbers not drawn" in page.charts_card.caption.text()
    assert page.episode_table.rowCount() == len(REALS)


@pytest.mark.parametrize("values_", [[1e308, -1e308], [math.inf], [5e-324, 0.0], [1e15, 1e15 + 1], [2.0**53] * 3])
def test_a_series_of_any_size_has_a_chart(show: Callable[..., MainWindow], values_: list[float]) -> None:
    steps = [0, 2**62, 2**63 - 1]
    events = [
        told(msgspec.structs.replace(metric(seq, "m", value), global_step=at))
        for seq, (value, at) in enumerate(zip(values_, steps, strict=False), 1)
    ]
    main = show(ScriptedFeed(update(runs=(view(),)), update(*events)))
    for _ in range(2):
        tick(main)
    look_everywhere(main)


@pytest.mark.parametrize(
    "grid",
    [
        np.array([[b"S", b"F"], [b"H", b"G"]]), np.array([["S", "F"], ["H", "G"]]), [["S", "F"], ["H", "G"]],
        [[b"S", b"F"], [b"H", b"G"]], ["SF", "HG"],
    ],
)  # fmt: skip
def test_a_map_of_letters_is_a_grid_whatever_holds_it(grid: Any) -> None:
    hint = values.decode(values.encode({"grid": grid, "agent": np.array([1, 0])}))
    assert scenes.scene_of(0, hint, {}) == scenes.GridScene(("SF", "HG"), (1, 0))
    assert scenes.scene_of(3, None, {"grid": hint["grid"]}) == scenes.GridScene(("SF", "HG"), (1, 1))


def test_a_table_of_small_numbers_is_a_grid_too() -> None:
    assert scenes.scene_of(4, {"grid": np.eye(3)}, {}) == scenes.GridScene(("100", "010", "001"), (1, 1))


# -- a real worker, broker and store ------------------------------------------------------------------------------
def emit_all(worker: Any) -> int:
    """Every odd value in every place that takes one, each between ordinary steps; returns the steps."""
    at = 0
    for value in ODD.values():
        worker.step(episode=0, step=at, reward=1.0)
        worker.step(
            episode=0, step=at + 1, action=value, observation=value, info={"odd": value},
            render_hint={"grid": value, "text": value}, reward=REALS[at % len(REALS)],
        )  # fmt: skip
        at += 2
    for number, value in enumerate(REALS):
        worker.metric("m" * 10_000 if number == 3 else f"m{number % 3}", value)
        worker.episode(episode=number, total_reward=value, length=1, seed=value, end_reason="e" * 1_000)
    return at


def assert_shown(main: MainWindow, qtbot: Any, steps: int) -> None:
    def whole() -> bool:
        page = main.page
        return page is not None and page.step_table.rows.held == steps and len(page.stream.episodes) == len(REALS)

    qtbot.waitUntil(whole, timeout=patience(30_000))
    main.controller._timer.stop()
    page = main.page
    assert page is not None
    ordinary = column(main, "REWARD")[::2]
    assert ordinary == ["1.00"] * (steps // 2)
    for row in range(0, page.step_table.rowCount(), 7):
        page.steps.selectRow(row)
        tick(main)
        assert not page.environment.grab().isNull()
    for series in page.stream.series():
        main.charting.layout.show_alone(series)
        tick(main)
        assert not page.charts.grab().isNull()
    assert not main.grab().isNull()
    assert {run.run_id for run in main.controller.runs.values()} == {"odd", "even"}


def test_a_run_of_odd_values_is_followed_live_and_read_from_its_file(
    show: Callable[..., MainWindow], tmp_path: Path, qtbot: Any
) -> None:
    told = {"obs_mean": np.zeros(4), **{f"odd {at}": one for at, one in enumerate(ODD.values())}}
    with Services(Address("127.0.0.1", 0), tmp_path / "data", log_level="error") as services:
        options = {"spool": tmp_path / "spool", "exit_flush_s": 30.0}
        with connect(services.address.url, run="even", **options) as even:
            even.step(episode=0, step=0)
        with connect(services.address.url, run="odd", metadata=told, **options) as worker:
            main = show(BrokerFeed(Address.parse(services.address.url)))
            main.controller._timer.start()
            main.controller.watch("odd")
            steps = emit_all(worker)
            assert worker.flush(30)
            assert_shown(main, qtbot, steps)
            main.close()
    file = show(FileFeed(tmp_path / "data" / FILE_NAME))
    file.controller._timer.start()
    file.controller.watch("odd")
    assert_shown(file, qtbot, steps)
