"""A lab: services on one host, workers on two, a client on a fourth, all let in by tickets, over bad lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
from hosts import Host, Network
from processes import TELEFABRIC, Service, wait_for
from skips import requires
from slowness import patience

pytestmark = [requires(hosts.why_not() or "hosts", not hosts.why_not()), pytest.mark.alone, pytest.mark.timeout(300)]
PORTS = (7750, 7751, 7752, 7753, 7754, 7756, 7757)
"""What docs/keys.md has let through."""
WITHOUT_LINK_S = 30
WORKER = """
import sys, time
from pathlib import Path
from telefabric_workers import connect
name, stop = sys.argv[1], Path(sys.argv[2])
with connect(name, run="lab", agent=name, exit_flush_s=float(sys.argv[3])) as worker:
    step = 0
    while not stop.exists():
        worker.step(episode=0, step=step, action=1, observation=step, reward=0.0)
        step += 1
        time.sleep(0.01)
print(step)
"""


class Lab:
    """The hosts, and what runs there."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.services, self.near, self.far, self.desk = (network.host(name) for name in ("lab", "near", "far", "desk"))
        self.line = network.slow_line(self.services, PORTS)
        self.data = folder / "data"
        self.seen = folder / "seen"

    def environment(self, host: Host) -> dict[str, str]:
        """A home of its own for each."""
        own = self.folder / host.namespace.rpartition("-")[2]
        own.mkdir(exist_ok=True)
        folders = {"HOME": own, "XDG_CONFIG_HOME": own, "XDG_DATA_HOME": own, "TELEFABRIC_RING": own}
        return {**os.environ, **{name: str(path) for name, path in folders.items()}}

    def telefabric(self, host: Host, *words: str) -> str:
        done = host.run([*TELEFABRIC, *words], env=self.environment(host), timeout=patience(60))
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def up(self) -> Service:
        command = [*TELEFABRIC, "up", "--listen", "tcp://*:7750", "--data", str(self.data)]
        return Service(
            self.services.inside(command), env=self.environment(self.services), stderr=self.folder / "up.log"
        ).start()

    def let_in(self, host: Host, name: str, role: str, address: str) -> None:
        data = ("--data", str(self.data))
        said = self.telefabric(self.services, "keys", "invite", name, "--role", role, "--address", address, *data)
        self.telefabric(host, "join", next(line for line in said.splitlines() if line.startswith("tf1")))

    def work(self, host: Host, name: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", WORKER, name, str(self.folder / "stop"), str(patience(90))]
        return host.start(words, env=self.environment(host), stdout=subprocess.PIPE)

    def watch(self) -> None:
        with self.seen.open("w") as seen:
            words = [*TELEFABRIC, "tail", "--live", "--connect", "desk"]
            self.desk.start(words, env=self.environment(self.desk), stdout=seen, stderr=subprocess.DEVNULL)

    def require_news(self, what: str) -> None:
        """The client shows more than now of both workers."""
        for name in ("near", "far"):
            now = self.seen.read_text().count(f" {name} ")
            news = f"the client shows new events of {name}, {what}"
            wait_for(lambda name=name, now=now: self.seen.read_text().count(f" {name} ") > now, news, 60)  # type: ignore[misc]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Network() as network:
        yield Lab(network, tmp_path)


def test_nothing_is_lost_and_the_client_goes_on_whatever_happens_to_the_lines(lab: Lab) -> None:
    lab.telefabric(lab.services, "keys", "init", "--data", str(lab.data))
    lab.services.only_ports(PORTS)
    up = lab.up()
    lab.let_in(lab.near, "near", "worker", lab.services.address)
    lab.let_in(lab.far, "far", "worker", lab.line.address)
    lab.let_in(lab.desk, "desk", "client", lab.services.address)
    lab.near.lose(1)
    lab.watch()
    workers = {"near": lab.work(lab.near, "near"), "far": lab.work(lab.far, "far")}
    lab.require_news("at the start")

    lab.near.down()
    with pytest.raises(subprocess.TimeoutExpired):
        workers["near"].wait(WITHOUT_LINK_S)
    lab.near.up()
    lab.require_news("after a cut of a worker")

    lab.near.move(lab.network.address())
    lab.desk.move(lab.network.address())
    lab.require_news("after hosts got other addresses")

    up.kill()
    up = lab.up()
    lab.require_news("after a restart of the services")

    (lab.folder / "stop").touch()
    emitted = {}
    for name, worker in workers.items():
        assert worker.wait(patience(120)) == 0
        assert worker.stdout is not None
        emitted[name] = int(worker.stdout.read())
    stored = lab.telefabric(lab.services, "dump", "--store", str(lab.data), "--kind", "step")
    steps: dict[str, list[int]] = {"near": [], "far": []}
    for line in stored.splitlines():
        event = json.loads(line)
        steps[event["agent_id"]].append(event["step_index"])
    assert {name: sorted(of) for name, of in steps.items()} == {name: list(range(emitted[name])) for name in emitted}
    assert lab.near.lost() > 0
    assert up.stop() == 0
