"""How benchmarks print: one line a figure, for people or, with --json, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median


def show(
    figure: str,
    value: float,
    unit: str,
    *,
    against: str | None = None,
    against_value: float | None = None,
    as_json: bool = False,
) -> None:
    """Print one figure, and how it compares with a peer that was measured in the same run."""
    ratio = value / against_value if against_value else None
    if as_json:
        row = {"figure": figure, "value": value, "unit": unit, "against": against, "against_value": against_value}
        print(json.dumps({**row, "ratio": ratio}), flush=True)
        return
    peer = f"   {against}: {against_value:,.4g} {unit}" if against_value is not None else ""
    peer += f"   ratio {ratio:.2f}" if ratio is not None else ""
    print(f"{figure:<44} {value:>12,.4g} {unit:<10}{peer}", flush=True)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of them do not exceed."""
    ordered = sorted(samples)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


__all__ = ["median", "percentile", "show"]
