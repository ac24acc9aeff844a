"""The store accepts the events of a stream in order, without holes and once."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telefabric.subscribe.core.intake import REMEMBERED_BATCHES, Intake, Judgement, Verdict
from telefabric.wire.batch import FLAG_GAP, Header

STREAM = b"s" * 16
SESSION = b"i" * 16


def header(first, last, *, epoch=1, crc=None, session=SESSION, gap=False):
    body_crc = crc32(f"{first}-{last}".encode()) if crc is None else crc
    events = 1 if gap else last - first + 1
    return Header(FLAG_GAP if gap else 0, session, STREAM, epoch, first, last, events, 0, 0, body_crc)


@pytest.fixture
def intake():
    intake = Intake()
    intake.reset(STREAM, 0)
    return intake


def test_a_stream_that_was_never_asked_about_is_unknown():
    assert Intake().judge(header(1, 2)).verdict is Verdict.UNKNOWN


def test_the_next_batch_is_accepted(intake):
    assert intake.judge(header(1, 3)) == Judgement(Verdict.ACCEPT, skip=0, expected=4)
    assert intake.judge(header(4, 4)) == Judgement(Verdict.ACCEPT, skip=0, expected=5)


def test_a_batch_that_was_accepted_is_a_duplicate(intake):
    intake.judge(header(1, 3))
    assert intake.judge(header(1, 3)).verdict is Verdict.DUPLICATE
    assert intake.judge(header(1, 2)).verdict is Verdict.DUPLICATE


def test_the_same_seqs_with_other_bytes_are_a_conflict(intake):
    intake.judge(header(1, 3))
    assert intake.judge(header(1, 3, crc=7)).verdict is Verdict.CONFLICT


def test_what_was_accepted_stays_accepted_while_it_is_on_its_way_to_the_database(intake):
    intake.judge(header(1, 3))
    intake.learn(STREAM, 0)
    assert intake.judge(header(1, 3)).verdict is Verdict.DUPLICATE
    intake.learn(STREAM, 9)
    assert intake.judge(header(10, 12)) == Judgement(Verdict.ACCEPT, skip=0, expected=13)


def test_a_gap_that_is_told_again_is_a_duplicate_although_its_time_differs(intake):
    intake.judge(header(1, 9, gap=True, crc=1))
    assert intake.judge(header(1, 9, gap=True, crc=2)).verdict is Verdict.DUPLICATE


def test_a_gap_for_events_that_are_stored_already_is_a_duplicate(intake):
    """Stored, not yet acknowledged, and meanwhile dropped from a full spool."""
    intake.judge(header(1, 1))
    assert intake.judge(header(1, 1, gap=True, crc=7)).verdict is Verdict.DUPLICATE


def test_only_a_few_batches_are_remembered(intake):
    for seq in range(1, REMEMBERED_BATCHES + 2):
        intake.judge(header(seq, seq))
    assert intake.judge(header(1, 1, crc=7)).verdict is Verdict.DUPLICATE, "too old to tell"
    assert intake.judge(header(2, 2, crc=7)).verdict is Verdict.CONFLICT


def test_of_a_batch_that_is_partly_stored_the_first_events_are_skipped(intake):
    intake.reset(STREAM, 10)
    assert intake.judge(header(8, 14)) == Judgement(Verdict.ACCEPT, skip=3, expected=15)


def test_a_hole_is_reported_once_for_each_epoch(intake):
    assert intake.judge(header(5, 6)) == Judgement(Verdict.NACK, expected=1)
    assert intake.judge(header(7, 8)) == Judgement(Verdict.AHEAD, expected=1)
    assert intake.judge(header(9, 9, epoch=2)).verdict is Verdict.NACK


def test_a_hole_under_a_new_broker_is_reported_although_its_epochs_begin_again(intake):
    intake.judge(header(5, 6, epoch=1))
    assert intake.judge(header(5, 6, epoch=1, session=b"j" * 16)).verdict is Verdict.NACK


def test_a_gap_takes_the_place_of_the_seqs_that_it_covers(intake):
    assert intake.judge(header(1, 1_000, gap=True)) == Judgement(Verdict.ACCEPT, skip=0, expected=1_001)
    assert intake.judge(header(1_001, 1_001)).verdict is Verdict.ACCEPT


def test_a_reset_goes_back_to_what_the_database_holds(intake):
    intake.judge(header(1, 9))
    intake.reset(STREAM, 4)
    assert intake.judge(header(5, 9)) == Judgement(Verdict.ACCEPT, skip=0, expected=10)


def test_after_forgetting_nothing_is_accepted(intake):
    intake.forget_oldest(0, ())
    assert not intake.knows(STREAM)
    assert intake.judge(header(1, 1)).verdict is Verdict.UNKNOWN


RANGES = st.tuples(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4))


@given(st.lists(RANGES, max_size=80))
def test_whatever_arrives_each_seq_is_accepted_once_and_in_order(arrivals):
    intake = Intake()
    intake.reset(STREAM, 0)
    stored = []
    for first, count, epoch in arrivals:
        last = first + count - 1
        judgement = intake.judge(header(first, last, epoch=epoch))
        expected = len(stored) + 1
        if judgement.verdict is Verdict.ACCEPT:
            stored.extend(range(first + judgement.skip, last + 1))
        elif judgement.verdict in (Verdict.NACK, Verdict.AHEAD):
            assert first > expected == judgement.expected
        else:
            assert judgement.verdict is Verdict.DUPLICATE
            assert last < expected
        assert stored == list(range(1, len(stored) + 1))


def test_a_damaged_body_is_asked_for_again_and_kept_aside_when_it_never_comes_whole():
    intake = Intake()
    assert intake.judge_damaged(header(1, 3), 7).verdict is Verdict.UNKNOWN
    intake.reset(STREAM, 2)
    assert intake.judge_damaged(header(1, 2), 7).verdict is Verdict.DUPLICATE
    assert intake.judge_damaged(header(4, 6), 7) == (Verdict.NACK, 0, 3), "it does not follow, either"
    for epoch in (2, 3):
        assert intake.judge_damaged(header(1, 6, epoch=epoch), 7) == (Verdict.NACK, 0, 3)
        assert intake.judge(header(7, 9, epoch=epoch)).verdict is Verdict.AHEAD
    assert intake.judge_damaged(header(1, 6, epoch=4), 8).verdict is Verdict.NACK, "other bytes: it may come whole yet"
    assert intake.judge(header(1, 6, epoch=5)) == (Verdict.ACCEPT, 2, 7)
    for epoch in (6, 7):
        assert intake.judge_damaged(header(7, 9, epoch=epoch), 7).verdict is Verdict.NACK
    assert intake.judge_damaged(header(7, 9, epoch=8), 7) == (Verdict.ACCEPT, 0, 10)


def test_a_sender_that_cuts_its_damaged_batch_at_another_place_each_time_goes_on_too():
    intake = Intake()
    intake.reset(STREAM, 2)
    for tried in range(1, 8):
        judgement = intake.judge_damaged(header(3, 3 + tried, epoch=tried), tried)
        assert judgement == (Verdict.NACK, 0, 3), "other bytes each time: it may come whole yet"
    assert intake.judge_damaged(header(3, 11, epoch=8), 8) == (Verdict.ACCEPT, 0, 12)
    assert intake.judge_damaged(header(12, 13, epoch=9), 9).verdict is Verdict.NACK, "the count begins again behind it"
