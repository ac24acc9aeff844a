"""Without keys, too, a socket has a number of connections at most: the newest beyond it are cut and counted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import free_ports, wait_for
from slowness import patience
from store_fixtures import Scribe

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.core.metrics import KEYS_REFUSED
from telefabric.broker.service import Broker
from telefabric.metrics.figures import Figures
from telefabric.peer.requests import ask_status
from telefabric.store.file.database import FILE_NAME
from telefabric.store.read.query_service import QueryService

MOST, LATE = 3, 2
SOCKETS = {"control": 0, "data": 1, "live": 2, "durable": 3, "query": 4, "tap": 5, "watch": 6}
Refusals = Callable[[], dict[Any, float]]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", MOST)


@contextmanager
def running(service: Broker | QueryService) -> Iterator[None]:
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        yield
    finally:
        service.stop()
        thread.join()


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[tuple[int, Refusals]]:
    """A broker and a query service without keys: the port of the former, and what both have refused."""
    port = free_ports()
    shown: dict[str, Figures] = {}
    with Scribe(tmp_path / FILE_NAME) as scribe:
        scribe.commit()
    broker = Broker(Address("127.0.0.1", port), show=lambda figures: shown.update(broker=figures))
    queries = QueryService(
        Address("127.0.0.1", port + 4), tmp_path / FILE_NAME, show=lambda figures: shown.update(query=figures)
    )

    def refused() -> dict[Any, float]:
        names = {"broker": KEYS_REFUSED, "query": "telefabric_query_keys_refused_total"}
        return {key: n for part, name in names.items() for key, n in shown.get(part, {}).get(name, {}).items()}  # type: ignore[misc]

    with running(broker), running(queries):
        yield port, refused


def is_open(connection: socket.socket) -> bool:
    """Beyond ZeroMQ's greeting, which comes at once."""
    connection.settimeout(0.05)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


@pytest.mark.parametrize("name", SOCKETS)
def test_the_newest_connections_beyond_the_limit_are_cut(fabric: tuple[int, Refusals], name: str) -> None:
    port, refused = fabric
    with ExitStack() as stack:

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port + SOCKETS[name])))

        early = [connected() for _ in range(MOST)]
        late = [connected() for _ in range(LATE)]
        wait_for(lambda: not any(map(is_open, late)), "they are cut")
        assert all(map(is_open, early))
        reason = ("too_many_connections", name, "127.0.0.1")
        wait_for(lambda: refused().get(reason) == LATE, "they are counted")
    assert set(refused()) == {reason}
    wait_for(lambda: ask_status(Address("127.0.0.1", port), patience(5)), "there is room again")
