"""The table of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from PySide6.QtCore import QObject

from telefabric_gui.formatting import NONE, clock, count, decoded, real, short
from telefabric_gui.info import part_of
from telefabric_gui.item_models.table import Column, EventTable
from telefabric_gui.model.lines import Found
from telefabric_gui.model.pages import Pages
from telefabric_gui.rows import NO_STEP, EventRows
from telefabric_gui.theme import LEFT, RIGHT, mode_tone
from telefabric_schemas import Episode, Reset, Step, event_of

_CELL = 20


ENV = Column("ENV", 3, RIGHT, "Environment")


class StepTable(EventTable):
    """One row a step. Action and observation are decoded for the rows in sight alone."""

    base = (
        Column("SEQ", 10, RIGHT, "Number of the event in its stream"),
        ENV,
        Column("EP", 6, RIGHT, "Episode"),
        Column("STEP", 5, RIGHT, "Step within the episode; its reset comes before the first"),
        Column("ACTION", 7, LEFT, "The agent's action"),
        Column("REWARD", 7, RIGHT),
        Column("OBS", 8, LEFT, "Observation after the action", grows_to=2 * _CELL),
        Column("END", 10, LEFT, "Whether the episode ended with this step"),
        Column("TIME", 13, RIGHT, "The worker's clock, in this machine's time zone"),
    )

    def __init__(
        self,
        rows: EventRows | Pages,
        metric_at: Callable[[str, int], float | None] = lambda name, step: None,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(rows, parent)
        self._metric_at = metric_at
        """The value of a metric at a step, as far as it came live."""

    action_names: tuple[str, ...] = ()
    """Names of discrete actions, where they are known. Set them by `name_actions`."""

    several = False
    """Whether the run has several environments, so that their column is shown unless others were chosen."""

    @property
    def usual(self) -> Sequence[Column]:
        return self.base if self.several else [column for column in self.base if column is not ENV]

    def name_actions(self, names: tuple[str, ...]) -> None:
        """Once they are known; what is in sight already is shown with them, too."""
        if names != self.action_names:
            self.action_names = names
            self.forget_texts()

    def name_of(self, action: Any) -> str | None:
        """The name of a discrete action; None if it has none."""
        return self.action_names[action] if type(action) is int and 0 <= action < len(self.action_names) else None

    def cells(self, found: Found) -> tuple[str, ...]:
        row, action, observation = found.record, NONE, NONE
        if step := step_of(found.raw):
            done = decoded(step.action)
            action = self.name_of(done) or short(done, _CELL)
            observation = short(decoded(step.observation), 2 * _CELL)
        return (
            *(count(int(row[part])) for part in ("seq", "env", "episode")), number_of(row), action,
            real(float(row["reward"])), observation, end_of(row), clock(int(row["time_ns"])),
        )  # fmt: skip

    def chosen_cell(self, found: Found, source: str) -> str:
        where, _, name = source.partition("/")
        if where == "metric":
            step = int(found.record["global_step"])
            value = self._metric_at(name, step)
            return real(self.pages.value(name, found.row, step) if value is None else value, 4)
        step_ = step_of(found.raw)
        return short(part_of(decoded(step_.info), name), _CELL) if step_ else NONE


def number_of(row: Any) -> str:
    """A step's number in its episode."""
    return "reset" if row["reset"] else count(int(row["step"]))


def end_of(row: Any) -> str:
    """How a step ended its episode; nothing when it did not."""
    return "terminated" if row["terminated"] else "truncated" if row["truncated"] else ""


@lru_cache(maxsize=64)
def step_of(raw: bytes | None) -> Step | None:
    """The whole step again, from its bytes; None when they are not held. Never raises: Qt's models must not."""
    found = None if raw is None else event_of(raw)
    return _step_of_reset(found) if isinstance(found, Reset) else found if isinstance(found, Step) else None


def _step_of_reset(reset: Reset) -> Step:
    """The step before the first: nothing was done, and this is seen."""
    place = reset.agent_id, reset.env_index, reset.episode_index, -1
    return Step(
        reset.seq, *place, None, None, False, False, reset.time_ns, reset.mono_ns, observation=reset.observation,
        control_mode=reset.control_mode, info=reset.info,
    )  # fmt: skip


def _tone(end: str) -> str:
    return "dim" if end in ("truncated", "reset", "closed") else "text"


class EpisodeTable(EventTable):
    """One row an episode."""

    base = (
        Column("EP", 6, RIGHT, "Episode", order="episode_index"),
        Column("RETURN", 8, RIGHT, "Sum of the rewards", order="total_reward"),
        Column("LENGTH", 7, RIGHT, "Steps", order="length"),
        Column("END", 10, LEFT, "Reason of its end", _tone, order="end_reason"),
        Column("SEED", 6, RIGHT, "Seed of its reset", order="seed"),
        Column("MODE", 7, LEFT, "Who acted", mode_tone),
        Column("TIME", 13, RIGHT, "The worker's clock, in this machine's time zone", order="time_ns"),
    )

    def cells(self, found: Found) -> tuple[str, ...]:
        row, raw, told = found.record, found.raw, (NONE, NONE, NONE)
        # The whole episode again, from its bytes, when they are held. Nothing here raises: Qt's models must not.
        if raw is not None and isinstance(episode := event_of(raw), Episode):
            mode = short(episode.control_mode or NONE, 12)
            told = (short(episode.end_reason or NONE, 20), short(decoded(episode.seed), 12), mode)
        length = NONE if row["length"] == NO_STEP else count(int(row["length"]))
        return (count(int(row["episode"])), real(float(row["total"])), length, *told, clock(int(row["time_ns"])))
