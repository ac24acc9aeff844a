"""Partitions as real networks have them: packets to and from one host vanish, in a network namespace of our own.

A policy rule comes before the routes, and established connections obey it too: TCP sends again and again, and goes on
once the rule is gone. Only the loopback hosts of the namespace are concerned; the machine's own network never is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

_NAMESPACE = ("unshare", "--map-root-user", "--net")
_BEFORE_LOCAL, _LOCAL = "10", "100"


def why_not() -> str:
    """Why this machine lets us have no network namespace; empty when it does."""
    try:
        tried = subprocess.run([*_NAMESPACE, "ip", "rule"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return "" if tried.returncode == 0 else tried.stderr.strip() or f"ip ended with {tried.returncode}"


def inside(command: Sequence[str]) -> list[str]:
    """The command that runs this one in a new namespace, which it has to `prepare`."""
    return [*_NAMESPACE, *command]


def prepare() -> None:
    """Loopback up, and room for a rule before the table of local addresses."""
    _ip("link", "set", "lo", "up")
    _ip("rule", "add", "pref", _LOCAL, "lookup", "local")
    _ip("rule", "del", "pref", "0")


def cut(host: str) -> None:
    for way in ("to", "from"):
        _ip("rule", "add", "pref", _BEFORE_LOCAL, way, host, "blackhole")


def heal(host: str) -> None:
    for way in ("to", "from"):
        _ip("rule", "del", "pref", _BEFORE_LOCAL, way, host, "blackhole")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
