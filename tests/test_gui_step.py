"""The step that is shown: what of `info` is found by name, in words, bars and over the picture."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from oddvalues import ODD, by_name, odd_values
from skips import requires
from store_fixtures import raw, step
from test_gui_feed import ScriptedFeed, told, update, view

from telefabric_schemas import values

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore(
        "This plugin does not support (propagateSizeHints|raise|grabbing)"
    ),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication, QPoint, Qt
    from PySide6.QtGui import QContextMenuEvent
    from PySide6.QtWidgets import QApplication, QMenu

    from telefabric_gui import window as window_module
    from telefabric_gui.model import step_parts
    from telefabric_gui.model.pins import PINS_MAX, Pins
    from telefabric_gui.model.step_parts import Shown, lines, numbers, probabilities, reward_parts, value_estimate
    from telefabric_gui.rows import step_row
    from telefabric_gui.views import step as step_view
    from telefabric_gui.views.page import AgentPage
    from telefabric_gui.window import MainWindow

LANDER = ("nothing", "left", "main", "right")
PAGE = Path(__file__).parent.parent / "docs" / "info.md"


# -- what `info` may have ----------------------------------------------------------------------------------------
def shares(info: Any, action: Any = 0, names: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    return [(one.name, round(one.share, 3)) for one in probabilities(info, action, names)]


@pytest.mark.parametrize(
    "info",
    [
        {"action_probs": [0.1, 0.2, 0.3, 0.4]},
        {"probs": np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)},
        {"agent": {"pi": (0.1, 0.2, 0.3, 0.4)}},
        {"policy": {"nothing": 0.1, "left": 0.2, "main": 0.3, "right": 0.4}},
        {"logits": np.log([0.1, 0.2, 0.3, 0.4]) + 7},
        {"action_dist_inputs": np.log([1.0, 2.0, 3.0, 4.0])},
        {"action_log_probs": list(np.log([0.1, 0.2, 0.3, 0.4]))},
        {"policy": "ppo", "probs": [0.1, 0.2, 0.3, 0.4], "logits": [9.0, 1.0, 1.0, 1.0]},
        {"probs": [2.0, 3.0], "logits": np.log([0.1, 0.2, 0.3, 0.4])},
    ],
)
def test_probabilities_are_found_by_the_names_of_libraries(info: Any) -> None:
    found = values.decode(values.encode(info))
    assert shares(found, 2, LANDER) == list(zip(LANDER, (0.1, 0.2, 0.3, 0.4), strict=True))
    assert [one.chosen for one in probabilities(found, 2, LANDER)] == [False, False, True, False]


@pytest.mark.parametrize(
    ("info", "action"),
    [
        ({"prob": 0.333}, 1),  # of FrozenLake: that of its own slip
        ({"action_prob": 0.7, "action_logp": -0.35}, 1),
        ({"probs": [0.5, 0.9]}, 1),
        ({"probs": [1.5, -0.5]}, 1),
        ({"probs": [0.5, float("nan")]}, 1),
        ({"probs": [True, False]}, 1),
        ({"probs": [1.0]}, 0),
        ({"probs": np.full((2, 2), 0.25)}, 1),
        ({"action_dist_inputs": [0.3, -0.2, -1.0, -1.0]}, [0.3, -0.2]),  # mean and deviation of two motors
        ({"logits": [float("inf"), 0.0]}, 0),
        ({"logits": [-float("inf")] * 2}, 0),
        ({"logits": [1.0, 2.0]}, 5),
        ("no map", 1),
    ],
)
def test_what_is_no_distribution_is_not_called_one(info: Any, action: Any) -> None:
    assert shares(info, action) == []


def test_masked_logits_have_no_chance_and_an_action_may_be_an_array_of_one() -> None:
    assert shares({"logits": [0.0, -float("inf"), 0.0]}, np.array([2])) == [("0", 0.5), ("1", 0.0), ("2", 0.5)]
    assert [one.chosen for one in probabilities({"probs": {"up": 0.3, "down": 0.7}}, "down")] == [False, True]


def test_of_many_actions_the_greatest_are_shown_and_the_others_counted() -> None:
    each = np.full(20, 0.02)
    each[[3, 19]] = 0.32, 0.32
    shown = Shown(record(), step(1, action=raw(7), info=raw({"probs": each})), None, (), {})
    bars = [line for line in lines(shown) if line.bar == "chance"]
    assert len(bars) == step_parts.SHOWN_MAX
    assert {line.name for line in bars} >= {"3", "7", "19"}
    assert [line.name for line in bars] == sorted((line.name for line in bars), key=int)
    assert [line.name for line in bars if line.strong] == ["7"]
    assert said(shown)["12 others"] == "0.24"


@pytest.mark.parametrize(
    ("info", "value"),
    [
        ({"value": 122.77}, 122.77), ({"values": np.array([3.5], np.float32)}, 3.5), ({"critic": {"vf_preds": 1}}, 1.0),
        ({"value": {"of": "a map"}, "v": 2.0}, 2.0), ({"value": [1.0, 2.0]}, None), ({"value": True}, None),
        (None, None), ({"value": 10**400}, None),
    ],
)  # fmt: skip
def test_the_value_estimate(info: Any, value: float | None) -> None:
    assert value_estimate(values.decode(values.encode(info))) == value


@pytest.mark.parametrize(
    ("info", "parts"),
    [
        ({"reward_forward": 1.5, "reward_ctrl": -0.1, "reward_survive": 1, "reward_sum": 2.4, "x_position": 3.0},
         [("forward", 1.5), ("ctrl", -0.1), ("survive", 1.0)]),  # of MuJoCo
        ({"reward/goal": 1.0, "reward.time": -0.1}, [("goal", 1.0), ("time", -0.1)]),
        ({"reward_parts": {"shaping": 3.65, "fuel": -0.3, "name": "x"}}, [("shaping", 3.65), ("fuel", -0.3)]),
        ({"env": {"reward": {"a": 1.0}}}, [("a", 1.0)]),
        ({"reward": 1.0, "rewards": [1.0, 2.0], "reward_": 3.0, "reward_text": "high"}, []),
    ],
)  # fmt: skip
def test_parts_of_the_reward(info: Any, parts: list[tuple[str, float]]) -> None:
    assert reward_parts(info) == parts


def test_the_page_lists_the_names() -> None:
    rows = [re.findall("`([^`]+)`", line.split("|")[2]) for line in PAGE.read_text().splitlines() if line[:1] == "|"]
    expected = [
        step_parts.PROBABILITIES, step_parts.LOGITS, step_parts.VALUES, step_parts.REWARD_MAPS,
        (*step_parts.REWARD_BEFORE, "reward_sum", "reward_total"),
    ]  # fmt: skip
    assert [tuple(row) for row in rows if row] == [("info",), *expected]


# -- the observation, and all lines ------------------------------------------------------------------------------
BOX = {"type": "Box", "dtype": "float32", "shape": [4], "low": [-4.8, -1e38, -0.4, None], "high": [4.8, 1e38, 0.4, 9.0]}
CARTPOLE = {"game_id": "CartPole-v1", "environment": {"observation_space": json.dumps(BOX)}}


def test_numbers_have_their_names_and_their_place_between_their_bounds() -> None:
    found = numbers(np.array([-2.4, 1.0, 0.8, -4.0], np.float32), CARTPOLE)
    assert [line.name for line in found] == ["x", "v", "angle", "spin"]
    assert [round(line.share, 2) for line in found] == [-0.5, 0.25, 1.0, -1.0], "without bounds: of the widest of these"
    named = numbers([1, 2], {"observation_names": ["left eye", "right eye"]})
    assert [(line.name, line.text) for line in named] == [("left eye", "1.000"), ("right eye", "2.000")]
    assert [line.name for line in numbers({"goal": [1, 2], "at": 3.0}, {})] == ["goal[0]", "goal[1]", "at"]
    assert numbers(np.zeros(100), {}) == numbers(7, {}) == numbers("text", {}) == numbers([1], {}) == []


def record(**given: Any) -> Any:
    row = step_row(1, step(1, **given), b"")[:-1]
    return np.array(row, step_parts_row())[()]


def step_parts_row() -> Any:
    from telefabric_gui.rows import STEP_ROW

    return STEP_ROW


def said(shown: Shown, pins: tuple[str, ...] = ()) -> dict[str, str]:
    return {line.name: line.text for line in lines(shown, pins)}


def test_a_step_is_said_as_in_the_mock() -> None:
    info = {"probs": [0.12, 0.06, 0.65, 0.17], "value": 122.77, "reward_parts": {"shaping": 3.6507, "fuel": -0.3}}
    event = step(1, reward=3.3507, action=raw(2), info=raw(info | {"deep": {"er": [1, 2]}}), policy_label="ppo v42")
    found = said(Shown(record(reward=3.3507), event, 17.76, LANDER, {}), ("deep.er", "gone"))
    assert (found["action"], found["reward"], found["return so far"]) == ("2 (main)", "3.3507", "17.76")
    assert (found["main"], found["shaping"], found["fuel"]) == ("0.65", "3.6507", "\u22120.3000")
    assert (found["value estimate"], found["policy"], found["ended"]) == ("122.77", "ppo v42", "no")
    assert (found["deep.er"], found["gone"]) == ("1 2", "\u2013"), "a pinned part that this step has not is said so"
    without = said(Shown(record(), None, None, (), {}))
    assert without["observation"] == "not in memory any more; the store has it"


@pytest.mark.parametrize("value", **by_name(ODD))
def test_odd_values_are_said_somehow(value: Any) -> None:
    for info in (value, {"probs": value, "logits": value, "value": value, "reward_parts": value, "reward_x": value}):
        event = step(1, action=raw(value), observation=raw(value), info=raw(info))
        assert said(Shown(record(), event, None, ("probs", "value"), {"observation_names": value}))["seq"] == "1"


@given(odd_values(), odd_values())
def test_any_value_is_said_somehow(value: Any, other: Any) -> None:
    event = step(1, action=raw(other), observation=raw(value), info=raw({"probs": value, "reward": value, "v": other}))
    assert said(Shown(record(), event, None, (), {"environment": {"observation_space": "{"}, "game_id": other}))


# -- in the window -----------------------------------------------------------------------------------------------
INFO = {"probs": [0.12, 0.06, 0.65, 0.17], "value": 2.5, "reward_parts": {"fuel": -0.3}, "deep": {"er": 7}}


@pytest.fixture
def show(windows: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch) -> Callable[..., MainWindow]:
    """A window on events; ticks come from the test, and each brings the details."""
    monkeypatch.setattr(window_module, "_DETAILS_TICKS", 1)

    def shown(*events: Any, size: tuple[int, int] = (1920, 1080)) -> MainWindow:
        feed = ScriptedFeed(update(runs=(view(),)), update(*map(told, events)))
        main = windows(feed, size, ticking=False)
        tick(main, 3)
        return main

    return shown


def tick(main: MainWindow, times: int = 1) -> None:
    for _ in range(times):
        main.controller.tick()
    QCoreApplication.processEvents()


def page_of(main: MainWindow) -> AgentPage:
    assert main.page is not None
    return main.page


def test_probabilities_lie_over_the_picture_until_h_is_pressed(show: Callable[..., MainWindow], qtbot: Any) -> None:
    main = show(*(step(seq, action=raw(2), info=raw(INFO)) for seq in range(1, 9)))
    panel = page_of(main).probabilities
    assert panel.isVisible()
    assert panel.accessibleDescription() == "0 0.12; 1 0.06; 2 0.65, taken; 3 0.17"
    qtbot.keyClick(main, Qt.Key.Key_H)
    assert not panel.isVisible()
    tick(main)
    assert not panel.isVisible()
    qtbot.keyClick(main, Qt.Key.Key_H)
    assert panel.isVisible()


def test_where_there_is_no_room_the_details_alone_have_them(show: Callable[..., MainWindow]) -> None:
    main = show(*(step(seq, info=raw(INFO)) for seq in range(1, 9)), size=(1280, 800))
    assert not page_of(main).probabilities.isVisible()
    assert "0.65" in main.details._step.accessibleDescription()


def test_numbers_of_one_array_are_told_apart_where_their_names_are_cut(
    qtbot: Any, qapp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(step_view, "write", lambda painter, area, text, *how: written.append(text))
    part = step_view.Lines()
    qtbot.addWidget(part)
    part.resize(270, 400)
    part.show_lines(numbers({"observation": list(range(9))}, {}))
    part.grab()
    assert [one[-2:] for one in written[::2]] == [f"{at}]" for at in range(9)]


def test_a_step_without_them_has_no_panel(show: Callable[..., MainWindow]) -> None:
    assert not page_of(show(step(1), step(2))).probabilities.isVisible()


def test_a_part_is_pinned_by_the_menu_and_kept(show: Callable[..., MainWindow], qtbot: Any) -> None:
    main = show(*(step(seq, info=raw(INFO)) for seq in range(1, 9)))
    part = main.details._step
    QApplication.sendEvent(part, QContextMenuEvent(QContextMenuEvent.Reason.Mouse, QPoint(5, 5), QPoint(5, 5)))
    menu = part.findChild(QMenu)
    assert isinstance(menu, QMenu)
    pin = next(action for action in menu.actions() if action.text() == "deep.er")
    pin.trigger()
    menu.close()
    assert "deep.er: 7" in part.accessibleDescription()
    again = show(*(step(seq, info=raw(INFO)) for seq in range(1, 9)))
    assert again.pins.paths == ["deep.er"]
    assert "deep.er: 7" in again.details._step.accessibleDescription()
    again.pins.toggle("deep.er")
    assert "deep.er: 7" not in again.details._step.accessibleDescription()
    assert again.memory.pins == []


def test_pins_have_a_limit() -> None:
    pins = Pins(str(number) for number in range(PINS_MAX))
    pins.toggle("one more")
    assert len(pins.paths) == PINS_MAX
