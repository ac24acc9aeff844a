"""Minari: complete episodes of one agent as a data set, with the spaces that the run's metadata names."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, NamedTuple

import h5py  # noqa: F401  Minari names it only when it writes
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from minari.serialization import deserialize_space

from telefabric.errors import UsageError
from telefabric.exchange.folder import Folder
from telefabric.exchange.writer import Writer
from telefabric.store.read.query import StoredEvent
from telefabric.store.read.reader import Reader
from telefabric_schemas import Episode, Reset, Step, values
from telefabric_schemas.decoding import event_of

_NAME = re.compile(r"[\w.-]+-v\d+")
_METADATA = re.compile(r"environment(?:_\d+)?")
"""Names under which wrappers put their environments into a run's metadata, in the order in which these were wrapped."""
_UNFIT = (ValueError, TypeError, LookupError, OverflowError)
"""Errors of values that are made into arrays of a space to which they do not belong."""
_Place = tuple[bytes, str, int]


class _Begun(NamedTuple):
    """An episode that has begun."""

    reset: Reset
    steps: list[Step]


class MinariWriter(Writer):
    """Writes `data/` as Minari lays it out: the folder is the data set, its name is the name of the data set.

    A data set has the spaces of one environment: of the first in the run's metadata; with `env` of the first that the
    episodes of this environment fit. In memory are the episodes that have begun and not ended.
    """

    def __init__(self, folder: Folder, reader: Reader, *, env: int | None) -> None:
        super().__init__(folder, reader)
        self._env = env
        self._open: dict[_Place, _Begun] = {}
        self._agent: str | None = None
        if not _NAME.fullmatch(folder.path.name):
            raise UsageError(f"{folder.path.name} is not a name of a data set: name the folder so that it ends in -v0")
        selection = folder.progress.question.selection
        if selection.run is None:
            raise UsageError("a Minari data set is of one run: name it with --run")
        self._run_id = selection.run
        self._spaces = self._known_spaces()
        """Of observations and actions; the first that an episode fits become those of the data set."""
        self._storage: MinariStorage | None = None

    def _known_spaces(self) -> list[list[Any]]:
        run = self.reader.run(self._run_id)
        metadata = values.decode(run.metadata) if run else None
        named = metadata.items() if isinstance(metadata, dict) else ()
        environments = [known for name, known in named if _METADATA.fullmatch(str(name)) and isinstance(known, dict)]
        found: list[list[Any]] = [[known.get("observation_space"), known.get("action_space")] for known in environments]
        found = [texts for texts in found if all(isinstance(text, str) for text in texts)]
        if not found:
            without = [why for known in environments for why in known.get("left_out") or () if "_space: " in str(why)]
            if without:
                raise UsageError(
                    f"run {self._run_id} has an environment that Minari has no form for ({without[0]}): telefabric "
                    "export parquet takes every space"
                )
            raise UsageError(
                f"run {self._run_id} does not name the spaces of its environment, which Minari needs: record with "
                "telefabric_workers.integrations, or give connect() the metadata {'environment': {'observation_space': "
                "…, 'action_space': …}} as docs/worker.md shows"
            )
        chosen = found[:1] if self._env is None else found
        return [[deserialize_space(json.dumps(_with_all_bounds(json.loads(one)))) for one in texts] for texts in chosen]

    def _new(self, spaces: list[Any]) -> MinariStorage:
        storage = MinariStorage.new(self.folder.add("data"), *spaces, data_format="hdf5", jpeg_encoding=False)
        storage.update_metadata({
            "dataset_id": self.folder.path.name, "minari_version": minari.__version__,
            "description": f"Run {self._run_id}, exported by Telefabric.",
        })  # fmt: skip
        return storage

    def add(self, rows: list[StoredEvent]) -> None:
        complete = []
        for row in rows:
            event = event_of(row.event)
            if self._env not in (None, getattr(event, "env_index", None)):
                continue
            match event:
                case Reset():
                    self._begin(row, event)
                case Step() if begun := self._open.get(_place(row, event)):
                    begun.steps.append(event)
                case Episode():
                    begun = self._open.pop(_place(row, event), None)
                    if why := _why_incomplete(begun, event):
                        self.left_out[why] += 1
                    else:
                        assert begun is not None
                        complete += self._fitting(begun)
        if complete:
            self._storage = self._storage or self._new(self._spaces[0])
            self._storage.update_episodes(complete)

    def _begin(self, row: StoredEvent, event: Reset) -> None:
        if self._agent not in (None, row.agent_id):
            raise UsageError(f"the run has several agents, {self._agent} and {row.agent_id}: name one with --agent")
        if self._agent is None:
            self._spaces += _of_agent(row.agent_id, self._spaces)
        self._agent = row.agent_id
        if self._open.pop(_place(row, event), None):
            self.left_out["episodes that did not end"] += 1
        self._open[_place(row, event)] = _Begun(event, [])

    def _fitting(self, begun: _Begun) -> list[EpisodeBuffer]:
        """The episode; nothing, and it is counted, when its values are not of the spaces of the data set."""
        for spaces in self._spaces:
            with suppress(*_UNFIT):
                buffer = _buffer(begun, spaces)
                self._spaces = [spaces]
                self.written.update({"reset": 1, "step": len(begun.steps), "episode": 1})
                return [buffer]
        env = begun.reset.env_index
        hint = f": choose them with --env {env}" if self._env is None else ""
        self.left_out[f"episodes of environment {env} with values of other spaces{hint}"] += 1
        return []

    def close(self) -> None:
        if self._open:
            self.left_out["episodes that did not end"] += len(self._open)
            self._open.clear()


def _buffer(begun: _Begun, spaces: list[Any]) -> EpisodeBuffer:
    """Raises one of `_UNFIT` for values that are not of these spaces."""
    first, steps = begun
    observations = [values.decode(raw) for raw in (first.observation, *(step.observation for step in steps))]
    seed = values.decode(first.seed)
    return EpisodeBuffer(
        seed=seed if isinstance(seed, int) else None,
        observations=_columns(observations, spaces[0]),
        actions=_columns([values.decode(step.action) for step in steps], spaces[1]),
        rewards=[np.nan if step.reward is None else step.reward for step in steps],
        terminations=[step.terminated for step in steps],
        truncations=[step.truncated for step in steps],
        infos={},
    )


def _why_incomplete(begun: _Begun | None, end: Episode) -> str:
    """Why an episode cannot be in a data set; empty when it can."""
    if begun is None or begun.reset.episode_index != end.episode_index:
        return "episodes without a reset"
    steps = [step.step_index for step in begun.steps]
    complete = steps and steps == list(range(len(steps))) and end.length in (None, len(steps))
    return "" if complete else "episodes with missing steps"


def _of_agent(agent: str, known: list[list[Any]]) -> list[list[Any]]:
    """The parts of spaces that are an agent's: an environment with several agents names those of each, under its id."""
    each: list[list[Any]] = [[getattr(space, "spaces", ()) for space in spaces] for spaces in known]
    return [[part[agent] for part in parts] for parts in each if all(agent in part for part in parts)]


def _place(row: StoredEvent, event: Reset | Step | Episode) -> _Place:
    return row.stream_id, row.agent_id, event.env_index


def _columns(rows: list[Any], space: Any) -> Any:
    """Values one by one as Minari has them: a map or tuple of lists for a space of several parts."""
    kind = type(space).__name__
    if kind == "Dict":
        return {name: _columns([row[name] for row in rows], part) for name, part in space.spaces.items()}
    if kind == "Tuple":
        return tuple(_columns([row[at] for row in rows], part) for at, part in enumerate(space.spaces))
    if kind == "Text":
        return [str(row) for row in rows]
    found = np.asarray(rows, dtype=space.dtype)
    column = found.reshape(len(rows), *space.shape)
    is_shaped = [size for size in found.shape[1:] if size > 1] == [size for size in space.shape if size > 1]
    if not is_shaped or (kind == "Discrete" and not all(map(space.contains, column))):
        raise ValueError(f"there are values that are not of {space}")
    return column


def _with_all_bounds(space: dict[str, Any]) -> dict[str, Any]:
    """The space with a bound for each number of a Box: a run names one bound where all are equal."""
    parts = space.get("subspaces")
    if isinstance(parts, dict):
        return space | {"subspaces": {name: _with_all_bounds(part) for name, part in parts.items()}}
    if isinstance(parts, list):
        return space | {"subspaces": [_with_all_bounds(part) for part in parts]}
    bounds = {name: np.broadcast_to(space[name], space["shape"]).tolist() for name in ("low", "high") if name in space}
    return space | bounds
