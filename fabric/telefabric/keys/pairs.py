"""Key pairs. They are made in a process without CURVE sockets: making one beside them can crash libzmq."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import zmq
from zmq.utils import z85

from telefabric.errors import EnvironmentProblem

_CHILD_S = 30.0
_CHILD = (
    "import sys, zmq; secret = sys.stdin.buffer.read(); "
    "sys.stdout.buffer.write(b' '.join([*zmq.curve_keypair(), *([zmq.curve_public(secret)] if secret else [])]))"
)


class Pair(NamedTuple):
    """Both halves in Z85, 40 characters each."""

    public: str
    secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Pair(public={self.public!r})"


class JoinPairs(NamedTuple):
    """What joining takes: the pair that the ticket's secret belongs to, and a new one."""

    ticket: Pair
    new: Pair


def make_pair() -> Pair:
    """In a program of ours that has no CURVE sockets yet. Raises `EnvironmentProblem` where libzmq cannot do it."""
    try:
        public, secret = zmq.curve_keypair()
    except zmq.ZMQError:
        raise EnvironmentProblem(
            "this machine's ZeroMQ was built without CURVE, so it has no keys: install pyzmq from its wheel "
            "(pip install --force-reinstall --only-binary pyzmq pyzmq)"
        ) from None
    return Pair(public.decode(), secret.decode())


def join_pairs(ticket_secret: bytes) -> JoinPairs:
    """In a program of ours, as `make_pair`."""
    new, secret = make_pair(), z85.encode(ticket_secret)
    return JoinPairs(Pair(zmq.curve_public(secret).decode(), secret.decode()), new)


def join_pairs_in_child(ticket_secret: bytes) -> JoinPairs:
    """In somebody else's process, which may have CURVE sockets: a child makes them. Secrets go through pipes only.

    Blocks for the start of an interpreter. Raises `EnvironmentProblem` when the child does not do it.
    """
    secret = z85.encode(ticket_secret)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD], input=secret, capture_output=True, timeout=_CHILD_S, check=True
        )
        new_public, new_secret, public = done.stdout.decode().split(" ")
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise EnvironmentProblem(
            f"a child process of {sys.executable} could not make a key pair ({type(error).__name__}): "
            "join before the program starts, with telefabric join"
        ) from None
    return JoinPairs(Pair(public, secret.decode()), Pair(new_public, new_secret))
