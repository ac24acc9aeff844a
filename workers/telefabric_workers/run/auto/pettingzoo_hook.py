"""PettingZoo: environments whose agents take turns, and environments whose agents step together."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from telefabric_workers.run.auto import hook
from telefabric_workers.run.auto.outermost import Echo, Observed, records_itself, watch
from telefabric_workers.run.auto.session import session


def environments(env: ModuleType) -> None:
    watch(env.AECEnv, _aec, ("reset", "step", "close", "last"))
    watch(env.ParallelEnv, _parallel)
    if hook.is_top():
        session.open()


def _aec(echo: Echo) -> Observed | None:
    from telefabric_workers.integrations.pettingzoo import TelemetryAEC

    return _observed(echo, TelemetryAEC)


def _parallel(echo: Echo) -> Observed | None:
    from telefabric_workers.integrations.pettingzoo import TelemetryParallel

    return _observed(echo, TelemetryParallel)


def _observed(echo: Echo, adapter: Any) -> Observed | None:
    if records_itself(echo):
        return None
    ((index, episode),) = session.take_places(1)
    recorded = adapter(echo, session.worker, env_index=index, first_episode=episode)
    session.seen["environment of pettingzoo"] += 1
    return Observed(echo, recorded, lambda: [(index, _next_episode(recorded))])


def _next_episode(recorded: Any) -> int:
    trackers = [agent.recorder.tracker for agent in recorded._agents.values()]
    return int(max([recorded._episode, *(tracker.number + (tracker.length > 0) for tracker in trackers)]))
