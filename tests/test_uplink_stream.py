"""The worker's side of a stream: whom it listens to, what it sends, and when it says HELLO again."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telefabric import limits
from telefabric.limits import NS
from telefabric.uplink.core.stream import Phase, SendBatch, SendGap, StreamSession
from telefabric.wire import control
from telefabric.wire.batch import HEADER_BYTES

STREAM = b"s" * 16
BROKER = b"1" * 16
OTHER = b"2" * 16
BASE = limits.CREDIT_BASE_BYTES
ENDPOINTS = control.Endpoints("*:1", "*:2")


def info():
    return control.StreamInfo(STREAM, "run", "worker", "agent", 0)


def welcome(expected=1, *, instance=BROKER, epoch=1, credit=BASE, interval_ms=20, reason=None):
    return control.Welcome(instance, STREAM, epoch, expected, credit, interval_ms, ENDPOINTS, 1_000, reason)


def rewind(expected, *, instance=BROKER, epoch=2, credit=BASE):
    return control.Rewind(instance, STREAM, epoch, expected, credit, "missing")


def ack(seq, *, instance=BROKER):
    return control.Ack(instance, STREAM, seq)


@pytest.fixture
def session():
    return StreamSession(info(), Random(1))


@pytest.fixture
def open_session(session):
    session.welcome(welcome(), 0)
    return session


def decide(session, *, oldest=1, head=100, unsent=10**6, now_ns=10 * NS, hurry=False):
    return session.next_send(oldest=oldest, head=head, unsent_bytes=unsent, now_ns=now_ns, hurry=hurry)


# -- greeting ----------------------------------------------------------------------------------------------------


def test_a_new_stream_greets_at_once_and_then_after_growing_waits(session):
    now_ns, waits = 0, []
    assert session.hello_due(now_ns)
    for _ in range(8):
        asked_ns = now_ns
        while not session.hello_due(now_ns):
            now_ns += NS // 100
        waits.append(now_ns - asked_ns)
    assert waits[0] < limits.RECONNECT_MIN_S * NS * 1.1
    assert waits[-1] > 5 * waits[0]
    assert max(waits) <= limits.RECONNECT_MAX_S * NS


def test_nothing_is_sent_before_a_welcome(session):
    assert decide(session) is None


def test_hello_says_who_the_stream_is_and_what_is_held(session):
    assert session.hello(3, 9) == control.Hello(control.PROTOCOL, info(), 3, 9)


def test_a_welcome_without_expected_means_to_wait(session):
    session.welcome(welcome(None, reason="no store is attached to the broker"), 0)
    assert session.phase is Phase.WAITING
    assert session.wait_reason == "no store is attached to the broker"
    assert decide(session) is None
    assert not session.hello_due(10**15)
    session.welcome(welcome(5), 0)
    assert session.phase is Phase.STREAMING
    assert decide(session).first_seq == 5


def test_a_waiting_stream_claims_no_epoch_of_before(open_session):
    """Else its heartbeats would look as if it had heard of an opening under the same number by another broker."""
    open_session.welcome(welcome(None, instance=OTHER, epoch=0), 0)
    assert open_session.beat(oldest=1, head=9, backlog_bytes=1).epoch == 0


def test_who_makes_the_stream_greet_again_at_once(open_session):
    open_session.sent(5, 100, 0)
    open_session.who(7)
    assert open_session.hello_due(7)
    assert open_session.in_flight_bytes == 0
    assert decide(open_session) is None


def test_who_does_not_hurry_a_greeting_that_waits(session):
    assert session.hello_due(0)
    session.who(1)
    assert not session.hello_due(1)


def test_an_answer_of_another_broker_than_the_welcomes_makes_the_stream_greet(open_session):
    """Its own WELCOME was lost; the new broker's epoch may have the same number, so nothing else would tell."""
    open_session.alive(control.Alive(BROKER, 0, 0), 7)
    assert open_session.phase is Phase.STREAMING
    open_session.alive(control.Alive(OTHER, 0, 0), 7)
    assert open_session.hello_due(7)
    open_session.alive(control.Alive(OTHER, 0, 0), 8)
    assert not open_session.hello_due(8), "once"
    open_session.welcome(welcome(1, instance=OTHER), 9)
    open_session.alive(control.Alive(OTHER, 0, 0), 10)
    assert open_session.phase is Phase.STREAMING


def test_a_new_connection_greets_at_once(open_session):
    open_session.reconnected(5)
    assert open_session.phase is Phase.GREETING
    assert open_session.hello_due(5)


# -- sending -----------------------------------------------------------------------------------------------------


def test_sends_from_the_expected_seq_and_goes_on_behind_what_was_sent(session):
    session.welcome(welcome(7), 0)
    assert decide(session).first_seq == 7
    session.sent(20, 1_000, 10 * NS)
    assert session.cursor == 21


def test_a_stream_with_nothing_new_sends_nothing(open_session):
    open_session.sent(100, 1_000, 0)
    assert decide(open_session, head=100) is None


def test_few_bytes_are_gathered_for_the_interval_that_the_credit_names(session):
    session.welcome(welcome(interval_ms=500), 0)
    session.sent(1, 100, 10 * NS)
    soon, later = 10 * NS + 400_000_000, 10 * NS + 500_000_000
    assert decide(session, unsent=100, now_ns=soon) is None
    assert decide(session, unsent=100, now_ns=soon, hurry=True) is not None
    assert decide(session, unsent=limits.BATCH_BYTES_MAX, now_ns=soon) is None, "does not fit beside what is in flight"
    assert decide(session, unsent=100, now_ns=later) is not None


def test_the_body_with_header_and_overhead_stays_within_the_credit(session):
    session.welcome(welcome(credit=10_000), 0)
    free = 10_000 - limits.BATCH_OVERHEAD_BYTES
    send = decide(session)
    assert send == SendBatch(1, free - HEADER_BYTES, free)
    session.sent(50, send.bytes_max + HEADER_BYTES, 0)
    assert session.in_flight_bytes == 10_000
    assert decide(session) is None


def test_a_body_is_at_most_one_batch_however_large_the_credit(session):
    session.welcome(welcome(credit=10**9), 0)
    assert decide(session).bytes_max == limits.BATCH_BYTES_MAX


def test_credit_above_the_base_is_cut_into_several_batches(session):
    session.welcome(welcome(credit=8 * BASE), 0)
    assert decide(session).bytes_max == 2 * BASE
    session.welcome(welcome(credit=3 * BASE), 0)
    assert decide(session).bytes_max == BASE


def test_a_lowered_credit_stops_sending_until_enough_is_acknowledged(open_session):
    open_session.credited(control.Credit(BROKER, STREAM, 1, 10 * BASE, 20))
    for last in (10, 20, 30):
        open_session.sent(last, BASE - limits.BATCH_OVERHEAD_BYTES, 0)
    open_session.credited(control.Credit(BROKER, STREAM, 1, BASE, 20))
    assert decide(open_session) is None
    open_session.acknowledged(ack(20), 0)
    assert decide(open_session) is None
    open_session.acknowledged(ack(30), 0)
    assert decide(open_session).first_seq == 31


def test_no_dribble_of_small_batches_while_the_credit_is_nearly_used_up(open_session):
    open_session.sent(10, BASE - 2_000, 0)
    assert decide(open_session, unsent=10**6) is None


def test_a_gap_is_sent_when_the_spool_no_longer_holds_what_is_expected(session):
    session.welcome(welcome(5), 0)
    assert decide(session, oldest=40, head=100) == SendGap(5, 39)
    session.sent(39, 100, 0)
    assert decide(session, oldest=40, head=100, hurry=True, unsent=10).first_seq == 40


def test_a_gap_is_sent_even_when_nothing_follows_it(session):
    session.welcome(welcome(5), 0)
    assert decide(session, oldest=10, head=9) == SendGap(5, 9)


def test_a_gap_waits_for_credit_like_everything_else(open_session):
    open_session.sent(10, BASE - limits.BATCH_OVERHEAD_BYTES, 0)
    assert decide(open_session, oldest=40) is None


def test_an_event_larger_than_the_credit_is_asked_for_in_the_heartbeat_until_it_is_sent(open_session):
    open_session.too_large(10**6)
    beat = open_session.beat(oldest=1, head=9, backlog_bytes=10**6)
    assert beat.next_bytes >= 10**6 + HEADER_BYTES + limits.BATCH_OVERHEAD_BYTES
    open_session.sent(1, 10**6, 0)
    assert open_session.beat(oldest=1, head=9, backlog_bytes=10**6).next_bytes == 0


def test_the_heartbeat_says_which_credit_and_epoch_were_heard(open_session):
    open_session.credited(control.Credit(BROKER, STREAM, 1, 12_345, 20))
    beat = open_session.beat(oldest=2, head=9, backlog_bytes=77)
    assert beat == control.StreamBeat(STREAM, 2, 9, 77, 12_345, 1, 0, None)


def test_credit_that_was_lowered_is_given_back_only_as_far_as_it_is_not_in_flight(open_session):
    open_session.credited(control.Credit(BROKER, STREAM, 1, 10 * BASE, 20))
    open_session.sent(10, 8 * BASE, 0)
    open_session.sent(20, BASE, 0)
    open_session.credited(control.Credit(BROKER, STREAM, 1, BASE, 20))
    assert open_session.beat(oldest=1, head=20, backlog_bytes=0).credit_bytes == open_session.in_flight_bytes
    open_session.acknowledged(ack(20), 0)
    assert open_session.beat(oldest=1, head=20, backlog_bytes=0).credit_bytes == BASE


# -- acknowledgement ---------------------------------------------------------------------------------------------


def test_an_acknowledgement_frees_what_it_covers(open_session):
    open_session.sent(10, 1_000, 0)
    open_session.sent(20, 2_000, 0)
    open_session.acknowledged(ack(10), 0)
    assert open_session.acked == 10
    assert open_session.in_flight_bytes == 2_000 + limits.BATCH_OVERHEAD_BYTES


def test_the_acknowledged_position_never_goes_back(open_session):
    open_session.sent(10, 1_000, 0)
    open_session.acknowledged(ack(10), 0)
    open_session.acknowledged(ack(4), 0)
    open_session.welcome(welcome(3, epoch=2), 0)
    assert open_session.acked == 10
    assert open_session.cursor == 3


def test_a_welcome_acknowledges_all_before_the_expected_seq(session):
    session.welcome(welcome(50), 0)
    assert session.acked == 49


def test_a_stalled_acknowledgement_makes_the_stream_greet(open_session):
    open_session.sent(10, 1_000, 0)
    open_session.tick(int(limits.ACK_STALL_S * NS))
    assert open_session.phase is Phase.STREAMING
    open_session.tick(int(limits.ACK_STALL_S * NS) + 1)
    assert open_session.phase is Phase.GREETING


def test_slow_but_moving_acknowledgements_are_no_stall(open_session):
    for seq in range(1, 20):
        open_session.sent(seq, 1_000, 0)
    for seq in range(1, 19):
        now_ns = int(seq * 4 * NS)
        open_session.acknowledged(ack(seq), now_ns)
        open_session.tick(now_ns)
    assert open_session.phase is Phase.STREAMING


def test_sending_again_what_was_acknowledged_before_is_no_stall(open_session):
    """A store that was restored from an older copy is given its events again."""
    open_session.sent(100, 1_000, 0)
    open_session.acknowledged(ack(100), 0)
    open_session.welcome(welcome(1, epoch=2), 0)
    for seq in range(1, 10):
        open_session.sent(seq, 1_000, 0)
    for seq in range(1, 9):
        open_session.acknowledged(ack(seq), seq * 4 * NS)
        open_session.tick(seq * 4 * NS)
    assert open_session.phase is Phase.STREAMING


def test_nothing_in_flight_is_no_stall(open_session):
    open_session.tick(10**18)
    assert open_session.phase is Phase.STREAMING


# -- whom to believe ---------------------------------------------------------------------------------------------


def test_a_message_of_another_instance_is_ignored(open_session):
    open_session.sent(10, 1_000, 0)
    open_session.acknowledged(ack(10, instance=OTHER), 0)
    open_session.rewind(rewind(1, instance=OTHER), 0)
    open_session.credited(control.Credit(OTHER, STREAM, 1, 10**9, 20))
    assert (open_session.acked, open_session.cursor, open_session.epoch, open_session.credit) == (0, 11, 1, BASE)


def test_an_old_credit_that_arrives_late_is_ignored(open_session):
    open_session.credited(control.Credit(BROKER, STREAM, 1, 10 * BASE, 20, 3))
    open_session.credited(control.Credit(BROKER, STREAM, 1, 2 * BASE, 20, 4))
    open_session.credited(control.Credit(BROKER, STREAM, 1, 10 * BASE, 20, 3))
    assert open_session.credit == 2 * BASE
    open_session.rewind(control.Rewind(BROKER, STREAM, 2, 1, BASE, "missing"), 0)
    open_session.credited(control.Credit(BROKER, STREAM, 2, 3 * BASE, 20, 1))
    assert open_session.credit == 3 * BASE, "each epoch counts afresh"


def test_a_rewind_goes_back_under_a_new_epoch_with_a_fresh_count(open_session):
    open_session.sent(10, 1_000, 0)
    open_session.rewind(rewind(4, credit=5_000), 0)
    assert (open_session.cursor, open_session.epoch, open_session.credit) == (4, 2, 5_000)
    assert open_session.in_flight_bytes == 0
    assert open_session.rewinds == 1


def test_a_rewind_acknowledges_nothing(open_session):
    """What comes before the expected seq may be on its way, or written and not yet committed."""
    open_session.sent(10, 1_000, 0)
    open_session.rewind(rewind(8), 0)
    assert open_session.acked == 0


def test_a_rewind_or_credit_of_an_earlier_epoch_is_ignored(open_session):
    open_session.rewind(rewind(4, epoch=5), 0)
    open_session.rewind(rewind(1, epoch=5), 0)
    open_session.rewind(rewind(1, epoch=3), 0)
    open_session.credited(control.Credit(BROKER, STREAM, 1, 10**9, 20))
    assert (open_session.cursor, open_session.epoch, open_session.credit) == (4, 5, BASE)


def test_a_new_broker_counts_its_epochs_from_the_start(open_session):
    open_session.rewind(rewind(4, epoch=9), 0)
    open_session.who(0)
    open_session.welcome(welcome(3, instance=OTHER, epoch=1), 0)
    assert (open_session.instance, open_session.epoch, open_session.cursor) == (OTHER, 1, 3)


def test_an_acknowledgement_while_greeting_is_ignored(open_session):
    open_session.sent(10, 1_000, 0)
    open_session.reconnected(0)
    open_session.acknowledged(ack(10), 0)
    assert open_session.acked == 0


# -- any order of things -----------------------------------------------------------------------------------------

INSTANCES = st.sampled_from([BROKER, OTHER])
EPOCHS = st.integers(0, 5)
SEQS = st.integers(1, 60)


class Sessions(RuleBasedStateMachine):
    """Messages in any order, from two brokers: the books stay right and nothing is sent beyond the credit."""

    def __init__(self):
        super().__init__()
        self.session = StreamSession(info(), Random(1))
        self.now_ns = 0
        self.acked = 0

    @rule(instance=INSTANCES, epoch=EPOCHS, expected=st.none() | SEQS, credit=st.integers(0, 4 * BASE))
    def welcome(self, instance, epoch, expected, credit):
        self.session.welcome(welcome(expected, instance=instance, epoch=epoch, credit=credit), self.now_ns)

    @rule(instance=INSTANCES, epoch=EPOCHS, expected=SEQS)
    def rewind(self, instance, epoch, expected):
        self.session.rewind(rewind(expected, instance=instance, epoch=epoch), self.now_ns)

    @rule(instance=INSTANCES, seq=SEQS)
    def acknowledge(self, instance, seq):
        self.session.acknowledged(ack(seq, instance=instance), self.now_ns)

    @rule(instance=INSTANCES, epoch=EPOCHS, credit=st.integers(0, 4 * BASE))
    def credit(self, instance, epoch, credit):
        self.session.credited(control.Credit(instance, STREAM, epoch, credit, 20))

    @rule(instance=INSTANCES)
    def who(self, instance):
        self.session.who(self.now_ns)

    @rule(wait_s=st.floats(0, 10))
    def wait(self, wait_s):
        self.now_ns += int(wait_s * NS)
        self.session.tick(self.now_ns)
        self.session.hello_due(self.now_ns)

    @rule(oldest=SEQS, more=st.integers(-1, 60), unsent=st.integers(1, 3 * BASE), size=st.integers(1, BASE))
    def send(self, oldest, more, unsent, size):
        session = self.session
        head = oldest + more
        cursor = session.cursor
        match session.next_send(oldest=oldest, head=head, unsent_bytes=unsent, now_ns=self.now_ns):
            case SendGap(first, last):
                assert session.phase is Phase.STREAMING
                assert first == cursor <= last == oldest - 1
                session.sent(last, HEADER_BYTES + 80, self.now_ns)
            case SendBatch(first, bytes_max, credit_bytes):
                assert session.phase is Phase.STREAMING
                assert oldest <= first == cursor <= head
                assert 0 < bytes_max + HEADER_BYTES <= max(credit_bytes, 0)
                session.sent(head, min(size, bytes_max) + HEADER_BYTES, self.now_ns)
                assert session.in_flight_bytes <= session.credit
            case None:
                assert session.cursor == cursor

    @invariant()
    def the_acknowledged_position_never_goes_back(self):
        assert self.session.acked >= self.acked
        self.acked = self.session.acked

    @invariant()
    def only_a_streaming_session_has_anything_in_flight(self):
        if self.session.phase is not Phase.STREAMING:
            assert self.session.in_flight_bytes == 0
        assert self.session.in_flight_bytes >= 0


Sessions.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSessions = Sessions.TestCase
