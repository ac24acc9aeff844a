"""Chaos: real processes on real sockets, and faults of every kind in an order that a seed decides.

Each peer of the broker dials a loopback host of its own, behind which a fault proxy stands. A fault counts when it came
while events were unacknowledged and was seen to bite; after each one the fabric has to go on within `PATIENCE_S`.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import exporter
import faultproxy
import follower
import partition
from emitter import Progress
from faultproxy import FaultProxy
from oracle import IDS_PER_EMITTER, judge_exporter, judge_store
from processes import PORTS, TELEFABRIC, Service, broker, free_ports, run, wait_for
from witness import Witness

from telefabric.address import Address
from telefabric.store.file.database import FILE_NAME, open_reader

RUN = "chaos"
EMITTERS = 3
HOSTS = {"worker": "127.0.0.2", "store": "127.0.0.3", "exporter": "127.0.0.4", "client": "127.0.0.5"}
DURABLE_LINKS = ("worker", "worker", "worker", "store", "exporter")
PARTS = ("worker", "broker", "store", "exporter", "client")
PROCESS_FAULTS = tuple(f"{what}_{who}" for what in ("kill", "restart", "stop") for who in PARTS)
PARTITION = "partition"
PATIENCE_S = 60.0
LIVE_S = 5.0
_SIGNS_S = 3.0
_HELD_LEAST_S = 0.1
_UNDER_WAY_S = 0.3
"""So long what had passed a fault when it began may still arrive."""


class Chaos:
    """A broker, a store, an exporter, a client and a few emitters, each behind a fault proxy. A context manager."""

    def __init__(
        self, folder: Path, seed: int, *, rate: float, required_exporter: bool = False, partitions: bool = False,
        without_spool: bool = False,
    ) -> None:  # fmt: skip
        """`without_spool`: what a killed worker had in its spool goes with it, and the oracle has to notice."""
        self.folder = folder
        self.file = folder / FILE_NAME
        self.kinds = (*PROCESS_FAULTS, *faultproxy.FAULTS, *([PARTITION] if partitions else []))
        self.faults: Counter[str] = Counter(dict.fromkeys(self.kinds, 0))
        """By kind, those that came while events were unacknowledged and that were seen to bite."""
        self.missed: Counter[str] = Counter()
        """By kind, those that did not."""
        self.tell: Callable[[str], None] = lambda line: None
        """Hears what was done, and when it was over."""
        self.progress: list[Progress] = []
        self._begun_s = time.monotonic()
        self._random = Random(seed)
        self._rate = rate
        self._required_exporter = required_exporter
        self._without_spool = without_spool
        self._port = free_ports()
        self._address = Address("127.0.0.1", self._port)
        ports = range(self._port, self._port + PORTS)
        self._proxies = {who: FaultProxy(host, ports, seed) for who, host in HOSTS.items()}
        self._witness = Witness(self._address)
        self._parts = {
            "broker": self._broker(),
            "store": self._service("store", *TELEFABRIC, "store", "--connect", self._url("store"), "--data", folder),
            "exporter": self._new_exporter(),
            "client": self._script(follower, "client", self._url("client"), RUN, folder / "client"),
        }
        self._emitters = [self._new_emitter() for _ in range(EMITTERS)]
        self._leaving: list[Service] = []
        self._stack = ExitStack()

    def __enter__(self) -> Chaos:
        for proxy in self._proxies.values():
            self._stack.enter_context(proxy)
        for part in (*self._parts.values(), *self._emitters):
            part.start()
        wait_for(lambda: self.file.exists() and self.stored() > 0, "the first events are stored")
        return self

    def __exit__(self, *exception: object) -> None:
        for part in (*self._emitters, *self._leaving, *reversed(self._parts.values())):
            part.__exit__()
        self._stack.close()

    # -- parts ---------------------------------------------------------------------------------------------------

    def _url(self, who: str) -> str:
        return f"tcp://{HOSTS[who]}:{self._port}"

    def _service(self, name: str, *command: object) -> Service:
        return Service([str(word) for word in command], stderr=self.folder / f"{name}.log")

    def _script(self, module: Any, name: str, *arguments: object) -> Service:
        return self._service(name, sys.executable, module.__file__, *arguments)

    def _broker(self) -> Service:
        required = ["--required", f"store,{exporter.NAME}"] if self._required_exporter else []
        return broker(self._port, *required, stderr=self.folder / "broker.log")

    def _new_exporter(self) -> Service:
        required = ["--required"] if self._required_exporter else []
        return self._script(exporter, "exporter", self._url("exporter"), self.folder / "exported", *required)

    def _new_emitter(self, *options: object) -> Service:
        import emitter

        number = len(self.progress)
        self.progress.append(Progress(self.folder / f"{number}.progress"))
        return self._script(
            emitter, str(number), self._url("worker"), self.progress[-1].path, "--spool", self.folder / "spool",
            "--run", RUN, "--rate", self._rate, "--first-id", number * IDS_PER_EMITTER, "--exit-flush", PATIENCE_S,
            *options,
        )  # fmt: skip

    def _progress_of(self, emitter: Service) -> Progress:
        return self.progress[int(Path(emitter.command[3]).stem)]

    # -- how far it is -------------------------------------------------------------------------------------------

    def emitted(self) -> int:
        return sum(progress.read_seq() for progress in self.progress)

    def stored(self, stream: bytes | None = None) -> int:
        """The sum of the watermarks, or one of them: what is committed."""
        connection = open_reader(self.file)
        try:
            query = "SELECT coalesce(sum(stored_seq), 0) FROM watermarks"
            if stream is None:
                return int(connection.execute(query).get)
            return int(connection.execute(f"{query} JOIN streams USING (stream) WHERE stream_id = ?", (stream,)).get)
        finally:
            connection.close()

    def _position(self, who: str) -> int:
        """What grows as long as a part, or its link, does its work."""
        if who in ("exporter", "client"):
            path = self.folder / ("exported" if who == "exporter" else "client")
            return path.stat().st_size if path.exists() else 0
        return self.stored()

    def _goes_on(self, who: str) -> None:
        """Raises AssertionError when it does not."""
        before = self._position(who)
        wait_for(lambda: self._position(who) > before, f"what concerns the {who} goes on", PATIENCE_S)

    # -- faults --------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Faults for so long, always one of the kinds that had the fewest."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._do(min(self.kinds, key=self._done))
            if self._random.random() < 0.7:
                time.sleep(self._random.uniform(0.0, 0.3))

    def _done(self, kind: str) -> tuple[int, float]:
        """How much of a kind there was; what will not bite stands back in the end. Any order among equals."""
        return self.faults[kind] + self.missed[kind] // 2, self._random.random()

    def _do(self, kind: str) -> None:
        unacknowledged = self.emitted() > self.stored()
        what, _, who = kind.partition("_")
        if what in ("kill", "restart"):
            bitten = self._replace_worker(what) if who == "worker" else self._replace(what, who)
        elif what == "stop":
            bitten = self._stop_worker() if who == "worker" else self._stop(who)
        else:
            bitten = self._disturb(kind, self._random.choice(DURABLE_LINKS))
        counts = unacknowledged and bitten
        (self.faults if counts else self.missed)[kind] += 1
        self.tell(f"{time.monotonic() - self._begun_s:7.1f} s  {kind}{'' if counts else ' (not counted)'}")

    def _replace(self, what: str, who: str) -> bool:
        """Kill or end a part and start it again: bitten when somebody had to connect anew, and it went on."""
        part = self._parts[who]
        watched = self._proxies["worker" if who == "broker" else who]
        self._witness.look()  # what a broker has counted goes with it
        connections = watched.connections
        part.kill() if what == "kill" else part.stop()
        part.start()
        self._goes_on(who)
        return watched.connections > connections

    def _replace_worker(self, what: str) -> bool:
        """Bitten when the worker had emitted what others deliver for it, or what it delivers before it ends."""
        index = self._random.randrange(EMITTERS)
        victim = self._emitters[index]
        if what == "kill" and self._without_spool:
            self._lose(victim)
        elif what == "kill":
            victim.kill()
        else:
            victim.signal(signal.SIGINT)
            self._leaving.append(victim)
        stream, emitted = self._progress_of(victim).read()
        left_behind = emitted > self.stored(stream)
        self._emitters[index] = self._new_emitter().start()
        return left_behind

    def _lose(self, victim: Service) -> None:
        """Kill it and remove its spool while there is no broker: what it has emitted since then is nowhere else."""
        progress = self._progress_of(victim)
        self._witness.look()  # what a broker has counted goes with it
        self._parts["broker"].kill()
        stream, emitted = progress.read()
        wait_for(lambda: progress.read_seq() > emitted, "it goes on emitting")
        victim.kill()
        shutil.rmtree(self.folder / "spool" / stream.hex())
        self._parts["broker"].start()

    def _stop(self, who: str) -> bool:
        """Bitten when what the part should move stood still."""
        self._parts[who].signal(signal.SIGSTOP)
        still = self._stands_still(lambda: self._position(who))
        self._parts[who].signal(signal.SIGCONT)
        self._goes_on(who)
        return still

    def _stop_worker(self) -> bool:
        victim = self._random.choice(self._emitters)
        victim.signal(signal.SIGSTOP)
        still = self._stands_still(self._progress_of(victim).read_seq)
        victim.signal(signal.SIGCONT)
        return still

    def _stands_still(self, position: Callable[[], int]) -> bool:
        time.sleep(_UNDER_WAY_S)
        before = position()
        time.sleep(self._a_while_s())
        return position() == before

    def _a_while_s(self) -> float:
        """Mostly short; sometimes longer than heartbeats may be missed."""
        return self._random.uniform(0.2, 1.0) if self._random.random() < 0.85 else self._random.uniform(3.5, 5.5)

    def _disturb(self, kind: str, link: str) -> bool:
        """Do it to one link: bitten when bytes were late or vanished, peers connected anew or refused."""
        if kind == PARTITION:
            bitten = self._cut(link)
        elif kind in faultproxy.HOLDING:
            bitten = self._hold(kind, self._proxies[link])
        else:
            bitten = self._break(kind, self._proxies[link])
        self._goes_on(link)
        return bitten

    def _cut(self, link: str) -> bool:
        partition.cut(HOSTS[link])
        try:
            return self._stands_still(lambda: self._position(link))
        finally:
            partition.heal(HOSTS[link])

    def _hold(self, kind: str, proxy: FaultProxy) -> bool:
        before_s = proxy.held_s[kind]
        with proxy.doing(kind):
            time.sleep(self._a_while_s())
        return _seen(lambda: proxy.held_s[kind] - before_s > _HELD_LEAST_S)

    def _break(self, kind: str, proxy: FaultProxy) -> bool:
        connections, signs = proxy.connections, self._witness.look()
        with proxy.doing(kind):
            time.sleep(self._random.uniform(0.05, 0.5))
        return _seen(lambda: proxy.connections > connections or (kind == "flip" and self._witness.look() > signs))

    # -- afterwards ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The emitters end, and whatever was left behind is delivered. Raises AssertionError when it is not in time."""
        for emitter in self._emitters:
            emitter.signal(signal.SIGINT)
        for emitter in (*self._leaving, *self._emitters):
            assert emitter.process is not None
            emitter.process.wait(2 * PATIENCE_S)
        drained = run(
            "spool", "drain", "--connect", self._url("worker"), "--spool", str(self.folder / "spool"),
            timeout_s=2 * PATIENCE_S,
        )  # fmt: skip
        assert drained.returncode == 0, drained.stderr
        self._witness.look()

    def last_event_comes_live(self) -> float:
        """A worker begins and ends; how many seconds later the client, which outlived the faults, had its last event.

        Raises AssertionError when that is more than `LIVE_S`.
        """
        last = self._new_emitter("--seconds", 1)
        with last:
            assert last.process is not None
            assert last.process.wait(PATIENCE_S) == 0
            ended_s = time.monotonic()
        stream, emitted = self._progress_of(last).read()
        heard = self.folder / "client"
        wait_for(lambda: follower.heard_live(heard, stream) >= emitted, "the last event comes live", LIVE_S)
        return round(time.monotonic() - ended_s, 2)

    def report(self) -> dict[str, Any]:
        """Every event counted again, and what was done. Once the chaos has settled."""
        return {
            **judge_store(self.file, self.progress),
            "faults": self.faults.total(),
            "kinds": dict(self.faults),
            "not_counted": dict(self.missed),
            "evidence": {
                **self._witness.report(),
                "connections": {who: proxy.connections for who, proxy in self._proxies.items()},
                "held_s": {kind: round(self._sum("held_s", kind), 1) for kind in faultproxy.HOLDING},
                "chunks": {kind: self._sum("bitten", kind) for kind in faultproxy.FAULTS},
            },
            "exporter": {
                "required": self._required_exporter,
                **judge_exporter(self.folder / "exported", self.progress),
            },
        }

    def _sum(self, counter: str, kind: str) -> Any:
        return sum(getattr(proxy, counter)[kind] for proxy in self._proxies.values())


def _seen(sign: Callable[[], bool]) -> bool:
    """Whether it shows within a moment."""
    end_s = time.monotonic() + _SIGNS_S
    while not sign():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True
