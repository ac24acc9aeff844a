"""Making an event of what a caller gave: every field in the type that the schema declares, or left out.

The fast path never comes here. A field that cannot be used becomes null (numbers and texts that may be null), -1 (an
index) or nil (payloads), and each such loss is a `Problem` that the worker counts and tells once.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec

from telefabric import limits
from telefabric.wire.names import cut, is_blank, printable
from telefabric_schemas import values
from telefabric_schemas.events import CONTROL_MODES, INT_MAX, NIL, Event, Metric
from telefabric_schemas.values import described as described
from telefabric_schemas.values import said as said
from telefabric_workers.problems import Problem

_UNKNOWN_INDEX = -1


EXACT = frozenset((bool, int, float, str, bytes, type(None), msgspec.Raw))
"""Types whose encoding runs no code of the caller's. Containers are not among them: their items may be anything."""

_ENCODED = (type(None), msgspec.Raw)


def raw(value: Any, path: str) -> tuple[msgspec.Raw, list[Problem]]:
    """A caller's value encoded without the parts that have no form, and those: ``step.info.bad`` for `path` step.info.

    Any thread; runs the value's own methods. Raises nothing that is an `Exception`.
    """
    try:
        return msgspec.Raw(values.encode_quickly(value)), []
    except Exception:  # noqa: BLE001  a value of another type than that knows
        encoded, left = values.usable(value)
    kind, _, field = path.partition(".")
    return msgspec.Raw(encoded), [Problem(kind, field + part, why, times) for part, why, times in left]


def coerce(event: Event) -> list[Problem]:
    """Bring every field to an exact built-in type or raw MessagePack, in place; what had to be left out."""
    problems = encode_payloads(event, _ENCODED)
    for name, kind in _field_kinds(type(event)).items():
        if kind == "payload":
            continue
        optional = kind.endswith("?")
        convert, left_out = _COERCE[kind.rstrip("?")]
        value = getattr(event, name)
        try:
            value = None if optional and value is None else convert(value)
        except Exception as error:  # noqa: BLE001  whatever the caller's own objects raise
            told = path_of(event.name) if name == "value" and isinstance(event, Metric) else name
            problems.append(Problem(event.kind, told, said(error)))
            value = None if optional else left_out
        setattr(event, name, value)
    _shorten(event, problems)
    return problems


def encode_payloads(event: Event, done: Collection[object] = EXACT) -> list[Problem]:
    """Like `coerce`, for the payloads of an event only; payloads of the types in `done` stay as they are."""
    problems: list[Problem] = []
    for name in _payloads(type(event)):
        value = getattr(event, name)
        if value.__class__ in done:
            continue
        encoded, left = raw(value, f"{event.kind}.{name}")
        problems += left
        setattr(event, name, encoded)
    return problems


def _shorten(event: Event, problems: list[Problem]) -> None:
    """Leave out the largest values until the event is within its limit."""
    room = limits.EVENT_BYTES_MAX - 1_024

    def size(name: str) -> int:
        value = getattr(event, name)
        if isinstance(value, str):
            return len(value.encode())
        return len(bytes(value)) if isinstance(value, msgspec.Raw) else len(value) if hasattr(value, "__len__") else 9

    names = _field_kinds(type(event))
    while sum(map(size, names)) > room:
        name = max(names, key=size)
        problems.append(Problem(event.kind, name, f"it makes the event larger than {limits.EVENT_BYTES_MAX} bytes"))
        value = getattr(event, name)
        shorter = value[:1_024] if isinstance(value, str) else NIL if isinstance(value, msgspec.Raw) else b""
        setattr(event, name, shorter)


def integer(value: Any) -> int:
    """Any whole number as an int. Raises `TypeError`, or `OverflowError` beyond 64 bits."""
    number = operator.index(_single(value))
    if not -INT_MAX <= number <= INT_MAX:
        raise OverflowError("it does not fit into 64 bits")
    return int(number)


def real(value: Any) -> float:
    """Any real number as a float, also an array or a tensor of one. Raises what its conversion raises."""
    if value.__class__ is int:
        return float(value)
    value = _single(value)
    if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
        raise TypeError("a complex number is not a real number")  # numpy's would lose its imaginary part without a word
    return float(value)


def real_or_same(value: Any) -> Any:
    """A number of any type as a float; any other value unchanged, so that `coerce` reports it."""
    try:
        return real(value)
    except Exception:  # noqa: BLE001  whatever the caller's own object raises
        return value


def hud_numbers(given: Any) -> tuple[dict[str, float], list[Problem]]:
    """The named numbers to show over a frame, without those that are none."""
    found: dict[str, float] = {}
    problems: list[Problem] = []
    for name, value in dict(given).items():
        try:
            found[text(name)] = real(value)
        except Exception as error:  # noqa: BLE001  whatever the caller's own objects raise
            problems.append(Problem("step", f"hud.{path_of(name)}", described(error)))
    return found, problems


def _single(value: Any) -> Any:
    """The one item of an array or a tensor of any library and shape; anything else as it is."""
    if isinstance(value, (numbers.Number, str)):
        return value
    if not hasattr(value, "item") or not hasattr(value, "shape"):
        if hasattr(value, "__float__") or hasattr(value, "__index__") or not hasattr(value, "__array__"):
            return value
        import numpy  # whatever has `__array__` is for it

        value = numpy.asarray(value)
    if getattr(value, "mask", False) is not False and bool(value.mask.any()):
        raise TypeError("a masked value")  # whose item numpy gives as 0
    return value.item()


def path_of(key: Any) -> str:
    """A caller's name or key as a part of a path; its type's name when it has no text."""
    try:
        return values.path_part(text(key))
    except Exception:  # noqa: BLE001  whatever the caller's own object raises
        return f"a {type(key).__name__}"


def _boolean(value: Any) -> bool:
    value = _single(value)
    if isinstance(value, (bool, int)) or type(value).__name__ in {"bool", "bool_"}:
        return bool(value)
    raise TypeError(f"{type(value).__name__} is neither true nor false")


def text(value: Any) -> str:
    """Any value as text that can be encoded."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def name_of(given: str) -> str:
    """A text cut to the length of an id, with question marks for unprintable characters; empty if it is blank."""
    name = cut(printable(given, "?"))
    return "" if is_blank(name) else name


def _mode(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value in CONTROL_MODES):
        return value
    raise ValueError(f"{value!r} is not one of {', '.join(sorted(CONTROL_MODES))}")


_COERCE: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "int": (integer, _UNKNOWN_INDEX),
    "float": (real, None),
    "bool": (_boolean, False),
    "str": (text, "?"),
    "control_mode": (_mode, "unknown"),
    "bytes": (bytes, b""),
}
"""Kind of value → its conversion, and what stands for a value that has none. A kind with ? may also be None."""


@cache
def _field_kinds(event_type: type[Event]) -> dict[str, str]:
    """Field → the type of its value, from the annotations of an event type."""
    hints = get_type_hints(event_type)
    return {
        name: "control_mode" if name == "control_mode" else _kind_of(hints[name])
        for name in event_type.__struct_fields__
    }


def _kind_of(hint: Any) -> str:
    arms = get_args(hint)
    optional = type(None) in arms
    plain = next(arm for arm in arms if arm is not type(None)) if arms else hint
    if plain is msgspec.Raw:
        return "payload"
    return f"{plain.__name__}{'?' if optional else ''}"


@cache
def _payloads(event_type: type[Event]) -> list[str]:
    return [name for name, kind in _field_kinds(event_type).items() if kind == "payload"]
