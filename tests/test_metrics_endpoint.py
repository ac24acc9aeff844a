"""The metrics endpoint under strangers: they keep no scrape waiting, end nothing, and leave nothing behind."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from processes import wait_for
from slowness import patience

from telefabric.address import Address
from telefabric.metrics.endpoint import CONNECTIONS_MAX, Endpoint, _peer
from telefabric.metrics.figures import common

SOON_S = 1.5
"""Less than the two seconds that one who says nothing is given."""
STRANGE = {
    "no request": b"garbage\r\n\r\n",
    "a long line": bytes(70_000),
    "another method": b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
    "a version that is none": b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=x\r\n\r\n",
    "many headers": b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "names that are none": b"GET /?name[]=%FF&name[]= HTTP/1.0\r\n\r\n",
}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint("broker", Address("127.0.0.1", 0), ())
    endpoint.show(common("broker", 7.0))
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def connected(endpoint: Endpoint) -> socket.socket:
    host, port = endpoint.url.removeprefix("http://").removesuffix("/metrics").split(":")
    return socket.create_connection((host, int(port)), timeout=patience(10))


def scrape(endpoint: Endpoint, timeout_s: float = SOON_S) -> str:
    with urllib.request.urlopen(endpoint.url, timeout=timeout_s) as answer:
        return str(answer.read().decode())


def answering() -> int:
    return sum("process_request" in thread.name for thread in threading.enumerate())


def test_half_open_connections_keep_no_scrape_waiting(endpoint: Endpoint) -> None:
    with ExitStack() as stack:
        for number in range(4 * CONNECTIONS_MAX):
            stranger = stack.enter_context(connected(endpoint))
            stranger.sendall(b"GET /metr" if number % 2 else b"")
        assert "telefabric_figures_time_seconds 7.0" in scrape(endpoint)
        wait_for(lambda: 0 < answering() <= CONNECTIONS_MAX, "those that are too many are hung up on", SOON_S)
    wait_for(lambda: answering() == 0, "nothing is left of them")
    assert "telefabric_figures_time_seconds 7.0" in scrape(endpoint)


def test_who_hung_up_is_told_as_an_address() -> None:
    assert _peer(("127.0.0.1", 45_622)) == "127.0.0.1:45622"
    assert _peer(("::1", 45_622, 0, 0)) == "[::1]:45622"


@pytest.mark.parametrize("strange", STRANGE)
def test_strange_requests_leave_no_word_on_stderr(
    endpoint: Endpoint, strange: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with connected(endpoint) as stranger:
        stranger.sendall(STRANGE[strange])
        assert stranger.recv(10), "an answer of whatever kind"
    assert "telefabric_figures_time_seconds 7.0" in scrape(endpoint)
    wait_for(lambda: answering() == 0, "no thread writes to what the capture takes away")
    assert capfd.readouterr().err == "", "each line there is a log event"
