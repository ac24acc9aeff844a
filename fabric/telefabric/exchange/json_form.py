"""Stored events as strict JSON lines, which every JSON reader takes.

What JSON has no form for gets one:

================================ =======================================================================
NaN and the infinities           the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, as in Protocol Buffers
array                            ``{"dtype", "shape", "data"}``: nested lists; complex numbers are pairs
array of records or bytes        the same, ``data`` as bytes
bytes                            ``{"base64"}``
integer beyond 64-bit floats     a text of its digits
timestamp                        ISO 8601
somebody else's extension type   ``{"ext", "base64"}``
key that is not a text           a text; where two keys become the same, ``{"map": [[key, value], …]}``
what cannot be decoded           ``{"unreadable", "base64"}``
================================ =======================================================================
"""

from __future__ import annotations

import json
import math
import struct
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec.msgpack import Ext
from msgspec.structs import fields

from telefabric.store.read.query import StoredEvent
from telefabric.store.read.reader import QUARANTINE
from telefabric_schemas import TOPICS, events, values
from telefabric_schemas.decoding import Decoder

NO_JSON = (msgspec.DecodeError, TypeError, ValueError, RecursionError)
T = TypeVar("T")
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_FLOAT_BITS_MAX = 1_023
_FIELDS = {
    kind: {
        field.encode_name: None if field.default in (msgspec.NODEFAULT, events.NIL) else field.default
        for field in fields(topic.event_type)
        if field.encode_name != "seq"
    }
    for kind, topic in TOPICS.items()
}
"""Kind → its fields after `seq`, in order, with the defaults of those that an older writer omits."""
_CODES = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d", "M8": "q", "m8": "q",
}  # fmt: skip
"""numpy's type codes as `struct` writes them."""
_PARTS = {"c8": "f", "c16": "d"}
_array_decoder: Decoder[tuple[Any, tuple[int, ...], bytes]] = Decoder(tuple[Any, tuple[int, ...], bytes])


def json_line(stored: StoredEvent, encode: Callable[[Any], str] | None = None) -> bytes:
    """One event as a line of JSON. Never fails: a value that has no JSON form is written as bytes."""
    return formed(stored, encode or encode_json).encode() + b"\n"


def formed(stored: StoredEvent, form: Callable[[dict[str, Any]], T]) -> T:
    """What `form` makes of the event's ids and fields; when that raises one of `NO_JSON`, of those that have a form."""
    row = {
        "kind": stored.kind, "run_id": stored.run_id, "worker_id": stored.worker_id,
        "stream_id": stored.stream_id.hex(), "seq": stored.seq,
    }  # fmt: skip
    if stored.id:
        row = {"id": stored.id, **row}
    try:
        return form(row | _own_fields(stored) | row)  # where both have a field, the store's value counts
    except NO_JSON:
        return form(row | _careful_fields(stored) | row)


def raw_line(stored: StoredEvent) -> bytes:
    """The event's MessagePack array as JSON; bytes that are not MessagePack become {"base64"}."""
    try:
        text = encode_json(decode_values(stored.event))
    except NO_JSON:
        text = encode_json(careful(msgspec.Raw(stored.event)))
    return text.encode() + b"\n"


def _own_fields(stored: StoredEvent) -> dict[str, Any]:
    """Of a gap and a quarantine the store's columns, else the event's fields. Raises the errors of decoding them."""
    if stored.kind in _FIELDS and stored.kind != "gap":
        return _named(stored.kind, decode_values(stored.event)[2:])
    found = {"last_seq": stored.last_seq, "reason": stored.reason, "time_ns": stored.time_ns}
    return found | ({"detail": stored.detail, "event": stored.event} if stored.kind == QUARANTINE else {})


def _careful_fields(stored: StoredEvent) -> dict[str, Any]:
    """The event's fields, value by value: one without a JSON form stays as bytes, and the others are decoded."""
    try:
        items = _items.decode(stored.event)[2:]
    except msgspec.DecodeError as error:
        return _unreadable(stored.event, error)
    return _named(stored.kind, [careful(item) for item in items])


def _named(kind: str, items: list[Any]) -> dict[str, Any]:
    names = _FIELDS[kind]
    defaults = names if len(items) < len(names) else {}
    newer = {"unknown_fields": items[len(names) :]} if len(items) > len(names) else {}
    return defaults | dict(zip(names, items, strict=False)) | newer


def careful(raw: msgspec.Raw) -> Any:
    """A value in a form that JSON certainly has."""
    try:
        value = string_keys(decode_values(raw))
        encode_json(value)
    except NO_JSON as error:
        return _unreadable(raw, error)
    return value


def _unreadable(raw: bytes | msgspec.Raw, error: Exception) -> dict[str, Any]:
    return {"unreadable": str(error), "base64": b64encode(raw).decode()}


def string_keys(value: Any) -> Any:
    if isinstance(value, dict):
        found = {_key(key): string_keys(item) for key, item in value.items()}
        if len(found) < len(value):  # two keys have the same text
            return {"map": [[string_keys(each) for each in pair] for pair in value.items()]}
        return found
    if isinstance(value, list):
        return [string_keys(item) for item in value]
    return value


def _key(key: Any) -> Any:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (int, float)):
        return encode_json(key)
    return b64encode(key).decode() if isinstance(key, bytes) else str(key)


def json_default(value: Any) -> Any:
    """The JSON form of values that the json module does not know."""
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Ext):
        return {"ext": value.code, "base64": b64encode(value.data).decode()}
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")


def _ext_hook(code: int, data: memoryview) -> Any:
    if code == values.EXT_BIGINT:
        whole = int.from_bytes(data, "big", signed=True)
        return whole if whole.bit_length() <= _FLOAT_BITS_MAX else str(whole)
    if code == values.EXT_NDARRAY:
        with suppress(msgspec.DecodeError, ValueError, struct.error):
            return _array(*_array_decoder.decode(data))
    return Ext(code, bytes(data))


def _array(dtype: Any, shape: tuple[int, ...], data: bytes) -> dict[str, Any]:
    """An array as nested lists, without numpy. Types that `struct` lacks keep their bytes; complex numbers are pairs.

    Raises `ValueError` when data and shape do not fit each other.
    """
    described = {"dtype": dtype, "shape": shape}
    letters = dtype[1:].partition("[")[0] if isinstance(dtype, str) else ""
    code = _CODES.get(letters) or _PARTS.get(letters)
    characters = int(letters[1:]) if letters[:1] == "U" else 0
    if code is None and not characters:
        return {**described, "data": data}
    dimensions = (*shape, 2) if letters in _PARTS else shape
    count = math.prod(dimensions)
    size = 4 * characters or struct.calcsize("<" + str(code))
    if any(side < 0 for side in dimensions) or count * size != len(data):
        raise ValueError(f"{len(data)} bytes are no {dtype} of shape {shape}")
    big = dtype[0] == ">"
    flat: Any
    if characters:
        texts = (data[at : at + size] for at in range(0, len(data), size))
        flat = [text.decode("utf-32-be" if big else "utf-32-le").rstrip("\0") for text in texts]
    else:
        flat = list(struct.unpack(f"{'>' if big else '<'}{count}{code}", data))
    if not flat:
        return {**described, "data": []}
    for side in reversed(dimensions[1:]):
        flat = [flat[at : at + side] for at in range(0, len(flat), side)]
    return {**described, "data": flat if dimensions else flat[0]}


decode_values = Decoder[Any](ext_hook=_ext_hook).decode
"""Values of plain types, arrays as the lists that JSON shows."""
_items: Decoder[list[msgspec.Raw]] = Decoder(list[msgspec.Raw])

_compact = partial(json.JSONEncoder, check_circular=False, separators=(",", ":"), default=json_default)
_strict = _compact(allow_nan=False).encode
"""ASCII, so that every reader sees one line: some programs take U+2028 for the end of a line."""
literal_json = _compact().encode
"""As Python writes it: NaN, Infinity and -Infinity are bare words, which is not JSON."""


def encode_json(value: Any) -> str:
    """Strict JSON of plain values. Raises one of `NO_JSON`."""
    try:
        return _strict(value)
    except ValueError:
        return _strict(_finite(value))


def _finite(value: Any) -> Any:
    """The value with texts where it has floats that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOT_FINITE[str(value)]
    if isinstance(value, dict):
        return {_finite(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
