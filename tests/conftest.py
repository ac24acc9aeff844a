"""Fixtures for all tests. Nothing of the machine's own configuration reaches a test."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import identity
import pytest
from hypothesis import HealthCheck, settings
from processes import wait_for
from slowness import patience

from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.store.file.database import FILE_NAME, open_reader
from telefabric.store.service import Store
from telefabric_workers import Worker, connect

PATIENCE_S = patience(30.0)
pytest_plugins = ["skips", "windows"]
identity.install()
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # its deadlines are of a machine at rest, and no promise of ours
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # nohup, a job in the background: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


gc.disable()  # until all tests are found: what is made meanwhile stays


def pytest_collection_finish(session: pytest.Session) -> None:
    """Modules and tests stay until the end, so the collector need not look at them again and again."""
    gc.freeze()
    gc.enable()


LONGEST_FIRST = (
    "test_keys_services", "test_cli_edges", "test_bad_input", "test_store_faults", "test_runs", "test_cli_read",
    "test_supervisor", "test_accounting", "test_service_manager", "test_cli_doctor", "test_broken_data_connection",
    "test_delivery", "test_worker_endings", "test_worker_callers_code", "test_kills", "test_versions",
    "test_cli_tail_from_start", "test_several_hosts", "test_readme", "test_gui_connect", "test_cli_odd", "test_worker",
)  # fmt: skip
"""The files that take longest. One that begins last would keep all others waiting for its end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files come first, and the time that a test may take in all grows with the time that it may wait."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))
    usual_s = float(config.getini("timeout") or 0)
    for item in items:
        given = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(patience(given.args[0] if given else usual_s)), append=False)


class FabricService(NamedTuple):
    """A running broker and store: where workers connect, and the store's file."""

    url: str
    file: Path
    spool: Path
    store: Store

    def connect(self, **options: Any) -> Worker:
        """A worker that is linked already, and at its end waits for as long as a busy machine may take."""
        worker = connect(self.url, **{"spool": self.spool, "exit_flush_s": PATIENCE_S, **options})
        assert worker.flush(PATIENCE_S)
        return worker

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Rows of the store, read on a connection of its own."""
        connection = open_reader(self.file)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def wait_for_rows(self, count: int, query: str, *values: Any) -> list[Any]:
        """The rows, as soon as there are so many."""

        def enough() -> list[Any]:
            found = self.rows(query, *values)
            return found if len(found) >= count else []

        return wait_for(enough, f"{count} rows of {query}")


@pytest.fixture(scope="module")
def ring_folder() -> Iterator[str]:
    """Holds the rings of the tests of one file, so that none shows those of another. Short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="tf-", ignore_cleanup_errors=True) as folder:
        yield folder


_NUMBERS = count()


@pytest.fixture(autouse=True)
def _clean_environment(
    monkeypatch: pytest.MonkeyPatch, ring_folder: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in [name for name in os.environ if name.startswith("TELEFABRIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TELEFABRIC_RING", ring_folder)
    own = f"config-{next(_NUMBERS)}"  # what the client remembers of a test is not there in the next one
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / own))
    monkeypatch.setenv("TELEFABRIC_CAPTURE", "off")  # so that metadata and events are those that a test gave
    monkeypatch.setenv("TELEFABRIC_SYSTEM_METRICS_S", "0")


@pytest.fixture
def fabric_service(tmp_path: Path) -> Iterator[FabricService]:
    """A real broker and a real store, each on a thread of this process; both have ended afterwards."""
    broker = Broker(Address("127.0.0.1", 0))
    store = Store(broker.address, tmp_path / FILE_NAME)
    threads = [threading.Thread(target=part.run, name=type(part).__name__) for part in (broker, store)]
    for thread in threads:
        thread.start()
    try:
        yield FabricService(broker.address.url, tmp_path / FILE_NAME, tmp_path / "spool", store)
    finally:
        store.stop()
        threads[1].join(patience(20))
        broker.stop()
        threads[0].join(patience(20))
        assert not any(thread.is_alive() for thread in threads)
        store.close()
