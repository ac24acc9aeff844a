"""Names are printable text of 1 to 255 bytes of UTF-8, wherever one is given."""

from __future__ import annotations

import msgspec
import pytest
from conftest import FabricService
from hypothesis import given
from hypothesis import strategies as st
from processes import run, wait_for

from telefabric import limits
from telefabric.address import Address
from telefabric.cli.plain import clean
from telefabric.errors import UsageError, WireError
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.settings import resolve
from telefabric.store.read import query
from telefabric.subscribe import LiveSubscription
from telefabric.subscribe.durable import DurableSubscription
from telefabric.wire import control, names
from telefabric.wire.seal import seal
from telefabric_workers.repair import name_of

ADDRESS = Address("127.0.0.1", 7750)
LONG = "\u20ac" * 208
"""208 characters, 624 bytes."""
JUST = "\u20ac" * 85
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
INFO = control.StreamInfo(bytes(16), "r", "w", "a", 1)


@pytest.mark.parametrize(
    "message",
    [
        control.Hello(1, INFO, 1, 0),
        control.Attach(1, "n", "q", "k"),
        control.Watch(1, "n", ["r"], ["k"], agents=["a"], pictures=["r"]),
        control.Welcome(bytes(16), bytes(16), 1, 1, 1, 1, control.Endpoints("d", "e", "q", "l", "w", "t"), 1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_name_of_a_message_is_limited_in_bytes(message: control.Message) -> None:
    whole = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    for place in _texts(whole):
        assert control.decode(seal(msgspec.msgpack.encode(_with(whole, place, JUST))))
        with pytest.raises(WireError, match="624 bytes"):
            control.decode(seal(msgspec.msgpack.encode(_with(whole, place, LONG))))


def _texts(found: list[object], at: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """The places of all texts in nested arrays, but the message's own name and the mode of a policy."""
    places = []
    for index, value in enumerate(found):
        if isinstance(value, list) and value != [20_000, 10_000, "drop_oldest", 1]:
            places += _texts(value, (*at, index))
        elif isinstance(value, str) and (*at, index) != (0,):
            places.append((*at, index))
    return places


def _with(found: list[object], place: tuple[int, ...], text: str) -> list[object]:
    first, *rest = place
    inner = found[first]
    assert isinstance(inner, list) or not rest
    changed = _with(inner, tuple(rest), text) if rest and isinstance(inner, list) else text
    return [*found[:first], changed, *found[first + 1 :]]


def test_a_subscription_or_a_question_with_a_long_name_is_the_caller_s_mistake() -> None:
    live = LiveSubscription(ADDRESS, name="n", runs=[JUST])
    for wrong in (
        lambda: LiveSubscription(ADDRESS, name=LONG),
        lambda: LiveSubscription(ADDRESS, name="n", runs=[LONG]),
        lambda: LiveSubscription(ADDRESS, name="n", kinds=[LONG]),
        lambda: live.want(agents=[LONG]),
        lambda: live.want(pictures=[LONG]),
        lambda: DurableSubscription(ADDRESS, name=LONG, held=lambda _: 0),
        lambda: query.decode_question(msgspec.msgpack.encode(query.Streams(LONG, 0, 0))),
    ):
        with pytest.raises(UsageError, match="624 bytes"):
            wrong()


def test_a_command_with_a_long_name_says_so(fabric_service: FabricService) -> None:
    for words in (["--live"], ["--from-start"]):
        done = run("tail", "--run", LONG, "--connect", fabric_service.url, *words)
        assert (done.returncode, "624 bytes" in done.stderr) == (2, True)


def test_a_run_of_an_old_store_with_a_long_name_stops_no_client(fabric_service: FabricService) -> None:
    follower = BrokerFeed(Address.parse(fabric_service.url))
    follower.watch(frozenset({LONG, "run"}))
    follower.want_pictures(frozenset({LONG, "run"}))
    follower.start()
    try:
        with fabric_service.connect(run="run") as worker:
            wait_for(
                lambda: worker.metric("loss", 0.5) or any(e.live for e in follower.drain().events), "it comes live"
            )
    finally:
        follower.stop()


@pytest.mark.parametrize("name", [FAMILY, PERSIAN, "a b", "\u00e9", JUST])
def test_emoji_and_persian_are_names_everywhere(name: str) -> None:
    assert names.is_name(name)
    assert resolve("run_id", name).value == name
    assert name_of(name) == name
    assert clean(name) == name


@pytest.mark.parametrize("name", ["", " ", "\u200d", "a\nb", "\x1b[2J", "\u202egnp.exe", LONG])
def test_what_is_no_name(name: str) -> None:
    assert not names.is_name(name)
    assert name_of(name) != name or not name
    with pytest.raises(UsageError):
        resolve("run_id", name)


@given(st.text())
def test_what_is_made_a_name_is_one(text: str) -> None:
    made = name_of(text)
    assert not made or names.is_name(made)
    for part in (names.cut(text), names.end_of(text)):
        assert len(part.encode()) <= limits.NAME_BYTES_MAX
