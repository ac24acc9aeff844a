"""The topic table and the event types say the same."""

import typing

import msgspec
import pytest

from telefabric_schemas import DURABLE_KINDS, LIVE_ONLY_KINDS, TOPICS, AnyEvent, Event

KINDS = sorted(TOPICS)


def described(annotation):
    """The `msgspec.Meta` of a field's annotation that says its unit."""
    metas = [meta for meta in getattr(annotation, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    return next((meta for meta in metas if meta.extra and meta.description), None)


def fields_of(event_type):
    hints = typing.get_type_hints(event_type, include_extras=True)
    return {field: hints[field] for field in event_type.__struct_fields__}


def test_every_event_type_is_in_the_table_and_the_other_way_round():
    assert {topic.event_type for topic in TOPICS.values()} == set(typing.get_args(AnyEvent))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_in_the_table_is_the_kind_on_the_wire(kind):
    topic = TOPICS[kind]
    assert topic.kind == kind == topic.event_type.__struct_config__.tag
    assert issubclass(topic.event_type, Event)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_unit_and_a_description(kind):
    for field, annotation in fields_of(TOPICS[kind].event_type).items():
        found = described(annotation)
        assert found, f"{kind}.{field} has no unit"
        assert found.extra["unit"].strip(), f"{kind}.{field} has no unit"
        assert found.description.strip().endswith((".", "…")), f"{kind}.{field} has no description"


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_type_says_what_it_is(kind):
    assert TOPICS[kind].event_type.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_seq_is_the_first_field_of_every_event(kind):
    assert TOPICS[kind].event_type.__struct_fields__[0] == "seq"


@pytest.mark.parametrize("kind", KINDS)
def test_rates_queues_and_drop_order_are_usable_numbers(kind):
    topic = TOPICS[kind]
    assert topic.rate_hz > 0
    assert topic.live_queue_events > 0
    assert topic.drop_order >= 0


def test_durable_and_live_only_kinds_divide_the_table():
    assert set(TOPICS) == DURABLE_KINDS | LIVE_ONLY_KINDS
    assert not DURABLE_KINDS & LIVE_ONLY_KINDS
    assert {"run_heartbeat", "overflow", "control"} == LIVE_ONLY_KINDS


def test_frames_are_dropped_before_steps_steps_before_episodes_and_lifecycle_events_last():
    order = {kind: topic.drop_order for kind, topic in TOPICS.items()}
    assert order["frame"] < order["step"] < order["episode"] < order["run_started"]
    lifecycle = {"run_started", "run_metadata", "run_completed"}
    assert {kind for kind, place in order.items() if place == max(order.values())} == lifecycle
