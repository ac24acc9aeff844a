"""Events on the wire: MessagePack arrays that any reader understands and that may grow."""

import typing

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telefabric_schemas import TOPICS, AnyEvent, Step, values

decoder = msgspec.msgpack.Decoder(AnyEvent)
INT64 = st.integers(-(2**63), 2**63 - 1)
PAYLOADS = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
VALUES = {
    bool: st.booleans(),
    int: INT64,
    float: st.floats(allow_nan=False),
    str: st.text(max_size=12),
    bytes: st.binary(max_size=12),
    dict[str, int]: st.dictionaries(st.text(max_size=8), INT64, max_size=4),
    type(None): st.none(),
    msgspec.Raw: PAYLOADS.map(lambda value: msgspec.Raw(values.encode(value))),
}


def strategy_for(annotation):
    return st.one_of([VALUES[one] for one in typing.get_args(annotation) or (annotation,)])


def events_of(event_type):
    hints = typing.get_type_hints(event_type)
    return st.builds(event_type, **{field: strategy_for(hints[field]) for field in event_type.__struct_fields__})


EVENTS = st.one_of([events_of(topic.event_type) for topic in TOPICS.values()])


def plain(value):
    return values.decode(value) if isinstance(value, msgspec.Raw) else value


def as_array(event):
    return [event.kind, *(plain(getattr(event, field)) for field in event.__struct_fields__)]


@given(EVENTS)
def test_every_event_survives_the_wire(event):
    assert decoder.decode(msgspec.msgpack.encode(event)) == event


@given(EVENTS)
def test_plain_msgpack_reads_an_event_as_kind_seq_and_fields_in_order(event):
    decoded = msgpack.unpackb(msgspec.msgpack.encode(event), raw=False, strict_map_key=False)
    assert decoded == as_array(event)
    assert decoded[:2] == [event.kind, event.seq]


@given(EVENTS, st.lists(PAYLOADS, min_size=1, max_size=3))
def test_unknown_trailing_fields_are_skipped(event, more):
    longer = msgpack.packb([*as_array(event), *more])
    assert as_array(decoder.decode(longer)) == as_array(event)


@given(EVENTS)
def test_missing_trailing_fields_are_filled_in(event):
    defaults = len(event.__struct_defaults__)
    required = event.__struct_fields__[: len(event.__struct_fields__) - defaults]
    shortest = msgpack.packb([event.kind, *(plain(getattr(event, field)) for field in required)])
    decoded = decoder.decode(shortest)
    assert [getattr(decoded, field) for field in required] == [getattr(event, field) for field in required]
    if "payload_version" in event.__struct_fields__:
        assert decoded.payload_version == 1


@pytest.mark.parametrize("kind", sorted(TOPICS))
def test_an_event_without_its_required_fields_is_refused(kind):
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgpack.packb([kind, 1]))


@pytest.mark.parametrize(
    "array", [["no_such_kind", 1], [], [1, "step"], {"kind": "step"}, "step", None, ["metric", 2**63, *[None] * 8]]
)
def test_what_is_no_event_is_refused(array):
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgpack.packb(array))


def test_payloads_stay_encoded_until_they_are_asked_for():
    step = Step(1, "agent", 0, 0, 0, None, 1.0, False, False, 0, 0, observation=msgspec.Raw(values.encode([1, 2])))
    decoded = decoder.decode(msgspec.msgpack.encode(step))
    assert isinstance(decoded.observation, msgspec.Raw)
    assert values.decode(decoded.observation) == [1, 2]
    assert values.decode(decoded.action) is None


def test_a_payload_that_is_damaged_inside_leaves_the_event_readable():
    """A step with bytes that no reader can make sense of is still a step."""
    step = Step(7, "agent", 0, 0, 0, None, 1.0, False, False, 0, 0, observation=msgspec.Raw(b"\xa2\xff\xff"))
    decoded = decoder.decode(msgspec.msgpack.encode(step))
    assert (decoded.seq, decoded.reward) == (7, 1.0)
    with pytest.raises(msgspec.DecodeError):
        values.decode(decoded.observation)


def test_an_event_knows_its_kind():
    assert Step(1, "agent", 0, 0, 0, None, 1.0, False, False, 0, 0).kind == "step"
