"""`telefabric tail --live --plotjuggler`: live events on a socket, as PlotJuggler's ZMQ Subscriber takes them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Self

import click
import zmq

from telefabric import limits
from telefabric.errors import EnvironmentProblem
from telefabric.exchange.json_form import json_line
from telefabric.store.read.query import StoredEvent
from telefabric_schemas import Metric
from telefabric_schemas.decoding import event_of

PORT = 9872
"""What PlotJuggler connects to by default."""
_TELL_S = 1.0


class PlotJugglerSocket:
    """Publishes each event in three frames: topic, JSON object, and its time in seconds as a text.

    PlotJuggler names curves by topic and field. It plots numbers and flags, also inside of lists and maps. On this
    machine alone, since the socket is plain.
    """

    def __init__(self, port: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, limits.PLOTJUGGLER_EVENTS_MAX)
        self._socket.set(zmq.XPUB_NODROP, 1)  # a full pipe is an error, and not a silent loss
        self._dropped = self._told = 0
        self._told_s = time.monotonic()
        try:
            self._socket.bind(f"tcp://127.0.0.1:{port}")
        except zmq.ZMQError as error:
            self._context.destroy()
            raise EnvironmentProblem(f"port {port} cannot be opened: {error}: give --plotjuggler another one") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.destroy()

    def show(self, rows: Iterable[StoredEvent]) -> None:
        for row in rows:
            frames = [_topic(row).encode(), json_line(row)[:-1], f"{row.time_ns / 10**9:.6f}".encode()]
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                self._dropped += 1
        if self._dropped > self._told and time.monotonic() - self._told_s > _TELL_S:
            self._told, self._told_s = self._dropped, time.monotonic()
            click.echo(f"telefabric: {self._dropped} events dropped so far: PlotJuggler is behind", err=True)


def _topic(row: StoredEvent) -> str:
    """Run, agent and kind, so that each curve has a name of its own: also the metric's, or which of several envs."""
    event = event_of(row.event)
    env = getattr(event, "env_index", 0)
    last = f"/{event.name}" if isinstance(event, Metric) else f"/env {env}" if env else ""
    return f"{row.run_id}/{row.agent_id}/{row.kind}{last}"
