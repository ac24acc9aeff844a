"""A run whose worker is gone is lost, whatever still runs is not, and one that speaks again is revived."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest
from processes import Service, broker, free_ports, store, wait_for

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.core.state import StreamState
from telefabric.limits import NS
from telefabric.peer.core.principal import LOCAL_USERS, Peer
from telefabric.peer.requests import ask_status
from telefabric.store.file.database import FILE_NAME, open_reader
from telefabric.wire.control import StreamInfo

pytestmark = pytest.mark.timeout(120)
LOST_AFTER_S = 6


class Fabric:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports()
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.broker = broker(self.port)
        self.store = store(self.port, folder, "--lost-after-s", str(LOST_AFTER_S), stderr=folder / "store.log")

    def worker(self, name: str, *options: object) -> Service:
        script = str(Path(__file__).with_name("emitter.py"))
        spool = str(self.folder / "spool")
        words = [self.url, self.folder / name, "--spool", spool, "--run", name, "--rate", 200, *options]
        return Service([sys.executable, script, *map(str, words)])

    def stored(self, run_id: str) -> tuple[str, str | None] | None:
        """Status and reason of a run."""
        connection = open_reader(self.folder / FILE_NAME)
        try:
            return connection.execute("SELECT status, reason FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        finally:
            connection.close()

    def state(self, run_id: str) -> str | None:
        """As the broker says; None when it does not know the run any more."""
        streams = ask_status(Address.parse(self.url)).status["streams"]
        return next((stream["state"] for stream in streams if stream["run_id"] == run_id), None)


def test_running_stalled_lost_and_revived(tmp_path: Path) -> None:
    fabric = Fabric(tmp_path)
    killed, stopped, healthy = (fabric.worker(name) for name in ("killed", "stopped", "healthy"))
    with fabric.broker, fabric.store, killed, stopped, healthy:
        for name in ("killed", "stopped", "healthy"):
            wait_for(lambda name=name: fabric.state(name) == "running", f"{name} runs")
        killed.kill()
        stopped.signal(signal.SIGSTOP)
        wait_for(lambda: fabric.state("killed") == fabric.state("stopped") == "stalled", "both are stalled")
        assert fabric.state("healthy") == "running"
        wait_for(lambda: (fabric.stored("stopped") or ("",))[0] == "lost", "one is lost")
        wait_for(lambda: (fabric.stored("killed") or ("",))[0] == "lost", "the other is lost")
        status, reason = fabric.stored("killed") or ("", None)
        assert (status, reason) == ("lost", f"no word from {worker_of(fabric, 'killed')} any more")
        assert fabric.stored("healthy") == ("running", None)

        stopped.signal(signal.SIGCONT)
        wait_for(lambda: fabric.stored("stopped") == ("running", None), "it is revived in the store")
        wait_for(lambda: fabric.state("stopped") == "revived", "the broker says so, too")
        stopped.signal(signal.SIGINT)
        wait_for(lambda: (fabric.stored("stopped") or ("",))[0] in ("completed", "cancelled", "failed"), "it ended")
        assert fabric.stored("killed") == ("lost", reason)
    told = re.findall(r"store\.streams_lost .*\bstreams=(\d)", (tmp_path / "store.log").read_text())
    assert sum(map(int, told)) == 2


def worker_of(fabric: Fabric, run_id: str) -> str:
    connection = open_reader(fabric.folder / FILE_NAME)
    try:
        query = "SELECT worker_id FROM streams JOIN runs USING (run) WHERE run_id = ?"
        return str(connection.execute(query, (run_id,)).get)
    finally:
        connection.close()


def test_the_clock_and_the_round_trip_of_each_worker_are_told(tmp_path: Path) -> None:
    fabric = Fabric(tmp_path)
    with fabric.broker, fabric.store, fabric.worker("run"):
        wait_for(lambda: fabric.state("run") == "running", "it runs")

        def told() -> bool:
            (stream,) = ask_status(Address.parse(fabric.url)).status["streams"]
            return stream["round_trip_ms"] is not None

        wait_for(told, "its round trip is told")
        (stream,) = ask_status(Address.parse(fabric.url)).status["streams"]
        assert 0 < stream["round_trip_ms"] < 3_000
        assert abs(stream["clock_offset_ms"]) < 3_000


def test_a_worker_that_emits_nothing_is_idle() -> None:
    stream = StreamState(
        StreamInfo(bytes(16), "run", "worker", "agent_0", 0), Peer(b"peer", LOCAL_USERS), 1, 1, 0, open=True
    )
    idle_ns = int(limits.IDLE_AFTER_S * NS)
    for now_ns in range(NS, 2 * idle_ns, NS):
        stream.heard(now_ns, 1, 1)
        assert stream.liveness(now_ns) == ("idle" if now_ns - NS > idle_ns else "running")
    stream.heard(2 * idle_ns, 1, 2)
    assert stream.liveness(2 * idle_ns) == "running"
    stream.heard(4 * idle_ns, 1, 3)
    assert stream.liveness(4 * idle_ns) == "revived"
    stream.open = False
    assert stream.liveness(4 * idle_ns) == "waiting"
