"""The tap: plain topics for anybody on the broker's machine, and the subscriber on its page."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import FabricService
from processes import TELEFABRIC, Service, broker, free_ports, store, wait_for
from skips import requires
from slowness import patience

from telefabric import limits
from telefabric.address import Address
from telefabric.keys import saved_connections
from telefabric.keys.key_folder import KeyFolder
from telefabric.peer.requests import ask_status
from telefabric.wire.batch import decode_body, parse_header
from telefabric_workers import connect

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tap.md"
OBSERVATION = {"grid": [1, 2], 3: b"\x00\xff"}


@requires("a checkout, with its documentation", PAGE.exists())
def test_the_ten_lines_of_the_readme_see_every_event_of_a_run(tmp_path: Path) -> None:
    block = re.search(r"^```python\n(# tap\.py\n.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert block
    port = free_ports()
    assert block[1].count("tcp://127.0.0.1:7755") == 1
    lines = [line for line in block[1].splitlines() if line and not line.startswith(("#", "import"))]
    assert len(lines) <= 10
    (tmp_path / "tap.py").write_text(block[1].replace(":7755", f":{port + 5}"))
    printed: list[str] = []
    with broker(port), store(port, tmp_path):
        process = subprocess.Popen([sys.executable, str(tmp_path / "tap.py")], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        reading = threading.Thread(target=lambda: printed.extend(process.stdout))
        reading.start()
        try:
            with connect(f"tcp://127.0.0.1:{port}", run="first-run", spool=tmp_path / "spool") as worker:
                emit_until_heard(worker, printed)
                heard = len(printed)
                for step in range(1_000):
                    worker.step(episode=1, step=step, observation=OBSERVATION, reward=0.5)
                worker.episode(episode=1, total_reward=500.0, length=1_000)
                wait_for(lambda: any("'episode'" in line for line in printed), "the last event")
        finally:
            process.kill()
            reading.join(patience(20))
            process.stdout.close()
            process.wait(patience(20))
    assert heard
    events = [event for event in map(read_line, printed) if event[0] in ("step", "episode") and event[4] == 1]
    assert [event[5] for event in events if event[0] == "step"] == list(range(1_000))
    assert events[0][13] == OBSERVATION
    assert sum(event[0] == "episode" for event in events) == 1


def emit_until_heard(worker: Any, printed: list[str]) -> None:
    """A tap hears what is emitted after it was heard itself."""

    def look() -> bool:
        worker.step(episode=0, step=0)
        return bool(printed)

    wait_for(look, "the tap listens")


def read_line(line: str) -> Any:
    return ast.literal_eval(line)


def test_it_takes_no_more_than_it_asks_for_and_nothing_when_it_goes(fabric_service: FabricService) -> None:
    """Topics are run and kind; a listener of one kind of one run gets that alone, and its leaving ends it."""
    address = Address.parse(fabric_service.url)
    endpoint = address.resolve(ask_status(address).endpoints.tap or "")
    topics: set[bytes] = set()
    with (
        zmq.Context() as context,
        context.socket(zmq.SUB) as tap,
        fabric_service.connect(run="one") as one,
        fabric_service.connect(run="one-and-more") as other,
    ):
        tap.set(zmq.LINGER, 0)
        tap.subscribe(b"one\0episode")
        tap.connect(endpoint)

        def heard() -> bool:
            for worker in (one, other):
                worker.step(episode=0, step=0)
                worker.episode(episode=0, total_reward=0.0, length=1)
            while tap.poll(0):
                topic, message = tap.recv_multipart()
                topics.add(topic)
                assert parse_header(message)[0].stream == one.stream_id
            return bool(topics)

        wait_for(heard, "an episode comes")
        for _ in range(20):
            heard()
        assert topics == {b"one\0episode"}
        tap.unsubscribe(b"one\0episode")
        wait_for(lambda: not one._outbox._linked.feed.watched, "the worker is told")


def test_a_listener_that_never_reads_holds_nobody_up(fabric_service: FabricService) -> None:
    address = Address.parse(fabric_service.url)
    endpoint = address.resolve(ask_status(address).endpoints.tap or "")
    with zmq.Context() as context, context.socket(zmq.SUB) as deaf, fabric_service.connect(run="one") as worker:
        deaf.set(zmq.LINGER, 0)
        deaf.set(zmq.RCVHWM, 1)
        deaf.subscribe(b"")
        deaf.connect(endpoint)
        wait_for(lambda: worker._outbox._linked.feed.watched, "the worker is asked")
        for step in range(5_000):
            worker.step(episode=0, step=step, observation=os.urandom(2_000))
        assert worker.flush(patience(30))
    fabric_service.wait_for_rows(5_000, "SELECT seq FROM steps")


pytestmark = pytest.mark.timeout(90)


def test_a_watcher_is_told_that_a_stream_is_throttled_and_resumed(tmp_path: Path) -> None:
    """Without a store the backlog grows over the high mark; a store brings it below the low one."""
    port = free_ports()
    address = Address("127.0.0.1", port)
    told: list[Any] = []
    with broker(port), zmq.Context() as context, context.socket(zmq.SUB) as tap:
        tap.set(zmq.LINGER, 0)
        tap.subscribe(b"one\0control")
        tap.connect(address.resolve(ask_status(address).endpoints.tap or ""))

        def heard(state: str) -> bool:
            while tap.poll(0):
                _, message = tap.recv_multipart()
                header, start = parse_header(message)
                told.extend(record.event for record in decode_body(message[start:], header.events))
            return bool(told) and told[-1].state == state

        with connect(address.url, run="one", spool=tmp_path / "spool", exit_flush_s=patience(20)) as worker:
            for step in range(limits.THROTTLED_BYTES // 65_536 + 10):
                worker.step(episode=0, step=step, observation=bytes(65_536))
            wait_for(lambda: heard("throttled"), "it is throttled")
            with store(port, tmp_path):
                wait_for(lambda: heard("resumed"), "it is resumed")
    assert [one.state for one in told] == ["throttled", "resumed"]
    assert all(one.stream == worker.stream_id for one in told)


def test_with_keys_the_tap_is_there_when_it_is_asked_for_and_on_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    port = free_ports()
    owner = KeyFolder(tmp_path).init(f"tcp://127.0.0.1:{port}")
    saved_connections.save(owner.name, owner)
    command = [*TELEFABRIC, "up", "--listen", f"tcp://*:{port}", "--data", str(tmp_path), "--tap", "on"]
    with Service(command), zmq.Context() as context, context.socket(zmq.SUB) as tap:
        endpoint = ask_status(owner.dialled, patience(5)).endpoints.tap
        assert endpoint == f"tcp://127.0.0.1:{port + 5}"
        assert _listening(port + 5) == {"127.0.0.1"}
        assert "0.0.0.0" in _listening(port), "the others are for the network"
        tap.set(zmq.LINGER, 0)
        tap.subscribe(b"one\0")
        tap.connect(endpoint)
        with connect(owner.address, run="one", spool=tmp_path / "spool", exit_flush_s=patience(20)) as worker:

            def heard() -> bool:
                worker.metric("loss", 0.5)
                return bool(tap.poll(50))

            wait_for(heard, "the tap hears the run")


def test_the_tap_can_be_off_without_keys(tmp_path: Path) -> None:
    port = free_ports()
    with broker(port, "--tap", "off"):
        assert ask_status(Address("127.0.0.1", port)).endpoints.tap is None
        assert _listening(port + 5) == set()


def _listening(port: int) -> set[str]:
    """The addresses at which something listens on this port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = (row[1].split(":") for row in rows if row[3] == "0A")
    return {socket.inet_ntoa(bytes.fromhex(host)[::-1]) for host, number in found if int(number, 16) == port}
