"""The worker's live feed: every event of a watched stream is numbered by kind, and what is not sent is told."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telefabric import limits
from telefabric.uplink.core.live_feed import LiveFeed

KINDS = ("step", "episode", "metric")
EVENTS = st.lists(st.sampled_from(KINDS), min_size=1, max_size=60)


def records_of(kinds: list[str], first_seq: int = 1) -> list[tuple[str, bytes]]:
    return [(kind, b"%d;" % seq) for seq, kind in enumerate(kinds, first_seq)]


@given(st.lists(EVENTS, max_size=6))
def test_every_event_is_numbered_by_kind_without_holes(chunks):
    feed = LiveFeed()
    feed.watch(True, head=0)
    numbered: Counter[str] = Counter()
    for kinds in chunks:
        first = feed.cursor
        batches = feed.sort(first, records_of(kinds, first))
        assert feed.cursor == first + len(kinds)
        assert sorted(one.kind for one in batches) == sorted(set(kinds)), "a batch for each kind"
        for one in batches:
            seqs = [first + place for place, kind in enumerate(kinds) if kind == one.kind]
            assert one.body == b"".join(b"%d;" % seq for seq in seqs)
            assert (one.first_seq, one.last_seq, one.events) == (seqs[0], seqs[-1], len(seqs))
            numbered[one.kind] += one.events
            assert one.counter == numbered[one.kind]
    assert feed.counters == numbered


@given(st.lists(st.tuples(EVENTS, st.sampled_from(["", "", "behind", "worker_pipe_full"])), max_size=20), st.data())
def test_sent_and_told_add_up_to_the_newest_number(chunks, data):
    """Of each kind, whenever all that is untold has been told."""
    feed = LiveFeed()
    feed.watch(True, head=0)
    accounted: Counter[str] = Counter()
    for kinds, reason in chunks:
        for one in feed.sort(feed.cursor, records_of(kinds)):
            if reason:
                feed.skip(one, reason)
            else:
                accounted[one.kind] += one.events
        if data.draw(st.booleans()):
            for skip in feed.untold():
                accounted[skip.kind] += skip.events
                feed.told(skip)
                assert skip.reached <= feed.counters[skip.kind]
            assert feed.untold() == []
            assert +accounted == +feed.counters
    skipped = sum(len(kinds) for kinds, reason in chunks if reason)
    assert sum(feed.skipped.values()) == skipped


def test_skips_of_one_kind_are_told_in_order_of_number():
    feed = LiveFeed()
    for reason in ("behind", "worker_pipe_full", "behind"):
        (one,) = feed.sort(feed.cursor, records_of(["step"] * 5))
        feed.skip(one, reason)
    assert [(skip.reason, skip.events, skip.reached) for skip in feed.untold()] == [
        ("worker_pipe_full", 5, 10),
        ("behind", 10, 15),
    ]


def test_a_watcher_gets_what_is_emitted_after_the_head():
    feed = LiveFeed()
    feed.watch(True, head=100)
    assert feed.cursor == 101
    feed.watch(True, head=200)
    assert feed.cursor == 101, "one more watcher changes nothing"
    feed.watch(False, head=300)
    assert not feed.watched
    feed.watch(True, head=400)
    assert feed.cursor == 401


def test_numbers_go_on_over_a_time_without_watchers_and_old_skips_are_nobody_s():
    feed = LiveFeed()
    feed.watch(True, head=0)
    (one,) = feed.sort(1, records_of(["step"] * 5))
    feed.skip(one, "behind")
    feed.watch(False, head=5)
    feed.watch(True, head=10)
    assert feed.untold() == []
    (one,) = feed.sort(11, records_of(["step"]))
    assert one.counter == 6


def test_events_that_are_live_only_are_numbered_like_the_others():
    feed = LiveFeed()
    assert [feed.next_number("run_heartbeat") for _ in range(3)] == [1, 2, 3]
    feed.unsent("run_heartbeat")
    assert feed.next_number("run_heartbeat") == 3
    assert feed.counters["run_heartbeat"] == 3


@pytest.mark.parametrize("behind", [True, False])
def test_far_behind_the_head_is_behind(behind):
    feed = LiveFeed()
    feed.watch(True, head=0)
    assert feed.behind(head=limits.LIVE_BEHIND_EVENTS_MAX + behind) is behind
