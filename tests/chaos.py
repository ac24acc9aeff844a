"""The chaos oracle: real processes under seeded faults, and afterwards a count of every event.

Emitters record in a mapped file how far `emit` has returned; the observation of each step is a function of a number
that the oracle issued. So what should be in the store, and with which bytes, is known whoever was killed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw
import msgspec
from emitter import STREAM_BYTES, Progress, observation
from faultproxy import FAULTS, HOST, FaultProxy
from processes import PORTS, TELEFABRIC, Service, broker, free_ports, store, wait_for

from telefabric.address import Address
from telefabric.inquiry import ask_status
from telefabric.store.audit import audit
from telefabric.store.database import FILE_NAME, open_reader
from telefabric_schemas import Step, values

OFFSET_DATA = 1
EMITTERS = 3
IDS_PER_EMITTER = 1 << 32
PROCESS_FAULTS = ("kill_worker", "kill_broker", "kill_store", "kill_client", "stop_worker", "stop_broker", "stop_store")
KINDS = (*PROCESS_FAULTS, *FAULTS)
SETTLE_S = 120.0


class Chaos:
    """A broker, a store, a client and a few emitters behind a fault proxy. A context manager."""

    def __init__(self, folder: Path, seed: int, rate: float) -> None:
        self.folder = folder
        self.file = folder / FILE_NAME
        self.faults: Counter[str] = Counter()
        """By kind, those that came while events were unacknowledged and that were seen to bite."""
        self.idle: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """Messages that brokers refused, by reason: as each said last before it was killed or the run ended."""
        self._random = Random(seed)
        self._rate = rate
        self._port = free_ports()
        ports = range(self._port, self._port + PORTS)
        self._proxy = FaultProxy(ports, self._port + OFFSET_DATA, seed)
        self._broker = broker(self._port, stderr=folder / "broker.log")
        self._store = store(self._port, folder, stderr=folder / "store.log")
        client = [*TELEFABRIC, "tail", "--connect", f"tcp://127.0.0.1:{self._port}"]
        self._client = Follower(client, folder / "client.log")
        self.progress: list[Progress] = []
        self._emitters = [self._new_emitter() for _ in range(EMITTERS)]

    def __enter__(self) -> Chaos:
        self._proxy.__enter__()
        for part in (self._broker, self._store, self._client, *self._emitters):
            part.start()
        wait_for(lambda: self.file.exists() and self.stored() > 0, "the first events are stored")
        return self

    def __exit__(self, *exception: object) -> None:
        self._proxy.fault = None
        for part in (*self._emitters, self._client, self._store, self._broker):
            part.__exit__()
        self._proxy.__exit__()

    def _new_emitter(self) -> Service:
        number = len(self.progress)
        progress = self.folder / f"{number}.progress"
        self.progress.append(Progress(progress))
        arguments = [
            f"tcp://{HOST}:{self._port}",
            progress,
            "--spool",
            self.folder / "spool",
            "--run",
            f"chaos-{number}",
        ]
        arguments += ["--rate", self._rate, "--first-id", number * IDS_PER_EMITTER, "--exit-flush", SETTLE_S]
        script = Path(__file__).with_name("emitter.py")
        return Service([sys.executable, str(script), *map(str, arguments)], stderr=self.folder / f"{number}.log")

    def add_emitter(self, seconds: float) -> subprocess.Popen[str]:
        """One more, that ends by itself."""
        emitter = self._new_emitter()
        emitter.command += ["--seconds", str(seconds)]
        self._emitters.append(emitter)
        emitter.start()
        assert emitter.process is not None
        return emitter.process

    def emitted(self) -> int:
        return sum(progress.read()[1] for progress in self.progress)

    def stored(self) -> int:
        """The sum of the watermarks: what is committed."""
        connection = open_reader(self.file)
        try:
            return int(connection.execute("SELECT coalesce(sum(stored_seq), 0) FROM watermarks").get)
        finally:
            connection.close()

    def run(self, seconds: float) -> None:
        """Faults for so long, each kind in turn in a random order."""
        end_s = time.monotonic() + seconds
        kinds: list[str] = []
        while time.monotonic() < end_s:
            if not kinds:
                kinds = self._random.sample(KINDS, len(KINDS))
            self._do(kinds.pop())
            time.sleep(self._random.uniform(0.1, 0.5))

    def _do(self, kind: str) -> None:
        unacknowledged = self.emitted() > self.stored()
        what, _, who = kind.partition("_")
        if what == "kill":
            bitten = self._kill(who)
        elif what == "stop":
            bitten = self._stop_for_a_while(who)
        else:
            bitten = self._disturb(kind)
        (self.faults if unacknowledged and bitten else self.idle)[kind] += 1

    def _kill(self, who: str) -> bool:
        """True when it was alive, and, of a worker, when it had emitted what its successor has to deliver."""
        if who == "worker":
            index = self._random.randrange(EMITTERS)
            victim = self._emitters[index]
            victim.kill()
            self._emitters[index] = self._new_emitter().start()
            return self.progress[self._number(victim)].read_seq() > 0
        if who == "broker":
            self._keep_refusals()
        part = {"broker": self._broker, "store": self._store, "client": self._client}[who]
        alive = part.process is not None and part.process.poll() is None
        part.kill()
        part.start()
        return alive

    def _stop_for_a_while(self, who: str) -> bool:
        """True when what should stand still did: a worker's emits, or what is stored."""
        choice = self._random.choice(self._emitters)
        part = {"worker": choice, "broker": self._broker, "store": self._store}[who]
        part.signal(signal.SIGSTOP)
        looks: Callable[[], int] = self.stored
        if who == "worker":
            looks = self.progress[self._number(part)].read_seq
        time.sleep(0.3)  # what was under way arrives
        before = looks()
        time.sleep(self._random.uniform(0.2, 1.2))
        still = looks() == before
        part.signal(signal.SIGCONT)
        return still

    def _number(self, part: Service) -> int:
        return int(Path(part.command[3]).stem)

    def _disturb(self, kind: str) -> bool:
        """True when the proxy did it to something that passed."""
        before = self._proxy.bitten[kind]
        self._proxy.fault = kind
        try:
            time.sleep(self._random.uniform(0.2, 1.5))
        finally:
            self._proxy.fault = None
        return self._proxy.bitten[kind] > before

    def _keep_refusals(self) -> None:
        self.refused.update(ask_status(Address("127.0.0.1", self._port), 10.0).status["dropped"])

    def settle(self) -> None:
        """The emitters end, and whatever they left behind is stored. Raises AssertionError when it takes too long."""
        for emitter in self._emitters:
            emitter.signal(signal.SIGINT)
        for emitter in self._emitters:
            assert emitter.process is not None
            emitter.process.wait(SETTLE_S)
        last = self.add_emitter(seconds=1)  # adopts the spools of the killed
        wait_for(self._all_stored, "everything emitted is stored", SETTLE_S)
        assert last.wait(SETTLE_S) == 0
        self._keep_refusals()

    def _all_stored(self) -> bool:
        time.sleep(0.2)
        return self.stored() >= self.emitted()

    def lose_spools(self) -> int:
        """What must never happen, for the oracle to notice: events are in the spools alone, and the spools removed.

        Returns how many events that costs: with the store dead what is committed stands still, and with the broker
        dead nobody else holds any.
        """
        self._store.kill()
        stored = self.stored()
        wait_for(lambda: self.emitted() > stored + 1_000, "events that are in the spools alone")
        for emitter in self._emitters:
            emitter.kill()
        self._broker.kill()
        shutil.rmtree(self.folder / "spool")
        costs = self.emitted() - stored
        self._broker.start()
        self._store.start()
        return costs

    def verdict(self) -> dict[str, Any]:
        """Every event counted again, from the rows."""
        found: Counter[str] = Counter()
        for progress in self.progress:
            stream, emitted = progress.read()
            if stream == bytes(STREAM_BYTES):
                continue  # killed before it had a stream
            counted = audit(self.file, stream, emitted)
            found["events"] += emitted
            found["lost"] += counted.missing + counted.lost
            found["duplicated"] += counted.duplicated
            found.update(self._wrong(stream, int(progress.path.stem) * IDS_PER_EMITTER))
        connection = open_reader(self.file)
        try:
            whole = connection.execute("PRAGMA integrity_check").get
            quarantined = connection.execute("SELECT count(*) FROM quarantine").get
            assert isinstance(quarantined, int)
        finally:
            connection.close()
        names = ("events", "lost", "duplicated", "wrong", "disordered")
        return {**{name: found[name] for name in names}, "quarantined": quarantined, "integrity": whole}

    def _wrong(self, stream: bytes, first_id: int) -> dict[str, int]:
        """Steps whose payload is not that of their number, and steps that arrived before an earlier one."""
        db = apsw.Connection(str(self.file), flags=apsw.SQLITE_OPEN_READONLY)
        decode = msgspec.msgpack.Decoder(Step).decode
        query = "SELECT seq, event FROM steps JOIN streams USING (stream) WHERE stream_id = ? ORDER BY id"
        wrong = disordered = before = 0
        for seq, event in db.execute(query, (stream,)):
            step = decode(event)
            number = first_id + step.episode_index * 500 + step.step_index
            wrong += values.decode(step.observation) != observation(number)
            disordered += seq <= before
            before = seq
        db.close()
        return {"wrong": wrong, "disordered": disordered}

    def report(self, seed: int) -> dict[str, Any]:
        found = self.verdict()
        kinds = {kind: self.faults[kind] for kind in KINDS}
        bitten = {"proxy": self._proxy.bitten, "refused": dict(self.refused), "not_counted": dict(self.idle)}
        return {**found, "faults": self.faults.total(), "kinds": kinds, "evidence": bitten, "seed": seed}


class Follower(Service):
    """A client on the command line; it says nothing when it is ready."""

    def __init__(self, command: list[str], output: Path) -> None:
        super().__init__(command)
        self._output = output

    def start(self) -> Follower:
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, text=True
            )
        return self
