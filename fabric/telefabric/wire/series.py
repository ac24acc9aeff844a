"""Agent, environment and series of an encoded event, read without the rest of it.

Only for kinds that name an agent and can be many: lifecycle events belong to everybody.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from telefabric.wire.batch import BodyDecoder
from telefabric_schemas.events import Payload


class Key(NamedTuple):
    """The series of an event; `latest` keeps the newest event of each."""

    agent_id: str
    env_index: int = 0
    name: str = ""
    """The metric's name."""


class _Acted(msgspec.Struct, array_like=True, gc=False):
    """The first items of all kinds that belong to one environment of an agent."""

    kind: str
    seq: int
    agent_id: str
    env_index: int


class _Measured(msgspec.Struct, array_like=True, gc=False):
    """The first fields of a metric."""

    kind: str
    seq: int
    name: str
    value: Payload
    unit: Payload
    global_step: Payload
    agent_id: str


class _Logged(msgspec.Struct, array_like=True, gc=False):
    """The first fields of a log line."""

    kind: str
    seq: int
    level: Payload
    message: Payload
    agent_id: str


_acted: BodyDecoder[_Acted] = BodyDecoder(_Acted)
_measured: BodyDecoder[_Measured] = BodyDecoder(_Measured)
_logged: BodyDecoder[_Logged] = BodyDecoder(_Logged)


def keys_of(kind: str, body: bytes, count: int) -> list[Key] | None:
    """The key of each of `count` records of one kind; None for a kind without, or when they cannot be read."""
    try:
        match kind:
            case "step" | "episode" | "frame" | "reset" | "episode_voided":
                return [Key(one.event.agent_id, one.event.env_index) for one in _acted.decode(body, count)]
            case "metric":
                return [Key(one.event.agent_id, 0, one.event.name) for one in _measured.decode(body, count)]
            case "log":
                return [Key(one.event.agent_id) for one in _logged.decode(body, count)]
    except msgspec.DecodeError:
        pass  # such as an agent that is not a text
    return None
