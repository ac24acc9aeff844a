"""Principals: each message carries its principal from the socket into the rules, which keep it with the peer.

A routing id is chosen by the peer itself and proves nothing. The principal is what its key proves.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from telefabric import __version__
from telefabric.errors import WireError
from telefabric.keys.core.roles import INVITED, Role, covers, may_send
from telefabric.wire import control


class Principal(NamedTuple):
    """The owner of a key; where there are no keys, a user or all users of this machine."""

    name: str
    role: Role
    runs: str = "*"
    """The runs that it may publish, as a pattern."""

    @property
    def has_key(self) -> bool:
        return self.role not in (Role.ANY, Role.BROKERS_USER)


LOCAL_USERS = Principal("local users", Role.ANY)
"""Everybody who comes over TCP, where there are no keys."""


OTHER_USER = "other_user"
"""The reason for which what only the broker's own user may do is refused."""


class Peer(NamedTuple):
    """One connection of a principal: two principals with one routing id are two peers."""

    id: bytes
    """Its routing id."""
    principal: Principal


def forbidden(principal: Principal, message: control.Message, required: Container[str]) -> WireError | None:
    """Why a principal may not send this, if it may not. `required` names the subscribers that are waited for."""
    if principal.role is Role.ANY:
        if isinstance(message, control.Edit):
            return _other_user(message, "edit runs")
        if isinstance(message, control.Attach) and message.name in required:
            return _other_user(message, f"attach as {message.name!r}")
        return None
    if not may_send(principal.role, message):
        about = str(message.__struct_config__.tag)
        why = f"the key {principal.name} has the role {principal.role}, which may not send {about}"
        roles = " or ".join(role for role in INVITED if may_send(role, message)) or "another one"
        return WireError("role", f"{why}: ask for a ticket of the role {roles} (telefabric keys invite)", about=about)
    if isinstance(message, control.Hello) and not covers(principal.runs, message.info.run_id):
        return other_run(principal, message.info.run_id)
    return None


def _other_user(message: control.Message, what: str) -> WireError:
    why = f"while there are no keys, only the user that runs the broker may {what}, on its machine"
    remedy = f"use that account and telefabric {__version__} or newer, or make keys with telefabric keys init"
    return WireError(OTHER_USER, f"{why}: {remedy}", about=str(message.__struct_config__.tag))


def other_run(principal: Principal, run_id: str) -> WireError:
    """Its key does not cover the run."""
    why = f"the key {principal.name} is for the runs {principal.runs}, and not for {run_id}"
    return WireError("other_run", f"{why}: ask for a ticket for it (telefabric keys invite --runs)", about="hello")
