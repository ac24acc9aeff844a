"""Values from `worker.step` through a real broker and a real store to SQLite and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from telefabric_schemas import Episode, Log, Metric, Step, values

if TYPE_CHECKING:
    from conftest import FabricService

STRUCTURED = np.dtype([("position", "<f8", (3,)), ("name", "<U5"), ("inner", [("flag", "?"), ("id", ">i4")])])
GENERATOR = np.random.default_rng(20)

ARRAYS: dict[str, Any] = {
    **{
        f"{byte_order}{kind}": (GENERATOR.random((2, 3)) * 100).astype(byte_order + kind)
        for byte_order in "<>"
        for kind in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    },
    "bool": np.array([[True, False], [False, True]]),
    "int8": np.array([-128, 127], np.int8),
    "uint8": np.arange(256, dtype=np.uint8),
    "longdouble": np.array([1, 3], np.longdouble) / 3,
    "text": np.array(["frozen", "ледъ", "🧊"]),
    "bytes": np.array([b"ab", b"c\xff"]),
    "datetimes": np.array(["2026-01-02T03:04:05", "NaT"], "datetime64[ns]"),
    "timedeltas": np.array([1, -2], "timedelta64[ms]"),
    "structured": np.zeros(2, STRUCTURED),
    "no dimensions": np.array(2.5),
    "empty": np.zeros((0, 4), np.float32),
    "fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "slice": np.arange(100).reshape(10, 10)[::3, ::-2],
    "nan and infinities": np.array([np.nan, np.inf, -np.inf, -0.0]),
    "picture": GENERATOR.integers(0, 256, (64, 64, 3), np.uint8),
}
ARRAYS["structured"]["position"][1] = 1.5
ARRAYS["structured"]["name"] = ["left", "right"]

EQUAL: dict[str, tuple[Any, Any]] = {
    "none": (None, None),
    "true": (True, True),
    "text": ("Žluťoučký 冰 🧊 \x00 \u202e", "Žluťoučký 冰 🧊 \x00 \u202e"),
    "lone surrogate": ("a\ud800b", "a\\ud800b"),
    "bytes": (b"\x00\xff", b"\x00\xff"),
    "tuple": ((1, (2, "x"), ()), [1, [2, "x"], []]),
    "dict": ({"a": {"b": [1, 2.5, None]}, "": {}}, {"a": {"b": [1, 2.5, None]}, "": {}}),
    "dict of numbers": ({1: "a", -2: "b", 2.5: "c"}, {1: "a", -2: "b", 2.5: "c"}),
    "dict of tuples": ({(0, 1): "left"}, {(0, 1): "left"}),
    "set": ({3}, [3]),
    "infinity": (math.inf, math.inf),
    "minus infinity": ([-math.inf], [-math.inf]),
    "smallest": (5e-324, 5e-324),
    "int64": ([2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
    "uint64": (2**64 - 1, 2**64 - 1),
    "beyond 64 bits": ({"n": [2**64, -(2**63) - 1, 10**300]}, {"n": [2**64, -(2**63) - 1, 10**300]}),
    "numpy int": (np.int16(-7), -7),
    "numpy uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "numpy float": (np.float32(0.1), float(np.float32(0.1))),
    "numpy bool": (np.bool_(True), True),
    "numpy text": (np.str_("лёд"), "лёд"),
    "numpy bytes": (np.bytes_(b"\x01"), b"\x01"),
    "numpy object array": (np.array([1, "x", None], object), [1, "x", None]),
    "nested deeply": ([[[[[[[[1]]]]]]]], [[[[[[[[1]]]]]]]]),
}


def stored(fabric_service: FabricService, table: str, kind: type) -> list[Any]:
    """All events of a table, in order, in the type that a reader decodes them to."""
    decoder = msgspec.msgpack.Decoder(kind)
    return [decoder.decode(raw) for (raw,) in fabric_service.rows(f"SELECT event FROM {table} ORDER BY id")]


def assert_nothing_is_wrong(fabric_service: FabricService) -> None:
    assert fabric_service.rows("SELECT * FROM quarantine") == []
    assert fabric_service.rows("SELECT * FROM gaps") == []
    ((seq, last_seq),) = fabric_service.rows(
        "SELECT stored_seq, (SELECT max(seq) FROM lifecycle WHERE kind = 'run_completed') FROM watermarks"
    )
    assert seq == last_seq


def test_plain_values_arrive_as_they_were(fabric_service: FabricService) -> None:
    with fabric_service.connect() as worker:
        for index, (value, _) in enumerate(EQUAL.values()):
            worker.step(episode=0, step=index, action=value, observation={"deep": [value]}, info={"value": value})
        assert not worker.problems
    for step, (name, (_, expected)) in zip(stored(fabric_service, "steps", Step), EQUAL.items(), strict=True):
        found = [
            values.decode(step.action),
            values.decode(step.observation)["deep"][0],
            values.decode(step.info)["value"],
        ]
        assert found == [expected] * 3, name
        assert [type(value) for value in found] == [type(expected)] * 3, name
    assert_nothing_is_wrong(fabric_service)


def test_arrays_of_any_dtype_arrive_bit_by_bit(fabric_service: FabricService) -> None:
    with fabric_service.connect() as worker:
        for index, array in enumerate(ARRAYS.values()):
            worker.step(episode=0, step=index, observation=array, info={"arrays": [array, (array,)]})
        assert not worker.problems
    for step, (name, array) in zip(stored(fabric_service, "steps", Step), ARRAYS.items(), strict=True):
        first, (second,) = values.decode(step.info)["arrays"]
        for found in (values.decode(step.observation), first, second):
            assert (found.dtype, found.shape) == (array.dtype, array.shape), name
            assert found.tobytes() == array.tobytes(), name
    assert_nothing_is_wrong(fabric_service)


def test_numpy_scalars_without_a_plain_form_arrive_as_arrays(fabric_service: FabricService) -> None:
    scalars = [np.complex64(1 + 2j), np.datetime64("2026-01-02"), np.timedelta64(5, "s"), np.longdouble(1) / 3]
    with fabric_service.connect() as worker:
        for index, scalar in enumerate([*scalars, 3 - 4j]):
            worker.step(episode=0, step=index, action=scalar)
        assert not worker.problems
    found = [values.decode(step.action) for step in stored(fabric_service, "steps", Step)]
    assert [array.shape for array in found] == [()] * 5
    assert [array.dtype for array in found[:4]] == [scalar.dtype for scalar in scalars]
    assert [array[()] for array in found] == [*scalars, 3 - 4j]


def test_numbers_in_typed_fields_and_columns(fabric_service: FabricService) -> None:
    rewards = [1, 0.1, np.float32(0.1), np.int64(-3), True, math.inf, -math.inf, math.nan, 10**400]
    with fabric_service.connect() as worker:
        for index, reward in enumerate(rewards):
            worker.step(episode=np.int32(0), step=np.uint8(index), reward=reward, terminated=np.bool_(index == 1))
        worker.metric("nan", math.nan)
        worker.metric("inf", np.float64("inf"), unit="m/s²")
        worker.episode(episode=0, total_reward=math.nan, length=9, seed=2**100, metadata={"t": (1, 2)})
        assert worker.problems == {"step.reward": 1}
    steps = stored(fabric_service, "steps", Step)
    assert [step.reward for step in steps[:7]] == [1.0, 0.1, float(np.float32(0.1)), -3.0, 1.0, math.inf, -math.inf]
    assert math.isnan(steps[7].reward)
    assert steps[8].reward is None
    assert [step.step_index for step in steps] == list(range(9))
    assert [step.terminated for step in steps[:3]] == [False, True, False]
    columns = [row[0] for row in fabric_service.rows("SELECT reward FROM steps ORDER BY id")]
    assert columns == [1.0, 0.1, float(np.float32(0.1)), -3.0, 1.0, math.inf, -math.inf, None, None]
    nan, inf = stored(fabric_service, "metrics", Metric)
    assert math.isnan(nan.value)
    assert (inf.value, inf.unit) == (math.inf, "m/s²")
    (episode,) = stored(fabric_service, "episodes", Episode)
    assert math.isnan(episode.total_reward)
    assert values.decode(episode.seed) == 2**100
    assert values.decode(episode.metadata) == {"t": [1, 2]}
    assert_nothing_is_wrong(fabric_service)


def test_text_of_any_script_in_every_text_field(fabric_service: FabricService) -> None:
    text = "běh-冰-🧊-\u0301"
    with fabric_service.connect(run=text, agent=text, worker=text) as worker:
        worker.step(episode=0, step=0, policy_label=text, backend=text, frame_ref=text)
        worker.episode(episode=0, total_reward=0.0, length=1, end_reason=text, game_id=text)
        worker.metric(text, 1.0, unit=text)
        worker.log(text + "\x00\r\n", level=text, logger=text, fields={text: text})
    (step,) = stored(fabric_service, "steps", Step)
    assert {step.agent_id, step.policy_label, step.backend, step.frame_ref} == {text}
    (episode,) = stored(fabric_service, "episodes", Episode)
    assert (episode.end_reason, episode.game_id) == (text, text)
    (metric,) = stored(fabric_service, "metrics", Metric)
    assert (metric.name, metric.unit) == (text, text)
    (log,) = stored(fabric_service, "logs", Log)
    assert (log.message, log.level, log.logger, values.decode(log.fields)) == (
        text + "\x00\r\n",
        text,
        text,
        {text: text},
    )
    assert fabric_service.rows("SELECT run_id, status FROM runs") == [(text, "completed")]
    assert_nothing_is_wrong(fabric_service)


@pytest.mark.parametrize("depth", [100, 900, 5_000])
def test_what_is_stored_can_be_read_however_deep(fabric_service: FabricService, depth: int) -> None:
    """Too deep a value is left out with a word; none may be stored that no reader can decode."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    with fabric_service.connect() as worker:
        worker.step(episode=0, step=0, action=1, info={"deep": value})
        worker.step(episode=0, step=1)
        problems = dict(worker.problems)
    first, _ = stored(fabric_service, "steps", Step)
    assert problems in ({}, {f"step.info.deep{'.0' * 7}.…": 1})
    assert values.decode(first.action) == 1
    found = values.decode(first.info)
    found = found["deep"]
    for _ in range(values.DEPTH_MAX if problems else depth):
        (found,) = found
    assert found == (None if problems else 1)
    assert_nothing_is_wrong(fabric_service)
