"""A proxy that does to connections what bad networks do: one asyncio loop on a thread of its own.

It listens on another loopback host with the same port numbers: a broker names its sockets `*:port`, and its peers
take the host that they dialled, so all connections of a peer that dials this host pass here. The first port is the
broker's own; its socket for its own user has one in front of it, too.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

from slowness import patience

from telefabric.address import Address
from telefabric.files import private
from telefabric.peer import own_socket

BROKER_HOST = "127.0.0.1"
OWN = 0
"""Stands for the socket of the broker's own user, which has no port."""
HOLDING = ("latency", "bandwidth", "black_hole", "half_open")
"""What makes bytes late."""
CUTTING = ("reset", "truncate")
FAULTS = (*HOLDING, *CUTTING, "flip")
_CHUNK_BYTES = 65_536
_LATENCY_S = 0.15
_BYTES_A_SECOND = 200_000
_LOOK_S = 0.01

Garble = Callable[[int, int, bytes], bytes]
"""Of the n-th connection, to a port, a chunk on either way."""


class FaultProxy:
    """A context manager. `fault` is what happens to whatever passes from now on; None: nothing.

    Counters: `bitten`, by fault the chunks that it was done to; `held_s`, for how long by fault chunks were kept;
    `connections`, how many were made. `garble`, when it is set, says what becomes of every chunk.
    """

    def __init__(self, host: str, ports: Sequence[int], seed: int) -> None:
        self.fault: str | None = None
        self.bitten: Counter[str] = Counter()
        self.held_s: Counter[str] = Counter()
        self.connections = 0
        self.host = host
        self.garble: Garble | None = None
        self._ports = ports
        self._random = Random(seed)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"fault-proxy-{host}")

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(patience(10))
        self._loop.close()

    @contextmanager
    def doing(self, fault: str) -> Iterator[None]:
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None

    async def _listen(self) -> None:
        self._servers = [
            await asyncio.start_server(lambda r, w, port=port: self._begin(r, w, port), self.host, port)
            for port in self._ports
        ]
        self._own = own_socket.path_for(Address(self.host, self._ports[0]))
        private.make_own_folder(self._own.parent)
        self._servers.append(await asyncio.start_unix_server(lambda r, w: self._begin(r, w, OWN), self._own))

    async def _close(self) -> None:
        for server in self._servers:
            for listening in server.sockets:  # a server that is closed forgets the connections that it is taking
                self._loop.remove_reader(listening)
        self._own.unlink(missing_ok=True)
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # one of the loop's that accepts begins one of ours
        for server in self._servers:
            server.close()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        task = self._loop.create_task(self._connection(reader, writer, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: _abort(writer))  # also when it is cancelled before it begins

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        """Both ways until either ends; then neither side hears of the other any more."""
        try:
            there, back = await self._dial(port)
        except OSError:  # the broker is away: so is its proxy
            return
        self.connections += 1
        up = asyncio.create_task(self._pass(reader, back, self.connections, port, upward=True))
        down = asyncio.create_task(self._pass(there, writer, self.connections, port, upward=False))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            _abort(back)

    async def _dial(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if port != OWN:
            return await asyncio.open_connection(BROKER_HOST, port)
        return await asyncio.open_unix_connection(own_socket.path_for(Address(BROKER_HOST, self._ports[0])))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, port: int, *, upward: bool
    ) -> None:
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                fault = self.fault
                if fault in CUTTING:
                    self.bitten[fault] += 1
                    if fault == "truncate":
                        writer.write(chunk[: len(chunk) // 2])
                        await writer.drain()
                    return
                if fault == "flip":
                    self.bitten[fault] += 1
                    chunk = self._flipped(chunk)
                if self.garble is not None:
                    chunk = self.garble(number, port, chunk)
                if fault in HOLDING:
                    await self._hold(fault, len(chunk), upward)
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            return  # one side is gone: the other will be told

    async def _hold(self, fault: str, size: int, upward: bool) -> None:
        if fault == "half_open" and upward:
            return
        self.bitten[fault] += 1
        begun_s = time.monotonic()
        if fault in ("latency", "bandwidth"):
            await asyncio.sleep(_LATENCY_S if fault == "latency" else size / _BYTES_A_SECOND)
        while fault in ("black_hole", "half_open") and self.fault == fault:
            await asyncio.sleep(_LOOK_S)
        self.held_s[fault] += time.monotonic() - begun_s

    def _flipped(self, chunk: bytes) -> bytes:
        data = bytearray(chunk)
        data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        return bytes(data)


def _abort(writer: asyncio.StreamWriter) -> None:
    """RST, not FIN: what was not yet sent is thrown away."""
    if writer.is_closing():
        return
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
