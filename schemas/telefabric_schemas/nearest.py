"""Values that MessagePack does not know, as the nearest that it does: a path as text, a dataclass as a map.

No form consumes what it is asked of (an iterator has none), and none is a guess: what a value means to its own program
alone (an object, a function, a lock) has no form.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

RANGE_LENGTH_MAX = 1_000_000
"""Length of a range that becomes an array: an event can hold as much."""


def natural(value: Any) -> Any:
    """The nearest form of a value that is neither plain nor an array; the value itself when it has none.

    Its parts stay as they are. Raises whatever the value's own methods raise.
    """
    for module, name, form in _FORMS:
        loaded = sys.modules.get(module)  # where nobody has imported it, no value can be of its types
        if loaded is not None and isinstance(value, getattr(loaded, name)):
            return form(value)
    kind = type(value)
    for marker, fields in (
        ("__dataclass_fields__", lambda: kind.__dataclass_fields__),
        ("__attrs_attrs__", lambda: [attribute.name for attribute in kind.__attrs_attrs__]),
        ("__struct_fields__", lambda: kind.__struct_fields__),
    ):
        if hasattr(kind, marker):
            return {name: getattr(value, name) for name in fields() if hasattr(value, name)}
    return value.__fspath__() if hasattr(kind, "__fspath__") else value


def _moment(value: Any) -> Any:
    """A subclass of datetime, such as pandas' Timestamp: without a zone as text, for which nanoseconds are fine."""
    exact = sys.modules["datetime"].datetime
    if type(value) is exact:
        return value
    return value.isoformat() if value.tzinfo is None else exact.fromisoformat(value.isoformat())


def _duration(value: Any) -> Any:
    exact = sys.modules["datetime"].timedelta
    return value if type(value) is exact else exact(value.days, value.seconds, value.microseconds)


def _range(value: range) -> list[int]:
    if len(value) > RANGE_LENGTH_MAX:
        raise ValueError(f"a range of more than {RANGE_LENGTH_MAX} numbers")
    return list(value)


def _error(value: BaseException) -> str:
    return f"{type(value).__name__}: {value}"


_FORMS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("enum", "Enum", lambda value: value.value),
    ("builtins", "int", int),
    ("builtins", "float", float),
    ("builtins", "str", str),
    ("collections", "UserString", str),
    ("builtins", "bytes", bytes),
    ("builtins", "bytearray", bytes),
    ("builtins", "memoryview", lambda value: value.tobytes()),
    ("builtins", "range", _range),
    ("builtins", "BaseException", _error),
    ("datetime", "datetime", _moment),
    ("datetime", "date", lambda value: value.isoformat()),
    ("datetime", "time", lambda value: value.isoformat()),
    ("datetime", "timedelta", _duration),
    ("decimal", "Decimal", str),
    ("fractions", "Fraction", str),
    ("uuid", "UUID", str),
    ("pathlib", "PurePath", str),
    ("argparse", "Namespace", vars),
    ("types", "SimpleNamespace", vars),
    ("collections.abc", "Mapping", dict),
    ("collections.abc", "Sequence", list),
    ("collections.abc", "Set", list),
    ("collections.abc", "ValuesView", list),
    ("collections", "deque", list),
)
"""Module, type and form; the first that fits."""
