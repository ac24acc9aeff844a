"""The store as a service: what it keeps in memory, and what it finds in its file again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zmq
from processes import free_ports, wait_for
from slowness import patience
from store_fixtures import running, step, stream

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.store.file.backup import backup
from telefabric.store.file.database import open_reader
from telefabric.store.service import Store
from telefabric.subscribe.durable import DurableBatch
from telefabric.wire import batch, control, records

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
    for number in range(100):
        first.step(episode=0, step=number)
    assert first.close()
    assert fabric_service.rows("SELECT run_id, count(*) FROM steps JOIN runs USING (run)") == [("first", 100)]
    assert fabric_service.rows("SELECT count(*) FROM runs") == [(9,)]
    assert not store.subscription.refused, "no batch was refused"


def test_a_store_is_ready_when_its_broker_has_taken_it_in(tmp_path: Path) -> None:
    address, ready = Address("127.0.0.1", free_ports()), threading.Event()
    store = Store(address, tmp_path / "s.db", ready=ready.set)
    with running([store]):
        assert not ready.wait(0.5), "there is no broker yet"
        with running([Broker(address)]):
            assert ready.wait(patience(limits.READY_S))
            assert store.subscription.attached
    store.close()


def test_a_store_without_a_broker_is_ready_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "READY_S", 0.2)
    calls: list[float] = []
    store = Store(Address("127.0.0.1", free_ports()), tmp_path / "s.db", ready=lambda: calls.append(time.monotonic()))
    began_s = time.monotonic()
    with running([store]):
        wait_for(lambda: calls, "the store says that it is ready")
        time.sleep(0.3)
    store.close()
    assert len(calls) == 1
    assert calls[0] - began_s >= 0.2


@pytest.mark.parametrize("limit", ["COMMIT_EVENTS_MAX", "COMMIT_BYTES_MAX"])
def test_a_full_transaction_takes_no_more_batches_and_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    info = stream()
    body = memoryview(records.frame(msgspec.msgpack.encode(step(1))))
    monkeypatch.setattr(limits, limit, 3 if limit == "COMMIT_EVENTS_MAX" else 2 * len(body) + 1)
    monkeypatch.setattr(limits, "COMMIT_INTERVAL_S", 3_600.0)
    store = Store(Address("127.0.0.1", 1), tmp_path / "s.db")
    store.subscription.infos[info.stream] = info

    def batches() -> Iterator[DurableBatch]:
        for seq in range(1, 6):
            body = memoryview(records.frame(msgspec.msgpack.encode(step(seq))))
            header = batch.Header(0, bytes(16), info.stream, 1, seq, seq, 1, 0, 0)
            yield DurableBatch(header, bytes(body), body, 0, whole=True)

    come = batches()
    assert store.commit(come) == {}
    assert store._committing is not None
    assert [each.header.first_seq for each in come] == [4, 5]
    assert store._end_commit() == {info.stream: 3}
    store.subscription.close()
    store.close()


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
        assert socket.poll(patience(20_000))
        attached = control.decode(socket.recv())
    assert isinstance(attached, control.Attached)
    assert attached.fabric == name
    backup(fabric_service.file, tmp_path / "copy.sqlite")
    copy = open_reader(tmp_path / "copy.sqlite")
    assert copy.execute("SELECT fabric_id FROM store").get == name
    copy.close()
