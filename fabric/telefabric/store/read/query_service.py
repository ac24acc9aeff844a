"""The query service: answers questions about a store file on a socket of its own.

It is a process of its own (``python -m telefabric.store.read.query_service --listen URL --store FILE``): SQLite gives
the interpreter lock away at every row, and a second busy thread in the store's process would hold up its commits. It is
a part under `telefabric.service.supervisor`: it says ``ready URL``, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import EnvironmentProblem, StoreError, TelefabricError, UsageError
from telefabric.files.open_files import raise_limit
from telefabric.keys.core.roles import Domain
from telefabric.keys.gate import Gate
from telefabric.keys.key_folder import KeyFolder
from telefabric.metrics.figures import COUNTER, HISTOGRAM, Family, Figures, Histogram, Labels
from telefabric.metrics.summary import Health, endpoint_of
from telefabric.peer.core.mistakes import Quota
from telefabric.peer.core.principal import Principal
from telefabric.peer.listener import Guard, bind, hear, listener
from telefabric.service.logs import set_up_logs
from telefabric.service.notify import Manager
from telefabric.service.supervisor import ready, stop_with_parent
from telefabric.settings import OFF, metrics_endpoint
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import FAILED, NUMBER_BYTES, OK, USAGE, decode_question

log = structlog.get_logger("telefabric.store")

HWM = 4
"""Messages per peer and direction: a peer that does not read its answers holds this many pages and gets no more."""
_POLL_MS = 100
_NO_REQUEST = f"a request is two frames: a number of {NUMBER_BYTES} bytes, and the question".encode()
_UNREADABLE = "unreadable"
"""The kind of a message that is not a question."""
_BOUNDS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_P = "telefabric_query_"
FAMILIES = (
    Family(
        _P + "questions_total", COUNTER, "Questions by their kind and how they ended.", ("kind", "outcome"), "questions"
    ),
    Family(_P + "bad_requests_total", COUNTER, "Messages that are not even a request.", (), "bad_requests"),
    Family(_P + "unsent_total", COUNTER, "Answers that could not be sent, by reason.", ("reason",), "unsent"),
    Family(
        _P + "keys_refused_total",
        COUNTER,
        "Connections, handshakes and questions refused.",
        ("reason", "socket", "key"),
    ),
    Family(_P + "seconds", HISTOGRAM, "Time from a question to its answer."),
)


class QueryService:
    """Binds and opens the file on construction, answers in `run` until `stop`, one question at a time.

    With `keys` it asks everybody for one. Raises `UsageError` for an address beyond loopback without them, and
    `EnvironmentProblem` for a port in use or a file that cannot be read. `counts` says how many requests were answered,
    refused and dropped. `show` is given its figures once a second, `tend` the time in each turn.
    """

    def __init__(
        self,
        listen: Address,
        path: Path,
        *,
        deadline_s: float = limits.QUERY_DEADLINE_S,
        show: Callable[[Figures], None] | None = None,
        keys: KeyFolder | None = None,
        tend: Callable[[int], None] = lambda now_ns: None,
    ) -> None:
        if keys is None:
            listen.require_loopback()
        self._stop = threading.Event()
        self._tend = tend
        self._gate: Gate | None = None
        self._tell_due_s = 0.0
        self._reader = FileReader(path, deadline_s=deadline_s, cancelled=self._interrupted)
        self._context = zmq.Context()
        if keys is not None:
            self._gate = Gate(self._context, keys)
        self._guard = Guard(self._gate, Domain.QUERY)
        self._socket: zmq.Socket[bytes] = listener(self._context, zmq.ROUTER, self._guard)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.RCVHWM, HWM)
        self._socket.set(zmq.SNDHWM, HWM)
        self._socket.set(zmq.MAXMSGSIZE, limits.CONTROL_BYTES_MAX + limits.OVERSIZED_BYTES)
        self.counts: Counter[str] = Counter()
        self._questions: Counter[Labels] = Counter()
        self._seconds = Histogram(_BOUNDS_S)
        self._quota = Quota()
        self._health = Health("query", FAMILIES, show, time.monotonic_ns())
        try:
            self.address = bind(self._socket, listen)
        except EnvironmentProblem as error:
            self._close()
            raise EnvironmentProblem(f"the store's queries: {error}") from None

    def stop(self) -> None:
        """End `run` soon, a question in work included. Any thread, and signal handlers."""
        self._stop.set()

    def run(self) -> None:
        """Answer until `stop`; closes socket and file at the end. Nothing that comes in can end it."""
        poller = zmq.Poller()
        for socket in (self._socket, *([self._gate.socket] if self._gate else [])):
            poller.register(socket, zmq.POLLIN)
        try:
            while not self._interrupted():
                poller.poll(_POLL_MS)
                heard = hear(self._socket, self._guard)
                if heard is not None:
                    self._turn([heard.peer.id, *(frame.bytes for frame in heard.frames)], heard.peer.principal)
                self._health.tend(self._figures, time.monotonic_ns())
                self._tell_refused(time.monotonic())
                self._tend(time.monotonic_ns())
        finally:
            self._close()

    def _tell_refused(self, now_s: float) -> None:
        if self._gate is not None and now_s >= self._tell_due_s:
            self._tell_due_s = now_s + limits.LOG_INTERVAL_S
            times, kinds = self._gate.newly_refused()
            if times:
                log.warning("keys.refused", times=times, kinds=kinds)

    def _interrupted(self) -> bool:
        """Whether to stop, also to begin again with another server key.

        Asked within a question too, which may take seconds and must not hold up handshakes.
        """
        if self._gate is not None:
            self._gate.tend()
        return self._stop.is_set() or (self._gate is not None and self._gate.is_old)

    def _turn(self, frames: list[bytes], principal: Principal) -> None:
        if len(frames) != 3 or len(frames[1]) != NUMBER_BYTES:
            self.counts["bad_request"] += 1
            if self._quota.grants(frames[0], time.monotonic_ns()):
                number = next((one for one in frames[1:] if len(one) == NUMBER_BYTES), bytes(NUMBER_BYTES))
                self._reply([frames[0], number, USAGE, _NO_REQUEST])
            return
        peer, number, data = frames
        began_s, kind = time.monotonic(), _UNREADABLE
        if self._gate is not None and len(data) > limits.CONTROL_BYTES_MAX:
            self._gate.count("too_large", Domain.QUERY, principal.name)
        try:
            question = decode_question(data)
            kind = question.name_on_wire
            status, body = OK, _encoder.encode(self._reader.answer(question))
        except UsageError as error:
            status, body = USAGE, str(error).encode()
        except StoreError as error:
            status, body = FAILED, str(error).encode()
        self.counts[status.decode()] += 1
        self._questions[kind, status.decode()] += 1
        self._seconds.observe(time.monotonic() - began_s)
        self._reply([peer, number, status, body])

    def _reply(self, frames: list[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.counts["gone" if error.errno == zmq.EHOSTUNREACH else "not_reading"] += 1

    def _figures(self, now_ns: int) -> Figures:
        return {
            _P + "questions_total": dict(self._questions),
            _P + "bad_requests_total": {(): self.counts["bad_request"]},
            _P + "unsent_total": {(reason,): self.counts[reason] for reason in ("gone", "not_reading")},
            _P + "keys_refused_total": {tuple(one): n for one, n in self._gate.refused.items()} if self._gate else {},
            _P + "seconds": {(): self._seconds.distribution()},
        }

    def _close(self) -> None:
        self._context.destroy(linger=0)
        self._reader.close()


def main(arguments: list[str] | None = None) -> None:
    """The process: says ``ready URL`` and answers until its standard input closes."""
    parser = argparse.ArgumentParser(description="Answer questions about a store file; ends with its standard input.")
    parser.add_argument("--listen", required=True, help="tcp://HOST:PORT on this machine; port 0 takes any free one")
    parser.add_argument("--store", required=True, type=Path, help="the store file")
    parser.add_argument("--keys", type=Path, help="the data folder with keys, of which everybody is asked for one")
    parser.add_argument("--metrics", default=OFF, help="where Prometheus finds its metrics")
    parser.add_argument("--log-format")
    parser.add_argument("--log-level")
    given = parser.parse_args(arguments)
    manager = Manager(lambda: set_up_logs(given.log_format, given.log_level))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, frame: manager.ask_to_reload())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole terminal; the parent decides
    try:
        set_up_logs(given.log_format, given.log_level)
        endpoint = endpoint_of("query", metrics_endpoint(given.metrics), FAMILIES)
        show = endpoint.show if endpoint else None
        keys = KeyFolder(given.keys) if given.keys else None
        service = QueryService(Address.parse(given.listen), given.store, show=show, tend=manager.tend, keys=keys)
    except TelefabricError as error:
        print(f"telefabric: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    raise_limit()
    stop_with_parent(service.stop)
    try:
        ready(service.address.url)
    except BrokenPipeError:  # the parent process has gone meanwhile
        sys.exit(1)
    os.dup2(2, 1)  # nobody reads on: what else is printed must not fill the pipe
    service.run()


_encoder = msgspec.msgpack.Encoder()

if __name__ == "__main__":
    main()
