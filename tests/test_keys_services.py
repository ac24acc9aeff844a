"""Broker and store with keys, as processes: what each role may do, and what happens when a key ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zmq
from msgspec.structs import replace
from processes import TELEFABRIC, Service, free_ports, run, wait_for
from slowness import patience

from telefabric.address import Address, ClientKeys
from telefabric.errors import NotAdmitted, Unreachable
from telefabric.keys import saved_connections
from telefabric.keys.core.registry import TicketRecord
from telefabric.keys.core.roles import Role
from telefabric.keys.gate import now
from telefabric.keys.join import join_and_save
from telefabric.keys.key_folder import KeyFolder
from telefabric.keys.pairs import make_pair
from telefabric.peer.connection import dial
from telefabric.peer.requests import ask_status
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.subscribe import DurableSubscription, LiveSubscription
from telefabric.wire import batch, control
from telefabric_workers import connect

PROGRAM = """
import sys, time
from telefabric_workers import connect
with connect(sys.argv[1] or None, run=sys.argv[2], spool=sys.argv[3], exit_flush_s=float(sys.argv[4])) as worker:
    for step in range(10):
        worker.step(episode=0, step=step, action=1, observation=step, reward=0.0, terminated=step == 9)
        time.sleep(0.1)
"""


class Lab:
    """`telefabric up` with keys, and what a user has there."""

    def __init__(self, folder: Path) -> None:
        self.data, self.spool, self.log = folder / "data", folder / "spool", folder / "up.log"
        self.port = free_ports()
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.keys = KeyFolder(self.data)
        self.owner = self.keys.init(self.url)
        command = [*TELEFABRIC, "up", "--listen", f"tcp://*:{self.port}", "--data", str(self.data)]
        self.service = Service(command, stderr=self.log)

    def join(self, name: str, role: Role, runs: str = "*") -> Address:
        """A saved connection of that name; its address with its keys."""
        record = TicketRecord(name, role, now(), now().replace(year=2100), runs)
        ticket = self.keys.invite(record, Address.parse(self.url))
        return join_and_save(ticket, timeout_s=patience(10)).connection.dialled

    def revoke(self, name: str) -> None:
        self.keys.registry().change(lambda registry: (registry.revoke(name, now()), None))

    def work(self, name: str, run: str, flush_s: float = 20, ticket: str | None = None) -> str:
        """A worker that ends; what it complains of."""
        words = [sys.executable, "-c", PROGRAM, name, run, str(self.spool), str(patience(flush_s))]
        more = {"TELEFABRIC_TICKET": ticket} if ticket else {}
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=patience(60), check=True, env={**os.environ, **more}
        )
        return done.stderr

    def stored(self, run: str) -> int:
        with RemoteReader(self.owner.dialled, timeout_s=patience(5)) as reader:
            return sum(reader.watermarks(run).values())

    def dropped(self) -> dict[str, int]:
        return dict(ask_status(self.owner.dialled, patience(5)).status["dropped"])


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = Lab(tmp_path)
    with found.service:
        wait_for(lambda: ask_status(found.owner.dialled, patience(5)).endpoints.query, "questions are answered")
        yield found


def test_a_worker_s_events_are_stored_and_a_client_reads_and_watches_them(lab: Lab) -> None:
    client = lab.join("bob", Role.CLIENT)
    lab.join("ada", Role.WORKER, "sweep-*")
    with LiveSubscription(client, name="bob") as subscription:
        wait_for(lambda: (subscription.poll(0.05), subscription.deliveries)[1], "the broker's ticks come")
        assert lab.work("ada", "sweep-1") == ""
        assert lab.work(lab.url, "sweep-2") == "", "the address alone finds the keys of the connection joined last"
        wait_for(lambda: any(one.kind == "step" for one in subscription.poll(0.05)), "it is seen live")
    with RemoteReader(client, timeout_s=patience(5)) as reader:
        assert {one.run_id for one in reader.runs()} == {"sweep-1", "sweep-2"}
    endpoints = ask_status(client, patience(5)).endpoints
    assert endpoints.tap is None, "the tap is plain, and so is off"


def test_without_a_key_and_with_a_wrong_server_key_nothing_answers_but_a_sentence(lab: Lab) -> None:
    with pytest.raises(NotAdmitted, match="asks for a key: get a ticket"):
        ask_status(Address.parse(lab.url), patience(3))
    other = lab.owner.keys._replace(server=lab.owner.public)
    with pytest.raises(NotAdmitted, match="has another server key than this key names"):
        ask_status(Address.parse(lab.url)._replace(keys=other), patience(3))
    assert "asks for a key" in lab.work(lab.url, "run", flush_s=5), "a worker says why its events stay in the spool"
    wait_for(lambda: "no_keys at control by a stranger" in lab.log.read_text(), "it is logged")
    wait_for(lambda: "wrong_server_key at control" in lab.log.read_text(), "it is logged")


def test_a_key_publishes_its_own_runs_alone(lab: Lab) -> None:
    lab.join("ada", Role.WORKER, "sweep-*")
    lab.join("bob", Role.CLIENT)
    assert "the key ada is for the runs sweep-*, and not for other" in lab.work("ada", "other", flush_s=2)
    assert "the key bob has the role client, which may not send hello" in lab.work("bob", "sweep-1", flush_s=2)
    wait_for(lambda: {"other_run", "role"} <= lab.dropped().keys(), "both are counted")
    assert lab.stored("other") == 0


def test_a_client_s_key_does_not_attach_as_a_store_nor_a_worker_s_read(lab: Lab) -> None:
    worker, client = lab.join("ada", Role.WORKER), lab.join("bob", Role.CLIENT)
    for address, message in (
        (client, control.Attach(control.PROTOCOL, "store", keeps="elsewhere")),
        (worker, control.Watch(control.PROTOCOL, "viewer")),
    ):
        with Dealer(address) as dealer:
            answer = dealer.ask(message)
            assert isinstance(answer, control.Refused), answer
            assert "which may not send" in answer.reason
    with pytest.raises(NotAdmitted, match="refuses this key"), RemoteReader(worker, timeout_s=patience(5)) as reader:
        reader.runs()


def test_a_subscriber_that_is_refused_does_not_go_on_making_mistakes(lab: Lab) -> None:
    worker = lab.join("ada", Role.WORKER)
    keeper = DurableSubscription(worker, name="keeper", held=lambda stream: 0)
    with LiveSubscription(worker, name="watcher") as watcher, closing(keeper):

        def both() -> bool:
            return bool((watcher.poll(0.02), keeper.poll(0.02)) and watcher.refusal and keeper.refusal)

        wait_for(both, "both are refused")
        before, until_s = lab.dropped()["role"], time.monotonic() + 4
        while time.monotonic() < until_s:
            both()
        assert lab.dropped()["role"] - before <= 4, "a heartbeat of each would be 8"


def test_a_durable_subscriber_that_was_refused_gets_the_place_when_it_is_free(lab: Lab) -> None:
    first, second = (
        DurableSubscription(lab.owner.dialled, name="keeper", held=lambda stream: 0, keeps=keeps)
        for keeps in ("here", "there")
    )
    with closing(second):
        with closing(first):
            wait_for(lambda: (first.poll(0.02), first.attached)[1], "the first is attached")
            wait_for(lambda: (first.poll(0.02), second.poll(0.02), second.refusal)[2], "the second is refused")
        wait_for(lambda: (second.poll(0.02), second.attached)[1], "its place is free")
        assert second.refusal == ""


def test_a_stolen_worker_key_takes_over_no_stream_of_another_run(lab: Lab) -> None:
    owner, thief = lab.join("ada", Role.WORKER, "a-*"), lab.join("eve", Role.WORKER, "e-*")
    stream = os.urandom(16)
    with Dealer(owner) as own, Dealer(thief) as foreign:
        assert isinstance(own.ask(hello(stream, "a-1")), control.Welcome)
        refused = foreign.ask(hello(stream, "e-1"))
        assert isinstance(refused, control.Refused), "the same stream, said to be of a run of its own"
        assert "and not for a-1" in refused.reason
        endpoints = ask_status(thief, patience(5)).endpoints
        publisher: Any = dial(foreign.context, zmq.PUB, thief.keys)
        publisher.connect(thief.resolve(endpoints.data))

        message = batch.pack(batch.Header(0, bytes(16), stream, 1, 1, 1, 1, 0, 1), b"body")

        def is_counted() -> bool:
            publisher.send_multipart([stream, message])
            return lab.dropped().get("not_carrier", 0) > 0

        wait_for(is_counted, "its batches for that stream are refused")


def test_a_revoked_client_is_shown_out_within_a_second_and_told_why(lab: Lab) -> None:
    client = lab.join("eve", Role.CLIENT)
    with LiveSubscription(client, name="eve") as subscription:
        wait_for(lambda: (subscription.poll(0.05), subscription.deliveries)[1], "the broker's ticks come")
        lab.revoke("eve")
        began_s = time.monotonic()
        wait_for(lambda: (subscription.poll(0.05), subscription.refusal)[1], "it is told")
        assert time.monotonic() - began_s < patience(1.5)
        assert "refuses this key, which was revoked" in subscription.refusal
        before = subscription.deliveries
        for _ in range(40):
            subscription.poll(0.05)
        assert subscription.deliveries == before
    with pytest.raises(NotAdmitted, match="refuses this key, which was revoked"):
        ask_status(client, patience(3))
    wait_for(lambda: "revoked at control by eve" in lab.log.read_text(), "it is logged with its name")


def test_a_revoked_client_s_questions_are_not_answered_any_more(lab: Lab) -> None:
    with RemoteReader(lab.join("eve", Role.CLIENT), timeout_s=patience(3)) as reader:
        assert reader.runs() == []
        lab.revoke("eve")
        began_s = time.monotonic()
        with pytest.raises(NotAdmitted, match="refuses this key, which was revoked"):
            wait_for(lambda: reader.runs() != [], "it is refused")
        assert time.monotonic() - began_s < patience(3)


def test_connections_that_say_nothing_and_keys_that_nobody_knows_hold_up_nobody(lab: Lab) -> None:
    idle = [socket.create_connection(("127.0.0.1", lab.port)) for _ in range(1_000)]
    strangers = [
        Dealer(Address.parse(lab.url)._replace(keys=ClientKeys(lab.owner.server, *make_pair()))) for _ in range(50)
    ]
    took_s = []
    with Dealer(lab.owner.dialled) as dealer:
        for _ in range(200):
            began_s = time.monotonic()
            assert isinstance(dealer.ask(control.Beat(1, [])), control.Alive)
            took_s.append(time.monotonic() - began_s)
    for one in idle:
        one.close()
    for stranger in strangers:
        stranger.context.destroy(linger=0)
    assert sorted(took_s)[197] < patience(0.1), "the 99th percentile"
    wait_for(lambda: "unknown_key at control by a stranger" in lab.log.read_text(), "they are counted and logged")


def test_a_server_key_that_others_may_read_is_not_used(lab: Lab) -> None:
    server = lab.keys.path / "server.json"
    server.chmod(0o644)
    words = [*TELEFABRIC, "broker", "--listen", f"tcp://127.0.0.1:{free_ports()}", "--data", str(lab.data)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=patience(20), check=False)
    assert done.returncode == 1
    assert f"others may read {server}" in done.stderr
    assert f"chmod 600 {server}" in done.stderr


def test_the_spool_of_a_revoked_key_is_delivered_by_another_that_covers_its_run(lab: Lab) -> None:
    lab.join("ada", Role.WORKER, "sweep-*")
    lab.join("bob", Role.WORKER, "sweep-*")
    lab.revoke("ada")
    assert "refuses this key, which was revoked" in lab.work("ada", "sweep-1", flush_s=3)
    assert lab.stored("sweep-1") == 0
    done = subprocess.run(
        [*TELEFABRIC, "spool", "drain", "--spool", str(lab.spool), "--connect", "bob"], capture_output=True, text=True,
        timeout=patience(60), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert lab.stored("sweep-1") == 12


def test_the_store_keeps_the_key_that_carried_a_stream_last(lab: Lab) -> None:
    """Of a stream that a key began to deliver, and that another one ended when the first was revoked."""
    lab.join("ada", Role.WORKER)
    lab.join("bob", Role.WORKER)
    lab.join("clara", Role.CLIENT)

    def carriers() -> list[str | None]:
        with RemoteReader(lab.owner.dialled, timeout_s=patience(5)) as reader:
            return [one.carrier for one in reader.streams("walk")]

    worker = connect("ada", run="walk", spool=lab.spool, exit_flush_s=1)
    worker.metric("loss", 0.5)
    assert worker.flush(patience(20))
    assert carriers() == ["ada"]

    def streams() -> list[Any]:
        return list(ask_status(lab.owner.dialled, patience(5)).status["streams"])

    assert [one["carrier"] for one in streams()] == ["ada"]
    lab.revoke("ada")
    wait_for(lambda: not streams(), "the key is not admitted any more")
    worker.metric("loss", 0.4)
    worker.close()
    done = run("spool", "drain", "--spool", str(lab.spool), "--connect", "bob")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: carriers() == ["bob"], "the other key is in the file")
    assert json.loads(run("runs", "show", "walk", "--connect", "clara", "--json").stdout)["carriers"] == ["bob"]
    assert "keys        bob" in run("runs", "show", "walk", "--store", str(lab.data)).stdout


@pytest.mark.parametrize("has_keys", [False, True], ids=["", "which has keys of its own"])
def test_history_of_a_store_on_another_machine_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_keys: bool
) -> None:
    """Clients dial the broker's machine, on which the store is not."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TELEFABRIC_REQUIRED", "archive")
    port, here, there = free_ports(), tmp_path / "here", tmp_path / "there"
    keys = KeyFolder(here)
    owner = keys.init(f"tcp://127.0.0.1:{port}")
    record = TicketRecord("rig", Role.STORE, now(), now().replace(year=2100))
    if has_keys:
        KeyFolder(there).init("tcp://127.0.0.1:7750")
    broker = [*TELEFABRIC, "broker", "--listen", f"tcp://127.0.0.1:{port}", "--data", str(here)]
    store = [*TELEFABRIC, "store", "--connect", "rig", "--name", "archive", "--data", str(there)]
    with Service(broker), ExitStack() as stack:
        join_and_save(keys.invite(record, owner.dialled), timeout_s=patience(10))
        stack.enter_context(Service([*store, "--query", f"tcp://127.0.0.1:{free_ports()}"]))
        wait_for(lambda: not ask_status(owner.dialled, patience(5)).status["absent"], "the store is attached")
        with pytest.raises(Unreachable, match=r"stores elsewhere \(archive\), and questions go to a store on its own"):
            RemoteReader(owner.dialled, timeout_s=patience(5))
        answered = run("dump", "--store", str(there))
        assert (answered.returncode, answered.stdout) == (0, ""), "the file is read where it is"


def test_a_ticket_in_the_environment_is_enough_and_its_keys_end_with_the_work(lab: Lab) -> None:
    record = TicketRecord("batch", Role.WORKER, now(), now() + timedelta(hours=1), "sweep-*", reusable=True)
    ticket = lab.keys.invite(record, Address.parse(lab.url)).encode()
    assert [lab.work("", f"sweep-{number}", ticket=ticket) for number in (1, 2)] == ["", ""]
    assert lab.stored("sweep-1") == lab.stored("sweep-2") == 12
    assert saved_connections.names() == [], "nothing is saved"
    keys = [key for key in lab.keys.registry().current().keys.values() if key.role is Role.WORKER]
    assert [key.name for key in keys] == ["batch-1", "batch-2"]
    assert all(not key.is_live(now()) for key in keys), "they have done what they were made for"
    lab.revoke("batch")
    complaint = lab.work("", "sweep-3", flush_s=5, ticket=ticket)
    assert "the ticket for batch was revoked on" in complaint
    assert ticket not in complaint + lab.log.read_text()


def test_all_goes_on_by_itself_when_the_broker_was_killed(lab: Lab) -> None:
    lab.join("ada", Role.WORKER)
    client = lab.join("bob", Role.CLIENT)
    with LiveSubscription(client, name="bob") as subscription:
        wait_for(lambda: (subscription.poll(0.05), subscription.deliveries)[1], "the broker's ticks come")
        instance = subscription.instance
        lab.service.kill()
        lab.service.start()
        assert lab.work("ada", "run") == ""
        wait_for(lambda: (subscription.poll(0.05), subscription.instance not in (None, instance))[1], "it is back")
    assert lab.stored("run") == 12


def test_a_new_server_key_is_learnt_by_those_who_are_there_and_nothing_is_lost(lab: Lab) -> None:
    client, away = lab.join("bob", Role.CLIENT), lab.join("zoe", Role.CLIENT)
    lab.join("ada", Role.WORKER)
    saved_connections.save("zoe-away", replace(saved_connections.load("zoe"), public="z" * 40))  # nobody tells it
    with LiveSubscription(client, name="bob") as subscription, RemoteReader(client, timeout_s=patience(5)) as reader:
        wait_for(lambda: (subscription.poll(0.05), subscription.deliveries)[1], "the broker's ticks come")
        instance = subscription.instance
        lab.keys.rotate(now() + timedelta(seconds=3))
        running = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("0.1", "0.6"), "ada", "run", str(lab.spool), str(patience(20))]
        )
        wait_for(lambda: (subscription.poll(0.05), saved_connections.load("bob").next_server)[1], "it is learnt", 10)
        wait_for(lambda: (subscription.poll(0.05), subscription.instance not in (None, instance))[1], "it goes on", 30)
        assert running.wait(patience(60)) == 0
        wait_for(lambda: lab.stored("run") == 12, "all is stored")
        wait_for(lambda: {one.run_id for one in reader.runs()} == {"run"}, "questions are answered again")
    words = [*TELEFABRIC, "status", "--connect"]
    assert subprocess.run([*words, "bob"], check=False, timeout=patience(30)).returncode == 0
    told = subprocess.run([*words, "zoe-away"], check=False, timeout=patience(30), capture_output=True, text=True)
    assert "has another server key than this key names" in told.stderr
    assert "ask for a new ticket" in told.stderr
    assert lab.keys.server().public != away.keys.server
    assert lab.join("eve", Role.CLIENT).keys.server == lab.keys.server().public


def test_beyond_loopback_nothing_listens_without_keys(tmp_path: Path) -> None:
    words = [*TELEFABRIC, "broker", "--listen", f"tcp://*:{free_ports()}", "--data", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=patience(20), check=False)
    assert done.returncode == 2
    assert "make them with telefabric keys init" in done.stderr


def test_a_saved_connection_is_named_wherever_a_broker_is(lab: Lab) -> None:
    lab.join("bob", Role.CLIENT)
    saved_connections.save("lab", lab.owner)
    for words in (["status"], ["tail", "--no-follow"], ["dump"]):
        done = subprocess.run(
            [*TELEFABRIC, *words, "--connect", "bob"], capture_output=True, text=True, timeout=patience(60), check=False
        )
        assert done.returncode == 0, done.stderr
    wrong = subprocess.run(
        [*TELEFABRIC, "status", "--connect", "nowhere"],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "or the name of a saved connection (telefabric join)" in wrong.stderr


class Dealer:
    """A control socket that says what it is told to."""

    def __init__(self, address: Address) -> None:
        self.context: Any = zmq.Context()
        self._socket: Any = dial(self.context, zmq.DEALER, address.keys)
        self._socket.connect(address.url)

    def ask(self, message: control.Message) -> control.Message:
        self.say(control.encode(message))
        answer = self.hear(patience(10))
        assert answer is not None
        return answer

    def say(self, data: bytes) -> None:
        self._socket.send(data)

    def hear(self, timeout_s: float) -> control.Message | None:
        return control.decode(self._socket.recv(), 1 << 23) if self._socket.poll(int(timeout_s * 1000)) else None

    def __enter__(self) -> Dealer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.destroy(linger=0)


def hello(stream: bytes, run: str) -> control.Hello:
    return control.Hello(control.PROTOCOL, control.StreamInfo(stream, run, "worker", "agent", 1), 1, 0)
