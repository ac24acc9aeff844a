"""Any value that a caller may hand over: to MessagePack and back, and what strangers' bytes do."""

import argparse
import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import pathlib
import subprocess
import sys
import time
import types
import uuid

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from oddvalues import ODD, by_name, odd_values

from telefabric_schemas.values import (
    DEPTH_MAX,
    EXT_BIGINT,
    EXT_NDARRAY,
    LEFT_MAX,
    UnencodableError,
    decode,
    encode,
    usable,
)

SCALAR_DTYPES = st.one_of(
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
DTYPES = SCALAR_DTYPES | npst.array_dtypes(SCALAR_DTYPES, max_size=4) | npst.nested_dtypes(SCALAR_DTYPES, max_leaves=5)
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
DTYPES_WITHOUT_SUBARRAY = DTYPES.filter(lambda dtype: dtype.subdtype is None)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=20)
    | st.sampled_from([math.inf, -math.inf, -0.0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def assert_same_array(found, array):
    assert isinstance(found, np.ndarray)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


# -- plain values ------------------------------------------------------------------------------------------------


@given(PLAIN)
@example([2**64, -(2**63) - 1, 2**63, -(2**63), 2**64 - 1, 10**100])
@example({"deep": [{"big": 2**100}, "text"]})
def test_plain_values_come_back_equal(value):
    assert decode(encode(value)) == value


@given(st.tuples(st.integers(), st.text()) | st.frozensets(st.integers(-9, 9)) | st.sets(st.integers(-9, 9)))
def test_tuples_and_sets_become_arrays(value):
    assert decode(encode(value)) == list(value)


def test_not_a_number_and_the_infinities_stay_what_they_are():
    nan, infinity, minus = decode(encode([math.nan, math.inf, -math.inf]))
    assert math.isnan(nan)
    assert (infinity, minus) == (math.inf, -math.inf)


@given(st.text(st.characters(categories=["Cs", "Lu"]), min_size=1))
def test_lone_surrogates_are_escaped_not_lost(text):
    assert decode(encode(text)) == text.encode("utf-8", "backslashreplace").decode()
    assert decode(encode({text: [text, 2**70]})) == {decode(encode(text)): [decode(encode(text)), 2**70]}


def test_subclasses_become_what_they_extend():
    class Count(int):
        pass

    class Name(str):
        pass

    class Colour(enum.IntEnum):
        RED = 3

    Point = collections.namedtuple("Point", "x y")
    ordered = collections.OrderedDict(a=1)
    value = [Count(5), Count(2**70), Name("n"), Colour.RED, Point(1, 2), ordered, collections.defaultdict(int, b=2)]
    assert decode(encode(value)) == [5, 2**70, "n", 3, [1, 2], {"a": 1}, {"b": 2}]


def test_an_aware_datetime_becomes_a_timestamp():
    moment = datetime.datetime(2024, 2, 29, 12, 30, 1, 500, tzinfo=datetime.UTC)
    assert decode(encode(moment)) == moment
    assert msgpack.unpackb(encode(moment), timestamp=3) == moment


@pytest.mark.parametrize("value", [object(), print, type, iter([1]), {"deep": [object()]}, np.int8])
def test_what_has_no_form_is_refused_by_its_type_s_name(value):
    with pytest.raises(UnencodableError, match="cannot be encoded"):
        encode(value)


@dataclasses.dataclass(slots=True)
class Settings:
    rate: float
    layers: object


class Shape(enum.Enum):
    ROUND = "round"
    WIDE = (2, 1)


NATURAL = {
    "deque": (collections.deque([1, 2]), [1, 2]),
    "range": (range(2, 8, 3), [2, 5]),
    "fraction": (fractions.Fraction(1, 3), "1/3"),
    "decimal": (decimal.Decimal("1.50"), "1.50"),
    "path": (pathlib.Path("/data/run"), "/data/run"),
    "path of bytes that are no text": (pathlib.Path("/data/\udcff"), "/data/\\udcff"),
    "arguments": (argparse.Namespace(lr=0.1, env=None), {"lr": 0.1, "env": None}),
    "namespace": (types.SimpleNamespace(a=[1]), {"a": [1]}),
    "dataclass": (Settings(0.5, Settings(1.0, (2,))), {"rate": 0.5, "layers": {"rate": 1.0, "layers": [2]}}),
    "enum": (Shape.ROUND, "round"),
    "enum of tuples": (Shape.WIDE, [2, 1]),
    "flags": (enum.IntFlag("Flags", "A B C")(5), 5),
    "read-only map": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "keys": ({"a": 1}.keys(), ["a"]),
    "values": ({"a": 1}.values(), [1]),
    "text of a user's type": (collections.UserString("text"), "text"),
    "list of a user's type": (collections.UserList([1, 2]), [1, 2]),
    "bytearray": (bytearray(b"ab"), b"ab"),
    "memory that is not contiguous": (memoryview(b"abcd")[::2], b"ac"),
    "error": (ValueError("why"), "ValueError: why"),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "time": (datetime.time(3, 4), "03:04:00"),
    "duration": (datetime.timedelta(seconds=90), "PT90S"),
    "uuid": (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    "key that is a path": ({pathlib.Path("a"): 1}, {"a": 1}),
    "key that is huge": ({2**70: 1}, {str(2**70): 1}),
}


@pytest.mark.parametrize(("value", "form"), NATURAL.values(), ids=NATURAL)
def test_python_s_own_types_have_a_natural_form_also_beside_what_has_none(value, form):
    assert decode(encode(value)) == form
    encoded, left = usable({"good": value, "bad": object()})
    assert decode(encoded) == {"good": form}
    assert [path for path, _, _ in left] == [".bad"]


def test_a_subclass_of_datetime_is_one_and_without_a_zone_its_text():
    class Timestamp(datetime.datetime):  # as pandas' is
        pass

    moment = Timestamp(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    assert decode(encode(moment)) == datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    assert decode(encode(moment.replace(tzinfo=None))) == "2026-01-02T03:04:05.000006"


@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_an_array_of_the_standard_library_is_numpy_s(code):
    assert_same_array(decode(encode(array.array(code, [1, 2]))), np.array([1, 2], code))


# -- parts that have no form -------------------------------------------------------------------------------------


def test_only_the_part_that_has_no_form_goes():
    class Raises:
        def __array__(self, dtype=None, copy=None):
            raise SystemError("no")

    class NoKey:
        pass

    point = collections.namedtuple("Point", "x y")
    value = {
        "good": 1,
        "bad": object(),
        "list": [1, print, {"in": {Raises(), 2}}],
        "point": point(1, iter([])),
        "made": Settings(0.5, [object()]),
        NoKey(): 5,
        (1, "two"): object(),
        "objects": np.array([1, object()], object),
    }
    encoded, left = usable(value)
    found = decode(encoded)
    found["list"][2]["in"].sort(key=str)
    assert found == {
        "good": 1,
        "list": [1, None, {"in": [2, None]}],
        "point": [1, None],
        "made": {"rate": 0.5, "layers": [None]},
        "objects": [1, None],
    }
    paths = {path.replace(".in.1", ".in.0") for path, _, _ in left}
    assert paths == {
        ".bad", ".list.1", ".list.2.in.0", ".point.1", ".made.layers.0", ".a NoKey", ".(1, 'two')", ".objects.1",
    }  # fmt: skip
    with pytest.raises(UnencodableError, match=r"^\.bad: "):
        encode(value)


def test_what_holds_itself_goes_where_it_closes_however_often_it_does():
    tree = {"leaf": 1}
    tree.update(left=tree, right=[tree, 2])
    encoded, left = usable(tree)
    assert decode(encoded) == {"leaf": 1, "right": [None, 2]}
    assert [path for path, _, _ in left] == [".left", ".right.0"]


def test_the_parts_named_are_few_and_all_are_counted():
    encoded, left = usable({"n" * 500 + "\n": [object()] * 1_000})
    assert decode(encoded) == {"n" * 500 + "\n": [None] * 1_000}
    assert sum(one.times for one in left) == 1_000
    assert len(left) == LEFT_MAX + 1
    assert max(len(one.path) for one in left) < 120


def test_a_bad_part_costs_time_by_the_size_of_the_value():
    def seconds(size):
        value = [[{"deep": list(range(size))}] for _ in range(10)] + [object()]
        start = time.thread_time()  # others run, too
        usable(value)
        return time.thread_time() - start

    small = min(seconds(1_000) for _ in range(5))
    assert min(seconds(10_000) for _ in range(3)) < 40 * small


@pytest.mark.parametrize("value", **by_name(ODD))
def test_odd_values_are_stored_alone_and_beside_what_has_no_form(value):
    alone = encode(value)
    decode(alone)
    encoded, left = usable([value, object()])
    assert [path for path, _, _ in left] == [".1"]
    assert msgspec.msgpack.encode([msgspec.Raw(alone), None]) == encoded


@given(odd_values())
@settings(deadline=None)
def test_odd_values_of_all_kinds_are_the_same_alone_and_beside_what_has_no_form(value):
    alone = encode(value)
    decode(alone)
    encoded, _ = usable([value, object()])
    assert msgspec.msgpack.encode([msgspec.Raw(alone), None]) == encoded


def test_a_value_that_holds_itself_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(UnencodableError, match=str(DEPTH_MAX)):
        encode(endless)
    endless_map = {}
    endless_map["me"] = endless_map
    with pytest.raises(UnencodableError):
        encode(endless_map)


# -- numpy -------------------------------------------------------------------------------------------------------


@given(npst.arrays(DTYPES_WITHOUT_SUBARRAY, SHAPES))
@settings(max_examples=150, deadline=None)
def test_arrays_of_any_dtype_and_shape_come_back_the_same(array):
    assert_same_array(decode(encode(array)), array)
    assert_same_array(decode(encode({"deep": [array]}))["deep"][0], array)


@given(npst.arrays(npst.integer_dtypes(endianness="?") | npst.floating_dtypes(), (4, 5)))
def test_arrays_that_are_not_contiguous_come_back_the_same(array):
    for view in (array.T, array[::2], array[:, ::-1], array[1:1], np.broadcast_to(array[0], (3, 5))):
        assert_same_array(decode(encode(view)), view)


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        np.dtype([("outer", np.dtype([("a", "i1"), ("b", "f8")], align=True)), ("c", "U3", (2, 2))]),
        np.dtype({"names": ["a", "b"], "formats": ["i2", "f4"], "offsets": [3, 9], "itemsize": 20}),
        np.dtype([(("a title", "a"), "i4")]),
        np.dtype([("ünï", ">i4")]),
        np.dtype("V7"),
        np.dtype("V0"),
        np.dtype("M8[25s]"),
        np.dtype("m8"),
        np.dtype(np.longdouble),
    ],
    ids=str,
)
def test_padded_titled_and_unusual_dtypes_come_back_the_same(dtype):
    array = np.zeros((2, 3), dtype)
    assert_same_array(decode(encode(array)), array)


@given(npst.arrays(npst.scalar_dtypes(), ()))
@settings(max_examples=150)
def test_scalars_come_back_equal_and_those_that_msgpack_holds_as_plain_numbers(array):
    scalar = array[()]
    found = decode(encode(scalar))
    if isinstance(found, np.ndarray):
        assert_same_array(found, array.astype(array.dtype.newbyteorder("=")))
    elif found == found:
        assert found == scalar.item()
        assert type(found) in (bool, int, float, str, bytes)
    else:
        assert math.isnan(scalar)


@pytest.mark.parametrize("number", [np.int8(-3), np.uint64(2**64 - 1), np.float16(0.5), np.float32(0.1), np.True_])
def test_plain_msgpack_reads_numpy_scalars_as_numbers(number):
    assert msgpack.unpackb(encode(number)) == number.item()


def test_arrays_of_objects_become_plain_arrays():
    array = np.array([None, "text", 2**100, {"a": 1}, np.arange(2)], dtype=object)
    found = decode(encode(array))
    assert found[:4] == [None, "text", 2**100, {"a": 1}]
    assert_same_array(found[4], np.arange(2))


@pytest.mark.parametrize("masked", [np.ma.masked, np.ma.array([1, 2], mask=[0, 1])])
def test_a_masked_array_is_refused_with_the_remedy(masked):
    with pytest.raises(UnencodableError, match="fill"):
        encode(masked)


def test_arrays_of_other_libraries_are_read_through_numpy():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3, dtype=np.int16)

    class OnGpuWithGradient:
        """As torch's tensors, which refuse to be an array until they are taken out of the graph and off the GPU."""

        steps = 0

        def detach(self):
            self.steps += 1
            return self

        cpu = detach

        def __array__(self, dtype=None, copy=None):
            assert self.steps == 2
            return np.zeros(2)

    assert_same_array(decode(encode(OnGpuWithGradient())), np.zeros(2))

    class OnAnotherDevice:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("copy it to the host first")

    assert_same_array(decode(encode([Tensor()]))[0], np.arange(3, dtype=np.int16))
    with pytest.raises(UnencodableError, match="copy it to the host first"):
        encode(OnAnotherDevice())


def test_a_complex_number_becomes_an_array_of_no_dimensions():
    assert_same_array(decode(encode(1 - 2j)), np.array(1 - 2j))


def test_a_decoded_array_may_be_written_to():
    found = decode(encode(np.arange(3)))
    found[0] = 9
    assert found.tolist() == [9, 1, 2]


def test_numpy_is_not_imported_for_plain_values():
    script = (
        "import sys\n"
        "from telefabric_schemas.values import decode, encode\n"
        "decode(encode({'a': [1, 2.5, 2**80, 'text\\ud800', b'b', None, 3j.imag, (1,), {4}]}))\n"
        "encode(3j)\n"
        "sys.exit('numpy' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_numpy_an_array_is_its_dtype_shape_and_data():
    encoded = encode(np.arange(4, dtype="<i2").reshape(2, 2))
    script = (
        "import sys\n"
        "sys.modules['numpy'] = None\n"
        "from telefabric_schemas.values import ArrayValue, decode\n"
        f"found = decode({encoded!r})\n"
        "assert found == ArrayValue('<i2', (2, 2), bytes([0, 0, 1, 0, 2, 0, 3, 0])), found\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# -- strangers' bytes --------------------------------------------------------------------------------------------


def array_bytes(dtype, shape, data):
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(EXT_NDARRAY, msgspec.msgpack.encode([dtype, shape, data])))


@given(st.binary(max_size=64))
@settings(max_examples=400)
@example(b"\xa2\xff\xfe")
@example(b"\x91" * 100_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x81\x80\x01")
@example(b"\xd7\xff" + b"\xff" * 8)
def test_any_bytes_either_decode_or_are_a_decode_error(data):
    try:
        decode(data)
    except msgspec.DecodeError:
        pass


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("O", [1], bytes(8)),
        ("(1,,2)i4", [1], b""),
        (",", [1], b""),
        ("a4", [1], b"aaaa"),
        ("f4,f4", [1], bytes(8)),
        ("<f4", [2**63], b""),
        ("<f4", [-5], b"aaaa"),
        ("<f4", [2], b"aaaa"),
        ("<f4", [0, 2**62, 2**62], b""),
        ("<U0", [2**40], b"a"),
        ("|V999999999", [1], b""),
        ("<M8[xx]", [1], bytes(8)),
        ([["a"]], [1], b""),
        ([["a", "<i4", [2**62]]], [1], b""),
        ([["a", "O"]], [1], bytes(8)),
        ([["a", "<i4"], ["a", "<i4"]], [1], bytes(8)),
        (["a"], [1], b""),
        ({"a": 1}, [1], b""),
        (None, [1], bytes(8)),
        (7, [1], bytes(8)),
    ],
    ids=repr,
)
def test_an_array_that_is_none_keeps_its_bytes(dtype, shape, data):
    encoded = array_bytes(dtype, shape, data)
    found = decode(encoded)
    assert isinstance(found, msgspec.msgpack.Ext)
    assert msgspec.msgpack.encode(found) == encoded


@given(st.one_of(st.text(max_size=6), PLAIN), st.lists(st.integers(-3, 2**64 - 1), max_size=3), st.binary(max_size=16))
@settings(max_examples=150, deadline=None)
def test_a_hostile_array_never_raises(dtype, shape, data):
    decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(EXT_NDARRAY, encode([dtype, shape, data]))))


def test_data_of_items_without_size_takes_no_memory():
    assert decode(array_bytes("|V0", [2**40], b"")).nbytes == 0


def test_unknown_extension_types_keep_their_bytes():
    found = decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(77, b"abc")))
    assert (found.code, bytes(found.data)) == (77, b"abc")


@given(st.binary(max_size=20))
def test_any_bytes_are_some_big_integer(data):
    found = decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(EXT_BIGINT, data)))
    assert found == int.from_bytes(data, "big", signed=True)
