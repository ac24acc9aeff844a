"""Live and stored events as one sequence: each once, holes known, nothing left out, whatever comes when."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telefabric.subscribe.core.handover import InOrder, Numbered, Range, SeqSet, StreamHandover


def numbered(seqs: list[int]) -> list[Numbered[str]]:
    return [Numbered(seq, f"event {seq}") for seq in seqs]


# -- sets of seqs ------------------------------------------------------------------------------------------------

RANGES = st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda one: Range(one[0], one[0] + one[1]))


@given(st.lists(st.one_of(RANGES, st.integers(0, 60)), max_size=30), RANGES)
def test_a_seq_set_is_a_set(changes, window):
    """A range is added, a number truncates."""
    found, model = SeqSet(), set()
    for change in changes:
        if isinstance(change, Range):
            found.add(*change)
            model |= set(range(change.first, change.last + 1))
        else:
            found.truncate(change)
            model = {seq for seq in model if seq <= change}
        assert [seq for seq in range(80) if seq in found] == sorted(model)
        assert found.newest == max(model, default=0)
        missing = found.missing(*window)
        assert [seq for first, last in missing for seq in range(first, last + 1)] == [
            seq for seq in range(window.first, window.last + 1) if seq not in model
        ]
        assert all(before.last + 1 < after.first for before, after in pairwise(missing))
        end = window.first
        while end + 1 in model:
            end += 1
        assert found.through(window.first) == end
    assert len(found._firsts) == sum(seq - 1 not in model for seq in model), "ranges that touch are one"


# -- hand-over ---------------------------------------------------------------------------------------------------


class Store:
    """Events 1 … head of a stream are emitted; those up to the watermark are stored, or lost for good."""

    def __init__(self) -> None:
        self.head = 0
        self.watermark = 0
        self.gaps: set[int] = set()

    @property
    def stored(self) -> set[int]:
        return set(range(1, self.watermark + 1)) - self.gaps

    def page(self, since: int, rows: int) -> tuple[list[Numbered[str]], int]:
        """Stored events after `since`, and up to where they are all there is."""
        seqs = sorted(seq for seq in self.stored if seq > since)
        return numbered(seqs[:rows]), seqs[rows - 1] if len(seqs) > rows else max(self.watermark, since)


class Handover(RuleBasedStateMachine):
    """One stream, its store, and a reader that keeps everything, or prints in order and holds only a few back."""

    in_order = False
    held_max = 6

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.came_live: set[int] = set()
        self.applied: list[int] = []
        self.start(since=0)

    def start(self, since: int) -> None:
        self.handover: StreamHandover[str] = StreamHandover(since)
        self.handover.watermark = self.store.watermark
        self.order = InOrder(self.handover, held_max=self.held_max) if self.in_order else None

    def apply(self, fresh: list[Numbered[str]]) -> None:
        told = fresh if self.order is None else self.order.take(fresh)
        assert all(one.event == f"event {one.seq}" for one in told)
        self.applied += [one.seq for one in told]

    # -- what may happen, in any order ---------------------------------------------------------------------------

    @rule(events=st.integers(1, 20))
    def emit(self, events: int) -> None:
        self.store.head += events

    @rule(data=st.data())
    def some_come_live(self, data: st.DataObject) -> None:
        """Any of the newest, in any order, some twice, some never."""
        newest = range(max(1, self.store.head - 25), self.store.head + 1)
        if newest:
            seqs = data.draw(st.lists(st.sampled_from(newest), max_size=12))
            self.came_live.update(seqs)
            self.apply(self.handover.live(numbered(seqs)))

    @rule(events=st.integers(1, 20), lost=st.booleans())
    def the_store_commits(self, events: int, lost: bool) -> None:
        before, self.store.watermark = self.store.watermark, min(self.store.watermark + events, self.store.head)
        if lost:
            self.store.gaps |= set(range(before + 1, self.store.watermark + 1))

    @rule()
    def the_watermark_is_told(self) -> None:
        self.handover.watermark = self.store.watermark

    @rule(rows=st.integers(1, 10))
    def the_page_that_was_asked_for_comes(self, rows: int) -> None:
        missing = self.handover.ask()
        if missing is not None:
            self.page(missing.first - 1, rows)
            assert missing.first not in within(self.handover.ask()), "progress"

    @rule(offset=st.integers(-40, 40), rows=st.integers(1, 10))
    def a_page_of_anywhere_comes(self, offset: int, rows: int) -> None:
        self.page(max(self.handover.cursor + offset, 0), rows)

    @rule()
    def the_reader_starts_again_at_its_cursor(self) -> None:
        cursor = self.handover.cursor
        self.applied = [seq for seq in self.applied if seq <= cursor]
        self.start(cursor)

    def page(self, since: int, rows: int) -> None:
        events, covers = self.store.page(since, rows)
        self.apply(self.handover.stored(since, events, covers=covers))

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def each_event_is_applied_at_most_once(self) -> None:
        assert len(set(self.applied)) == len(self.applied)
        assert set(self.applied) <= self.store.stored | self.came_live

    @invariant()
    def all_up_to_the_cursor_is_applied_or_lost_for_good(self) -> None:
        assert set(range(1, self.handover.cursor + 1)) - set(self.applied) <= self.store.gaps

    @invariant()
    def holes_are_what_is_missing_below_the_newest(self) -> None:
        have = set(self.applied) | (set(self.order._held) if self.order else set())
        holes = {seq for first, last in self.handover.holes() for seq in range(first, last + 1)}
        missing = set(range(1, self.handover.newest + 1)) - have
        assert holes <= missing
        assert missing - holes <= self.store.gaps
        assert self.handover.newest >= max(have, default=0)

    @invariant()
    def a_reader_in_order_gets_seqs_that_rise_and_holds_few(self) -> None:
        if self.order is not None:
            assert self.applied == sorted(self.applied)
            assert len(self.order._held) <= self.held_max

    def teardown(self) -> None:
        """The store goes on to the end, and so does the reader."""
        self.store.watermark = self.store.head
        self.handover.watermark = self.store.watermark
        for _ in range(self.store.head + 1):
            if (missing := self.handover.ask()) is None:
                break
            self.page(missing.first - 1, 7)
        assert self.handover.ask() is None
        assert self.handover.cursor == self.store.head
        assert self.store.stored <= set(self.applied) <= self.store.stored | self.came_live
        self.each_event_is_applied_at_most_once()
        self.a_reader_in_order_gets_seqs_that_rise_and_holds_few()


def within(seqs: Range | None) -> range:
    return range(seqs.first, seqs.last + 1) if seqs else range(0)


class HandoverInOrder(Handover):
    in_order = True


TestHandover = Handover.TestCase
TestHandover.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHandoverInOrder = HandoverInOrder.TestCase
TestHandoverInOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def seqs(events: list[Numbered[str]]) -> list[int]:
    return [one.seq for one in events]


def test_a_hole_is_known_at_once_and_filled_from_the_store():
    handover: StreamHandover[str] = StreamHandover()
    handover.live(numbered([1, 2, 5, 6]))
    assert handover.holes() == [(3, 4)]
    assert (handover.cursor, handover.newest, handover.ask()) == (2, 6, None)
    handover.watermark = 6
    assert handover.ask() == (3, 4)
    assert seqs(handover.stored(2, numbered([3, 4, 5, 6]), covers=6)) == [3, 4]
    assert (handover.holes(), handover.cursor, handover.ask()) == ([], 6, None)


def test_a_recorded_gap_is_no_hole():
    handover: StreamHandover[str] = StreamHandover()
    handover.watermark = 10
    handover.stored(0, numbered([1, 2, 9]), covers=10)
    assert (handover.holes(), handover.cursor, handover.ask()) == ([], 10, None)


def test_a_reader_that_starts_in_the_middle_is_not_given_what_was_before():
    handover: StreamHandover[str] = StreamHandover(since=100)
    handover.watermark = 120
    assert handover.ask() == (101, 120)
    assert seqs(handover.live(numbered([99, 100, 101]))) == [101]
    assert seqs(handover.stored(90, numbered([95, 100, 101, 102]), covers=102)) == [102]


def test_a_store_that_was_restored_from_a_backup_is_asked_for_nothing_twice():
    handover: StreamHandover[str] = StreamHandover()
    handover.watermark = 10
    handover.stored(0, numbered(list(range(1, 11))), covers=10)
    handover.watermark = 4
    assert (handover.ask(), handover.cursor) == (None, 10)


@pytest.mark.parametrize("held_max", [1, 2, 10])
def test_an_ordered_reader_whose_store_stands_still_stays_in_bounds_and_misses_nothing(held_max):
    handover: StreamHandover[str] = StreamHandover()
    order = InOrder(handover, held_max=held_max)
    told = []
    for seq in range(2, 200):
        told += order.take(handover.live(numbered([seq])))
        assert len(order._held) <= held_max
    assert told == []
    handover.watermark = 199
    while (missing := handover.ask()) is not None:
        page = numbered(list(range(missing.first, 200))[:7])
        told += order.take(handover.stored(missing.first - 1, page, covers=page[-1].seq))
    assert seqs(told) == list(range(1, 200))
