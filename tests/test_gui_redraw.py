"""How often views are drawn: as it was chosen, with nothing left out, and kept from start to start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import test_gui_window
from store_fixtures import step
from test_gui_feed import ScriptedFeed, told, update, view

pytestmark = test_gui_window.pytestmark
if test_gui_window.THERE:
    from telefabric_gui.redraw import BALANCED, EVERY_MS, PRESETS, TICK_MS, Redraw, is_due, redraw_of, text_of
    from telefabric_gui.sources import Memory
    from telefabric_gui.views.redraw_menu import redraw_menu
    from telefabric_gui.window import MainWindow

window, tick = test_gui_window.window, test_gui_window.tick


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.parametrize("text", ["", "{}x", '{"tables_ms":7}', '{"rows_max":100000000}', "[]", "null"])
def test_a_pace_that_nobody_can_have_chosen_is_the_balanced_one(text: str) -> None:
    assert redraw_of(text) == BALANCED


def test_every_pace_that_can_be_chosen_is_kept() -> None:
    for preset in PRESETS.values():
        for every_ms in EVERY_MS:
            chosen = msgspec.structs.replace(preset, charts_ms=every_ms)
            assert redraw_of(text_of(chosen)) == chosen
    assert [tick for tick in range(70) if is_due(1_000, tick)] == [0, 30, 60]
    assert all(is_due(TICK_MS, tick) for tick in range(50))


def stepping(ticks: int) -> ScriptedFeed:
    """A step with each tick."""
    first = update(runs=(view(),))
    return ScriptedFeed(first, *(update(told(step(seq))) for seq in range(3, ticks + 3) if seq % 10))


def test_tables_are_drawn_at_their_pace_and_nothing_is_left_out(window: Callable[..., MainWindow]) -> None:
    second = 1_000 // TICK_MS
    main = window(stepping(5 * second))
    main.set_redraw(Redraw(tables_ms=1_000))
    tick(main, 3)
    page = main.page
    assert page is not None
    drawn: list[int] = []
    page.step_table.modelReset.connect(lambda: drawn.append(page.step_table.rowCount()))
    tick(main, 4 * second)
    assert 4 <= len(drawn) <= 6, drawn
    assert drawn == sorted(drawn)
    main.set_redraw(BALANCED)
    tick(main, 20)
    assert page.step_rows.rows == len(page.stream.steps) > 4 * second


def test_pictures_are_drawn_at_their_pace_while_one_follows_and_at_once_when_a_step_is_chosen(
    window: Callable[..., MainWindow],
) -> None:
    main = window(stepping(100))
    main.set_redraw(Redraw(pictures_ms=500))
    tick(main, 3)
    page = main.page
    assert page is not None
    shown: list[str] = []
    for _ in range(60):
        tick(main)
        if (seq := dict(page.details).get("seq", "")) not in shown[-1:]:
            shown.append(seq)
    assert 5 <= len(shown) <= 8, shown
    page.time.cursor.go_to(7)
    tick(main)
    assert page._at is not None
    assert page._at[0] == 7


def test_a_preset_is_chosen_in_the_menu_and_is_there_at_the_next_start(
    window: Callable[..., MainWindow],
) -> None:
    main = window(ScriptedFeed())
    menu = redraw_menu(main.top.redraw, main.controller.redraw, main.set_redraw)
    said = [action.text() for action in menu.actions() if action.text()]
    assert said[-3:] == ["Tables: at once", "Charts: every 200 ms", "Pictures: at once"]
    next(action for action in menu.actions() if action.text().startswith("High rate")).trigger()
    assert main.controller.redraw == PRESETS["high-rate"] == Memory().redraw
    assert window(ScriptedFeed()).controller.redraw == PRESETS["high-rate"]


def test_the_rows_that_are_held_live_are_those_of_the_pace(window: Callable[..., MainWindow]) -> None:
    main = window(stepping(20))
    main.set_redraw(PRESETS["low-latency"])
    tick(main, 5)
    assert main.page is not None
    assert main.page.stream.steps.rows_max == PRESETS["low-latency"].rows_max
