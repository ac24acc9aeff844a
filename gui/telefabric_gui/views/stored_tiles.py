"""Environments as tiles by what is stored: of each the step at the cursor or the last before it, and its frame."""

from __future__ import annotations

import numpy as np

from telefabric_gui.held_frames import HeldFrames
from telefabric_gui.model.lines import Found, Lines
from telefabric_gui.model.returns import Returns
from telefabric_gui.model.tiles import STALLED_S, Tile, silent
from telefabric_gui.rows import EVENT, counted
from telefabric_gui.views.scenes import FrameScene

_BACK_ROWS = 2_000
"""An environment without a step in this many rows before the cursor has no tile."""


class StoredTiles:
    """`at` a row of several environments. A picture is decoded once."""

    def __init__(self, held: HeldFrames, returns: Returns) -> None:
        self._held, self._returns = held, returns
        self._decoded: dict[int, FrameScene] = {}
        """The last picture of each environment."""

    def at(self, lines: Lines, row: int, told: object = None) -> list[Tile]:
        """Tiles of the environments, of as many as the run tells; none without several, or without any frame."""
        found = by_env(lines, row)
        if len(found) < 2:
            return []
        now_ns = max(int(one.record["time_ns"]) for one in found.values())
        tiles = [self._tile(lines, one, now_ns) for one in found.values()]
        if all(tile.image is None for tile in tiles):
            return []
        return [*tiles, *silent(found.keys(), told, (now_ns - _looked_from_ns(lines, row)) / 1e9)]

    def _tile(self, lines: Lines, found: Found, now_ns: int) -> Tile:
        env, episode, step = (int(found.record[part]) for part in ("env", "episode", "step"))
        frame = self._held.nearest((env, episode), step)
        if frame is not None and (env not in self._decoded or self._decoded[env].frame is not frame):
            self._decoded[env] = FrameScene(frame)
        image = None if frame is None or self._decoded[env].image.isNull() else self._decoded[env].image
        ended = bool(found.record["terminated"] or found.record["truncated"])
        age_s = max(0, now_ns - int(found.record["time_ns"])) / 1e9
        total, foot = self._returns.so_far(lines, found), ("ended",) if ended else ()
        return Tile(env, episode, step, total, age_s, age_s >= STALLED_S and not ended, foot, image)


def _looked_from_ns(lines: Lines, row: int) -> int:
    """The time of the first of the rows that are looked at."""
    records = np.concatenate([segment for _, segment in lines.before(row)])[-_BACK_ROWS:]
    times = records["time_ns"][records["mark"] == EVENT]
    return int(times[0]) if len(times) else 0


def by_env(lines: Lines, row: int) -> dict[int, Found]:
    """The newest row of each environment up to a row, as far as they are in memory."""
    found: dict[int, Found] = {}
    here, last = lines.row(row), row
    if here is None:
        return {}
    for first, segment in lines.before(row):
        until = np.searchsorted(segment["seq"], here.record["seq"]) + 1 if last == row else len(segment)
        records = segment[max(0, until - _BACK_ROWS) : until]
        rows = counted(records)
        numbers = last + 1 - np.cumsum(rows[::-1])[::-1]
        fits = np.flatnonzero(rows & (records["mark"] == EVENT))[::-1]
        envs, newest = np.unique(records["env"][fits], return_index=True)
        for env, at in zip(envs, fits[newest], strict=True):
            found.setdefault(int(env), Found(int(numbers[at]), records[at], None))
        last = first - 1
        if row - last > _BACK_ROWS:
            break
    return found
