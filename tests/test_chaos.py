"""Faults at random against real processes: what `emit` returned for is stored once; the oracle sees it when not."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import Chaos
from oracle import is_faultless

pytestmark = pytest.mark.timeout(180)
SEED = 3
FAULTS_LEAST = 3


def test_nothing_is_lost_or_stored_twice_whatever_is_killed_stopped_or_cut(tmp_path: Path) -> None:
    with Chaos(tmp_path, SEED, rate=500) as chaos:
        chaos.run(5)
        while chaos.faults.total() < FAULTS_LEAST:  # on a slow machine each takes longer
            chaos.run(1)
        chaos.settle()
        chaos.last_event_comes_live()
        found = chaos.report()
    assert is_faultless(found), found
    assert found["faults"] >= FAULTS_LEAST, found
    assert found["events"] > 2_000


def test_the_oracle_notices_a_spool_that_is_gone(tmp_path: Path) -> None:
    with Chaos(tmp_path, SEED, rate=2_000, without_spool=True) as chaos:
        chaos.kinds = ("kill_worker",)
        chaos.run(1)
        chaos.settle()
        found = chaos.report()
    assert found["lost"] > 0
    assert not is_faultless(found)
