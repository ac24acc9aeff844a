"""Streams without word are lost after a while, and only then; word of a lost one revives it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telefabric import limits
from telefabric.limits import NS
from telefabric.store.core.lost_streams import Vigil

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
STEP = int(limits.LIVING_S * NS)


def watch(vigil: Vigil, until_s: float, living: list[bytes], since_s: float = 0.0) -> list[tuple[float, bytes, str]]:
    """What changes while the broker says this every two seconds."""
    found = []
    for now_ns in range(int(since_s * NS), int(until_s * NS) + 1, STEP):
        change = vigil.living(living, now_ns)
        found += [(now_ns / NS, stream, "lost") for stream in change.lost]
        found += [(now_ns / NS, stream, "revived") for stream in change.revived]
    return found


def test_a_stream_without_word_is_lost_once_after_the_time():
    vigil = Vigil(20)
    vigil.expect([A, B], 0)
    assert watch(vigil, 120, [B]) == [(22.0, A, "lost")]


def test_a_lost_stream_that_speaks_is_revived_once():
    vigil = Vigil(20)
    vigil.expect([A], 0, lost=True)
    assert watch(vigil, 10, []) == []
    assert watch(vigil, 20, [A], 12) == [(12.0, A, "revived")]
    assert watch(vigil, 60, [], 22) == [(42.0, A, "lost")]


def test_time_without_a_broker_counts_for_nobody():
    vigil = Vigil(20)
    vigil.expect([A], 0)
    assert watch(vigil, 18, []) == []
    assert watch(vigil, 1_016, [], 1_000) == [], "its broker was away, and workers have to find the new one"
    assert watch(vigil, 1_030, [], 1_018) == [(1_022.0, A, "lost")]


def test_a_hello_is_word_of_a_stream():
    vigil = Vigil(20)
    vigil.expect([A], 0, lost=True)
    assert vigil.heard(A, 0)
    assert not vigil.heard(A, 0)
    assert not vigil.heard(C, 0)


def test_streams_that_said_how_they_ended_are_watched_no_more():
    vigil = Vigil(20)
    ended = [number.to_bytes(16) for number in range(20_000)]
    for stream in ended:
        vigil.heard(stream, 0)
    vigil.expect([A], 0)
    vigil.ended(ended)
    assert len(vigil) == 1
    assert watch(vigil, 40, [*ended, A]) == [], "their workers live, and the broker names them"
    assert watch(vigil, 120, [A], 42) == []
    vigil.ended([A])
    assert len(vigil) == 0


@given(st.lists(st.lists(st.sampled_from([A, B, C]), unique=True), min_size=1, max_size=60))
def test_every_loss_is_of_a_stream_that_was_silent_for_so_long_and_every_revival_of_a_lost_one(said):
    vigil = Vigil(10)
    vigil.expect([A, B, C], 0)
    heard = dict.fromkeys([A, B, C], 0)
    lost: set[bytes] = set()
    for turn, living in enumerate(said):
        change = vigil.living(living, turn * STEP)
        heard.update(dict.fromkeys(living, turn * STEP))
        assert set(change.revived) == lost & set(living)
        lost -= set(change.revived)
        late = {stream for stream, then in heard.items() if turn * STEP - then > 10 * NS}
        assert set(change.lost) == late - lost
        lost |= set(change.lost)


@pytest.mark.parametrize("given_s", ["5.9", "x", "-1", "nan"])
def test_a_shorter_patience_than_three_words_is_refused(given_s):
    from telefabric.errors import UsageError
    from telefabric.settings import resolve

    with pytest.raises(UsageError, match="6 or more"):
        resolve("lost_after_s", given_s)
