"""Values inside events: any Python value to MessagePack and back.

What MessagePack holds exactly travels as that: numpy integers, booleans and floats up to 64 bits become plain numbers,
tuples and sets become arrays, datetimes its timestamp type. Two extension types hold the rest:

==== ========== ==========================================================================
code name       body
==== ========== ==========================================================================
1    ndarray    MessagePack array [dtype, shape, data]: dtype is numpy's ``dtype.str``, or its
                ``descr`` (nested arrays) for a structured one; data is in C order
2    big integer two's complement, big-endian, as many bytes as it takes
==== ========== ==========================================================================

numpy is imported only when a value already is an array or when a stored array is decoded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.msgpack import Ext

if TYPE_CHECKING:
    import numpy as np

EXT_NDARRAY = 1
EXT_BIGINT = 2
DEPTH_MAX = 64
_PLAIN_TYPES: tuple[type[Any], ...] = (float, str, bytes, list, tuple, set, frozenset)
"""What subclasses of these become."""
_DTYPE = re.compile(r"[<>|][biufcmMSUV][0-9]{1,9}(\[[0-9]{0,9}[a-zA-Zμ]{1,7}\])?")
"""What `dtype.str` gives. numpy's own parser takes much more, and fails in many ways on what it does not like."""


class ArrayValue(NamedTuple):
    """An array as decoded where numpy is not installed."""

    dtype: Any
    shape: tuple[int, ...]
    data: bytes


class UnencodableError(TypeError):
    """A value has no MessagePack form; the message names its type."""


def encode(value: Any) -> bytes:
    """MessagePack bytes of any value. Any thread. Raises `UnencodableError`."""
    try:
        return _encoder.encode(value)
    except (TypeError, OverflowError, ValueError, RecursionError):
        return _encoder.encode(_plain(value, 0))


def decode(raw: bytes | msgspec.Raw | memoryview) -> Any:
    """The value of MessagePack bytes: arrays as numpy arrays (`ArrayValue` without numpy), the rest as plain Python.

    Any thread. Raises `msgspec.DecodeError`.
    """
    try:
        return _decoder.decode(raw)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"not a readable value: {error}") from None


def enc_hook(value: Any) -> Any:
    """msgspec's hook for what it cannot encode by itself."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return _array_ext(value)
        if isinstance(value, numpy.generic):
            return _scalar(value)
        if hasattr(value, "__array__"):
            return _array_ext(_as_array(numpy, value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, complex):
        return _complex_ext(value)
    if isinstance(value, int):
        return int(value) if _fits(value) else _bigint_ext(value)
    for plain in _PLAIN_TYPES:
        if isinstance(value, plain):
            return plain(value)
    raise UnencodableError(f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be encoded")


def ext_hook(code: int, data: memoryview) -> Any:
    """msgspec's hook for extension types; unknown ones stay `msgspec.msgpack.Ext`."""
    if code == EXT_NDARRAY:
        try:
            return _array_from(data)
        except Exception:  # noqa: BLE001  whatever numpy makes of a stranger's bytes: not an array, keep them
            return Ext(code, bytes(data))
    if code == EXT_BIGINT:
        return int.from_bytes(data, "big", signed=True)
    return Ext(code, bytes(data))


def _as_array(numpy: Any, value: Any) -> np.ndarray[Any, Any]:
    """Arrays of other libraries (torch, jax, …) on the host."""
    try:
        array = numpy.asarray(value)
    except Exception as error:  # noqa: BLE001  whatever the foreign __array__ raises is the caller's value's fault
        raise UnencodableError(f"{type(value).__qualname__} does not become an array: {error}") from None
    if array.dtype.hasobject:
        raise UnencodableError(f"a value of type {type(value).__qualname__} cannot be encoded")
    return array  # type: ignore[no-any-return]


def _array_ext(array: np.ndarray[Any, Any]) -> Any:
    dtype = array.dtype
    if dtype.hasobject:
        return array.tolist()
    if any(base.__name__ == "MaskedArray" for base in type(array).__mro__):
        raise UnencodableError("a masked array cannot be encoded: fill it first with array.filled(value)")
    described = dtype.descr if dtype.names else dtype.str
    body = [described, array.shape, array.tobytes()]
    return Ext(EXT_NDARRAY, _encoder.encode(body))


def _scalar(value: Any) -> Any:
    """A numpy scalar as the plain value that equals it, else as an array of no dimensions."""
    if value.dtype.kind in "biuSU" or (value.dtype.kind == "f" and value.dtype.itemsize <= 8):
        plain = value.item()
        return plain if not isinstance(plain, int) or _fits(plain) else _bigint_ext(plain)
    if value.dtype.hasobject:
        raise UnencodableError(f"a value of type {type(value).__qualname__} cannot be encoded")
    return _array_ext(value[...] if hasattr(value, "__getitem__") and value.dtype.names is None else _zero_d(value))


def _zero_d(value: Any) -> np.ndarray[Any, Any]:
    import numpy

    return numpy.asarray(value)


def _complex_ext(value: complex) -> Ext:
    """Python's complex as the array of no dimensions that numpy would make of it, without numpy."""
    import struct

    body = ["<c16", [], struct.pack("<dd", value.real, value.imag)]
    return Ext(EXT_NDARRAY, _encoder.encode(body))


def _bigint_ext(value: int) -> Ext:
    return Ext(EXT_BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _fits(value: int) -> bool:
    return -(2**63) <= value < 2**64


def _array_from(data: memoryview) -> Any:
    dtype, shape, body = _array_decoder.decode(data)
    try:
        import numpy
    except ImportError:
        return ArrayValue(dtype, shape, body)
    from numpy.lib.format import descr_to_dtype

    described = descr_to_dtype(_descr(dtype))
    if min(shape, default=0) < 0 or (body and described.itemsize == 0):
        raise ValueError("not an array's shape and data")
    if described.itemsize == 0:
        return numpy.ndarray(shape, described, b"")
    return numpy.frombuffer(bytearray(body), described).reshape(shape)  # a bytearray, so that it may be written to


def _descr(dtype: Any) -> Any:
    """A dtype as numpy describes it: tuples where MessagePack has arrays."""
    if isinstance(dtype, str):
        if not _DTYPE.fullmatch(dtype):
            raise ValueError(f"{dtype!r} is no dtype")
        return dtype
    return [
        (tuple(name) if isinstance(name, list) else name, _descr(kind), *(tuple(part) for part in shape))
        for name, kind, *shape in dtype
    ]


def _plain(value: Any, depth: int) -> Any:
    """The slow way round for what msgspec refuses deep inside: big integers, lone surrogates, cycles."""
    if depth > DEPTH_MAX:
        raise UnencodableError(f"nested deeper than {DEPTH_MAX}, or a value that holds itself")
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if _fits(value) else _bigint_ext(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item, depth + 1) for item in value)
    if isinstance(value, (list, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    if getattr(getattr(value, "dtype", None), "hasobject", False) and hasattr(value, "tolist"):
        return _plain(value.tolist(), depth + 1)
    try:
        _encoder.encode(value)
    except (OverflowError, RecursionError, ValueError) as error:
        raise UnencodableError(f"a value of type {type(value).__qualname__} cannot be encoded: {error}") from None
    return value


_encoder = msgspec.msgpack.Encoder(enc_hook=enc_hook)
_decoder = msgspec.msgpack.Decoder(ext_hook=ext_hook)
_array_decoder: msgspec.msgpack.Decoder[tuple[Any, tuple[int, ...], bytes]] = msgspec.msgpack.Decoder(
    tuple[Any, tuple[int, ...], bytes]
)
