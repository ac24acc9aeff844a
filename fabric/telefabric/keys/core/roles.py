"""What a key may do: each role enters some sockets (ZAP domains) and sends some control messages."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple

from telefabric.wire import control


class Role(StrEnum):
    """What the owner of a key may do."""

    ANY = "any"
    """Without keys, every user of this machine: everything but edits, and to be a subscriber that is waited for."""
    BROKERS_USER = "broker's user"
    """Without keys, the user that runs the broker: everything."""
    OWNER = "owner"
    """Everything: the key that `telefabric keys init` makes, for the services of the data folder and its user."""
    WORKER = "worker"
    CLIENT = "client"
    OPERATOR = "operator"
    STORE = "store"
    RELAY = "relay"


INVITED = (Role.WORKER, Role.CLIENT, Role.OPERATOR, Role.STORE, Role.RELAY)
"""Roles for which there are tickets."""


class Domain(StrEnum):
    """The sockets of the services, as ZAP names them."""

    CONTROL = "control"
    DATA = "data"
    LIVE = "live"
    DURABLE = "durable"
    WATCH = "watch"
    QUERY = "query"
    ENROL = "enrol"
    """Admits the keys of tickets, and no others."""


class Refused(NamedTuple):
    """The reasons by which refusals are counted."""

    reason: str
    domain: str
    name: str
    """Of the key, or the host of a connection that has shown none; empty where both are unknown."""


_ALL = frozenset(Domain) - {Domain.ENROL}
_READING = frozenset({Domain.CONTROL, Domain.WATCH, Domain.QUERY})
_DOMAINS: dict[Role, frozenset[Domain]] = {
    Role.ANY: _ALL,
    Role.BROKERS_USER: _ALL,
    Role.OWNER: _ALL,
    Role.WORKER: frozenset({Domain.CONTROL, Domain.DATA, Domain.LIVE}),
    Role.CLIENT: _READING,
    Role.OPERATOR: _READING,
    Role.STORE: frozenset({Domain.CONTROL, Domain.DURABLE}),
    Role.RELAY: _ALL,
}
_PUBLISHED = (control.Hello, control.Beat, control.Bye)
_READ = (control.Watch, control.WatchBeat, control.Unwatch)
_KEPT = (control.Attach, control.Marks, control.Stored, control.Nack, control.DurableBeat, control.Edited)
_MESSAGES: dict[Role, tuple[type[control.Message], ...]] = {
    Role.WORKER: _PUBLISHED,
    Role.CLIENT: _READ,
    Role.OPERATOR: (*_READ, control.Edit),
    Role.STORE: _KEPT,
    Role.RELAY: (*_PUBLISHED, *_READ, *_KEPT),
}


def may_enter(role: Role, domain: Domain) -> bool:
    return domain in _DOMAINS[role]


def may_send(role: Role, message: control.Message) -> bool:
    """Everybody with a key may ask for the status, and how the clocks differ: it says why something does not get on."""
    if role is Role.ANY:
        return not isinstance(message, control.Edit)
    if role in (Role.BROKERS_USER, Role.OWNER):
        return True
    asks_the_time = isinstance(message, control.Beat) and not message.streams
    return asks_the_time or isinstance(message, (control.StatusRequest, *_MESSAGES[role]))


def covers(runs: str, run_id: str) -> bool:
    """Whether a key for `runs`, a pattern such as ``sweep-*``, may publish this run."""
    return fnmatchcase(run_id, runs)
