"""Stored frames of one agent's stream that are in memory."""

from __future__ import annotations

from telefabric_schemas import Frame

Episode = tuple[int, int]
"""Environment and episode."""
Place = tuple[int, int, int]
"""Environment, episode and step."""


class HeldFrames:
    """By environment, episode and step. Beyond `bytes_max` those go that came or were shown longest ago."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._frames: dict[Place, Frame] = {}
        """The one to go next is first."""
        self._steps: dict[Episode, set[int]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: Frame) -> None:
        """Keep a frame; of two of the same step the later one."""
        place = frame.env_index, frame.episode_index, frame.step_index
        if place in self._frames:
            if self._touch(place).seq >= frame.seq:
                return
            self._forget(place)
        self._frames[place] = frame
        self._steps.setdefault(place[:2], set()).add(frame.step_index)
        self.bytes += len(frame.data)
        self.let_go(self.bytes - self.bytes_max)

    def let_go(self, number: int) -> None:
        """Forget about this many bytes, those first that came or were shown longest ago."""
        least = max(self.bytes - number, 0)
        while self.bytes > least:
            self._forget(next(iter(self._frames)))

    def void(self, episode: Episode, before: int) -> None:
        """Let go of the frames of an episode before a seq."""
        for step in list(self._steps.get(episode, ())):
            if self._frames[(*episode, step)].seq < before:
                self._forget((*episode, step))

    def nearest(self, episode: Episode, step: int) -> Frame | None:
        """The frame of a step, else the nearest one of its episode, the earlier of two."""
        steps = self._steps.get(episode)
        if not steps:
            return None
        found = step if step in steps else min(steps, key=lambda one: (abs(one - step), one))
        return self._touch((*episode, found))

    def _touch(self, place: Place) -> Frame:
        frame = self._frames[place] = self._frames.pop(place)
        return frame

    def _forget(self, place: Place) -> None:
        self.bytes -= len(self._frames.pop(place).data)
        steps = self._steps[place[:2]]
        steps.discard(place[2])
        if not steps:
            del self._steps[place[:2]]
