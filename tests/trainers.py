"""Stable-Baselines3 where it is not installed: its base classes, as far as a callback uses them, and trainers that do
again what real ones did. `scripts/record_sb3_calls` has written what they did.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pytest

CALLS = Path(__file__).parent / "samples" / "sb3_calls.json"
ADAPTER = "telefabric_workers.integrations.sb3"


def to_json(value: Any) -> Any:
    """A value as JSON has it; an array or a number of numpy's under the name of its type."""
    if isinstance(value, (np.ndarray, np.generic)):
        return {str(value.dtype): value.tolist()}
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    return [to_json(part) for part in value] if isinstance(value, (list, tuple)) else value


def from_json(value: Any) -> Any:
    if isinstance(value, dict):
        dtype, *more = value or [""]
        if not more and dtype in ("bool", "float32", "float64", "int64"):
            found = np.array(value[dtype], dtype)
            return found if found.shape else found[()]
        return {key: from_json(part) for key, part in value.items()}
    return [from_json(part) for part in value] if isinstance(value, list) else value


def recorded() -> dict[str, Any]:
    """The versions of the libraries, and under ``cases`` what each trainer did."""
    found: dict[str, Any] = from_json(json.loads(CALLS.read_text()))
    return found


# -- the base classes --------------------------------------------------------------------------------------------
class BaseCallback:
    model: Any

    def __init__(self, verbose: int = 0) -> None:
        self.num_timesteps = 0
        self.verbose = verbose
        self.locals: dict[str, Any] = {}

    @property
    def training_env(self) -> Any:
        return self.model.env

    def on_training_start(self, locals_: dict[str, Any]) -> None:
        self.locals = locals_
        self._on_training_start()  # type: ignore[attr-defined]

    def on_step(self, locals_: dict[str, Any], num_timesteps: int) -> None:
        self.locals.update(locals_)
        self.num_timesteps = num_timesteps
        assert self._on_step()  # type: ignore[attr-defined]


class Figure:
    def __init__(self, figure: Any, close: bool) -> None:
        self.figure = figure


class Image:
    def __init__(self, image: Any, dataformats: str) -> None:
        self.image = image


class Video:
    def __init__(self, frames: Any, fps: float) -> None:
        self.frames = frames


class HParam:
    def __init__(self, hparam_dict: dict[str, Any], metric_dict: dict[str, float]) -> None:
        self.hparam_dict = hparam_dict


def filter_excluded_keys(values: dict[str, Any], excluded: dict[str, Sequence[str]], output: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if output not in (excluded.get(key) or ())}


# -- the trainers ------------------------------------------------------------------------------------------------
class VecEnv:
    def __init__(self, case: dict[str, Any]) -> None:
        self.num_envs = case["num_envs"]
        self.render_mode = case["render_mode"]
        self.metadata: dict[str, Any] = {}
        self.observation_space = self.action_space = None
        self.reset_infos: Any = None
        self._id = case["id"]

    @property
    def unwrapped(self) -> VecEnv:
        return self

    def get_attr(self, name: str) -> list[Any]:
        assert name == "spec"
        return [SimpleNamespace(id=self._id, max_episode_steps=None, kwargs={})] * self.num_envs

    def get_images(self) -> list[Any]:
        return [np.full((2, 2, 3), index, np.uint8) for index in range(self.num_envs)]


class Trainer:
    """Does what the real one did, one `learn` after the other."""

    case: dict[str, Any]
    _custom_logger = False

    def __init__(self, *_: Any, **__: Any) -> None:
        self.env = VecEnv(self.case)
        self.seed = self.case["seed"]
        self.logger = SimpleNamespace(output_formats=[], name_to_value={}, name_to_excluded={})
        self._last_obs: Any = None
        self._reward: Any = None
        self._learns = iter(self.case["learns"])

    def get_vec_normalize_env(self) -> Any:
        return None if self._reward is None else SimpleNamespace(get_original_reward=lambda: self._reward)

    def learn(self, *_: Any, callback: Any, **__: Any) -> None:
        done = next(self._learns)
        self.env.reset_infos = done["reset_infos"]
        if done["last_obs"] is not None:
            self._last_obs = done["last_obs"]
        callback.model = self
        callback.on_training_start(dict(done["locals"]))
        for call in done["calls"]:
            if "write" in call:
                for output in self.logger.output_formats:
                    output.write(*call["write"])
                continue
            self.env.reset_infos, self._reward = call["reset_infos"], call["original_rewards"]
            callback.on_step(call["locals"], call["num_timesteps"])
            self._last_obs = call["locals"]["new_obs"]
        self.logger.name_to_value, self.logger.name_to_excluded = done["left"]
        callback._on_training_end()


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Take the library's place until the test ends: ``stable_baselines3.PPO`` and others are trainers of the first
    case of their name. Returns the cases by their own names.
    """
    monkeypatch.delitem(sys.modules, ADAPTER, raising=False)
    whole = recorded()
    cases: dict[str, Any] = whole["cases"]
    library = ModuleType("stable_baselines3")
    library.__version__ = whole["versions"]["stable_baselines3"]  # type: ignore[attr-defined]
    for name, case in reversed(cases.items()):
        cases[name]["trainer"] = type(case["algorithm"], (Trainer,), {"case": case})
        setattr(library, case["algorithm"], case["trainer"])
    callbacks, logger = ModuleType("callbacks"), ModuleType("logger")
    callbacks.BaseCallback = BaseCallback  # type: ignore[attr-defined]
    for part in (Figure, HParam, Image, Video, filter_excluded_keys):
        setattr(logger, part.__name__, part)
    logger.KVWriter = object  # type: ignore[attr-defined]
    common = ModuleType("common")
    for place, module in {
        "": library,
        ".common": common,
        ".common.callbacks": callbacks,
        ".common.logger": logger,
    }.items():
        monkeypatch.setitem(sys.modules, f"stable_baselines3{place}", module)
    return cases
