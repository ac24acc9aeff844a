"""A broker is silent when it does not answer, not when nobody has looked; what does not arrive is noticed."""

from telefabric import limits
from telefabric.peer.core.silence import Silence, Stall

S = 1_000_000_000
MISSED = limits.MISSED_HEARTBEATS_MAX
LONG = int(limits.ACK_STALL_S * S) + 1


def test_three_heartbeats_without_a_word_for_three_seconds_are_silence():
    silence = Silence(0)
    for _ in range(MISSED):
        silence.asked()
    assert not silence.too_long(3 * S)
    assert silence.too_long(3 * S + 1)
    silence.heard(4 * S)
    assert not silence.too_long(100 * S)


def test_a_pause_of_its_own_is_no_silence_of_the_broker():
    silence = Silence(0)
    for number in range(1, MISSED):
        silence.asked()
        assert not silence.too_long(number * 10 * S)
    silence.asked()
    assert silence.too_long(MISSED * 10 * S)


def test_silence_is_well_when_nothing_was_sent():
    stall = Stall()
    stall.was_sent(0, 0)
    assert not stall.too_long(10 * LONG)


def test_what_was_sent_and_does_not_come_is_stuck_after_a_while():
    stall = Stall()
    stall.received()
    stall.was_sent(2, LONG)
    stall.was_sent(9, 2 * LONG - 1)
    assert not stall.too_long(2 * LONG - 1)
    assert stall.too_long(2 * LONG)


def test_one_that_is_behind_and_gets_more_is_not_stuck():
    stall = Stall()
    for turn in range(10):
        stall.was_sent(1_000, turn * LONG)
        stall.received()
        assert not stall.too_long(turn * LONG + LONG // 2)
    stall.was_sent(1_000, 10 * LONG)
    assert stall.too_long(11 * LONG)
