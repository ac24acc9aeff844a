"""The step that a frame shows, and the interface of where frames go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


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
        """Raises `ValueError` if it is not a picture, and `ImportError` if a package is missing."""

    def close(self) -> None: ...
