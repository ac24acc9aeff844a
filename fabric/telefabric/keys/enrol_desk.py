"""The server's half of joining: a socket that admits the keys of tickets, and takes in the new key of each."""

from __future__ import annotations

from typing import Any

import zmq

from telefabric import limits
from telefabric.errors import EnvironmentProblem, WireError
from telefabric.keys.core.registry import Enrolled, Key, Refusal, Registry
from telefabric.keys.core.roles import Domain
from telefabric.keys.gate import Gate, now
from telefabric.wire import control

_JOINS_A_TURN = 2
"""Each reads the registry and may write it: milliseconds, in which nothing else is served."""
_WAIT_S = 0.2
"""For another process that changes the registry: a service has other things to do, and the other side asks again."""


class EnrolDesk:
    """Serves one socket, which its maker binds. The service's thread."""

    def __init__(self, socket: zmq.Socket[Any], gate: Gate) -> None:
        self.socket = socket
        self._gate = gate

    def serve(self) -> list[Key]:
        """Answer what is here; the keys that are new."""
        joined: list[Key] = []
        for _ in range(_JOINS_A_TURN):
            try:
                peer, *frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            ticket = self._gate.ticket_of(peer)
            answer, key = self._answer(ticket, frames)
            if isinstance(answer, control.NotJoined):
                known = self._gate.registry.current().tickets.get(ticket)
                self._gate.count(answer.reason, Domain.ENROL, known.name if known else "")
            joined += [key] if key else []
            try:
                self.socket.send_multipart([peer, control.encode(answer)], zmq.DONTWAIT)
            except zmq.ZMQError as error:
                if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):  # it has gone, and asks again when it is back
                    raise
        return joined

    def _answer(self, ticket: str, frames: list[zmq.Frame]) -> tuple[control.Message, Key | None]:
        try:
            message = control.decode(frames[-1].bytes if len(frames) == 1 else b"", limits.JOIN_BYTES_MAX)
        except WireError as error:
            return control.NotJoined(error.reason, str(error)), None
        if not isinstance(message, control.Join):
            return control.NotJoined("unexpected", "this socket takes join and nothing else: see WIRE.md"), None
        if message.protocol != control.PROTOCOL:
            why = f"this broker speaks protocol {control.PROTOCOL}, not {message.protocol}: install one version"
            return control.NotJoined("protocol", why), None
        try:
            found = self._gate.registry.change(lambda registry: _enrol(registry, ticket, message), _WAIT_S)
        except EnvironmentProblem:
            why = "the broker cannot write its registry of keys: telefabric doctor on its machine says why"
            return control.NotJoined("registry", why), None
        if isinstance(found, Refusal):
            return control.NotJoined(found.reason, found.sentence), None
        expires_s = int(found.expires.timestamp()) if found.expires else None
        return control.Joined(found.name, found.role.value, found.runs, expires_s), found


def _enrol(registry: Registry, ticket: str, message: control.Join) -> tuple[Registry, Key | Refusal]:
    found = registry.enrol(ticket, message.public, message.holder, now(), brief=message.brief)
    return (found.registry, found.key) if isinstance(found, Enrolled) else (registry, found)
