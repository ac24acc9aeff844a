"""A service's figures by name; metrics and the summary in the log are two views of them.

A `Family` describes one metric as Prometheus knows it; a service has a table of them. `Figures` are the values of all
of them at one moment; they are not changed any more once they are made, so that another thread may read them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from telefabric import __version__, limits

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
OTHER = "other"


class Distribution(NamedTuple):
    """The counts of a histogram: for each upper bound the values that are not above it; the last bound is infinite."""

    counts: tuple[tuple[float, int], ...]
    sum: float


Labels = tuple[str, ...]
Figures = Mapping[str, Mapping[Labels, float | Distribution]]
"""Name of the family → values of its labels → figure; ``()`` for a family without labels."""


class Family(NamedTuple):
    name: str
    """The metric's name; that of a counter includes ``_total``."""
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    summary: str = ""
    """Its name in the summary; None leaves it out of the summary."""


COMMON = (
    Family("telefabric_build_info", GAUGE, "Always 1; says which service this is.", ("service", "version")),
    Family("telefabric_figures_time_seconds", GAUGE, "When these figures were made, in seconds since 1970."),
)
"""The families that every service has, besides its own."""


class Histogram:
    """Counts durations. Not thread-safe."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds = (*bounds_s, float("inf"))
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def distribution(self) -> Distribution:
        return Distribution(tuple(zip(self._bounds, accumulate(self._counts), strict=True)), self._sum)


def common(service: str, time_s: float) -> Figures:
    return {"telefabric_build_info": {(service, __version__): 1}, "telefabric_figures_time_seconds": {(): time_s}}


def by_reason(counts: Mapping[str, float]) -> dict[str, float]:
    """A copy with at most `limits.REASONS_MAX` names, the first that came, and all further ones as one.

    Some reasons are words of another process: however many it thinks of, there are no more series for them.
    """
    found: dict[str, float] = {}
    for reason, count in counts.items():
        name = label(reason) if len(found) < limits.REASONS_MAX else OTHER
        found[name] = found.get(name, 0) + count
    return found


def label(text: str) -> str:
    """A name of another process as a label's value."""
    return text[: limits.NAME_BYTES_MAX]


def summary(families: Sequence[Family], figures: Figures) -> dict[str, Any]:
    """The fields of a health summary: a number, or numbers by label; what is zero of these is left out."""
    return {
        family.summary: _plain(figures[family.name]) for family in families if family.summary and family.name in figures
    }


def _plain(values: Mapping[Labels, Any]) -> Any:
    if set(values) == {()}:
        return values[()]
    return {".".join(labels): value for labels, value in values.items() if value}
