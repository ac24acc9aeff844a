"""What is in a record: TensorFlow's Event, a protobuf, decoded by hand.

Of its messages only the fields that matter here are read (tensorflow/core/util/event.proto and
tensorflow/core/framework/{summary,tensor}.proto). Scalars, numeric tensors, texts and log lines become values; what is
left out (histograms, pictures, sound, graphs) is named.

Each value becomes one event of a stream, and the store knows by their number how far a file was imported: a later
version that took more of a record would continue half-imported files at the wrong place. It has to give its streams
other ids (`telefabric_workers.imports.filestream`).
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

Message = dict[int, list[Any]]
"""The values of each field by its number: integers, or bytes of 4, of 8, or of any length."""

_TIME, _STEP, _GRAPH, _SUMMARY, _LOG, _META_GRAPH = 1, 2, 4, 5, 6, 9
_TAG, _SCALAR, _TENSOR, _METADATA = 1, 2, 8, 9
_LEFT_OUT = {3: "histograms", 4: "images", 5: "histograms", 6: "audio"}
"""Fields of a summary's value that are not imported."""
_PLUGINS_LEFT_OUT = frozenset(("histograms", "images", "audio", "hparams", "custom_scalars"))
_DTYPE, _SHAPE, _CONTENT, _STRINGS = 1, 2, 4, 8
_STRING, _HALF, _BFLOAT = 7, 19, 14
_FORMATS = {
    1: "f", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 9: "q", 10: "?", 17: "H", 19: "e", 22: "I", 23: "Q",
}  # fmt: skip
"""Type of a tensor → the format of an item of its content."""
_LISTS = {5: "f", 6: "d", 7: "", 10: "", 11: "", 13: "", 16: "", 17: ""}
"""Fields that list a tensor's items one by one, and their format; empty for varints."""
_ITEMS_MAX = 1_000_000
"""Items of a tensor: a few bytes may claim any number of equal ones."""
_LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}


class Value(NamedTuple):
    """One value of a record: a number, a text, or the items and the shape of a tensor."""

    tag: str
    step: int
    time_ns: int
    content: float | str | list[Any]
    shape: tuple[int, ...] = ()
    level: str = "info"


class Reader:
    """Values of the records of one file, in order: a tag's first value alone may say which plugin it is for."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._plugins: dict[str, str] = {}

    def values(self, record: bytes) -> list[Value]:
        """The values of a record; none of one that is no Event, which is left out."""
        try:
            return list(self._values(record))
        except (ValueError, TypeError, struct.error):  # TypeError: an integer in the place of a message
            self.left_out["records that cannot be read"] += 1
            return []

    def _values(self, record: bytes) -> Iterator[Value]:
        event = _fields(record)
        step, time_ns = _signed(_last(event, _STEP, 0)), time_of(event)
        if graphs := len([*event.get(_GRAPH, ()), *event.get(_META_GRAPH, ())]):
            self.left_out["graphs"] += graphs
        for line in map(_fields, event.get(_LOG, ())):
            yield Value("", step, time_ns, _text(line, 2), level=_LEVELS.get(_last(line, 1, 20), "info"))
        for summary in map(_fields, event.get(_SUMMARY, ())):
            for value in map(_fields, summary.get(1, ())):
                content = self._content(value)
                if content is not None:
                    yield Value(_text(value, _TAG), step, time_ns, *content)

    def _content(self, value: Message) -> tuple[float | str | list[Any], tuple[int, ...]] | None:
        """The content and its shape; None for what is left out."""
        plugin = self._plugin(value)
        left_out = next((name for field, name in _LEFT_OUT.items() if field in value), None)
        if left_out or plugin in _PLUGINS_LEFT_OUT:
            self.left_out[left_out or plugin] += 1
            return None
        if _SCALAR in value:
            return struct.unpack("<f", value[_SCALAR][-1])[0], ()
        if _TENSOR not in value:
            self.left_out["empty values"] += 1
            return None
        tensor = _fields(value[_TENSOR][-1])
        if _last(tensor, _DTYPE, 0) == _STRING:
            return "\n".join(text.decode("utf-8", "replace") for text in tensor.get(_STRINGS, ())), ()
        shape = tuple(
            _signed(_last(_fields(each), 1, 0)) for dims in tensor.get(_SHAPE, ()) for each in _fields(dims).get(2, ())
        )
        items = _items(tensor, math.prod(shape))
        if items is None:
            self.left_out[f"tensors of type {_last(tensor, _DTYPE, 0)}"] += 1
            return None
        return (float(items[0]), ()) if len(items) == 1 else (items, shape)

    def _plugin(self, value: Message) -> str:
        tag = _text(value, _TAG)
        for metadata in map(_fields, value.get(_METADATA, ())):
            for data in map(_fields, metadata.get(1, ())):
                self._plugins[tag] = _text(data, 1)
        return self._plugins.get(tag, "")


def time_of(event: Message | bytes) -> int:
    """The wall time of an event in nanoseconds, without what a double does not resolve."""
    fields = _fields(event) if isinstance(event, bytes) else event
    seconds = struct.unpack("<d", fields[_TIME][-1])[0] if _TIME in fields else 0.0
    return round(seconds * 1e6) * 1_000 if 0 <= seconds < 9e9 else 0


def _items(tensor: Message, count: int) -> list[Any] | None:
    """The numbers of a tensor; None for a type that is not known here, or too many of them."""
    dtype = _last(tensor, _DTYPE, 0)
    if (dtype not in _FORMATS and dtype != _BFLOAT) or not 0 <= count <= _ITEMS_MAX:
        return None
    if content := _last(tensor, _CONTENT, b""):
        if dtype == _BFLOAT:  # the upper half of a float
            return [_bfloat(item) for (item,) in struct.iter_unpack("<H", content)]
        return [item for (item,) in struct.iter_unpack("<" + _FORMATS[dtype], content)]
    items = [item for field, form in _LISTS.items() for part in tensor.get(field, ()) for item in _listed(part, form)]
    if dtype in (_HALF, _BFLOAT):
        items = [_half(item) if dtype == _HALF else _bfloat(item) for item in items]
    return items + (items[-1:] or [0.0]) * (count - len(items))  # the last one stands for all that follow


def _listed(part: Any, form: str) -> list[Any]:
    """The items of one part of a repeated field, which is packed or a single item."""
    if isinstance(part, int):
        return [_signed(part)]
    if form:
        return [item for (item,) in struct.iter_unpack("<" + form, part)]
    found, at = [], 0
    while at < len(part):
        item, at = _varint(part, at)
        found.append(_signed(item))
    return found


def _half(bits: int) -> float:
    return float(struct.unpack("<e", struct.pack("<H", bits))[0])


def _bfloat(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])


# -- protobuf ----------------------------------------------------------------------------------------------------
def _fields(data: bytes) -> Message:
    """The fields of a message. Raises `ValueError`."""
    found: Message = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire)
            if wire == 2:
                size, at = _varint(data, at)
            if size is None or at + size > len(data):
                raise ValueError(f"field {field} of a record is no protobuf")
            value, at = data[at : at + size], at + size
        found.setdefault(field, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("an integer of a record has no end")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _last(message: Message, field: int, otherwise: Any) -> Any:
    """A single field: the last one counts."""
    return message[field][-1] if field in message else otherwise


def _text(message: Message, field: int) -> str:
    return bytes(_last(message, field, b"")).decode("utf-8", "replace")
