"""What a run is doing, of what the store and the broker say of it; and how long a hop has not caught up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telefabric import limits
from telefabric.broker.core.hops import Hop, Lag, first_behind
from telefabric.feed.run_views import RunViews, run_state
from telefabric.feed.stored_runs import StoredRun
from telefabric.limits import NS
from telefabric.store.read.query import Run


@pytest.mark.parametrize(
    ("stored", "streams", "broker_known", "state"),
    [
        (None, [], True, "pending"),
        (None, ["waiting"], True, "waiting"),
        ("running", ["running", "stalled"], True, "running"),
        ("running", ["idle", "stalled"], True, "idle"),
        ("running", ["stalled"], True, "stalled"),
        ("running", ["revived", "running"], True, "revived"),
        ("running", [], True, "stalled"),
        ("running", [], False, "running"),
        ("completed", ["running"], True, "completed"),
        ("failed", [], False, "failed"),
        ("cancelled", [], True, "cancelled"),
        ("lost", [], True, "lost"),
        ("lost", ["stalled"], True, "lost"),
        ("lost", ["revived"], True, "revived"),
    ],
)
def test_the_state_of_a_run(stored, streams, broker_known, state):
    assert run_state(stored, streams, broker_known=broker_known) == state


def test_a_hop_that_follows_at_a_distance_is_well():
    lag = Lag()
    for second in range(100):
        assert lag.look(second * 50 - 30, second * 50, second * NS) <= 1.0


def test_a_hop_that_makes_no_headway_is_behind_since_there_was_something_to_take():
    lag = Lag()
    assert lag.look(10, 10, 0) == 0.0
    assert [lag.look(10, 10 + second, second * NS) for second in range(1, 5)] == [0.0, 1.0, 2.0, 3.0]
    assert lag.look(14, 14, 5 * NS) == 0.0


def test_a_hop_that_goes_on_too_slowly_is_behind():
    lag = Lag()
    late = [lag.look(second, second * 100, second * NS) for second in range(1, 60)]
    assert max(late) > 30


def test_going_back_to_an_earlier_place_is_not_being_behind():
    lag = Lag()
    lag.look(1_000, 1_000, 0)
    lag.look(900, 1_000, NS)
    assert lag.look(5, 5, 2 * NS) == 0.0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=50))
def test_what_has_arrived_is_never_behind(moves):
    lag, reached, goal = Lag(), 0, 0
    for second, (more, taken) in enumerate(moves):
        goal += more
        reached = min(reached + taken, goal)
        late = lag.look(reached, goal, second * NS)
        assert (late == 0.0) if reached == goal else (0.0 <= late <= second)


def hop(name: str, path: str, behind_s: float) -> Hop:
    return Hop(name, path, 1, 1, behind_s)


@pytest.mark.parametrize(
    ("late", "named"),
    [
        ({}, None),
        ({"store": 9.0, "broker": 9.0}, "store"),
        ({"broker": 9.0}, "broker"),
        ({"worker": 9.0, "gui": 9.0}, "worker"),
        ({"gui": 9.0}, "gui"),
        ({"store": limits.BEHIND_S}, None),
    ],
)
def test_the_hop_that_others_wait_for_is_the_first_that_is_behind(late, named):
    places = (("worker", "durable"), ("broker", "durable"), ("store", "durable"), ("gui", "live"))
    found = first_behind(hop(name, path, late.get(name, 0.0)) for name, path in places)
    assert (found.name if found else None) == named


def stored(run_id, status="running", number=1):
    return StoredRun(Run(number, run_id, status, None, 1, number, None, "agent", b"\x80", "[]", ""), [])


def heard(run_id, state="running", **given):
    known = {
        "run_id": run_id, "state": state, "silent_s": 0.2, "agent_id": "agent_0", "worker_id": "w", "emitted": 9,
        "backlog": 0, "hops": [], "first_behind": None, "clock_offset_ms": None, "round_trip_ms": None,
    }  # fmt: skip
    return known | given


def took(views):
    runs, gone = views.take()
    return {run.run_id: run.state for run in runs}, gone


def test_only_runs_that_changed_are_handed_over_newest_first():
    views = RunViews()
    views.store({f"run{number}": stored(f"run{number}", "completed", number) for number in range(1, 4)})
    runs, gone = views.take()
    assert ([run.run_id for run in runs], gone) == (["run3", "run2", "run1"], ())
    assert took(views) == ({}, ())
    views.store({"run2": stored("run2", "failed", 2), "run1": stored("run1", "completed", 1)})
    assert took(views) == ({"run2": "failed"}, ())
    views.store({"run2": None})
    assert took(views) == ({}, ("run2",))


def test_a_run_has_what_store_and_broker_say_of_it_whichever_comes_first():
    views = RunViews()
    views.hear([heard("new"), heard("old", "idle")], broker_known=True)
    assert took(views) == ({"new": "running", "old": "idle"}, ())
    views.store({"old": stored("old"), "done": stored("done", "completed")})
    assert took(views) == ({"old": "idle", "done": "completed"}, ())
    views.hear([heard("old", "stalled", silent_s=14.0)], broker_known=True)
    assert took(views) == ({"old": "stalled"}, ("new",))
    views.hear([], broker_known=True)
    assert took(views) == ({"old": "stalled"}, ()), "forgotten by the broker"
    views.hear([], broker_known=False)
    assert took(views) == ({"old": "running"}, ()), "there is nobody to ask"


def test_a_word_of_the_broker_that_comes_while_runs_are_joined_counts():
    views = RunViews()
    views.hear([heard("run", "idle")], broker_known=True)
    words = [[heard("run", "stalled")]]

    class Interrupted(dict):
        def items(self):
            if words and not views._lock.locked():
                views.hear(words.pop(), broker_known=True)
            return super().items()

    views.store(Interrupted(run=stored("run")))
    assert took(views) == ({"run": "stalled"}, ())
