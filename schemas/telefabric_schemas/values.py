"""Values inside events: any Python value to MessagePack and back.

What MessagePack holds exactly travels as that: numpy integers, booleans and floats up to 64 bits become plain numbers,
tuples and sets become arrays, datetimes its timestamp type. What Python's own types have a nearest form for gets that
(`natural`). Two extension types hold the rest:

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
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.msgpack import Ext

from telefabric_schemas.decoding import Decoder
from telefabric_schemas.nearest import natural

if TYPE_CHECKING:
    import numpy as np

EXT_NDARRAY = 1
EXT_BIGINT = 2
DEPTH_MAX = 64
LEFT_MAX = 16
"""Parts of one value that are named when they are left out; further ones are counted."""
WHY_CHARS_MAX = 1_000
PATH_PARTS_MAX = 8
PATH_PART_CHARS_MAX = 100
"""A path is a name for people."""
_WHOLE = frozenset((bool, float, type(None), bytes))
_LEFT_OUT = object()
_DTYPE = re.compile(r"[<>|][biufcmMSUV][0-9]{1,9}(\[[0-9]{0,9}[a-zA-Zμ]{1,7}\])?")
"""The form of `dtype.str`. numpy's own parser accepts much more, and fails on other texts in many ways."""


class ArrayValue(NamedTuple):
    """An array as decoded where numpy is not installed."""

    dtype: Any
    shape: tuple[int, ...]
    data: bytes


class UnencodableError(TypeError):
    """A value has no MessagePack form; the message names its type."""


class Left(NamedTuple):
    """A part of a value that has no form: where it lies (``.key.0``, empty for the whole), and why."""

    path: str
    why: str
    times: int = 1


def encode(value: Any) -> bytes:
    """MessagePack bytes of any value. Any thread. Raises `UnencodableError` when any part of it has no form."""
    try:
        return encode_quickly(value)
    except Exception:  # noqa: BLE001  whatever the caller's own objects raise: the slow way tells it
        encoded, left = usable(value)
    if left:
        path, why, _ = left[0]
        raise UnencodableError(f"{path}: {why}" if path else why)
    return encoded


def usable(value: Any) -> tuple[bytes, list[Left]]:
    """MessagePack bytes of all of a value that has a form, and what was left out.

    A part goes with its key out of a map; in a list nil takes its place, so that the others keep theirs. Any thread.
    """
    walk = _Walk()
    plain = walk.part(value, ())
    return _encoder.encode(None if plain is _LEFT_OUT else plain), walk.told()


def decode(raw: bytes | msgspec.Raw | memoryview) -> Any:
    """The value of MessagePack bytes: arrays as numpy arrays (`ArrayValue` without numpy), the rest as plain Python.

    Any thread. Raises `msgspec.DecodeError`.
    """
    return _decoder.decode(raw)


def enc_hook(value: Any) -> Any:
    """msgspec's hook for what it cannot encode by itself."""
    form = _form(value)
    if form is value:
        raise UnencodableError(f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be encoded")
    return form


def _quick_hook(value: Any) -> Any:
    """Like `enc_hook`, for numpy's arrays and scalars only, so that it runs no code of the caller's."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return _array_ext(value)
        if isinstance(value, numpy.generic):
            return _scalar(value)
    raise UnencodableError(f"a value of type {type(value).__qualname__} takes the slow way")


def _form(value: Any) -> Any:
    """A value as an extension, or as plainer values whose parts are still the caller's; itself when it has no form."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return _array_ext(value)
        if isinstance(value, numpy.generic):
            return _scalar(value)
        if hasattr(value, "__array__"):
            return _array_ext(_as_array(numpy, value))
    array = sys.modules.get("array")
    if array is not None and isinstance(value, array.array):
        return _machine_array_ext(value)
    return _complex_ext(value) if isinstance(value, complex) else natural(value)


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
        for on_the_way in ("detach", "cpu"):  # torch's, from a gradient's graph and from a GPU
            if hasattr(value, on_the_way):
                value = getattr(value, on_the_way)()
        if "bfloat16" in str(getattr(value, "dtype", "")) and hasattr(value, "float"):
            value = value.float()  # torch's, for which numpy has no type
        array = numpy.asarray(value)
    except Exception as error:  # noqa: BLE001  whatever the foreign __array__ raises is the caller's value's fault
        raise UnencodableError(f"{type(value).__qualname__} does not become an array: {error}") from None
    if array.dtype.hasobject and not array.ndim:  # numpy's way of not knowing what it is
        raise UnencodableError(f"a value of type {type(value).__qualname__} cannot be encoded")
    return array  # type: ignore[no-any-return]


def _array_ext(array: np.ndarray[Any, Any]) -> Any:
    dtype = array.dtype
    if dtype.hasobject:
        return array.tolist()
    if type(array).__name__ != "ndarray" and any(base.__name__ == "MaskedArray" for base in type(array).__mro__):
        raise UnencodableError("a masked array cannot be encoded: fill it first with array.filled(value)")
    if dtype.kind == "V" and not dtype.names and dtype.type.__name__ != "void":
        array = array.astype("<f4")  # bfloat16 and the like of ml_dtypes: numpy knows only their size
        dtype = array.dtype
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


def _machine_array_ext(value: Any) -> Ext:
    """The standard library's array as the ndarray that numpy would make of it, without numpy."""
    if value.typecode in "uw":
        return Ext(EXT_NDARRAY, _encoder.encode(["<U1", [len(value)], value.tounicode().encode("utf-32-le")]))
    kind = "f" if value.typecode in "fd" else "i" if value.typecode.islower() else "u"
    order = "|" if value.itemsize == 1 else "<" if sys.byteorder == "little" else ">"
    return Ext(EXT_NDARRAY, _encoder.encode([f"{order}{kind}{value.itemsize}", [len(value)], value.tobytes()]))


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
            raise ValueError(f"{dtype!r} is not a dtype")
        return dtype
    return [
        (tuple(name) if isinstance(name, list) else name, _descr(kind), *(tuple(part) for part in shape))
        for name, kind, *shape in dtype
    ]


class _Walk:
    """The slow way round for what msgspec refuses deep inside: part by part, each of them once.

    Big integers and lone surrogates get their form; what has none is left out and noted with its path.
    """

    def __init__(self) -> None:
        self._left: list[Left] = []
        self._more = 0
        self._above: set[int] = set()
        """Identities of what the part that is looked at lies in: a value that holds itself ends there."""

    def told(self) -> list[Left]:
        if self._more:
            return [*self._left, Left("", f"{self._more} more of its values have no form", self._more)]
        return self._left

    def part(self, value: Any, path: tuple[Any, ...]) -> Any:
        """The plain form of a part, or `_LEFT_OUT`."""
        kind = type(value)
        if kind in _WHOLE:
            return value
        if kind is int:
            return value if _fits(value) else _bigint_ext(value)
        if kind is str:
            return _text(value)
        try:
            return self._opened(value, path)
        except Exception as error:  # noqa: BLE001  whatever the caller's own objects raise
            self._leave(path, error)
            return _LEFT_OUT

    def _opened(self, value: Any, path: tuple[Any, ...]) -> Any:
        if id(value) in self._above or len(path) > DEPTH_MAX:
            raise UnencodableError(f"nested deeper than {DEPTH_MAX}, or a value that holds itself")
        self._above.add(id(value))
        try:
            if isinstance(value, dict):
                return self._map(value, path)
            if isinstance(value, (list, tuple, set, frozenset)):
                return self._list(value, path)
            form = _form(value)
            if form is value or type(form) is Ext:
                return msgspec.Raw(_encoder.encode(form))
            return self.part(form, path)
        finally:
            self._above.discard(id(value))

    def _list(self, value: Any, path: tuple[Any, ...]) -> list[Any]:
        parts = [self.part(item, (*path, index)) for index, item in enumerate(list(value))]
        return [None if part is _LEFT_OUT else part for part in parts]

    def _map(self, value: dict[Any, Any], path: tuple[Any, ...]) -> dict[Any, Any]:
        found = {}
        for key, item in list(value.items()):
            try:
                name = _key(key)
            except Exception as error:  # noqa: BLE001  whatever the caller's own objects raise
                self._leave((*path, f"a {type(key).__name__}"), error)
                continue
            part = self.part(item, (*path, name))
            if part is not _LEFT_OUT:
                found[name] = part
        return found

    def _leave(self, path: tuple[Any, ...], error: Exception) -> None:
        if len(self._left) < LEFT_MAX:
            named = "".join(f".{path_part(each)}" for each in path[:PATH_PARTS_MAX])
            why = said(error) if isinstance(error, UnencodableError) else described(error)
            self._left.append(Left(named + ".…" * (len(path) > PATH_PARTS_MAX), why[:WHY_CHARS_MAX]))
        else:
            self._more += 1


def _key(key: Any) -> Any:
    """A key of a map in a form that is a key again when it is decoded. Raises if it has no such form."""
    kind = type(key)
    if kind in _WHOLE or (kind is int and _fits(key)):
        return key
    if kind is str:
        return _text(key)
    if isinstance(key, (tuple, frozenset)):
        return tuple(map(_key, key))
    form = _form(key)
    if type(form) is Ext or kind is int:
        return str(key)
    if isinstance(form, (list, dict)):
        raise UnencodableError(f"a key of type {kind.__qualname__} cannot be encoded")
    if form is not key:
        return _key(form)
    _encoder.encode(key)  # such as a datetime; raises for what nobody knows
    return key


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def path_part(key: Any) -> str:
    """A plain key or an index as one part of a path: printable, and not long."""
    text = str(key)[:PATH_PART_CHARS_MAX]
    return "".join(each if each.isprintable() else "?" for each in text)


def said(error: BaseException) -> str:
    """An exception's text; the name of its type if the text is empty or its ``__str__`` fails."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001  whatever the caller's own exception raises
        return type(error).__name__


def described(error: BaseException) -> str:
    """An exception's type, and what it says of itself."""
    name, words = type(error).__name__, said(error)
    return name if words == name else f"{name}: {words}"


encode_quickly = msgspec.msgpack.Encoder(enc_hook=_quick_hook).encode
"""MessagePack bytes of a value of plain types and numpy's; raises for any other, and has then converted nothing: each
part of a value is converted once, by `usable`."""
_encoder = msgspec.msgpack.Encoder(enc_hook=enc_hook)
_decoder: Decoder[Any] = Decoder(ext_hook=ext_hook)
_array_decoder: Decoder[tuple[Any, tuple[int, ...], bytes]] = Decoder(tuple[Any, tuple[int, ...], bytes])
