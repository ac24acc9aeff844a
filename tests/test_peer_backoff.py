"""Waiting times: they grow, stay bounded, differ between peers, and start again."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from telefabric.peer.core.backoff import Backoff


@given(seed=st.integers(), first=st.floats(0.01, 1), longest=st.floats(1, 100), attempts=st.integers(1, 40))
def test_each_delay_is_in_the_upper_half_of_a_window_that_doubles_up_to_the_longest(seed, first, longest, attempts):
    backoff = Backoff(Random(seed), first, longest)
    for attempt in range(attempts):
        window = min(first * 2**attempt, longest)
        assert window / 2 <= backoff.next_s() <= window


def test_a_reset_starts_again_at_the_first():
    backoff = Backoff(Random(1), 0.2, 30.0)
    for _ in range(10):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 0.2


def test_a_herd_spreads_out():
    delays = {round(Backoff(Random(seed), 1.0, 30.0).next_s(), 3) for seed in range(100)}
    assert len(delays) > 50
