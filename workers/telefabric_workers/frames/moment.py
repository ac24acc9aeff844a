"""The step that a frame shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


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
