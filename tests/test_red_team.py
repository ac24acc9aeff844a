"""Whoever has no key, a wrong one, or a key for something else: nothing gets in, nothing falls over, all is counted.

One `telefabric up` with keys is attacked over real sockets while a worker publishes and a client watches it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import zmq
from processes import free_ports, wait_for
from skips import requires
from slowness import patience
from test_keys_services import Dealer, Lab, hello

from telefabric import limits
from telefabric.address import Address, ClientKeys
from telefabric.errors import EnvironmentProblem
from telefabric.files.open_files import files_for, most, raise_limit
from telefabric.keys.core.registry import TicketRecord
from telefabric.keys.core.roles import Role
from telefabric.keys.core.ticket import Ticket
from telefabric.keys.curve import as_client
from telefabric.keys.gate import now
from telefabric.keys.join import join
from telefabric.keys.pairs import join_pairs, make_pair
from telefabric.peer.requests import ask_status
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.wire import batch, control
from telefabric.wire.delivery import topic_of

pytestmark = [pytest.mark.alone, requires("descriptors of processes in /proc", os.path.isdir("/proc/self/fd"))]
P99_MS = 100.0
SOCKETS = {0: "control", 1: "data", 2: "live", 3: "durable", 4: "query", 6: "watch"}
"""By the offset of their port."""
KINDS = {0: zmq.DEALER, 1: zmq.PUB, 2: zmq.PUB, 3: zmq.SUB, 4: zmq.DEALER, 6: zmq.SUB, 7: zmq.DEALER}
HALF_OPEN = 1_000
FLOOD_S = 2.0
WORKER = """
import sys, threading, time
from telefabric_workers import connect
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
with connect(sys.argv[1], run="good-1", spool=sys.argv[2], exit_flush_s=float(sys.argv[3])) as worker:
    step = 0
    while not ended.wait(0.01):
        worker.step(episode=0, step=step, action=1, observation=step, reward=0.0)
        step += 1
print(step, flush=True)
"""
WATCHER = """
import sys, time
from telefabric.keys.saved_connections import address_of
from telefabric.subscribe import LiveSubscription
with LiveSubscription(address_of(sys.argv[1]), name="watcher", runs=["good-1"]) as subscription:
    while True:
        for one in subscription.poll(0.05):
            if one.kind == "step" and not one.recent:
                print(time.monotonic(), (time.time_ns() - one.event.time_ns) / 1e6, flush=True)
"""
FLOOD = """
import sys, time, zmq
from telefabric.address import ClientKeys
from telefabric.keys.curve import as_client
url, kind, sockets, seconds, server, public = sys.argv[1:]
keys = ClientKeys(server, public, sys.stdin.readline().strip())
frames = [bytes.fromhex(one) for one in sys.stdin.read().split()]
context, senders, sent = zmq.Context(), [], 0
for _ in range(int(sockets)):
    sender = context.socket(int(kind))
    as_client(sender, keys)
    sender.set(zmq.LINGER, 0)
    sender.connect(url)
    senders.append(sender)
print("ready", flush=True)
until = time.monotonic() + float(seconds)
while time.monotonic() < until:
    for sender in senders:
        try:
            sender.send_multipart(frames, zmq.DONTWAIT)
            sent += 1
        except zmq.Again:
            time.sleep(0.0005)
print(sent, flush=True)
context.destroy(linger=0)
"""


class Siege(Lab):
    """A lab that is at work, what it says about those it refused, and how live its client is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metrics = free_ports()
        self.service.command += ["--metrics", str(self.metrics)]
        self.said: list[str] = []
        """What programs printed."""
        self.secrets = {self.owner.secret, self.keys.server().secret}
        self.ages: list[tuple[float, float]] = []
        """When a live step came to the client, and how old it was, in milliseconds."""
        self._running: list[subprocess.Popen[str]] = []

    def join(self, name: str, role: Role, runs: str = "*") -> Address:
        address = super().join(name, role, runs)
        assert address.keys is not None
        self.secrets.add(address.keys.secret)
        return address

    def invite(self, name: str, **more: Any) -> Ticket:
        record = TicketRecord(name, Role.WORKER, now(), **{"expires": now() + timedelta(hours=1), **more})
        ticket = self.keys.invite(record, Address.parse(self.url))
        self.secrets |= {ticket.encode(), join_pairs(ticket.secret).ticket.secret}
        return ticket

    def refused(self) -> dict[tuple[str, str, str], int]:
        """How often by reason, socket and name, at broker and query service."""
        found = {}
        for port in (self.metrics, self.metrics + 2):
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=patience(5)) as answer:
                text = answer.read().decode()
            for line in re.findall(r"^telefabric_\w+_keys_refused_total\{.*$", text, re.MULTILINE):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                found[labels["reason"], labels["socket"], labels["key"]] = int(float(line.split()[-1]))
        return found

    def wait_refused(self, reason: str, where: str, name: str = "", times: int = 1) -> None:
        wanted = (reason, where, name)
        wait_for(lambda: self.refused().get(wanted, 0) >= times, f"{wanted} is counted: {self.refused()}")

    def at_work(self) -> None:
        """A worker that emits, and a client that watches it."""
        self.join("ada", Role.WORKER, "good-*")
        self.join("bob", Role.CLIENT)
        self._worker = self._start(WORKER, "ada", str(self.spool), str(patience(20)))
        watcher = self._start(WATCHER, "bob")
        threading.Thread(target=self._read, args=(watcher,), daemon=True).start()
        wait_for(lambda: len(self.ages) > 20, "the run is seen live")

    def _start(self, program: str, *words: str) -> subprocess.Popen[str]:
        with self.log.open("a") as errors:
            started = subprocess.Popen(
                [sys.executable, "-c", program, *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self._running.append(started)
        return started

    def _read(self, watcher: subprocess.Popen[str]) -> None:
        assert watcher.stdout is not None
        for line in watcher.stdout:
            at_s, age_ms = map(float, line.split())
            self.ages.append((at_s, age_ms))

    @contextmanager
    def goes_on(self, what: str) -> Iterator[None]:
        """The live path is as fast while this lasts as it has to be, and nothing has fallen over."""
        pids, began_s = self.pids(), time.monotonic()
        yield
        wait_for(lambda: self.ages[-1][0] > time.monotonic() - 1, "events come")
        ages = sorted(age_ms for at_s, age_ms in self.ages if at_s >= began_s)
        p99 = ages[int(len(ages) * 0.99)]
        print(f"{what}: {len(ages)} live steps, p50 {ages[len(ages) // 2]:.1f} ms, p99 {p99:.1f} ms")
        assert p99 < patience(P99_MS), what
        assert self.pids() == pids, "no process was started again"

    def pids(self) -> set[int]:
        """Of the services."""
        assert self.service.process is not None
        children = f"/proc/{self.service.process.pid}/task/{self.service.process.pid}/children"
        first = {int(one) for one in Path(children).read_text().split()}
        return {self.service.process.pid, *first}

    def flood(self, address: Address, port: int, frames: list[bytes], sockets: int = 1) -> subprocess.Popen[str]:
        """By a process of its own; it has begun."""
        keys = address.keys
        assert keys is not None
        url = f"tcp://127.0.0.1:{self.port + port}"
        words = [url, str(int(KINDS[port])), str(sockets), str(FLOOD_S), keys.server, keys.public]
        program = FLOOD.replace(
            "*keys = sys.argv[1:]", "*keys = sys.argv[1:]; keys.append(sys.stdin.readline().strip())"
        )
        flood = self._start(program, *words)
        assert flood.stdin is not None
        assert flood.stdout is not None
        flood.stdin.write(keys.secret + "\n" + "\n".join(one.hex() for one in frames))
        flood.stdin.close()
        assert flood.stdout.readline() == "ready\n"
        return flood

    def finish(self) -> int:
        """The worker ends; how many steps it emitted."""
        out, _ = self._worker.communicate("", timeout=patience(40))
        return int(out)

    def end(self) -> None:
        for one in self._running:
            one.kill()
            one.wait()
            for pipe in (one.stdin, one.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture(scope="module")
def siege() -> Iterator[Siege]:
    raise_limit()
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as environment:
        os.chmod(place, 0o755)  # other users may look for what they may read
        environment.setenv("XDG_CONFIG_HOME", str(Path(place) / "config"))
        found = Siege(Path(place))
        try:
            with found.service:
                found.at_work()
                yield found
        finally:
            found.end()


@contextmanager
def connected(siege: Siege, port: int, keys: ClientKeys | None) -> Iterator[Any]:
    """A socket that fits the one at this offset, and says what such a socket says."""
    context: Any = zmq.Context()
    sender = context.socket(KINDS[port])
    sender.set(zmq.LINGER, 0)
    as_client(sender, keys)
    sender.connect(f"tcp://127.0.0.1:{siege.port + port}")
    if KINDS[port] == zmq.SUB:
        sender.subscribe(b"")
    try:
        yield sender
    finally:
        context.destroy(linger=0)


def owned(address: Address) -> ClientKeys:
    assert address.keys is not None
    return address.keys


def live(stream: bytes, body: bytes = b"", counter: int = 1) -> bytes:
    return batch.pack(batch.Header(batch.FLAG_LIVE, bytes(16), stream, 0, 1, 1, 1, counter, 1), body)


# -- without a key that fits -------------------------------------------------------------------------------------


def test_without_keys_with_wrong_ones_and_with_those_of_a_ticket_no_socket_lets_anybody_in(siege: Siege) -> None:
    server = siege.owner.server
    ticket = siege.invite("spare")
    strangers = {
        "no_keys": ("", None),
        "wrong_server_key": ("", owned(siege.owner.dialled)._replace(server=siege.owner.public)),
        "unknown_key": ("", ClientKeys(server, *make_pair())),
        "ticket_key": ("spare", ClientKeys(server, *join_pairs(ticket.secret).ticket)),
    }
    with siege.goes_on("strangers at every socket"), ExitStack() as stack:
        for _, keys in strangers.values():
            for port in KINDS:
                stack.enter_context(connected(siege, port, keys))
        for reason, (name, _) in strangers.items():
            for where in SOCKETS.values():
                siege.wait_refused(reason, where, name)
        for reason in ("no_keys", "wrong_server_key", "not_a_ticket"):
            siege.wait_refused(reason, "enrol")
    with socket.socket() as tap:
        assert tap.connect_ex(("127.0.0.1", siege.port + 5)) != 0, "the tap is plain, and so is off"


def test_tickets_that_were_used_have_expired_or_were_revoked_are_answered_and_counted(siege: Siege) -> None:
    used, late, gone = siege.invite("used"), siege.invite("late", expires=now()), siege.invite("gone")
    join(used, join_pairs(used.secret))
    siege.revoke("gone")
    for ticket in (used, late, gone):
        with pytest.raises(EnvironmentProblem) as caught:
            join(ticket, join_pairs(ticket.secret), timeout_s=patience(10))
        siege.said.append(str(caught.value))
    for name, reason in (("used", "used"), ("late", "expired"), ("gone", "revoked")):
        siege.wait_refused(reason, "enrol", name)


def test_who_joins_writes_nothing_into_terminals(siege: Siege) -> None:
    ticket = siege.invite("painter")
    time.sleep(limits.LOG_INTERVAL_S)  # a second line of one kind in this time is left out
    keys = ClientKeys(siege.owner.server, *join_pairs(ticket.secret).ticket)
    with connected(siege, 7, keys) as desk:
        desk.send(control.encode(control.Join(control.PROTOCOL, make_pair().public, "\x1b]0;owned\x07")))
        assert desk.poll(int(patience(10_000)))
    wait_for(lambda: "owned" in siege.log.read_text(), "it is logged")
    assert "\x1b]0" not in siege.log.read_text()


@requires("another user to be", hasattr(os, "geteuid") and os.geteuid() == 0)
def test_another_user_of_the_machine_gets_nothing(siege: Siege) -> None:
    program = (
        "import os, sys\nfrom telefabric.address import Address\nfrom telefabric.peer.requests import ask_status\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "def tried(path):\n"
        "    try: open(path, 'rb').read(1); print('READ', path)\n"
        "    except OSError: pass\n"
        "for place in sys.argv[3:]:\n"
        "    for folder, _, names in os.walk(place):\n"
        "        for name in names: tried(os.path.join(folder, name))\n"
        "for pid in sys.argv[2].split(','):\n"
        "    for name in ('mem', 'environ'): tried(f'/proc/{pid}/{name}')\n"
        "try: ask_status(Address.parse(sys.argv[1]), 5)\n"
        "except Exception as error: print(error)\n"
    )
    pids = ",".join(map(str, siege.pids()))
    places = [str(siege.keys.path), str(siege.spool), os.environ["XDG_CONFIG_HOME"]]
    words = [sys.executable, "-c", program, siege.url, pids, *places]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=patience(30))
    siege.said += [done.stdout, done.stderr]
    assert "READ" not in done.stdout
    assert "asks for a key" in done.stdout, done.stderr


# -- with a key for something else -------------------------------------------------------------------------------


def test_a_stolen_worker_key_writes_into_no_other_run(siege: Siege) -> None:
    eve = siege.join("eve", Role.WORKER, "evil-*")
    (victim,) = (one for one in ask_status(siege.owner.dialled).status["streams"] if one["run_id"] == "good-1")
    stream, own = bytes.fromhex(victim["stream_id"]), os.urandom(16)
    with siege.goes_on("a stolen worker key"), Dealer(eve) as thief:
        for message in (hello(stream, "good-1"), hello(stream, "evil-1")):
            answer = thief.ask(message)
            assert isinstance(answer, control.Refused), answer
            assert "is for the runs evil-*, and not for good-1" in answer.reason
        assert isinstance(thief.ask(hello(own, "evil-1")), control.Welcome)
        assert "good-1" not in {one["run_id"] for one in ask_status(eve).status["streams"]}, "nor does it hear of it"
        forged = batch.pack(batch.Header(0, bytes(16), stream, 1, 1, 1, 1, 0, 1), b"body")
        cases = [
            (1, [stream, forged], "not_carrier"),
            (2, [topic_of("good-1", "step"), live(stream)], "not_carrier"),
            (2, [topic_of("good-1", "step"), live(own)], "other_run"),
        ]
        for port, frames, reason in cases:
            with connected(siege, port, owned(eve)) as publisher:

                def counted(key: Any = (reason, SOCKETS[port], "eve"), what: Any = (publisher, frames)) -> bool:
                    what[0].send_multipart(what[1])
                    return siege.refused().get(key, 0) > 0

                wait_for(counted, f"{reason} is counted")
    siege.wait_refused("other_run", "control", "eve", 2)


def test_an_ended_stream_is_not_carried_on_under_another_run(siege: Siege) -> None:
    siege.join("carl", Role.WORKER, "done-*")
    assert siege.work("carl", "done-1") == ""
    with RemoteReader(siege.owner.dialled, timeout_s=patience(5)) as reader:
        ((stream, seq),) = reader.watermarks("done-1").items()
    mallory = siege.join("mallory", Role.WORKER, "mine-*")
    with Dealer(mallory) as thief:
        answer = thief.ask(hello(stream, "mine-1"))
        assert isinstance(answer, control.Welcome)
        assert answer.expected is None
        wait_for(lambda: "store.other_run" in siege.log.read_text(), "the store does not take it for that run's")
        assert thief.hear(0.5) is None, "the stream is not opened"
    assert siege.stored("done-1") == seq


def test_a_client_s_key_publishes_nothing_attaches_as_nothing_and_hears_what_it_asked_for(siege: Siege) -> None:
    bob = siege.join("brenda", Role.CLIENT)
    with siege.goes_on("a client's key at other work"), Dealer(bob) as dealer:
        for message in (hello(os.urandom(16), "good-2"), control.Attach(control.PROTOCOL, "store", keeps="here")):
            answer = dealer.ask(message)
            assert isinstance(answer, control.Refused)
            assert "has the role client, which may not send" in answer.reason
        corrected = dealer.ask(control.Edit(os.urandom(16), "archive", "good-1"))
        assert isinstance(corrected, control.Error)
        assert "which may not send edit" in corrected.message
        siege.wait_refused("role", "control", "brenda", 3)
        with connected(siege, 1, owned(bob)), connected(siege, 2, owned(bob)), connected(siege, 3, owned(bob)):
            for port in (1, 2, 3):
                siege.wait_refused("role", SOCKETS[port], "brenda")
        with connected(siege, 6, owned(bob)) as everything:
            siege.wait_refused("unknown_token", "watch", "brenda")
            assert not everything.poll(300), "a subscription to all hears nothing"


# -- what is sent again, is too large or too much ----------------------------------------------------------------


def test_what_was_recorded_is_of_no_use_to_who_replays_it(siege: Siege) -> None:
    rita = siege.join("rita", Role.WORKER)
    with Recorder(siege.port) as recorder, Dealer(Address("127.0.0.1", recorder.port, rita.keys)) as dealer:
        assert isinstance(dealer.ask(control.Beat(1, [])), control.Alive)
        before = siege.refused().get(("wrong_server_key", "control", ""), 0)
        with socket.create_connection(("127.0.0.1", siege.port)) as again:
            for piece in list(recorder.pieces):
                with suppress(OSError):
                    again.sendall(piece)
                time.sleep(0.05)
            siege.wait_refused("wrong_server_key", "control", times=before + 1)
        assert isinstance(dealer.ask(control.Beat(2, [])), control.Alive)
        recorder.repeat()  # the last message once more, in the connection that it belongs to
        siege.wait_refused("replayed", "control")


def test_messages_that_are_too_large_cost_their_sender_the_connection(siege: Siege) -> None:
    orson = siege.join("orson", Role.WORKER)
    with siege.goes_on("oversized messages"), Recorder(siege.port) as recorder:
        with Dealer(Address("127.0.0.1", recorder.port, orson.keys)) as dealer:
            assert isinstance(dealer.ask(control.Beat(1, [])), control.Alive)
            dealer.say(bytes(2 << 20))
            wait_for(lambda: recorder.cut, "the connection is cut")
        with Dealer(orson) as dealer:
            dealer.say(bytes(1_000_000))
            siege.wait_refused("damaged", "control", "orson")


def test_messages_over_the_limit_are_counted_under_the_name_of_their_key(siege: Siege) -> None:
    otto, olga = siege.join("otto", Role.WORKER, "large-*"), siege.join("olga", Role.CLIENT)
    stream, large = os.urandom(16), bytes(limits.MESSAGE_BYTES_MAX)
    durable = batch.pack(batch.Header(0, bytes(16), stream, 1, 1, 1, 1, 0, 1), large)
    with siege.goes_on("messages over the limit"), Dealer(otto) as dealer:
        assert isinstance(dealer.ask(hello(stream, "large-1")), control.Welcome)
        for port, keys, frames in (
            (0, otto, [bytes(limits.CONTROL_BYTES_MAX + 1)]),
            (1, otto, [stream, durable]),
            (2, otto, [topic_of("good-1", "step"), live(stream, large)]),  # the topics that are asked for
            (4, olga, [bytes(8), bytes(limits.CONTROL_BYTES_MAX + 1)]),
        ):
            with connected(siege, port, owned(keys)) as sender:
                key = ("too_large", SOCKETS[port], "otto" if keys is otto else "olga")

                def counted(key: Any = key, sender: Any = sender, frames: Any = frames) -> bool:
                    sender.send_multipart(frames)  # a PUB says nothing before it is connected
                    return siege.refused().get(key, 0) > 0

                wait_for(counted, f"{key} is counted")
        said = dealer.hear(1.0)
        while said is not None and not isinstance(said, control.Error):
            said = dealer.hear(1.0)
        assert isinstance(said, control.Error)
        assert "send several" in said.message, "who said HELLO hears of its batches"


@requires("open files for a crowd", (most() or 0) > 2 * limits.CONNECTIONS_MAX)
def test_connections_beyond_the_limit_of_a_socket_are_cut_and_counted_by_their_host(siege: Siege) -> None:
    late = 50
    with siege.goes_on("more connections than a socket has"), ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", siege.port + 1)))
            for _ in range(limits.CONNECTIONS_MAX + late)
        ]
        siege.wait_refused("too_many_connections", "data", "127.0.0.1", late)
        crowd[-1].settimeout(1.0)  # a handshake has five seconds
        assert not crowd[-1].recv(4096)[64:], "nothing but a greeting"
        assert not crowd[-1].recv(4096)
        assert ask_status(siege.owner.dialled, patience(5)).status["streams"], "the other sockets let people in"
    siege.join("lara", Role.WORKER, "late-*")
    assert siege.work("lara", "late-1") == "", "and so does this one again"


def test_a_key_that_floods_holds_up_nobody(siege: Siege) -> None:
    fred, fay = siege.join("fred", Role.WORKER, "flood-*"), siege.join("fay", Role.CLIENT)
    stream = os.urandom(16)
    beats = [control.StreamBeat(os.urandom(16), 0, 0, 0, 0, 0, 0) for _ in range(2_000)]
    durable = batch.pack(batch.Header(0, bytes(16), stream, 1, 1, 1, 1, 0, 1), bytes(200_000))
    floods = {
        "status questions": (fay, 0, [control.encode(control.StatusRequest())], 20),
        "heartbeats of streams that nobody knows": (fred, 0, [control.encode(control.Beat(1, beats))], 4),
        "live batches": (fred, 2, [topic_of("good-1", "step"), live(stream, os.urandom(40_000))], 4),
        "batches": (fred, 1, [stream, durable], 4),
        "questions": (fay, 4, [bytes(8), os.urandom(70)], 20),
    }
    with Dealer(fred) as carrier:
        assert isinstance(carrier.ask(hello(stream, "flood-1")), control.Welcome)
        for what, (address, port, frames, sockets) in floods.items():
            with siege.goes_on(what):
                flood = siege.flood(address, port, frames, sockets)
                assert flood.stdout is not None
                print(f"{what}: {flood.stdout.read().strip()} messages sent")
    for reason, where, name in (
        ("status_too_often", "control", "fay"), ("too_fast", "control", "fay"), ("other_run", "live", "fred"),
    ):  # fmt: skip
        siege.wait_refused(reason, where, name)


def test_a_flooding_key_is_cut_off_when_it_is_revoked(siege: Siege) -> None:
    rex = siege.join("rex", Role.CLIENT)
    flood = siege.flood(rex, 0, [b"nonsense"], 4)
    siege.wait_refused("damaged", "control", "rex")
    siege.revoke("rex")
    siege.wait_refused("revoked", "control", "rex")
    flood.wait(patience(30))
    with siege.goes_on("after it"):
        time.sleep(0.5)


def test_a_thousand_half_open_connections_hold_up_nobody(siege: Siege) -> None:
    before = siege.refused().get(("no_keys", "control", ""), 0)
    with siege.goes_on("half-open connections"):
        idle = [socket.create_connection(("127.0.0.1", siege.port + n % 4)) for n in range(HALF_OPEN)]
        for one in idle[::2]:
            one.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f\3")
        time.sleep(2)
        late = siege.join("late-comer", Role.CLIENT)
        assert ask_status(late, patience(5)).status["streams"]
        siege.wait_refused("no_keys", "control", times=before + HALF_OPEN // 4)
    for one in idle:
        assert not one.recv(4096, socket.MSG_DONTWAIT)[64:], "nothing but a greeting"
        one.close()


def test_with_no_open_file_left_those_who_are_connected_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    raise_limit()
    lab = Siege(tmp_path)
    limited = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    lab.service.command = [sys.executable, "-c", limited, *lab.service.command]
    try:
        with lab.service:
            lab.at_work()
            with lab.goes_on("no open file left"):
                idle = [socket.create_connection(("127.0.0.1", lab.port + n % 4)) for n in range(400)]
                time.sleep(1.5)
            for one in idle:
                one.close()
            assert ask_status(lab.join("late", Role.CLIENT), patience(10)).status["streams"], "and now others get in"
        assert f"raise the hard limit of open files to {files_for(limits.STREAMS_MAX)}" in lab.log.read_text()
    finally:
        lab.end()


# -- afterwards --------------------------------------------------------------------------------------------------


def test_afterwards_all_is_stored_and_no_secret_was_said(siege: Siege) -> None:
    """The last of this module."""
    words = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in os.listdir("/proc") if pid.isdigit()
             and os.path.exists(f"/proc/{pid}/cmdline")]  # fmt: skip
    emitted = siege.finish()
    wait_for(lambda: siege.stored("good-1") >= emitted, "everything is stored")
    for run in ("evil-1", "mine-1", "good-2", "flood-1"):
        assert siege.stored(run) == 0
    listed = subprocess.run(
        [sys.executable, "-m", "telefabric.cli.main", "keys", "list", "--data", str(siege.data)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    status = json.dumps(ask_status(siege.owner.dialled).status)
    said = "\n".join([*words, *siege.said, listed.stdout, listed.stderr, status, siege.log.read_text()])
    for secret in siege.secrets:
        assert secret not in said
    assert "Traceback" not in siege.log.read_text()
    assert "\x1b]0" not in listed.stdout


class Recorder:
    """A relay of one TCP connection that keeps what the client said."""

    def __init__(self, port: int) -> None:
        self.pieces: list[bytes] = []
        self.cut = False
        """The broker has ended the connection."""
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._relay)

    def _relay(self) -> None:
        with suppress(OSError), closing(self._server.accept()[0]) as client:
            self._broker = socket.create_connection(("127.0.0.1", self._to))
            back = threading.Thread(target=self._back, args=(client,))
            back.start()
            with suppress(OSError):
                while piece := client.recv(1 << 16):
                    self.pieces.append(piece)
                    self._broker.sendall(piece)
            with suppress(OSError):
                self._broker.shutdown(socket.SHUT_RDWR)
            back.join()
            self._broker.close()

    def _back(self, client: socket.socket) -> None:
        with suppress(OSError):
            while piece := self._broker.recv(1 << 16):
                client.sendall(piece)
        self.cut = True
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def repeat(self) -> None:
        self._broker.sendall(self.pieces[-1])

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
