"""Series made small before they are drawn: the lowest and the highest value of each pixel column, and a moving average.

Nothing is left to chance: every value is within the drawn range of its column, whatever the zoom.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_PLAIN = 1e-6, 1e9
_FORGOTTEN = 1e-4
"""A share that does not show: how much a value counts that a moving average has nearly forgotten."""


class Samples(NamedTuple):
    """Finite values of a series in the order in which they came: single ones, or buckets of several."""

    x: Floats
    """Of a single value; of a bucket, its beginning."""
    end: Floats
    """Of a bucket; of a single value the same as x."""
    low: Floats
    high: Floats
    mean: Floats
    number: Floats
    """Of values."""
    cut: Bools
    """No line leads from the sample before to this one."""

    def part(self, begin: int, end: int) -> Samples:
        return self.at(slice(begin, end))

    def at(self, places: Any) -> Samples:
        """Those at these places, or all that are marked by true."""
        return Samples(*(column[places] for column in self))

    def before(self, x: float) -> int | None:
        """Of the newest sample at or before x."""
        if self.rising:
            at = int(np.searchsorted(self.x, x, "right")) - 1
            return at if at >= 0 else None
        found = np.flatnonzero(self.x <= x)
        return int(found[-1]) if len(found) else None

    @property
    def rising(self) -> bool:
        return bool((self.x[1:] >= self.x[:-1]).all())


class Columns(NamedTuple):
    """Samples of a series in pixel columns, one for each run of samples in the same column."""

    x: Floats
    low: Floats
    high: Floats
    mean: Floats
    number: Floats
    cut: Bools

    def at(self, places: Any) -> Columns:
        """Those at these places."""
        return Columns(*(column[places] for column in self))


_NO_VALUES: Floats = np.empty(0, np.float64)
_NO_CUTS: Bools = np.empty(0, np.bool_)
NOTHING = Samples(_NO_VALUES, _NO_VALUES, _NO_VALUES, _NO_VALUES, _NO_VALUES, _NO_VALUES, _NO_CUTS)


def single(x: Floats, y: Floats) -> tuple[Samples, int]:
    """Single values as samples, and how many are beyond all numbers. A value that is not finite breaks the line."""
    finite = np.isfinite(y)
    infinite = int(np.count_nonzero(np.isinf(y)))
    kept = np.flatnonzero(finite)
    x, y = x[kept], y[kept]
    cut = np.diff(kept, prepend=-1) > 1
    return Samples(x, x, y, y, y, np.ones(len(x)), cut), infinite


def joined(*parts: Samples) -> Samples:
    """Samples one after the other."""
    held = [part for part in parts if len(part.x)]
    if len(held) < 2:
        return held[0] if held else NOTHING
    return Samples(*map(np.concatenate, zip(*held, strict=True)))


def cut_at(samples: Samples, gaps: Floats) -> Samples:
    """No line over a gap: each is given by the x before it and the x behind it, in a row of an array."""
    if not len(gaps) or not len(samples.x):
        return samples
    cut = samples.cut.copy()
    if samples.rising:
        at = np.searchsorted(samples.x, gaps[:, 1], "left")
        cut[at[(at > 0) & (at < len(cut))]] = True
    else:
        for before, behind in gaps:
            cut[1:] |= (samples.x[:-1] <= before) & (samples.x[1:] >= behind)
    return samples._replace(cut=cut)


def unit_of(values: Floats) -> float:
    """A power of ten to divide finite values by before they are summed or drawn: 1 for those of common sizes.

    Beyond them sums overflow, and Qt takes a scale below 1e-12 for none at all.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest or _PLAIN[0] <= largest <= _PLAIN[1]:
        return 1.0
    return float(10.0 ** max(math.floor(math.log10(largest)), -300))


def in_sight(samples: Samples, first: float, last: float, before: int = 0, *, rising: bool | None = None) -> Samples:
    """Samples between `first` and `last`, their neighbours, so that lines run to the edge, and `before` ones more.

    Give `rising` where it is known: to look takes longer than the rest.
    """
    if samples.rising if rising is None else rising:
        begin = int(np.searchsorted(samples.end, first, "left")) - 1 - before
        return samples.part(max(0, begin), int(np.searchsorted(samples.x, last, "right")) + 1)
    seen = (samples.end >= first) & (samples.x <= last)
    seen[:-1] |= seen[1:].copy()
    seen[1:] |= seen[:-1].copy()
    kept = np.flatnonzero(seen)
    found = samples.at(kept)
    return found._replace(cut=found.cut | (np.diff(kept, prepend=-1) > 1))


def columns(samples: Samples, first: float, last: float, pixels: int) -> Columns:
    """Samples by pixel column of the range from `first` to `last`; a step that goes back begins a column again."""
    if not len(samples.x) or last <= first:
        return Columns(_NO_VALUES, _NO_VALUES, _NO_VALUES, _NO_VALUES, _NO_VALUES, _NO_CUTS)
    scale = pixels / (last - first)
    column, samples = _by_column(samples, first, scale, pixels)
    starts = np.flatnonzero(np.diff(column, prepend=column[0] - 1))
    count = np.add.reduceat(samples.number, starts)
    low, high = np.minimum.reduceat(samples.low, starts), np.maximum.reduceat(samples.high, starts)
    mean = np.clip(np.add.reduceat(samples.mean * samples.number, starts) / count, low, high)
    alone = (np.diff(starts, append=len(column)) == 1) & (samples.x == samples.end)[starts]
    x = np.where(alone, samples.x[starts], first + (column[starts] + 0.5) / scale)
    return Columns(x, low, high, mean, count, samples.cut[starts])


def _by_column(samples: Samples, first: float, scale: float, pixels: int) -> tuple[Floats, Samples]:
    """Each sample with its column; a bucket with each of the columns that it touches, as far as they are in sight."""
    begun = np.floor((samples.x - first) * scale)
    bucket = samples.end > samples.x
    if not bucket.any():
        return begun, samples
    ended = np.maximum(np.ceil((samples.end - first) * scale) - 1, begun)
    begun = np.where(bucket, np.clip(begun, -1, pixels), begun)
    times = np.where(bucket, np.clip(ended, -1, pixels) - begun + 1, 1).astype(np.int64)
    again = np.repeat(np.arange(len(times)), times)
    place = np.arange(len(again)) - np.repeat(np.cumsum(times) - times, times)
    found = samples.at(again)
    return begun[again] + place, found._replace(number=found.number / times[again], cut=found.cut & (place == 0))


def strokes(found: Columns, pixel: float) -> tuple[Floats, Floats]:
    """Pairs of points that draw each column from its lowest to its highest value, and the way to the next column.

    Neighbours touch and none is drawn over another, so that all are equally faint. A pixel is so much of x.
    """
    x, low, high = found.x, found.low.copy(), found.high.copy()
    goes_on = ~found.cut[1:]
    near = goes_on & (np.abs(np.diff(x)) < 1.5 * pixel)
    low[1:] = np.where(near, np.minimum(low[1:], found.high[:-1]), low[1:])
    high[1:] = np.where(near, np.maximum(high[1:], found.low[:-1]), high[1:])
    far = np.flatnonzero(goes_on & ~near)
    across = np.column_stack((x[far], x[far + 1])).ravel()
    along = np.column_stack((found.mean[far], found.mean[far + 1])).ravel()
    bars = np.column_stack((low, high)).ravel()
    return np.concatenate((np.repeat(x, 2), across)), np.concatenate((bars, along))


def smoothed(y: Floats, count: Floats, keep: float) -> Floats:
    """Exponential moving average without a bias at the start; each y is the mean of `count` values.

    Made by doubling: after n rounds each sum holds its 2 ** n newest parts.
    """
    if not len(y):
        return y
    factor = keep**count
    weight = 1.0 - factor
    total = y * weight
    reach = 1
    while reach < len(y) and factor[reach:].max(initial=0.0) > _FORGOTTEN:
        total[reach:] += factor[reach:] * total[:-reach]
        weight[reach:] += factor[reach:] * weight[:-reach]
        factor[reach:] = factor[reach:] * factor[:-reach]
        reach *= 2
    return total / weight


def taps(keep: float) -> int:
    """How many values before a value still show in its average."""
    return math.ceil(math.log(_FORGOTTEN) / math.log(keep)) if keep else 0


def dots(found: Columns, pixels: int, apart: int = 8) -> Bools:
    """Which columns are drawn as dots: those of single values that no line touches; all when they are far apart."""
    alone: Bools = found.number <= 1.0
    if len(found.x) * apart > pixels:
        alone &= np.append(True, found.cut[1:]) & np.append(found.cut[1:], True)
    return alone


def thinned(values: Floats, points: int) -> Floats:
    """Means of at most `points` equal parts."""
    if len(values) <= points:
        return values
    edges = np.linspace(0, len(values), points + 1).astype(np.int64)[:-1]
    return np.add.reduceat(values, edges) / np.diff(np.append(edges, len(values)))
