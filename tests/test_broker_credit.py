"""Credit: never more lent than there is, fair shares, whole grants for big events, nobody starved."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from telefabric.broker.core.credit import CreditBook, max_min_fair

BASE = 64
STREAMS = 8
TOTAL = BASE * STREAMS + 4_000
STREAM_MAX = 1_500


def book() -> CreditBook:
    return CreditBook(total=TOTAL, base=BASE, streams_max=STREAMS, stream_bytes_max=STREAM_MAX)


def name(number: int) -> bytes:
    return bytes([number]) * 16


def settle(credit: CreditBook, wants: dict[bytes, tuple[int, int]], rounds: int = 12) -> dict[bytes, int]:
    """Workers that hear each grant at once and report (backlog, next_bytes) unchanged."""
    for _ in range(rounds):
        for stream, (backlog, next_bytes) in wants.items():
            credit.report(stream, backlog=backlog, next_bytes=next_bytes, confirmed=credit.granted(stream))
        credit.review()
    return {stream: credit.granted(stream) for stream in wants}


# -- shares ------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(0, 10_000), max_size=12), st.integers(0, 20_000))
def test_shares_are_max_min_fair(wants, pool):
    shares = max_min_fair(wants, pool)
    assert shares.keys() == wants.keys()
    assert all(0 <= shares[stream] <= want for stream, want in wants.items())
    assert sum(shares.values()) == min(pool, sum(wants.values()))
    unmet = [shares[stream] for stream, want in wants.items() if shares[stream] < want]
    if unmet:  # whoever got less than it wanted got no less than anybody, but for the rounding
        assert max(shares.values()) - min(unmet) <= 1


def test_every_stream_begins_with_the_base_grant():
    credit = book()
    assert credit.open(name(1)) == BASE == credit.granted(name(1)) == credit.reserved(name(1))


def test_an_unknown_stream_holds_nothing():
    credit = book()
    credit.report(name(1), backlog=10**9, next_bytes=10**9, confirmed=10**9)
    assert credit.granted(name(1)) == credit.reserved(name(1)) == credit.total_reserved() == 0
    assert credit.review() == {}


def test_a_backlog_is_lent_credit_up_to_the_limit_of_one_stream():
    credit = book()
    credit.open(name(1))
    assert settle(credit, {name(1): (10**9, 0)}) == {name(1): STREAM_MAX}


def test_credit_without_backlog_goes_back():
    credit = book()
    credit.open(name(1))
    settle(credit, {name(1): (10**9, 0)})
    assert settle(credit, {name(1): (0, 0)}) == {name(1): BASE}
    assert credit.total_reserved() == BASE


def test_what_is_taken_back_counts_as_lent_until_the_worker_heard_of_it():
    credit = book()
    for number in range(4):
        credit.open(name(number))
    settle(credit, {name(number): (10**9, 0) for number in range(3)})
    lent = credit.total_reserved()
    credit.report(name(3), backlog=10**9, next_bytes=0, confirmed=BASE)
    credit.review()
    assert credit.total_reserved() <= TOTAL
    assert credit.reserved(name(0)) >= credit.granted(name(0))
    assert credit.total_reserved() >= lent, "nobody has confirmed yet"


def test_a_grant_changes_only_when_the_worker_was_seen_to_hold_the_one_before():
    credit = book()
    credit.open(name(1))
    credit.report(name(1), backlog=1_000, next_bytes=0, confirmed=BASE)
    raised = credit.review()[name(1)]
    credit.report(name(1), backlog=0, next_bytes=0, confirmed=BASE)  # sent before the raise arrived
    assert credit.review() == {}
    assert credit.reserved(name(1)) == raised
    credit.report(name(1), backlog=0, next_bytes=0, confirmed=raised)
    assert credit.review() == {name(1): BASE}
    assert credit.reserved(name(1)) == raised, "it may be in use"
    credit.report(name(1), backlog=0, next_bytes=0, confirmed=raised - 1)  # so much is still in flight
    assert credit.reserved(name(1)) == raised
    credit.report(name(1), backlog=0, next_bytes=0, confirmed=BASE)
    assert credit.reserved(name(1)) == BASE


def test_small_swings_of_a_backlog_cost_no_messages():
    credit = book()
    credit.open(name(1))
    settle(credit, {name(1): (1_000, 0)})
    credit.report(name(1), backlog=950, next_bytes=0, confirmed=credit.granted(name(1)))
    assert credit.review() == {}


def test_a_newcomer_gets_its_fair_share_from_many_who_hold_all():
    credit = book()
    holders = {name(number): (10**9, 0) for number in range(STREAMS - 1)}
    for stream in holders:
        credit.open(stream)
    settle(credit, holders)
    credit.open(name(99))
    grants = settle(credit, {**holders, name(99): (10**9, 0)})
    assert max(grants.values()) - min(grants.values()) <= 1, grants


# -- single big grants -------------------------------------------------------------------------------------------


def test_an_event_larger_than_the_share_gets_one_grant_of_its_size():
    credit = book()
    crowd = {name(number): (10**9, 0) for number in range(STREAMS - 1)}
    for stream in (*crowd, name(99)):
        credit.open(stream)
    settle(credit, crowd)
    grants = settle(credit, {**crowd, name(99): (1_400, 1_400)}, rounds=1)
    for _ in range(10):
        grants = settle(credit, {**crowd, name(99): (1_400, 1_400)}, rounds=1)
        if grants[name(99)] >= 1_400:
            break
    assert grants[name(99)] >= 1_400, grants


def test_a_big_grant_is_not_taken_back_before_the_worker_heard_of_it():
    credit = book()
    for number in range(STREAMS):
        credit.open(name(number))
    crowd = {name(number): (10**9, 0) for number in range(STREAMS - 1)}
    settle(credit, crowd)
    big = name(STREAMS - 1)
    grants = []
    for round_ in range(20):
        credit.report(big, backlog=1_400 + round_, next_bytes=1_400, confirmed=BASE)  # the grant is still on its way
        settle(credit, crowd, rounds=1)
        grants.append(credit.granted(big))
    assert grants[-1] == 1_400
    assert grants == sorted(grants)


@given(sizes=st.lists(st.integers(BASE + 1, STREAM_MAX), min_size=STREAMS, max_size=STREAMS))
@settings(max_examples=50, deadline=None)
def test_nobody_in_the_line_for_big_grants_starves(sizes):
    """Every stream always has another big event waiting; each must be served again and again."""
    credit = book()
    served = [0] * STREAMS
    for number in range(STREAMS):
        credit.open(name(number))
    for _ in range(60):
        for number, size in enumerate(sizes):
            heard = credit.granted(name(number))
            fits = heard >= size
            served[number] += fits
            credit.report(name(number), backlog=10 * size, next_bytes=0 if fits else size, confirmed=heard)
        credit.review()
        assert credit.total_reserved() <= TOTAL
    assert min(served) >= 3, served


def test_a_wish_beyond_the_limit_of_a_stream_does_not_lock_credit_away():
    credit = book()
    credit.open(name(1))
    credit.open(name(2))
    grants = settle(credit, {name(1): (10**9, 10**15), name(2): (10**9, 0)})
    assert grants == {name(1): STREAM_MAX, name(2): STREAM_MAX}


# -- any order of things -----------------------------------------------------------------------------------------

NUMBERS = st.integers(0, STREAMS - 1)
NEXT_BYTES = st.sampled_from([0, 0, 100, 900, STREAM_MAX, 10**12])


class Books(RuleBasedStateMachine):
    """Workers hear grants late and report late; whatever happens, the sum of what is lent stays within the total."""

    def __init__(self):
        super().__init__()
        self.credit = book()
        self.heard: dict[bytes, list[int]] = {}

    @rule(number=NUMBERS)
    def open(self, number):
        self.heard[name(number)] = [self.credit.open(name(number))]

    @precondition(lambda self: self.heard)
    @rule(data=st.data())
    def close(self, data):
        stream = data.draw(st.sampled_from(sorted(self.heard)))
        self.credit.close(stream)
        del self.heard[stream]

    @precondition(lambda self: self.heard)
    @rule(data=st.data(), backlog=st.integers(0, 5_000), next_bytes=NEXT_BYTES)
    def report(self, data, backlog, next_bytes):
        stream = data.draw(st.sampled_from(sorted(self.heard)))
        grants = self.heard[stream]
        while len(grants) > 1 and data.draw(st.booleans()):
            grants.pop(0)
        self.credit.report(stream, backlog=backlog, next_bytes=next_bytes, confirmed=grants[0])

    @rule()
    def review(self):
        for stream, grant in self.credit.review().items():
            assert grant == self.credit.granted(stream)
            self.heard[stream].append(grant)

    @invariant()
    def lent_stays_within_the_total(self):
        assert self.credit.total_reserved() <= TOTAL
        assert self.credit.total_reserved() == sum(self.credit.reserved(stream) for stream in self.heard)

    @invariant()
    def what_workers_may_believe_to_hold_stays_within_the_total(self):
        assert sum(max(grants) for grants in self.heard.values()) <= TOTAL

    @invariant()
    def every_stream_holds_between_the_base_and_the_limit(self):
        for stream in self.heard:
            assert BASE <= self.credit.granted(stream) <= self.credit.reserved(stream) <= STREAM_MAX


Books.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
