"""A sink that a durable subscription feeds: what it may put off, and what it may refuse to take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from processes import wait_for
from slowness import patience
from store_fixtures import LOOPBACK, running

from telefabric.broker.service import Broker
from telefabric.subscribe import DurableBatch, DurableSubscription, Owner
from telefabric_workers import connect


class Late(Owner):
    """Takes one batch a turn, and has it on its disk only when the test says so."""

    def __init__(self, broker: Broker) -> None:
        self.got: list[int] = []
        self.safe: dict[bytes, int] = {}
        self.gathered: dict[bytes, int] = {}
        self.attachments = 0
        self.subscription = DurableSubscription(
            broker.address, name="late", held=lambda stream: self.safe.get(stream, 0), required=True, owner=self
        )

    def attached(self, instance: bytes) -> None:
        self.attachments += 1

    def commit(self, batches: Iterator[DurableBatch]) -> Mapping[bytes, int]:
        if (batch := next(batches, None)) is not None:
            self.got += range(batch.header.first_seq + batch.skip, batch.header.last_seq + 1)
            self.gathered[batch.header.stream] = batch.header.last_seq
        return {}

    def turn(self) -> None:
        self.subscription.feed(self, 0.01)

    def end_commit(self) -> None:
        self.safe.update(self.gathered)
        self.subscription.stored(self.safe)


def test_a_sink_that_commits_late_is_given_each_event_once_whatever_is_sent_again(tmp_path: Path) -> None:
    broker = Broker(LOOPBACK, required=("late",))
    sink = Late(broker)
    with running([broker]):
        with connect(broker.address.url, spool=tmp_path, exit_flush_s=0.0) as worker:
            for step in range(300):
                worker.step(episode=0, step=step)
            wait_for(lambda: sink.turn() or len(sink.got) >= 300, "the sink has been given some")
            sink.subscription._begin()
            wait_for(lambda: sink.turn() or sink.attachments == 2, "it is attached again, and holds nothing yet")
            for step in range(300, 600):
                worker.step(episode=0, step=step)
            wait_for(lambda: sink.turn() or len(sink.got) >= worker.emitted, "the sink has been given all")
            assert not worker.flush(0.1), "nothing is acknowledged that it did not say"
            sink.end_commit()
            assert worker.flush(patience(20))
        assert sink.got == list(range(1, len(sink.got) + 1))
        sink.subscription.close()


def test_a_sink_that_could_not_keep_what_it_was_given_is_given_it_again(tmp_path: Path) -> None:
    broker = Broker(LOOPBACK, required=("late",))
    sink = Late(broker)
    with running([broker]):
        with connect(broker.address.url, spool=tmp_path, exit_flush_s=0.0) as worker:
            for step in range(100):
                worker.step(episode=0, step=step)
            wait_for(lambda: sink.turn() or len(sink.got) >= 100, "the sink has been given some")
            sink.subscription.close()
            sink.got.clear()
            sink.gathered.clear()
            wait_for(lambda: sink.turn() or len(sink.got) >= worker.emitted, "the sink has been given all again")
            sink.end_commit()
            assert worker.flush(patience(20))
        assert sink.got == list(range(1, len(sink.got) + 1))
        sink.subscription.close()
