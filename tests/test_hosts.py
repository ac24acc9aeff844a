"""The hosts of tests are as separate, and their lines as bad, as these tests want them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import hosts
import pytest
from hosts import Host, Network
from processes import wait_for
from skips import requires

pytestmark = requires(hosts.why_not() or "hosts", not hosts.why_not())
PORT = 7750
ECHO = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    while data := peer.recv(65536):
        peer.sendall(data)
"""
ASK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2) as peer:
    began = time.monotonic()
    peer.sendall(b"x" * int(sys.argv[3]))
    got = 0
    while got < int(sys.argv[3]):
        got += len(peer.recv(65536))
    print(time.monotonic() - began)
"""
PATIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as peer:
    for line in sys.stdin:
        peer.sendall(line.encode())
        print(peer.recv(100).decode().strip(), flush=True)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def server(network: Network) -> Host:
    host = network.host("server")
    process = host.start([sys.executable, "-S", "-c", ECHO, str(PORT)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return host


def asked(host: Host, address: str, size: int = 1) -> float | None:
    """How long the echo of so many bytes took; None when none came."""
    ended = host.run([sys.executable, "-S", "-c", ASK, address, str(PORT), str(size)])
    return float(ended.stdout) if ended.returncode == 0 else None


def test_hosts_reach_each_other_and_a_cut_link_cuts(network: Network, server: Host) -> None:
    desk = network.host("desk")
    assert desk.address != server.address
    assert asked(desk, server.address) is not None
    assert asked(desk, "127.0.0.1") is None, "a loopback of its own"
    patient = desk.start(
        [sys.executable, "-S", "-u", "-c", PATIENT, server.address, str(PORT)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert patient.stdin is not None
    assert patient.stdout is not None
    server.down()
    patient.stdin.write(b"held up\n")
    patient.stdin.close()
    assert asked(desk, server.address) is None
    server.up()
    assert patient.stdout.readline() == b"held up\n", "a connection outlives the cut"
    wait_for(lambda: asked(desk, server.address) is not None, "new ones can be made again")


def test_a_host_that_moves_is_reached_where_it_is(network: Network, server: Host) -> None:
    desk, before = network.host("desk"), server.address
    network.move(server)
    assert asked(desk, server.address) is not None
    assert asked(desk, server.name) is not None
    assert asked(desk, before) is None


def test_a_slow_line_is_late_and_not_narrow(network: Network, server: Host) -> None:
    desk, line = network.host("desk"), network.slow_line(server, [PORT], delay_s=0.05)
    took_s = asked(desk, line.address)
    assert took_s is not None
    assert took_s >= 0.1
    much_s = asked(desk, line.address, 1_000_000)
    assert much_s is not None
    assert much_s < 10 * took_s


def test_packets_are_lost_as_asked_for(network: Network, server: Host) -> None:
    desk = network.host("desk")
    desk.lose(99)
    assert asked(desk, server.address) is None
    assert desk.lost() > 0
    desk.lose(10)
    wait_for(lambda: asked(desk, server.address, 300_000) is not None and desk.lost(), "it gets there all the same")
    desk.keep()
    assert asked(desk, server.address) is not None


def test_a_firewall_lets_only_its_ports_pass(network: Network, server: Host) -> None:
    desk = network.host("desk")
    server.only_ports([PORT + 1])
    assert asked(desk, server.address) is None
    assert asked(server, "127.0.0.1") is not None


def test_nothing_of_a_network_is_left() -> None:
    with Network() as network:
        process = network.host("a").start(["sleep", "600"])
    assert process.returncode is not None
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert network._prefix not in listed
