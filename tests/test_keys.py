"""Keys over real CURVE sockets: who gets in, who hears why not, and who is cut off."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zmq
from processes import wait_for
from skips import requires
from slowness import patience
from zmq.utils import z85

from telefabric import limits
from telefabric.address import Address, ClientKeys
from telefabric.errors import EnvironmentProblem, Unreachable, UsageError
from telefabric.keys import saved_connections
from telefabric.keys.core.registry import Key, TicketRecord
from telefabric.keys.core.roles import INVITED, Domain, Refused, Role, may_enter
from telefabric.keys.core.ticket import Ticket
from telefabric.keys.curve import as_client
from telefabric.keys.enrol_desk import EnrolDesk
from telefabric.keys.gate import Gate, now, read_seen
from telefabric.keys.handshake import Handshake, HandshakeMonitor, why_not
from telefabric.keys.join import join, join_and_save
from telefabric.keys.key_folder import KeyFolder
from telefabric.keys.pairs import JoinPairs, Pair, join_pairs, join_pairs_in_child, make_pair
from telefabric.keys.saved_connections import SavedConnection
from telefabric.wire import control

HOUR = timedelta(hours=1)
KINDS = {
    Domain.CONTROL: (zmq.ROUTER, zmq.DEALER),
    Domain.DATA: (zmq.SUB, zmq.PUB),
    Domain.LIVE: (zmq.SUB, zmq.PUB),
    Domain.DURABLE: (zmq.XPUB, zmq.SUB),
    Domain.WATCH: (zmq.XPUB, zmq.SUB),
    Domain.QUERY: (zmq.ROUTER, zmq.DEALER),
}


class Locked:
    """A service with a socket of each kind behind a gate, and a desk; its loop is a thread."""

    def __init__(self, data: Path) -> None:
        self.folder = KeyFolder(data)
        self.heard: list[tuple[Domain, str, bytes]] = []
        self.ended: set[Key] = set()
        self.context = zmq.Context()
        self.gate = Gate(self.context, self.folder, remember=True)
        self.sockets: dict[Domain, Any] = {}
        self.urls: dict[Domain, str] = {}
        for domain, (kind, _) in KINDS.items():
            self.sockets[domain] = socket = self.context.socket(kind)
            self.gate.protect(socket, domain)
            self._bind(domain, socket)
            if kind == zmq.XPUB:
                socket.set(zmq.XPUB_MANUAL, 1)
        self.sockets[Domain.DATA].subscribe(b"")
        self.sockets[Domain.LIVE].subscribe(b"")
        desk = self.context.socket(zmq.ROUTER)
        self.gate.protect(desk, Domain.ENROL)
        self.desk = EnrolDesk(desk, self.gate)
        self._bind(Domain.ENROL, self.desk.socket)
        self.port = int(self.urls[Domain.ENROL].rpartition(":")[2])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _bind(self, domain: Domain, socket: Any) -> None:
        socket.set(zmq.LINGER, 0)
        socket.bind("tcp://127.0.0.1:*")
        self.urls[domain] = socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def _run(self) -> None:
        poller = zmq.Poller()
        for one in (self.gate.socket, self.desk.socket, *self.sockets.values()):
            poller.register(one, zmq.POLLIN)
        while not self._stop.is_set():
            poller.poll(20)
            self.ended |= self.gate.tend()
            self.desk.serve()
            for domain, one in self.sockets.items():
                while one.poll(0):
                    frame = one.recv_multipart(copy=False)[-1]
                    key = self.gate.key_of(frame, domain)
                    if key is not None:
                        self.heard.append((domain, key.name, frame.bytes))
        self.context.destroy(linger=0)

    def __enter__(self) -> Locked:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def refusals(self, reason: str) -> int:
        return sum(count for one, count in self.gate.refused.items() if one.reason == reason)

    def invite(self, name: str, role: Role = Role.WORKER, **more: Any) -> Ticket:
        record = TicketRecord(name, role, now(), **{"expires": now() + HOUR, **more})
        ticket = self.folder.invite(record, Address.parse("tcp://127.0.0.1:7750"))
        return Ticket(ticket.server, ticket.secret, ticket.address, self.port, ticket.expires_s)

    def join(self, name: str, role: Role = Role.WORKER, **more: Any) -> ClientKeys:
        ticket = self.invite(name, role, **more)
        return keys_of(join(ticket, join_pairs(ticket.secret)))


def keys_of(connection: SavedConnection) -> ClientKeys:
    keys = connection.dialled.keys
    assert keys is not None
    return keys


class Caller:
    """A client's socket and what became of its handshake."""

    def __init__(self, locked: Locked, domain: Domain, keys: ClientKeys | None) -> None:
        self.context = zmq.Context()
        kind = KINDS[domain][1] if domain in KINDS else zmq.DEALER
        self.socket: Any = self.context.socket(kind)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RECONNECT_IVL, 20)
        as_client(self.socket, keys)
        self.monitor = HandshakeMonitor(self.socket, keys)
        self.socket.connect(locked.urls[domain])

    def outcome(self) -> Handshake:
        pending = (Handshake.NOBODY, Handshake.MUTE)
        wait_for(lambda: self.monitor.look() not in pending, "the handshake has an outcome")
        until_s = time.monotonic() + patience(0.5)
        while self.monitor.look() is Handshake.OTHER_SERVER and time.monotonic() < until_s:
            time.sleep(0.01)  # a connection that broke before its answer was read looks alike, and is tried again
        return self.monitor.look()

    def speak(self, text: bytes = b"hello") -> None:
        if self.socket.type == zmq.SUB:
            self.socket.subscribe(text)
        else:
            with suppress(zmq.Again):  # one that is refused has no pipe any more
                self.socket.send(text, zmq.DONTWAIT)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.destroy(linger=0)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Locked]:
    KeyFolder(tmp_path / "data").init("tcp://127.0.0.1:7750")
    with Locked(tmp_path / "data") as service:
        yield service


# -- who gets in -------------------------------------------------------------------------------------------------


def test_each_role_enters_its_sockets_and_no_others(locked: Locked) -> None:
    for role in INVITED:
        keys = locked.join(role.value, role)
        for domain in KINDS:
            with Caller(locked, domain, keys) as caller:
                expected = Handshake.DONE if may_enter(role, domain) else Handshake.REFUSED
                assert caller.outcome() is expected, (role, domain)
                if expected is Handshake.REFUSED:
                    assert locked.gate.refused[Refused("role", domain.value, role.value)] == 1
        with Caller(locked, Domain.ENROL, keys) as caller:
            assert caller.outcome() is Handshake.UNKNOWN
            assert locked.gate.refused[Refused("not_a_ticket", "enrol", role.value)] == 1


@pytest.mark.parametrize("domain", [Domain.CONTROL, Domain.DATA, Domain.WATCH])
def test_a_message_comes_with_the_name_behind_its_key(locked: Locked, domain: Domain) -> None:
    keys = locked.join("ada", Role.RELAY)
    with Caller(locked, domain, keys) as caller:
        assert caller.outcome() is Handshake.DONE

        def heard() -> bool:
            caller.speak(b"words")
            return any((one, name) == (domain, "ada") and b"words" in what for one, name, what in locked.heard)

        wait_for(heard, "the message is heard")


def test_without_keys_and_with_those_of_another_server_nobody_gets_in(locked: Locked) -> None:
    keys = locked.join("ada")
    with Caller(locked, Domain.CONTROL, None) as caller:
        assert caller.outcome() is Handshake.WANTS_KEYS
    wait_for(lambda: locked.refusals("no_keys"), "it is counted")
    with Caller(locked, Domain.CONTROL, keys._replace(server=make_pair().public)) as caller:
        assert caller.outcome() is Handshake.OTHER_SERVER
    wait_for(lambda: locked.refusals("wrong_server_key"), "it is counted")
    stranger = ClientKeys(keys.server, *make_pair())
    with Caller(locked, Domain.CONTROL, stranger) as caller:
        assert caller.outcome() is Handshake.UNKNOWN
    assert locked.refusals("unknown_key") == 1
    assert not locked.heard


@pytest.mark.parametrize("domain", list(KINDS))
def test_the_key_of_a_ticket_opens_no_other_socket(locked: Locked, domain: Domain) -> None:
    ticket = locked.invite("ada", Role.RELAY)
    keys = ClientKeys(locked.folder.server().public, *join_pairs(ticket.secret).ticket)
    with Caller(locked, domain, keys) as caller:
        assert caller.outcome() is Handshake.REFUSED
    assert locked.gate.refused[Refused("ticket_key", domain.value, "ada")] == 1


# -- joining -----------------------------------------------------------------------------------------------------


def test_a_ticket_makes_a_key_of_ones_own_and_the_same_key_is_answered_again(locked: Locked) -> None:
    ticket = locked.invite("ada", Role.WORKER, runs="sweep-*")
    pairs = join_pairs(ticket.secret)
    first = join(ticket, pairs)
    assert (first.name, first.role, first.runs, first.expires) == ("ada", Role.WORKER, "sweep-*", None)
    assert first.public == pairs.new.public
    again = join(ticket, pairs)
    assert (again.name, again.public) == (first.name, first.public)
    with pytest.raises(EnvironmentProblem, match="the ticket for ada was used already, by another key"):
        join(ticket, join_pairs(ticket.secret))
    keys = json.loads((locked.folder.path / "registry.json").read_text())["keys"]
    assert keys[first.public]["name"] == "ada"
    assert "@" in keys[first.public]["holder"]
    assert first.secret not in (locked.folder.path / "registry.json").read_text(), "a secret never travels"


def test_reusable_expired_and_revoked_tickets(locked: Locked) -> None:
    batch = locked.invite("batch", reusable=True)
    joined = [join(batch, join_pairs(batch.secret), brief=True) for _ in range(2)]
    assert [one.name for one in joined] == ["batch-1", "batch-2"]
    assert all(one.expires is not None and int(one.expires.timestamp()) == batch.expires_s for one in joined)
    late = locked.invite("late", expires=now())
    with pytest.raises(EnvironmentProblem, match=r"the ticket for late expired on .*, and the broker's clock says"):
        join(late, join_pairs(late.secret))
    gone = locked.invite("gone")
    locked.folder.registry().change(lambda registry: (registry.revoke("gone", now()), None))
    with pytest.raises(EnvironmentProblem, match="the ticket for gone was revoked on"):
        join(gone, join_pairs(gone.secret))


def test_a_ticket_that_nobody_knows_and_a_desk_that_is_not_there(locked: Locked, tmp_path: Path) -> None:
    ticket = locked.invite("ada")
    forged = Ticket(ticket.server, z85.decode(make_pair().secret), ticket.address, ticket.enrol_port, 0)
    with pytest.raises(Unreachable, match="does not know this ticket: ask for a new ticket"):
        join(forged, join_pairs(forged.secret))
    assert locked.refusals("not_a_ticket") == 1
    other = Ticket(z85.decode(make_pair().public), ticket.secret, ticket.address, ticket.enrol_port, 0)
    with pytest.raises(Unreachable, match="another server key than this ticket names"):
        join(other, join_pairs(other.secret), timeout_s=1)
    nobody = Ticket(ticket.server, ticket.secret, ticket.address, 1, 0)
    with pytest.raises(Unreachable, match=r"nobody answers at tcp://127.0.0.1:1: is the broker running there"):
        join(nobody, join_pairs(nobody.secret), timeout_s=0.3)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3], ids=["a forwarder", "a web server"])
def test_another_program_at_the_address_of_a_ticket_is_one_sentence(locked: Locked, said: bytes) -> None:
    """ZeroMQ gives a connection up that speaks another protocol, and has nowhere to put the next message then."""
    ticket, ended = locked.invite("ada"), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.1)

        def talk() -> None:
            while not ended.is_set():
                with suppress(OSError), other.accept()[0] as connection:
                    connection.settimeout(1.0)
                    connection.recv(100)
                    connection.sendall(said)

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            away = Ticket(ticket.server, ticket.secret, ticket.address, other.getsockname()[1], 0)
            with pytest.raises(Unreachable, match=r"see telefabric doctor|check the address"):
                join(away, join_pairs(away.secret), timeout_s=3)
        finally:
            ended.set()
            thread.join()


def test_what_is_not_a_join_is_answered_in_words(locked: Locked) -> None:
    ticket = locked.invite("ada")
    keys = ClientKeys(locked.folder.server().public, *join_pairs(ticket.secret).ticket)
    cases: list[tuple[list[bytes], str]] = [
        ([b"rubbish"], "damaged"),
        ([b"two", b"frames"], "damaged"),
        ([control.encode(control.NotJoined("a", "b"))], "unexpected"),
        ([control.encode(control.Join(99, "A" * 40, ""))], "protocol"),
        ([control.encode(control.Join(1, "A", ""))], "bad_control"),
    ]
    with Caller(locked, Domain.ENROL, keys) as caller:
        for frames, reason in cases:
            caller.socket.send_multipart(frames)
            assert caller.socket.poll(patience(5_000))
            answer = control.decode(caller.socket.recv())
            assert isinstance(answer, control.NotJoined)
            assert answer.reason == reason
    assert not any(key.name == "ada" for key in locked.folder.registry().current().keys.values())


def test_a_join_that_died_before_it_saved_goes_on_with_the_same_key(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = locked.invite("ada")
    with monkeypatch.context() as broken:
        broken.setattr(saved_connections, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            join_and_save(ticket)
    assert saved_connections.names() == []
    saved = join_and_save(ticket)
    assert saved.name == "ada"
    assert saved_connections.load("ada") == saved.connection
    assert [path.name for path in saved_connections.folder().iterdir()] == ["ada.json"]
    assert saved_connections.at("tcp://127.0.0.1:7750") == "ada"
    assert saved_connections.address_of("tcp://127.0.0.1:7750").keys == keys_of(saved.connection)
    assert saved_connections.address_of("ada") == saved.connection.dialled
    assert saved_connections.address_of("tcp://127.0.0.1:7760").keys is None


def test_the_name_of_a_saved_connection_is_never_overwritten(locked: Locked) -> None:
    join_and_save(locked.invite("ada"), "lab")
    with pytest.raises(UsageError, match="lab is saved already"):
        join_and_save(locked.invite("bob"), "lab")
    assert join_and_save(locked.invite("lab")).name == "lab-2"
    with pytest.raises(UsageError, match="neither an address such as tcp://HOST:PORT nor a saved connection"):
        saved_connections.load("nowhere")
    with pytest.raises(UsageError, match="cannot be the name of a key"):
        saved_connections.load("../../etc/passwd")


def test_in_somebody_elses_process_a_child_makes_the_pair(locked: Locked, tmp_path: Path) -> None:
    ticket = locked.invite("ada")
    with Caller(locked, Domain.ENROL, ClientKeys(locked.folder.server().public, *join_pairs(ticket.secret).ticket)):
        pairs = join_pairs_in_child(ticket.secret)  # beside a live CURVE socket
    assert pairs.ticket == join_pairs(ticket.secret).ticket
    connection = join(ticket, pairs)
    with Caller(locked, Domain.DATA, keys_of(connection)) as caller:
        assert caller.outcome() is Handshake.DONE


def test_a_child_that_cannot_be_started_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EnvironmentProblem, match="join before the program starts, with telefabric join"):
        join_pairs_in_child(b"x" * 32)


def test_no_secret_is_in_what_python_shows(locked: Locked) -> None:
    ticket = locked.invite("ada")
    pairs = join_pairs(ticket.secret)
    connection = join(ticket, pairs)
    shown = f"{ticket} {pairs} {connection} {connection.dialled} {locked.folder.server()} {[keys_of(connection)]!r}"
    for secret in (pairs.ticket.secret, pairs.new.secret, locked.folder.server().secret, repr(ticket.secret)):
        assert secret not in shown


# -- revoking ----------------------------------------------------------------------------------------------------


def test_a_revoked_key_opens_no_connection_any_more(locked: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are open are cut at the next look at the file."""
    keys = locked.join("eve", Role.WORKER)
    with Caller(locked, Domain.CONTROL, keys) as caller:
        assert caller.outcome() is Handshake.DONE
    monkeypatch.setattr(limits, "REGISTRY_LOOK_S", 3_600.0)
    locked.gate.registry.current(look=True)  # the next look is in an hour
    locked.folder.registry().change(lambda registry: (registry.revoke("eve", now()), None))
    with Caller(locked, Domain.CONTROL, keys) as caller:
        assert caller.outcome() is Handshake.REFUSED


@pytest.mark.parametrize("domain", [Domain.CONTROL, Domain.DATA, Domain.DURABLE])
def test_a_revoked_key_is_cut_off_within_a_second_and_nobody_else(locked: Locked, domain: Domain) -> None:
    bad, good = locked.join("eve", Role.RELAY), locked.join("ada", Role.RELAY)
    with Caller(locked, domain, bad) as cut, Caller(locked, domain, good) as kept, Caller(locked, domain, bad) as mute:
        for caller in (cut, kept, mute):
            assert caller.outcome() is Handshake.DONE

        def both_are_heard() -> bool:
            for caller in (cut, kept):
                caller.speak(b"words")
            return {"ada", "eve"} <= {name for one, name, _ in locked.heard if one is domain}

        wait_for(both_are_heard, "both are heard")
        locked.folder.registry().change(lambda registry: (registry.revoke("eve", now()), None))
        wait_for(lambda: cut.monitor.look() is Handshake.REFUSED, "its connection is cut, and it is refused", 1.5)
        wait_for(lambda: mute.monitor.look() is Handshake.REFUSED, "also the one over which nothing had come", 1.5)
        assert {key.name for key in locked.ended} == {"eve"}
        locked.heard.clear()

        def only_one_is_heard() -> bool:
            for caller in (cut, kept):
                caller.speak(os.urandom(4))
            return bool(locked.heard)

        wait_for(only_one_is_heard, "the other goes on")
        assert {name for _, name, _ in locked.heard} == {"ada"}
        assert kept.monitor.look() is Handshake.DONE


def test_the_newest_connections_beyond_the_limit_of_a_socket_are_cut(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 2)
    keys = locked.join("ada", Role.RELAY)
    with Caller(locked, Domain.DATA, keys) as first, Caller(locked, Domain.DATA, keys) as second:
        assert (first.outcome(), second.outcome()) == (Handshake.DONE, Handshake.DONE)
        with Caller(locked, Domain.DATA, keys), Caller(locked, Domain.CONTROL, keys) as elsewhere:
            reason = Refused("too_many_connections", Domain.DATA, "127.0.0.1")
            wait_for(lambda: locked.gate.refused[reason] > 1, "it is cut, and again when it dials again")
            assert elsewhere.outcome() is Handshake.DONE
        assert (first.monitor.look(), second.monitor.look()) == (Handshake.DONE, Handshake.DONE)
        first.socket.close()
        with Caller(locked, Domain.DATA, keys) as third:
            wait_for(lambda: third.monitor.look() is Handshake.DONE, "there is a place again")
            third.speak()
            wait_for(lambda: (third.speak(), locked.heard)[1], "it is heard")


def test_what_a_revoked_key_sent_before_it_was_cut_is_dropped_unread(locked: Locked) -> None:
    keys = locked.join("eve")
    with Caller(locked, Domain.CONTROL, keys) as caller:
        assert caller.outcome() is Handshake.DONE
        caller.speak()
        wait_for(lambda: locked.heard, "it is heard")
        locked.gate._admitted.clear()  # as between the change of the registry and the cut
        caller.speak(b"late")
        wait_for(lambda: locked.gate.refused[Refused("ended", "control", "eve")], "it is counted with its name")
    assert [what for _, _, what in locked.heard] == [b"hello"]


def test_a_key_that_expires_is_cut_off_too(locked: Locked) -> None:
    ticket = locked.invite("brief", expires=now() + timedelta(seconds=2))
    keys = keys_of(join(ticket, join_pairs(ticket.secret), brief=True))
    with Caller(locked, Domain.CONTROL, keys) as caller:
        assert caller.outcome() is Handshake.DONE
        wait_for(lambda: caller.monitor.look() is Handshake.REFUSED, "it is cut off when its time is over", 6)


def test_a_refused_socket_is_made_again_and_gets_in_once_its_key_is_known(locked: Locked) -> None:
    keys = ClientKeys(locked.folder.server().public, *make_pair())
    with Caller(locked, Domain.CONTROL, keys) as caller:
        assert caller.outcome().is_final
    key = Key("ada", Role.CLIENT, now())
    locked.folder.registry().change(lambda registry: (registry.add(keys.public, key), None))
    with Caller(locked, Domain.CONTROL, keys) as caller:  # at once: the file is looked at for a key that is unknown
        assert caller.outcome() is Handshake.DONE


# -- the files ---------------------------------------------------------------------------------------------------


@requires("files that have modes", os.name == "posix")
def test_the_files_are_for_their_user_alone(locked: Locked) -> None:
    umask = os.umask(0)
    try:
        saved = join_and_save(locked.invite("ada"))
    finally:
        os.umask(umask)
    for path in (*locked.folder.path.iterdir(), saved.path):
        assert path.stat().st_mode & 0o777 == 0o600, path
    for folder in (locked.folder.path, saved.path.parent):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    saved.path.chmod(0o640)
    with pytest.raises(EnvironmentProblem, match=f"others may read {saved.path}.* chmod 600 {saved.path}"):
        saved_connections.load("ada")
    server = locked.folder.path / "server.json"
    server.chmod(0o604)
    with pytest.raises(EnvironmentProblem, match=f"others may read {server}.* chmod 600"):
        locked.folder.server()


@requires("a user who may give files away", hasattr(os, "geteuid") and os.geteuid() == 0)
def test_what_an_administrator_writes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 12345, 23456)
    folder = KeyFolder(data)
    folder.init("tcp://127.0.0.1:7750")
    folder.invite(TicketRecord("ada", Role.WORKER, now(), now() + HOUR), Address("lab", 7750))
    for path in (folder.path, *folder.path.iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456), path


@requires("another user to be", hasattr(os, "geteuid") and os.geteuid() == 0)
def test_another_user_hears_in_a_sentence_that_the_keys_are_not_his(locked: Locked) -> None:
    for place in locked.folder.path.parents[:-1]:
        place.chmod(place.stat().st_mode | 0o055)
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom telefabric.errors import EnvironmentProblem\n"
        "from telefabric.keys.key_folder import KeyFolder\nfrom telefabric.keys import saved_connections\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(saved_connections.is_saved('local'), saved_connections.at('tcp://127.0.0.1:7750'))\n"
        "try: KeyFolder(Path(sys.argv[1])).exists\n"
        "except EnvironmentProblem as error: print(error)\n"
    )
    home = {**os.environ, "XDG_CONFIG_HOME": str(locked.folder.path)}
    words = [sys.executable, "-c", program, str(locked.folder.path.parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=home)
    assert done.stdout.startswith("False None\n"), done.stderr
    assert "run this as the user that it belongs to" in done.stdout


def test_a_damaged_registry_keeps_the_last_good_one_and_lets_nobody_new_in(locked: Locked) -> None:
    keys, ticket = locked.join("ada"), locked.invite("bob")
    path = locked.folder.path / "registry.json"
    wait_for(lambda: len(locked.gate.registry.current().tickets) == 2, "the ticket is known")
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    wait_for(lambda: "is damaged" in locked.gate.problem, "it is noticed")
    with Caller(locked, Domain.CONTROL, keys) as caller:
        assert caller.outcome() is Handshake.DONE
    with pytest.raises(EnvironmentProblem, match="cannot write its registry of keys"):
        join(ticket, join_pairs(ticket.secret))
    with pytest.raises(EnvironmentProblem, match=f"{path} is damaged"):
        locked.folder.registry()
    path.write_text(whole)
    assert join(ticket, join_pairs(ticket.secret)).name == "bob"
    wait_for(lambda: not locked.gate.problem, "it is well again")
    path.unlink()
    wait_for(lambda: "is gone" in locked.gate.problem, "it is noticed")


def test_many_processes_change_the_registry_and_no_change_is_lost(locked: Locked) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom datetime import timedelta\n"
        "from telefabric.address import Address\nfrom telefabric.keys.gate import now\n"
        "from telefabric.keys.key_folder import KeyFolder\nfrom telefabric.keys.core.registry import TicketRecord\n"
        "for n in range(10):\n"
        "    record = TicketRecord(f'{sys.argv[2]}-{n}', 'worker', now(), now() + timedelta(hours=1))\n"
        "    KeyFolder(Path(sys.argv[1])).invite(record, Address('lab', 7750))\n"
    )
    data = str(locked.folder.path.parent)
    running = [subprocess.Popen([sys.executable, "-c", program, data, name]) for name in ("one", "two", "three")]
    assert [one.wait() for one in running] == [0, 0, 0]
    assert len(locked.folder.registry().current().tickets) == 30


def test_the_keys_that_were_heard_are_remembered_with_time_and_place(locked: Locked) -> None:
    keys = locked.join("ada")
    with Caller(locked, Domain.CONTROL, keys):
        wait_for(lambda: keys.public in read_seen(locked.folder.seen), "it is written down", 15)
    assert read_seen(locked.folder.seen)[keys.public].host == "127.0.0.1"


def test_keys_are_made_once(locked: Locked, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has keys already"):
        locked.folder.init("tcp://127.0.0.1:7750")
    with pytest.raises(UsageError, match="make them with telefabric keys init"):
        KeyFolder(tmp_path / "elsewhere").server()
    assert not KeyFolder(tmp_path / "elsewhere").exists
    owner = locked.folder.owner()
    with Caller(locked, Domain.DURABLE, keys_of(owner)) as caller:
        assert caller.outcome() is Handshake.DONE


@pytest.mark.parametrize("last", list(Handshake))
def test_each_way_of_failing_is_a_sentence_with_a_remedy(last: Handshake) -> None:
    for shown in ("the key ada", ""):
        sentence = why_not(last, "tcp://lab:7750", shown)
        assert "tcp://lab:7750" in sentence
        assert "?" in sentence or ":" in sentence[20:]


def test_pairs_are_alike_wherever_they_are_made() -> None:
    pairs = join_pairs(b"x" * 32)
    assert isinstance(pairs, JoinPairs)
    assert isinstance(pairs.new, Pair)
    assert zmq.curve_public(pairs.new.secret.encode()).decode() == pairs.new.public
