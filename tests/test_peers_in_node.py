"""Somebody else can build from the specification: peers in JavaScript, written from it alone, in a real fabric."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
from processes import Service, broker, free_ports, run, store, wait_for
from skips import requires
from slowness import patience

from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric_schemas import TOPICS
from telefabric_workers import connect

PEERS = Path(__file__).resolve().parent / "peers"
NODE = shutil.which("node")
THERE = NODE is not None and (PEERS / "node_modules" / "zeromq").exists()
pytestmark = requires("Node.js and the packages of tests/peers, which `npm ci` installs there", THERE)


class Peer:
    """One of the programs in tests/peers, and the lines of JSON that it has said so far."""

    def __init__(self, program: str, *arguments: object) -> None:
        command = [str(NODE), str(PEERS / f"{program}.mjs"), *map(str, arguments)]
        self.said: list[dict[str, Any]] = []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._listener = threading.Thread(target=self._listen, name=program)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def last(self, item: str) -> Any:
        """What it said last under this name, None before."""
        return next((words[item] for words in reversed(self.said) if item in words), None)

    def wait(self, item: str) -> Any:
        wait_for(lambda: any(item in words for words in self.said), f"{item} of {self.process.args!r}")
        return self.last(item)

    def end(self) -> int:
        """Close its standard input, and wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(patience(20))

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Fabric(NamedTuple):
    url: str
    file: Path
    broker: Service


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    folder, port = tmp_path_factory.mktemp("fabric"), free_ports()
    with broker(port) as service, store(port, folder):
        yield Fabric(f"tcp://127.0.0.1:{port}", folder / FILE_NAME, service)


def stored(fabric: Fabric, run_id: str) -> list[dict[str, Any]]:
    """The events of a run as the reader in Python tells them."""
    dumped = run("dump", "--store", str(fabric.file), "--run", run_id)
    assert dumped.returncode == 0, dumped.stderr
    return [json.loads(line) for line in dumped.stdout.splitlines()]


def assert_whole(fabric: Fabric, worker: Peer) -> None:
    counted = audit(fabric.file, bytes.fromhex(worker.last("stream")), worker.last("done"))
    assert (counted.missing, counted.lost, counted.duplicated) == (0, 0, 0)


def as_javascript(value: Any) -> Any:
    """What a vector says, with extensions read as the peers read them."""
    if isinstance(value, list):
        return [as_javascript(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["$ext"]:
        kind, data = value["$ext"][0], bytes.fromhex(value["$ext"][1])
        if kind == 2:
            return int.from_bytes(data, "big", signed=True)
        dtype, shape, items = msgpack.unpackb(data)
        return {"dtype": dtype, "shape": shape, "data": {"$bytes": items.hex()}}
    return {key: as_javascript(item) for key, item in value.items()}


def test_every_vector_says_the_same_in_javascript() -> None:
    vectors = resources.files("telefabric_schemas").joinpath("vectors")
    with Peer("vectors", vectors) as peer:
        assert peer.end() == 0
    says = {words["name"]: words["says"] for words in peer.said}
    assert says.keys() == {entry.name[:-4] for entry in vectors.iterdir() if entry.name.endswith(".bin")}
    for name, found in says.items():
        expected = json.loads(vectors.joinpath(f"{name}.json").read_text("utf-8"))
        if expected["what"] != "batch":
            assert found == as_javascript(expected["msgpack"]), name
            continue
        header = expected["header"]
        for ours, theirs in {"first": "first_seq", "last": "last_seq"}.items():
            header[ours] = header.pop(theirs)
        for item in ("session", "stream"):
            header[item] = header[item]["$bytes"]
        assert found["records"] == as_javascript([event for _, _, event in expected["records"]]), name
        assert {item: found[item] for item in found if item != "records"}.items() <= header.items(), name


def test_nothing_is_lost_and_nothing_comes_twice_when_the_broker_is_killed(fabric: Fabric) -> None:
    with Peer("worker", fabric.url, "killed", 4_000) as worker, Peer("durable", fabric.url, "copy") as durable:
        wait_for(lambda: (worker.last("acked") or 0) > 1_000, "a quarter is acknowledged")
        fabric.broker.kill()
        fabric.broker.start()
        last = worker.wait("done")
        assert last == 4_000 + 40 + 2
        wait_for(lambda: durable.last("stored") == last, "the durable subscriber has all, too")
        words = next(words for words in reversed(durable.said) if "stored" in words)
        assert words.get("pushed", 0) + words.get("read", 0) == last
        wait_for(lambda: [words.get("required") for words in durable.said].count(False) > 1, "it has attached again")
        assert (worker.end(), durable.end()) == (0, 0)
        assert_whole(fabric, worker)
        kinds = [event["kind"] for event in stored(fabric, "killed")]
        assert (kinds[0], kinds.count("step"), kinds.count("episode"), kinds[-1]) == (
            "run_started", 4_000, 40, "run_completed",
        )  # fmt: skip


def test_a_worker_that_lost_a_batch_is_rewound(fabric: Fabric) -> None:
    with Peer("worker", fabric.url, "rewound", 1_000, 2) as worker:
        worker.wait("done")
        assert worker.last("rewinds") >= 1
        assert_whole(fabric, worker)


def test_an_optional_durable_subscriber_that_comes_late_reads_from_the_store(fabric: Fabric) -> None:
    with Peer("worker", fabric.url, "late", 3_000) as worker:
        wait_for(lambda: (worker.last("acked") or 0) > 500, "some are acknowledged")
        with Peer("durable", fabric.url, "latecomer") as durable:
            last = worker.wait("done")
            wait_for(lambda: durable.last("stored") == last, "the durable subscriber has all, too")
            words = next(words for words in reversed(durable.said) if "stored" in words)
            assert words["read"] > 0
            assert words["read"] + words.get("pushed", 0) == last


def test_a_reader_pages_the_steps_of_a_run(fabric: Fabric) -> None:
    with Peer("worker", fabric.url, "read", 300) as worker:
        worker.wait("done")
    with Peer("reader", fabric.url, "read") as reader:
        assert reader.wait("done") == "read"
    assert reader.last("status") == "completed"
    steps = [words["decoded"] for words in reader.said if "event" in words]
    expected = [event for event in stored(fabric, "read") if event["kind"] == "step"]
    assert len(steps) == len(expected) == 300
    names = TOPICS["step"].event_type.__struct_fields__
    for step, event in zip(steps, expected, strict=True):
        told = dict(zip(names, step[1:], strict=False))
        array = told.pop("observation")
        assert told == {name: event[name] for name in told}
        assert (array["dtype"], array["shape"]) == (event["observation"]["dtype"], event["observation"]["shape"])


def test_a_live_subscriber_accounts_for_every_event(fabric: Fabric, tmp_path: Path) -> None:
    """It is stopped for a while, so that its queue overflows, and has one of ten events by its own wish."""
    with (
        Peer("live", fabric.url, 10, 500) as live,
        connect(fabric.url, run="live", spool=tmp_path, exit_flush_s=patience(20)) as worker,
    ):
        live.wait("watching")
        assert worker.flush(patience(20))
        worker.metric("loss", 0.5)
        live.wait("first")
        live.process.send_signal(signal.SIGSTOP)
        for number in range(30_000):
            worker.metric("loss", float(number))
        live.process.send_signal(signal.SIGCONT)
        worker.close()
        number = live.wait("number")
        words = live.said[-1]
        assert words["lost"] == 0
        assert words["received"] + sum(words["dropped"].values()) == number
        assert words["dropped"]["sampled"] > 0
        assert all(account["lost"] == 0 for account in words["accounts"])


def test_every_event_of_a_live_feed_is_accounted_for(fabric: Fabric) -> None:
    """From one peer to another: each kind has its own numbers, and nothing is lost that nobody reports."""
    with Peer("live", fabric.url, 1, 20_000) as live:
        live.wait("watching")
        with Peer("worker", fabric.url, "watched", 2_000, 0, "watched") as worker:
            worker.wait("done")
            live.wait("number")
            words = live.said[-1]
        accounts = {one["kind"]: one for one in words["accounts"] if one["stream"] == worker.last("stream")}
        assert (words["lost"], {one["lost"] for one in accounts.values()}) == (0, {0})
        assert accounts.keys() >= {"step", "episode", "run_heartbeat", "run_completed"}
        assert accounts["step"]["received"] + accounts["step"]["dropped"] == accounts["step"]["newest"]
        assert accounts["run_completed"]["received"] == 1
