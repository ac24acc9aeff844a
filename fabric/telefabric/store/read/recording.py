"""A run as Python's: its events one by one, or as columns, page by page as they are asked for.

::

    with open_store("runs") as store:
        episodes = store["ppo"].episodes(agent="agent_0")
        print(episodes.columns("total_reward", "length")["total_reward"].mean())
        for step in store["ppo"].steps(env=0, episodes=slice(100, 110)):
            print(step.action, step.reward)

Numbers come as numbers from the store, without the events; other columns are decoded from them. Events of an episode
that a newer attempt has, too, and voided ones are left out, as everywhere. Order: attempt, stream, seq.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from itertools import chain
from math import inf
from operator import index
from typing import Any, Generic, Literal, NamedTuple, Protocol, SupportsIndex, TypedDict, TypeVar, Unpack

import msgspec

from telefabric import limits
from telefabric.errors import EnvironmentProblem, StoreError, UsageError
from telefabric.store.read import query
from telefabric.store.read.arrays import FLAGS, REALS, WHOLE, Array, as_array, as_cells, joined, numpy, value_at
from telefabric_schemas import Episode, Frame, Log, Metric, Reset, Step, values
from telefabric_schemas.decoding import decode_event
from telefabric_schemas.events import Event

T = TypeVar("T")
E = TypeVar("E", bound=Event)

_EVENTS: dict[str, type[Event]] = {
    "step": Step, "episode": Episode, "reset": Reset, "frame": Frame, "metric": Metric, "log": Log,
}  # fmt: skip
_NUMBERS = WHOLE | FLAGS | REALS
"""Fields that the store gives as numbers. Times are not among them: 64 bits of a float are not enough."""
_LEFT_OUT = frozenset(("mono_ns", "payload_version"))
"""Fields that are no columns unless they are named."""
_ENV_BITS = 20
_PLACE = ("env_index", "episode_index")


class Asked(Protocol):
    """What is asked of a reader."""

    where: str

    def run(self, run_id: str, /) -> query.Run | None: ...
    def streams(self, run_id: str, /) -> list[query.Stream]: ...
    def counts(self, run_id: str, /) -> list[query.RowCount]: ...
    def events(self, since_id: int, run_id: str, kinds: list[str], /) -> query.Page[query.StoredEvent]: ...
    def answer(self, question: query.Question[T], /) -> query.Page[T]: ...


class Range(TypedDict, total=False):
    """Which events: any where nothing is said.

    `episodes` is one or a range, ``slice(100, 110)``; with `env` it is found at once, else all rows are looked at.
    `steps` is the same of the agent's global steps, which should rise. `voided` includes voided events.
    """

    agent: str
    env: int
    episodes: int | slice
    steps: int | slice
    voided: bool


_Voids = dict[tuple[bytes, str], list[tuple[int, int]]]


class _Source(NamedTuple):
    """The rows of a kind and agent in a stream."""

    stream: bytes
    agent: str
    rows: int
    attempt: int


class Recording:
    """What a store has of one run. `store[run_id]` makes it; it is good as long as its reader is open.

    Its methods take the keywords of `Range`.
    """

    def __init__(self, reader: Asked, run_id: str) -> None:
        """Raises `StoreError` for a run that is not in the store."""
        found = reader.run(run_id)
        if found is None:
            raise StoreError(f"there is no run {run_id!r} in {reader.where}: see telefabric runs list")
        self.info = found
        self.run_id = run_id
        self._reader = reader

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(values.decode(self.info.metadata) or {})

    def steps(self, **wanted: Unpack[Range]) -> Selection[Step]:
        return Selection(self._reader, self.run_id, "step", wanted)

    def episodes(self, **wanted: Unpack[Range]) -> Selection[Episode]:
        return Selection(self._reader, self.run_id, "episode", wanted)

    def resets(self, **wanted: Unpack[Range]) -> Selection[Reset]:
        return Selection(self._reader, self.run_id, "reset", wanted)

    def frames(self, **wanted: Unpack[Range]) -> Selection[Frame]:
        return Selection(self._reader, self.run_id, "frame", wanted)

    def metrics(self, name: str | None = None, **wanted: Unpack[Range]) -> Selection[Metric]:
        return Selection(self._reader, self.run_id, "metric", wanted, name)

    def logs(self, **wanted: Unpack[Range]) -> Selection[Log]:
        return Selection(self._reader, self.run_id, "log", wanted)


class Selection(Generic[E]):
    """Events of one kind of a run. Nothing is read until it is iterated or asked for columns."""

    def __init__(self, reader: Asked, run_id: str, kind: str, wanted: Range, name: str | None = None) -> None:
        """Raises `UsageError` for a range that no event of the kind can be in. `name` is a metric's."""
        if unknown := sorted(wanted.keys() - Range.__annotations__.keys()):
            raise UsageError(f"{unknown[0]}= narrows nothing: give one of {', '.join(Range.__annotations__)}")
        self._reader, self._run_id, self._kind, self._name = reader, run_id, kind, name
        self._of_episodes = kind in ("step", "episode", "reset", "frame")
        self._agent, self._env = wanted.get("agent"), wanted.get("env")
        self._episodes, self._steps = _bounds(wanted, "episodes"), _bounds(wanted, "steps")
        self._voided = wanted.get("voided", False)
        missing = ("env", "episodes") if not self._of_episodes else ("steps",) if kind in ("reset", "frame") else ()
        for name in (*missing, *(("steps",) if kind == "log" else ())):
            if name in wanted:
                raise UsageError(f"a {kind} has no {name}: leave {name}= out")
        if not isinstance(wanted.get("env"), SupportsIndex | None):
            raise UsageError(f"env={wanted['env']!r} is no number: give the index of one environment, such as 0")

    def __iter__(self) -> Iterator[E]:
        """The events, their actions, observations and the like decoded."""
        for event in chain.from_iterable(self._pages()):
            for name in event.__struct_fields__:
                if isinstance(value := getattr(event, name), msgspec.Raw):
                    setattr(event, name, values.decode(value))
            yield event

    def chunks(self, *names: str) -> Iterator[dict[str, Array]]:
        """`columns` of some rows after the other: at most 65,536, or about 4 MiB of events."""
        for part in self._parts(names):
            yield {name: as_array(name, column) for name, column in part.items()}

    def columns(self, *names: str) -> dict[str, Array]:
        """Numpy arrays of one length by the names of the event's fields; without names all of them.

        ``info/KEY`` is a number inside of a field. Where every value is an array of one shape, rows are the first axis.
        """
        parts = list(self._parts(names))
        return {name: as_array(name, joined([part[name] for part in parts])) for name in names or self._fields}

    def pandas(self, *names: str) -> Any:
        """A `pandas.DataFrame` of `columns`."""
        return self._framed("pandas", "DataFrame", names)

    def polars(self, *names: str) -> Any:
        """A `polars.DataFrame` of `columns`."""
        return self._framed("polars", "DataFrame", names)

    def arrow(self, *names: str) -> Any:
        """A `pyarrow.Table` of `columns`."""
        return self._framed("pyarrow", "table", names)

    def _framed(self, package: str, make: str, names: tuple[str, ...]) -> Any:
        """Rows that are arrays become lists, and maps JSON."""
        try:
            library = import_module(package)
        except ModuleNotFoundError:
            raise EnvironmentProblem(f"columns for {package} need: pip install {package}") from None
        return getattr(library, make)({name: as_cells(column) for name, column in self.columns(*names).items()})

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(name for name in _EVENTS[self._kind].__struct_fields__ if name not in _LEFT_OUT)

    def _parts(self, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """Each part as arrays of numbers where the store gives them, or else as lists of values."""
        names = names or self._fields
        if self._name is None and all(name in _NUMBERS or "/" in name for name in names):
            for _, _, mask, columns in self._kept(names):
                yield {name: columns[name][mask] for name in names}
            return
        if unknown := [name for name in names if name.partition("/")[0] not in _EVENTS[self._kind].__struct_fields__]:
            raise UsageError(f"a {self._kind} has no {unknown[0]!r}; it has: {', '.join(self._fields)}")
        for events in self._pages():
            yield {name: [value_at(event, name) for event in events] for name in names}

    def _pages(self) -> Iterator[list[Any]]:
        """The events that are wanted, page by page."""
        name = self._name
        for source, first, mask, _ in self._kept(()):
            number, end = first, first + len(mask)
            while number < end:
                limit = min(end - number, limits.QUERY_ROWS_MAX)
                page = self._reader.answer(query.RowsAt(source.stream, self._kind, source.agent, number, limit))
                rows = zip(page.rows, mask[number - first :], strict=False)
                found = [decode_event(row.event) for row, kept in rows if kept]
                yield found if name is None else [one for one in found if getattr(one, "name", None) == name]
                number += len(page.rows)

    def _kept(self, names: tuple[str, ...]) -> Iterator[tuple[_Source, int, Array, dict[str, Array]]]:
        """The sources in parts: the number of the first row, which rows are wanted, and these columns of all."""
        names = (
            *names,
            "seq",
            *(_PLACE if self._of_episodes else ()),
            *(("global_step",) if self._steps else ()),
        )
        sources, voids = self._sources(), self._voids()
        for source in sources:
            newer = [one for one in sources if one.agent == source.agent and one.attempt > source.attempt]
            taken = self._places(newer, voids) if self._of_episodes and newer else None
            for first, columns in self._read(source, names, self._first(source)):
                yield source, first, self._mask(source, columns, voids, taken), columns
                if self._is_past(columns):
                    break

    def _mask(self, source: _Source, columns: dict[str, Array], voids: _Voids, taken: Array | None = None) -> Array:
        np = numpy()
        mask: Array = np.ones(len(columns["seq"]), dtype=bool)
        if self._env is not None:
            mask &= columns["env_index"] == self._env
        for bounds, name in ((self._episodes, "episode_index"), (self._steps, "global_step")):
            if bounds is not None:
                mask &= (columns[name] >= bounds[0]) & (columns[name] < bounds[1])
        if taken is not None:
            mask &= ~np.isin(_place(columns), taken)
        for place, seq in voids.get((source.stream, source.agent), ()):
            mask &= (_place(columns) != place) | (columns["seq"] >= seq)
        return mask

    def _is_past(self, columns: dict[str, Array]) -> bool:
        """Nothing that is wanted can follow: with rising steps, and rising episodes of one environment."""
        if self._steps is not None:
            return bool((columns["global_step"] >= self._steps[1]).all())
        if self._episodes is None or self._env is None:
            return False
        found = columns["episode_index"][columns["env_index"] == self._env]
        return len(found) > 0 and bool((found >= self._episodes[1]).all())

    def _first(self, source: _Source) -> int:
        """The number of the first row that the range can have."""
        if self._steps is not None:
            by, value, env = "global_step", self._steps[0], None
        elif self._episodes is not None and self._env is not None:
            by, value, env = "episode", self._episodes[0], self._env
        else:
            return 0
        asked = query.RowOf(source.stream, self._kind, source.agent, by, value, env)
        found = self._reader.answer(asked).rows
        return found[0].n if found else source.rows

    def _sources(self) -> list[_Source]:
        """In the order of attempts and streams."""
        counts = self._reader.counts(self._run_id)  # first: a stream that begins meanwhile has no rows yet
        found = self._reader.streams(self._run_id)
        streams = {one.stream_id: (one.attempt, one.started_ns, one.stream) for one in found}
        return [
            _Source(one.stream_id, one.agent_id, one.n, streams[one.stream_id][0])
            for one in sorted(counts, key=lambda one: (streams[one.stream_id], one.agent_id))
            if one.kind == self._kind and self._agent in (None, one.agent_id)
        ]

    def _voids(self) -> _Voids:
        """By stream and agent: places, and the seq below which they are voided."""
        found: _Voids = {}
        after, more = 0, self._of_episodes and not self._voided
        while more:
            page = self._reader.events(after, self._run_id, ["episode_voided"])
            for row in page.rows:
                event: Any = decode_event(row.event)
                place = event.env_index + (event.episode_index << _ENV_BITS)
                found.setdefault((row.stream_id, event.agent_id), []).append((place, event.seq))
            after, more = page.last, page.more
        return found

    def _places(self, sources: list[_Source], voids: _Voids) -> Array:
        """The episodes that these sources have."""
        np, everything = numpy(), Selection[E](self._reader, self._run_id, self._kind, {})
        found: list[Array] = [
            np.unique(_place(columns)[everything._mask(source, columns, voids)])
            for source in sources
            for _, columns in self._read(source, ("seq", *_PLACE), 0)
        ]
        return np.unique(np.concatenate(found))  # type: ignore[no-any-return]

    def _read(self, source: _Source, names: tuple[str, ...], first: int) -> Iterator[tuple[int, dict[str, Array]]]:
        """Columns of the rows of a source from a number on, and the number of the first."""
        np, fields = numpy(), list(dict.fromkeys(names))
        while first < source.rows:
            limit = min(source.rows - first, limits.QUERY_NUMBERS_MAX)
            page = self._reader.answer(query.Columns(source.stream, self._kind, source.agent, first, limit, fields))
            (chunk,) = page.rows
            if not chunk.rows:
                return
            columns = (np.frombuffer(column, "<f8") for column in chunk.columns)
            yield first, dict(zip(fields, columns, strict=True))
            first = page.last


def _bounds(wanted: Range, name: Literal["episodes", "steps"]) -> tuple[int, float] | None:
    """The first and the end of a range. Raises `UsageError` for what is none."""
    part = wanted.get(name)
    if part is None:
        return None
    with suppress(TypeError):
        whole = part if isinstance(part, slice) else slice(index(part), index(part) + 1)
        first, end = index(whole.start or 0), inf if whole.stop is None else index(whole.stop)
        if whole.step in (None, 1) and min(first, end) >= 0:
            return first, end
    raise UsageError(f"{name}={part!r} is no number and no range of numbers from 0 on: give 3, or slice(first, end)")


def _place(columns: dict[str, Array]) -> Array:
    """An episode of an environment as one number."""
    env, episode = (columns[name].astype("int64") for name in _PLACE)
    place: Array = env + (episode << _ENV_BITS)
    return place
