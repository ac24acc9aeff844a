"""A durable subscriber beside the store, for tests: it appends the batches that it accepts to a file of its own.

A record is a head (length of the batch, how many of its first events were there before) and the batch as it came. It
is written before it is reported as stored, so what was reported survives a `kill -9`; a record torn by one is cut off.
One that is not `--required` steps over what it missed, which it could read from the store.
"""

from __future__ import annotations

import argparse
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from telefabric.address import Address
from telefabric.service.logs import set_up_logs
from telefabric.subscribe import DurableBatch, DurableSubscription
from telefabric.wire.batch import Header, parse_header

NAME = "exporter"
_HEAD = struct.Struct(">II")
_WAIT_S = 0.02


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
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
        self._marks = {each.header.stream: each.header.last_seq for each in kept(self._file)}
        self._file.truncate()
        self._subscription = DurableSubscription(
            broker, name=NAME, held=lambda stream: self._marks.get(stream, 0), keeps=str(path), required=required
        )

    def commit(self, batches: Iterator[DurableBatch]) -> dict[bytes, int]:
        moved: dict[bytes, int] = {}
        for batch in batches:
            self._file.write(_HEAD.pack(len(batch.message), batch.skip) + batch.message)
            self._marks[batch.header.stream] = moved[batch.header.stream] = batch.header.last_seq
        return moved

    def run(self) -> None:
        while True:
            self._subscription.feed(self, _WAIT_S)


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
