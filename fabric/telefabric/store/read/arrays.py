"""Columns of events as arrays: the type that all values of a field have in common."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from telefabric.errors import EnvironmentProblem
from telefabric_schemas import values

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

WHOLE = frozenset(("id", "seq", "env_index", "episode_index", "step_index", "global_step", "length"))
FLAGS = frozenset(("terminated", "truncated"))
REALS = frozenset(("reward", "total_reward", "value"))
_WHOLE = WHOLE | {"time_ns", "mono_ns", "payload_version", "width", "height"}
_INT64 = range(-(1 << 63), 1 << 63)


def numpy() -> Any:
    try:
        import numpy
    except ModuleNotFoundError:
        raise EnvironmentProblem("columns need: pip install 'telefabric[fast-lane]'") from None
    return numpy


def value_at(event: Any, name: str) -> Any:
    """A field of an event, or with ``info/KEY`` what a map in it has under a key."""
    field, _, key = name.partition("/")
    value = getattr(event, field)
    if isinstance(value, msgspec.Raw):
        value = values.decode(value)
    if not key:
        return value
    return value.get(key) if isinstance(value, dict) else None


def joined(parts: list[Any]) -> Any:
    """Parts of a column, all of them arrays or all of them lists, as one."""
    if parts and not isinstance(parts[0], list):
        return numpy().concatenate(parts)
    return [value for part in parts for value in part]


def as_array(name: str, column: Any) -> Array:
    """A column as whole numbers, truth values, numbers with NaN for null, arrays of one shape, or objects."""
    np = numpy()
    kind = np.int64 if name in _WHOLE else bool if name in FLAGS else np.float64
    if not isinstance(column, list):
        return column if np.isnan(column).any() else column.astype(kind)  # type: ignore[no-any-return]
    if name in _WHOLE | FLAGS | REALS or ("/" in name and not column):  # as the store's numbers, also without rows
        return np.array(column, dtype=np.float64 if None in column else kind)  # type: ignore[no-any-return]
    kinds = {type(value) for value in column}
    if kinds == {np.ndarray} and len({(value.shape, value.dtype) for value in column}) == 1:
        return np.stack(column)  # type: ignore[no-any-return]
    if kinds == {bool} or (kinds == {int} and all(value in _INT64 for value in column)):
        return np.array(column)  # type: ignore[no-any-return]
    if float in kinds and kinds <= {int, float, type(None)}:
        return np.array([np.nan if value is None else value for value in column], dtype=np.float64)  # type: ignore[no-any-return]
    objects = np.empty(len(column), dtype=object)
    objects[:] = column
    return objects  # type: ignore[no-any-return]


def as_cells(column: Array) -> Any:
    """A column as the libraries of tables take one: rows that are arrays as lists, maps as JSON."""
    if column.ndim > 1:
        return column.tolist()
    if column.dtype != object:
        return column
    return [json.dumps(value, default=str) if isinstance(value, dict) else value for value in column.tolist()]
