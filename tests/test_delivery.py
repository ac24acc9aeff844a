"""Whatever is lost, delayed, repeated, restarted or restored on the way: every event is stored once and in order, or
covered by a gap that has a cause; nothing is acknowledged before it is committed; and in the end all is acknowledged.

`simulator` says what is real and what is modelled. `scripts/simulate` runs many more of the same plans.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import MUTANTS, SEEDS, Mutant
from simulator import FAULTS, Plan, Violation, simulate

SCHEDULES = 30
MUTANT_SEEDS_MAX = 2_000

plans = st.builds(
    Plan,
    seed=st.integers(0, 2**32),
    turns=st.integers(1, 120),
    turn_ms=st.sampled_from((20, 50, 200)),
    workers=st.integers(1, 3),
    second=st.sampled_from(("", "required", "optional")),
    faults=st.lists(st.sampled_from(FAULTS), unique=True).map(tuple),
)


@pytest.mark.parametrize("first", range(0, SCHEDULES, 10))
def test_every_event_is_stored_exactly_once_and_in_order_through_losses_and_restarts(first):
    for seed in range(first, first + 10):
        simulate(Plan.of(seed))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plans)
def test_no_combination_of_faults_breaks_a_rule(plan):
    simulate(plan)


def test_one_plan_gives_one_run():
    first, second = simulate(Plan.of(5)), simulate(Plan.of(5))
    assert list(map(str, first.trace)) == list(map(str, second.trace))
    assert first.now_ns == second.now_ns
    assert [store.database.rows for store in first.stores] == [store.database.rows for store in second.stores]


def broken_rule(seed: int) -> str:
    try:
        simulate(Plan.of(seed))
    except Violation as found:
        return str(found)
    return ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_rule_is_noticed(mutant: Mutant):
    seeds = [*([SEEDS[mutant.name]] if mutant.name in SEEDS else []), *range(MUTANT_SEEDS_MAX)]
    with mutant.applied():
        report = next(filter(None, map(broken_rule, seeds)), None)
    assert report, f"{MUTANT_SEEDS_MAX} seeds did not notice it: the simulator is too weak"
    print("\n".join(report.splitlines()[:2]))  # the rule, and the seed with its plan


@pytest.mark.parametrize("seed", [17_610, 37_301, 41_442])
def test_a_rare_schedule_that_once_broke_a_rule(seed: int):
    """A gap of two reasons; a WELCOME lost between brokers that count epochs alike; a queue full of what came anew."""
    simulate(Plan.of(seed))
