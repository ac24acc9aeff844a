"""Where each event went: what is lost on the way is what was lost, and each hop that is behind is named."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import identity
import pytest
from emitter import Progress
from lossyrelay import LossyRelay
from processes import TELEFABRIC, Service, broker, free_ports, run, store, wait_for
from skips import requires
from slowness import patience

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.core.hops import Hop
from telefabric.log.thread import log_thread
from telefabric.peer.requests import ask_status
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric.subscribe import DurableSubscription, LiveSubscription
from telefabric.wire import policy
from telefabric.wire.policy import LATEST_PER_KEY, SAMPLE, QueuePolicy
from telefabric_schemas import Metric, Step
from telefabric_workers import connect

pytestmark = pytest.mark.timeout(120)


def emitter(url: str, folder: Path, *options: object) -> Service:
    script = str(Path(__file__).with_name("emitter.py"))
    words = [url, folder / "progress", "--spool", folder / "spool", "--run", "run", *options]
    return Service([sys.executable, script, *map(str, words)])


def status(url: str) -> dict[str, Any]:
    return ask_status(Address.parse(url)).status


def polled(subscription: LiveSubscription, look: Callable[[], object], what: str) -> None:
    """Polls until `look` is true."""

    def turn() -> bool:
        subscription.poll(0.02)
        return bool(look())

    wait_for(turn, what, 30)


def polled_more(subscription: LiveSubscription, events: int) -> None:
    enough = subscription.received + events
    polled(subscription, lambda: subscription.received > enough, f"{events} more come")


# -- lost in transit ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_what_is_lost_in_transit_is_what_was_lost_on_either_leg(tmp_path: Path, loss: float) -> None:
    port, host = free_ports(), "127.0.0.2"
    url = f"tcp://{host}:{port}"
    before = identity.deliveries
    with (
        LossyRelay(host, port, seed=7) as relay,
        broker(port),
        store(port, tmp_path),
        LiveSubscription(Address.parse(url), name="reader", runs=["run"]) as reader,
        connect(url, run="run", spool=tmp_path / "spool") as worker,
    ):
        polled(reader, lambda: worker.metric("begin", 0.0) or reader.received > 3, "the first events are there")
        assert reader.lost_in_transit == 0
        relay.loss = loss
        sent = 0
        for _ in range(150):
            for _ in range(20):
                worker.metric("loss", 1.0)
                sent += 1
            reader.poll(0.005)
        relay.loss = 0.0
        polled(reader, lambda: worker.metric("end", 0.0) or ticked(reader, url, worker.stream_id), "all is told")
        lost = reader.ledger.lost_in_transit
        assert (lost.to_broker, lost.to_client) == (relay.lost_to_broker, relay.lost_to_client)
        assert (relay.lost_to_broker + relay.lost_to_client > 0) == (loss > 0)
        (stream,) = status(url)["streams"]
        assert stream["live"]["lost_in_transit"] == relay.lost_to_broker, "the broker keeps the same account"
        polled(reader, lambda: status(url)["live"][0]["lost_in_transit"] == lost.to_client, "the reader tells its loss")
    assert identity.deliveries > before + 20, "each delivery was checked"


def ticked(reader: LiveSubscription, url: str, stream: bytes) -> bool:
    """The account of metrics has reached the last one, and the broker has nothing more for the reader."""
    seen = reader.ledger.sources[stream, "metric"]
    (watcher,) = status(url)["live"]
    return seen.newest + (seen.before or 0) >= 3_000 and reader.ledger.broker_hop.newest == watcher["numbered"]


# -- policies ----------------------------------------------------------------------------------------------------
def test_policies_are_granted_and_changed_while_connected(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    wish = QueuePolicy(10**9, 10**9, "of tomorrow", 10**9)
    with (
        broker(port),
        store(port, tmp_path),
        LiveSubscription(Address.parse(url), name="reader", runs=["run"], policy=wish) as reader,
        emitter(url, tmp_path, "--rate", 500) as worker,
    ):
        polled(reader, lambda: reader.received > 100, "it gets all")
        assert reader.granted == QueuePolicy(1_000_000, 3_600_000, "drop_oldest", 1_000_000)
        assert not reader.dropped
        reader.want(runs=["run"], policy=QueuePolicy(mode=SAMPLE, every=10))
        polled(reader, lambda: reader.dropped["sampled"] > 500, "it gets a sample")
        assert reader.granted == QueuePolicy(mode=SAMPLE, every=10)
        reader.want(runs=["run"], agents=["somebody else"], policy=QueuePolicy())
        polled(reader, lambda: reader.dropped["not_wanted"] > 500, "it gets what names no agent")
        worker.signal(signal.SIGINT)
        polled(reader, lambda: worker.process is None or worker.process.poll() is not None, "the worker has ended")
        polled(reader, lambda: ended(reader), "all is told")
        hop = reader.ledger.broker_hop
        assert hop.received + sum(reader.dropped.values()) == hop.newest == status(url)["live"][0]["numbered"]
        assert reader.lost_in_transit == 0


def ended(reader: LiveSubscription) -> bool:
    (watcher,) = status(str(reader._address.url))["live"]
    return bool(reader.ledger.broker_hop.newest == watcher["numbered"] and not watcher["queued"])


def test_other_runs_again_and_again_lose_nothing(tmp_path: Path) -> None:
    """The worker numbers what it publishes before it has heard that nobody wants it any more."""
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with (
        broker(port),
        store(port, tmp_path),
        LiveSubscription(Address.parse(url), name="reader") as reader,
        emitter(url, tmp_path, "--rate", 3_000),
    ):
        for _ in range(8):
            reader.want(runs=None)
            polled_more(reader, 300)
            reader.want(runs=[])
            polled(reader, lambda: not status(url)["live"][0]["runs"], "the broker knows")
        assert reader.lost_in_transit == 0
        (stream,) = status(url)["streams"]
        assert stream["live"]["lost_in_transit"] == 0


def test_whoever_does_something_else_for_a_while_gets_what_waited(tmp_path: Path) -> None:
    """Longer than three heartbeats, live and durable: what was not read is no silence of the broker."""
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    address = Address.parse(url)
    held: dict[bytes, int] = {}
    with (
        broker(port),
        store(port, tmp_path),
        LiveSubscription(address, name="reader", kinds=["step"]) as reader,
        connect(url, run="run", spool=tmp_path / "spool") as worker,
    ):
        keeper = DurableSubscription(address, name="keeper", held=lambda stream: held.get(stream, 0))

        def take() -> None:
            held.update({batch.header.stream: batch.header.last_seq for batch in keeper.poll(0.01)})
            reader.poll(0.01)

        try:
            wait_for(lambda: take() or (keeper.attached and reader.instance is not None), "both are served")
            polled(reader, lambda: worker.step(episode=0, step=0) or reader.received, "the first step comes")
            before = reader.received
            for _ in range(2):
                for step in range(100):
                    worker.step(episode=0, step=step)
                time.sleep(limits.MISSED_HEARTBEATS_MAX * limits.HEARTBEAT_S + 0.3)
                take()
            assert worker.flush(patience(20))
            wait_for(lambda: take() or held.get(worker.stream_id) == worker.emitted, "the keeper has all")
            wait_for(lambda: take() or reader.received >= before + 200, "the reader has all")
            assert (dict(reader.dropped), reader.lost_in_transit) == ({}, 0)
        finally:
            keeper.close()


def test_whoever_wants_to_be_waited_for_is_told_when_it_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_ports()
    with broker(port):
        address = Address.parse(f"tcp://127.0.0.1:{port}")
        keeper = DurableSubscription(address, name="returns", held=lambda stream: 0, required=True)
        try:
            wait_for(lambda: keeper.poll(0.02) or keeper.refusal, "it is refused")
        finally:
            keeper.close()
    assert "--required" in keeper.refusal
    assert log_thread.settle(10)
    assert caplog.messages == [f"durable.refused: {keeper.refusal}"]


def test_what_is_not_given_to_want_stays() -> None:
    with LiveSubscription(Address("127.0.0.1", 9), name="reader", runs=["b", "a"], agents=["x"]) as reader:
        reader.want(policy=policy.parse_policy("latest"))
        assert (reader._wish.runs, reader._wish.agents, reader._wish.policy.mode) == (["a", "b"], ["x"], LATEST_PER_KEY)
        reader.want(runs=None, agents=["y"])
        assert (reader._wish.runs, reader._wish.agents, reader._wish.policy.mode) == (None, ["y"], LATEST_PER_KEY)


# -- the first hop that is behind --------------------------------------------------------------------------------
def test_the_hop_that_stands_still_is_named(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    keeper = store(port, tmp_path)
    with broker(port), keeper, emitter(url, tmp_path, "--rate", 2_000) as worker:
        script = str(Path(__file__).with_name("follower.py"))
        with Service([sys.executable, script, url, "run", str(tmp_path / "heard")]):
            wait_for(lambda: behind(url) == {None}, "all is well")
            keeper.signal(signal.SIGSTOP)
            wait_for(lambda: behind(url) == {"store"}, "the store stands still")
            keeper.signal(signal.SIGCONT)
            wait_for(lambda: behind(url) == {None}, "it has caught up")
            worker.signal(signal.SIGSTOP)
            wait_for(lambda: behind(url) == {"worker"}, "the worker stands still")
            worker.signal(signal.SIGCONT)
            wait_for(lambda: behind(url) == {None}, "it speaks again")
        keeper.kill()
        wait_for(lambda: behind(url) == {"store"}, "there is no store", 40)


def behind(url: str) -> set[str | None]:
    return {stream["first_behind"] for stream in status(url)["streams"]}


def test_the_command_shows_the_way_of_each_stream(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with (
        broker(port),
        store(port, tmp_path),
        LiveSubscription(Address.parse(url), name="my reader", runs=["run"]) as reader,
        emitter(url, tmp_path, "--rate", 500),
    ):
        polled(reader, lambda: reader.received > 100, "it gets all")
        shown = run("status", "--connect", url, env={"COLUMNS": "160"})
        assert shown.returncode == 0, shown.stderr
        for word in ("emitted", "broker", "store", "live", "my reader", "20\u202f000 events, 10 s", "running"):
            assert word in shown.stdout
        (stream,) = status(url)["streams"]
        way = [Hop(*row) for row in stream["hops"]]
        assert [(hop.name, hop.path) for hop in way] == [
            ("worker", "durable"), ("broker", "durable"), ("store", "durable"), ("my reader", "live"),
        ]  # fmt: skip
        assert way[0].reached >= way[1].reached >= way[2].reached > 0


# -- consumers that nobody foresaw -------------------------------------------------------------------------------
def test_a_consumer_of_a_new_kind_plugs_in_by_configuration_alone_durable(tmp_path: Path) -> None:
    """It adds up rewards, and is named in a settings file: nothing is acknowledged without it."""
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    config = tmp_path / "telefabric.toml"
    config.write_text('required = "store,rewards"\n')
    rewards: list[float] = []
    marks: Counter[bytes] = Counter()
    consumer = DurableSubscription(Address.parse(url), name="rewards", held=lambda stream: marks[stream], required=True)

    def turn() -> None:
        moved: dict[bytes, int] = {}
        for batch in consumer.poll(0.02):
            rewards.extend(event.reward or 0.0 for event in batch.events() if isinstance(event, Step))
            marks[batch.header.stream] = moved[batch.header.stream] = batch.header.last_seq
        consumer.stored(moved)

    service = broker(port, env={"TELEFABRIC_CONFIG": str(config)})
    with service, store(port, tmp_path), connect(url, run="run", spool=tmp_path / "spool", exit_flush_s=0.1) as worker:
        for step in range(500):
            worker.step(episode=0, step=step, reward=float(step))
        wait_for(lambda: status(url)["absent"] == ["rewards"], "the broker waits for it")
        assert not worker.flush(1.0)
        wait_for(lambda: turn() or worker.flush(0.01), "it is acknowledged", 30)
        consumer.close()
    assert rewards == [float(step) for step in range(500)]
    assert audit(tmp_path / FILE_NAME, worker.stream_id, worker.emitted - 1).missing == 0


def test_a_consumer_of_a_new_kind_plugs_in_by_configuration_alone_live(tmp_path: Path) -> None:
    """A gauge: the newest value of each metric, ten times slower than they come."""
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    gauge: dict[str, float | None] = {}
    with (
        broker(port),
        LiveSubscription(
            Address.parse(url), name="gauge", runs=None, kinds=["metric"], policy=QueuePolicy(mode=LATEST_PER_KEY)
        ) as reader,
        connect(url, run="run", spool=tmp_path / "spool", exit_flush_s=0.0) as worker,
    ):
        number = 0

        def take() -> None:
            for one in reader.poll(0.01):
                assert isinstance(one.event, Metric)
                gauge[one.event.name] = one.event.value

        def turn() -> bool:
            nonlocal number
            for _ in range(50):
                number += 1
                for name in ("loss", "return", "entropy"):
                    worker.metric(name, float(number))
            take()
            return reader.dropped["replaced"] > 1_000

        wait_for(turn, "most values were replaced by newer ones", 30)
        wait_for(lambda: take() or set(gauge.values()) == {float(number)}, "the newest of each has come", 30)
        assert set(gauge) == {"loss", "return", "entropy"}


# -- tail --live -------------------------------------------------------------------------------------------------
def test_tail_live_shows_what_the_policy_leaves_and_tells_what_it_does_not(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    output, errors = tmp_path / "out", tmp_path / "err"
    words = ["tail", "--live", "--connect", url, "--run", "run", "--kind", "step", "--policy", "sample:50", "--json"]
    with (
        broker(port),
        store(port, tmp_path),
        emitter(url, tmp_path, "--rate", 1_000),
        output.open("wb") as out,
        errors.open("wb") as err,
        subprocess.Popen([*TELEFABRIC, *words], stdout=out, stderr=err) as tail,
    ):
        try:
            wait_for(lambda: output.read_bytes().count(b"\n") > 20, "lines come", 30)
            tail.send_signal(signal.SIGINT)
            assert tail.wait(patience(20)) == 130
        finally:
            tail.kill()
    stream, _ = Progress(tmp_path / "progress").read()
    assert f'"stream_id":"{stream.hex()}"' in output.read_text()
    assert '"kind":"step"' in output.read_text()
    assert "sampled" in errors.read_text()


def test_tail_live_tells_that_its_subscription_began_anew(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    output, errors = tmp_path / "out", tmp_path / "err"
    with (
        broker(port) as serving,
        store(port, tmp_path),
        emitter(url, tmp_path, "--rate", 1_000),
        output.open("wb") as out,
        errors.open("wb") as err,
        subprocess.Popen([*TELEFABRIC, "tail", "--live", "--connect", url, "--json"], stdout=out, stderr=err) as tail,
    ):
        try:
            wait_for(lambda: output.read_bytes().count(b"\n") > 20, "lines come", 30)
            serving.kill()
            serving.start()
            seen = output.read_bytes().count(b"\n")
            wait_for(lambda: output.read_bytes().count(b"\n") > seen + 1_000, "more lines come", 30)
            wait_for(lambda: "began again" in errors.read_text(), "its line")
        finally:
            tail.kill()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "sample:3"], "--live"),
        (["--live", "--policy", "every-third"], "low-latency, balanced, high-rate, latest, sample:N"),
        (["--live", "--since", "3"], "leave out"),
    ],
)
def test_tail_live_says_how_it_is_used(words: list[str], said: str) -> None:
    done = run("tail", "--connect", f"tcp://127.0.0.1:{free_ports()}", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_figures_of_four_policies_add_up(tmp_path: Path) -> None:
    """The short form of a run with a million events."""
    script = Path(__file__).resolve().parent.parent / "scripts" / "check_policies"
    words = [sys.executable, str(script), "--events", "40000", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exact"]
    said = found["subscribers"]
    assert said["sampler"]["steps_received"] == 4_000
    assert said["one-agent"]["steps_received"] == 10_000
    assert said["gauge"]["dropped"]["replaced"] > 0


# -- the page about it -------------------------------------------------------------------------------------------
PAGE = Path(__file__).resolve().parent.parent / "docs" / "subscribe.md"


@requires("a checkout, with its documentation", PAGE.exists())
def test_the_programs_of_the_page_run(tmp_path: Path) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    programs = {}
    for block in re.findall(r"^```python\n(# (\w+\.py)\n.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        programs[block[1]] = tmp_path / block[1]
        programs[block[1]].write_text(block[0].replace("tcp://127.0.0.1:7750", url))
    assert set(programs) == {"gauge.py", "keep.py"}
    printed = tmp_path / "printed"
    with (
        broker(port, "--required", "store,returns"),
        store(port, tmp_path),
        printed.open("wb") as out,
        subprocess.Popen([sys.executable, programs["gauge.py"]], stdout=out, cwd=tmp_path) as gauge,
        subprocess.Popen([sys.executable, programs["keep.py"]], cwd=tmp_path) as keeper,
    ):
        try:
            with connect(url, run="run", spool=tmp_path / "spool", exit_flush_s=patience(30)) as worker:
                for number in range(20):
                    worker.episode(episode=number, total_reward=float(number), length=1)
                wait_for(lambda: worker.metric("loss", 0.25) or b"loss 0.25" in printed.read_bytes(), "it prints", 30)
            returns = (tmp_path / "returns.txt").read_text().splitlines()
            assert [float(line) for line in returns] == [float(number) for number in range(20)]
            assert status(url)["absent"] == []
        finally:
            gauge.kill()
            keeper.kill()


@requires("a checkout, with its documentation", PAGE.exists())
def test_the_page_names_every_policy() -> None:
    said = re.findall(r"^\| `([\w-]+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert said == ["balanced", "low-latency", "high-rate", "drop_oldest", "sample", "latest"]
    for name, wish in policy.PRESETS.items():
        row = next(line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| `{name}`"))
        assert f"{wish.events_max:,} events, {wish.age_ms_max / 1_000:g} s" in row


@pytest.mark.parametrize(
    "text", ["", "sample", "sample:0", "sample:1.5", "sample:x", "latest:3", "drop_oldest:5", "block"]
)
def test_a_policy_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="low-latency, balanced, high-rate"):
        policy.parse_policy(text)
