"""Overviews of numeric series: min, max, first, last, total and count per bucket of 256 ** level steps.

`first` and `last` are by order of arrival, which is that of the steps within one stream unless a worker counts back.
Gathered in memory for the events of one transaction and merged into the table in that same transaction. Values that are
not finite are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from math import isfinite
from typing import Any

FACTOR_BITS = 8
LEVELS = (1, 2, 3)

UPSERT = """
INSERT INTO overview (stream, agent_id, series, level, bucket, min, max, first, last, total, count)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    min = min(min, excluded.min),
    max = max(max, excluded.max),
    last = excluded.last,
    total = total + excluded.total,
    count = count + excluded.count
"""


Series = tuple[int, str, str]
"""One numeric series: its stream, agent and name."""
_Place = tuple[Series, int]
"""A series, and the number of its bucket."""


class _Bucket:
    __slots__ = ("count", "first", "last", "max", "min", "total")

    def __init__(self, values: Sequence[float]) -> None:
        self.min, self.max, self.first, self.last = min(values), max(values), values[0], values[-1]
        self.total, self.count = sum(values), len(values)

    def add(self, value: float) -> None:
        if value < self.min:
            self.min = value
        elif value > self.max:
            self.max = value
        self.last = value
        self.total += value
        self.count += 1

    def merge(self, later: _Bucket) -> None:
        self.min = min(self.min, later.min)
        self.max = max(self.max, later.max)
        self.last = later.last
        self.total += later.total
        self.count += later.count


class Overview:
    """The buckets that the events of one transaction touch."""

    def __init__(self) -> None:
        self._buckets: dict[_Place, _Bucket] = {}

    def add(self, series: Series, step: int, value: float | None) -> None:
        if value is None or not isfinite(value):
            return
        place = (series, step >> FACTOR_BITS)
        bucket = self._buckets.get(place)
        if bucket is None:
            self._buckets[place] = _Bucket((value,))
        else:
            bucket.add(value)

    def add_run(self, series: Series, first_step: int, values: list[float]) -> None:
        """`add` for the values of consecutive steps, in one call."""
        if not isfinite(sum(values)):
            for place, value in enumerate(values, first_step):
                self.add(series, place, value)
            return
        start = 0
        while start < len(values):
            bucket = (first_step + start) >> FACTOR_BITS
            end = ((bucket + 1) << FACTOR_BITS) - first_step
            _merge(self._buckets, (series, bucket), _Bucket(values[start:end]))
            start = end

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Rows for `UPSERT`, all levels."""
        buckets = self._buckets
        for level in LEVELS:
            for (series, place), one in buckets.items():
                yield (*series, level, place, one.min, one.max, one.first, one.last, one.total, one.count)
            buckets = _coarser(buckets)


def _merge(buckets: dict[_Place, _Bucket], place: _Place, later: _Bucket) -> None:
    if place in buckets:
        buckets[place].merge(later)
    else:
        buckets[place] = later


def _coarser(buckets: dict[_Place, _Bucket]) -> dict[_Place, _Bucket]:
    found: dict[_Place, _Bucket] = {}
    for (series, number), bucket in buckets.items():
        _merge(found, (series, number >> FACTOR_BITS), copy(bucket))
    return found
