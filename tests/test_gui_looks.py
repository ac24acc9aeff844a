"""How the client looks: contrast of its colours, how figures are written, and series made small for drawing."""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np
import pytest
from skips import requires

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = requires("PySide6 and pyqtgraph", THERE)
if THERE:
    from telefabric_gui import formatting, reduction, theme


# -- looks -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["dark", "light"])
def test_text_stands_out_from_its_ground(name: str) -> None:
    colours = theme.THEMES[name]
    pairs = [
        (text, ground)
        for text in (colours.text, colours.dim, colours.faint)
        for ground in (colours.window, colours.panel, colours.raised)
    ]
    told_in = (
        colours.accent,
        colours.good,
        colours.warning,
        colours.error,
        colours.human,
        colours.multi_agent,
        colours.hybrid,
    )
    pairs += [(colour, ground) for colour in told_in for ground in (colours.panel, colours.tinted(colour))]
    pairs += [
        (colours.dim, colours.tinted(colours.dim)),
        (colours.on_accent, colours.accent),
        *(
            (text, colours.tinted(tone))
            for text in (colours.text, colours.dim)
            for tone in (colours.good, colours.error)
        ),
        (colours.good, colours.window),
        (colours.warning, colours.window),
    ]
    weak = {pair: round(contrast(*pair), 2) for pair in pairs if contrast(*pair) < CONTRAST_MIN}
    assert weak == {}
    assert all(contrast(line, colours.panel) >= 3 for line in colours.series)  # lines, which no one reads


CONTRAST_MIN = 4.5
"""Least contrast of text to its ground (WCAG 2 AA)."""


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.1)."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    shares = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", sorted(theme.THEMES))
def test_the_style_names_each_colour_and_size_by_its_value(name: str) -> None:
    style = theme.style_sheet(theme.THEMES[name])
    assert "$" not in style.partition("*/")[2]
    assert theme.THEMES[name].panel in style


def test_figures_have_thin_spaces_units_and_no_nonsense() -> None:
    assert formatting.count(98231) == "98\u202f231"
    assert formatting.plural(1, "event") == "1 event"
    assert [formatting.real(value) for value in (0.0, -1.5, 1234.5, 1e9, 1e-7, float("nan"), None)] == [
        "0.00", "\u22121.50", "1\u202f234.50", "1e+09", "1e-07", formatting.NONE, formatting.NONE,
    ]  # fmt: skip
    assert [formatting.duration(value) for value in (0.0064, 0.0641, 3.21, 14, 840, 8040, 200_000)] == [
        "6.4 ms", "64 ms", "3.2 s", "14 s", "14 min", "2 h 14 min", "2 d 7 h",
    ]  # fmt: skip
    assert [formatting.ago(value) for value in (0.4, 59, 61, 7_300, 200_000, 3e6)] == [
        "just now", "just now", "1 min ago", "2 h ago", "2 days ago", "34 days ago",
    ]  # fmt: skip
    assert formatting.clock(0) == formatting.NONE
    assert formatting.short(np.zeros((84, 84), np.uint8)) == "uint8 84 \u00d7 84"
    assert formatting.short([0.123456, None, True]) == "0.1235 \u2013 true"


# -- reduction ---------------------------------------------------------------------------------------------------
def test_reduction_keeps_every_extreme_in_few_columns() -> None:
    x = np.arange(100_000, dtype=np.float64)
    y = np.sin(x / 500)
    y[54_321], y[12_345] = 50.0, -50.0
    samples, _ = reduction.single(x, y)
    found = reduction.columns(samples, 0, 99_999, 500)
    assert len(found.x) <= 501
    assert (found.high.max(), found.low.min()) == (50.0, -50.0)
    assert (np.diff(found.x) >= 0).all()
    few = reduction.columns(samples.part(0, 100), 0, 99, 500)
    assert (few.mean == y[:100]).all()
    assert (few.x == x[:100]).all()


def test_smoothing_is_the_weighted_mean_of_what_came_before() -> None:
    y = np.random.default_rng(0).random(300)
    expected, sums, weights = [], 0.0, 0.0
    for value in y:
        sums, weights = sums * 0.9 + value, weights * 0.9 + 1.0
        expected.append(sums / weights)
    ones = np.ones(300)
    assert np.allclose(reduction.smoothed(y, ones, 0.9), expected, atol=2e-4)
    assert reduction.smoothed(y[:1], ones[:1], 0.9) == y[:1]
    assert len(reduction.smoothed(y[:0], ones[:0], 0.9)) == 0


def test_smoothing_means_of_many_is_as_smoothing_the_many() -> None:
    """A bucket of 50 values moves the average as far as its 50 values do."""
    y = np.repeat(np.random.default_rng(1).random(40), 50)
    single = reduction.smoothed(y, np.ones(2_000), 0.99)
    buckets = reduction.smoothed(y[::50], np.full(40, 50.0), 0.99)
    assert np.allclose(buckets, single[49::50], atol=1e-3)
