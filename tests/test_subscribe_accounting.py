"""The ledger: received + dropped + lost in transit = newest number seen, whatever is lost on either hop."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telefabric.subscribe.core.accounting import Ledger
from telefabric.wire.delivery import Delivery, Drop

A, B = b"a" * 16, b"b" * 16


class Path:
    """Two hops on which anything may be lost, and what really became of each event that a source numbered."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.counters: Counter[tuple[bytes, str]] = Counter()
        self.fate: dict[tuple[bytes, str], list[str]] = {}
        self.number = 0
        self.untold: list[Drop] = []
        self.vague: set[tuple[bytes, str]] = set()
        """Sources whose first word was of several drops: what was lost between those, nobody can know."""

    def emit(self, stream: bytes, kind: str, events: int, fate: str) -> None:
        """The source numbers a batch; `fate` tells where it ends."""
        self.counters[stream, kind] += events
        counter = self.counters[stream, kind]
        self.fate.setdefault((stream, kind), []).extend([fate] * events)
        if fate == "to_broker":
            return
        self.number += events
        if fate in ("queue_full", "too_old"):
            self.untold.append(Drop(fate, kind, stream, events, counter))
            return
        delivery, self.untold = Delivery(self.number, self.untold), []
        if fate == "to_client":
            self.lost_drops(delivery)
        else:
            self.deliver(delivery, events)
            self.ledger.batch(stream, kind, counter, events)

    def broker_tick(self, lost: bool) -> None:
        delivery, self.untold = Delivery(self.number, self.untold), []
        if lost:
            self.lost_drops(delivery)
        else:
            self.deliver(delivery, 0)

    def deliver(self, delivery: Delivery, events: int) -> None:
        sources = Counter((drop.stream, drop.kind) for drop in delivery.drops)
        self.vague.update(one for one in sources if sources[one] > 1 and one not in self.ledger.sources)
        self.ledger.delivered(delivery, events)

    def lost_drops(self, delivery: Delivery) -> None:
        """Drops that were told in a message that never came are lost like all that nobody reports."""
        for drop in delivery.drops:
            fates = self.fate[drop.stream, drop.kind]
            fates[drop.reached - drop.events : drop.reached] = ["to_client"] * drop.events

    def source_tick(self, stream: bytes) -> None:
        """It reaches the client, numbered by the broker as an event of its own kind."""
        self.emit(stream, "run_heartbeat", 1, "")
        self.ledger.ticked(stream, [(kind, counter) for (of, kind), counter in self.counters.items() if of == stream])

    def check(self) -> None:
        ledger = self.ledger
        hop = ledger.broker_hop
        assert hop.received + sum(hop.dropped.values()) + hop.lost_in_transit == hop.newest <= self.number
        assert hop.lost_in_transit >= 0
        for source, account in ledger.sources.items():
            assert account.received + sum(account.dropped.values()) + account.lost_in_transit == account.newest
            assert account.before is not None
            assert account.lost_in_transit >= 0
            if source in self.vague:
                continue
            seen = Counter(self.fate[source][account.before : account.before + account.newest])
            pending = sum(drop.events for drop in self.untold if (drop.stream, drop.kind) == source)
            assert account.received == seen[""]
            assert account.lost_in_transit - seen["to_broker"] - seen["to_client"] in range(pending + 1)
            assert account.dropped["queue_full"] + account.dropped["too_old"] <= seen["queue_full"] + seen["too_old"]
        assert ledger.dropped == hop.dropped

    def settle(self) -> None:
        """Both ticks come: nothing that was numbered since the first word is open any more."""
        for stream in (A, B):
            self.source_tick(stream)
        self.broker_tick(lost=False)
        self.check()
        assert self.ledger.broker_hop.newest == self.number
        for (stream, kind), account in self.ledger.sources.items():
            assert account.before is not None
            if (stream, kind) in self.vague:
                continue
            truth = Counter(self.fate[stream, kind][account.before :])
            assert account.newest == truth.total() == self.counters[stream, kind] - account.before
            assert account.received == truth[""]
            assert +account.dropped == Counter({one: truth[one] for one in ("queue_full", "too_old") if truth[one]})
            assert account.lost_in_transit == truth["to_broker"] + truth["to_client"]


FATES = st.sampled_from(["", "", "", "to_broker", "to_client", "queue_full", "too_old"])
EMITS = st.tuples(st.sampled_from([A, B]), st.sampled_from(["step", "episode"]), st.integers(1, 9), FATES)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(EMITS, st.sampled_from(["tick", "tick_lost", "source_tick", "settle"])), max_size=40))
def test_received_dropped_and_lost_are_the_newest_number_at_any_moment(happenings):
    path = Path()
    for one in happenings:
        match one:
            case "tick" | "tick_lost":
                path.broker_tick(lost=one == "tick_lost")
            case "source_tick":
                path.source_tick(A)
            case "settle":
                path.settle()
            case (stream, kind, events, fate):
                path.emit(stream, kind, events, fate)
        path.check()
    path.settle()


def accounts(ledger: Ledger, stream: bytes = A, kind: str = "step") -> tuple[int, int, dict[str, int], int]:
    account = ledger.sources[stream, kind]
    return account.newest, account.received, dict(account.dropped), account.lost_in_transit


def test_a_lost_tail_is_seen_through_the_source_s_tick():
    ledger = Ledger()
    ledger.batch(A, "step", 10, 10)
    ledger.ticked(A, [("step", 25)])
    assert accounts(ledger) == (25, 10, {}, 15)


def test_a_lost_tail_is_seen_through_the_broker_s_tick():
    ledger = Ledger()
    ledger.delivered(Delivery(10), 10)
    ledger.delivered(Delivery(25), 0)
    assert ledger.broker_hop.lost_in_transit == 15
    assert ledger.lost_in_transit == (0, 15)


def test_a_drop_of_a_source_that_was_not_seen_yet_counts():
    ledger = Ledger()
    ledger.delivered(Delivery(40, [Drop("queue_full", "step", A, 20, 60), Drop("too_old", "step", A, 10, 50)]), 10)
    ledger.batch(A, "step", 70, 10)
    assert accounts(ledger) == (40, 10, {"queue_full": 20, "too_old": 10}, 0)
    assert ledger.dropped == {"queue_full": 20, "too_old": 10}


def test_a_drop_that_a_tick_tells_is_not_counted_as_lost_nor_as_more_than_there_was():
    ledger = Ledger()
    ledger.delivered(Delivery(10), 10)
    ledger.batch(A, "step", 10, 10)
    ledger.delivered(Delivery(15, [Drop("queue_full", "step", A, 5, 22)]), 0)
    assert accounts(ledger) == (22, 10, {"queue_full": 5}, 7)


def test_drops_of_too_many_streams_to_name_count_for_the_broker_s_hop():
    ledger = Ledger()
    ledger.delivered(Delivery(50, [Drop("queue_full", "", b"", 50)]), 0)
    assert (ledger.dropped, ledger.sources, ledger.lost_in_transit) == ({"queue_full": 50}, {}, (0, 0))


def test_what_came_before_the_first_word_of_a_source_is_not_missing():
    ledger = Ledger()
    ledger.batch(A, "step", 5_010, 10)
    ledger.ticked(B, [("step", 300)])
    ledger.overflowed(B, "episode", "behind", 7, 900)
    assert accounts(ledger) == (10, 10, {}, 0)
    assert accounts(ledger, B) == (0, 0, {}, 0)
    assert accounts(ledger, B, "episode") == (7, 0, {"behind": 7}, 0)


def test_what_the_source_dropped_counts_with_its_reason():
    ledger = Ledger()
    ledger.batch(A, "step", 10, 10)
    ledger.overflowed(A, "step", "behind", 30, 40)
    ledger.batch(A, "step", 50, 10)
    assert accounts(ledger) == (50, 20, {"behind": 30}, 0)
    assert ledger.dropped == {"behind": 30}


def test_a_source_that_begins_to_number_again_goes_on_from_there():
    ledger = Ledger()
    ledger.batch(A, "step", 1_000, 10)
    ledger.batch(A, "step", 20, 20)
    ledger.batch(A, "step", 45, 20)
    assert accounts(ledger) == (55, 50, {}, 5)


def test_a_batch_that_comes_late_is_no_longer_lost():
    ledger = Ledger()
    for counter in (10, 30, 20):
        ledger.batch(A, "step", counter, 10)
    assert accounts(ledger) == (30, 30, {}, 0)


def test_kinds_that_are_not_wanted_are_not_missing():
    ledger = Ledger(kinds=["episode", "run_heartbeat", "overflow"])
    ledger.ticked(A, [("step", 10), ("episode", 1)])
    ledger.overflowed(A, "step", "behind", 500, 600)
    ledger.ticked(A, [("step", 900), ("episode", 3)])
    assert set(ledger.sources) == {(A, "episode")}
    assert ledger.lost_in_transit == (2, 0)
    assert not ledger.dropped


def test_a_stream_that_is_not_wanted_for_a_time_has_lost_nothing_then():
    ledger = Ledger()
    ledger.batch(A, "step", 10, 10)
    ledger.batch(A, "step", 25, 10)
    ledger.forget(A)
    ledger.batch(A, "step", 1_000, 10)
    assert accounts(ledger) == (10, 10, {}, 0)
    assert ledger.lost_in_transit == (5, 0), "what was lost before stays counted"


def test_what_is_numbered_while_other_runs_are_chosen_is_for_nobody():
    ledger = Ledger()
    for stream in (A, B):
        ledger.batch(stream, "step", 10, 10)
        ledger.batch(stream, "step", 25, 10)
    ledger.resume([A])
    for stream in (A, B):
        ledger.batch(stream, "step", 45, 10)
        ledger.batch(stream, "step", 57, 10)
    assert accounts(ledger) == (45, 40, {}, 5)
    assert accounts(ledger, stream=B) == (57, 40, {}, 17)
    assert ledger.lost_in_transit == (22, 0)


def test_that_ends_after_some_seconds_and_what_is_missing_then_is_lost():
    ledger = Ledger()
    ledger.batch(A, "step", 10, 10)
    ledger.resume([A])
    ledger.settle()
    ledger.resume([A])
    for _ in range(3):
        ledger.ticked(A, [("step", 1_000)])
        assert ledger.lost_in_transit == (0, 0)
        ledger.settle()
    ledger.ticked(A, [("step", 1_005)])
    assert ledger.lost_in_transit == (5, 0)


def test_a_new_subscription_has_lost_what_was_under_way():
    ledger = Ledger()
    ledger.delivered(Delivery(10, []), 10)
    ledger.batch(A, "step", 10, 10)
    ledger.delivered(Delivery(12, [Drop("queue_full", "step", A, 2, 12)]), 0)
    ledger.renew()
    ledger.delivered(Delivery(5, []), 5)
    ledger.batch(A, "step", 37, 5)
    assert (ledger.broker_hop.newest, ledger.broker_hop.received) == (5, 5)
    assert ledger.lost_in_transit == (20, 0)
    assert ledger.dropped == {"queue_full": 2}


@pytest.mark.parametrize(("events", "counter"), [(-5, 10), (11, 10), (1, 2**63), (2**64 - 1, 2**64 - 1)])
def test_a_source_that_claims_what_cannot_be_changes_no_account(events, counter):
    ledger = Ledger()
    ledger.batch(A, "step", 10, 10)
    ledger.overflowed(A, "step", "lie", events, counter)
    ledger.ticked(A, [("step", -1), ("step", 2**63), ("step", 2**64 - 1)])
    assert not ledger.dropped
    assert sum(ledger.lost_in_transit) == 0
    assert ledger.sources[A, "step"].newest == 10
