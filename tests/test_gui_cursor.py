"""The cursor's rules, and the mappings of rows to steps and moments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skips import requires
from test_gui_window import THERE

from telefabric.feed import Place

pytestmark = requires("PySide6 and pyqtgraph", THERE)
if THERE:
    from telefabric_gui.model.axis import Axis, columns_of
    from telefabric_gui.model.cursor_rules import CursorRules, Mode


def rules(total: int = 1_000) -> CursorRules:
    made = CursorRules()
    made.grow(total)
    return made


def test_who_follows_is_at_the_newest_row_and_who_pauses_stays() -> None:
    one = rules()
    assert (one.row, one.sight) == (999, (0.0, 999.0))
    one.grow(1_500)
    assert one.row == 1_499
    one.pause()
    one.grow(2_000)
    assert (one.row, one.total, one.sight) == (1_499, 2_000, (0.0, 1_999.0))
    one.follow()
    assert (one.row, one.mode) == (1_999, Mode.FOLLOW)


def test_rows_that_are_read_of_a_run_that_has_ended_are_not_new() -> None:
    one = rules()
    one.live = True
    one.go_to(10)
    one.grow(1_200)
    one.live = False
    one.grow(5_000)
    assert (one.new, one.total) == (200, 5_000)


def test_a_click_pauses_who_follows_and_replay_runs_on_from_there() -> None:
    one = rules()
    one.go_to(10)
    assert (one.row, one.mode) == (10, Mode.PAUSED)
    one.replay()
    one.advance(5.5)
    one.go_to(100)
    assert (one.row, one.mode) == (100, Mode.REPLAY)
    one.advance(1.75)
    one.advance(0.5)
    assert one.row == 102


def test_replay_pauses_at_the_end_and_begins_again_from_there() -> None:
    one = rules()
    one.go_to(990)
    one.replay()
    one.advance(100)
    assert (one.row, one.mode) == (999, Mode.PAUSED)
    one.replay()
    assert (one.row, one.mode) == (0, Mode.REPLAY)


def test_a_loop_stays_in_the_selection() -> None:
    one = rules()
    one.select(300, 200)
    one.looping = True
    one.replay()
    assert (one.row, one.selection) == (200, (200, 300))
    seen = set()
    for _ in range(500):
        one.advance(7)
        seen.add(one.row)
    assert min(seen) >= 200
    assert max(seen) <= 300
    assert one.mode is Mode.REPLAY
    one.select_nothing()
    assert one.selection is None
    assert not one.looping


def test_what_is_in_sight_moves_with_the_position_and_with_new_rows() -> None:
    one = rules()
    one.see(100, 200)
    one.go_to(150)
    assert one.sight == (100, 200)
    one.go_to(500)
    assert one.sight == (450, 550)
    one.follow()
    assert one.sight == (899, 999)
    one.grow(1_100)
    assert one.sight == (999, 1_099)
    one.see(-50, 5_000)
    assert one.sees_all


def test_zoom_keeps_the_row_under_the_pointer() -> None:
    one = rules()
    one.see(100, 300)
    one.zoom(0.5, 150)
    assert one.sight == (125, 225)
    one.zoom(0.0001, 150)
    first, last = one.sight
    assert last - first == 10
    assert first <= 150 <= last


@given(st.lists(st.tuples(st.sampled_from(["go", "grow", "see", "zoom", "replay", "advance", "follow", "pause",
       "select", "loop"]), st.integers(-50, 3_000), st.floats(0.01, 5_000)), max_size=40))  # fmt: skip
def test_whatever_is_done_the_position_is_a_row_and_the_range_is_in_the_run(acts: list[tuple[str, int, float]]) -> None:
    one = CursorRules()
    for act, number, real in acts:
        {
            "go": lambda n=number: one.go_to(n), "grow": lambda n=number: one.grow(n), "pause": one.pause,
            "see": lambda n=number, r=real: one.see(n, n + r), "zoom": lambda n=number, r=real: one.zoom(r / 1_000, n),
            "replay": one.replay, "advance": lambda r=real: one.advance(r), "follow": one.follow,
            "select": lambda n=number, r=real: one.select(n, int(r)), "loop": lambda: setattr(one, "looping", True),
        }[act]()  # fmt: skip
        end = max(0, one.total - 1)
        assert one.row is None if one.total == 0 else 0 <= one.row <= end
        first, last = one.sight
        assert 0 <= first < last <= max(1.0, end)
        if one.selection:
            assert 0 <= one.selection[0] <= one.selection[1] <= end


def axis(*steps: int) -> Axis:
    places = [Place(n * 1_024, n * 2_000 + 1, n, step, 10**18 + n * 10**9) for n, step in enumerate(steps)]
    return Axis(*columns_of(places))


def test_rows_steps_seqs_and_moments_map_both_ways() -> None:
    one = axis(0, 2_048, 4_096)
    assert one.steps([0, 512, 1_024, 3_072]).tolist() == [0, 1_024, 2_048, 6_144]
    assert one.rows_of_steps(one.steps([3, 700, 2_000])) == pytest.approx([3, 700, 2_000])
    assert one.rows_of_seqs([2_001]).tolist() == [1_024]
    assert one.seconds(1_536) == pytest.approx(1.5)
    assert one.time_ns(1_024) == 10**18 + 10**9
    assert one.rates(np.array([0.0, 1_024, 2_048])) == pytest.approx([1_024, 1_024])


def test_a_step_that_goes_back_is_kept_and_its_inverse_is_the_first_row_behind_the_value() -> None:
    one = axis(0, 2_000, 1_000, 3_000)
    assert one.steps(2_048) == 1_000
    assert np.all(np.diff(one.rows_of_steps(np.linspace(0, 3_000, 50))) >= 0)


def test_without_places_a_row_is_its_own_step() -> None:
    one = Axis()
    assert not one
    assert one.steps([5]).tolist() == [5]
    assert one.rates(np.linspace(0, 10, 4)).tolist() == [0, 0, 0]
