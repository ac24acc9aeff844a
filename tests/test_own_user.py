"""Without keys only the user of the broker edits and attaches as the store; every local user publishes and reads."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import broker, free_ports, run, store, wait_for
from skips import requires
from slowness import patience

from telefabric import Address, UsageError, ask_edit
from telefabric.address import ClientKeys
from telefabric.peer import own_socket
from telefabric.subscribe import DurableSubscription
from telefabric_workers import connect

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
pytestmark = requires("sockets that are files", own_socket.SUPPORTED)

ANOTHER = """
import fcntl, json, os, pwd, resource, sys, time
from pathlib import Path
import zmq
from telefabric import Address, ask_edit
from telefabric.errors import TelefabricError
from telefabric.subscribe import DurableSubscription
from telefabric.subscribe.durable import Owner
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.wire import control
from telefabric_workers import connect
import telefabric_workers.frames.fastlane, telefabric.uplink.link, telefabric.uplink.orphans
os.setgroups([]); os.setgid(65534); os.setuid(65534)
url, spool, socket_path = sys.argv[1:]
"""
"""Another user of the machine; the checkout may be out of its reach, so everything is imported before."""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with room for a socket's path in it, which lies in no folder that is closed to other users."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder)


@pytest.fixture
def port() -> Iterator[int]:
    port = free_ports()
    yield port
    own_socket.path_for(Address("127.0.0.1", port)).unlink(missing_ok=True)


def status(port: int) -> dict[str, Any]:
    return dict(json.loads(run("status", "--json", "--connect", f"tcp://127.0.0.1:{port}").stdout))


def attached(port: int) -> bool:
    return status(port)["absent"] == []


def as_another(code: str, port: int, spool: Path, *, patience_s: float = 60) -> str:
    """What it printed."""
    path = own_socket.path_for(Address("127.0.0.1", port))
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER + code, f"tcp://127.0.0.1:{port}", str(spool), str(path)],
        capture_output=True, text=True, timeout=patience(patience_s), check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def record(port: int, folder: Path) -> None:
    with connect(f"tcp://127.0.0.1:{port}", run="walk", spool=folder / "spool", exit_flush_s=patience(30)) as worker:
        worker.step(episode=0, step=0)
        assert worker.flush(patience(30))


def test_the_store_attaches_and_edits_are_done_with_the_address_alone(port: int, tmp_path: Path) -> None:
    with broker(port), store(port, tmp_path):
        wait_for(lambda: attached(port), "the store is attached")
        record(port, tmp_path)
        for host in ("127.0.0.1", "localhost"):
            told = ask_edit(Address(host, port), "tag", "walk", host, timeout_s=patience(20))
            assert told == f"run 'walk' has the tag '{host}'"
        assert status(port)["dropped"] == {}, "nothing had to be refused before"
        path = own_socket.path_for(Address("127.0.0.1", port))
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_broker_that_ends_leaves_no_socket(port: int) -> None:
    with broker(port) as one:
        path = own_socket.path_for(Address("127.0.0.1", port))
        assert path.exists()
        one.stop()
        assert not path.exists()


@requires("another user to be", IS_ROOT)
def test_another_user_of_the_machine_publishes_and_reads_and_neither_edits_nor_attaches(
    port: int, short: Path, tmp_path: Path
) -> None:
    short.chmod(0o777)
    with broker(port), store(port, tmp_path):
        wait_for(lambda: attached(port), "the store is attached")
        told = as_another(
            """
class Loud(Owner):
    def refused(self, reason): print("attach:", reason, flush=True)
    def attached(self, instance): print("ATTACHED")
with connect(url, run="theirs", spool=spool, exit_flush_s=60) as worker:
    worker.step(episode=0, step=0)
    print("published", worker.flush(60))
address = Address.parse(url)
with RemoteReader(address) as reader:
    print("read", [run.run_id for run in reader.runs()])
for command, value in (("tag", "x"), ("delete", None)):
    try: print("EDITED", ask_edit(address, command, "theirs", value, timeout_s=20))
    except TelefabricError as error: print("edit:", error)
taker = DurableSubscription(address, name="store", held=lambda stream: 0, required=True, owner=Loud())
until = time.monotonic() + 60
while not taker.refusal and time.monotonic() < until: taker.poll(0.05)
exporter = DurableSubscription(address, name="exporter", held=lambda stream: 0)
while not exporter.attached and time.monotonic() < until: exporter.poll(0.05)
print("exports", exporter.attached)
direct = zmq.Context().socket(zmq.DEALER)
direct.connect("ipc://" + socket_path)
direct.send(control.encode(control.StatusRequest()))
print("direct", direct.poll(500), flush=True)
os._exit(0)
""",
            port,
            short,
        )
        lines = told.splitlines()
        assert lines[:2] == ["published True", "read ['theirs']"]
        remedy = "or make keys with telefabric keys init"
        assert [line.partition(":")[0] for line in lines[2:5]] == ["edit", "edit", "attach"], told
        for line, what in zip(lines[2:5], ("edit runs", "edit runs", "attach as 'store'"), strict=True):
            assert f"only the user that runs the broker may {what}" in line
            assert line.endswith(remedy)
        assert lines[5:] == ["exports True", "direct 0"]
        assert status(port)["dropped"].get("other_user", 0) >= 3
        assert attached(port)
        listed = json.loads(run("runs", "show", "theirs", "--json", "--connect", f"tcp://127.0.0.1:{port}").stdout)
        assert listed["tags"] == []


@requires("another user to be", IS_ROOT)
def test_another_user_is_told_apart_even_where_the_folder_lets_it_in(
    port: int, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system names the user at the other end, and no message can."""
    short.chmod(0o755)
    monkeypatch.setenv("TELEFABRIC_RING", str(short))
    with broker(port):
        path = own_socket.path_for(Address("127.0.0.1", port))
        path.parent.chmod(0o755)
        path.chmod(0o777)
        as_another(
            """
direct = zmq.Context().socket(zmq.DEALER)
direct.connect("ipc://" + socket_path)
for message in (control.Attach(1, "store"), control.Edit(bytes(16), "tag", "walk")):
    direct.send(control.encode(message))
time.sleep(1)
""",
            port,
            short,
        )
        wait_for(lambda: status(port)["dropped"].get("other_user") == 2, "both are refused and counted")
        assert status(port)["absent"] == ["store"]


def test_a_socket_that_a_killed_broker_left_is_no_obstacle(port: int, tmp_path: Path) -> None:
    with broker(port) as one, store(port, tmp_path):
        wait_for(lambda: attached(port), "the store is attached")
        record(port, tmp_path)
        one.kill()
        path = own_socket.path_for(Address("127.0.0.1", port))
        assert path.exists()
        assert own_socket.control_url(Address("127.0.0.1", port)).startswith("tcp:")
        one.start()
        wait_for(lambda: attached(port), "the store is back")
        assert "has the tag" in ask_edit(Address("127.0.0.1", port), "tag", "walk", "x", timeout_s=patience(20))


def test_a_store_that_comes_before_the_broker_finds_it(port: int, tmp_path: Path) -> None:
    with store(port, tmp_path), broker(port):
        wait_for(lambda: attached(port), "the store is attached")


def test_a_socket_that_somebody_removed_is_made_again(port: int, tmp_path: Path) -> None:
    with broker(port), store(port, tmp_path):
        wait_for(lambda: attached(port), "the store is attached")
        record(port, tmp_path)
        path = own_socket.path_for(Address("127.0.0.1", port))
        path.unlink()
        wait_for(path.exists, "it is there again")
        assert "has the tag" in ask_edit(Address("127.0.0.1", port), "tag", "walk", "x", timeout_s=patience(20))


def test_a_folder_whose_path_is_too_long_for_a_socket_is_left_for_a_shorter_one(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("f" * 120)
    monkeypatch.setenv("TELEFABRIC_RING", str(long))
    path = own_socket.path_for(Address("127.0.0.1", port))
    assert not path.is_relative_to(long)
    assert len(os.fsencode(path)) <= 107
    with broker(port), store(port, tmp_path):
        wait_for(lambda: attached(port), "the store is attached")
        assert path.exists()
    path.unlink(missing_ok=True)


def test_the_longest_path_that_fits_is_used(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address("127.0.0.1", port)
    monkeypatch.setenv("TELEFABRIC_RING", "/x")
    room = 107 - len(os.fsencode(own_socket.path_for(address)))
    for more, fits in ((room, True), (room + 1, False)):
        monkeypatch.setenv("TELEFABRIC_RING", "/x" + "y" * more)
        assert str(own_socket.path_for(address)).startswith("/xy") is fits


def test_a_folder_that_others_can_enter_or_own_is_not_trusted(
    port: int, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else could have made it first, with a socket that takes a store's events."""
    monkeypatch.setenv("TELEFABRIC_RING", str(short))
    address = Address("127.0.0.1", port)
    monkeypatch.setattr(own_socket, "_is_served", lambda path: True)
    folder = own_socket.path_for(address).parent
    assert own_socket.control_url(address) == address.url, "there is none"
    folder.mkdir(mode=0o700)
    assert own_socket.control_url(address).startswith(f"ipc://{folder}")
    folder.chmod(0o755)
    assert own_socket.control_url(address) == address.url
    folder.chmod(0o700)
    if IS_ROOT:
        os.chown(folder, 65534, 65534)
        assert own_socket.control_url(address) == address.url
        with pytest.raises(AssertionError, match="did not become ready"):
            broker(port).start()


def test_a_system_without_such_sockets_gets_the_sentence(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_socket, "SUPPORTED", False)
    address = Address("127.0.0.1", port)
    taker = DurableSubscription(address, name="store", held=lambda stream: 0, required=True)
    with broker(port):
        with pytest.raises(UsageError, match="only the user that runs the broker may edit runs"):
            ask_edit(address, "tag", "walk", "x", timeout_s=patience(20))
        wait_for(lambda: (taker.poll(0.05), taker.refusal)[1], "it is refused")
    assert "only the user that runs the broker may attach as 'store'" in taker.refusal
    taker.close()


def test_with_keys_the_address_is_dialled(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_socket, "_is_served", lambda path: True)
    address = Address("127.0.0.1", port)
    assert own_socket.control_url(address) != address.url
    assert own_socket.control_url(address._replace(keys=ClientKeys("s", "p", "k"))) == address.url
