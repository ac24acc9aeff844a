"""A message at a ROUTER comes with the principal that its connection proved."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any, cast

import zmq
from processes import wait_for
from slowness import patience

from telefabric.address import Address, ClientKeys
from telefabric.keys.core.registry import Key
from telefabric.keys.core.roles import Domain, Role
from telefabric.keys.gate import Gate, now
from telefabric.keys.key_folder import KeyFolder
from telefabric.keys.pairs import make_pair
from telefabric.peer.connection import dial
from telefabric.peer.core.principal import LOCAL_USERS, Peer, Principal
from telefabric.peer.listener import Guard, Heard, bind, hear, listener, published


def speak(context: Any, router: Any, keys: ClientKeys | None = None) -> Any:
    """A peer that has sent one message to the router."""
    peer = dial(context, zmq.DEALER, keys)
    peer.set(zmq.ROUTING_ID, b"me")
    peer.connect(bind(router, Address("127.0.0.1", 0)).url)
    peer.send(b"hello")
    return peer


def heard(router: Any, guard: Guard) -> Heard:
    def look() -> Heard | None:
        if guard.gate is not None:
            guard.gate.tend()
        return hear(router, guard)

    found = wait_for(look, "the message is heard", patience(5))
    assert found is not None
    assert [frame.bytes for frame in found.frames] == [b"hello"]
    return found


def test_without_keys_all_are_local_users_who_may_do_everything() -> None:
    guard = Guard(None, Domain.CONTROL)
    with zmq.Context() as context, listener(context, zmq.ROUTER, guard) as router:
        assert hear(router, guard) is None
        with speak(context, router):
            assert heard(router, guard).peer == Peer(b"me", LOCAL_USERS)


def test_the_principal_is_the_owner_of_the_key(tmp_path: Path) -> None:
    folder, pair = KeyFolder(tmp_path), make_pair()
    folder.init("tcp://127.0.0.1:7750")
    folder.registry().change(lambda one: (one.add(pair.public, Key("alice", Role.WORKER, now(), "a*")), None))
    with zmq.Context() as context, zmq.Context() as other:
        gate = Gate(context, folder)
        guard = Guard(gate, Domain.CONTROL)
        with listener(context, zmq.ROUTER, guard) as router:
            keys = ClientKeys(folder.server().public, *pair)
            with speak(other, router, keys):
                assert heard(router, guard).peer == Peer(b"me", Principal("alice", Role.WORKER, "a*"))
        context.destroy(linger=0)


def test_a_batch_without_keys_is_of_local_users() -> None:
    guard = Guard(None, Domain.DATA)
    with (
        zmq.Context() as context,
        listener(context, zmq.SUB, guard) as subscriber,
        context.socket(zmq.PUB) as publisher,
    ):
        subscriber.subscribe(b"")
        publisher.connect(bind(subscriber, Address("127.0.0.1", 0)).url)

        def arrives() -> list[Any]:
            publisher.send_multipart([b"topic", b"batch"])
            return list(published(subscriber, guard, 1))

        assert wait_for(arrives, "a batch arrives") == [(LOCAL_USERS, [b"topic", b"batch"])]


def test_a_flood_of_what_is_refused_leaves_the_loop_its_turn() -> None:
    """In which the one who sends it is cut off."""

    class Flooded:
        def recv_multipart(self, flags: int, *, copy: bool) -> list[zmq.Frame]:
            return [zmq.Frame(b"peer"), zmq.Frame(b"message")]

    class Closed:
        def key_of(self, frame: zmq.Frame, domain: Domain) -> None:
            return None

    router, gate = cast("Any", Flooded()), cast("Any", Closed())
    assert hear(router, Guard(gate, Domain.CONTROL)) is None


def test_a_port_that_somebody_is_about_to_let_go_of_is_waited_for() -> None:
    """As after a kill of `telefabric up`, whose broker ends by itself."""
    with zmq.Context() as context, socket.create_server(("127.0.0.1", 0)) as holder:
        address = Address("127.0.0.1", holder.getsockname()[1])
        threading.Timer(0.2, holder.close).start()
        with listener(context, zmq.ROUTER) as router:
            assert bind(router, address) == address
