"""Overviews of numeric series: min, max, first, last, total and count per bucket of 256 ** level steps.

`first` and `last` are by order of arrival, which is that of the steps within one stream unless a worker counts back.
Gathered in memory for the events of one transaction and merged into the table in that same transaction. Values that are
not finite are left out.
"""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

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


class Key(NamedTuple):
    """One series of one stream."""

    stream: int
    agent_id: str
    series: str


class _Bucket:
    __slots__ = ("count", "first", "last", "max", "min", "total")

    def __init__(self, value: float) -> None:
        self.min = self.max = self.first = self.last = self.total = value
        self.count = 1

    @classmethod
    def of(cls, values: list[float]) -> _Bucket:
        bucket = cls(values[0])
        bucket.min, bucket.max, bucket.last = min(values), max(values), values[-1]
        bucket.total, bucket.count = sum(values), len(values)
        return bucket

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
        self._buckets: dict[tuple[Key, int], _Bucket] = {}

    def add(self, key: Key, step: int, value: float | None) -> None:
        if value is None or not isfinite(value):
            return
        place = (key, step >> FACTOR_BITS)
        bucket = self._buckets.get(place)
        if bucket is None:
            self._buckets[place] = _Bucket(value)
        else:
            bucket.add(value)

    def add_run(self, key: Key, first_step: int, values: list[float]) -> None:
        """`add` for the values of consecutive steps, in one call."""
        if not isfinite(sum(values)):
            for place, value in enumerate(values, first_step):
                self.add(key, place, value)
            return
        start = 0
        while start < len(values):
            bucket = (first_step + start) >> FACTOR_BITS
            end = ((bucket + 1) << FACTOR_BITS) - first_step
            self._merge(key, bucket, _Bucket.of(values[start:end]))
            start = end

    def _merge(self, key: Key, place: int, later: _Bucket) -> None:
        bucket = self._buckets.get((key, place))
        if bucket is None:
            self._buckets[key, place] = later
        else:
            bucket.merge(later)

    def rows(self) -> list[tuple[int, str, str, int, int, float, float, float, float, float, int]]:
        """Rows for `UPSERT`, all levels."""
        levels = dict(self._buckets)
        found = []
        for level in LEVELS:
            found += [
                (*key, level, place, one.min, one.max, one.first, one.last, one.total, one.count)
                for (key, place), one in levels.items()
            ]
            levels = _coarser(levels)
        return found


def _coarser(buckets: dict[tuple[Key, int], _Bucket]) -> dict[tuple[Key, int], _Bucket]:
    found: dict[tuple[Key, int], _Bucket] = {}
    for (key, place), bucket in buckets.items():
        wider = (key, place >> FACTOR_BITS)
        if wider in found:
            found[wider].merge(bucket)
        else:
            copy = found[wider] = _Bucket(bucket.first)
            copy.min, copy.max, copy.last = bucket.min, bucket.max, bucket.last
            copy.total, copy.count = bucket.total, bucket.count
    return found
