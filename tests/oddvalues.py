"""Values that a caller may hand over and nobody expects: harmless to keep, harmful to compare, to sort or to show.

`ODD` is a fixed list of them by name, `odd_values()` a hypothesis strategy of many more. All can be encoded, so a
store keeps them and every reader meets them. `FOREIGN` is MessagePack that Python's own values never become, but
another language's may. Parametrise with ``@pytest.mark.parametrize("value", **by_name(ODD))``.
"""

from __future__ import annotations

import collections
import datetime
import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from msgspec.msgpack import Ext

_UTC = datetime.UTC
_EARTH_DAY = datetime.timedelta(days=1)


def _nested(depth: int, as_map: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"in": value} if as_map else [value]
    return value


_STRUCTURED = np.zeros(3, [("pose", "<f8", (2,)), ("name", "<U4"), ("ok", "?")])

ODD: dict[str, Any] = {
    # Arrays: `==` gives an array, the truth of most is an error, the length of some, too.
    "array of four zeros": np.zeros(4),
    "array of a grid": np.zeros((3, 3)),
    "array of nothing": np.zeros(0),
    "array of no rows": np.zeros((0, 5), np.float32),
    "array of no columns": np.zeros((5, 0), np.uint8),
    "array of no dimensions": np.array(1.5),
    "array of one": np.array([1.5]),
    "array of one in one": np.array([[True]]),
    "array of not-a-numbers": np.array([math.nan, math.inf, -math.inf]),
    "array of booleans": np.array([True, False]),
    "array of halves": np.arange(4, dtype=np.float16),
    "array of long doubles": np.zeros(2, np.longdouble),
    "array of complex numbers": np.array([1 + 2j, complex(math.nan, math.inf)]),
    "array in big-endian order": np.arange(3, dtype=">i4"),
    "array of the largest integers": np.array([2**64 - 1], np.uint64),
    "array of texts": np.array(["left", "right", ""]),
    "array of the letters of a map": np.array([[b"S", b"F"], [b"H", b"G"]]),
    "array of bytes": np.array([b"a\0b", b""]),
    "array of dates": np.array(["2026-01-01", "NaT"], "datetime64[D]"),
    "array of times": np.array(["2026-01-01T00:00:00.1"], "datetime64[ns]"),
    "array of durations": np.array([5, -5], "timedelta64[us]"),
    "array of opaque data": np.zeros(2, "V5"),
    "array of structures": _STRUCTURED,
    "array of one structure": _STRUCTURED[0],
    "array of no structures": _STRUCTURED[:0],
    "array of mixed objects": np.array([1, "two", None, 2**80], object),
    "array of 20 dimensions": np.zeros((1,) * 20),
    "array in the order of columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "array of a picture": np.zeros((40, 30, 3), np.uint8),
    "arrays in a list": [np.zeros(2), np.zeros((2, 2))],
    "array in a map": {"grid": np.zeros((3, 3)), "desc": np.array([[b"S"], [b"G"]])},
    # Numbers
    "not a number": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "almost infinity": 1.7e308,
    "almost minus infinity": -1.7e308,
    "minus zero": -0.0,
    "the smallest number": 5e-324,
    "largest of 64 bits": 2**64 - 1,
    "just over 64 bits": 2**64,
    "just under minus 63 bits": -(2**63) - 1,
    "integer of 400 digits": 10**400,
    "integer of 6,000 digits": -(10**6_000),
    "complex number": complex(1, math.nan),
    "numpy's not a number": np.float32("nan"),
    "numpy's not a time": np.datetime64("NaT"),
    "not-a-number in a map": {"loss": math.nan, "lr": math.inf},
    # Nothing, and its kin
    "nothing": None,
    "false": False,
    "zero": 0,
    "empty text": "",
    "empty bytes": b"",
    "empty list": [],
    "empty map": {},
    "empty everything": {"": [[], {}, "", b"", np.zeros(0), None, ((),)]},
    # Maps: keys that are no text do not sort beside those that are
    "keys of all kinds": {1: "int", "1": "text", None: "nil", 1.5: "float", b"1": "bytes", False: "no"},
    "keys that are not numbers": {math.nan: 1, math.inf: 2, -0.0: 3},
    "keys that are huge": {2**64 - 1: 1, -(2**63): 2},
    "keys that are dates": {datetime.datetime(2026, 1, 1, tzinfo=_UTC): 1},
    "key of 10 kB": {"k" * 10_000: 1},
    "keys by the thousand": {f"key {n}": n for n in range(2_000)},
    "keys as of an event": {"kind": "step", "seq": -1, "id": None, "run_id": [], "reward": np.zeros(3)},
    "keys of a hint": {"grid": np.zeros((3, 3)), "bars": np.zeros(2), "text": math.nan, "dots": {}},
    "keys of metadata": {"game_id": np.zeros(2), "obs_mean": np.zeros(4), "seed": {}, "algorithm": 10**30},
    "ordered map": collections.OrderedDict([("b", 1), ("a", [])]),
    # Depth and length
    "maps in maps": _nested(60, as_map=True),
    "lists in lists": _nested(60, as_map=False),
    "list of a thousand": list(range(1_000)),
    "list of many kinds": [1, "a", None, 2.5, b"b", {}, [], np.zeros(2), math.nan],
    "text of 10 kB": "n" * 10_000,
    "lines of text": "first\nsecond\r\nthird\x85\u2028fourth",
    # Texts that a terminal, a window or a file reads in another way
    "escape sequences": "\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b[2J",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "text from right to left": "\u202eabc\u202c \u05d0\u05d1",
    "text of joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0645\u06cc\u200c\u062e\u0648\u0627",
    "markup": "[bold]<b>&amp;</b>[/bold] %s {0} :smile: ${HOME}",
    "lone surrogate": "\ud800",
    "zero byte": "before\0after",
    # Other types of MessagePack
    "bytes that are no text": bytes(range(256)),
    "unknown extension": Ext(42, b"who knows"),
    "unknown extension of nothing": Ext(-7, b""),
    "array that is none": Ext(1, b"\xc1"),
    "array with the wrong length": Ext(1, msgpack.packb(["<f8", [1_000_000], b"12345678"])),
    "big integer of nothing": Ext(2, b""),
    "date": datetime.datetime(2026, 1, 1, tzinfo=_UTC),
    "date without a zone": datetime.datetime(2026, 1, 1, 12, 30),
    "first date": datetime.datetime.min.replace(tzinfo=_UTC) + _EARTH_DAY,
    "last date": datetime.datetime.max.replace(tzinfo=_UTC) - _EARTH_DAY,
    "set": {3, 1, 2},
    "tuple of tuples": ((), ((),)),
}

_ARRAY: bytes = msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f8", [1], b"12345678"])))
FOREIGN: dict[str, bytes] = {
    "key that is a list": b"\x81\x91\x01\x02",
    "key that is a map": b"\x81\x81\x01\x02\x03",
    "key that is an array": b"\x81"
    + msgpack.packb(msgpack.ExtType(1, msgpack.packb(["<f8", [1], b"12345678"])))
    + b"\x01",
    "key given twice": b"\x82\xa1a\x01\xa1a\x02",
    "text that is not UTF-8": b"\xa3\xff\xfe\xfd",
    "key that is not UTF-8": b"\x81\xa2\xff\xfe\x01",
    "date beyond Python's": b"\xc7\x0c\xff" + b"\0" * 4 + b"\x7f" + b"\xff" * 7,
    "float of 32 bits": b"\xca\x7f\x7f\xff\xff",
    "longer than it need be": b"\xdf\x00\x00\x00\x01\xdb\x00\x00\x00\x01a\xd3\x00\x00\x00\x00\x00\x00\x00\x01",
    "deeper than Python goes": b"\x91" * 5_000 + b"\xc0",
}
"""One MessagePack value each, as WIRE.md allows it in a payload; Python cannot read all of them."""


def by_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `pytest.mark.parametrize` for one of the lists above."""
    return {"argvalues": list(values.values()), "ids": list(values)}


_SCALARS = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(endianness="?"),
    npst.datetime64_dtypes(endianness="?"),
    npst.timedelta64_dtypes(endianness="?"),
    npst.byte_string_dtypes(endianness="?"),
    npst.unicode_string_dtypes(endianness="?"),
)
_DTYPES = _SCALARS | npst.array_dtypes(_SCALARS, max_size=3)
_SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
_KEYS = (
    st.text(max_size=5)
    | st.integers(-(2**63), 2**64 - 1)
    | st.booleans()
    | st.none()
    | st.floats()
    | st.binary(max_size=3)
    | st.sampled_from(["kind", "seq", "run_id", "grid", "game_id", "k" * 10_000])
)


def odd_arrays() -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Arrays of every dtype and shape, also structured and empty ones."""
    return npst.arrays(_DTYPES, _SHAPES)


def odd_values() -> st.SearchStrategy[Any]:
    """Any value that `telefabric_schemas.values.encode` takes, and the odder the likelier."""
    leaves = (
        st.sampled_from(list(ODD)).map(lambda name: ODD[name])  # by name: not all have a repr
        | odd_arrays()
        | st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.binary(max_size=20)
        | st.builds(Ext, st.integers(3, 127) | st.integers(-128, -2), st.binary(max_size=9))
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
        max_leaves=8,
    )
