"""A tree of events as they came: each value with its exact type. Parts are decoded when they are opened."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec.msgpack import Ext
from PySide6.QtCore import QModelIndex, QObject, Qt
from PySide6.QtGui import QStandardItem, QStandardItemModel

from telefabric_gui import theme
from telefabric_gui.formatting import TIMES, count, decoded, plural, short
from telefabric_schemas import Event, event_of, values

KEY_ROLE = int(Qt.ItemDataRole.UserRole)
TEXT_ROLE = KEY_ROLE + 1
"""What a search looks at: of what has parts, their values are theirs."""
PARTS_MAX = 100
"""Items of a list or an array that have a line; the rest are counted."""
_OPEN_MAX = 20_000
"""Lines that a search opens."""
_TEXT_MAX = 400
_COPIED_MAX = 10_000
"""Items of an array that are copied as numbers."""


class RawTree(QStandardItemModel):
    """Events, newest first. Columns: name, value, type."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(0, 3, parent)
        self.setHorizontalHeaderLabels(["NAME", "VALUE", "TYPE"])
        self._values: list[tuple[str, Any]] = []
        """Path and value of each line, by its key."""
        self._closed: set[int] = set()
        """Keys of lines whose parts are not made yet."""

    def show_events(self, events: Mapping[int, bytes]) -> None:
        """In the place of those that are there."""
        self.removeRows(0, self.rowCount())
        self._values.clear()
        self._closed.clear()
        for seq, raw in events.items():
            event = event_of(raw)
            name, said = (event.kind, _place_of(seq, event)) if event is not None else ("event", f"seq {count(seq)}")
            self._add(self.invisibleRootItem(), name, "", event if event is not None else decoded(raw), said)
            self.item(self.rowCount() - 1, 2).setText(plural(len(raw), "byte"))

    def open(self, index: QModelIndex) -> None:
        """Make the parts of a line."""
        key = index.siblingAtColumn(0).data(KEY_ROLE)
        if key in self._closed:
            self._closed.discard(key)
            item, (path, value) = self.itemFromIndex(index.siblingAtColumn(0)), self._values[key]
            item.removeRow(0)
            for name, part in _parts(value):
                self._add(item, name, f"{path}.{name}" if path else name, part)

    def open_all(self) -> None:
        """For a search: all parts, as far as there is room."""
        waiting = [self.item(row) for row in range(self.rowCount())]
        while waiting and len(self._values) < _OPEN_MAX:
            item = waiting.pop(0)
            self.open(item.index())
            waiting += [item.child(row) for row in range(item.rowCount())]

    def path(self, index: QModelIndex) -> str:
        """The keys from the event on, with dots between them; empty of an event itself."""
        return self._at(index)[0]

    def text(self, index: QModelIndex) -> str:
        """A value to be copied: a text as it is, anything else as JSON."""
        value = self._at(index)[1]
        return value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False, indent=1)

    def _at(self, index: QModelIndex) -> tuple[str, Any]:
        key: int = index.siblingAtColumn(0).data(KEY_ROLE)
        return self._values[key]

    def _add(self, parent: QStandardItem, name: str, path: str, value: Any, said: str = "") -> None:
        line = [_item(text) for text in (name, said or text_of(value), type_of(value))]
        key = len(self._values)
        self._values.append((path, value))
        line[0].setData(key, KEY_ROLE)
        line[1].setFont(theme.figure_font())
        if isinstance(value, Event | dict | list) or (isinstance(value, np.ndarray) and value.ndim and value.size):
            line[0].appendRow(_item(""))
            self._closed.add(key)
        whole = key in self._closed and not said
        line[0].setData("\n".join(one.text() for one in (line[::2] if whole else line)), TEXT_ROLE)
        parent.appendRow(line)


def _item(text: str) -> QStandardItem:
    item = QStandardItem(text)
    item.setEditable(False)
    return item


def _place_of(seq: int, event: Any) -> str:
    episode, step = getattr(event, "episode_index", None), getattr(event, "step_index", None)
    parts = [f"seq {count(seq)}"]
    parts += [f"episode {count(episode)}"] if episode is not None else []
    parts += [f"step {count(step)}"] if step is not None else []
    parts += [short(event.name, 30)] if isinstance(getattr(event, "name", None), str) else []
    return " · ".join(parts)


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Event):
        fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return [(name, decoded(part) if isinstance(part, msgspec.Raw) else part) for name, part in fields]
    several = list(value.items()) if isinstance(value, dict) else list(enumerate(value[: PARTS_MAX + 1]))
    size = len(value)
    found = [(short(name, 80), part) for name, part in several[:PARTS_MAX]]
    return found if size <= PARTS_MAX else [*found, ("…", f"{count(size - PARTS_MAX)} more")]


def text_of(value: Any) -> str:
    """A value on one line: exact, if it is a single one."""
    if value is None:
        return "null"
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return str(value)
    return short(value, _TEXT_MAX)


def type_of(value: Any) -> str:
    """The type that a value has on the wire; of a part of an array, its dtype."""
    match value:
        case Event():
            return "event"
        case None:
            return "null"
        case np.ndarray():
            return f"array {value.dtype.name}, {TIMES.join(map(str, value.shape)) or 'no shape'}"
        case np.generic():
            return str(value.dtype.name)
        case str() | bytes():
            return f"{type(value).__name__}, {count(len(value))}"
        case dict() | list():
            return f"{'map' if isinstance(value, dict) else 'list'}, {count(len(value))}"
        case Ext():
            return f"ext {value.code}, {plural(len(bytes(value.data)), 'byte')}"
        case int() if not isinstance(value, bool) and not -(2**63) <= value < 2**64:
            return f"int of {value.bit_length()} bits"
        case datetime.datetime():
            return "time stamp"
    return type(value).__name__


def _plain(value: Any, depth: int = 0) -> Any:
    """As JSON has it; what it has not becomes a map or a text that says what it is."""
    match value:
        case _ if depth > values.DEPTH_MAX:
            return "…"
        case Event():
            return {"kind": value.kind} | {name: _plain(part, depth + 1) for name, part in _parts(value)}
        case dict():
            return {short(name, _TEXT_MAX): _plain(part, depth + 1) for name, part in value.items()}
        case list():
            return [_plain(part, depth + 1) for part in value]
        case np.ndarray():
            items = _plain(value.tolist()) if value.size <= _COPIED_MAX else None
            return {"dtype": str(value.dtype), "shape": list(value.shape), "items": items}
        case bytes():
            return {"bytes": value.hex()}
        case Ext():
            return {"ext": value.code, "bytes": bytes(value.data).hex()}
        case None | bool() | str():
            return value
        case int() if -(2**63) <= value < 2**64:
            return value
        case float() if math.isfinite(value):
            return value
    return short(value, _TEXT_MAX)
