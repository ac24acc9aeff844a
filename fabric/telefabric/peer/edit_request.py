"""Asks for an edit of a run, again and again until it is answered."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import Foreign, Unreachable, UsageError, WireError
from telefabric.peer.core.principal import OTHER_USER
from telefabric.peer.own_socket import control_url
from telefabric.peer.requests import Requests, unanswered
from telefabric.wire import control
from telefabric.wire.edits import DONE, FAILED, value_of
from telefabric.wire.names import require_short


def ask_edit(
    address: Address, command: str, run_id: str, value: object = None, *, timeout_s: float = limits.EDIT_ASKED_S
) -> str:
    """What the store did, as a sentence. Any thread; blocks for `timeout_s` at most.

    `command` and `value` are those of `telefabric.wire.edits`. It is applied once, however often it has to be said.
    Raises `UsageError` for an edit that is refused, `Unreachable` for one that nobody could judge in time, and
    its `NotAdmitted` when the broker does not let this side in.
    """
    require_short("the edit", [run_id])
    try:
        edit = control.Edit(os.urandom(16), command, run_id, msgspec.Raw(msgspec.msgpack.encode(value)))
        value_of(edit)
    except UnicodeEncodeError:
        raise UsageError(f"the value of {command} is not Unicode text: give it in UTF-8") from None
    except WireError as error:
        raise UsageError(str(error)) from None
    return _ask(address, edit, time.monotonic() + timeout_s)


def read_only(file: Path) -> UsageError:
    """Why a store file by itself is not edited, and the remedy."""
    folder = file if file.is_dir() else file.parent
    return UsageError(
        f"a store file is read-only: start its store with telefabric up --data {folder}, and edit through the broker"
    )


class _OtherUser(UsageError):
    """The message was refused because it came over TCP."""


def _ask(address: Address, edit: control.Edit, until_s: float, *, said: int = 0) -> str:
    """`said` is the number of tries before."""
    url = control_url(address)
    with Requests(url, "check the address", keys=address.keys) as asked:
        try:
            return _repeat(asked, address, edit, until_s, said)
        except _OtherUser:
            if control_url(address) == url:
                raise
    return _ask(address, edit, until_s, said=said + 1)  # the broker has made a socket for its own user meanwhile


def _repeat(asked: Requests, address: Address, edit: control.Edit, until_s: float, said: int) -> str:
    """The first failure counts at once; later ones may come of a restart in which the edit was judged unheard."""
    failed = ""
    while (now_s := time.monotonic()) < until_s:
        asked.send(control.encode(edit))
        said += 1
        answer = _answer(asked, address, edit.id, min(until_s, now_s + limits.EDIT_REPEAT_S))
        if answer is None:
            if asked.handshake.is_final:
                break
            continue
        if answer.outcome == DONE:
            return answer.sentence
        if answer.outcome != FAILED:
            raise UsageError(answer.sentence)
        if said == 1:
            raise Unreachable(answer.sentence)
        failed = answer.sentence
        time.sleep(max(min(until_s, now_s + limits.EDIT_REPEAT_S) - time.monotonic(), 0))
    if failed:
        raise Unreachable(f"{failed}; it may have been done all the same: see telefabric runs show")
    raise unanswered(asked.handshake, address)


def _answer(asked: Requests, address: Address, id: bytes, deadline_s: float) -> control.Edited | None:
    while (frames := asked.receive(deadline_s)) is not None:
        try:
            message = control.decode(frames[-1])
        except WireError as error:
            raise Foreign(f"the program at {address.url} is not a broker ({error}): check the address") from None
        match message:
            case control.Edited() if message.id == id:
                return message
            case control.Error(reason="bad_control"):
                raise Unreachable(f"the broker at {address.url} cannot edit runs: pip install -U telefabric there")
            case control.Error(reason=reason) if reason == OTHER_USER:
                raise _OtherUser(message.message)
            case control.Error():
                raise UsageError(message.message)
            case control.Refused():
                raise UsageError(message.reason)
    return None
