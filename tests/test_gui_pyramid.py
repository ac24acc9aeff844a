"""A stored series at every resolution: which parts are asked for, and that what is drawn is within the values."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skips import requires

pytestmark = requires("numpy", find_spec("numpy") is not None)
if find_spec("numpy") is not None:
    from telefabric_gui import reduction
    from telefabric_gui.model.pyramid import BITS, TOP, VALUES, VALUES_MAX, Pyramid, Tile, buckets, with_tail
    from telefabric_gui.reduction import Floats, Samples, single


def rows(x: Floats, y: Floats, level: int, first: float, last: float) -> Floats:
    """The overview of a series as the store has it: bucket, lowest, highest, total and count."""
    kept = (x >= first) & (x <= last) & np.isfinite(y)
    number, value = x[kept].astype(np.int64) >> BITS * level, y[kept]
    at = np.flatnonzero(np.diff(number, prepend=number[:1] - 1))
    least, most, total = (ufunc.reduceat(value, at) for ufunc in (np.minimum, np.maximum, np.add))
    return np.column_stack((number[at], least, most, total, np.diff(at, append=len(number)))).astype(np.float64)


class Store:
    """Answers for a series, and remembers what it was asked."""

    def __init__(self, x: Floats, y: Floats) -> None:
        self.x, self.y = x, y
        self.asked: list[Tile] = []

    def answer(self, tile: Tile) -> tuple[Samples, int]:
        first, last = (-np.inf, np.inf) if tile.whole else (tile.first, tile.last)
        if tile.level != VALUES:
            return buckets(tile.level, rows(self.x, self.y, tile.level, first, last)), 0
        kept = (self.x >= first) & (self.x <= last)
        return single(self.x[kept], self.y[kept])

    def fill(self, pyramid: Pyramid, first: float, last: float, pixels: int = 800) -> int:
        """Answer until nothing more is wanted; the number of rounds."""
        rounds = 0
        while wanted := pyramid.wanted(first, last, pixels):
            for tile in wanted:
                self.asked.append(tile)
                pyramid.put(tile, *self.answer(tile))
            rounds += 1
            assert rounds < 6
        return rounds


def dense(steps: int) -> Store:
    x = np.arange(steps, dtype=np.float64)
    y = np.sin(x / 50_000) + np.random.default_rng(0).random(steps)
    y[steps // 3], y[steps // 2] = 40.0, -40.0
    return Store(x, y)


def test_a_long_series_begins_with_one_small_question_that_has_the_final_axes() -> None:
    store, pyramid = dense(1_000_000), Pyramid()
    assert pyramid.wanted(0, 999_999, 800) == [Tile(TOP)]
    pyramid.put(Tile(TOP), *store.answer(Tile(TOP)))
    extent = pyramid.extent()
    assert extent is not None
    assert extent[2:] == (-40.0, 40.0)
    store.fill(pyramid, 0, 999_999)
    assert {tile.level for tile in store.asked} == {2, 1}
    assert pyramid.extent() == extent
    drawn = pyramid.samples(0, 999_999, 800)
    assert len(drawn.x) == 3_907
    assert (drawn.low.min(), drawn.high.max(), drawn.number.sum()) == (-40.0, 40.0, 1_000_000)


def test_zooming_in_asks_for_single_values_of_what_is_in_sight_and_of_nothing_twice() -> None:
    store, pyramid = dense(1_000_000), Pyramid()
    store.fill(pyramid, 0, 999_999)
    store.asked.clear()
    store.fill(pyramid, 400_000, 460_000)
    assert {tile.level for tile in store.asked} == {VALUES}
    assert len(store.asked) == len(set(store.asked)) == 2
    found = reduction.in_sight(pyramid.samples(400_000, 460_000, 800), 400_000, 460_000)
    assert found.x.tolist() == store.x[399_999:460_002].tolist()
    assert found.mean.tolist() == store.y[399_999:460_002].tolist()
    store.asked.clear()
    store.fill(pyramid, 401_000, 459_000)
    assert store.asked == []


def test_a_sparse_series_is_read_whole_as_single_values() -> None:
    x = np.arange(0, 50_000_000, 5_000, dtype=np.float64)
    store, pyramid = Store(x, np.cos(x / 1e6)), Pyramid()
    store.fill(pyramid, 0, 50_000_000)
    assert store.asked == [Tile(TOP), Tile(VALUES)]
    assert pyramid.samples(0, 5e7, 800).mean.tolist() == store.y.tolist()


def test_a_huge_run_is_drawn_from_coarse_buckets_until_one_zooms_in() -> None:
    pyramid = Pyramid()
    number = np.arange(60.0)
    top = np.column_stack((number, -number, number, number * 0, np.full(60, 2.0**24)))
    pyramid.put(Tile(TOP), buckets(TOP, top))
    assert pyramid.level(0, 1e9, 800) == 2
    assert pyramid.level(0, 1e6, 800) == 1
    assert pyramid.level(0, 1e5, 800) == VALUES
    assert len(pyramid.wanted(0, 1e9, 800)) <= 8
    assert len(pyramid.wanted(5e8, 5e8 + 1e6, 800)) <= 4


def test_what_grows_is_read_again_at_its_end_alone() -> None:
    store, pyramid = dense(1_000_000), Pyramid()
    store.fill(pyramid, 0, 999_999)
    grown = dense(1_100_000)
    pyramid.refresh()
    assert pyramid.wanted(0, 999_999, 800) == [Tile(TOP)]
    pyramid.put(Tile(TOP), *grown.answer(Tile(TOP)))
    again = pyramid.wanted(0, 1_099_999, 800)
    assert [tile.level for tile in again] == [2, 1, 1]
    grown.fill(pyramid, 0, 1_099_999)
    assert pyramid.samples(0, 1_099_999, 800).number.sum() == 1_100_000
    pyramid.refresh()
    pyramid.put(Tile(TOP), *grown.answer(Tile(TOP)))
    assert pyramid.wanted(0, 1_099_999, 800) == []


def test_fine_parts_can_be_let_go_and_are_asked_for_again() -> None:
    store, pyramid = dense(1_000_000), Pyramid()
    store.fill(pyramid, 0, 999_999)
    store.fill(pyramid, 400_000, 460_000)
    held = pyramid.bytes
    pyramid.forget_fine()
    assert pyramid.bytes < held / 100
    assert pyramid.wanted(400_000, 460_000, 800)
    store.fill(pyramid, 400_000, 460_000)
    assert len(reduction.in_sight(pyramid.samples(4e5, 4.6e5, 800), 4e5, 4.6e5).x) == 60_003


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_has_been_loaded_so_far_every_stored_value_is_within_what_is_drawn(data: st.DataObject) -> None:
    store, pyramid = DENSE, Pyramid()
    pyramid.put(Tile(TOP), *store.answer(Tile(TOP)))
    for _ in range(3):
        first = data.draw(st.integers(0, 290_000))
        last = data.draw(st.integers(first + 1, 300_000))
        for tile in pyramid.wanted(first, last, 400)[: data.draw(st.integers(0, 6))]:
            pyramid.put(tile, *store.answer(tile))
        drawn = reduction.columns(pyramid.samples(first, last, 400), first, last, 400)
        scale = 400 / (last - first)
        lowest, highest = np.full(402, np.inf), np.full(402, -np.inf)
        column = np.clip(np.floor((drawn.x - first) * scale), -1, 400).astype(int)
        np.minimum.at(lowest, column, drawn.low)
        np.maximum.at(highest, column, drawn.high)
        inside = (store.x >= first) & (store.x < last)
        at = np.floor((store.x[inside] - first) * scale).astype(int)
        assert (lowest[at] <= store.y[inside]).all()
        assert (highest[at] >= store.y[inside]).all()


DENSE = dense(300_000) if find_spec("numpy") is not None else None
assert VALUES_MAX < 300_000


# -- joining stored and live -------------------------------------------------------------------------------------
def test_stored_and_live_meet_without_a_seam_and_no_value_twice() -> None:
    x = np.arange(1_000.0)
    stored, _ = single(x[:700], x[:700])
    tail, _ = single(x[500:], x[500:])
    assert with_tail(stored, tail).x.tolist() == x.tolist()
    assert np.flatnonzero(with_tail(stored, tail).cut).tolist() == []
    assert np.flatnonzero(with_tail(stored, tail.part(300, 500), hole=True).cut).tolist() == [700]
    assert with_tail(stored, single(x[:0], x[:0])[0]).x.tolist() == x[:700].tolist()
    assert with_tail(single(x[:0], x[:0])[0], tail).x.tolist() == x[500:].tolist()


# -- one pixel column --------------------------------------------------------------------------------------------
def pixels(x: list[float], y: list[float], first: float, last: float, wide: int) -> reduction.Columns:
    samples, _ = single(np.array(x, np.float64), np.array(y, np.float64))
    return reduction.columns(reduction.in_sight(samples, first, last), first, last, wide)


def test_a_value_that_is_no_number_breaks_the_line_and_infinities_are_counted() -> None:
    y = np.array([1.0, np.nan, 2.0, 3.0, np.inf, -np.inf, 4.0])
    samples, infinite = single(np.arange(7.0), y)
    assert samples.mean.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert samples.cut.tolist() == [False, True, False, True]
    assert infinite == 2
    x, along = reduction.strokes(reduction.columns(samples, 0, 7, 700), 0.01)
    lines = {(a, b) for a, b in zip(x[0::2].tolist(), x[1::2].tolist(), strict=True) if a != b}
    assert lines == {(2.0, 3.0)}
    assert len(along) == len(x)


def test_a_gap_cuts_the_line_and_nothing_else() -> None:
    samples, _ = single(np.array([0.0, 1, 2, 50, 51, 52]), np.ones(6))
    assert reduction.cut_at(samples, np.array([[2.0, 50.0]])).cut.tolist() == [False, False, False, True, False, False]
    back, _ = single(np.array([0.0, 1, 2, 50, 1, 2, 50]), np.ones(7))
    assert np.flatnonzero(reduction.cut_at(back, np.array([[2.0, 50.0]])).cut).tolist() == [3, 6]
    assert not reduction.cut_at(samples, np.empty((0, 2))).cut.any()
    assert not reduction.cut_at(samples, np.array([[60.0, 70.0]])).cut.any()


def test_a_step_that_goes_back_is_drawn_as_it_is() -> None:
    found = pixels([0, 10, 20, 5, 15, 25], [0, 1, 2, 10, 11, 12], 0, 25, 250)
    assert found.x.tolist() == [0, 10, 20, 5, 15, 25]
    assert found.mean.tolist() == [0, 1, 2, 10, 11, 12]
    away = pixels([0, 10, 20, 90, 5, 15, 25], [0, 1, 2, 3, 10, 11, 12], 0, 25, 250)
    assert away.mean.tolist() == [0, 1, 2, 3, 10, 11, 12]
    far = pixels([0, 10, 20, 90, 95, 98, 5, 15], [0, 1, 2, 3, 4, 5, 10, 11], 0, 25, 250)
    assert far.mean.tolist() == [0, 1, 2, 3, 5, 10, 11]
    assert far.cut.tolist() == [False, False, False, False, True, False, False]


def test_neighbouring_columns_touch_and_none_is_drawn_twice() -> None:
    x = np.arange(4_000.0)
    samples, _ = single(x, x % 400)
    found = reduction.columns(samples, 0, 4_000, 400)
    at, along = reduction.strokes(found, 10.0)
    assert (np.unique(at[0::2]) == np.sort(at[0::2])).all()
    low, high = along[0::2], along[1::2]
    assert (low[1:] <= high[:-1]).all()
    assert (high[1:] >= low[:-1]).all()


def test_few_values_are_dots_and_a_single_one_is_seen() -> None:
    assert reduction.dots(pixels([5], [1], 0, 10, 800), 800).tolist() == [True]
    assert reduction.dots(pixels(list(range(50)), [1] * 50, 0, 50, 800), 800).all()
    many = [float(at) for at in range(700)]
    alone = [1.0] * 300 + [float("nan"), 2.0, float("nan")] + [1.0] * 397
    assert np.flatnonzero(reduction.dots(pixels(many, alone, 0, 700, 800), 800)).tolist() == [300]


def test_buckets_wider_than_a_pixel_fill_their_columns() -> None:
    found = buckets(1, np.array([[0.0, -1.0, 1.0, 0.0, 256.0], [1.0, 2.0, 4.0, 768.0, 256.0]]))
    drawn = reduction.columns(found, 0, 512, 128)
    assert len(drawn.x) == 128
    assert (drawn.low[:64] == -1).all()
    assert (drawn.high[64:] == 4).all()
    assert (drawn.mean[64:] == 3).all()
    assert drawn.number.sum() == pytest.approx(512)
