"""Gymnasium: its environments, and its vector environments, whichever way a program makes and wraps them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from telefabric.errors import UsageError
from telefabric_workers.run.auto import hook
from telefabric_workers.run.auto.outermost import Echo, Observed, records_itself, watch
from telefabric_workers.run.auto.session import session

if TYPE_CHECKING:
    from telefabric_workers.episodes import EpisodeRecorder

_DRAWS_ASIDE = ("gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.", "gymnasium.envs.box2d.")
"""Environments that can be drawn although the program has chosen no render mode: drawing reads their state, and changes
nothing that they do."""
_OLDEST = (1, 1)


def environments(core: ModuleType) -> None:
    """Raises `UsageError` for a version that the adapters do not know."""
    found = version("gymnasium")
    if is_too_old(found):
        raise UsageError(f"gymnasium is {found}, and should be {_OLDEST[0]}.{_OLDEST[1]} or newer")
    watch(core.Env, _environment)
    if hook.is_top():
        session.open()


def is_too_old(found: str) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < _OLDEST


def vectors(vector_env: ModuleType) -> None:
    if not is_too_old(version("gymnasium")):
        watch(vector_env.VectorEnv, _vector)


def processes(async_vector_env: ModuleType) -> None:
    """The processes of an `AsyncVectorEnv` are silent: the vector env is what the program steps."""
    construct = async_vector_env.AsyncVectorEnv.__init__

    @functools.wraps(construct)
    def constructor(self: Any, env_fns: Any, *given: Any, **named: Any) -> None:
        construct(self, [_Silent(function, os.getpid()) for function in env_fns], *given, **named)

    async_vector_env.AsyncVectorEnv.__init__ = constructor


class _Silent:
    """Makes an environment; in another process than this one, that process records nothing."""

    def __init__(self, function: Callable[[], Any], here: int) -> None:
        self._function = function
        self._here = here

    def __call__(self) -> Any:
        if os.getpid() != self._here:
            session.silent = True
        return self._function()


def _environment(echo: Echo) -> Observed | None:
    from telefabric_workers.integrations.gym import TelemetryWrapper

    if records_itself(echo):
        return None
    adapter = TelemetryWrapper(echo, session.worker, frames=False)  # type: ignore[arg-type]
    return _observed(echo, adapter, [adapter._recorder])


def _vector(echo: Echo) -> Observed | None:
    from telefabric_workers.integrations.gym import VectorTelemetryWrapper

    if records_itself(echo):
        return None
    adapter = VectorTelemetryWrapper(echo, session.worker, frames=False)  # type: ignore[arg-type]
    return _observed(echo, adapter, adapter._recorders)


def _observed(echo: Echo, adapter: Any, recorders: list[EpisodeRecorder]) -> Observed:
    for number, (recorder, (index, episode)) in enumerate(
        zip(recorders, session.take_places(len(recorders)), strict=True)
    ):
        recorder._env_index, recorder.tracker.number = index, episode
        recorder.render = _render_of(echo, adapter, number)
    session.seen["environment of gymnasium"] += len(recorders)
    return Observed(echo, adapter, lambda: [(one._env_index, _next_episode(one)) for one in recorders])


def _next_episode(recorder: EpisodeRecorder) -> int:
    return recorder.tracker.number + (recorder.tracker.length > 0)


def _render_of(echo: Echo, adapter: Any, number: int) -> Callable[[], Any] | None:
    """What draws one environment of those that an adapter records; None if nothing does."""
    part = _part_of(echo, number)
    if echo.render_mode == "rgb_array":
        return functools.partial(adapter._render, number) if hasattr(adapter, "_render") else echo.render
    module = f"{type(part.unwrapped).__module__}."
    if echo.render_mode is None and module.startswith(_DRAWS_ASIDE):
        return lambda: _drawn_aside(_part_of(echo, number).unwrapped)
    return None


def _part_of(echo: Echo, number: int) -> Any:
    """One environment of a vector env that steps them in this process, else the environment itself."""
    parts = getattr(echo.unwrapped, "envs", None)
    return parts[number] if isinstance(parts, (list, tuple)) else echo


def _drawn_aside(env: Any) -> Any:
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # else drawing makes the program deaf to SIGTERM
    env.render_mode = "rgb_array"
    try:
        return env.render()
    finally:
        env.render_mode = None
