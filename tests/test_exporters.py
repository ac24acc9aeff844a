"""Durable subscribers beside the store, over real sockets: what nobody waits for costs nobody anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FabricService
from processes import wait_for
from slowness import patience

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.peer.requests import ask_status
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric.store.service import Store
from telefabric.subscribe.sockets import DurableSockets
from telefabric.wire import control
from telefabric.wire.batch import parse_header
from telefabric_workers import connect

PATIENCE_S = 30.0


class Exporter:
    """Attached and subscribed; reads control on a thread of its own, and data only when the test does."""

    def __init__(self, broker: str) -> None:
        self.session = DurableSockets(Address.parse(broker))
        self.skipped: dict[bytes, int] = {}
        self.mark = 0
        self.session.send(control.Attach(control.PROTOCOL, "exporter"))
        wait_for(self.subscribed, "the exporter is attached")

    def subscribed(self) -> bool:
        self.tend()
        return self.session.instance is not None

    def tend(self) -> None:
        """Answer the broker."""
        self.session.wait(0)
        for message in self.session.receive_control(time.monotonic_ns()):
            match message:
                case control.Attached():
                    self.session.subscribe(message)
                case control.Ask():
                    marks = [control.StreamSeq(info.stream, self.mark) for info in message.streams]
                    self.session.send(control.Marks(message.instance, marks))
                case control.Skipped():
                    self.skipped = {mark.stream: mark.seq for mark in message.marks}
        now_ns = time.monotonic_ns()
        if self.session.beat_due(now_ns):
            self.session.beat(control.DurableBeat(now_ns), now_ns)

    def read(self) -> Iterator[tuple[int, int]]:
        """First and last seq of each batch that has arrived."""
        while (message := self.session.receive_data()) is not None:
            header, _ = parse_header(message)
            yield header.first_seq, header.last_seq


@pytest.fixture
def exporter(fabric_service: FabricService) -> Iterator[Exporter]:
    made = Exporter(fabric_service.url)
    yield made
    made.session.close()


def durable(url: str, name: str) -> dict[str, object]:
    found = ask_status(Address.parse(url)).status["durable"]
    return next(one for one in found if one["name"] == name)


def test_an_exporter_that_is_frozen_stops_nobody_and_is_told_what_it_missed(
    fabric_service: FabricService, exporter: Exporter
) -> None:
    steps = (limits.LANE_TAIL_BYTES_MAX + limits.DURABLE_HWM * limits.MIB // 4) // 65_536 + 200
    with fabric_service.connect() as worker:
        for step in range(steps):
            worker.step(episode=0, step=step, observation=bytes(65_536))
        assert worker.flush(PATIENCE_S), "the store has all of it"
        exporter.tend()
        assert durable(fabric_service.url, "exporter")["missed"]
    emitted = worker.emitted
    assert audit(fabric_service.file, worker.stream_id, emitted)[:4] == (emitted, emitted, 0, 0)
    stream = worker.stream_id
    wait_for(lambda: exporter.tend() or exporter.skipped.get(stream, 0) >= emitted, "it is told what it misses")


def test_an_exporter_that_is_there_before_the_store_gets_all_and_costs_nothing(tmp_path: Path) -> None:
    broker = Broker(Address("127.0.0.1", 0))
    serving = threading.Thread(target=broker.run)
    serving.start()
    url = broker.address.url
    exporter = Exporter(url)
    with connect(url, spool=tmp_path / "spool", exit_flush_s=PATIENCE_S) as worker:
        for step in range(300):
            worker.step(episode=0, step=step)
        wait_for(lambda: exporter.tend() or durable(url, "exporter"), "the broker knows the exporter")
        assert not list(exporter.read()), "without the store nothing is on its way"
        store = Store(broker.address, tmp_path / FILE_NAME)
        storing = threading.Thread(target=store.run)
        storing.start()
        assert worker.flush(PATIENCE_S)
        emitted = worker.emitted
        got: list[int] = []

        def all_here() -> bool:
            exporter.tend()
            for first, last in exporter.read():
                got.extend(range(first, last + 1))
            return len(got) >= emitted

        wait_for(all_here, "the exporter has got all of it")
        assert got == list(range(1, emitted + 1))
    store.stop()
    storing.join(patience(20))
    store.close()
    emitted = worker.emitted
    assert audit(tmp_path / FILE_NAME, worker.stream_id, emitted)[:4] == (emitted, emitted, 0, 0)
    exporter.session.close()
    broker.stop()
    serving.join(patience(20))


def test_many_streams_emit_an_event_of_the_largest_size_at_once(fabric_service: FabricService) -> None:
    """Each waits in line for one grant of its size; together they are more than all the credit there is."""
    largest = bytes(limits.EVENT_BYTES_MAX - 1_000)
    streams = limits.DURABLE_BYTES_MAX // limits.EVENT_BYTES_MAX + 2
    workers = [fabric_service.connect(run="large") for _ in range(streams)]
    for worker in workers:
        worker.step(episode=0, step=0, observation=largest)
    for worker in workers:
        worker.close()
    rows = fabric_service.rows("SELECT count(*), min(length(event)) FROM steps")
    assert rows[0][0] == streams
    assert rows[0][1] > len(largest)
