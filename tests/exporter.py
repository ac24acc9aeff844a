"""A durable subscriber beside the store, for tests: it appends the batches that it accepts to a file of its own.

A record is a head (length of the batch, how many of its first events were there before) and the batch as it came. It
is written before it is reported as stored, so what was reported survives a `kill -9`; a record torn by one is cut off.
One that is not `--required` steps over what it missed, which it could read from the store.
"""

from __future__ import annotations

import argparse
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from telefabric.address import Address
from telefabric.cli.options import set_up_logs
from telefabric.errors import WireError
from telefabric.session.intake import Intake, Verdict
from telefabric.store.service import BrokerSession
from telefabric.wire import control
from telefabric.wire.batch import Header, check_body, parse_header

NAME = "exporter"
_HEAD = struct.Struct(">II")
_WAIT_MS = 20


class Kept(NamedTuple):
    """A batch in the file."""

    header: Header
    body: bytes
    skip: int
    """So many of its first events stand in an earlier one."""


def kept(file: BinaryIO) -> Iterator[Kept]:
    """All whole records; the file then stands behind the last of them."""
    while True:
        at = file.tell()
        head = file.read(_HEAD.size)
        length, skip = _HEAD.unpack(head) if len(head) == _HEAD.size else (1, 0)
        message = file.read(length)
        if len(message) < length:
            file.seek(at)
            return
        header, start = parse_header(message)
        yield Kept(header, message[start:], skip)


class Exporter:
    def __init__(self, broker: Address, path: Path, *, required: bool) -> None:
        self._broker = broker
        self._required = required
        self._keeps = str(path)
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
        self._marks = {each.header.stream: each.header.last_seq for each in kept(self._file)}
        self._file.truncate()
        self._intake = Intake()
        self._session: BrokerSession | None = None

    def run(self) -> None:
        while True:
            session = self._session
            if session is None or session.silent(time.monotonic_ns()):
                session = self._connect()
            session.wait(_WAIT_MS)
            for message in session.receive_control(time.monotonic_ns()):
                self._dispatch(session, message)
            self._take_all(session)
            session.beat(time.monotonic_ns(), 0, 0)

    def _connect(self) -> BrokerSession:
        if self._session is not None:
            self._session.close()
        self._session = BrokerSession(self._broker, time.monotonic_ns())
        self._attach(self._session)
        return self._session

    def _attach(self, session: BrokerSession) -> None:
        session.attach(control.Attach(control.PROTOCOL, NAME, None, self._keeps))

    def _dispatch(self, session: BrokerSession, message: control.Message) -> None:
        match message:
            case control.Attached():
                session.subscribe(message)
            case control.Ask() if message.instance == session.instance:
                marks = [control.StreamSeq(info.stream, self._mark(info.stream)) for info in message.streams]
                session.send(control.Marks(message.instance, marks))
            case control.Who() | control.Ask():
                self._attach(session)

    def _mark(self, stream: bytes) -> int:
        mark = self._marks.setdefault(stream, 0)
        self._intake.reset(stream, mark)
        return mark

    def _take_all(self, session: BrokerSession) -> None:
        moved: dict[bytes, int] = {}
        while (message := session.receive_data()) is not None:
            try:
                header, start = parse_header(message)
                check_body(header, message[start:])
            except WireError:
                continue  # damaged on the way: the next one does not follow
            if header.session == session.instance and self._take(session, header, message):
                moved[header.stream] = self._marks[header.stream]
        if moved and session.instance is not None:
            session.send(control.Stored(session.instance, [control.StreamSeq(*mark) for mark in moved.items()]))

    def _take(self, session: BrokerSession, header: Header, message: bytes) -> bool:
        judgement = self._intake.judge(header)
        if judgement.verdict in (Verdict.NACK, Verdict.AHEAD) and not self._required:
            self._intake.reset(header.stream, header.first_seq - 1)
            judgement = self._intake.judge(header)
        if judgement.verdict is Verdict.NACK:
            session.send(control.Nack(header.session, header.stream, header.epoch, judgement.expected, "missing"))
        if judgement.verdict is not Verdict.ACCEPT:
            return False
        self._file.write(_HEAD.pack(len(message), judgement.skip) + message)
        self._marks[header.stream] = header.last_seq
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("output", type=Path)
    parser.add_argument("--required", action="store_true")
    given = parser.parse_args()
    set_up_logs()
    exporter = Exporter(Address.parse(given.url), given.output, required=given.required)
    print("ready", flush=True)
    exporter.run()


if __name__ == "__main__":
    main()
