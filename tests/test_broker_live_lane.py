"""The live lane: what a subscriber received and what it was told of as dropped add up to the newest number it saw."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from telefabric import limits
from telefabric.broker.core import live_lane as live
from telefabric.broker.core import live_queue as queue
from telefabric.broker.core import recent as recent_window
from telefabric.broker.core.live_lane import LiveCore, LiveLane
from telefabric.broker.core.live_queue import LiveSubscriber, grant
from telefabric.broker.core.sampling import LiveBatch
from telefabric.errors import WireError
from telefabric.limits import NS
from telefabric.peer.core.principal import LOCAL_USERS, Peer
from telefabric.wire import batch, control, records
from telefabric.wire.delivery import Delivery, pictures_wish, topic_of, topic_parts, wishes_pictures
from telefabric.wire.policy import DROP_OLDEST, LATEST_PER_KEY, SAMPLE, QueuePolicy
from telefabric_schemas import TOPICS, Episode, EpisodeVoided, Log, Metric, Reset, RunCompleted, Step

INSTANCE = bytes(16)
ENDPOINTS = control.Endpoints("*:1", "*:2", live="*:3", watch="*:4")
STREAM = b"s" * 16
MS = 1_000_000


def header(events: int = 1, counter: int = 0, stream: bytes = STREAM) -> batch.Header:
    return batch.Header(batch.FLAG_LIVE, INSTANCE, stream, 0, 1, events, events, counter or events, 0, 0)


def watch(
    runs: list[str] | None = None, kinds: list[str] | None = None, pictures: list[str] | None = None, **policy: int
) -> control.Watch:
    return control.Watch(control.PROTOCOL, "viewer", runs, kinds, QueuePolicy(**policy), pictures=pictures)


def wanting(message: control.Watch) -> LiveSubscriber:
    subscriber = LiveSubscriber()
    subscriber.want(message)
    return subscriber


def drain(subscriber: LiveSubscriber, now_ns: int = 0) -> list[tuple[str, Delivery]]:
    """All that waits, by kind, as a pipe that is never full takes it."""
    found = []
    while (item := subscriber.peek(now_ns)) is not None:
        found.append((item.kind, subscriber.delivery(item)))
        subscriber.sent(item)
    return found


def kinds_of(deliveries: list[tuple[str, Delivery]]) -> list[str]:
    return [kind for kind, _ in deliveries]


# -- one subscriber's queue --------------------------------------------------------------------------------------


AGENTS = ("a", "b")
POLICIES = st.builds(
    QueuePolicy,
    st.integers(1, 60),
    st.integers(1, 80),
    st.sampled_from([DROP_OLDEST, LATEST_PER_KEY, SAMPLE]),
    st.integers(1, 7),
)


def event(kind: str, seq: int, agent: str = "a", env: int = 0, name: str = "loss") -> bytes:
    """An encoded event of a kind, or of one that nobody knows."""
    found = {
        "step": Step(seq, agent, env, 0, 0, 0, 1.0, False, False, 0, 0),
        "episode": Episode(seq, agent, env, 0, 1.0, 1, 0, 0, 0),
        "metric": Metric(seq, name, 1.0, None, 0, agent, 0, 0),
        "log": Log(seq, "info", "line", agent, 0, 0),
        "reset": Reset(seq, agent, env, 0, 0, 0),
        "episode_voided": EpisodeVoided(seq, agent, env, 0, 0, 0),
        "run_completed": RunCompleted(seq, "completed", None, 0, 0),
    }
    return msgspec.msgpack.encode(found.get(kind, [kind, seq, "x"]))


def live_batch(kind: str, events: list[bytes], counter: int = 0, stream: bytes = STREAM) -> tuple[batch.Header, bytes]:
    message = batch.pack(batch.Header(
        session=INSTANCE, stream=stream, epoch=0, first_seq=1, last_seq=10_000, events=len(events),
        counter=counter or len(events), time_ns=0, flags=batch.FLAG_LIVE,
    ), b"".join(map(records.frame, events)))  # fmt: skip
    return batch.parse_header(message)[0], message


def seqs_in(message: bytes) -> list[int]:
    """Of all events of a batch, which has to be whole."""
    found, start = batch.parse_header(message)
    batch.check_body(found, message[start:])
    body = message[start:]
    return [msgspec.msgpack.decode(body[one.start : one.end])[1] for one in records.spans(body, found.events)]


class Queue(RuleBasedStateMachine):
    """Batches of several sources, against what each source pushed; filters and policies change on the way."""

    kinds = st.sampled_from(["step", "episode", "metric", "log", "run_completed", "kind_of_tomorrow"])

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(limits, "LIVE_QUEUE_BYTES_MAX", 12_000)
        self.patch.setattr(queue, "_MERGE_DROPS", 3)
        self.subscriber = wanting(watch(events_max=40, age_ms_max=50))
        self.subscriber._merge_at = 3
        self.now_ns = 0
        self.pushed: Counter[tuple[bytes, str]] = Counter()
        self.received: Counter[tuple[bytes, str]] = Counter()
        self.told: Counter[tuple[bytes, str]] = Counter()
        self.newest: Counter[tuple[bytes, str]] = Counter()
        self.last_seq: Counter[tuple[bytes, str]] = Counter()
        self.number = 0
        self.agents: frozenset[str] | None = None

    def teardown(self) -> None:
        """All that is left comes, and then every source is accounted for to its last event."""
        try:
            while (item := self.subscriber.peek(self.now_ns)) is not None:
                self.take(item)
            tick = self.subscriber.tick()
            assert tick is not None
            self.seen(tick)
            assert self.received + self.told == self.pushed
            assert sum(self.pushed.values()) == tick.number == self.subscriber.number
            assert sum(self.subscriber.dropped.values()) == sum(self.told.values())
            for stream, flow in self.subscriber.flows.items():
                pushed = sum(count for (one, _), count in self.pushed.items() if one == stream)
                assert (flow.numbered, waiting(flow)) == (pushed, 0)
        finally:
            self.patch.undo()

    @initialize(policy=POLICIES)
    def first_policy(self, policy: QueuePolicy) -> None:
        self.another_policy(policy, None)

    @rule(
        kinds=st.lists(kinds, min_size=1, max_size=4),
        stream=st.sampled_from([b"a" * 16, b"b" * 16]),
        whose=st.lists(st.tuples(st.sampled_from(AGENTS), st.integers(0, 2)), min_size=1, max_size=12),
    )
    def push(self, kinds: list[str], stream: bytes, whose: list[tuple[str, int]]) -> None:
        """Several batches a step, or what one replaces of another under `latest_per_key` would be rare."""
        for kind in kinds:
            before = self.pushed[stream, kind]
            events = [event(kind, before + place, *one) for place, one in enumerate(whose, start=1)]
            self.pushed[stream, kind] += len(events)
            head, message = live_batch(kind, events, self.pushed[stream, kind], stream)
            self.subscriber.push(LiveBatch(kind, head, message), self.now_ns)

    @rule(ms=st.integers(1, 40))
    def wait(self, ms: int) -> None:
        self.now_ns += ms * MS

    @rule(policy=POLICIES, agents=st.none() | st.lists(st.sampled_from(AGENTS), max_size=2))
    def another_policy(self, policy: QueuePolicy, agents: list[str] | None) -> None:
        self.subscriber.want(control.Watch(control.PROTOCOL, "viewer", ["other"], None, policy, agents))

    @rule(batches=st.integers(1, 5), full_after=st.integers(0, 5))
    def send(self, batches: int, full_after: int) -> None:
        for place in range(batches):
            item = self.subscriber.peek(self.now_ns)
            if item is None:
                return
            assert self.now_ns - item.entered_ns <= self.subscriber.policy.age_ms_max * MS
            if place >= full_after:
                self.subscriber.delivery(item)
                return  # the pipe is full: all this is said again
            self.take(item)

    def take(self, item: queue.Item) -> None:
        delivery = self.subscriber.delivery(item)
        self.subscriber.sent(item)
        source = item.stream, item.kind
        found, _ = batch.parse_header(item.message)
        seqs = seqs_in(item.message)
        assert (found.stream, found.events, found.counter) == (item.stream, item.events, item.counter)
        assert seqs[0] > self.last_seq[source]
        assert seqs == sorted(seqs)
        self.last_seq[source] = seqs[-1]
        self.received[source] += len(seqs)
        self.newest[source] = max(self.newest[source], found.counter)
        self.seen(delivery)

    @precondition(lambda self: not self.subscriber.queued_events)
    @rule(full=st.booleans())
    def tick(self, full: bool) -> None:
        tick = self.subscriber.tick()
        assert tick is not None
        assert tick.number == self.subscriber.number
        if not full:
            self.subscriber.ticked()
            self.seen(tick)

    def seen(self, delivery: Delivery) -> None:
        """Received and dropped are what was numbered, over all and of each source, after every delivery."""
        for drop in delivery.drops:
            assert drop.reason in ("queue_full", "too_old", "sampled", "replaced", "not_wanted")
            source = drop.stream, drop.kind
            self.told[source] += drop.events
            self.newest[source] = max(self.newest[source], drop.reached)
        assert delivery.number >= self.number
        self.number = delivery.number
        assert sum(self.received.values()) + sum(self.told.values()) == delivery.number
        assert self.received + self.told == self.newest

    @invariant()
    def in_bounds(self) -> None:
        one = sum(map(len, self.subscriber._queues.values())) + len(self.subscriber._next) <= 1
        assert one or self.subscriber.queued_events <= self.subscriber.policy.events_max
        assert one or self.subscriber.queued_bytes <= limits.LIVE_QUEUE_BYTES_MAX
        assert sum(map(waiting, self.subscriber.flows.values())) == self.subscriber.queued_events


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def waiting(flow: queue.Flow) -> int:
    return flow.numbered - flow.delivered - flow.dropped


def pushed(subscriber: LiveSubscriber, kind: str, events: list[bytes], counter: int = 0) -> None:
    subscriber.push(LiveBatch(kind, *live_batch(kind, events, counter)), 0)


def received(subscriber: LiveSubscriber) -> list[tuple[str, list[int]]]:
    found = []
    while (item := subscriber.peek(0)) is not None:
        found.append((item.kind, seqs_in(item.message)))
        subscriber.sent(item)
    return found


def test_the_latest_of_each_agent_environment_and_series_comes_once():
    subscriber = wanting(control.Watch(control.PROTOCOL, "v", None, None, QueuePolicy(mode=LATEST_PER_KEY)))
    pushed(subscriber, "step", [event("step", seq, "ab"[seq % 2], seq % 3) for seq in range(1, 61)])
    pushed(subscriber, "metric", [event("metric", seq, "a", 0, ("loss", "return")[seq % 2]) for seq in range(1, 21)])
    pushed(subscriber, "step", [event("step", 61, "a", 0)], 61)
    assert subscriber.dropped == {"replaced": 60 - 6 + 20 - 2 + 1}
    assert received(subscriber) == [("step", [seq]) for seq in range(55, 61) if seq != 60] + [
        ("metric", [19]), ("metric", [20]), ("step", [61])
    ]  # fmt: skip


def test_under_latest_per_key_a_slow_subscriber_gets_every_key_in_turn():
    """One environment steps a hundred times for each step of the others."""
    subscriber = wanting(control.Watch(control.PROTOCOL, "v", None, None, QueuePolicy(mode=LATEST_PER_KEY)))
    came: Counter[int] = Counter()
    for seq in range(1, 4_001):
        pushed(subscriber, "step", [event("step", seq, "a", 1 + seq // 100 % 4 if seq % 100 == 0 else 0)], seq)
        if seq % 50 == 0:
            item = subscriber.peek(0)
            assert item is not None
            body = batch.body_of(item.message)[records.PREFIX_BYTES :]
            came[msgspec.msgpack.decode(body)[3]] += 1
            subscriber.sent(item)
    assert set(came) == {0, 1, 2, 3, 4}
    assert min(came.values()) >= 8


def test_a_sample_is_one_in_n_and_takes_environments_in_turn_as_they_come():
    """Eight environments that step in turn, and one event in eight: each environment comes."""
    subscriber = wanting(control.Watch(control.PROTOCOL, "v", None, None, QueuePolicy(mode=SAMPLE, every=8)))
    for first in range(1, 8_001, 50):
        events = [event("step", seq, "a", (seq - 1) % 8) for seq in range(first, first + 50)]
        pushed(subscriber, "step", events, first + 49)
    seqs = [seq for _, found in received(subscriber) for seq in found]
    assert [(seq - 1) // 8 for seq in seqs] == list(range(1_000))
    assert subscriber.dropped == {"sampled": 7_000}
    assert min(Counter((seq - 1) % 8 for seq in seqs).values()) > 100


@pytest.mark.parametrize("mode", [SAMPLE, LATEST_PER_KEY])
def test_no_policy_thins_out_what_is_rare_or_tells_of_a_run(mode: str):
    subscriber = wanting(control.Watch(control.PROTOCOL, "v", None, None, QueuePolicy(mode=mode, every=50)))
    for kind in ("run_completed", "episode", "log", "kind_of_tomorrow"):
        pushed(subscriber, kind, [event(kind, seq) for seq in range(1, 41)])
    assert not subscriber.dropped
    assert [len(seqs) for _, seqs in received(subscriber)] == [40] * 4


def test_other_agents_are_left_out_and_what_names_none_is_not():
    subscriber = wanting(control.Watch(control.PROTOCOL, "v", None, None, QueuePolicy(), ["b"]))
    kinds = ("step", "metric", "log", "episode", "reset", "episode_voided")
    for kind in kinds:
        pushed(subscriber, kind, [event(kind, seq, "ab"[seq % 2]) for seq in range(1, 5)])
        pushed(subscriber, kind, [event(kind, seq, "a") for seq in range(5, 8)], 7)
    pushed(subscriber, "run_completed", [event("run_completed", 9)])
    assert subscriber.dropped == {"not_wanted": 6 * (2 + 3)}
    assert received(subscriber) == [(kind, [1, 3]) for kind in kinds] + [("run_completed", [9])]


def test_a_damaged_batch_is_not_made_whole_by_thinning_it_out():
    subscriber = wanting(control.Watch(control.PROTOCOL, "v", None, None, QueuePolicy(mode=SAMPLE, every=2), ["a"]))
    head, message = live_batch("step", [event("step", seq) for seq in range(1, 5)])
    subscriber.push(LiveBatch("step", head, message[:-1] + b"\xff"), 0)
    item = subscriber.peek(0)
    assert item is not None
    assert item.message == message[:-1] + b"\xff"


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.text(max_size=20), st.integers(0, 2**63 - 1))
def test_what_is_granted_is_within_the_limits(events_max: int, age_ms: int, mode: str, every: int):
    granted = grant(QueuePolicy(events_max, age_ms, mode, every))
    assert 1 <= granted.events_max <= limits.LIVE_QUEUE_EVENTS_MAX
    assert 1 <= granted.age_ms_max <= limits.LIVE_QUEUE_AGE_MS_MAX
    assert 1 <= granted.every <= limits.LIVE_SAMPLE_MAX
    assert granted.mode in (DROP_OLDEST, LATEST_PER_KEY, SAMPLE)
    assert grant(granted) == granted


def test_frames_are_dropped_before_steps_and_steps_before_episodes_and_lifecycle_last():
    order = ["run_started", "episode", "log", "step", "frame"]
    for room in range(1, len(order) + 1):
        subscriber = wanting(watch(events_max=room))
        for kind in order:
            subscriber.push(LiveBatch(kind, header(), b"x"), 0)
        assert kinds_of(drain(subscriber)) == order[:room]


def test_of_one_kind_the_oldest_goes_first():
    subscriber = wanting(watch(events_max=3))
    for _ in range(10):
        subscriber.push(LiveBatch("step", header(), b"x"), 0)
    deliveries = [delivery for _, delivery in drain(subscriber)]
    assert [delivery.number for delivery in deliveries] == [8, 9, 10]
    assert [drop.events for drop in deliveries[0].drops] == [7]
    assert not deliveries[1].drops


def test_a_batch_larger_than_the_limit_still_comes_through():
    subscriber = wanting(watch(events_max=10))
    for counter in (450, 900):
        subscriber.push(LiveBatch("step", header(450, counter), b"x"), 0)
    assert [delivery.number for _, delivery in drain(subscriber)] == [900]


def test_a_smaller_limit_holds_at_once():
    subscriber = wanting(watch())
    for _ in range(100):
        subscriber.push(LiveBatch("step", header(), b"x"), 0)
    subscriber.want(watch(events_max=5))
    assert subscriber.queued_events == 5


def test_no_tick_overtakes_what_is_queued():
    subscriber = wanting(watch())
    subscriber.push(LiveBatch("step", header(), b"x"), 0)
    assert subscriber.tick() is None


@pytest.mark.parametrize("streams", [1, 40_000])
def test_a_frozen_subscriber_costs_a_bounded_number_of_drops(streams):
    """One that never reads, and a broker that is flooded with streams that nobody ever heard of."""
    subscriber = wanting(watch(events_max=100))
    pushes = 40_000
    for number in range(pushes):
        kind = "episode" if number % 500 == 0 else "step"
        subscriber.push(LiveBatch(kind, header(1, 1, (number % streams).to_bytes(16, "big")), b"x"), 0)
    assert len(subscriber._unreported) <= 2 * queue.UNREPORTED_MAX + 1_000
    told = 0
    for received, (_, delivery) in enumerate(drain(subscriber), start=1):
        told += sum(drop.events for drop in delivery.drops)
        assert received + told == delivery.number
    tail = subscriber.tick()
    assert tail is not None
    assert received + told + sum(drop.events for drop in tail.drops) == tail.number == pushes


def test_drops_that_a_full_pipe_asks_for_again_and_again_stay_few():
    subscriber = wanting(watch(events_max=5))
    for counter in range(1, 900):
        subscriber.push(LiveBatch("step", header(1, counter), b"x"), 0)
    item = subscriber.peek(0)
    assert item is not None
    subscriber.delivery(item)
    assert len(subscriber._unreported) == 1


# -- filters, topics, the recent window --------------------------------------------------------------------------


def live_message(lane: LiveLane, run: str, kind: str, message: bytes = b"m", **fields: int) -> None:
    lane.push(topic_of(run, kind), header(**fields), message, 0)


def test_a_subscriber_gets_the_runs_and_kinds_that_it_wants():
    lane = LiveLane()
    wants = {
        b"all": watch(),
        b"one": watch(["r1"]),
        b"steps": watch(None, ["step"]),
        b"both": watch(["r2"], ["episode", "log"]),
        b"none": watch([], None),
    }
    for token, message in wants.items():
        lane.add(token, wanting(message))
    for run in ("r1", "r2"):
        for kind in ("step", "episode"):
            live_message(lane, run, kind)
    got = {token: kinds_of(drain(subscriber)) for token, subscriber in lane.subscribers.items()}
    assert got == {
        b"all": ["step", "episode"] * 2,
        b"one": ["step", "episode"],
        b"steps": ["step", "step"],
        b"both": ["episode"],
        b"none": [],
    }


def test_other_filters_change_neither_numbers_nor_queue():
    lane = LiveLane()
    lane.add(b"t", subscriber := wanting(watch(["r1"])))
    live_message(lane, "r1", "step")
    subscriber.want(watch(["r2"]))
    live_message(lane, "r1", "step")
    live_message(lane, "r2", "step")
    assert [delivery.number for _, delivery in drain(subscriber)] == [1, 2]


@pytest.mark.parametrize("topic", [b"", b"\0", b"run", b"run\0", b"\0step", b"\xff\0step", b"run\0\xff"])
def test_a_batch_without_a_topic_is_refused(topic):
    lane = LiveLane()
    lane.add(b"t", subscriber := wanting(watch()))
    with pytest.raises(WireError) as refused:
        lane.push(topic, header(), b"m", 0)
    assert (refused.value.reason, subscriber.number) == ("bad_topic", 0)


@given(st.text(min_size=1), st.sampled_from(sorted(TOPICS)))
def test_topics_round_trip(run, kind):
    assert topic_parts(topic_of(run, kind)) == (run, kind)
    assert topic_of(run, kind).startswith(topic_of(run, ""))


def test_wanted_is_what_subscribers_and_the_tap_want():
    lane = LiveLane()
    assert lane.wanted() == set()
    lane.add(b"1", wanting(watch(["r1", "r2"], ["step"])))
    lane.add(b"2", wanting(watch(["r2"], pictures=["r2", "r9"])))
    pictures = {pictures_wish(b"r2\0")}
    assert lane.wanted([b"r3\0step"]) == {b"r1\0", b"r2\0", b"r3\0step"} | pictures
    assert lane.wanted([b"r3\0fr"]) == {b"r1\0", b"r2\0", b"r3\0fr"} | pictures | {pictures_wish(b"r3\0")}
    assert lane.wanted([pictures_wish(b"r3\0")]) == {b"r1\0", b"r2\0"} | pictures, "no batch has such a topic"
    lane.add(b"3", wanting(watch(pictures=[])))
    assert live.ALL_RUNS in lane.wanted()
    lane.remove(b"3")
    lane.remove(b"1")
    assert lane.wanted() == {b"r2\0", pictures_wish(b"r2\0")}


@pytest.mark.parametrize(("runs", "kinds", "pictures", "wanted"), [
    (None, None, None, {"a", "b"}), (["a"], None, None, {"a"}), (["a", "b"], None, ["b", "c"], {"b"}),
    (None, None, ["b"], {"b"}), (None, None, [], set()), (["a"], ["step"], None, set()),
    (None, ["frame"], None, {"a", "b"}), (["a"], ["frame", "step"], ["a"], {"a"}),
])  # fmt: skip
def test_pictures_are_asked_of_the_runs_that_are_watched_for_them(runs, kinds, pictures, wanted):
    lane = LiveLane()
    lane.add(b"1", wanting(watch(runs, kinds, pictures=pictures)))
    wishes = lane.wanted()
    assert {run for run in ("a", "b") if wishes_pictures(wishes, run)} == wanted
    everybody = runs is None and pictures is None
    assert wishes_pictures(wishes, "ab") is everybody


@pytest.mark.parametrize(("topic", "wanted"), [
    (b"", True), (b"ru", True), (b"run\0", True), (b"run\0f", True),
    (b"run\0frame", True), (b"run\0frames", False), (b"run\0step", False), (b"runs", False), (b"run\0\0", False),
    (b"other\0", False),
])  # fmt: skip
def test_the_tap_wants_pictures_of_the_runs_that_it_may_mean(topic, wanted):
    wishes = LiveLane().wanted([topic])
    assert wishes_pictures(wishes, "run") is wanted
    assert not any(topic_of("run", kind).startswith(wish) for wish in wishes - {topic} for kind in ("frame", "step"))


def test_all_queues_together_have_one_bound_and_each_an_equal_share(monkeypatch):
    monkeypatch.setattr(limits, "LIVE_QUEUES_BYTES_MAX", 40_000)
    monkeypatch.setattr(limits, "LIVE_QUEUE_BYTES_MAX", 15_000)
    lane = LiveLane()

    def fill() -> list[int]:
        for _ in range(60):
            live_message(lane, "r", "step", bytes(1_000))
        return [one.queued_bytes for one in lane.subscribers.values()]

    for number in range(1, 6):
        lane.add(bytes([number]), wanting(watch(["r"])))
        found, share = fill(), min(15_000, 40_000 // number)
        assert all(share - 3_000 < one <= share for one in found)
        assert all(one.number == one.delivered + one.queued_events + one.dropped["queue_full"]
                   for one in lane.subscribers.values())  # fmt: skip
    for number in range(1, 5):
        lane.remove(bytes([number]))
    assert 12_000 < fill()[0] <= 15_000, "what the others had is its own again, up to the most of one"


def test_the_recent_window_keeps_what_is_rare_beside_what_is_frequent():
    lane = LiveLane()
    lane.add(b"t", wanting(watch(["r"])))
    live_message(lane, "r", "run_started", b"started")
    live_message(lane, "r", "episode", b"episode")
    for number in range(10_000):
        live_message(lane, "r", "step", b"%100d" % number)
    recent = lane.recent.batches(lambda run, kind: True)
    assert recent[:2] == [b"started", b"episode"]
    assert recent[-1] == b"%100d" % 9_999
    assert len(recent) <= 2 + limits.LIVE_RECENT_BATCHES
    assert recent[2:] == sorted(recent[2:]), "oldest first"


def test_the_recent_window_is_bounded_over_any_number_of_runs(monkeypatch):
    monkeypatch.setattr(recent_window, "_RECENT_BYTES_MAX", 1_000_000)
    lane = LiveLane()
    lane.add(b"t", wanting(watch()))
    for number in range(1_000):
        live_message(lane, f"r{number}", "step", bytes(5_000))
        live_message(lane, f"r{number}", "frame", bytes(limits.MIB))
        assert lane.recent.size <= 1_000_000
    recent = lane.recent.batches(lambda run, kind: True)
    assert 0 < sum(map(len, recent)) <= limits.LIVE_RECENT_BYTES


def test_runs_that_only_the_tap_hears_leave_nothing_behind():
    lane = LiveLane()
    live_message(lane, "r", "step")
    assert lane.recent.size == 0


# -- who watches -------------------------------------------------------------------------------------------------


class Watchers:
    """A core, and what it answers."""

    def __init__(self) -> None:
        self.core = LiveCore(
            instance=INSTANCE,
            endpoints=lambda: ENDPOINTS,
            new_token=iter(bytes([n]) * 16 for n in range(1, 99)).__next__,
        )
        self.now_ns = 0

    def say(self, routing_id: bytes, message: control.Message) -> list[control.Message]:
        return self.core.receive(Peer(routing_id, LOCAL_USERS), message, self.now_ns, 0)

    def token(self, peer: bytes, message: control.Watch) -> bytes:
        watching = self.say(peer, message)[0]
        assert isinstance(watching, control.Watching)
        assert (watching.instance, watching.endpoints, watching.policy) == (INSTANCE, ENDPOINTS, message.policy)
        return watching.token


def test_each_watcher_has_a_token_and_keeps_it():
    watchers = Watchers()
    first, second = watchers.token(b"p1", watch(["r"])), watchers.token(b"p2", watch(["r"]))
    assert first != second
    assert watchers.token(b"p1", watch(["s"])) == first
    assert set(watchers.core.lane.subscribers) == {first, second}


def test_more_watchers_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(limits, "WATCHERS_MAX", 2)
    watchers = Watchers()
    for peer in (b"p1", b"p2"):
        watchers.token(peer, watch())
    (refused,) = watchers.say(b"p3", watch())
    assert isinstance(refused, control.Refused)
    watchers.token(b"p1", watch(["r"]))  # one that is here may change its mind
    watchers.say(b"p2", control.Unwatch())
    watchers.token(b"p3", watch())


def test_a_heartbeat_is_answered_and_one_of_a_stranger_is_answered_with_who():
    watchers = Watchers()
    watchers.token(b"p1", watch())
    assert watchers.say(b"p1", control.WatchBeat(7)) == [control.Alive(INSTANCE, 7, 0)]
    assert watchers.say(b"p2", control.WatchBeat(7)) == [control.Who(INSTANCE, bytes(16))]


def test_a_silent_watcher_is_forgotten():
    watchers = Watchers()
    watchers.token(b"p1", watch(["r"]))
    watchers.token(b"p2", watch(["s"]))
    for _ in range(20):
        watchers.now_ns += NS
        watchers.say(b"p1", control.WatchBeat(0))
        watchers.core.tick(watchers.now_ns)
    assert watchers.core.lane.wanted() == {b"r\0", pictures_wish(b"r\0")}
    assert watchers.say(b"p2", control.WatchBeat(0)) == [control.Who(INSTANCE, bytes(16))]


@pytest.mark.parametrize(("age_ms", "absent_s"), [(1, 5), (10_000, 10), (3_600_000, 60)])
def test_a_watcher_is_waited_for_while_what_it_has_queued_is_not_too_old(age_ms, absent_s):
    watchers = Watchers()
    watchers.token(b"p", watch(["r"], age_ms_max=age_ms))
    watchers.now_ns += absent_s * NS
    watchers.core.tick(watchers.now_ns)
    assert watchers.core.lane.subscribers
    watchers.now_ns += 1
    watchers.core.tick(watchers.now_ns)
    assert not watchers.core.lane.subscribers


def test_what_workers_number_while_nobody_wants_it_is_not_lost():
    """A worker goes on for a moment after it was asked to end; runs that stay wanted keep their account."""
    lane = LiveLane()
    for run, stream in (("r1", b"1" * 16), ("r2", b"2" * 16)):
        body = records.frame(msgspec.msgpack.encode(Log(1, "info", "line", "agent", 0, 0)))
        for counter in (1, 5):
            message = batch.pack(batch.Header(
                session=INSTANCE, stream=stream, epoch=0, first_seq=1, last_seq=1, events=1, counter=counter,
                time_ns=0, flags=batch.FLAG_LIVE,
            ), body)  # fmt: skip
            lane.push(topic_of(run, "log"), batch.parse_header(message)[0], message, 0)
            lane.asked({topic_of("r1", ""), topic_of("r2", "")}, {topic_of("r2", "")})
    assert lane.ledger.sources[b"1" * 16, "log"].lost_in_transit == 0
    assert lane.ledger.sources[b"2" * 16, "log"].lost_in_transit == 3


def test_saying_watch_is_a_sign_of_life_too():
    watchers = Watchers()
    token = watchers.token(b"p1", watch(["r"]))
    for _ in range(4):
        watchers.now_ns += int(limits.LIVE_ABSENT_S * 0.6 * NS)
        assert watchers.token(b"p1", watch(["r"])) == token
        watchers.core.tick(watchers.now_ns)


def test_a_tick_is_due_once_a_second():
    watchers = Watchers()
    token = watchers.token(b"p1", watch())
    due = []
    for _ in range(300):
        watchers.now_ns += NS // 100
        due += watchers.core.tick(watchers.now_ns)
    assert due == [token] * 2


def test_only_runs_that_are_newly_wanted_come_with_their_recent_batches():
    watchers = Watchers()
    watchers.token(b"p1", watch())
    for run in ("r1", "r2"):
        live_message(watchers.core.lane, run, "step", run.encode())
        live_message(watchers.core.lane, run, "episode", run.encode() + b" episode")
    assert watchers.say(b"p2", watch(["r1"], ["step"]))[1:] == [control.Recent(INSTANCE, [b"r1"])]
    assert watchers.say(b"p2", watch(["r1"]))[1:] == []
    assert watchers.say(b"p2", watch(["r1", "r2"]))[1:] == [control.Recent(INSTANCE, [b"r2", b"r2 episode"])]
    assert watchers.say(b"p2", watch())[1:] == []
    assert watchers.say(b"p2", watch(["r1"]))[1:] == [], "it had all runs"


def test_the_window_of_a_run_goes_with_its_last_watcher():
    watchers = Watchers()
    watchers.token(b"p1", watch(["r1"]))
    live_message(watchers.core.lane, "r1", "step")
    watchers.token(b"p2", watch(["r1"]))
    watchers.say(b"p1", control.Unwatch())
    assert watchers.core.lane.recent.size
    watchers.say(b"p2", watch(["r2"]))
    assert watchers.core.lane.recent.size == 0


def test_status_names_what_was_numbered_delivered_queued_and_dropped():
    watchers = Watchers()
    token = watchers.token(b"p1", watch(["r"], events_max=2))
    for _ in range(3):
        live_message(watchers.core.lane, "r", "step")
    subscriber = watchers.core.lane.subscribers[token]
    item = subscriber.peek(0)
    assert item is not None
    subscriber.sent(item)
    watchers.say(b"p1", control.WatchBeat(7, received=1))
    watchers.now_ns = NS
    (status,) = watchers.core.status(NS)
    assert status == {
        "name": "viewer", "runs": ["r"], "kinds": None, "agents": None, "pictures": ["r"],
        "policy": {"events_max": 2, "age_ms_max": 10_000, "mode": "drop_oldest", "every": 1},
        "numbered": 3, "delivered": 1, "queued": 1, "queued_bytes": 1 + limits.BATCH_OVERHEAD_BYTES,
        "dropped": {"queue_full": 1},
        "received": 1, "lost_in_transit": 0, "heard_s": 1.0,
    }  # fmt: skip
