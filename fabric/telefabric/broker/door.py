"""The broker's door: its entrance, and where there are keys the gate that answers for its sockets, and the desk for
tickets."""

from __future__ import annotations

from typing import Any

import zmq

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.sockets import ENROL, opened
from telefabric.errors import EnvironmentProblem
from telefabric.keys.core.registry import Key
from telefabric.keys.enrol_desk import EnrolDesk
from telefabric.keys.entrance import Entrance
from telefabric.keys.gate import Gate, now
from telefabric.keys.key_folder import KeyFolder
from telefabric.log.events import EventLog

log = EventLog("telefabric.broker")


class Door:
    """Binds the socket `enrol` on construction; construct it before any other socket is bound. The broker's thread."""

    def __init__(self, context: zmq.Context[Any], listen: Address, keys: KeyFolder | None) -> None:
        self.gate = Gate(context, keys, remember=True) if keys is not None else None
        self.entrance = self.gate or Entrance()
        self._desk = EnrolDesk(opened(context, ENROL, listen, self.gate).socket, self.gate) if self.gate else None
        self.ended: frozenset[Key] = frozenset()
        """The keys that were found to have ended at the last look."""
        self._problem = ""

    def register(self, poller: zmq.Poller) -> None:
        if self.gate is not None and self._desk is not None:
            poller.register(self.gate.socket, zmq.POLLIN)
            poller.register(self._desk.socket, zmq.POLLIN)

    def tend(self) -> list[Key]:
        """Let in who may; the keys that are new."""
        self.ended = self.entrance.tend()
        return self._desk.serve() if self._desk is not None else []

    def end_brief(self, name: str) -> None:
        """End the key of that name, if it was to end with its work."""
        assert self.gate is not None
        try:
            self.gate.registry.change(lambda registry: (registry.end_brief(name, now()), None), limits.REGISTRY_LOOK_S)
        except EnvironmentProblem as error:  # it ends with its ticket, then
            log.warning("keys.unended", name=name, problem=str(error))

    def tell_refused(self) -> None:
        """Log who was refused since the last time, and what is wrong with the registry."""
        times, kinds = self.entrance.newly_refused()
        if times:
            log.warning("keys.refused", times=times, kinds=kinds)
        if self.gate is not None and self.gate.problem != self._problem:
            self._problem = self.gate.problem
            log.error("keys.registry", problem=self._problem or "it is well again")
