"""A data connection that is broken without a word, while the control connection is well, is made anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faultproxy import FaultProxy, Garble
from processes import PORTS, broker, free_ports, store

from telefabric.broker.service import OFFSET_DATA
from telefabric_workers import Worker, connect

HOST = "127.0.0.2"
RENEWED_S = 20.0
"""Some of the 5 s that acknowledgements may be missing, and what a busy machine takes."""
pytestmark = pytest.mark.timeout(90)


@contextmanager
def linked(folder: Path, garble: Garble | None = None) -> Iterator[tuple[FaultProxy, Worker, int]]:
    """A worker behind a proxy, and the port of its data connection."""
    port = free_ports()
    with FaultProxy(HOST, range(port, port + PORTS), seed=1) as proxy, broker(port), store(port, folder):
        proxy.garble = garble
        with connect(f"tcp://{HOST}:{port}", run="run", spool=folder / "spool", exit_flush_s=1.0) as worker:
            yield proxy, worker, port + OFFSET_DATA


def test_a_subscription_that_was_garbled_on_the_way_is_made_anew(tmp_path: Path) -> None:
    garbled = []

    def once(number: int, port: int, chunk: bytes) -> bytes:
        if garbled or b"\x09SUBSCRIBE" not in chunk:
            return chunk
        garbled.append(number)
        return chunk.replace(b"SUBSCRIBE", b"SUBSCRIBD")

    with linked(tmp_path, once) as (_, worker, _port):
        worker.metric("loss", 0.5)
        assert worker.flush(RENEWED_S)
        assert garbled


def test_a_connection_that_delivers_nothing_any_more_is_made_anew(tmp_path: Path) -> None:
    with linked(tmp_path) as (proxy, worker, data_port):
        worker.metric("loss", 0.5)
        assert worker.flush(RENEWED_S)
        last = proxy.connections
        proxy.garble = lambda number, port, chunk: b"" if port == data_port and number <= last else chunk
        worker.metric("loss", 0.4)
        assert worker.flush(RENEWED_S)
