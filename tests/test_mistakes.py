"""A program that was written from the specification alone and gets something wrong is told what, and the remedy."""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack
import pytest
import zmq
from conftest import FabricService
from processes import run, wait_for
from skips import requires
from slowness import patience

from telefabric import limits
from telefabric.address import Address
from telefabric.peer.requests import ask_status

INSTANCE = bytes(16)


class Foreign:
    """A worker of plain zmq, msgpack and struct."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], url: str) -> None:
        self.stream = os.urandom(16)
        self._control = context.socket(zmq.DEALER)
        self._control.connect(url)
        self._data = context.socket(zmq.XPUB)
        self._url = url

    @property
    def info(self) -> list[Any]:
        return [self.stream, "run", "foreign", "agent", 1]

    def say(self, *frames: bytes) -> None:
        self._control.send_multipart(frames)

    def hear(self, name: str) -> list[Any]:
        """The next message of this name, whatever came before it."""
        while self._control.poll(10_000):
            message = self._control.recv()
            assert struct.unpack(">I", message[-4:])[0] == crc32(message[:-4])
            found = msgpack.unpackb(message[:-4])
            if found[0] == name:
                assert name != "error" or len(message) <= limits.ERROR_BYTES_MAX
                return list(found)
        raise AssertionError(f"no {name} came")

    def begin(self, head: int = 100) -> None:
        """Until the stream may send."""
        self.say(sealed(["hello", 1, self.info, 1, head]))
        welcome = self.hear("welcome")
        while welcome[4] is None:
            welcome = self.hear("welcome")
        _, self.instance, _, self.epoch, *_ = welcome
        self._data.connect("tcp://127.0.0.1:" + welcome[7][0].rpartition(":")[2])
        assert self._data.recv() == b"\x01"

    def send(self, first: int, last: int, body: bytes, **wrong: Any) -> None:
        self._data.send_multipart([self.stream, self.batch(first, last, body, **wrong)])

    def batch(self, first: int, last: int, body: bytes, *, count: int | None = None, crc: int = 0) -> bytes:
        """`crc` is by how much that of the body is wrong."""
        count = last - first + 1 if count is None else count
        head = struct.pack(
            ">2sBBH16s16sIQQIQQI", b"TF", 1, 86, 0, self.instance, self.stream, self.epoch, first, last, count, 0, 0,
            crc32(body) ^ crc,
        )  # fmt: skip
        return head + struct.pack(">I", crc32(head)) + body

    def send_raw(self, *frames: bytes) -> None:
        self._data.send_multipart(frames)


@contextmanager
def foreign(url: str) -> Iterator[Foreign]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield Foreign(context, url)
    finally:
        context.destroy(linger=0)


def sealed(message: list[Any]) -> bytes:
    data = msgpack.packb(message)
    return data + struct.pack(">I", crc32(data))


def record(seq: int) -> bytes:
    event = msgpack.packb(["metric", seq, "loss", 0.5, None, seq, "agent", 1, 1])
    return b"\x93\xce" + struct.pack(">I", len(event)) + b"\xce" + struct.pack(">I", crc32(event)) + event


def hello(**changes: Any) -> list[Any]:
    info = {"stream": bytes(16), "run": "run", "worker": "w", "agent": "a", "started": 1} | changes
    return ["hello", 1, list(info.values()), 1, 0]


MISTAKES: dict[str, tuple[list[bytes], tuple[str, str, str | None], str]] = {
    "a wrong check": ([sealed(hello())[:-4] + b"abcd"], ("damaged", "hello", None), "CRC-32"),
    "no check": ([msgpack.packb(hello())], ("damaged", "hello", None), "CRC-32"),
    "a missing item": ([sealed(["hello", 1, [bytes(16), "r", "w", "a", 1], 1])], ("bad_control", "hello", "head"), "5"),
    "a missing item inside": ([sealed(["hello", 1, [bytes(16)], 1, 2])], ("bad_control", "hello", "info.run_id"), "5"),
    "a wrong type": ([sealed(hello(run=7))], ("bad_control", "hello", "info.run_id"), "`str`, got `int`"),
    "hex digits": ([sealed(hello(stream="ab" * 16))], ("bad_control", "hello", "info.stream"), "not text such as hex"),
    "a short id": ([sealed(hello(stream=b"ab"))], ("bad_control", "hello", "info.stream"), "16"),
    "a long name": ([sealed(hello(run="\u20ac" * 208))], ("bad_control", "hello", "info.run_id"), "624 bytes"),
    "a long run": ([sealed(["watch", 1, "n", ["\u20ac" * 208], None])], ("bad_control", "watch", "runs"), "624"),
    "an extra frame": ([b"", sealed(hello())], ("frames", "", None), "one frame, not 2"),
    "no such message": ([sealed(["greet", 1])], ("bad_control", "greet", None), "no message is named"),
    "a map": ([sealed({"hello": 1})], ("bad_control", "", None), "an array that begins with its name"),  # type: ignore[arg-type]
    "a broker's message": ([sealed(["ack", bytes(16), bytes(16), 1])], ("unexpected_control", "ack", None), "a broker"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_control_message_gets_wrong_is_answered(fabric_service: FabricService, mistake: str) -> None:
    frames, expected, words = MISTAKES[mistake]
    with foreign(fabric_service.url) as peer:
        peer.say(*frames)
        _, _, reason, message, field, about = peer.hear("error")
    assert (reason, about or "", field) == expected
    assert words in message
    status = ask_status(Address.parse(fabric_service.url)).status
    (told,) = status["mistakes"]
    assert (told["reason"], told["about"], told["field"] or None, told["message"]) == (*expected, message)
    assert status["dropped"] == {reason: 1}


def test_what_a_batch_gets_wrong_is_answered_on_control(fabric_service: FabricService) -> None:
    with foreign(fabric_service.url) as peer:
        peer.begin()
        whole = peer.batch(1, 1, record(1))
        for send, reason, field in (
            (lambda: peer.send(1, 3, record(1), count=1), "inconsistent", "events"),
            (lambda: peer.send_raw(peer.stream, whole[:81] + b"\0" + whole[82:]), "damaged", "header CRC"),
            (lambda: peer.send_raw(peer.stream, b"short"), "too_short", None),
            (lambda: peer.send_raw(peer.stream, whole, b"more"), "frames", None),
            (lambda: peer.send_raw(peer.stream, b"TF\x02" + whole[3:]), "version", "version"),
        ):
            send()
            _, _, said, _, of_field, about = peer.hear("error")
            assert (said, of_field, about) == (reason, field, "batch")
        told = ask_status(Address.parse(fabric_service.url)).status["mistakes"]
        assert {one["name"] for one in told} == {"run/foreign"}


def test_a_damaged_body_is_asked_for_again_and_at_last_kept_aside(fabric_service: FabricService) -> None:
    """Its sender computes another CRC-32 than we do: it hears so, and its stream goes on."""
    with foreign(fabric_service.url) as peer:
        peer.begin()
        peer.send(1, 1, record(1))
        for _ in range(2):
            peer.send(2, 3, record(2) + record(3), crc=1)
            assert peer.hear("error")[2:] == [
                "damaged", "the body of the batch at seq 2 fails its CRC-32: send the CRC-32 of the body as it is",
                "body CRC", "batch",
            ]  # fmt: skip
            _, _, _, peer.epoch, expected, _, reason = peer.hear("rewind")
            assert (expected, reason) == (2, "damaged")
        peer.send(2, 3, record(2) + record(3), crc=1)
        peer.send(4, 4, record(4))
        while peer.hear("ack")[3] < 4:
            pass
    assert fabric_service.rows("SELECT seq FROM metrics") == [(1,), (4,)]
    assert fabric_service.rows("SELECT seq, last_seq, reason FROM quarantine") == [(2, 3, "damaged")]


def _beyond_head(fabric: FabricService, peer: Foreign) -> None:
    peer.send(1, 1, record(1))
    peer.hear("ack")
    with foreign(fabric.url) as copy:
        copy.say(sealed(["attach", 1, "copy"]))
        _, instance, *_ = copy.hear("attached")
        copy.say(sealed(["stored", instance, [[peer.stream, 101]]]))
        copy.hear("error")


def _unknown_token(fabric: FabricService, peer: Foreign) -> None:
    endpoints = ask_status(Address.parse(fabric.url)).endpoints
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe(b"")
        socket.connect(Address.parse(fabric.url).resolve(endpoints.durable))
        wait_for(lambda: "unknown_token" in _dropped(fabric), "the subscription is counted")


def _stale(fabric: FabricService, peer: Foreign) -> None:
    peer.epoch -= 1
    peer.send(1, 1, record(1))


def _unknown_stream(fabric: FabricService, peer: Foreign) -> None:
    peer.say(sealed(["bye", peer.stream, True]))
    wait_for(lambda: not ask_status(Address.parse(fabric.url)).status["streams"], "BYE is heard")
    peer.send(1, 1, record(1))


def _over_credit(fabric: FabricService, peer: Foreign) -> None:
    """A batch of all the credit, if one forgets what is counted beside the body."""
    records = b"".join(map(record, range(1, 3_000)))
    last = limits.CREDIT_BASE_BYTES // (len(records) // 2_999)
    peer.send(1, last, b"".join(map(record, range(1, last + 1))))


SYMPTOMS: dict[str, Callable[[FabricService, Foreign], None]] = {
    "damaged": lambda _, peer: peer.say(msgpack.packb(hello())),
    "frames": lambda _, peer: peer.say(b"", sealed(hello())),
    "bad_control": lambda _, peer: peer.say(sealed(hello(started=1.0))),
    "unknown_stream": _unknown_stream,
    "over_credit": _over_credit,
    "stale": _stale,
    "unknown_token": _unknown_token,
    "beyond_head": _beyond_head,
}
SPEC = Path(__file__).resolve().parent.parent / "fabric" / "WIRE.md"


def _dropped(fabric: FabricService) -> dict[str, int]:
    found: dict[str, int] = ask_status(Address.parse(fabric.url)).status["dropped"]
    return found


@requires("the specification, which is in the checkout only", SPEC.exists())
def test_each_symptom_in_the_specification_has_its_mistake_here() -> None:
    rows = SPEC.read_text("utf-8").partition("### When it does not work\n")[2].partition("\n## ")[0].splitlines()
    counted = [row.split("|")[-2].strip() for row in rows if row.startswith("| ")]
    said = {found[1] for where in counted if (found := re.match(r"`(\w+)`(?:$|, `rewinds)", where))}
    assert said == SYMPTOMS.keys()


@pytest.mark.parametrize("reason", SYMPTOMS)
def test_a_mistake_is_counted_where_the_specification_says(fabric_service: FabricService, reason: str) -> None:
    with foreign(fabric_service.url) as peer:
        peer.begin()
        SYMPTOMS[reason](fabric_service, peer)
        wait_for(lambda: reason in _dropped(fabric_service), "it is counted")
        assert _dropped(fabric_service).keys() - {"control_unreachable"} == {reason}, (
            "answers to the peer that has gone"
        )


def test_status_and_doctor_name_whose_mistake_it_was(fabric_service: FabricService) -> None:
    with foreign(fabric_service.url) as peer:
        peer.begin()
        peer.send(1, 3, record(1), count=1)
        peer.hear("error")
        for command in ("status", "doctor"):
            said = " ".join(run(command, "--connect", fabric_service.url).stdout.split())
            assert "run/foreign" in said
            assert "a batch claims 1 events for seqs 1 to 3" in said


def test_a_program_of_ours_tells_once_what_a_broker_cannot_use(
    fabric_service: FabricService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with fabric_service.connect(run="ours") as worker, foreign(fabric_service.url) as peer:
        peer.begin()
        worker.metric("loss", 0.5)
        assert worker.flush(patience(10))
        (ours,) = fabric_service.rows("SELECT stream_id FROM streams JOIN runs USING (run) WHERE run_id = 'ours'")

        def told() -> bool:
            peer.send_raw(ours[0], b"short")
            return "link.mistake" in caplog.text

        wait_for(told, "the worker tells")
        for _ in range(10):
            told()
        worker.metric("loss", 0.4)
        assert worker.flush(patience(10))
        assert caplog.text.count("link.mistake") == 1
