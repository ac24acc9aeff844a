"""Reading a store through its query service, wherever that is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from telefabric import __version__, limits
from telefabric.address import Address
from telefabric.errors import (
    EnvironmentProblem,
    NotAdmitted,
    OlderStore,
    StoreError,
    Unreachable,
    UsageError,
    WireError,
)
from telefabric.keys.handshake import is_refusal, why_not
from telefabric.keys.saved_connections import address_of
from telefabric.peer.requests import PATIENCE_S, Requests, ask_status
from telefabric.store.read import query
from telefabric.store.read.query import Page
from telefabric.store.read.reader import Reader
from telefabric_schemas.decoding import Decoder

T = TypeVar("T")

_LOOK_S = 0.02
"""How often a wait looks whether the answer is still wanted."""


class RemoteReader(Reader):
    """Asks the query service of the store behind a broker.

    Raises `Unreachable` when no broker answers, when it has no store, or when the store does not answer.
    """

    def __init__(
        self, address: Address, *, timeout_s: float = PATIENCE_S, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """`cancelled` is asked while an answer is awaited; when it says so the question is dropped, and fails."""
        self._cancelled = cancelled
        self.where = address.url
        self._address = address
        self._timeout_s = timeout_s
        self._connect(self._find())

    def close(self) -> None:
        self._requests.close()

    def answer(self, question: query.Question[T]) -> Page[T]:
        status, body = self._request(msgspec.msgpack.encode(question))
        if status == query.USAGE and body.startswith(query.UNKNOWN.encode()):
            raise OlderStore(
                f"the store behind {self.where} is older than this program and does not know the question "
                f"{question.__struct_config__.tag!r}: upgrade it to telefabric {__version__} or newer"
            )
        if status != query.OK:
            raise (UsageError if status == query.USAGE else StoreError)(body.decode("utf-8", "replace"))
        try:
            return cast("Page[T]", _decoder(type(question)).decode(body))
        except msgspec.DecodeError as error:
            raise StoreError(
                f"the store behind {self.where} answers in the protocol of another version ({error}): "
                "pip install -U telefabric on both sides"
            ) from None

    def _request(self, request: bytes) -> tuple[bytes, bytes]:
        """Status and body of the reply. When it takes long, the broker is asked whether the store has moved."""
        number = self._send(request)
        reply = self._await(number, self._timeout_s)
        if reply is None:
            endpoint = self._find()
            if endpoint != self._endpoint or is_refusal(self._requests.handshake):
                self._requests.close()
                self._connect(endpoint)
                number = self._send(request)
            reply = self._await(number, limits.QUERY_DEADLINE_S)
        if reply is None and is_refusal(self._requests.handshake):
            shown = "this key" if self._address.keys else ""
            raise NotAdmitted(why_not(self._requests.handshake, self._endpoint, shown))
        if reply is None:
            raise Unreachable(
                f"the store behind {self.where} does not answer at {self._endpoint}: see telefabric doctor"
            )
        return reply

    def _send(self, request: bytes) -> bytes:
        number = os.urandom(query.NUMBER_BYTES)
        self._requests.send(number, request)
        return number

    def _await(self, number: bytes, timeout_s: float) -> tuple[bytes, bytes] | None:
        """The reply to that request, or None if it does not come in time. Late replies to others are skipped."""
        deadline_s = time.monotonic() + timeout_s
        while (now_s := time.monotonic()) < deadline_s and not self._requests.handshake.is_final:
            frames = self._requests.receive(min(deadline_s, now_s + _LOOK_S))
            if frames is not None and len(frames) == 3 and frames[0] == number:
                return frames[1], frames[2]
            if self._cancelled():
                self._requests.send(number, query.DROP)
                raise StoreError(f"a question to {self.where} was dropped")
        return None

    def _find(self) -> str:
        reply = ask_status(self._address, self._timeout_s)
        if (endpoint := reply.endpoints.query) is None:
            raise Unreachable(self._why_unanswered([str(one["name"]) for one in reply.status.get("durable", [])]))
        try:
            return self._address.resolve(endpoint)
        except WireError as error:
            raise Unreachable(str(error)) from None

    def _why_unanswered(self, elsewhere: list[str]) -> str:
        """`elsewhere` names the broker's stores, none of which answers questions."""
        if not elsewhere:
            why, remedy = "has no store that answers questions", "start one there with: telefabric store"
        else:
            why = f"stores elsewhere ({', '.join(elsewhere)}), and questions go to a store on its own machine alone"
            remedy = (
                "read the file where it is, with --store, or let the broker wait for a store beside it too (telefabric "
                "broker --required) and start that one there with: telefabric store"
            )
        return f"the broker at {self.where} {why}: {remedy}"

    def _connect(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._requests = Requests(
            endpoint, "see telefabric doctor", keys=self._address.keys, reply_bytes_max=query.REPLY_BYTES_MAX
        )


@cache
def _decoder(question: type[query.Question[Any]]) -> Decoder[Page[Any]]:
    return Decoder(query.answer_of(question))


def open_store(where: str | Path) -> Reader:
    """A reader of a store file, of the store in a folder, or of the store behind the broker at ``tcp://host:port``.

    Raises `UsageError` for an address that is malformed, `StoreError` when the file cannot be read, `Unreachable` when
    no broker answers or it has no store, and `EnvironmentProblem` when a file is named and apsw is not installed.
    """
    if isinstance(where, str) and "://" in where:
        return RemoteReader(address_of(where))
    try:  # apsw comes with an extra, and a store behind a broker is read without it
        from telefabric.store.file.database import store_file
        from telefabric.store.read.file_reader import FileReader
    except ModuleNotFoundError as error:
        if error.name != "apsw":
            raise
        raise EnvironmentProblem("reading a store file needs: pip install 'telefabric[store]'") from None
    return FileReader(store_file(Path(where)))
