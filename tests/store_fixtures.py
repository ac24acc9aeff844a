"""Store files for tests, written by the real writer from real batches; and a broker that names a query service."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import zmq
from processes import wait_for
from slowness import patience

from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.peer.own_socket import control_url
from telefabric.peer.requests import ask_status
from telefabric.store.read.query_service import QueryService
from telefabric.store.service import Store
from telefabric.store.tables.rows import Rows
from telefabric.store.write.writer import Writer
from telefabric.wire import batch, control, records
from telefabric_schemas import Event, events, values

TIME_NS = 1_700_000_000_123_456_789
LOOPBACK = Address("127.0.0.1", 0)
_encoder = msgspec.msgpack.Encoder()


def raw(value: Any) -> msgspec.Raw:
    """A payload as it stands in an event."""
    return msgspec.Raw(values.encode(value))


def step(seq: int, agent: str = "agent_0", **given: Any) -> events.Step:
    known: dict[str, Any] = {
        "env_index": 0, "episode_index": seq // 10, "step_index": seq % 10, "global_step": seq, "reward": 0.5,
        "terminated": False, "truncated": False, "time_ns": TIME_NS + seq, "mono_ns": seq, "action": raw(seq % 4),
    }  # fmt: skip
    return events.Step(seq, agent, **(known | given))


def episode(seq: int, agent: str = "agent_0", **given: Any) -> events.Episode:
    known: dict[str, Any] = {
        "env_index": 0, "episode_index": seq // 10, "total_reward": 5.0, "length": 10, "global_step": seq,
        "time_ns": TIME_NS + seq, "mono_ns": seq,
    }  # fmt: skip
    return events.Episode(seq, agent, **(known | given))


def metric(seq: int, name: str = "loss", value: float | None = 0.25, agent: str = "agent_0") -> events.Metric:
    return events.Metric(seq, name, value, None, seq, agent, TIME_NS + seq, seq)


def reset(seq: int, agent: str = "agent_0", **given: Any) -> events.Reset:
    known: dict[str, Any] = {"env_index": 0, "episode_index": seq // 10, "time_ns": TIME_NS + seq, "mono_ns": seq}
    return events.Reset(seq, agent, **(known | given))


def void(seq: int, episode_index: int, agent: str = "agent_0", reason: str | None = "undone") -> events.EpisodeVoided:
    return events.EpisodeVoided(seq, agent, 0, episode_index, TIME_NS + seq, seq, reason)


def log(seq: int, message: str = "hello", agent: str = "agent_0") -> events.Log:
    return events.Log(seq, "info", message, agent, TIME_NS + seq, seq)


def frame(seq: int, ref: str = "f", data: bytes = b"\x89PNG", agent: str = "agent_0") -> events.Frame:
    return events.Frame(seq, agent, 0, seq // 10, seq % 10, ref, 4, 2, "png", data, TIME_NS + seq, seq)


def run_started(seq: int, info: control.StreamInfo, metadata: Any = None, **given: Any) -> events.RunStarted:
    head = (seq, info.run_id, info.worker_id, info.agent_id, TIME_NS + seq, seq)
    return events.RunStarted(*head, metadata=raw(metadata), **given)


def run_metadata(seq: int, metadata: Any, agent: str = "agent_0") -> events.RunMetadata:
    return events.RunMetadata(seq, raw(metadata), agent, TIME_NS + seq, seq)


def run_completed(seq: int, outcome: str = "completed", reason: str | None = None) -> events.RunCompleted:
    return events.RunCompleted(seq, outcome, reason, TIME_NS + seq, seq)


def stream(
    run: str = "run", worker: str = "worker", agent: str = "agent_0", after_ns: int = 0, **given: Any
) -> control.StreamInfo:
    """One that began so long after `TIME_NS`."""
    return control.StreamInfo(os.urandom(16), run, worker, agent, TIME_NS + after_ns, **given)


class Scribe:
    """The real writer of a store file, told events instead of batches."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self.path = path
        self.writer = Writer(path, vfs)
        self.rows: Rows = self.writer.begin()

    def put(self, info: control.StreamInfo, *found: Event | bytes, first_seq: int | None = None, skip: int = 0) -> None:
        """One batch of consecutive events; bytes stand for an event as a stranger may have encoded it."""
        if first_seq is None:
            assert isinstance(found[0], Event)
            first_seq = found[0].seq
        encoded = [each if isinstance(each, bytes) else _encoder.encode(each) for each in found]
        body = b"".join(records.frame(each) for each in encoded)
        self.put_body(info, body, first_seq, first_seq + len(found) - 1, skip=skip)

    def edit(
        self, command: str, run: str, value: Any = None, id: bytes | None = None, by: str = "ada"
    ) -> control.Edited:
        """An edit as it comes from a broker."""
        encoded = msgspec.Raw(msgspec.msgpack.encode(value))
        return self.writer.edit(control.Edit(id or os.urandom(16), command, run, encoded, by))

    def put_gap(self, info: control.StreamInfo, first_seq: int, last_seq: int, reason: str, *, skip: int = 0) -> None:
        gap = events.Gap(first_seq, last_seq, reason, TIME_NS)
        self.put_body(info, records.frame(_encoder.encode(gap)), first_seq, last_seq, skip=skip, flags=batch.FLAG_GAP)

    def put_body(
        self, info: control.StreamInfo, body: bytes, first_seq: int, last_seq: int, *, skip: int = 0, flags: int = 0
    ) -> None:
        count = 1 if flags & batch.FLAG_GAP else last_seq - first_seq + 1
        header = batch.Header(
            flags, b"broker instance!", info.stream, 1, first_seq, last_seq, count, 0, TIME_NS, crc32(body)
        )
        self.rows.add(self.writer.place(info), header, memoryview(body), skip)  # as a part of its message

    def put_conflict(self, info: control.StreamInfo, first_seq: int, *found: Event) -> None:
        """A batch that contradicts what is stored."""
        body = memoryview(b"".join(records.frame(_encoder.encode(each)) for each in found))
        last_seq = first_seq + len(found) - 1
        header = batch.Header(
            0, b"broker instance!", info.stream, 1, first_seq, last_seq, len(found), 0, TIME_NS, crc32(body)
        )
        self.rows.quarantine_batch(self.writer.place(info), header, body, "conflict", "stored with other bytes")

    def commit(self) -> dict[bytes, int]:
        self.writer.begin_commit(self.rows)
        marks = self.writer.end_commit()
        self.rows = self.writer.begin()
        return marks

    def close(self) -> None:
        self.writer.close()

    def __enter__(self) -> Scribe:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def running(parts: Sequence[Broker | QueryService | Store]) -> Iterator[None]:
    """Each on a thread of its own; all have ended afterwards."""
    threads = [threading.Thread(target=part.run, name=type(part).__name__) for part in parts]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for part in parts:
            part.stop()
        for thread in threads:
            thread.join(patience(20))
        assert not any(thread.is_alive() for thread in threads)


@contextmanager
def attached(broker: Address, query: str | None) -> Iterator[None]:
    """Somebody is the broker's store, and says that questions are answered at `query`."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(control_url(broker))
        socket.send(control.encode(control.Attach(control.PROTOCOL, "store", query)))

        def is_attached() -> bool:
            reply = ask_status(broker)
            return bool(reply.status["durable"]) and reply.endpoints.query == query

        wait_for(is_attached, "the store is attached")
        yield


@contextmanager
def query_behind_broker(path: Path) -> Iterator[Address]:
    """A broker whose store answers questions about `path`; the broker's address."""
    broker, service = Broker(LOOPBACK), QueryService(LOOPBACK, path)
    with running([broker, service]), attached(broker.address, f"*:{service.address.port}"):
        yield broker.address
