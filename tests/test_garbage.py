"""Garbage and lies on every open port while a worker emits: nothing goes down, and its run is stored whole.

What the strangers send is drawn from a fixed seed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
import zmq
from emitter import Progress
from processes import TELEFABRIC, Service, broker, free_ports, run, wait_for
from slowness import patience

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import WireError
from telefabric.peer.requests import ask_status
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric.store.read import query
from telefabric.wire import batch, control, records
from telefabric.wire.seal import seal
from telefabric_schemas import Episode, Gap, Log, Metric, Step
from telefabric_schemas.events import Event

CONTROL, DATA, DURABLE, QUERY = 0, 1, 3, 4
RSS_MAX = 200 * limits.MIB
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)

pytestmark = pytest.mark.timeout(120)


class Fabric:
    """Broker, store and query service as processes, and a worker that emits all the time."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self.url = f"tcp://127.0.0.1:{port}"
        self.file = folder / FILE_NAME
        self.log = folder / "services.log"
        command = [*TELEFABRIC, "store", "--connect", self.url, "--data", str(folder)]
        self.services = [broker(port, stderr=self.log), Service(command, stderr=self.log)]
        script = str(Path(__file__).with_name("emitter.py"))
        arguments = [self.url, str(folder / "progress"), "--spool", str(folder / "spool"), "--rate", "2000"]
        self.worker = Service([sys.executable, script, *arguments], stderr=folder / "worker.log")

    def at(self, offset: int) -> str:
        return f"tcp://127.0.0.1:{self.port + offset}"

    def open_ports(self) -> list[int]:
        """The offsets of all ports above the broker's own at which somebody listens."""
        found = []
        for offset in range(10):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port + offset)) == 0:
                    found.append(offset)
        assert {CONTROL, DATA, DURABLE, QUERY} <= set(found)
        return found

    @property
    def stream(self) -> bytes:
        return Progress(self.folder / "progress").read()[0]

    def status(self) -> control.StatusReply:
        return ask_status(Address.parse(self.url))

    def dropped(self) -> dict[str, int]:
        return dict(self.status().status["dropped"])

    def goes_on(self) -> None:
        """What is emitted from now on is stored soon."""
        stream, emitted = Progress(self.folder / "progress").read()
        wait_for(lambda: _stored(self.file, stream) > emitted, "the run goes on being stored")

    def pids(self) -> dict[int, str]:
        """The broker, the store, its query service, and the worker."""
        mine = (self.url, str(self.folder))
        return {pid: command for pid, command in _processes().items() if any(word in command for word in mine)}

    def undisturbed(self, pids: Iterable[int]) -> None:
        """The run is being stored, by the same processes as before, none of which has grown or complained."""
        self.goes_on()
        assert self.pids().keys() == set(pids), "no process has ended or was restarted"
        for pid, command in self.pids().items():
            assert peak_rss(pid) < RSS_MAX, command
        assert "Traceback" not in self.log.read_text()

    def end(self) -> None:
        """The worker's run is whole, the services end well, and the file is sound."""
        self.worker.signal(signal.SIGINT)
        assert self.worker.process is not None
        self.worker.process.wait(60)
        stream, emitted = Progress(self.folder / "progress").read()
        wait_for(lambda: audit(self.file, stream, emitted).missing == 0, "the run is stored whole")
        assert audit(self.file, stream, emitted)[:5] == (emitted, emitted, 0, 0, 0)
        for service in reversed(self.services):
            assert service.stop() == 0
        assert "Traceback" not in self.log.read_text()
        connection = apsw.Connection(str(self.file), flags=apsw.SQLITE_OPEN_READONLY)
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        connection.close()


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """One fabric for all strangers of this file; at the end its run is whole."""
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        for name in [name for name in os.environ if name.startswith("TELEFABRIC_")]:
            environment.delenv(name)
        fabric = Fabric(free_ports(), tmp_path_factory.mktemp("fabric"))
        for service in (*fabric.services, fabric.worker):
            stack.enter_context(service)
        fabric.goes_on()
        assert len(fabric.pids()) == 4
        yield fabric
        fabric.end()


@pytest.fixture
def fabric(besieged: Fabric) -> Iterator[Fabric]:
    pids = set(besieged.pids())
    yield besieged
    besieged.undisturbed(pids)


def _stored(file: Path, stream: bytes) -> int:
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = "SELECT stored_seq FROM watermarks JOIN streams USING (stream) WHERE stream_id = ?"
        return int(connection.execute(found, (stream,)).get or 0)
    finally:
        connection.close()


def _processes() -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def peak_rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(("VmHWM", "VmRSS")))
    return int(line.split()[1]) * limits.KIB


@contextmanager
def stranger(kind: int, url: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.set(zmq.LINGER, 500)
        socket.set(zmq.SNDTIMEO, 500)
        socket.set(zmq.RCVTIMEO, 3_000)
        socket.connect(url)
        yield socket


def say(socket: zmq.Socket[bytes], frames: list[bytes]) -> bool:
    """Send; False when the kind of socket cannot, or the other side takes nothing of its kind."""
    try:
        socket.send_multipart(frames)
    except zmq.ZMQError:
        return False
    return True


def until_read(peer: zmq.Socket[bytes]) -> None:
    """Until the broker has read all that was said: with its answers unread, closing would reset the connection."""

    def is_answered() -> bool:
        return bool(peer.poll(100)) and isinstance(
            control.decode(peer.recv(), limits.STATUS_BYTES_MAX), control.StatusReply
        )

    wait_for(lambda: say(peer, [control.encode(control.StatusRequest())]), "there is room for a request")
    wait_for(is_answered, "its status")


# -- bytes -------------------------------------------------------------------------------------------------------
def test_raw_bytes(fabric: Fabric) -> None:
    dice = random.Random(1)
    openings = [
        b"", b"\x00", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(200), GREETING[:10], GREETING[:11],
        GREETING[:40], GREETING, GREETING + dice.randbytes(4_000), GREETING + b"\x04\xff",
        GREETING + b"\x06" + (2**63 - 1).to_bytes(8, "big") + bytes(9), GREETING.replace(b"NULL", b"EVIL"),
        GREETING + b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\xff\xff\xff\xff",
        b"\xff" + bytes(8) + b"\x7f\x01" + bytes(53), b"\x01\x00" + dice.randbytes(50), *map(dice.randbytes, [9] * 20),
        dice.randbytes(200_000),
    ]  # fmt: skip
    with ExitStack() as held:
        for offset in fabric.open_ports():
            for opening in openings:
                held.enter_context(
                    raw := socket.create_connection(("127.0.0.1", fabric.port + offset), timeout=patience(5))
                )
                try:
                    raw.sendall(opening)
                except OSError:
                    continue  # hung up on us
        fabric.goes_on()


# -- messages ----------------------------------------------------------------------------------------------------
KINDS = (zmq.DEALER, zmq.REQ, zmq.PUB, zmq.XPUB, zmq.SUB, zmq.XSUB, zmq.PUSH, zmq.ROUTER, zmq.PAIR)


def test_frames_of_any_number_and_size_over_sockets_of_any_kind(fabric: Fabric) -> None:
    dice = random.Random(2)
    messages = [
        [b""], [b"", b""], [b"", b"", b""], [b"x"] * 2_000, [dice.randbytes(16), b""], [dice.randbytes(300)] * 3,
        [dice.randbytes(16), dice.randbytes(200)], [b"TF", b"TF" + dice.randbytes(200)], [b"\x01"], [b"\x00"],
        [b"\x01" + dice.randbytes(16)], [b"\x01" * 200],
        *([dice.randbytes(dice.randrange(400)) for _ in range(dice.randrange(1, 6))] for _ in range(200)),
        [dice.randbytes(16), bytes(limits.EVENT_BYTES_MAX)], [dice.randbytes(limits.CONTROL_BYTES_MAX + 1)],
        [bytes(limits.MESSAGE_BYTES_MAX + 1)],
    ]  # fmt: skip
    for offset in fabric.open_ports():
        for kind in KINDS:
            with stranger(kind, fabric.at(offset)) as peer:
                peer.set(zmq.SNDTIMEO, 20)
                peer.set(zmq.LINGER, 100)
                if kind == zmq.SUB:
                    peer.subscribe(b"")
                if kind in (zmq.PUB, zmq.XPUB):
                    time.sleep(0.1)  # such a socket drops what it sends before it is subscribed to
                all(say(peer, frames) for frames in messages)
    dropped = json.loads(run("status", "--json", "--connect", fabric.url).stdout)["dropped"]
    assert dropped["frames"] > 100
    assert dropped["too_short"] > 10
    assert dropped["unknown_token"] > 0
    assert dropped["bad_subscription"] > 0


def test_a_message_that_would_fill_the_memory(fabric: Fabric) -> None:
    huge = bytes(2 * RSS_MAX)
    for kind, offset in ((zmq.XPUB, DATA), (zmq.DEALER, CONTROL), (zmq.DEALER, QUERY)):
        with stranger(kind, fabric.at(offset)) as peer:
            peer.set(zmq.LINGER, 2_000)
            if kind == zmq.XPUB:
                assert peer.recv() == b"\x01"
            peer.send(huge, copy=False)


def test_a_subscription_to_everything_hears_nothing_and_stops_nobody(fabric: Fabric) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(stranger(zmq.SUB, fabric.at(DURABLE))) for _ in range(3)]
        for peer in silent:
            peer.set(zmq.RCVHWM, 1)
            peer.subscribe(b"")
            peer.subscribe(fabric.stream)
            for first in range(256):
                peer.subscribe(bytes([first]))
        listener = stack.enter_context(stranger(zmq.XSUB, fabric.at(DURABLE)))
        say(listener, [b"\x01"])
        wait_for(lambda: fabric.dropped().get("unknown_token", 0) >= 3 * 256, "the broker has seen them")
        fabric.goes_on()
        for peer in (*silent, listener):
            assert not peer.poll(0)


# -- control messages --------------------------------------------------------------------------------------------
def info(stream: bytes) -> control.StreamInfo:
    return control.StreamInfo(stream, "stranger", "worker", "agent", 1, None, "host", 7, "0", b"\x80")


def strange_info(stream: bytes) -> control.StreamInfo:
    """As odd as it may be."""
    wide = "\U0001f3ae" * (limits.NAME_BYTES_MAX // 4)
    return control.StreamInfo(
        stream, wide, wide, "\x00\x1b[2J", 2**63 - 1, wide, "\x00", 2**63 - 1, wide, b"\xff" * limits.METADATA_BYTES_MAX
    )


def samples(instance: bytes, stream: bytes) -> list[control.Message]:
    """One of each message that a broker may hear, and some that it must not."""
    marks = [control.StreamSeq(stream, 2**62)]
    return [
        control.Hello(control.PROTOCOL, info(stream), 1, 100),
        control.Beat(1, [control.StreamBeat(stream, 1, 100, 2**62, 2**62, 1, 2**62)]),
        control.Bye(stream, True), control.Marks(instance, marks), control.Stored(instance, marks),
        control.Nack(instance, stream, 1, 2**62, "lie"), control.DurableBeat(1, 2**62, 2**62),
        control.Ack(instance, stream, 2**62), control.Who(instance, stream), control.Refused(instance, "lie"),
        control.Rewind(instance, stream, 9, 1, 2**40, "lie"), control.StatusRequest(),
        control.Hello(99, info(stream), 0, 0), control.Attach(99, "store"),
    ]  # fmt: skip


def mutated(dice: random.Random, data: bytes) -> bytes:
    """The bytes with something cut, changed, doubled or added."""
    found = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        place = dice.randrange(len(found) + 1)
        match dice.randrange(4):
            case 0:
                found[place : place + dice.randrange(1, 9)] = b""
            case 1:
                found[place : place + 1] = dice.randbytes(1)
            case 2:
                found[place:place] = found[place : place + dice.randrange(1, 9)]
            case _:
                found[place:place] = dice.choice([b"\xc0", b"\xcf" + b"\xff" * 8, b"\xdd" + b"\xff" * 4, b"\x91" * 300])
    return bytes(found)


def test_control_messages_that_are_damaged_or_lie(fabric: Fabric) -> None:
    dice = random.Random(3)
    instance = fabric.status().instance
    for stream in (fabric.stream, dice.randbytes(16)):
        for message in samples(instance, stream):
            whole = control.encode(message)
            body = whole[:-4]
            with stranger(zmq.DEALER, fabric.at(CONTROL)) as peer:
                say(peer, [whole])
                for _ in range(100):
                    say(peer, [seal(mutated(dice, body))])
                    say(peer, [mutated(dice, whole)])
                until_read(peer)
    with stranger(zmq.DEALER, fabric.at(CONTROL)) as peer:
        for _ in range(500):
            say(peer, [seal(dice.randbytes(dice.randrange(60)))])
        until_read(peer)
    dropped = fabric.dropped()
    assert dropped["bad_control"] > 2_500
    assert dropped["damaged"] > 2_500
    assert dropped["unknown_durable"] > 0
    assert dropped["unexpected_control"] > 0
    assert dropped["protocol"] > 0


# -- batches -----------------------------------------------------------------------------------------------------
class Liar:
    """A worker that speaks the protocol and sends what it should not."""

    def __init__(self, control_socket: zmq.Socket[bytes], data: zmq.Socket[bytes], who: control.StreamInfo) -> None:
        self.stream = who.stream
        self._control = control_socket
        self._data = data
        self._control.send(control.encode(control.Hello(control.PROTOCOL, who, 1, 0)))
        while True:
            found = self._hear()
            if isinstance(found, control.Welcome) and found.expected is not None:
                break
        self.welcome = found

    def send(self, body: bytes, first: int, last: int, **changes: int) -> None:
        header = batch.Header(
            flags=0, session=self.welcome.instance, stream=self.stream, epoch=self.welcome.epoch, first_seq=first,
            last_seq=last, events=last - first + 1, counter=0, time_ns=1,
        )  # fmt: skip
        message = batch.pack(header._replace(**changes), body)
        self._data.send_multipart([self.stream, message])

    def send_raw(self, message: bytes) -> None:
        self._data.send_multipart([self.stream, message])

    def await_ack(self, seq: int) -> None:
        while True:
            found = self._hear()
            if isinstance(found, control.Ack) and found.seq >= seq:
                return

    def _hear(self) -> control.Message:
        return control.decode(self._control.recv_multipart()[-1])


@contextmanager
def liars(fabric: Fabric, who: Callable[[bytes], control.StreamInfo] = info) -> Iterator[Iterator[Liar]]:
    """As many as one asks for, over one pair of sockets each."""
    with ExitStack() as stack:

        def more() -> Iterator[Liar]:
            while True:
                peer = stack.enter_context(stranger(zmq.DEALER, fabric.at(CONTROL)))
                data = stack.enter_context(stranger(zmq.XPUB, fabric.at(DATA)))
                assert data.recv() == b"\x01", "the broker listens"
                yield Liar(peer, data, who(os.urandom(16)))

        yield more()


def events(dice: random.Random, seq: int) -> bytes:
    """An event of any kind, most of them damaged."""
    raw = msgspec.Raw(msgspec.msgpack.encode({"a": [1, 2.5, None, "x"]}))
    made: Event = dice.choice(
        [
            Step(seq, "a", 0, 1, 2, 3, 0.5, False, False, 1, 1, raw, raw, "agent", None, None, raw, None, 1, raw),
            Episode(seq, "a", 0, 1, 1.5, 3, 3, 1, 1, None, raw, None, None, None, raw),
            Metric(seq, "loss", 0.25, None, 3, "a", 1, 1),
            Log(seq, "info", "text", "a", 1, 1, None, raw),
            Gap(seq, seq, "lie", 1),
        ]
    )
    encoded = msgspec.msgpack.encode(made)
    return mutated(dice, encoded) if dice.random() < 0.9 else encoded


def test_damaged_events_in_whole_batches_are_quarantined(fabric: Fabric) -> None:
    dice = random.Random(4)
    with liars(fabric) as more:
        liar = next(more)
        seq, each = 1, 40
        for _ in range(40):
            body = b"".join(records.frame(events(dice, number)) for number in range(seq, seq + each))
            liar.send(body, seq, seq + each - 1)
            liar.await_ack(seq + each - 1)
            seq += each
        found = audit(fabric.file, liar.stream, seq - 1)
        assert found[:4] == (seq - 1, seq - 1, 0, 0), "each is stored: as what it is, or in quarantine"


def test_batches_that_lie(fabric: Fabric) -> None:
    dice = random.Random(5)
    one = records.frame(msgspec.msgpack.encode(Metric(1, "loss", 1.0, None, 1, "a", 1, 1)))
    with liars(fabric) as more:
        for body in (b"", b"\xff" * 200, one * 2, one[:-1], b"\xdd\xff\xff\xff\xff" * 40, dice.randbytes(5_000)):
            liar = next(more)
            liar.send(body, 1, 1)
            liar.await_ack(1)
            liar.send(body, 2, 4_097)
            liar.await_ack(4_097)
            liar.send(body, 4_098, 2**63 - 1, events=2**31)
        gap = next(more)
        gap.send(one, 1, 1, flags=batch.FLAG_GAP)
        gap.await_ack(1)
        gap.send(dice.randbytes(2), 2, 2, flags=batch.FLAG_GAP)
        gap.await_ack(2)
        ahead = next(more)
        ahead.send(one, 500, 500)
        ahead.send(one, 2**63 - 1, 2**63 - 1)
        large = next(more)
        for _ in range(3):
            large.send(dice.randbytes(limits.BATCH_BYTES_MAX), 1, 1)  # beyond its credit
        wild = next(more)
        for _ in range(300):
            wild.send_raw(mutated(dice, batch.pack(batch.Header(
                flags=0, session=wild.welcome.instance, stream=wild.stream, epoch=wild.welcome.epoch, first_seq=1,
                last_seq=1, events=1, time_ns=2**64 - 1, counter=0,
            ), one)))  # fmt: skip
        wait_for(lambda: sum(fabric.dropped().get(name, 0) for name in ("damaged", "not_ours")) > 100, "all is read")
        dropped = fabric.dropped()
        assert dropped["inconsistent"] > 0
        assert dropped["over_credit"] > 0


@pytest.mark.parametrize("field", ["pid", "host", "control_mode", "sdk_version", "metadata"])
def test_a_stream_that_no_row_could_hold_is_no_hello(field: str) -> None:
    values = {"pid": 2**64 - 1, "metadata": bytes(limits.METADATA_BYTES_MAX + 1)}
    who = msgspec.structs.asdict(info(bytes(16))) | {field: values.get(field, "x" * 100_000)}
    with pytest.raises(WireError, match=field):
        control.decode(seal(msgspec.msgpack.encode(["hello", control.PROTOCOL, [*who.values()], 1, 0])))


def test_streams_that_say_odd_things_of_themselves_are_stored(fabric: Fabric) -> None:
    one = records.frame(msgspec.msgpack.encode(Metric(1, "loss", 1.0, None, 1, "a", 1, 1)))
    with liars(fabric, strange_info) as more:
        for _ in range(20):
            liar = next(more)
            liar.send(one, 1, 1)
            liar.await_ack(1)
        with stranger(zmq.DEALER, fabric.at(CONTROL)) as exporter:
            say(exporter, [control.encode(control.Attach(control.PROTOCOL, "exporter"))])
            told = 0
            while told <= 20:  # of all of them at once, and of the worker
                message = control.decode(exporter.recv_multipart()[-1])
                told += len(message.streams) if isinstance(message, control.Ask) else 0


# -- questions ---------------------------------------------------------------------------------------------------
def questions() -> list[query.Question[Any]]:
    huge = 2**63 - 1
    return [
        query.Runs(None, huge, 2_000), query.Streams("x" * 255, 0, 0), query.Marks(None, 0, 1),
        query.Events(0, None, ["step"] * 32, "\x00", None, 2_000), query.Newest(None, ["nonsense"], "a", 2_000),
        query.Since("gap", [control.StreamSeq(bytes(16), huge)] * 10_000, 1),
        query.EpisodesOf("test", None, None, 2_000),
        query.StepsOf("test", "agent_0", -huge, -huge, query.StepKey(-huge, huge), 2_000),
        query.FrameOf("test", "\ud7ff"), query.FrameAt("test", "", 0, 2**63 - 1, -(2**63)), query.SeriesOf("test"),
        query.Buckets("test", None, "agent_0", "reward", huge, -huge, huge, query.BucketKey(huge, huge), 2_000),
    ]  # fmt: skip


def test_questions_that_make_no_sense(fabric: Fabric) -> None:
    dice = random.Random(6)
    with stranger(zmq.DEALER, fabric.at(QUERY)) as asker:
        for number, question in enumerate(questions()):
            asker.send_multipart([number.to_bytes(8, "big"), msgspec.msgpack.encode(question)])
            assert asker.recv_multipart()[0] == number.to_bytes(8, "big"), question
        for number, question in enumerate(questions() * 30):
            name = number.to_bytes(8, "little")
            asker.send_multipart([name, mutated(dice, msgspec.msgpack.encode(question)[:400])])
            assert asker.recv_multipart()[0] == name
        with stranger(zmq.DEALER, fabric.at(QUERY)) as greedy:
            start = time.monotonic()
            for _ in range(300):
                say(greedy, [bytes(8), msgspec.msgpack.encode(query.Events(0, None, None, None, None, 2_000))])
                if time.monotonic() - start > 2:
                    break  # it holds so many answers for one that does not read them, and takes no more questions
            asker.send_multipart([b"the last", msgspec.msgpack.encode(query.Runs(None, 0, 10))])
            assert asker.recv_multipart()[:2] == [b"the last", query.OK]


# -- attachments -------------------------------------------------------------------------------------------------
def test_attachments_are_bounded_and_a_false_store_is_refused(fabric: Fabric) -> None:
    """The last one here: these hold their places for some seconds after they are gone."""
    with stranger(zmq.DEALER, fabric.at(CONTROL)) as peer:
        for number in range(200):
            say(peer, [control.encode(control.Attach(control.PROTOCOL, f"evil-{number}", "x" * 200))])
        refused = 0
        while not refused:
            refused += isinstance(control.decode(peer.recv_multipart()[-1]), control.Refused)
        assert len(fabric.status().status["durable"]) <= limits.DURABLES_MAX
        say(peer, [control.encode(control.Attach(control.PROTOCOL, "store"))])
        fabric.goes_on()
