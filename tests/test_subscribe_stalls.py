"""What was sent and does not arrive is noticed, and nothing else is."""

from telefabric import limits
from telefabric.subscribe.core.stalls import Arrivals

LONG = int(limits.ACK_STALL_S * 1_000_000_000) + 1


def test_silence_is_well_when_nothing_was_sent():
    arrivals = Arrivals()
    arrivals.told(0, 0)
    assert not arrivals.stuck(10 * LONG)


def test_what_was_sent_and_does_not_come_is_stuck_after_a_while():
    arrivals = Arrivals()
    arrivals.arrived()
    arrivals.told(2, LONG)
    arrivals.told(9, 2 * LONG - 1)
    assert not arrivals.stuck(2 * LONG - 1)
    assert arrivals.stuck(2 * LONG)


def test_one_that_is_behind_and_gets_more_is_not_stuck():
    arrivals = Arrivals()
    for turn in range(10):
        arrivals.told(1_000, turn * LONG)
        arrivals.arrived()
        assert not arrivals.stuck(turn * LONG + LONG // 2)
    arrivals.told(1_000, 10 * LONG)
    assert arrivals.stuck(11 * LONG)
