"""The durable lane: required subscribers get every batch in order, others never hold one back."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telefabric.session.lane import DurableLane


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
    lane.push(b"one")
    lane.push(b"three")
    assert drain(lane, "store") == [b"one", b"three"]
    assert lane.bytes == 8
    assert drain(lane, "mirror") == [b"one", b"three"]
    assert lane.bytes == 0


def test_peek_does_not_take():
    lane = DurableLane()
    lane.attach("store", required=True)
    lane.push(b"a")
    assert lane.peek("store") == lane.peek("store") == b"a"


def test_one_that_is_not_required_is_moved_on_and_its_misses_are_counted():
    lane = DurableLane()
    lane.attach("store", required=True)
    lane.attach("exporter", required=False)
    for message in (b"a", b"b", b"c"):
        lane.push(message)
    lane.sent("store")
    lane.sent("store")
    assert lane.bytes == 1
    assert lane.missed("exporter") == 2
    assert drain(lane, "exporter") == [b"c"]


def test_without_a_required_subscriber_nothing_is_kept():
    lane = DurableLane()
    lane.attach("exporter", required=False)
    lane.push(b"a")
    assert lane.bytes == 0
    assert lane.missed("exporter") == 1


def test_a_required_subscriber_that_goes_lets_go_of_its_batches():
    lane = DurableLane()
    lane.attach("store", required=True)
    lane.push(b"a")
    lane.detach("store")
    assert (lane.bytes, lane.pending("store"), lane.peek("store")) == (0, 0, None)


def test_attaching_again_starts_at_the_end():
    lane = DurableLane()
    lane.attach("store", required=True)
    lane.push(b"old")
    lane.attach("store", required=True)
    lane.push(b"new")
    assert drain(lane, "store") == [b"new"]


class Lanes(RuleBasedStateMachine):
    """Against a plain list for each subscriber."""

    names = st.sampled_from(["store", "mirror", "exporter"])

    def __init__(self):
        super().__init__()
        self.lane = DurableLane()
        self.owed: dict[str, deque[bytes]] = {}
        self.count = 0

    @rule(name=names)
    def attach(self, name):
        self.lane.attach(name, required=name != "exporter")
        self.owed[name] = deque()

    @rule(name=names)
    def detach(self, name):
        self.lane.detach(name)
        self.owed.pop(name, None)

    @rule(size=st.integers(1, 9))
    def push(self, size):
        self.count += 1
        message = f"{self.count}".encode().ljust(size, b".")
        self.lane.push(message)
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
                owed.popleft()
        assert owed.popleft() == message
        self.lane.sent(name)

    @invariant()
    def holds_exactly_what_a_required_subscriber_is_owed(self):
        required = [owed for name, owed in self.owed.items() if name != "exporter"]
        longest = max(required, key=len, default=deque())
        assert self.lane.bytes == sum(map(len, longest))

    @invariant()
    def received_and_missed_make_up_all(self):
        for name, owed in self.owed.items():
            if name != "exporter":
                assert self.lane.pending(name) == len(owed)
                assert self.lane.missed(name) == 0


Lanes.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestLanes = Lanes.TestCase
