"""The part of a run's metadata that describes its program and its environment, as the setting ``capture`` selects.

Under ``program``: versions, git commit and command line; under ``environment`` what a wrapper knows of its environment.
Nothing here costs more than some milliseconds, reads more than it needs, or fails a run.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from telefabric_schemas import values

if TYPE_CHECKING:
    import gymnasium

_GIT_S = 0.03
"""How long git may take, of the 50 ms of all: in a repository of a million files whether it is dirty stays unknown."""
_COMMAND_CHARS_MAX = 4_000
_OF_A_NAME_MAX = 16
"""Environments of a program that makes another one for each evaluation."""
_BOUNDS_MAX = 1_024
"""Numbers of a Box's bounds: those of more become one number when all are equal, and are left out when not."""
_LIBRARIES = (
    "numpy", "torch", "jax", "tensorflow", "gymnasium", "gym", "pettingzoo", "stable_baselines3", "sb3_contrib", "ray",
    "tianshou", "torchrl", "skrl", "pufferlib", "envpool", "mujoco", "ale_py", "minigrid", "transformers", "pandas",
    "scipy", "sklearn",
)  # fmt: skip
_SECRET = r"(?:[\w.]*[-_.])?(?:\w*key|token|secret|password|passwd|pwd|passphrase|credentials?|auth)"
_SECRET_NAME = re.compile(rf"-{{1,2}}{_SECRET}", re.IGNORECASE)
_SECRET_INSIDE = re.compile(rf"""(\b{_SECRET}["']?\s*[=:]\s*["']?)[^\s"',}}&]+""", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(\w://[^\s/:@]*):[^\s/@]+@")
_MASK = "***"


def program(wanted: Collection[str]) -> dict[str, Any]:
    """Versions, commit and command line of this program, as far as they are wanted."""
    found: dict[str, Any] = {}
    if "versions" in wanted:
        system = os.uname()
        found["python"] = sys.version.split()[0]
        found["system"] = f"{system.sysname} {system.release} {system.machine}"
        found["libraries"] = {name: version for name in _LIBRARIES if (version := _version(name))}
    if "git" in wanted and (commit := git(_folder())):
        found["git"] = commit
    if "command" in wanted:
        found["command"] = masked(sys.orig_argv)
    return found


def added(metadata: Mapping[Any, Any], name: str, value: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    """The value to add to metadata, under the next free name if another value has this one.

    Nothing when it is empty, there already, or one too many.
    """
    encoded = msgspec.Raw(values.encode(value))
    for free in (name, *(f"{name}_{number}" for number in range(2, _OF_A_NAME_MAX + 1))):
        if free not in metadata:
            return {free: encoded} if value else {}
        if type(metadata[free]) is msgspec.Raw and metadata[free] == encoded:
            break
    return {}


def _version(name: str) -> str | None:
    """The version of an imported library; the installer's records would take milliseconds."""
    version = getattr(sys.modules.get(name), "__version__", None)
    return version if isinstance(version, str) else None


def masked(arguments: Collection[str]) -> list[str]:
    """A command line without the values of arguments that are named as secrets are."""
    told: list[str] = []
    hide = False
    for argument in arguments:
        if hide and not argument.startswith("-"):
            told.append(_MASK)
        else:
            told.append(_PASSWORD_IN_URL.sub(rf"\1:{_MASK}@", _SECRET_INSIDE.sub(rf"\1{_MASK}", argument)))
        hide = _SECRET_NAME.fullmatch(argument) is not None
    room = _COMMAND_CHARS_MAX
    for index, argument in enumerate(told):
        told[index], room = argument[:room], max(0, room - len(argument))
    return told


def _folder() -> Path:
    """Where the program's own code is; where it was started when that is an installed command, or none."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    path = Path(main).absolute() if main else Path(sys.prefix)
    return Path.cwd() if path.is_relative_to(sys.prefix) else path.parent


def git(folder: Path) -> dict[str, Any] | None:
    """Commit, branch, and whether tracked files differ from it (None when git is absent or takes too long to say).

    None without a repository or a commit. Runs no hook, waits for no lock, writes nothing.
    """
    try:
        root = next(parent for parent in (folder, *folder.parents) if (parent / ".git").exists())
        commit, branch = _head(root / ".git")
    except (StopIteration, OSError, ValueError):
        return None
    return {"commit": commit, "branch": branch, "dirty": _dirty(root)}


def _head(entry: Path) -> tuple[str, str | None]:
    """Commit and branch, from git's files. Raises `StopIteration` without a commit, and `OSError`."""
    if entry.is_file():  # a worktree's, which names its folder
        entry = entry.parent / entry.read_text().partition(":")[2].strip()
    kind, _, ref = (entry / "HEAD").read_text().strip().partition(" ")
    if kind != "ref:":
        return kind, None
    common = entry / "commondir"
    shared = entry / common.read_text().strip() if common.exists() else entry
    branch = ref.removeprefix("refs/heads/")
    if (shared / ref).exists():
        return (shared / ref).read_text().strip(), branch
    with (shared / "packed-refs").open() as packed:
        return next(line.split()[0] for line in packed if line.rstrip().endswith(f" {ref}")), branch


def _dirty(root: Path) -> bool | None:
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "diff", "--quiet", "--no-ext-diff",
               "--no-textconv", "--ignore-submodules", "HEAD"]  # fmt: skip
    import subprocess  # not needed to import a worker

    none = subprocess.DEVNULL
    try:
        ended = subprocess.run(command, cwd=root, timeout=_GIT_S, check=False, stdin=none, stdout=none, stderr=none)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {0: False, 1: True}.get(ended.returncode)


def environment(env: Any) -> dict[str, Any]:
    """Id, arguments and spaces of a gymnasium environment, of a vector env and those in it, or of one of PettingZoo."""
    looks: dict[str, Callable[[], Any]] = {
        "class": lambda: f"{type(env.unwrapped).__module__}.{type(env.unwrapped).__qualname__}",
        "id": lambda: id_of(env),
        "max_episode_steps": lambda: getattr(spec_of(env), "max_episode_steps", None),
        "render_fps": lambda: env.metadata.get("render_fps"),
        "num_envs": lambda: getattr(env, "num_envs", None),
        "observation_space": lambda: _one_or_each(env, "observation_space"),
        "action_space": lambda: _one_or_each(env, "action_space"),
    }
    found: dict[str, Any] = {}
    kwargs, parts = values.usable(getattr(spec_of(env), "kwargs", None))
    left = [f"kwargs{part.path}: {part.why}" for part in parts]
    for name, look in looks.items():
        try:
            found[name] = look()
        except Exception as error:  # noqa: BLE001  whatever the environment's own attributes raise
            left.append(f"{name}: {values.said(error)}")
    return {**found, "kwargs": msgspec.Raw(kwargs), "left_out": left}


def spec_of(env: Any) -> Any:
    """The specification by which gymnasium made an environment, or those in a vector env; None without one."""
    spec = getattr(env, "spec", None)
    if spec is None and getattr(env.unwrapped, "envs", None):
        return env.unwrapped.envs[0].spec
    return spec


def id_of(env: Any) -> Any:
    """The id by which gymnasium makes an environment, or the name that PettingZoo gives it."""
    return getattr(spec_of(env), "id", None) or (getattr(env, "metadata", None) or {}).get("name")


def _one_or_each(env: Any, name: str) -> str:
    """A space as JSON: of one environment in a vector env; of each agent, under its id, where a space is a method."""
    space = getattr(env, f"single_{name}", None) or getattr(env, name)
    if not callable(space):
        return space_json(space)
    from gymnasium import spaces

    return space_json(spaces.Dict({str(agent): space(agent) for agent in env.possible_agents}))


def space_json(space: gymnasium.Space[Any]) -> str:
    """A space as the JSON that Minari stores. Raises `TypeError` for one that Minari does not know.

    The bounds of a Box of many numbers are one number each: a reader of Minari's wants them as often as `shape` says.
    """
    import json  # not needed to import a worker

    return json.dumps(_space(space), separators=(",", ":"))


def _space(space: Any) -> dict[str, Any]:
    name = type(space).__name__
    match name:
        case "Box":
            bounds = {"low": _bounds(space.low), "high": _bounds(space.high)}
            return {"type": name, "dtype": str(space.dtype), "shape": list(space.shape), **bounds}
        case "Discrete":
            return {"type": name, "dtype": "int64", "start": int(space.start), "n": int(space.n)}
        case "MultiDiscrete":
            parts = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": name, "dtype": str(space.dtype), **parts}
        case "MultiBinary":
            return {"type": name, "n": space.n if isinstance(space.n, int) else [int(side) for side in space.n]}
        case "Text":
            lengths = {"max_length": space.max_length, "min_length": space.min_length}
            return {"type": name, **lengths, "charset": space.characters}
        case "Dict":
            return {"type": name, "subspaces": {key: _space(part) for key, part in space.spaces.items()}}
        case "Tuple":
            return {"type": name, "subspaces": [_space(part) for part in space.spaces]}
    raise TypeError(f"a space of type {name} has no form")


def _bounds(bound: Any) -> Any:
    if bound.size <= _BOUNDS_MAX:
        return bound.tolist()
    first = bound.flat[0]
    if (bound != first).any():
        raise ValueError("bounds of many numbers that differ")
    return first.item()
