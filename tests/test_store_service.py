"""The store as a service: what it keeps in memory, and what it finds in its file again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from telefabric import limits

if TYPE_CHECKING:
    from conftest import FabricService


def test_streams_of_long_ago_leave_the_memory_and_may_speak_again(
    fabric_service: FabricService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAMS_KNOWN_MAX", 3)
    first = fabric_service.connect(run="first")
    for number in range(8):
        with fabric_service.connect(run=f"run-{number}") as worker:
            worker.metric("loss", number)
    store = fabric_service.store
    assert not store._intake.knows(first.stream_id)
    assert len(store._intake._streams) <= limits.STREAMS_KNOWN_MAX
    assert store._writer is not None
    assert len(store._writer._places) <= limits.STREAMS_KNOWN_MAX
    assert not store._arriving, "metadata is not kept beside the file"
    for step in range(100):
        first.step(episode=0, step=step)
    assert first.close()
    assert fabric_service.rows("SELECT run_id, count(*) FROM steps JOIN runs USING (run)") == [("first", 100)]
    assert fabric_service.rows("SELECT count(*) FROM runs") == [(9,)]
    assert store.tally.refused == {}, "no batch was refused"
