"""The store as a service: what it keeps in memory, and what it finds in its file again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq
from processes import wait_for

from telefabric import limits
from telefabric.store.file.backup import backup
from telefabric.store.file.database import open_reader
from telefabric.wire import control

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
    assert not store.subscription._intake.knows(first.stream_id)
    assert len(store.subscription._intake._streams) <= limits.STREAMS_KNOWN_MAX
    assert store._writer is not None
    assert len(store._writer._places) <= limits.STREAMS_KNOWN_MAX
    assert not store.subscription.infos, "metadata is not kept beside the file"
    for step in range(100):
        first.step(episode=0, step=step)
    assert first.close()
    assert fabric_service.rows("SELECT run_id, count(*) FROM steps JOIN runs USING (run)") == [("first", 100)]
    assert fabric_service.rows("SELECT count(*) FROM runs") == [(9,)]
    assert not store.subscription.refused, "no batch was refused"


def test_streams_that_have_ended_are_not_watched_and_what_runs_is(fabric_service: FabricService) -> None:
    running = fabric_service.connect(run="running")
    for number in range(5):
        with fabric_service.connect(run=f"run-{number}") as worker:
            worker.metric("loss", number)
    assert running.flush(30)
    store = fabric_service.store
    wait_for(lambda: len(store._vigil) == 1, "one is watched")
    said_ns = store._vigil._told_ns
    wait_for(lambda: store._vigil._told_ns != said_ns, "the broker has said again which workers live")
    assert len(store._vigil) == 1


def test_the_store_names_itself_to_all_who_come_to_its_broker_and_a_copy_keeps_the_name(
    fabric_service: FabricService, tmp_path: Path
) -> None:
    ((name,),) = fabric_service.rows("SELECT fabric_id FROM store")
    assert len(name) == 16
    wait_for(lambda: fabric_service.store.subscription.attached, "the store is attached")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(fabric_service.url)
        socket.send(control.encode(control.Attach(control.PROTOCOL, "exporter")))
        assert socket.poll(20_000)
        attached = control.decode(socket.recv())
    assert isinstance(attached, control.Attached)
    assert attached.fabric == name
    backup(fabric_service.file, tmp_path / "copy.sqlite")
    copy = open_reader(tmp_path / "copy.sqlite")
    assert copy.execute("SELECT fabric_id FROM store").get == name
    copy.close()
