"""What a step says, line by line: its action with probabilities, its reward with parts, its observation in numbers.

Probabilities, the value estimate and parts of the reward are found in `info` by the names that libraries use for them;
docs/info.md lists them. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from telefabric_gui.formatting import NONE, TIMES, clock, count, decoded, plural, real, short
from telefabric_gui.info import part_of
from telefabric_gui.rows import NO_STEP
from telefabric_schemas import Step

PROBABILITIES = (
    "action_probs", "action_probabilities", "action_probability", "policy_probs", "probs", "probabilities", "policy",
    "pi",
)  # fmt: skip
LOGITS = "action_logits", "policy_logits", "logits", "action_dist_inputs", "action_log_probs", "log_probs"
VALUES = (
    "value_estimate", "value", "state_value", "values", "v", "vf", "vf_pred", "vf_preds", "critic_value", "baseline",
    "root_value",
)  # fmt: skip
REWARD_MAPS = "reward_parts", "reward_terms", "reward_components", "reward_breakdown", "rewards", "reward"
REWARD_BEFORE = "reward_", "reward/", "reward."
"""How the names of single parts of the reward begin."""
_TOTALS = "sum", "total"
ACTIONS_MAX = 1_024
"""Nobody reads a list of more actions."""
SHOWN_MAX = 8
"""Probabilities that are shown: the greatest."""
NUMBERS_MAX = 32
"""Numbers of an observation that are shown one by one."""
_SUM_OFF = 0.02
"""Rounding may bring the sum of probabilities this far from 1."""
_BOUND_MAX = 1e6
"""A bound beyond is none: spaces say "unbounded" by the largest float."""
_NUMBERS = {
    "CartPole": ("x", "v", "angle", "spin"), "MountainCar": ("x", "v"), "Pendulum": ("cos", "sin", "spin"),
    "LunarLander": ("x", "y", "vx", "vy", "angle", "spin", "leg l", "leg r"),
    "Acrobot": ("cos 1", "sin 1", "cos 2", "sin 2", "spin 1", "spin 2"),
}  # fmt: skip
"""Names of the observation's numbers, by the beginning of the game's id."""


class Chance(NamedTuple):
    """The probability of an action."""

    name: str
    share: float
    chosen: bool


class Line(NamedTuple):
    """A name and what it is. `share` is the length of a bar: of a chance 0 to 1, of a number -1 to 1."""

    name: str
    text: str
    bar: str = ""
    """``chance``, ``number`` or none."""
    share: float = 0.0
    depth: int = 0
    strong: bool = False


class Shown(NamedTuple):
    """The step that is shown, and what is known of its run."""

    record: Any
    step: Step | None
    """None when its event is not in memory any more."""
    so_far: float | None
    """The return of its episode up to it."""
    action_names: tuple[str, ...]
    metadata: Mapping[str, Any]


# -- what `info` may have ----------------------------------------------------------------------------------------
def probabilities(info: Any, action: Any = None, names: Sequence[str] = ()) -> list[Chance]:
    """The probability of each action, in the order of the actions; empty without any.

    Values that are called probabilities count when they add up to 1. Logits go through a softmax, if the action is one
    of a number: for others, libraries put means and deviations under the same names.
    """
    taken = _index(action)
    for values, logits in ((PROBABILITIES, False), (LOGITS, True)):
        for value in _named(info, values):
            found = _by_action(value, names)
            shares = np.array([number for _, number in found])
            if logits and taken is not None and taken < len(found):
                shares = _softmax(shares)
            elif logits:
                continue
            if len(found) > 1 and (shares >= 0).all() and abs(shares.sum() - 1.0) <= _SUM_OFF:
                pairs = zip(found, shares.tolist(), strict=True)
                return [
                    Chance(name, share, at == taken or name == action) for at, ((name, _), share) in enumerate(pairs)
                ]
    return []


def value_estimate(info: Any) -> float | None:
    """The return that the agent expects; None when it does not say."""
    return next((number for value in _named(info, VALUES) if (number := _number(value)) is not None), None)


def reward_parts(info: Any) -> list[tuple[str, float]]:
    """The parts that the reward was made of: of a map of parts, else by names that begin with ``reward_``."""
    for parts in _named(info, REWARD_MAPS):
        found = [(short(name), _number(value)) for name, value in parts.items()] if isinstance(parts, dict) else []
        if told := [(name, number) for name, number in found if number is not None]:
            return told
    singles: list[tuple[str, float]] = []
    for name, value in info.items() if isinstance(info, dict) else ():
        before = next((one for one in REWARD_BEFORE if isinstance(name, str) and name.startswith(one)), "")
        part, number = str(name)[len(before) :], _number(value)
        if before and part and part not in _TOTALS and number is not None:
            singles.append((short(part), number))
    return singles


def _named(info: Any, names: Sequence[str]) -> Iterator[Any]:
    """What has one of these names, at the top or in a map there; the first name first."""
    if isinstance(info, dict):
        maps = [info, *(one for one in info.values() if isinstance(one, dict))]
        yield from (one[name] for one in maps for name in names if name in one)


def _by_action(value: Any, names: Sequence[str]) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        held = [(short(name), _number(one)) for name, one in value.items()]
    else:
        row = value.ravel() if isinstance(value, np.ndarray) and value.size == max(value.shape, default=0) else None
        flat = value if row is None else row[: ACTIONS_MAX + 1].tolist()
        numbers = [_number(one) for one in flat] if isinstance(flat, list) else []
        held = [(names[at] if at < len(names) else str(at), one) for at, one in enumerate(numbers)]
    found = [(name, number) for name, number in held if number is not None]
    return found if 1 < len(found) == len(held) <= ACTIONS_MAX else []


def _softmax(values: Any) -> Any:
    with np.errstate(invalid="ignore"):
        grown = np.exp(values - values.max())
        return grown / grown.sum()


def _index(action: Any) -> int | None:
    """The number of a discrete action."""
    if isinstance(action, np.ndarray):
        action = action.ravel()[:2].tolist()
    if isinstance(action, list) and len(action) == 1:
        (action,) = action
    return action if type(action) is int and action >= 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()[0] if value.size == 1 and value.dtype.kind in "iuf" else None
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:  # an integer beyond the floats
        return None


# -- the observation ---------------------------------------------------------------------------------------------
def numbers(observation: Any, metadata: Mapping[str, Any]) -> list[Line]:
    """The numbers of a short observation, each with its name and its place between its bounds."""
    found = list(_leaves(observation, ""))
    if not 1 < len(found) <= NUMBERS_MAX:
        return []
    names = names_of_numbers(metadata)
    bounds = _bounds(_space(metadata), len(found))
    free = [abs(one[1]) for one, bound in zip(found, bounds, strict=True) if not bound and math.isfinite(one[1])]
    widest = max(free, default=0.0) or 1.0
    return [
        Line(
            names[at] if len(names) == len(found) else name, real(number, 3), "number",
            max(-1.0, min(1.0, number / (bounds[at] or widest))) if not math.isnan(number) else 0.0, 1,
        )
        for at, (name, number) in enumerate(found)
    ]  # fmt: skip


def names_of_numbers(metadata: Mapping[str, Any]) -> Sequence[str]:
    """Of the observation: as the run tells in `observation_names`, else for the games that are known."""
    given, game = metadata.get("observation_names"), metadata.get("game_id")
    if isinstance(given, list):
        return [short(one, 16) for one in given]
    return next((_NUMBERS[one] for one in _NUMBERS if isinstance(game, str) and game.startswith(one)), ())


def _leaves(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Numbers with their names: keys, and indices in brackets. One too many is enough to see that they are too many."""
    if isinstance(value, dict):
        parts = [(f"{name}.{key}" if name else short(key), one) for key, one in list(value.items())[: NUMBERS_MAX + 1]]
    elif isinstance(value, list | np.ndarray) and not (isinstance(value, np.ndarray) and not value.ndim):
        several = value.tolist() if isinstance(value, np.ndarray) and value.size <= NUMBERS_MAX else value
        parts = [(f"{name}[{at}]", one) for at, one in enumerate(several[: NUMBERS_MAX + 1])]
    else:
        number = _number(value)
        yield from [(name, number)] if number is not None else []
        return
    for key, one in parts:
        yield from _leaves(one, key)


def _space(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The observation space as the worker recorded it; empty without."""
    text = part_of(metadata.get("environment"), "observation_space")
    return _read(text) if isinstance(text, str) else {}


@lru_cache(16)
def _read(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _bounds(space: Mapping[str, Any], size: int) -> list[float]:
    """The largest distance from 0 of each number; 0 where none is set."""
    found = [0.0] * size
    for bound in (space.get("low"), space.get("high")):
        each = [_number(one) for one in bound] if isinstance(bound, list) and len(bound) == size else []
        for at, number in enumerate(each):
            found[at] = max(found[at], abs(number)) if number is not None else math.inf
    return [one if one < _BOUND_MAX else 0.0 for one in found]


def _said(observation: Any, metadata: Mapping[str, Any]) -> str:
    """An observation whose numbers follow, in a word or two."""
    kind = short(_space(metadata).get("type") or "", 16)
    if isinstance(observation, np.ndarray):
        shape = TIMES.join(map(str, observation.shape))
        return f"{kind}({shape}), {observation.dtype.name}" if kind else f"{shape}, {observation.dtype.name}"
    return plural(len(observation), "part")


# -- all lines ---------------------------------------------------------------------------------------------------
def lines(shown: Shown, pins: Sequence[str] = ()) -> list[Line]:
    """A step in words and bars; `pins` are the paths of parts of `info` that are wanted."""
    record, step = shown.record, shown.step
    action, observation, info = (decoded(one) if step else None for one in _payloads(step))
    bars = numbers(observation, shown.metadata)
    what = _said(observation, shown.metadata) if bars else short(observation, 200)
    value = value_estimate(info)
    found = [
        Line("action", _action(action, shown.action_names)),
        *_chances(probabilities(info, action, shown.action_names)),
        Line("reward", real(float(record["reward"]), 4)),
        *(Line(name, real(number, 4), depth=1) for name, number in reward_parts(info)),
        Line("return so far", real(shown.so_far)),
        *([Line("value estimate", real(value))] if value is not None else []),
        Line("ended", "terminated" if record["terminated"] else "truncated" if record["truncated"] else "no"),
        Line("observation", what if step else "not in memory any more; the store has it"),
        *bars,
        *(Line(path, _part(part_of(info, path))) for path in pins),
        Line("episode", count(int(record["episode"]))),
        Line("step", "reset" if record["reset"] else count(int(record["step"]))),
        Line("global step", NONE if record["global_step"] == NO_STEP else count(int(record["global_step"]))),
        Line("policy", short((step.policy_label if step else None) or NONE)),
        Line("backend", short((step.backend if step else None) or NONE)),
        Line("environment", count(int(record["env"]))),
        Line("frame", short((step.frame_ref if step else None) or "none")),
        Line("seq", count(int(record["seq"]))),
        Line("time", clock(int(record["time_ns"]))),
    ]
    if step and (rest := short(info, 200)) not in ("", NONE):
        found.append(Line("info", rest))
    return found


def _payloads(step: Step | None) -> tuple[Any, Any, Any]:
    return (step.action, step.observation, step.info) if step else (None, None, None)


def _part(value: Any) -> str:
    return real(value, 4) if isinstance(value, float) else short(value, 200)


def _action(action: Any, names: Sequence[str]) -> str:
    at = _index(action)
    return f"{at} ({names[at]})" if at is not None and at < len(names) else short(action)


def _chances(chances: Sequence[Chance]) -> list[Line]:
    kept = most_likely(chances)
    found = [Line(one.name, f"{one.share:.2f}", "chance", one.share, 1, one.chosen) for one in kept]
    if left := len(chances) - len(kept):
        found.append(Line(plural(left, "other"), f"{1.0 - sum(one.share for one in kept):.2f}", depth=1))
    return found


def most_likely(chances: Sequence[Chance]) -> list[Chance]:
    """Those that are shown, in the order of the actions: the one that was taken, and the most likely ones."""
    ranked = sorted(range(len(chances)), key=lambda at: (not chances[at].chosen, -chances[at].share))
    return [chances[at] for at in sorted(ranked[:SHOWN_MAX])]
