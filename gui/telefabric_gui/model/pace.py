"""How fast replay at normal speed is: as the environment draws itself, else as its steps were recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from telefabric_gui.info import part_of

_FPS_MIN, _FPS_MAX = 0.1, 1_000.0
"""Steps of one environment a second. Nobody waits longer for a step, and training may be faster than can be watched."""
_INTERVALS_MIN = 8
"""Of fewer steps the rate would be a guess."""


class Pace(NamedTuple):
    """Replay at normal speed."""

    rows_per_s: float
    why: str
    """Where it is from, in words."""


UNKNOWN = Pace(50.0, "50 steps/s: neither render_fps of the environment nor the times of enough steps are known")


def pace_of(metadata: Mapping[str, Any], envs: npt.NDArray[Any], times_ns: npt.NDArray[Any]) -> Pace:
    """The pace for a run with these metadata, and steps of these environments and times, in order.

    Environments of one agent take turns, so that each needs its own row.
    """
    number = max(1, len(np.unique(envs)))
    fps = part_of(metadata, "environment.render_fps")
    if isinstance(fps, int | float) and math.isfinite(fps) and fps > 0:
        said = "render_fps of the environment"
    elif (found := _recorded(envs, times_ns)) is not None:
        fps, said = found, "as its steps were recorded"
    else:
        return UNKNOWN
    fps = min(max(float(fps), _FPS_MIN), _FPS_MAX)
    each = f" for each of {number} environments" if number > 1 else ""
    return Pace(fps * number, f"{fps:.3g} steps/s{each}: {said}")


def _recorded(envs: npt.NDArray[Any], times_ns: npt.NDArray[Any]) -> float | None:
    """Steps of one environment a second, without the pauses between episodes."""
    if not len(envs):
        return None
    intervals = np.diff(times_ns[envs == envs[-1]])
    intervals = intervals[intervals > 0]
    return 1e9 / float(np.median(intervals)) if len(intervals) >= _INTERVALS_MIN else None
