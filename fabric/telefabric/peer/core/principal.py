"""Who speaks: the principal goes with each message from the socket into the rules, which keep it with the peer.

A routing id is chosen by the peer itself and proves nothing. The principal is what its key proves.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """What a principal may do."""

    ANY = "any"
    """Everything: without keys there is nothing by which to tell users of this machine apart."""
    WORKER = "worker"
    CLIENT = "client"
    OPERATOR = "operator"
    STORE = "store"
    RELAY = "relay"


class Principal(NamedTuple):
    """The owner of a key."""

    name: str
    role: Role

    @classmethod
    def of(cls, user_id: str) -> Principal:
        """From the User-Id that authentication gave to a connection: role, blank, name."""
        role, _, name = user_id.partition(" ")
        return cls(name, Role(role))

    @property
    def user_id(self) -> str:
        return f"{self.role} {self.name}"


LOCAL_USERS = Principal("local users", Role.ANY)
"""Everybody, where there are no keys."""


class Peer(NamedTuple):
    """One connection of a principal: two principals with one routing id are two peers."""

    id: bytes
    """Its routing id."""
    principal: Principal
