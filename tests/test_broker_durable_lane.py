"""The durable lane: required subscribers get every batch in order, others never hold one back."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telefabric import limits
from telefabric.broker.core.durable_lane import DurableLane

STREAM = bytes(16)
TAIL = 20


def push(lane: DurableLane, *messages: bytes) -> None:
    """Batches of one event each, whose number is the count of all so far."""
    for message in messages:
        lane.push(message, STREAM, lane._end + 1)


def drain(lane: DurableLane, name: str) -> list[bytes]:
    got = []
    while (message := lane.peek(name)) is not None:
        got.append(message)
        lane.sent(name)
    return got


def test_a_batch_stays_until_every_required_subscriber_was_sent_it():
    lane = DurableLane()
    lane.attach("store", required=True)
    lane.attach("mirror", required=True)
    push(lane, b"one")
    push(lane, b"three")
    assert drain(lane, "store") == [b"one", b"three"]
    assert lane.bytes == 8
    assert drain(lane, "mirror") == [b"one", b"three"]
    assert lane.bytes == 0


def test_peek_does_not_take():
    lane = DurableLane()
    lane.attach("store", required=True)
    push(lane, b"a")
    assert lane.peek("store") == lane.peek("store") == b"a"


def test_one_that_is_not_required_gets_what_the_store_was_sent_before_it():
    lane = DurableLane()
    lane.attach("store", required=True)
    lane.attach("exporter", required=False)
    push(lane, b"a", b"b")
    assert drain(lane, "store") == [b"a", b"b"]
    assert (lane.bytes, lane.tail_bytes) == (0, 2), "what it is owed does not count as owed to the store"
    assert drain(lane, "exporter") == [b"a", b"b"]
    assert (lane.tail_bytes, lane.cursors["exporter"].missed, dict(lane.cursors["exporter"].skipped)) == (0, 0, {})


def test_one_that_is_not_required_and_falls_too_far_behind_is_moved_on_and_told_what_it_misses():
    lane = DurableLane(tail_bytes_max=2)
    lane.attach("store", required=True)
    lane.attach("exporter", required=False)
    push(lane, b"a", b"b", b"c", b"d")
    drain(lane, "store")
    assert (lane.cursors["exporter"].missed, dict(lane.cursors["exporter"].skipped)) == (2, {STREAM: 2})
    assert drain(lane, "exporter") == [b"c", b"d"]
    lane.cursors["exporter"].reported(STREAM, 1)
    assert dict(lane.cursors["exporter"].skipped) == {STREAM: 2}
    lane.cursors["exporter"].reported(STREAM, 2)
    assert dict(lane.cursors["exporter"].skipped) == {}


def test_what_a_subscriber_skips_is_remembered_for_a_limited_number_of_streams():
    lane = DurableLane()
    lane.attach("exporter", required=False)
    for number in range(limits.STREAMS_KNOWN_MAX + 10):
        lane.cursors["exporter"].skip(number.to_bytes(16, "big"), 5)
    lane.cursors["exporter"].skip((20).to_bytes(16, "big"), 4)
    skipped = lane.cursors["exporter"].skipped
    assert len(skipped) == limits.STREAMS_KNOWN_MAX
    assert set(skipped.values()) == {5}
    assert (9).to_bytes(16, "big") not in skipped


def test_a_required_subscriber_that_goes_lets_go_of_its_batches():
    lane = DurableLane()
    lane.attach("store", required=True)
    push(lane, b"a")
    lane.detach("store")
    assert (lane.bytes, lane.pending("store"), lane.peek("store")) == (0, 0, None)


def test_what_comes_anew_is_withdrawn_from_those_who_were_not_sent_it():
    """Of the stream that begins again alone, and from its seq on."""
    lane = DurableLane()
    lane.attach("store", required=True)
    lane.attach("exporter", required=False)
    push(lane, b"one", b"two", b"three", b"four")
    lane.push(b"other", b"o" * 16, 9)
    for _ in range(2):
        lane.peek("store")
        lane.sent("store")
    lane.withdraw(STREAM, 4)
    assert (lane.pending("store"), lane.pending("exporter")) == (2, 4)
    lane.withdraw(STREAM, 2)
    assert lane.bytes == len(b"other")
    assert drain(lane, "exporter") == [b"one", b"two", b"other"]
    assert lane.cursors["exporter"].skipped == {STREAM: 3}
    assert lane.cursors["exporter"].missed == 0
    assert drain(lane, "store") == [b"other"]
    assert (lane.bytes, lane.tail_bytes, lane._batches) == (0, 0, {})
    push(lane, b"again")
    assert drain(lane, "store") == drain(lane, "exporter") == [b"again"]


def test_attaching_again_starts_at_the_end():
    lane = DurableLane()
    lane.attach("store", required=True)
    push(lane, b"old")
    lane.attach("store", required=True)
    push(lane, b"new")
    assert drain(lane, "store") == [b"new"]


class Lanes(RuleBasedStateMachine):
    """Against a plain list for each subscriber."""

    names = st.sampled_from(["store", "mirror", "exporter"])

    def __init__(self):
        super().__init__()
        self.lane = DurableLane(TAIL)
        self.owed: dict[str, deque[bytes]] = {}
        self.count = 0
        self.missed = 0

    @rule(name=names)
    def attach(self, name):
        self.lane.attach(name, required=name != "exporter")
        self.owed[name] = deque()
        self.missed = 0 if name == "exporter" else self.missed

    @rule(name=names)
    def detach(self, name):
        self.lane.detach(name)
        self.owed.pop(name, None)

    @rule(size=st.integers(1, 9))
    def push(self, size):
        self.count += 1
        message = f"{self.count}".encode().ljust(size, b".")
        push(self.lane, message)
        for owed in self.owed.values():
            owed.append(message)

    @rule(name=names)
    def send(self, name):
        message = self.lane.peek(name)
        if message is None:
            assert name == "exporter" or not self.owed.get(name)
            return
        owed = self.owed[name]
        if name == "exporter":
            while owed[0] != message:
                self.missed += 1
                owed.popleft()
            assert self.lane.cursors["exporter"].missed == self.missed
        assert owed.popleft() == message
        self.lane.sent(name)

    @invariant()
    def holds_exactly_what_a_required_subscriber_is_owed(self):
        required = [owed for name, owed in self.owed.items() if name != "exporter"]
        longest = max(required, key=len, default=deque())
        assert self.lane.bytes == sum(map(len, longest))

    @invariant()
    def keeps_little_for_others(self):
        assert 0 <= self.lane.tail_bytes <= TAIL
        assert self.lane.bytes + self.lane.tail_bytes == sum(len(one.message) for one in self.lane._batches.values())

    @invariant()
    def received_and_missed_make_up_all(self):
        for name, owed in self.owed.items():
            if name != "exporter":
                assert self.lane.pending(name) == len(owed)
                assert self.lane.cursors[name].missed == 0


Lanes.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestLanes = Lanes.TestCase
