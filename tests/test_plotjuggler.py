"""`telefabric tail --live --plotjuggler`: what PlotJuggler's ZMQ Subscriber makes of it, by its rules."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from processes import TELEFABRIC, broker, free_ports, store, wait_for
from slowness import patience
from store_fixtures import metric, raw, step, stream

from telefabric import limits
from telefabric.cli.livetail import live_row
from telefabric.cli.plotjuggler import PlotJugglerSocket
from telefabric.errors import EnvironmentProblem
from telefabric.store.read.query import StoredEvent
from telefabric.subscribe import LiveEvent
from telefabric_workers import connect

Curves = dict[str, list[tuple[float, float]]]


class Subscriber:
    """Does with frames what `DataStreamZMQ::receiveLoop` and its JSON parser do.

    A first frame with others behind it is the topic, the second the payload, and a third the time, as `std::stod` reads
    it. Numbers and flags of the JSON object become points of `topic/field`, those of lists `topic/field[0]`.
    """

    def __init__(self, port: int, held_max: int = 1_000) -> None:
        self.curves: Curves = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.RCVHWM, held_max)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._socket.subscribe(b"")

    def read(self) -> Curves:
        while self._socket.poll(50):
            topic, payload, seconds = self._socket.recv_multipart()
            self._flatten(topic.decode(), json.loads(payload), float(seconds))
        return self.curves

    def _flatten(self, name: str, value: Any, at: float) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                self._flatten(f"{name}/{key}", part, at)
        elif isinstance(value, list):
            for index, part in enumerate(value):
                self._flatten(f"{name}[{index}]", part, at)
        elif isinstance(value, (bool, int, float)):
            self.curves.setdefault(name, []).append((at, float(value)))

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def listening() -> Iterator[Any]:
    made: list[Subscriber] = []

    def listen(port: int, **given: int) -> Subscriber:
        made.append(Subscriber(port, **given))
        return made[-1]

    yield listen
    for each in made:
        each.close()


def row(event: Any) -> StoredEvent:
    info = stream("walk")
    live = LiveEvent(info.stream, event.kind, event, msgspec.msgpack.encode(event), False, False)
    return live_row(live, info.stream, "walk", "w", "ada")


def test_curves_have_the_values_and_times_of_the_events(tmp_path: Path, listening: Any) -> None:
    port = free_ports()
    address = f"tcp://127.0.0.1:{port}"
    command = [*TELEFABRIC, "tail", "--live", "--plotjuggler", str(port + 5), "--connect", address]
    with broker(port, "--tap", "off"), store(port, tmp_path):
        tail = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        try:
            subscriber = listening(port + 5)
            with connect(address, run="walk", agent="ada", spool=tmp_path / "spool") as worker:

                def heard() -> bool:
                    worker.metric("warm-up", 1.0)
                    return bool(subscriber.read())

                wait_for(heard, "the first event")
                for index in range(20):
                    worker.step(episode=0, step=index, reward=index / 2, observation=[index, {"x": -index}])
                worker.metric("loss", 0.25)
                worker.metric("bad", float("nan"))
                last = "walk/ada/metric/bad/seq"
                curves = wait_for(lambda: last in subscriber.read() and subscriber.curves, "the last event")
        finally:
            tail.send_signal(signal.SIGINT)
            said = tail.communicate(timeout=patience(20))
    assert (tail.returncode, said[0]) == (130, "")
    rewards = curves["walk/ada/step/reward"]
    assert [value for _, value in rewards] == [index / 2 for index in range(20)]
    times = [value / 1e9 for _, value in curves["walk/ada/step/time_ns"]]
    assert [at for at, _ in rewards] == pytest.approx(times, abs=1e-5)
    assert [value for _, value in curves["walk/ada/step/observation[1]/x"]] == [-index for index in range(20)]
    assert [value for _, value in curves["walk/ada/metric/loss/value"]] == [0.25]
    assert "walk/ada/metric/bad/value" not in curves, "not a number: a text, which is not plotted"


def test_a_listener_that_does_not_read_costs_events_that_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listening: Any
) -> None:
    monkeypatch.setattr(limits, "PLOTJUGGLER_EVENTS_MAX", 10)
    monkeypatch.setattr("telefabric.cli.plotjuggler._TELL_S", 0.0)
    port, big = free_ports(), raw("x" * 1_000_000)
    with PlotJugglerSocket(port) as socket:
        subscriber = listening(port)

        def heard() -> bool:
            socket.show([row(metric(1))])
            return bool(subscriber.read())

        wait_for(heard, "the connection")
        subscriber.close()
        listening(port, held_max=1)  # and never reads
        wait_for(lambda: [socket.show([row(step(1, observation=big))]), capsys.readouterr().err][1], "a report")
        with pytest.raises(EnvironmentProblem, match=f"port {port} cannot be opened"):
            PlotJugglerSocket(port)
