"""The query service: answers questions about a store file on a socket of its own.

It is a process of its own (``python -m telefabric.store.read.query_service --listen URL --store FILE``): SQLite gives
the interpreter lock away at every row, and a second busy thread in the store's process would hold up its commits. It is
a part under `telefabric.service.supervisor`: it says ``ready URL``, and ends with its standard input.

One thread has the socket. Questions are answered by others, each with a connection of its own, and one of them answers
only such as take milliseconds: so slow ones stall nobody.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import EnvironmentProblem, StoreError, TelefabricError, UsageError
from telefabric.files.open_files import raise_limit
from telefabric.keys.core.roles import Domain
from telefabric.keys.entrance import Entrance
from telefabric.keys.gate import Gate
from telefabric.keys.key_folder import KeyFolder
from telefabric.log.events import EventLog
from telefabric.metrics.figures import COUNTER, HISTOGRAM, Family, Figures, Histogram, Labels
from telefabric.metrics.summary import Health, endpoint_of
from telefabric.peer.core.mistakes import Quota
from telefabric.peer.core.principal import Principal
from telefabric.peer.listener import Guard, bind, hear, listener
from telefabric.peer.sockets import waiting
from telefabric.service.logs import set_up_logs
from telefabric.service.notify import Manager
from telefabric.service.supervisor import ready, stop_with_parent
from telefabric.settings import OFF, metrics_endpoint
from telefabric.store.core.turns import Turns
from telefabric.store.read import query
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import DROP, FAILED, NUMBER_BYTES, OK, USAGE, decode_question

log = EventLog("telefabric.store")

HWM = 4
"""Messages per peer and direction: a peer that does not read its answers holds this many pages and gets no more."""
_POLL_MS = 100
_NO_REQUEST = f"a request is two frames: a number of {NUMBER_BYTES} bytes, and the question".encode()
_UNREADABLE = "unreadable"
"""The kind of a message that is not a question."""
THREADS = 3
"""One of them for quick questions alone."""
_SLOW = (
    query.Events, query.Newest, query.Since, query.StreamSince, query.EpisodesOf, query.StepsOf, query.SeriesOf,
    query.Scan, query.Bands,
)  # fmt: skip
"""Questions of which a page, or all pages together, may take long."""
_WAITING_MAX = 64
"""Questions of one peer that wait; one that waits for its answers never has more than a few."""
_WAITING_BYTES_MAX = 64 * limits.MIB
_TOO_MANY = f"more than {_WAITING_MAX} of your questions wait: wait for answers before you ask on".encode()
_FULL = b"too many questions wait here: ask again later"
_DROPPED = b"its asker dropped the question"
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


@dataclass(eq=False)
class _Job:
    """A question, and what comes of it."""

    peer: bytes
    number: bytes
    size: int
    question: query.Question[Any]
    began_s: float = field(default_factory=time.monotonic)
    dropped: bool = False
    status: bytes = FAILED
    body: bytes = b""


class _Answerers:
    """The threads that answer, each with a connection. `done` has what is answered; a message in `socket` says so."""

    def __init__(self, context: zmq.Context[Any], path: Path, deadline_s: float) -> None:
        self._context = context
        self._changed = threading.Condition()
        self._turns: Turns[_Job] = Turns()
        self._stopped = False
        self._jobs: list[_Job | None] = [None] * THREADS
        """What each thread has in hand."""
        self.done: deque[_Job] = deque()
        self._readers: list[FileReader] = []
        try:
            for index in range(THREADS):
                cancelled = partial(self._cancelled, index)
                self._readers.append(FileReader(path, deadline_s=deadline_s, cancelled=cancelled))
        except StoreError:
            self._close_readers()
            raise
        self.socket = context.socket(zmq.PULL)
        self._url = f"inproc://{id(self)}"
        self.socket.bind(self._url)
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(THREADS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Interrupt what is in work, end the threads, and close the file."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._close_readers()

    def add(self, job: _Job) -> bool:
        """False when too many of the same peer wait."""
        with self._changed:
            if self._turns.waiting(job.peer) >= _WAITING_MAX:
                return False
            self._turns.add(job.peer, job)
            self._changed.notify_all()  # not each of them takes any question
        return True

    def _close_readers(self) -> None:
        for reader in self._readers:
            reader.close()

    def _cancelled(self, index: int) -> bool:
        job = self._jobs[index]
        return self._stopped or (job is not None and job.dropped)

    def _run(self, index: int) -> None:
        with self._context.socket(zmq.PUSH) as bell:
            bell.set(zmq.LINGER, 0)
            bell.connect(self._url)
            while (job := self._next(quick=index == 0)) is not None:
                self._jobs[index] = job
                job.status, job.body = _answer(self._readers[index], job)
                self.done.append(job)
                bell.send(b"")

    def _next(self, *, quick: bool) -> _Job | None:
        with self._changed:
            while not self._stopped:
                if (job := self._turns.take(_is_quick if quick else lambda job: True)) is not None:
                    return job
                self._changed.wait()
        return None


def _is_quick(job: _Job) -> bool:
    return job.dropped or not isinstance(job.question, _SLOW)


def _answer(reader: FileReader, job: _Job) -> tuple[bytes, bytes]:
    """Status and body of the reply."""
    try:
        if not job.dropped:
            return OK, _encoder.encode(reader.answer(job.question))
    except UsageError as error:
        return USAGE, str(error).encode()
    except StoreError as error:
        if not job.dropped:
            return FAILED, str(error).encode()
    except Exception as error:  # a boundary: the other questions are answered on
        log.exception("query.failed", question=job.question.name_on_wire)
        return FAILED, f"the store failed at this question ({type(error).__name__}): see its log".encode()
    return FAILED, _DROPPED


class QueryService:
    """Binds and opens the file on construction, answers in `run` until `stop`, several questions at once.

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
        self._tell_due_s = 0.0
        self._context = zmq.Context()
        try:
            self._answerers = _Answerers(self._context, path, deadline_s)
        except StoreError:
            self._context.destroy(linger=0)
            raise
        self._open: set[_Job] = set()
        """Questions that have no answer yet."""
        self._open_bytes = 0
        self._gate = Gate(self._context, keys) if keys is not None else None
        self._entrance = self._gate or Entrance()
        self._guard = Guard(self._gate, Domain.QUERY)
        self._socket: zmq.Socket[bytes] = listener(self._context, zmq.ROUTER, self._guard)
        if self._gate is None:
            self._entrance.watch(self._socket, Domain.QUERY)
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
        for socket in (self._socket, self._answerers.socket, *([self._gate.socket] if self._gate else [])):
            poller.register(socket, zmq.POLLIN)
        self._answerers.start()
        try:
            while not self._interrupted():
                poller.poll(_POLL_MS)
                heard = hear(self._socket, self._guard)
                if heard is not None:
                    self._turn([heard.peer.id, *(frame.bytes for frame in heard.frames)], heard.peer.principal)
                self._reply_all()
                self._health.tend(self._figures, time.monotonic_ns())
                self._tell_refused(time.monotonic())
                self._tend(time.monotonic_ns())
        finally:
            self._close()

    def _tell_refused(self, now_s: float) -> None:
        if now_s >= self._tell_due_s:
            self._tell_due_s = now_s + limits.LOG_INTERVAL_S
            times, kinds = self._entrance.newly_refused()
            if times:
                log.warning("keys.refused", times=times, kinds=kinds)

    def _interrupted(self) -> bool:
        """Whether to stop, also to begin again with another server key."""
        self._entrance.tend()
        return self._stop.is_set() or (self._gate is not None and self._gate.is_old)

    def _turn(self, frames: list[bytes], principal: Principal) -> None:
        if len(frames) != 3 or len(frames[1]) != NUMBER_BYTES:
            self.counts["bad_request"] += 1
            if self._quota.grants(frames[0], time.monotonic_ns()):
                number = next((one for one in frames[1:] if len(one) == NUMBER_BYTES), bytes(NUMBER_BYTES))
                self._reply([frames[0], number, USAGE, _NO_REQUEST])
            return
        peer, number, data = frames
        if data == DROP and (dropped := [job for job in self._open if (job.peer, job.number) == (peer, number)]):
            for job in dropped:
                job.dropped = True
            return
        if self._gate is not None and len(data) > limits.CONTROL_BYTES_MAX:
            self._gate.count("too_large", Domain.QUERY, principal.name)
        try:
            job = _Job(peer, number, len(data), decode_question(data))
        except UsageError as error:
            self._count(_UNREADABLE, USAGE, 0.0)
            self._reply([peer, number, USAGE, str(error).encode()])
            return
        full = self._open_bytes + job.size > _WAITING_BYTES_MAX
        if full or not self._answerers.add(job):
            self._count(job.question.name_on_wire, FAILED, 0.0)
            self._reply([peer, number, FAILED, _FULL if full else _TOO_MANY])
            return
        self._open.add(job)
        self._open_bytes += job.size

    def _reply_all(self) -> None:
        """Send what is answered."""
        for _ in waiting(self._answerers.socket, limits.CONTROL_A_TURN):
            job = self._answerers.done.popleft()
            self._open.remove(job)
            self._open_bytes -= job.size
            self._count(job.question.name_on_wire, job.status, time.monotonic() - job.began_s)
            self._reply([job.peer, job.number, job.status, job.body])

    def _count(self, kind: str, status: bytes, took_s: float) -> None:
        self.counts[status.decode()] += 1
        self._questions[kind, status.decode()] += 1
        self._seconds.observe(took_s)

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
            _P + "keys_refused_total": {tuple(one): n for one, n in self._entrance.refused.items()},
            _P + "seconds": {(): self._seconds.distribution()},
        }

    def _close(self) -> None:
        self._answerers.stop()
        self._context.destroy(linger=0)


def main(arguments: list[str] | None = None) -> None:
    """The process: says ``ready URL`` and answers until its standard input closes."""
    gc.freeze()  # a module is no garbage, now or at the exit
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
