"""The broker's rules: who may send, how much and from where, and what is acknowledged."""

from itertools import count

import msgspec
import pytest

from telefabric import __version__, limits
from telefabric.broker.core.durable import BrokerCore
from telefabric.errors import UsageError, WireError
from telefabric.keys.core.roles import Refused
from telefabric.limits import NS
from telefabric.peer.core.principal import LOCAL_USERS, Peer, Principal, Role
from telefabric.wire import batch, control, records
from telefabric_schemas import Log

INSTANCE = b"i" * 16
OTHER = b"o" * 16
A, B = b"a" * 16, b"b" * 16


def local(name: bytes) -> Peer:
    return Peer(name, LOCAL_USERS)


def own(name: bytes) -> Peer:
    return Peer(name, Principal("ada", Role.BROKERS_USER))


WORKER, WORKER_2, EXPORTER = map(local, (b"worker", b"worker-2", b"exporter"))
STORE, MIRROR = map(own, (b"store", b"mirror"))
BASE = limits.CREDIT_BASE_BYTES
HEARTBEAT_NS = int(limits.HEARTBEAT_S * NS)


class World:
    """A broker, and what its peers say to it, on a clock that only moves when told."""

    def __init__(self, **settings):
        tokens = count(1)
        self.core = BrokerCore(
            instance=INSTANCE,
            endpoints=control.Endpoints("*:7751", "*:7753"),
            new_token=lambda: b"token%d" % next(tokens),
            **settings,
        )
        self.now_ns = 0

    def tell(self, peer, message, **more):
        """What the broker sends because of one message, as (peer, message)."""
        self.core.receive(peer, message, self.now_ns, 1_000 + self.now_ns, **more)
        return [tuple(send) for send in self.core.take()]

    def wait(self, seconds, *, alive=()):
        """Let time pass; the durable subscribers in `alive` keep their heartbeats."""
        sent = []
        end_ns = self.now_ns + int(seconds * NS)
        while self.now_ns < end_ns:
            self.now_ns = min(self.now_ns + HEARTBEAT_NS // 4, end_ns)
            for peer in alive:
                self.core.receive(peer, control.DurableBeat(0), self.now_ns, 0)
            self.core.tick(self.now_ns)
            sent += [tuple(send) for send in self.core.take()]
        return [(peer, message) for peer, message in sent if not isinstance(message, (control.Alive, control.Living))]

    def attach(self, peer=STORE, name="store", query=None, keeps="", fabric=None):
        return self.tell(peer, control.Attach(control.PROTOCOL, name, query, keeps, fabric))

    def hello(self, stream=A, peer=WORKER, *, oldest=1, head=100, metadata=b"\x80"):
        info = control.StreamInfo(stream, "run", "worker", "agent", 0, metadata=metadata)
        return self.tell(peer, control.Hello(control.PROTOCOL, info, oldest, head))

    def marks(self, stream=A, seq=0, peer=STORE, instance=INSTANCE):
        return self.tell(peer, control.Marks(instance, [control.StreamSeq(stream, seq)]))

    def stored(self, stream=A, seq=0, peer=STORE, instance=INSTANCE):
        return self.tell(peer, control.Stored(instance, [control.StreamSeq(stream, seq)]))

    def nack(self, expected, *, stream=A, epoch=None, peer=STORE, instance=INSTANCE):
        epoch = self.epoch(stream) if epoch is None else epoch
        return self.tell(peer, control.Nack(instance, stream, epoch, expected, "missing"))

    def beat(self, stream=A, peer=WORKER, *, backlog=0, credit=BASE, epoch=None, next_bytes=0, head=100):
        epoch = self.epoch(stream) if epoch is None else epoch
        one = control.StreamBeat(stream, 1, head, backlog, credit, epoch, next_bytes)
        sent = self.tell(peer, control.Beat(self.now_ns, [one]))
        assert isinstance(sent[0][1], control.Alive)
        return sent[1:]

    def send(self, first, last, *, stream=A, epoch=None, session=INSTANCE, size=100, flags=0):
        """A batch on the data socket; the message, whatever became of it."""
        epoch = self.epoch(stream) if epoch is None else epoch
        events = 1 if flags & batch.FLAG_GAP else last - first + 1
        message = batch.pack(batch.Header(
            session=session, stream=stream, epoch=epoch, first_seq=first, last_seq=last, events=events, time_ns=0,
            flags=flags, counter=0,
        ), bytes(size))  # fmt: skip
        self.core.batch(message, self.now_ns)
        return message

    def epoch(self, stream=A):
        state = self.core._streams.get(stream)
        return state.epoch if state else 0

    def status(self, stream=A):
        streams = self.core.status(self.now_ns)["streams"]
        return next(one for one in streams if one["stream_id"] == stream.hex())

    def queued(self, name="store"):
        queued = []
        while (message := self.core.lane.peek(name)) is not None:
            queued.append(message)
            self.core.lane.sent(name)
        return queued


@pytest.fixture
def world():
    return World()


@pytest.fixture
def open_world(world):
    world.attach()
    world.hello()
    world.marks(seq=0)
    return world


def only(sent, kind):
    found = [message for _, message in sent if isinstance(message, kind)]
    assert len(found) == 1, sent
    return found[0]


# -- opening -----------------------------------------------------------------------------------------------------


def test_the_name_of_the_store_goes_to_workers_and_subscribers_and_no_other_takes_its_place(world):
    name, other = b"f" * 16, b"o" * 16
    assert only(world.attach(peer=local(b"x"), name="exporter", fabric=other), control.Attached).fabric is None
    assert only(world.attach(fabric=name), control.Attached).fabric == name
    assert only(world.hello(), control.Welcome).fabric == name
    assert only(world.marks(seq=0), control.Welcome).fabric == name
    assert only(world.attach(peer=local(b"y"), name="relay", fabric=other), control.Attached).fabric == name


def test_without_the_required_store_a_stream_is_told_to_wait_and_why(world):
    welcome = only(world.hello(), control.Welcome)
    assert welcome.expected is None
    assert welcome.credit_bytes == 0
    assert welcome.wait_reason == "no store is attached to the broker"
    world.send(1, 5)
    assert world.core.lane.bytes == 0


def test_a_stream_waits_until_the_store_has_reported_it(world):
    world.attach()
    sent = world.hello()
    assert only(sent, control.Welcome).wait_reason == "the store has not reported this stream yet"
    assert (STORE, only(sent, control.Ask)) in sent
    opened = world.marks(seq=41)
    welcome = only(opened, control.Welcome)
    assert (welcome.expected, welcome.credit_bytes, welcome.instance) == (42, BASE, INSTANCE)
    assert opened[0][0] == WORKER


def test_a_store_that_attaches_later_is_asked_for_all_streams(world):
    world.hello(A)
    world.hello(B, WORKER_2)
    sent = world.attach()
    assert only(sent, control.Attached).token == world.core.tokens()["store"]
    assert [info.stream for info in only(sent, control.Ask).streams] == [A, B]


def test_a_store_is_asked_again_until_it_has_reported(world):
    world.attach()
    world.hello()  # ASK, or its answer, is lost on the way
    asked = [send for send in world.wait(limits.ACK_STALL_S + 1, alive=[STORE]) if isinstance(send[1], control.Ask)]
    assert [(peer, [info.stream for info in ask.streams]) for peer, ask in asked] == [(STORE, [A])]
    world.marks()
    sent = world.wait(limits.ACK_STALL_S + 1, alive=[STORE])
    assert not [message for _, message in sent if isinstance(message, control.Ask)]


def test_a_store_is_told_its_token_again_until_it_has_subscribed_to_it(world):
    told = only(world.attach(), control.Attached)  # lost on the way: the store goes on with the token of before
    again = [message for _, message in world.wait(limits.ACK_STALL_S + 1, alive=[STORE])]
    assert again == [told]
    world.core.subscribed(told.token)
    assert not world.wait(limits.ACK_STALL_S + 1, alive=[STORE])


def test_what_is_asked_is_split_into_messages_that_stay_within_the_limit(world):
    metadata = bytes(limits.METADATA_BYTES_MAX)
    for number in range(10):
        world.hello(bytes([number]) * 16, metadata=metadata)
    asks = [message for _, message in world.attach() if isinstance(message, control.Ask)]
    assert sum(len(ask.streams) for ask in asks) == 10
    assert all(len(control.encode(ask)) <= limits.CONTROL_BYTES_MAX for ask in asks)


def test_the_welcome_names_the_store_s_query_endpoint(world):
    world.attach(query="*:7754")
    world.hello()
    assert only(world.marks(), control.Welcome).endpoints == control.Endpoints("*:7751", "*:7753", "*:7754")


def test_a_welcome_and_an_attachment_name_the_store_behind_the_broker(world):
    assert only(world.attach(EXPORTER, "exporter", fabric=b"e" * 16), control.Attached).fabric is None
    assert only(world.hello(), control.Welcome).fabric is None
    assert only(world.attach(fabric=b"f" * 16), control.Attached).fabric == b"f" * 16
    assert only(world.marks(), control.Welcome).fabric == b"f" * 16


def test_the_query_endpoint_is_that_of_a_store_that_is_waited_for(world):
    world.attach(EXPORTER, "exporter", query="*:9999")
    assert world.core.endpoints.query is None
    world.attach(query="*:7754")
    world.attach(EXPORTER, "exporter", query="*:9999")
    assert world.core.endpoints.query == "*:7754"


INFO = control.StreamInfo(A, "run", "worker", "agent", 0)


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (control.Hello(99, msgspec.structs.replace(INFO, sdk_version="9.9"), 1, 1), "it to telefabric 9.9 or newer"),
        (control.Hello(99, INFO, 1, 1), "it to the version of what connects to it"),
        (control.Attach(99, "store"), "it to the version of what connects to it"),
        (control.Watch(0, "v"), f"what connects to it to telefabric {__version__} or newer"),
    ],
)
def test_another_protocol_is_refused_and_counted_and_the_sentence_says_what_to_upgrade_to_which_version(
    world, message, remedy
):
    refused = only(world.tell(STORE, message), control.Refused)
    known = f"this broker, telefabric {__version__}, speaks protocol 1, not {message.protocol}"
    assert refused.reason == f"{known}: upgrade {remedy}"
    assert world.core.dropped == {"protocol": 1}


def test_a_hello_beyond_the_limit_of_streams_is_told_to_wait():
    world = World(streams_max=1)
    world.hello(A)
    welcome = only(world.hello(B, WORKER_2), control.Welcome)
    assert welcome.expected is None
    assert "limit of 1 streams" in welcome.wait_reason
    assert [one for _, one in world.beat(B, WORKER_2)] == [control.Who(INSTANCE, B)]


def test_one_key_has_a_limit_of_streams_and_of_live_subscribers(world, monkeypatch):
    monkeypatch.setattr(limits, "STREAMS_OF_KEY_MAX", 1)
    monkeypatch.setattr(limits, "WATCHERS_OF_KEY_MAX", 1)
    ada, bob = (Peer(b"peer", Principal(name, Role.RELAY)) for name in ("ada", "bob"))
    watch = control.Watch(control.PROTOCOL, "viewer")
    for peer in (ada, bob):
        assert only(world.hello(A if peer is ada else B, peer), control.Welcome)
        assert only(world.tell(peer, watch), control.Watching)
    again = Peer(b"another connection", ada.principal)
    assert "has its limit of 1 streams" in only(world.hello(b"c" * 16, again), control.Refused).reason
    assert "has its limit of 1 live subscribers" in only(world.tell(again, watch), control.Refused).reason
    for reason in ("too_many_streams", "too_many_watchers"):
        assert world.core.refused[Refused(reason, "control", "ada")] == 1


def test_a_stream_that_no_store_takes_for_the_run_that_was_named_goes_back_to_a_key_that_covers_its_own(world):
    eve, ada = (Peer(b"peer", Principal(name, Role.WORKER, runs)) for name, runs in (("eve", "evil-*"), ("ada", "run")))
    world.attach()
    info = control.StreamInfo(A, "evil-1", "worker", "agent", 0)
    assert only(world.tell(eve, control.Hello(control.PROTOCOL, info, 1, 100)), control.Welcome).expected is None
    assert only(world.hello(A, ada), control.Refused), "the store may be about to answer"
    world.wait(limits.ACK_STALL_S + 1, alive=[STORE])
    assert only(world.hello(A, ada), control.Welcome)
    assert only(world.marks(A, 7), control.Welcome).expected == 8
    assert only(world.tell(eve, control.Hello(control.PROTOCOL, info, 1, 100)), control.Refused)


def test_a_second_hello_opens_the_stream_afresh(open_world):
    world = open_world
    world.send(1, 5)
    first_epoch = world.epoch()
    assert only(world.hello(), control.Welcome).expected is None
    assert world.status()["in_flight_bytes"] == 0
    welcome = only(world.marks(seq=0), control.Welcome)
    assert welcome.expected == 1
    assert welcome.epoch > first_epoch


def test_an_epoch_is_never_used_twice(open_world):
    world = open_world
    first = world.epoch()
    world.tell(WORKER, control.Bye(A, True))
    world.hello()
    world.marks()
    assert world.epoch() > first


def test_settings_that_could_lend_more_than_there_is_are_refused():
    with pytest.raises(UsageError, match="2000 streams need"):
        World(streams_max=2_000, durable_bytes_max=128 * limits.MIB)
    with pytest.raises(UsageError, match="required"):
        World(required=())


# -- batches -----------------------------------------------------------------------------------------------------


def test_a_batch_of_an_open_stream_is_forwarded_unchanged(open_world):
    messages = [open_world.send(1, 5), open_world.send(6, 9)]
    assert open_world.queued() == messages


def test_a_gap_batch_is_forwarded_like_any_other(open_world):
    message = open_world.send(1, 1_000, flags=batch.FLAG_GAP)
    assert open_world.queued() == [message]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"epoch": 999}, "stale"),
        ({"epoch": 0}, "stale"),
        ({"session": OTHER}, "stale"),
        ({"stream": B}, "unknown_stream"),
    ],
)
def test_a_batch_of_another_instance_epoch_or_stream_is_counted_and_ignored(open_world, settings, reason):
    open_world.send(1, 5, **settings)
    assert open_world.core.dropped == {reason: 1}
    assert open_world.core.lane.bytes == 0
    assert open_world.core.take() == []


@pytest.mark.parametrize("message", [b"", b"\x00" * 200, b"TF", b"TF\x09" + bytes(200)])
def test_bytes_that_are_no_batch_are_counted(open_world, message):
    open_world.core.batch(message)
    assert open_world.core.dropped.total() == 1
    assert open_world.core.lane.bytes == 0


def test_a_batch_over_the_credit_is_dropped_and_the_stream_rewound(open_world):
    world = open_world
    epoch = world.epoch()
    world.send(1, 5, size=BASE - 1_000)
    world.send(6, 9, size=1_000)
    assert len(world.queued()) == 1
    assert world.core.dropped == {"over_credit": 1}
    assert world.status()["over_credit"] == 1
    [(peer, rewind)] = world.core.take()
    assert peer == WORKER
    assert rewind == control.Rewind(INSTANCE, A, epoch + 1, 6, BASE, "over_credit")
    world.send(10, 12, epoch=epoch)
    assert world.core.dropped["stale"] == 1, "what was on its way behind it"


def test_acknowledged_bytes_may_be_used_again(open_world):
    world = open_world
    for last in range(1, 20):
        world.send(last, last, size=BASE - 1_000)
        world.stored(seq=last)
    assert world.core.dropped == {}


def test_the_lane_has_a_limit_that_no_number_of_rewinds_gets_round():
    """Batches of ended epochs still wait for a slow store, beside those that the credit counts."""
    total = limits.CREDIT_BASE_BYTES + limits.EVENT_BYTES_MAX
    world = World(streams_max=1, durable_bytes_max=total)
    world.attach()
    world.hello()
    world.marks()
    for seq in range(1, 1_000, 5):
        world.send(seq, seq + 4, size=BASE - 1_000)
        world.send(seq + 5, seq + 9, size=BASE - 1_000)
    assert world.core.lane.bytes <= total
    assert world.core.dropped["lane_full"] > 0


# -- acknowledgement ---------------------------------------------------------------------------------------------


def test_what_the_store_committed_is_acknowledged_to_the_worker(open_world):
    open_world.send(1, 5)
    assert open_world.stored(seq=5) == [(WORKER, control.Ack(INSTANCE, A, 5))]
    assert open_world.status()["in_flight_bytes"] == 0


def test_nothing_is_acknowledged_twice(open_world):
    open_world.stored(seq=5)
    assert open_world.stored(seq=5) == []
    assert open_world.stored(seq=3) == []


def test_several_required_subscribers_acknowledge_the_smallest_of_their_watermarks():
    world = World(required=("store", "mirror"))
    world.attach()
    assert "no mirror" in only(world.hello(), control.Welcome).wait_reason
    world.attach(MIRROR, "mirror")
    assert world.marks(seq=9) == []
    assert only(world.marks(seq=4, peer=MIRROR), control.Welcome).expected == 5
    assert world.stored(seq=20) == []
    assert world.stored(seq=12, peer=MIRROR) == [(WORKER, control.Ack(INSTANCE, A, 12))]
    assert world.stored(seq=30, peer=MIRROR) == [(WORKER, control.Ack(INSTANCE, A, 20))]


@pytest.mark.parametrize("say", ["marks", "stored"])
def test_nobody_is_believed_to_store_what_was_not_emitted(open_world, say):
    open_world.attach(EXPORTER, "exporter")
    open_world.marks(seq=0, peer=EXPORTER)
    before = open_world.status()
    told = only(getattr(open_world, say)(seq=2**62, peer=EXPORTER), control.Error)
    assert (told.reason, told.about, told.field) == ("beyond_head", say, "marks")
    assert open_world.status() == before
    assert open_world.core.dropped == {"beyond_head": 1}
    (mistake,) = open_world.core.status(open_world.now_ns)["mistakes"]
    assert (mistake["name"], mistake["peer"], mistake["field"]) == ("exporter", EXPORTER.id[:4].hex(), "marks")


def test_what_was_taken_before_a_rewind_may_be_stored(open_world):
    """The last heartbeat did not tell of it yet."""
    open_world.attach(EXPORTER, "exporter")
    open_world.marks(seq=0, peer=EXPORTER)
    open_world.send(1, 200)
    open_world.nack(1)
    assert open_world.stored(seq=200, peer=EXPORTER) == []
    assert open_world.status()["hops"][-1][2] == 200


def test_a_store_acknowledges_nothing_that_was_not_emitted(open_world):
    open_world.send(1, 5)
    assert only(open_world.stored(seq=101), control.Error).reason == "beyond_head"
    assert open_world.status()["acknowledged"] == 0
    assert only(open_world.stored(seq=5), control.Ack).seq == 5


def test_what_a_store_holds_counts_even_when_its_worker_lost_it(world):
    """A power loss may take the end of a spool that was stored before."""
    world.attach()
    world.hello(head=7)
    assert only(world.marks(seq=9), control.Welcome).expected == 10


def test_stored_is_what_the_required_subscribers_stored(open_world):
    open_world.attach(EXPORTER, "exporter")
    open_world.marks(seq=0, peer=EXPORTER)
    open_world.send(1, 5)
    open_world.stored(seq=5)
    assert open_world.status()["stored"] == 5


# -- mistakes ----------------------------------------------------------------------------------------------------


def test_a_bad_batch_is_answered_to_its_worker_by_name(open_world):
    for bytes_of_it, field in ((b"", ""), (b"TF" + bytes(84), "version")):
        open_world.core.batch(bytes_of_it, open_world.now_ns, topic=A)
        ((peer, told),) = open_world.core.take()
        assert (peer, told.about, told.field or "") == (WORKER, "batch", field)
    open_world.core.batch(b"", open_world.now_ns, topic=b"nobody's")
    assert open_world.core.take() == []
    names = [one["name"] for one in open_world.core.status(open_world.now_ns)["mistakes"]]
    assert names == ["", "run/worker", "run/worker"]


def test_counts_that_contradict_each_other_are_answered_from_either_socket(open_world):
    wrong = WireError("inconsistent", "counts", about="batch", field="events", stream=A)
    open_world.core.bad_batch(b"", wrong, open_world.now_ns)
    open_world.core.bad_live_batch(wrong, open_world.now_ns)
    told = [*open_world.core.take(), *open_world.wait(1, alive=[STORE])]
    assert [peer for peer, message in told if isinstance(message, control.Error)] == [WORKER, WORKER]


@pytest.mark.parametrize(("wrong", "field"), [({"session": OTHER}, "session"), ({"epoch": 0}, "epoch")])
def test_a_batch_that_never_was_of_this_epoch_is_answered(open_world, wrong, field):
    open_world.send(1, 5, **wrong)
    assert open_world.core.take() == [], "it may have been under way"
    open_world.now_ns += int((limits.ACK_STALL_S + 1) * NS)
    open_world.send(1, 5, **wrong)
    told = only([tuple(one) for one in open_world.core.take()], control.Error)
    assert (told.reason, told.about, told.field) == ("stale", "batch", field)
    assert open_world.core.dropped == {"stale": 2}


def test_whoever_goes_back_by_itself_is_told_how(open_world):
    open_world.send(1, 5)
    open_world.send(1, 5)
    told = only([tuple(one) for one in open_world.core.take()], control.Error)
    assert (told.reason, told.field) == ("repeated", "first_seq")


def test_a_damaged_body_is_sent_again_and_its_worker_hears_why(open_world):
    open_world.send(1, 5)
    nack = control.Nack(INSTANCE, A, open_world.epoch(), 1, "damaged")
    told = open_world.tell(STORE, nack)
    assert only(told, control.Rewind).reason == "damaged"
    assert (only(told, control.Error).reason, only(told, control.Error).field) == ("damaged", "body CRC")
    assert open_world.core.dropped["damaged"] == 1


def test_answers_to_mistakes_are_few_and_short_however_many_there_are(world):
    wrong = WireError("w" * 999, "\u20ac" * 999, about="\u20ac" * 999, field="f" * 999)
    answers = []
    for number in range(1_000):
        for peer in (local(b"same"), local(b"%d" % number)):
            world.core.mistaken(peer, wrong, world.now_ns)
            answers += world.core.take()
    assert sum(peer == local(b"same") for peer, _ in answers) == limits.ERRORS_A_SECOND
    assert len(answers) == limits.ERRORS_OF_ALL_A_SECOND
    assert max(len(control.encode(message)) for _, message in answers) <= limits.ERROR_BYTES_MAX
    assert all(control.decode(control.encode(message)) == message for _, message in answers)
    assert len(world.core.status(0)["mistakes"]) == limits.MISTAKES_KEPT
    world.now_ns += NS
    world.core.mistaken(local(b"same"), wrong, world.now_ns)
    assert len(world.core.take()) == 1


def test_a_subscriber_that_is_not_required_neither_opens_nor_acknowledges(world):
    world.attach(EXPORTER, "exporter")
    world.hello()
    assert world.marks(peer=EXPORTER) == []
    world.attach()
    world.marks()
    world.send(1, 5)
    assert world.stored(seq=5, peer=EXPORTER) == []


SKIPPED = control.Skipped(INSTANCE, [control.StreamSeq(A, 5)])


def heard(world, seconds):
    """What the exporter is told meanwhile, but for its token, which the test never subscribes to."""
    sent = world.wait(seconds, alive=[STORE, EXPORTER])
    return [message for peer, message in sent if peer == EXPORTER and not isinstance(message, control.Attached)]


def test_whoever_is_not_required_is_told_what_it_was_not_sent_until_it_has_reported_it(open_world):
    world = open_world
    world.send(1, 5)
    world.stored(seq=5)
    world.attach(EXPORTER, "exporter")
    world.send(6, 9)
    assert heard(world, 1.5) == [SKIPPED]
    assert len(world.queued("exporter")) == 1, "and what came since"
    assert heard(world, 2.5) == [SKIPPED, SKIPPED]
    world.marks(seq=5, peer=EXPORTER)
    assert heard(world, 2) == []


@pytest.fixture
def behind(open_world):
    """An exporter that has not reported what the store has."""
    open_world.attach(EXPORTER, "exporter")
    open_world.marks(peer=EXPORTER)
    open_world.send(1, 5)
    open_world.stored(seq=5)
    return open_world


def test_what_whoever_is_not_required_does_not_report_is_told_as_lost(behind):
    world = behind
    assert heard(world, limits.ACK_STALL_S - 1) == []
    assert heard(world, limits.ACK_STALL_S + 2)[0] == SKIPPED


def test_of_a_stream_that_ends_whoever_is_not_required_is_told_what_it_may_lack(behind):
    world = behind
    world.tell(WORKER, control.Bye(A, True))
    assert heard(world, 1.5) == [SKIPPED]
    world.stored(seq=5, peer=EXPORTER)
    assert heard(world, 2) == []


def test_what_is_acknowledged_and_comes_again_is_forwarded_and_not_in_flight(open_world):
    """Its acknowledgement reaches the worker before or after it sends again: who waits for another waits for ever."""
    world = open_world
    world.send(1, 5)
    world.nack(1)
    world.stored(seq=5)
    world.send(1, 5)
    world.send(6, 9)
    assert len(world.queued()) == 2, "what had not been sent to the store is not sent twice"
    assert world.status()["in_flight_bytes"] == 100 + batch.HEADER_BYTES + limits.BATCH_OVERHEAD_BYTES
    assert world.stored(seq=9) == [(WORKER, control.Ack(INSTANCE, A, 9))]
    assert world.status()["in_flight_bytes"] == 0


def test_a_batch_that_arrives_twice_is_taken_once(open_world):
    world = open_world
    world.send(1, 5)
    world.send(1, 5)
    world.send(3, 7)
    assert world.core.dropped == {"repeated": 2}
    assert len(world.queued()) == 1


def test_a_report_of_another_instance_is_ignored(world):
    world.attach()
    world.hello()
    assert world.marks(instance=OTHER) == []
    assert world.status()["state"] == "waiting"
    world.marks()
    assert world.stored(seq=5, instance=OTHER) == []
    assert world.nack(1, instance=OTHER) == []


def test_a_subscriber_that_is_unknown_here_is_told_to_attach(world):
    world.hello()
    for message in (control.Marks(INSTANCE, []), control.Stored(INSTANCE, []), control.DurableBeat(0)):
        assert (STORE, control.Who(INSTANCE, bytes(16))) in world.tell(STORE, message)


def test_reports_about_streams_that_are_unknown_here_are_ignored(open_world):
    assert open_world.marks(B, 5) == []
    assert open_world.stored(B, 5) == []
    assert open_world.nack(5, stream=B, epoch=1) == []


# -- rewinds -----------------------------------------------------------------------------------------------------


def test_a_nack_rewinds_the_worker_to_what_the_store_expects(open_world):
    world = open_world
    epoch = world.epoch()
    world.send(1, 5)
    world.send(9, 12)
    assert world.nack(6) == [(WORKER, control.Rewind(INSTANCE, A, epoch + 1, 6, BASE, "missing"))]
    assert world.status()["in_flight_bytes"] == 0


def test_a_nack_of_an_ended_epoch_is_ignored(open_world):
    world = open_world
    epoch = world.epoch()
    world.send(1, 5)
    world.nack(1)
    assert world.nack(1, epoch=epoch) == []


def test_a_nack_goes_back_to_the_smallest_of_what_the_required_subscribers_need():
    world = World(required=("store", "mirror"))
    world.attach()
    world.attach(MIRROR, "mirror")
    world.hello()
    world.marks(seq=20)
    world.marks(seq=7, peer=MIRROR)
    world.send(8, 40)
    assert only(world.nack(30), control.Rewind).expected == 8


def test_a_nack_of_one_that_is_not_required_disturbs_nobody(open_world):
    world = open_world
    world.attach(EXPORTER, "exporter")
    world.send(1, 5)
    epoch = world.epoch()
    assert world.nack(1, peer=EXPORTER) == []
    assert world.epoch() == epoch
    assert world.core.dropped == {"nack_not_required": 1}


@pytest.mark.parametrize(("expected", "rewound_to"), [(0, 1), (10**9, 6)])
def test_a_nack_cannot_send_the_worker_outside_of_its_stream(open_world, expected, rewound_to):
    open_world.send(1, 5)
    assert only(open_world.nack(expected), control.Rewind).expected == rewound_to


# -- the store goes and comes back -------------------------------------------------------------------------------


def test_a_store_that_attaches_again_is_asked_again_and_nothing_passes_until_it_answers(open_world):
    world = open_world
    world.send(1, 5)
    epoch = world.epoch()
    sent = world.attach(own(b"store-2"))
    assert [info.stream for info in only(sent, control.Ask).streams] == [A]
    world.send(6, 9, epoch=epoch)
    assert world.core.dropped == {"stale": 1}
    assert world.queued() == [], "the new one asks for what it lacks"
    welcome = only(world.marks(seq=3, peer=own(b"store-2")), control.Welcome)
    assert welcome.expected == 4
    assert welcome.epoch > epoch


def test_the_report_of_the_store_before_does_not_count_after_it_attached_again(open_world):
    open_world.attach(own(b"store-2"))
    assert open_world.marks(seq=3, peer=STORE)[0][1] == control.Who(INSTANCE, bytes(16))
    assert open_world.status()["state"] == "waiting"


def test_each_attach_has_a_token_of_its_own(world):
    first = only(world.attach(), control.Attached).token
    second = only(world.attach(), control.Attached).token
    assert first != second
    assert world.core.tokens() == {"store": second}


def test_a_silent_store_is_given_up_and_its_streams_wait(open_world):
    sent = open_world.wait(limits.DURABLE_ABSENT_S - 1)
    assert not [message for _, message in sent if isinstance(message, control.Welcome)]
    open_world.beat()
    welcome = only(open_world.wait(2), control.Welcome)
    assert welcome.expected is None
    assert welcome.wait_reason == "no store is attached to the broker"
    assert open_world.core.status(open_world.now_ns)["absent"] == ["store"]


def test_heartbeats_keep_a_store_attached(open_world):
    open_world.wait(limits.DURABLE_ABSENT_S * 1.5, alive=[STORE])
    assert "store" in open_world.core.tokens()


# -- heartbeats of workers ---------------------------------------------------------------------------------------


def test_a_heartbeat_is_answered_with_the_instance_and_the_clock(world):
    sent = world.tell(WORKER, control.Beat(77, []))
    assert sent == [(WORKER, control.Alive(INSTANCE, 77, 1_000))]


def test_a_heartbeat_of_an_unknown_stream_is_answered_with_who(world):
    assert world.beat(B) == [(WORKER, control.Who(INSTANCE, B))]


def test_a_heartbeat_from_another_peer_than_said_hello_is_answered_with_who(open_world):
    assert open_world.beat(A, WORKER_2) == [(WORKER_2, control.Who(INSTANCE, A))]


def test_a_worker_that_missed_its_welcome_is_asked_to_greet_again_after_a_heartbeat(open_world):
    stale = open_world.epoch() - 1
    assert open_world.beat(epoch=stale) == []
    open_world.now_ns += HEARTBEAT_NS + 1
    assert open_world.beat(epoch=stale) == [(WORKER, control.Who(INSTANCE, A))]


def test_a_heartbeat_that_crosses_a_rewind_is_not_answered_with_who(open_world):
    world = open_world
    world.wait(5, alive=[STORE])
    world.beat()
    epoch = world.epoch()
    world.nack(1)
    assert world.beat(epoch=epoch) == []
    world.wait(2, alive=[STORE])
    assert world.beat(epoch=epoch) == [(WORKER, control.Who(INSTANCE, A))], "it never heard of the rewind"


def test_a_silent_stream_is_forgotten_and_its_credit_lent_to_others(open_world):
    world = open_world
    world.beat(backlog=10**9)
    world.wait(1, alive=[STORE])
    assert world.core.status(world.now_ns)["credit_lent_bytes"] > BASE
    world.wait(limits.STREAM_ABSENT_S + 1, alive=[STORE])
    assert world.core.status(world.now_ns)["credit_lent_bytes"] == 0
    assert world.beat() == [(WORKER, control.Who(INSTANCE, A))]


def test_a_stream_that_says_bye_is_forgotten(open_world):
    open_world.tell(WORKER_2, control.Bye(A, True))
    assert open_world.status()["state"] == "running", "only its own peer may say it"
    open_world.tell(WORKER, control.Bye(A, True))
    assert open_world.core.status(0)["streams"] == []


# -- credit ------------------------------------------------------------------------------------------------------


def test_a_backlog_is_lent_credit_and_told(open_world):
    world = open_world
    world.wait(1, alive=[STORE])
    told = only(world.beat(backlog=10 * BASE), control.Credit)
    assert told == control.Credit(INSTANCE, A, world.epoch(), 20 * BASE, 20, 2), "it grows until the credit arrives"
    world.send(1, 5, size=5 * BASE)
    assert world.core.dropped == {}


def test_a_worker_that_has_not_heard_of_less_credit_may_still_use_it(open_world):
    world = open_world
    world.beat(backlog=10 * BASE)
    world.wait(1, alive=[STORE])
    world.beat(backlog=0, credit=20 * BASE)
    world.wait(1, alive=[STORE])
    world.send(1, 5, size=5 * BASE)
    assert world.core.dropped == {}
    world.stored(seq=5)
    world.beat(backlog=0, credit=BASE)
    world.send(6, 9, size=5 * BASE)
    assert world.core.dropped == {"over_credit": 1}


def test_a_rewind_starts_at_the_base_grant_even_while_the_stream_waits_for_a_big_one(open_world):
    world = open_world
    world.beat(backlog=10**6, next_bytes=10**6)
    world.send(1, 5)
    assert only(world.nack(1), control.Rewind).credit_bytes == BASE
    told = [message for _, message in world.wait(1, alive=[STORE]) if isinstance(message, control.Credit)]
    assert all(credit.credit_bytes >= BASE for credit in told)


def test_more_streams_are_told_to_send_less_often():
    world = World()
    world.attach()
    for number in range(200):
        stream = number.to_bytes(16, "big")
        world.hello(stream)
        welcome = only(world.marks(stream), control.Welcome)
    assert welcome.interval_ms == int(200 * limits.BATCH_INTERVAL_PER_STREAM_S * 1000)
    told = [message for _, message in world.wait(0.5, alive=[STORE]) if isinstance(message, control.Credit)]
    assert {credit.interval_ms for credit in told} == {welcome.interval_ms}
    assert len(told) == 200


def test_many_streams_that_ask_for_credit_are_granted_it_together():
    """A review looks at all of them, so that it is not for each heartbeat."""
    world = World()
    world.attach()
    streams = [number.to_bytes(16, "big") for number in range(100)]
    for stream in streams:
        world.hello(stream)
        world.marks(stream)
    world.wait(1, alive=[STORE])
    sent = [world.beat(stream, backlog=BASE) for stream in streams]
    assert [kinds(one) for one in sent] == 64 * [["Credit"]] + 36 * [[]]
    told = [message for _, message in world.wait(0.5, alive=[STORE]) if isinstance(message, control.Credit)]
    assert {credit.stream for credit in told} >= set(streams[64:])


def test_credit_is_told_again_while_the_heartbeats_do_not_show_it(open_world):
    world = open_world
    world.beat(backlog=10 * BASE)
    world.wait(0.5, alive=[STORE])  # the CREDIT is lost on the way
    assert world.beat(backlog=10 * BASE, credit=BASE) == [], "it may still be on its way"
    world.wait(1, alive=[STORE])
    assert only(world.beat(backlog=10 * BASE, credit=BASE), control.Credit).credit_bytes == 20 * BASE
    world.wait(2, alive=[STORE])
    assert world.beat(backlog=10 * BASE, credit=20 * BASE) == []


# -- the rest ----------------------------------------------------------------------------------------------------


def test_messages_that_only_a_broker_sends_are_counted_and_ignored(world):
    told = only(world.tell(WORKER, control.Ack(INSTANCE, A, 5)), control.Error)
    assert (told.reason, told.about) == ("unexpected_control", "ack")
    assert world.tell(WORKER, told) == [], "two that correct each other would never end"
    assert world.core.dropped == {"unexpected_control": 2}


def test_status_is_plain_values_that_fit_one_control_message(open_world):
    open_world.send(1, 5)
    reply = only(open_world.tell(local(b"cli"), control.StatusRequest()), control.StatusReply)
    assert control.decode(control.encode(reply)) == reply
    assert reply.status["streams"][0]["state"] == "running"
    assert reply.status["streams"][0]["in_flight_bytes"] > 0
    assert reply.status["durable"][0]["queued"] == 1


def test_a_stream_without_heartbeats_is_shown_as_stalled(open_world):
    open_world.wait(limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S + 1, alive=[STORE])
    assert open_world.status()["state"] == "stalled"


def test_a_second_store_of_the_name_with_another_file_is_refused_while_the_first_lives(world):
    world.attach(keeps="a:/store")
    ((peer, refused),) = world.attach(own(b"another store"), keeps="b:/store")
    assert peer == own(b"another store")
    assert "a:/store" in refused.reason
    assert world.core.dropped["second_durable"] == 1
    world.hello()
    world.marks(seq=3)
    assert world.core.status(world.now_ns)["streams"][0]["state"] == "running"
    world.wait(limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S + 0.1)
    only(world.attach(own(b"another store"), keeps="b:/store"), control.Attached)


def test_a_store_that_was_restarted_takes_its_own_place_at_once(world):
    world.attach(keeps="a:/store")
    only(world.attach(own(b"the same, restarted"), keeps="a:/store"), control.Attached)


def test_numbers_that_add_up_to_more_than_a_reply_can_hold_stop_no_status(open_world):
    ledger = open_world.core.live.lane.ledger
    for kind in ("step", "metric", "log"):
        ledger.overflowed(A, kind, "behind", control.COUNT_MAX, control.COUNT_MAX)
        ledger.ticked(A, [(kind, control.COUNT_MAX)])
    control.encode(control.StatusReply(INSTANCE, open_world.core.endpoints, open_world.core.status(0)))


def test_a_status_is_for_peers_that_do_not_ask_too_often_and_read_the_answers(world):
    asked = control.StatusRequest()
    for _ in range(limits.STATUSES_A_SECOND):
        only(world.tell(local(b"cli"), asked), control.StatusReply)
    assert world.tell(local(b"cli"), asked) == []
    assert world.tell(local(b"other"), asked, unread_bytes=limits.UNREAD_BYTES_MAX + 1) == []
    only(world.tell(local(b"other"), asked, unread_bytes=limits.UNREAD_BYTES_MAX), control.StatusReply)
    assert world.core.dropped == {"status_too_often": 1, "status_unread": 1}
    world.wait(2)
    only(world.tell(local(b"cli"), asked), control.StatusReply)


def test_recent_batches_too_are_for_peers_that_read(world):
    world.core.live.receive(local(b"first"), control.Watch(control.PROTOCOL, "v", None), 0, 0)
    body = records.frame(msgspec.msgpack.encode(Log(1, "info", "line", "agent", 0, 0)))
    message = batch.pack(batch.Header(
        session=INSTANCE, stream=A, epoch=0, first_seq=1, last_seq=1, events=1, counter=1, time_ns=0,
        flags=batch.FLAG_LIVE,
    ), body)  # fmt: skip
    world.core.live.lane.push(b"run\0log", batch.parse_header(message)[0], message, 0)
    watch = control.Watch(control.PROTOCOL, "v", ["run"])
    assert kinds(world.tell(local(b"slow"), watch, unread_bytes=limits.UNREAD_BYTES_MAX + 1)) == ["Watching"]
    assert kinds(world.tell(local(b"quick"), watch)) == ["Watching", "Recent"]


def kinds(sent):
    return [type(message).__name__ for _, message in sent]


# -- principals --------------------------------------------------------------------------------------------------


def test_a_routing_id_is_worth_nothing_without_the_principal_that_introduced_itself_with_it(world):
    """Whoever takes over the routing id of another principal is a stranger: to streams, to the store, to watchers."""
    alice, bob = (Principal(name, Role.RELAY) for name in ("alice", "bob"))
    anna, boris = (Peer(b"worker", principal) for principal in (alice, bob))
    world.attach()
    world.hello(peer=anna)
    assert kinds(world.marks()) == ["Welcome"]
    assert kinds(world.beat(peer=boris)) == ["Who"]
    assert kinds(world.beat(peer=anna)) == []
    world.tell(boris, control.Bye(A, complete=False))
    assert world.status()["run_id"] == "run"
    impostor = Peer(STORE.id, bob)
    assert kinds(world.stored(seq=0, peer=impostor)) == ["Who"]
    assert kinds(world.tell(impostor, control.DurableBeat(0))) == ["Who", "Alive"]
    world.tell(anna, control.Watch(control.PROTOCOL, "viewer", ["run"]))
    assert kinds(world.tell(boris, control.WatchBeat(0))) == ["Who"]
    assert kinds(world.tell(anna, control.WatchBeat(0))) == ["Alive"]


def test_what_is_sent_to_a_stream_goes_to_the_principal_that_said_hello_last(world):
    carrier, later = (Peer(b"worker", Principal(name, Role.WORKER)) for name in ("alice", "bob"))
    world.attach()
    world.hello(peer=carrier)
    assert [peer for peer, _ in world.marks()] == [carrier]
    world.hello(peer=later)
    assert [peer for peer, _ in world.marks()] == [later]


def test_the_key_that_said_hello_last_goes_to_the_store_whatever_a_worker_says(world):
    world.attach()
    info = control.StreamInfo(A, "run", "worker", "agent", 0, carrier="the queen")
    hello = control.Hello(control.PROTOCOL, info, 1, 1)
    ada, bob = (Peer(b"worker", Principal(name, Role.WORKER)) for name in ("ada", "bob"))
    for peer, carrier in ((WORKER, None), (ada, "ada"), (bob, "bob")):
        asked = [message for to, message in world.tell(peer, hello) if to == STORE]
        assert [one.carrier for message in asked for one in message.streams] == [carrier]
        assert world.status()["carrier"] == carrier


def test_only_the_user_of_the_broker_is_a_subscriber_that_is_waited_for(world):
    ((peer, refused),) = world.attach(local(b"stranger"), keeps="elsewhere")
    assert (peer, kinds([(peer, refused)])) == (local(b"stranger"), ["Refused"])
    assert "only the user that runs the broker may attach as 'store'" in refused.reason
    assert "telefabric keys init" in refused.reason
    assert world.core.dropped == {"other_user": 1}
    assert not world.core.refused, "nobody has a key"
    assert world.core.durables == {}
    only(world.attach(local(b"exporter"), name="exporter"), control.Attached)
    only(world.attach(STORE), control.Attached)
