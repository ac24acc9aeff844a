"""Frames through the ring, to a client on this machine: one ring for each agent, several environments as tiles of one.

A frame that the caller has rendered is always written, so that a late reader sees the newest; a callable is asked
to render only while a reader waits at the bell.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from telefabric.errors import EnvironmentProblem
from telefabric.log.limit import Pace, library_logger
from telefabric.ring import Hud, Name, RingWriter, TileHud
from telefabric.ring.pixels import picture_of
from telefabric.wire.control import StreamInfo
from telefabric_workers.frames.pictures import Moment, Shot

if TYPE_CHECKING:
    import numpy as np

log = library_logger("telefabric.worker.frames")


class FastLane:
    """The rings of one worker, made as agents come."""

    def __init__(self, info: StreamInfo, fps_max: int) -> None:
        self._info = info
        self._fps_max = fps_max
        self._grids: dict[str, Grid | None] = {}
        """Agent → grid; None if its ring cannot be made, which was logged."""

    def wants(self, moment: Moment, rendered: bool) -> bool:
        """A frame of this step now; `rendered`: the caller has drawn it already."""
        grid = self._grid(moment.agent_id)
        return grid is not None and grid.wants(moment.env_index, rendered)

    def take(self, shot: Shot, picture: Any) -> None:
        """Raises `ValueError` if it is not a picture, and `ImportError` if a package is missing."""
        grid = self._grid(shot.moment.agent_id)
        if grid is not None:
            grid.take(shot, picture)

    def close(self) -> None:
        for grid in self._grids.values():
            if grid is not None:
                grid.writer.close()

    def _grid(self, agent_id: str) -> Grid | None:
        if agent_id not in self._grids:
            try:
                writer = RingWriter(Name(self._info.run_id, agent_id, self._info.worker_id), fps_max=1e9)
                self._grids[agent_id] = Grid(writer, Pace(self._fps_max))
            except EnvironmentProblem as error:
                log.warning("fastlane.off: %s", error)
                self._grids[agent_id] = None
        return self._grids[agent_id]


class Grid:
    """One agent's environments in one ring. A round begins with a turn of their steps; each gives one frame to it."""

    def __init__(self, writer: RingWriter, pace: Pace) -> None:
        self.writer = writer
        self._pace = pace
        self._stepped = -1
        """Which environment stepped last; one whose index is not higher begins a turn."""
        self._known: set[int] = set()
        self._round: dict[int, Shot] = {}
        self._tiles: dict[int, np.ndarray[Any, Any]] = {}
        self._shots: dict[int, Shot] = {}
        """The newest of each environment."""

    def wants(self, env_index: int, rendered: bool) -> bool:
        self._known.add(env_index)
        if env_index in self._round:
            self._publish()  # an environment without a new frame has stopped, or steps more slowly
        turns, self._stepped = env_index <= self._stepped or self._stepped < 0, env_index
        if not self._round and not (turns and self._pace.due(time.monotonic_ns())):
            return False
        return rendered or self.writer.wanted

    def take(self, shot: Shot, picture: Any) -> None:
        import numpy

        array = picture_of(picture).array
        env_index = shot.moment.env_index
        self._shots[env_index] = shot
        if not self._round:
            self._pace.took(time.monotonic_ns())
        if len(self._known) == 1:
            self.writer.publish(picture, _hud(shot))
            return
        self._tiles[env_index] = numpy.array(array, copy=True)
        self._round[env_index] = shot
        if self._round.keys() >= self._known:
            self._publish()

    def _publish(self) -> None:
        """All that is known of every environment, if it is of one size; else what came in this round, one by one."""
        import numpy

        indexes = sorted(self._tiles)
        if len({(self._tiles[one].shape, self._tiles[one].dtype) for one in indexes}) == 1:
            tiles = numpy.stack([self._tiles[one] for one in indexes])
            self.writer.publish(tiles, self._grid_hud(indexes), tiled=True)
        else:
            for env_index, shot in self._round.items():
                self.writer.publish(self._tiles[env_index], _hud(shot))
        self._round.clear()

    def _grid_hud(self, indexes: list[int]) -> Hud:
        tiles = [_tile_hud(self._shots[one], fresh=one in self._round) for one in indexes]
        return msgspec.structs.replace(_hud(self._shots[indexes[0]]), tiles=tiles)


def _hud(shot: Shot) -> Hud:
    _, env_index, episode, step, reward, _ = shot.moment
    return Hud(env_index, episode, step, reward, shot.episode_return, shot.steps_per_s, dict(shot.values))


def _tile_hud(shot: Shot, *, fresh: bool) -> TileHud:
    _, env_index, episode, step, reward, _ = shot.moment
    return TileHud(env_index, episode, step, reward, shot.episode_return, fresh)
