"""Faults at random against real processes: what `emit` returned for is stored once; the oracle sees it when not."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import Chaos

pytestmark = pytest.mark.timeout(180)
SEED = 3
WRONG = ("lost", "duplicated", "wrong", "disordered")


def test_nothing_is_lost_or_stored_twice_whatever_is_killed_stopped_or_cut(tmp_path: Path) -> None:
    with Chaos(tmp_path, SEED, rate=500) as chaos:
        chaos.run(15)
        chaos.settle()
        found = chaos.report(SEED)
    assert {name: found[name] for name in WRONG} == dict.fromkeys(WRONG, 0), found
    assert found["integrity"] == "ok"
    assert found["faults"] >= 5, found
    assert found["events"] > 5_000


def test_the_oracle_notices_a_spool_that_is_gone(tmp_path: Path) -> None:
    with Chaos(tmp_path, SEED, rate=500) as chaos:
        costs = chaos.lose_spools()
        last = chaos.add_emitter(seconds=1)
        assert last.wait(60) == 0, "the store takes in what is new"
        assert chaos.verdict()["lost"] == costs > 500
