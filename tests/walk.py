"""A seeded walk, small and exact: an environment of which every way in must tell the same.

Observation: position and time, from a start of -1, 0 or 1. Action 1 goes up, 0 down, and one step in four slips the
other way. Three away from the middle ends an episode, and `gymnasium.make` ends it at the sixth step. A `Witness` says
what this or another environment has returned.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from trainers import to_json

WALK = "walk:Walk-v0"
"""For `gymnasium.make`, which imports this module."""


class Walk(gymnasium.Env[Any, Any]):
    observation_space = spaces.Box(-3, 100, (2,), np.float32)
    action_space = spaces.Discrete(2)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._at = self._time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._at, self._time = int(self.np_random.integers(-1, 2)), 0
        return self._observation(), {"start": self._at}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        slipped = bool(self.np_random.random() < 0.25)
        self._at += 1 if (action == 1) != slipped else -1
        self._time += 1
        return self._observation(), self._at / 2, abs(self._at) >= 3, False, {"slipped": slipped}

    def render(self) -> Any:
        return np.full((4, 6, 3), [self._at % 256, self._time, 7], np.uint8)

    def _observation(self) -> Any:
        return np.array([self._at, self._time], np.float32)


class Witness(gymnasium.Wrapper[Any, Any, Any, Any]):
    """What an environment returned, call by call: kept, and appended to a file of JSON lines if there is one."""

    def __init__(self, env: gymnasium.Env[Any, Any], file: Path | None = None) -> None:
        super().__init__(env)
        self.told: list[dict[str, Any]] = []
        self._file = file

    def reset(self, **given: Any) -> Any:
        observation, info = self.env.reset(**given)
        self._tell({"seed": given.get("seed"), "observation": observation, "info": dict(info)})
        return observation, info

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        names = ("action", "observation", "reward", "terminated", "truncated", "info")
        self._tell(dict(zip(names, (action, *result[:4], dict(result[4])), strict=True)))
        return result

    def _tell(self, call: dict[str, Any]) -> None:
        self.told.append(to_json(call))
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps(self.told[-1]) + "\n")


gymnasium.register("Walk-v0", Walk, max_episode_steps=6)
