"""A broker is silent when it does not answer, not when nobody has looked."""

from telefabric import limits
from telefabric.peer.core.silence import Hearing

S = 1_000_000_000
MISSED = limits.MISSED_HEARTBEATS_MAX


def test_three_heartbeats_without_a_word_for_three_seconds_are_silence():
    hearing = Hearing(0)
    for _ in range(MISSED):
        hearing.asked()
    assert not hearing.silent(3 * S)
    assert hearing.silent(3 * S + 1)
    hearing.heard(4 * S)
    assert not hearing.silent(100 * S)


def test_a_pause_of_its_own_is_no_silence_of_the_broker():
    hearing = Hearing(0)
    for number in range(1, MISSED):
        hearing.asked()
        assert not hearing.silent(number * 10 * S)
    hearing.asked()
    assert hearing.silent(MISSED * 10 * S)
