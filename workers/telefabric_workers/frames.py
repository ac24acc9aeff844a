"""Frames: where an environment's pictures go, each only while somebody wants it and no oftener than is allowed.

On this machine through the ring (`fastlane`), over the network as JPEG (`network`). Needs numpy, and for the network
the extra ``frames``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from telefabric_workers.environment import FrameSettings
from telefabric_workers.problems import Problem
from telefabric_workers.repair import hud_numbers

if TYPE_CHECKING:
    from telefabric.ring import Name
    from telefabric.uplink import LinkedStream


class Moment(NamedTuple):
    """The step that a frame shows."""

    agent_id: str
    env_index: int
    episode: int
    step: int
    reward: float
    ended: bool
    """The episode ends with it."""


class Shot(NamedTuple):
    """A moment, with what the ring shows of its episode."""

    moment: Moment
    episode_return: float
    steps_per_s: float
    """0 while it is not known."""
    values: Mapping[str, float]


class Sink(Protocol):
    """Somewhere that frames go."""

    def wants(self, moment: Moment, rendered: bool) -> bool:
        """Now, and whether the caller has rendered it already."""

    def take(self, shot: Shot, picture: Any) -> None:
        """Raises `ValueError` for what is no picture and `ImportError` without what it needs."""

    def close(self) -> None: ...


class Frames:
    """All sinks of one worker. Any thread; a picture is rendered outside the lock."""

    def __init__(self, settings: FrameSettings, name: Name, linked: LinkedStream | None) -> None:
        self._tracks: dict[tuple[str, int], Track] = {}
        self._lock = threading.RLock()  # a signal handler may offer a frame while its thread holds it
        self._shown = settings.tiles if settings.video == "grid" else int(settings.video == "single")
        """Environments of an agent."""
        self._sinks: list[Sink] = []
        if self._shown:
            self._sinks = _sinks(settings, name, linked)

    def offer(self, moment: Moment, frame: Any, values: Mapping[str, float]) -> list[Problem]:
        """A picture, or a callable that renders it when it will be used; the values that could not be shown with it.

        Raises `ValueError` for what is no picture and `ImportError` without what its way needs.
        """
        if moment.env_index >= self._shown:
            return []
        key = (moment.agent_id, moment.env_index)
        rendered = not callable(frame)
        with self._lock:
            track = self._tracks.get(key) or self._tracks.setdefault(key, Track())
            track.step(moment, time.monotonic())
            wanting = [sink for sink in self._sinks if sink.wants(moment, rendered)]
        if not wanting:
            return []
        from telefabric.ring.pixels import picture_of

        picture = frame if rendered else frame()
        if picture is None:
            return []
        picture = picture_of(picture).array  # an array of another library is converted here, and not under the lock
        numbers, problems = hud_numbers(values)
        shot = Shot(moment, track.episode_return, track.steps_per_s, numbers)
        with self._lock:
            for sink in wanting:
                sink.take(shot, picture)
        return problems

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def _sinks(settings: FrameSettings, name: Name, linked: LinkedStream | None) -> list[Sink]:
    from telefabric_workers.fastlane import FastLane
    from telefabric_workers.network import NetworkFrames

    lane = FastLane(name, settings.fps_max)
    return [lane] if linked is None else [lane, NetworkFrames(linked, settings.network_fps, settings.jpeg_quality)]


class Track:
    """One environment's running episode, and how fast it steps."""

    _WINDOW_S = 0.5

    def __init__(self) -> None:
        self.episode_return = 0.0
        self.steps_per_s = 0.0
        self._fresh = True
        self._episode = -1
        self._steps = 0
        self._since_s = 0.0

    def step(self, moment: Moment, now_s: float) -> None:
        if self._fresh or moment.episode != self._episode:
            self.episode_return = 0.0
        self._fresh, self._episode = moment.ended, moment.episode
        self.episode_return += moment.reward
        if not self._since_s:
            self._since_s = now_s
            return
        self._steps += 1
        span_s = now_s - self._since_s
        if span_s >= self._WINDOW_S:
            self.steps_per_s, self._steps, self._since_s = self._steps / span_s, 0, now_s
