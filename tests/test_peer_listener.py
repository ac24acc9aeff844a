"""A message at a ROUTER comes with the principal that its connection proved."""

import zmq
from slowness import patience

from telefabric.address import Address
from telefabric.peer.core.principal import LOCAL_USERS, Peer, Principal, Role
from telefabric.peer.listener import Heard, bind, hear, listener

ALICE = Principal("alice of the lab", Role.WORKER)


def speak(context: zmq.Context[zmq.Socket[bytes]], router: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """A peer that has sent one message to the router."""
    peer = context.socket(zmq.DEALER)
    peer.set(zmq.ROUTING_ID, b"me")
    peer.connect(bind(router, Address("127.0.0.1", 0)).url)
    peer.send(b"hello")
    return peer


def heard(router: zmq.Socket[bytes]) -> Heard:
    assert router.poll(int(1_000 * patience(5)))
    found = hear(router)
    assert found is not None
    assert [frame.bytes for frame in found.frames] == [b"hello"]
    return found


def test_without_keys_all_are_local_users_who_may_do_everything() -> None:
    with zmq.Context() as context, listener(context, zmq.ROUTER) as router:
        assert hear(router) is None
        with speak(context, router):
            assert heard(router).peer == Peer(b"me", LOCAL_USERS)


def test_the_principal_is_the_one_that_authentication_named() -> None:
    with zmq.Context() as context, listener(context, zmq.ROUTER) as router, context.socket(zmq.REP) as zap:
        zap.bind("inproc://zeromq.zap.01")
        router.set(zmq.ZAP_DOMAIN, b"control")
        with speak(context, router):
            assert zap.poll(int(1_000 * patience(5)))
            version, number, *_ = zap.recv_multipart()
            zap.send_multipart([version, number, b"200", b"OK", ALICE.user_id.encode(), b""])
            assert heard(router).peer == Peer(b"me", ALICE)
