"""A lab: broker and store on one host, a second store, two workers and a client on others, all enrolled with tickets.

The lab's host has a firewall that lets the published ports pass alone. One worker's line loses every hundredth packet,
that of the other one and of the client is late by 50 ms each way. What is emitted has to be in both stores, each event
once, and before the client's eyes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import emitter
import follower
from emitter import Progress
from hosts import Host, Network
from oracle import IDS_PER_EMITTER, judge_store
from processes import TELEFABRIC, Service, wait_for

from telefabric.address import Address
from telefabric.keys.core.registry import TicketRecord
from telefabric.keys.core.roles import Role
from telefabric.keys.gate import now
from telefabric.keys.key_folder import KeyFolder
from telefabric.store.file.database import FILE_NAME, open_reader

PORT = 7750
PUBLISHED = {PORT + offset: name for offset, name in enumerate(
    ("control", "data", "live", "durable", "queries", "tap", "watch", "enrol")) if name != "tap"}  # fmt: skip
RUN = "far"
STORES = ("store", "archive")
WORKERS = ("rig1", "rig2")
DELAY_S, LOST_PERCENT = 0.05, 1
PATIENCE_S = 90.0


class Machine:
    """A host, and the files of its user."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.folder = folder
        folder.mkdir()
        self.environment = {
            "XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "share"), "HOME": str(folder),
        }  # fmt: skip

    def service(self, name: str, *command: object, **more: str) -> Service:
        words = self.host.inside([str(word) for word in command])
        return Service(words, stderr=self.folder / f"{name}.log", env={**self.environment, **more})

    def run(self, *words: str, code: int = 0) -> str:
        """What a command of `telefabric` prints, on either stream."""
        done = self.host.run([*TELEFABRIC, *words], env={**os.environ, **self.environment}, timeout=PATIENCE_S)
        assert done.returncode == code, done.stderr
        return f"{done.stdout}{done.stderr}"


class Lab:
    """A context manager: all of it runs, and the first events are stored."""

    def __init__(self, folder: Path, *, rate: float = 200.0) -> None:
        self._stack = ExitStack()
        self._folder = folder
        self._rate = rate
        self.network = Network()
        self.machines: dict[str, Machine] = {}
        self.parts: dict[str, Service] = {}
        self.progress = {name: Progress(folder / f"{number}.progress") for number, name in enumerate(WORKERS)}
        self.files = {"store": folder / "lab" / "data" / FILE_NAME, "archive": folder / "archive" / FILE_NAME}
        self.seen, self.account_file = folder / "desk" / "seen", folder / "desk" / "account"

    def __enter__(self) -> Lab:
        with ExitStack() as stack:
            stack.enter_context(self.network)
            for name in ("lab", "archive", *WORKERS, "desk"):
                self.machines[name] = Machine(self.network.host(name), self._folder / name)
            self.lab = self.machines["lab"]
            self.keys = KeyFolder(self.lab.folder / "data")
            self.keys.init(f"tcp://127.0.0.1:{PORT}")
            self._make_parts()
            for part in self.parts.values():
                stack.callback(part.kill)
            self.parts["lab"].start()
            self.lab.host.only_ports(list(PUBLISHED))
            line = self.network.slow_line(self.lab.host, list(PUBLISHED), delay_s=DELAY_S)
            self.machines["rig2"].host.lose(LOST_PERCENT)
            self.enrol("archive", Role.STORE, self.lab.host.name)
            self.enrol("rig1", Role.WORKER, line.name)
            self.enrol("rig2", Role.WORKER, self.lab.host.name)
            self.enrol("desk", Role.OPERATOR, line.name)
            for name in ("archive", *WORKERS, "desk"):
                self.parts[name].start()
            self.all_go_on()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _make_parts(self) -> None:
        listen = ["--listen", f"tcp://*:{PORT}", "--data", self.keys.data]
        self.parts["lab"] = self.lab.service("up", *TELEFABRIC, "up", *listen, TELEFABRIC_REQUIRED=",".join(STORES))
        archive, desk = self.machines["archive"], self.machines["desk"]
        self.parts["archive"] = archive.service(
            "store", *TELEFABRIC, "store", "--connect", "archive", "--name", "archive", "--data", archive.folder
        )
        for number, name in enumerate(WORKERS):
            machine = self.machines[name]
            self.parts[name] = machine.service(
                "worker", sys.executable, emitter.__file__, name, self.progress[name].path, "--spool",
                machine.folder / "spool", "--run", RUN, "--rate", self._rate, "--first-id", number * IDS_PER_EMITTER,
                "--exit-flush", PATIENCE_S,
            )  # fmt: skip
        self.parts["desk"] = desk.service(
            "client", sys.executable, follower.__file__, "desk", RUN, self.seen, "--all", "--account", self.account_file
        )

    def enrol(self, name: str, role: Role, address: str) -> None:
        record = TicketRecord(name, role, now(), now() + timedelta(hours=1))
        self.machines[name].run("join", self.keys.invite(record, Address(address, PORT)).encode())

    # -- how far it is -------------------------------------------------------------------------------------------

    def stored(self, store: str, worker: str | None = None) -> int:
        """How much of a worker's stream is committed, or of both."""
        file, streams = self.files[store], [self.progress[one].read()[0] for one in ([worker] if worker else WORKERS)]
        if not file.exists():
            return 0
        connection = open_reader(file)
        try:
            query = "SELECT stored_seq FROM watermarks JOIN streams USING (stream) WHERE stream_id = ?"
            return sum(int(connection.execute(query, (stream,)).get or 0) for stream in streams)
        finally:
            connection.close()

    def emitted(self) -> int:
        return sum(progress.read_seq() for progress in self.progress.values())

    def account(self) -> dict[str, Any]:
        return json.loads(self.account_file.read_text()) if self.account_file.exists() else {}  # type: ignore[no-any-return]

    def goes_on(self, store: str, worker: str) -> None:
        """What a worker emits from now on gets to a store."""
        emitted = self.progress[worker].read_seq()
        wait_for(
            lambda: self.stored(store, worker) > max(emitted, 0),
            f"what {worker} emits comes to {store}", PATIENCE_S,
        )  # fmt: skip

    def client_goes_on(self) -> None:
        """What comes live from now on gets to the client."""
        before = self.account().get("received", 0)
        wait_for(
            lambda: self.account().get("received", 0) > before and self.account()["link"] == "live",
            "the client sees what comes", PATIENCE_S,
        )  # fmt: skip

    def all_go_on(self) -> dict[str, float]:
        """How many seconds each took."""
        began_s, took_s = time.monotonic(), {}
        for worker in WORKERS:
            for store in STORES:
                self.goes_on(store, worker)
            took_s[worker] = round(time.monotonic() - began_s, 1)
        self.client_goes_on()
        return {**took_s, "desk": round(time.monotonic() - began_s, 1)}

    # -- faults --------------------------------------------------------------------------------------------------

    def cut(self, names: list[str], seconds: float, meanwhile: Callable[[Lab], None] = lambda lab: None) -> None:
        """Without a link for so long."""
        for name in names:
            self.machines[name].host.down()
        until_s = time.monotonic() + seconds
        meanwhile(self)
        time.sleep(max(until_s - time.monotonic(), 0))
        for name in names:
            self.machines[name].host.up()

    def move(self, names: list[str]) -> None:
        for name in names:
            self.network.move(self.machines[name].host)

    def restart(self) -> None:
        """Everything on the lab's host is killed and started."""
        self.lab.host.kill_all()
        self.parts["lab"].kill()
        self.parts["lab"].start()

    # -- afterwards ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The workers end, and the client has everything. Raises AssertionError when it is not in time."""
        for name in WORKERS:
            self.parts[name].signal(signal.SIGINT)
        for name in WORKERS:
            process = self.parts[name].process
            assert process is not None
            process.wait(2 * PATIENCE_S)
        wait_for(lambda: not self._missed_by_client(), "the client has all of it", PATIENCE_S)

    def report(self) -> dict[str, Any]:
        """Every event counted again, in both stores and at the client. Once it has settled."""
        streams = [progress.read() for progress in self.progress.values()]
        twice = [count for stream, _ in streams for count in Counter(follower.heard(self.seen, stream)).values()]
        return {
            **{store: judge_store(self.files[store], self.progress.values()) for store in STORES},
            "client": {
                **self.account(), "missed": self._missed_by_client(),
                "twice": sum(count - 1 for count in twice),
            },
            "lost_packets": self.machines["rig2"].host.lost(),
        }  # fmt: skip

    def _missed_by_client(self) -> int:
        missed = 0
        for progress in self.progress.values():
            stream, emitted = progress.read()
            missed += len(set(range(1, emitted + 1)) - set(follower.heard(self.seen, stream)))
        return missed


def is_faultless(report: dict[str, Any]) -> bool:
    """Of what `Lab.report` tells."""
    client = report["client"]
    stores_are = all(
        not any(report[store][name] for name in ("lost", "duplicated", "wrong", "disordered", "quarantined"))
        for store in STORES
    )
    return stores_are and not (client["missed"] or client["twice"] or client["failures"]) and client["checked"] > 0
