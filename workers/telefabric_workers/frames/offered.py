"""Frames: where an environment's pictures go, each only while somebody wants it and no oftener than is allowed.

On this machine through the ring (`fastlane`), over the network as JPEG (`network`). Needs numpy, and for the network
the extra ``frames``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from telefabric.wire.control import StreamInfo
from telefabric_workers.environment import FrameSettings
from telefabric_workers.frames.pictures import Moment, Shot
from telefabric_workers.problems import Problem
from telefabric_workers.repair import hud_numbers

if TYPE_CHECKING:
    from telefabric.uplink import LinkedStream
    from telefabric_workers.frames.fastlane import FastLane
    from telefabric_workers.frames.network import NetworkFrames


class Frames:
    """Both ways of one worker's frames. Any thread; a picture is rendered outside the lock."""

    def __init__(self, settings: FrameSettings, info: StreamInfo, linked: LinkedStream | None) -> None:
        self._episodes: dict[tuple[str, int], RunningEpisode] = {}
        self._lock = threading.RLock()  # a signal handler may offer a frame while its thread holds it
        self._shown = settings.tiles if settings.video == "grid" else int(settings.video == "single")
        """Environments of an agent."""
        self._ways: list[FastLane | NetworkFrames] = []
        if not self._shown:
            return
        from telefabric_workers.frames.fastlane import FastLane  # with the ring and JPEG, not needed to import a worker
        from telefabric_workers.frames.network import NetworkFrames

        if settings.fastlane:
            self._ways.append(FastLane(info, settings.fps_max))
        if linked is not None:
            self._ways.append(NetworkFrames(linked, settings.network_fps, settings.jpeg_quality))

    def offer(self, moment: Moment, frame: Any, values: Mapping[str, float]) -> list[Problem]:
        """A picture, or a callable that renders it when it will be used; the values that could not be shown with it.

        Raises `ValueError` if it is not a picture, and `ImportError` if a package for its way is missing.
        """
        if moment.env_index >= self._shown:
            return []
        key = (moment.agent_id, moment.env_index)
        rendered = not callable(frame)
        with self._lock:
            episode = self._episodes.get(key) or self._episodes.setdefault(key, RunningEpisode())
            episode.step(moment, time.monotonic())
            wanting = [way for way in self._ways if way.wants(moment, rendered)]
        if not wanting:
            return []
        from telefabric.ring.pixels import picture_of

        picture = frame if rendered else frame()
        if picture is None:
            return []
        picture = picture_of(picture).array  # an array of another library is converted here, and not under the lock
        numbers, problems = hud_numbers(values)
        shot = Shot(moment, episode.episode_return, episode.steps_per_s, numbers)
        with self._lock:
            for way in wanting:
                way.take(shot, picture)
        return problems

    def close(self) -> None:
        for way in self._ways:
            way.close()


class RunningEpisode:
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
