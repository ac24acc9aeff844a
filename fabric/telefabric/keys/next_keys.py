"""The next keys of brokers, as they have named them, for all that this process dials."""

from __future__ import annotations

import time

_next: dict[str, tuple[str, float]] = {}
"""A broker's public key → the one that follows it, and when, in seconds since 1970."""


def learn(server: str, following: str, at_s: float) -> bool:
    """A broker's next key, for all sockets of this process; whether that is news."""
    known, _next[server] = _next.get(server), (following, at_s)
    return known != (following, at_s)


def newest(server: str) -> str:
    """The public key that is in force now, of a broker that had this one."""
    while server in _next and time.time() >= _next[server][1]:
        server = _next[server][0]
    return server
