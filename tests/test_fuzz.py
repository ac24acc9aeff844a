"""Floods and lies at every socket of a broker, beside subscribers of every policy: nothing goes down, nothing grows.

The long form is scripts/fuzz.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from fuzzing import Fuzz, Onlookers
from processes import free_ports, wait_for
from test_garbage import Fabric

from telefabric import limits
from telefabric.broker.pipes import unread_bytes

pytestmark = pytest.mark.timeout(120)

ATTACKS = [attack.__name__ for attack in Fuzz.attacks(Fuzz.__new__(Fuzz))]
LINES_MAX = 40
"""Of the log of all services for all attacks: what each part tells of its own way, and no line for a bad message."""


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fabric, Onlookers]]:
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        for name in [name for name in os.environ if name.startswith("TELEFABRIC_")]:
            environment.delenv(name)
        fabric = Fabric(free_ports(), tmp_path_factory.mktemp("fabric"))
        for service in (*fabric.services, fabric.worker):
            stack.enter_context(service)
        fabric.goes_on()
        yield fabric, stack.enter_context(Onlookers(fabric.url))
        lines = Path(fabric.log).read_text().splitlines()
        assert len(lines) < LINES_MAX, lines
        fabric.end()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_flood_or_a_lie_stops_nobody(besieged: tuple[Fabric, Onlookers], attack: str) -> None:
    fabric, onlookers = besieged
    pids = set(fabric.pids())
    fuzz = Fuzz(fabric, ATTACKS.index(attack), scale=0.5)
    getattr(fuzz, attack)()
    assert sum(fuzz.counts.values()) > 0
    fabric.undisturbed(pids)
    onlookers.check()


def test_what_was_refused_was_counted(besieged: tuple[Fabric, Onlookers]) -> None:
    """After the attacks above."""
    fabric, _ = besieged
    status = wait_for(lambda: fabric.status().status, "a status")
    for name in ("unknown_token", "status_too_often", "bad_control"):
        assert status["dropped"].get(name, 0) > 0, name
    for name in ("unknown_token", "tap_full", "bad_topic", "damaged", "inconsistent"):
        assert status["live_dropped"].get(name, 0) > 0, name


def test_what_a_peer_has_not_read_is_seen() -> None:
    """It reads nothing while it is sent as much as the system takes, and then all of it."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as peer:
        for one in (router, peer):
            one.set(zmq.LINGER, 0)
        peer.set(zmq.RCVHWM, 1)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        peer.connect(f"tcp://127.0.0.1:{port}")

        def asked() -> tuple[bytes, int]:
            peer.send(b"?")
            name, asking = router.recv_multipart(copy=False)
            return name.bytes, unread_bytes(asking)

        name, unread = asked()
        assert unread == 0
        sent = 0
        while asked()[1] <= limits.UNREAD_BYTES_MAX:
            assert sent < 200, "it is seen after some tens of megabytes at most"
            router.send_multipart([name, bytes(limits.MIB)])
            sent += 1
        for _ in range(sent):
            peer.recv()
        wait_for(lambda: asked()[1] == 0, "all is read")
