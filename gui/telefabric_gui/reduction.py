"""Series made small before they are drawn: extremes per pixel, means, and an exponential moving average."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
EMA = 0.9
_PLAIN = 1e-6, 1e9
_TAPS = 88
"""0.9 ** 88 is below 0.0001: what is older does not show."""


def unit_of(values: Floats) -> float:
    """A power of ten to divide finite values by before they are summed or drawn: 1 for those of common sizes.

    Beyond them sums overflow, and Qt takes a scale below 1e-12 for none at all.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest or _PLAIN[0] <= largest <= _PLAIN[1]:
        return 1.0
    return float(10.0 ** max(math.floor(math.log10(largest)), -300))


def extremes(x: Floats, y: Floats, first: float, last: float, pixels: int) -> tuple[Floats, Floats]:
    """The lowest and highest point of each pixel column between `first` and `last`, as one line. `x` rises.

    Columns with two points or fewer keep them; neighbours just outside stay, so that the line runs to the edge.
    """
    begin, end = _in_sight(x, first, last)
    x, y = x[begin:end], y[begin:end]
    if len(x) <= 2 * pixels or last <= first:
        return x, y
    starts = _columns(x, first, last, pixels)
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    centre = x[starts]
    return np.repeat(centre, 2), np.column_stack((low, high)).ravel()


def means(x: Floats, y: Floats, first: float, last: float, pixels: int) -> tuple[Floats, Floats]:
    """The mean of each pixel column between `first` and `last`; for a line that is smooth already."""
    begin, end = _in_sight(x, first, last)
    x, y = x[begin:end], y[begin:end]
    if len(x) <= pixels or last <= first:
        return x, y
    starts = _columns(x, first, last, pixels)
    return x[starts], np.add.reduceat(y, starts) / np.diff(np.append(starts, len(y)))


def _in_sight(x: Floats, first: float, last: float) -> tuple[int, int]:
    return max(0, int(np.searchsorted(x, first, "left")) - 1), min(len(x), int(np.searchsorted(x, last, "right")) + 1)


def _columns(x: Floats, first: float, last: float, pixels: int) -> npt.NDArray[np.int64]:
    """Where each pixel column begins in `x`."""
    column = np.clip(((x - first) * (pixels / (last - first))).astype(np.int64), -1, pixels)
    return np.flatnonzero(np.diff(column, prepend=column[0] - 1))


def smoothed(y: Floats, keep: float = EMA) -> Floats:
    """Exponential moving average, each value the weighted mean of those before it, without a bias at the start."""
    if not len(y):
        return y
    weights = keep ** np.arange(min(_TAPS, max(1, len(y))), dtype=np.float64)
    sums = np.convolve(y, weights)[: len(y)]
    norms = np.cumsum(weights)
    sums[: len(norms)] /= norms[: len(sums)]
    sums[len(norms) :] /= norms[-1]
    return sums


def thinned(values: Floats, points: int) -> Floats:
    """Means of at most `points` equal parts."""
    if len(values) <= points:
        return values
    edges = np.linspace(0, len(values), points + 1).astype(np.int64)[:-1]
    return np.add.reduceat(values, edges) / np.diff(np.append(edges, len(values)))
