"""MCAP: JSON messages with their schemas, which Foxglove, Lichtblick, Rerun and PlotJuggler open.

Each run, agent and kind is a channel, `/RUN/AGENT/KIND`. Pictures are messages of Foxglove's own schemas, in Protobuf:
Rerun shows no others.
"""

from __future__ import annotations

from base64 import b64encode
from typing import IO

import msgspec
from mcap.writer import Writer as McapFile

from telefabric.exchange import foxglove
from telefabric.exchange.columns import COLUMNS
from telefabric.exchange.folder import Folder
from telefabric.exchange.json_form import encode_json, formed
from telefabric.exchange.writer import Writer
from telefabric.store.read.query import StoredEvent
from telefabric.store.read.reader import Reader
from telefabric_schemas import EXPIRED, Frame
from telefabric_schemas.decoding import event_of

_TYPES = {"BIGINT": "integer", "DOUBLE": "number", "BOOLEAN": "boolean", "VARCHAR": "string"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}


class McapWriter(Writer):
    """Writes `NNNNN.mcap`, one file a chunk, each complete by itself."""

    def __init__(self, folder: Folder, reader: Reader, *, raw: bool) -> None:
        super().__init__(folder, reader)
        self._raw = raw
        self._file: McapFile | None = None
        self._bytes: IO[bytes] | None = None
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}

    def add(self, rows: list[StoredEvent]) -> None:
        self.written.update(row.kind for row in rows)
        if self._file is None and rows:
            self._bytes = self.folder.add(f"{len(self.folder.progress.files):05}.mcap").open("wb")
            self._file = McapFile(self._bytes)
            self._file.start(library="telefabric")
        for row in rows:
            topic = f"/{row.run_id}/{row.agent_id}/{row.kind}"
            self._put(topic, f"telefabric.{row.kind}", self._message(row), row)
            if row.kind == "frame":
                self._put_picture(f"/{row.run_id}/{row.agent_id}/picture", row)

    def _message(self, row: StoredEvent) -> bytes:
        """What `telefabric dump` writes, without the picture of a frame, and with the event as received."""
        text = formed(row, lambda fields: encode_json({name: fields[name] for name in fields if name != "data"}))
        line = text.encode()
        return b'%b,"event":"%b"}' % (line[:-1], b64encode(row.event)) if self._raw else line

    def _put_picture(self, topic: str, row: StoredEvent) -> None:
        frame = event_of(row.event)
        if not isinstance(frame, Frame) or frame.encoding == EXPIRED:
            self.left_out["pictures that have expired or cannot be read"] += 1
            return
        name, message = foxglove.message(frame)
        self._put(topic, f"foxglove.{name}", message, row)

    def _put(self, topic: str, schema: str, message: bytes, row: StoredEvent) -> None:
        assert self._file is not None
        package, _, name = schema.partition(".")
        picture = package == "foxglove"
        if schema not in self._schemas:
            described = ("protobuf", foxglove.schema(name)) if picture else ("jsonschema", self._schema(name))
            self._schemas[schema] = self._file.register_schema(schema, *described)
        channel = f"{topic} {schema}"
        if channel not in self._channels:
            encoding = "protobuf" if picture else "json"
            self._channels[channel] = self._file.register_channel(topic, encoding, self._schemas[schema])
        moment = max(row.time_ns, 0)
        self._file.add_message(self._channels[channel], moment, message, moment, row.seq % 2**32)

    def _schema(self, kind: str) -> bytes:
        """Only plain types: readers of these files refuse others. A field that may hold any value is not described."""
        properties = {column: {"type": _TYPES[sql]} for column, sql in COLUMNS[kind].items() if sql in _TYPES}
        properties |= {"event": _BASE64} if self._raw else {}
        return msgspec.json.encode({"title": f"telefabric.{kind}", "type": "object", "properties": properties})

    def flush(self) -> None:
        if self._file is not None:
            self._file.finish()  # type: ignore[no-untyped-call]
        self.close()

    def close(self) -> None:
        if self._bytes is not None:
            self._bytes.close()
        self._file = self._bytes = None
        self._schemas.clear()
        self._channels.clear()
