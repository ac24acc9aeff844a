"""Which frames are stored: a rule, and what it keeps of an episode until that turns out to be the best.

A stored frame is an event like any other. The step that it shows names it in `frame_ref`, but for those of the best
episodes, which were not known then; replay finds every frame by its place.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from telefabric_schemas import Frame
from telefabric_workers.environment import FrameSettings
from telefabric_workers.frames.pictures import Moment, copied, encoded

BYTES_MAX = 64 * 1024 * 1024
"""Encoded frames of all running episodes. Over it every second one of the largest goes, and of what follows, too."""


class StoredFrames:
    """The rule of one worker. Any thread."""

    def __init__(self, settings: FrameSettings, stream_id: bytes) -> None:
        self.on = settings.stored != "off"
        self._of, self._every = settings.stored, settings.stored_every
        self._quality = settings.jpeg_quality
        self._prefix = stream_id.hex()[:12]
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()  # a signal handler may step while its thread does
        self._episodes: dict[tuple[str, int], Episode] = {}
        self._best: dict[str, float] = {}
        """Agent → its best return so far."""
        self.thinned = 0
        """Frames of running episodes that went for want of room."""

    def wants(self, moment: Moment) -> bool:
        """The frame of this step is to be stored, or kept until the episode ends."""
        match self._of:
            case "steps":
                return moment.step % self._every == 0
            case "episodes":
                return moment.episode % self._every == 0
            case "best":
                with self._lock:
                    return self._episode(moment).wants()
        return False

    def encode(self, moment: Moment, picture: Any) -> Frame:
        """The event, without seq. Raises as `copied` does.

        On the caller's thread: what is stored has to be there when the call has returned. 640 x 480 in colour
        takes 2 ms, of noise 5 (measured on one core of a virtual machine).
        """
        name = "" if self._of == "best" else f"{self._prefix}-{next(self._numbers)}"
        return encoded(copied(picture), moment, self._quality, time.time_ns(), time.monotonic_ns(), name)

    def stepped(self, moment: Moment, frame: Frame | None) -> list[Frame]:
        """After each step, whether or not it has a frame: the frames that are to be stored now."""
        if self._of != "best":
            return [] if frame is None else [frame]
        with self._lock:
            return self._ended(moment, frame)

    def _ended(self, moment: Moment, frame: Frame | None) -> list[Frame]:
        episode = self._episode(moment)
        episode.add(moment.reward, frame)
        self._make_room()
        if not moment.ended:
            return []
        self._episodes.pop((moment.agent_id, moment.env_index), None)
        if episode.total <= self._best.get(moment.agent_id, float("-inf")):
            return []
        self._best[moment.agent_id] = episode.total
        return episode.frames

    def _make_room(self) -> None:
        while sum(one.bytes for one in list(self._episodes.values())) > BYTES_MAX:
            largest = max(list(self._episodes.values()), key=lambda one: one.bytes)
            if len(largest.frames) < 2:
                return
            self.thinned += largest.thin()

    def _episode(self, moment: Moment) -> Episode:
        """The running one; another index than before means that the last one ended without saying so."""
        key = (moment.agent_id, moment.env_index)
        found = self._episodes.get(key)
        if found is None or found.index != moment.episode:
            found = self._episodes[key] = Episode(moment.episode)
        return found


class Episode:
    """A running episode: its return, and its frames."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.total = 0.0
        self.frames: list[Frame] = []
        self._steps = 0
        self._every = 1
        self.bytes = 0

    def wants(self) -> bool:
        return self._steps % self._every == 0

    def add(self, reward: float, frame: Frame | None) -> None:
        self._steps += 1
        self.total += reward
        if frame is None:
            return
        self.frames.append(frame)
        self.bytes += len(frame.data)

    def thin(self) -> int:
        """Let every second frame go; how many went."""
        before = len(self.frames)
        self.frames = self.frames[::2]
        self._every *= 2
        self.bytes = sum(len(one.data) for one in self.frames)
        return before - len(self.frames)
