"""A question is asked again when the connection by which it went is cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq
from processes import free_ports
from slowness import patience

from telefabric.address import Address
from telefabric.peer.requests import ask_status
from telefabric.wire import control

ANSWER = control.StatusReply(bytes(16), control.Endpoints("*:1", "*:3"), {"streams": []})


@contextmanager
def broker(port: int) -> Iterator[Any]:
    """One that hears, and answers when the test does; afterwards all its connections are cut."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.set(zmq.LINGER, 0)
        router.bind(f"tcp://127.0.0.1:{port}")
        yield router


def test_a_question_that_a_broker_took_with_it_is_asked_again() -> None:
    port, answers = free_ports(), []
    asker = threading.Thread(
        target=lambda: answers.append(ask_status(Address("127.0.0.1", port), timeout_s=patience(10)))
    )
    asker.start()
    with broker(port) as one:
        assert one.poll(patience(5) * 1000)
    with broker(port) as one:
        assert one.poll(patience(5) * 1000)
        peer, question = one.recv_multipart()
        assert isinstance(control.decode(question), control.StatusRequest)
        assert not one.poll(200), "once on each connection"
        one.send_multipart([peer, control.encode(ANSWER)])
        asker.join()
    assert answers == [ANSWER]
