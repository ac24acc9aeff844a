"""Several hosts on this machine: network namespaces, with a cable each to a switch in a namespace of its own.

Nothing of the machine's own network is touched. On each host all are known by their names, ``NAME.example.org``, also
when they move. `Service(host.inside(command))` of `processes` runs a service there, ``run``, ``start`` what else.

The file is also the program of a slow line: ``python hosts.py ADDRESS TO DELAY_S PORT…``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_NETWORK = ipaddress.ip_network("10.77.0.0/24")
_CARD = "eth0"
_CHUNK_BYTES = 65_536
_numbers = itertools.count()
_connections: set[object] = set()
"""Of the slow line: asyncio itself would let those vanish that wait for ever."""


def why_not() -> str:
    """Why this machine lets us have no hosts; empty when it does."""
    missing = [program for program in ("ip", "nft") if shutil.which(program) is None]
    if missing:
        return f"{' and '.join(missing)}, to make hosts of network namespaces"
    name = f"telefabric-{os.getpid()}-probe"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces: {tried.stderr.strip()}"
    _ip("netns", "delete", name)
    return ""


class Network:
    """A context manager: hosts, and the switch between them. Afterwards nothing that ran there is left."""

    def __init__(self) -> None:
        self._prefix = f"telefabric-{os.getpid()}-{next(_numbers)}"
        self._switch = f"{self._prefix}-switch"
        self._hosts: list[Host] = []
        self._addresses = _NETWORK.hosts()
        self._names = Path(tempfile.gettempdir(), f"{self._prefix}-hosts")

    def __enter__(self) -> Network:
        _remove_left_behind()
        self._name_hosts()
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        return self

    def __exit__(self, *exception: object) -> None:
        for host in self._hosts:
            host.remove()
        _ip("netns", "delete", self._switch)
        self._names.unlink()

    def _name_hosts(self) -> None:
        """In place, as the file is mounted where something runs."""
        named = "".join(f"{host.address} {host.name}\n" for host in self._hosts)
        self._names.write_text(f"127.0.0.1 localhost\n{named}")

    def move(self, host: Host) -> None:
        """Give it another address; connections from and to the old one hear nothing of it."""
        host.take_address(self.address())
        self._name_hosts()

    def host(self, name: str) -> Host:
        """A new one, which all others reach."""
        port = f"port{len(self._hosts)}"
        host = Host(f"{self._prefix}-{name}", f"{name}.example.org", self._switch, port, self.address(), self._names)
        self._hosts.append(host)
        self._name_hosts()
        return host

    def address(self) -> str:
        """One that no host has yet."""
        return str(next(self._addresses))

    def slow_line(self, to: Host, ports: Sequence[int], *, delay_s: float = 0.05) -> Host:
        """A host whose ports lead to those of another one: what passes is late by `delay_s` each way."""
        relay = self.host(f"relay{len(self._hosts)}")
        words = [__file__, relay.address, to.name, str(delay_s), *map(str, ports)]
        process = relay.start([sys.executable, *words], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return relay


class Host:
    """One namespace. Made by `Network.host`."""

    def __init__(self, namespace: str, name: str, switch: str, port: str, address: str, names: Path) -> None:
        self.namespace = namespace
        self.name = name
        self.address = address
        self._switch = switch
        self._port = port
        self._names = names
        self._started: list[subprocess.Popen[bytes]] = []
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("link", "add", _CARD, "netns", namespace, "type", "veth", "peer", "name", port, "netns", switch)
        _ip("-n", switch, "link", "set", port, "master", "switch", "up")
        self.take_address(address)
        _ip("-n", namespace, "link", "set", _CARD, "up")

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command that runs this one here, as a process of the same number."""
        named = ["sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self._names)]
        return ["ip", "netns", "exec", self.namespace, *named, *command]

    def run(self, command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        given = {"capture_output": True, "text": True, "timeout": 60, **options}
        return subprocess.run(self.inside(command), check=False, **given)  # type: ignore[call-overload, no-any-return]

    def start(self, command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """What still runs when the network ends is killed."""
        process = subprocess.Popen(self.inside(command), **options)  # type: ignore[call-overload]
        self._started.append(process)
        return process  # type: ignore[no-any-return]

    def down(self) -> None:
        """Pull the cable out."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def up(self) -> None:
        _ip("-n", self._switch, "link", "set", self._port, "up")

    def lose(self, percent: int) -> None:
        """Of the packets that come and go from now on so many vanish, 99 at most."""
        self.keep()
        chains = "".join(
            f"chain {way} {{ type filter hook {way} priority 0; "
            f'{name} "{_CARD}" numgen random mod 100 < {percent} counter drop; }}\n'
            for way, name in (("input", "iifname"), ("output", "oifname"))
        )
        self._nft(f"table inet loss {{\n{chains}}}\n")

    def only_ports(self, ports: Sequence[int]) -> None:
        """A firewall, in place of the last: from outside nothing but these TCP ports can be reached."""
        listed = ", ".join(map(str, ports))
        self._nft(
            "add table inet wall\ndelete table inet wall\n"
            "table inet wall {\nchain input { type filter hook input priority 1; ct state established accept; "
            f'iifname "{_CARD}" tcp dport {{ {listed} }} accept; iifname "{_CARD}" drop; }}\n}}\n'
        )

    def keep(self) -> None:
        """Lose no more packets."""
        self._nft("add table inet loss\ndelete table inet loss\n")

    def lost(self) -> int:
        """How many packets vanished since `lose`."""
        shown = self.run(["nft", "list", "table", "inet", "loss"]).stdout.split()
        return sum(int(shown[at + 1]) for at, word in enumerate(shown) if word == "packets")

    def kill_all(self) -> None:
        """kill -9 to whatever runs here, as a power cut does; who started it waits for it."""
        there = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
        for pid in map(int, there.stdout.split()):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)

    def listening(self) -> set[tuple[str, int]]:
        """Address and port of each TCP socket to which somebody may connect."""
        lines = self.run(["ss", "--no-header", "--numeric", "--listening", "--tcp"]).stdout.splitlines()
        ends = [line.split()[3].rpartition(":") for line in lines]
        return {(address, int(port)) for address, _, port in ends}

    def remove(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        self.kill_all()
        _ip("netns", "delete", self.namespace)

    def take_address(self, address: str) -> None:
        """In place of the one before."""
        _ip("-n", self.namespace, "address", "flush", "dev", _CARD)
        self.address = address
        _ip("-n", self.namespace, "address", "add", f"{address}/{_NETWORK.prefixlen}", "dev", _CARD)

    def _nft(self, script: str) -> None:
        subprocess.run(self.inside(["nft", "-f", "-"]), input=script, text=True, check=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _remove_left_behind() -> None:
    """Namespaces of test runs that were killed."""
    for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines():
        name = line.split()[0]
        project, _, rest = name.partition("-")
        if project == "telefabric" and not Path("/proc", rest.partition("-")[0]).exists():
            subprocess.run(["ip", "netns", "delete", name], check=False)


# -- the slow line -----------------------------------------------------------------------------------------------
async def _slow_line(address: str, to: str, delay_s: float, ports: Sequence[int]) -> None:
    for port in ports:
        await asyncio.start_server(lambda r, w, port=port: _connection(r, w, to, port, delay_s), address, port)  # type: ignore[misc]
    print("ready", flush=True)
    await asyncio.Event().wait()


async def _connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: str, port: int, delay_s: float
) -> None:
    """Both ways until either ends."""
    try:
        there, back = await asyncio.open_connection(to, port)
    except OSError:  # nobody listens there: so does nobody here
        writer.transport.abort()
        return
    task = asyncio.current_task()
    _connections.add(task)
    try:
        async with asyncio.TaskGroup() as ways:
            ways.create_task(_pass(reader, back, delay_s))
            ways.create_task(_pass(there, writer, delay_s))
    except* OSError:
        pass  # one end has gone
    finally:
        _connections.discard(task)
        for end in (writer, back):
            end.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Late, but as much of it as comes."""
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1_000)

    async def deliver() -> None:
        while (late := await on_the_way.get())[1]:
            await asyncio.sleep(late[0] - time.monotonic())
            writer.write(late[1])
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async with asyncio.TaskGroup() as delivering:
        delivering.create_task(deliver())
        chunk = b"begin"
        while chunk:
            chunk = await reader.read(_CHUNK_BYTES)
            await on_the_way.put((time.monotonic() + delay_s, chunk))


if __name__ == "__main__":
    asyncio.run(_slow_line(sys.argv[1], sys.argv[2], float(sys.argv[3]), list(map(int, sys.argv[4:]))))
