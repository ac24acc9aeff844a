"""Parts of an event for SQL: ``of_event(event, 'info/reward.goal')`` is a number, a text or null."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from telefabric.store.tables.columns import COLUMNS, EVENTS
from telefabric_schemas import values
from telefabric_schemas.decoding import event_of

_INTERNAL = {"run", "stream", "event"}


def make_known(db: apsw.Connection) -> None:
    db.create_scalar_function("of_event", of_event, 2, deterministic=True)  # type: ignore[arg-type]  # of two values


def expression(table: str, field: str) -> str | None:
    """A field of a table's rows in SQL: a column, or a part of the event; None when there is no such field.

    The plus keeps SQLite on the index in whose order rows are wanted.
    """
    if field in COLUMNS[table] and field not in _INTERNAL:
        return f"+{field}"
    if any(field.partition("/")[0] in event.__struct_fields__ for event in EVENTS[table]):
        return f"of_event(event, {apsw.format_sql_value(field)})"
    return None


def of_event(raw: Any, path: Any) -> int | float | str | None:
    """An item of the event, and behind a slash the keys of maps; a key may have dots of its own."""
    item, _, keys = path.partition("/")
    value = getattr(event_of(raw), item, None)
    if isinstance(value, msgspec.Raw):
        try:
            value = values.decode(value)
        except msgspec.DecodeError:
            return None
    return _plain(_below(value, keys) if keys else value)


def _below(value: Any, keys: str) -> Any:
    if not isinstance(value, dict):
        return None
    if keys in value:
        return value[keys]
    dot = keys.find(".")
    while dot >= 0:
        if keys[:dot] in value:
            return _below(value[keys[:dot]], keys[dot + 1 :])
        dot = keys.find(".", dot + 1)
    return None


def _plain(value: Any) -> int | float | str | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 2**1023 else None
    return value if isinstance(value, int | float | str) else None
