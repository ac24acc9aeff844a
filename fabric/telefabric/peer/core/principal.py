"""Principals: each message carries its principal from the socket into the rules, which keep it with the peer.

A routing id is chosen by the peer itself and proves nothing. The principal is what its key proves.
"""

from __future__ import annotations

from typing import NamedTuple

from telefabric.errors import WireError
from telefabric.keys.core.roles import INVITED, Role, covers, may_send
from telefabric.wire import control


class Principal(NamedTuple):
    """The owner of a key."""

    name: str
    role: Role
    runs: str = "*"
    """The runs that it may publish, as a pattern."""


LOCAL_USERS = Principal("local users", Role.ANY)
"""Everybody, where there are no keys."""


class Peer(NamedTuple):
    """One connection of a principal: two principals with one routing id are two peers."""

    id: bytes
    """Its routing id."""
    principal: Principal


def forbidden(principal: Principal, message: control.Message) -> WireError | None:
    """Why the owner of a key may not send this, if it may not."""
    if not may_send(principal.role, message):
        about = str(message.__struct_config__.tag)
        why = f"the key {principal.name} has the role {principal.role}, which may not send {about}"
        roles = " or ".join(role for role in INVITED if may_send(role, message)) or "another one"
        return WireError("role", f"{why}: ask for a ticket of the role {roles} (telefabric keys invite)", about=about)
    if isinstance(message, control.Hello) and not covers(principal.runs, message.info.run_id):
        return other_run(principal, message.info.run_id)
    return None


def other_run(principal: Principal, run_id: str) -> WireError:
    """Its key does not cover the run."""
    why = f"the key {principal.name} is for the runs {principal.runs}, and not for {run_id}"
    return WireError("other_run", f"{why}: ask for a ticket for it (telefabric keys invite --runs)", about="hello")
