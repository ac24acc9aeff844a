"""The doctor before peers that refuse, hang, talk nonsense, or let only some of it pass; and before odd store files.

Real sockets, processes and files; the doctor's looks are called, so that no process has to start for each.
"""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec
import pytest
import zmq
from conftest import FabricService
from faultproxy import FaultProxy
from processes import broker, free_ports, store, wait_for
from test_kills import emitter

from telefabric.address import Address
from telefabric.doctor import broker as at_broker
from telefabric.doctor import ports as at_ports
from telefabric.doctor.examine import about_broker, about_data, examine
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding
from telefabric.doctor.ports import Answer, free_base, look_at_port
from telefabric.doctor.side_by_side import in_time
from telefabric.doctor.storefile import judge_store_open, look_at_store_open
from telefabric.files.lock import FileLock
from telefabric.peer.requests import ask_status
from telefabric.store.file.database import FILE_NAME, VERSION, open_writer
from telefabric.wire import control
from telefabric.wire.seal import seal

Speak = Callable[[socket.socket], None]


def rows_of(address: Address, data: Path) -> dict[str, Finding]:
    return {row.check: row for row in about_broker(address, data) if row is not None}


@contextmanager
def listener(speak: Speak) -> Iterator[Address]:
    """A TCP server that treats each connection so, and then closes it."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            speak(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield Address("127.0.0.1", server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def router(answer: Callable[[bytes], list[bytes]]) -> Iterator[Address]:
    """A ROUTER that gives these answers to each message."""
    ended = threading.Event()
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")

    def serve() -> None:
        while not ended.is_set():
            if socket.poll(20):
                peer, *_, message = socket.recv_multipart()
                for one in answer(message):
                    socket.send_multipart((peer, one))
        context.destroy(linger=0)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Address("127.0.0.1", port)
    finally:
        ended.set()
        thread.join()


def hang(connection: socket.socket) -> None:
    while connection.recv(4_096):
        pass


def close(connection: socket.socket) -> None:
    pass


def complain(connection: socket.socket) -> None:
    connection.recv(4_096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def greet(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For peers that never answer, however long one waits."""
    monkeypatch.setattr(at_ports, "CONNECT_S", 0.3)
    monkeypatch.setattr(at_ports, "_SPEAK_S", 0.3)
    monkeypatch.setattr(at_broker, "ASK_S", 0.3)


# -- who is there ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("speak", "word"),
    [
        (hang, "takes connections and says nothing"),
        (close, "closes them at once"),
        (complain, "'HTTP/1.1 400 Bad Request'"),
        (greet, "'SSH-2.0-OpenSSH_9.6'"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_what_listens_and_is_no_broker_is_told_by_what_it_does(speak: Speak, word: str, tmp_path: Path) -> None:
    with listener(speak) as address:
        found = rows_of(address, tmp_path)["broker"]
    assert found.state == PROBLEM
    assert word in found.sentence
    assert f"process {os.getpid()}" in found.sentence


@pytest.mark.usefixtures("impatient")
def test_a_machine_that_drops_packets_is_told_after_a_short_wait() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for other in (first, second):  # what more come are dropped, as a firewall does
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        begun_s = time.monotonic()
        assert look_at_port(*full.getsockname()).answer is Answer.TIMEOUT
        assert time.monotonic() - begun_s < 5


def test_a_name_that_is_none_is_the_only_row_on_the_broker(tmp_path: Path) -> None:
    found = rows_of(Address("no-such-host.invalid", 7750), tmp_path)
    assert found["name"].state == PROBLEM
    assert "broker" not in found


@pytest.mark.usefixtures("impatient")
def test_a_zeromq_socket_that_is_no_broker(tmp_path: Path) -> None:
    with router(lambda _: []) as address:
        silent = rows_of(address, tmp_path)["broker"]
    with router(lambda _: [b"good morning"]) as address:
        foreign = rows_of(address, tmp_path)["broker"]
    assert (silent.state, "does not answer as a broker" in silent.sentence) == (PROBLEM, True)
    assert (foreign.state, "has another version, or is not a broker" in foreign.sentence) == (PROBLEM, True)
    assert "fails its check" in foreign.sentence


def newer_broker(message: bytes) -> list[bytes]:
    """Of protocol 2, which tells its status as we do."""
    match control.decode(message):
        case control.StatusRequest():
            endpoints = control.Endpoints("*:1", "*:1", watch="*:1")
            status = {"streams": [], "durable": [{"name": "store"}], "absent": [], "version": "9.0.0"}
            return [control.encode(control.StatusReply(bytes(16), endpoints, status))]
        case control.Watch(protocol=protocol):
            reason = f"this broker speaks protocol 2, not {protocol}: install one version"
            return [control.encode(control.Refused(bytes(16), reason))]
    return []


def test_a_broker_of_a_newer_protocol_is_told_though_its_ports_are_closed(tmp_path: Path) -> None:
    with router(newer_broker) as address:
        found = rows_of(address, tmp_path)
    assert (found["version"].state, found["version"].remedy) == (WARNING, "pip install -U telefabric, here")
    assert (found["live path"].state, "speaks protocol 2" in found["live path"].sentence) == (PROBLEM, True)
    assert found["ports"].state == PROBLEM


def test_a_tunnel_of_the_control_port_alone_is_told_with_the_line_that_forwards_all(tmp_path: Path) -> None:
    port = free_ports()
    with broker(port), FaultProxy("127.0.0.77", [port], seed=1):
        found = rows_of(Address("127.0.0.77", port), tmp_path)
    assert found["broker"].state == OK
    assert found["ports"].state == PROBLEM
    for place, name in ((1, "data"), (2, "live"), (3, "durable"), (5, "tap"), (6, "watch")):
        assert f"{port + place} ({name})" in found["ports"].sentence
        assert f"-L {port + place}:127.0.0.1:{port + place}" in found["ports"].remedy
    assert f"ssh -N -L {port}:127.0.0.1:{port}" in found["ports"].remedy
    assert "live path" not in found, "one trouble is one row"


def test_a_live_path_that_is_granted_and_brings_nothing(tmp_path: Path) -> None:
    port = free_ports()

    def no_more_than_hello(number: int, of: int, chunk: bytes) -> bytes:
        return chunk if of != port + 6 or chunk.startswith(b"\xff") else b""

    with broker(port), FaultProxy("127.0.0.78", range(port, port + 7), seed=1) as proxy:
        proxy.garble = no_more_than_hello
        found = rows_of(Address("127.0.0.78", port), tmp_path)
    assert found["ports"].state == OK
    assert (found["live path"].state, "no delivery arrives" in found["live path"].sentence) == (PROBLEM, True)


def naming(address: Address) -> Callable[[bytes], list[bytes]]:
    """A broker that names one address for all its other sockets, and does not say any more."""
    url = f"*:{address.port}"
    endpoints = control.Endpoints(url, url, url, url, url, url)
    reply = control.encode(control.StatusReply(bytes(16), endpoints, {"durable": [{"name": "store"}]}))
    return lambda message: [reply] if b"status?" in message else []


def test_ports_that_hang_do_not_make_it_long(tmp_path: Path) -> None:
    with listener(hang) as hanging, router(naming(hanging)) as address:
        begun_s = time.monotonic()
        found = rows_of(address, tmp_path)
        took_s = time.monotonic() - begun_s
    assert took_s < 9
    assert (found["ports"].state, "silent" in found["ports"].sentence) == (PROBLEM, True)


def test_services_that_never_answer_do_not_make_it_long(tmp_path: Path) -> None:
    with router(lambda _: []) as hanging, router(naming(hanging)) as address:
        begun_s = time.monotonic()
        found = {row.check: row for row in examine(address, tmp_path, tmp_path)}
        took_s = time.monotonic() - begun_s
    assert took_s < 9.5
    assert found["ports"].state == OK
    assert found["clock"].state == WARNING
    for check in ("queries", "live path"):
        assert found[check].state == PROBLEM
    assert "grants no live subscription" in found["live path"].sentence


def test_a_look_that_never_ends_holds_up_nobody_and_one_that_fails_is_no_silence() -> None:
    never = threading.Event()
    begun_s = time.monotonic()
    assert in_time([never.wait, lambda: True], 0.2) == [None, True]
    assert time.monotonic() - begun_s < 5
    never.set()
    with pytest.raises(ZeroDivisionError):
        in_time([lambda: 1 // 0], 5)


# -- what a broker says ------------------------------------------------------------------------------------------
def test_what_the_broker_refused_is_told_in_words(fabric_service: FabricService, tmp_path: Path) -> None:
    address = Address.parse(fabric_service.url)
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.connect(address.url)
        stranger.send(b"good morning")
        stranger.send(seal(msgspec.msgpack.encode(["no such message"])))
        wait_for(lambda: len(ask_status(address).status["dropped"]) == 2, "both are refused")
    found = rows_of(address, tmp_path)
    assert found["refusals: damaged"].sentence.startswith("Refused once since the broker's start: a message failed")
    assert found["refusals: bad_control"].state == WARNING


def test_streams_behind_a_frozen_store_are_told(tmp_path: Path) -> None:
    port = free_ports()
    address = Address("127.0.0.1", port)

    def behind() -> bool:
        return any(one["first_behind"] == "store" for one in ask_status(address).status["streams"])

    def measured() -> bool:
        return any(one["round_trip_ms"] is not None for one in ask_status(address).status["streams"])

    with broker(port), store(port, tmp_path) as frozen, emitter(address.url, tmp_path, "first"):
        wait_for(measured, "the worker runs")
        frozen.signal(signal.SIGSTOP)
        wait_for(behind, "the store is behind")
        found = rows_of(address, tmp_path)
    assert found["streams: store"].state == WARNING
    assert "1 of 1 stream behind at store" in found["streams: store"].sentence
    assert "The clocks of 1 worker" in found["worker clocks"].sentence


def test_ports_that_are_taken_or_given_away_are_not_proposed() -> None:
    near = free_ports()
    first = free_base(near, (32_768, 60_999))
    assert first is not None
    assert first % 20 == near % 20
    with socket.create_server(("127.0.0.1", first + 6)):
        second = free_base(near, (32_768, 60_999))
    assert second is not None
    assert second > first
    assert free_base(near, (1_024, 65_535)) is None
    high = free_base(40_000, (32_768, 60_999))
    assert high is not None
    assert not 32_768 - 6 <= high <= 60_999


# -- the store's file --------------------------------------------------------------------------------------------
def stored(folder: Path) -> Finding:
    return next(row for row in about_data(folder) if row is not None and row.check == "store file")


def test_a_store_file_of_others_a_newer_or_a_damaged_one(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    open_writer(file).close()
    whole = file.read_bytes()
    assert stored(tmp_path).state == OK

    file.write_bytes(whole[: len(whole) // 2])
    assert "is cut short" in stored(tmp_path).sentence
    file.write_bytes(b"\0" * 50 + whole[50:])
    assert "damaged at its head" in stored(tmp_path).sentence
    file.write_bytes(whole[:60] + (VERSION + 1).to_bytes(4, "big") + whole[64:])
    newer = stored(tmp_path)
    assert (newer.state, newer.remedy) == (PROBLEM, "pip install -U telefabric")
    file.unlink()
    others = apsw.Connection(str(file))
    others.execute("CREATE TABLE notes (text)")
    others.close()
    assert "another program" in stored(tmp_path).sentence


def test_a_store_that_has_just_been_made_is_no_trouble(tmp_path: Path) -> None:
    connection = open_writer(tmp_path / FILE_NAME)
    names = sorted(entry.name for entry in tmp_path.iterdir())
    try:
        assert stored(tmp_path).state == OK
        assert sorted(entry.name for entry in tmp_path.iterdir()) == names
    finally:
        connection.close()


def test_a_name_of_a_process_that_is_cut_within_a_character_is_a_name(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.write_bytes(b"")
    code = (
        "import sys; open('/proc/self/comm', 'wb').write(b'collecteur-\\xc3'); file = open(sys.argv[1], 'r+b');"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert look_at_store_open(tmp_path).others == {str(other.pid): f"process {other.pid}, collecteur-\ufffd"}


def test_who_writes_a_store_beside_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.write_bytes(b"")
    assert judge_store_open(file, look_at_store_open(tmp_path), None) is None
    lock = FileLock.take(tmp_path / f"{FILE_NAME}.lock")
    assert lock is not None
    code = "import sys; file = open(sys.argv[1], 'r+b'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(file)]
    try:
        with file.open("r+b"):
            seen = look_at_store_open(tmp_path)
        assert (seen.owner or "").startswith(f"process {os.getpid()}, ")
        assert seen.others == {}
        assert judge_store_open(file, seen, True).state == OK  # type: ignore[union-attr]
        assert judge_store_open(file, seen, False).state == WARNING  # type: ignore[union-attr]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            found = judge_store_open(file, look_at_store_open(tmp_path), True)
            other.communicate()
        assert found is not None
        assert (found.state, f"process {other.pid}, " in found.sentence) == (WARNING, True)
    finally:
        lock.release()
