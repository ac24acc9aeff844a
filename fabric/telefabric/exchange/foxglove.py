"""Pictures as Foxglove's own messages in Protobuf, the form that all viewers of MCAP show.

Schemas of 2026: https://github.com/foxglove/foxglove-sdk, schemas/proto/foxglove, CompressedImage and RawImage. What
describes a message is itself one: https://github.com/protocolbuffers/protobuf, descriptor.proto.
"""

from __future__ import annotations

from telefabric.exchange.protobuf import fixed32, integer, piece
from telefabric_schemas import Frame

_NS = 10**9
_INT64, _INT32, _FIXED32, _STRING, _MESSAGE, _BYTES = 3, 5, 7, 9, 11, 12
"""Types of fields in a descriptor."""
_TIME = ".google.protobuf.Timestamp"

Fields = dict[str, tuple[int, int]]
"""Name → number and type."""
_IMAGES: dict[str, Fields] = {
    "CompressedImage": {
        "timestamp": (1, _MESSAGE), "frame_id": (4, _STRING), "data": (2, _BYTES), "format": (3, _STRING),
    },
    "RawImage": {
        "timestamp": (1, _MESSAGE), "frame_id": (7, _STRING), "width": (2, _FIXED32),
        "height": (3, _FIXED32), "encoding": (4, _STRING), "step": (5, _FIXED32), "data": (6, _BYTES),
    },
}  # fmt: skip


def schema(name: str) -> bytes:
    """A `FileDescriptorSet` with the message and with the time in it. `name`: CompressedImage or RawImage."""
    time = _file("google/protobuf/timestamp.proto", "google.protobuf", "Timestamp", {
        "seconds": (1, _INT64), "nanos": (2, _INT32),
    })  # fmt: skip
    image = _file(f"foxglove/{name}.proto", "foxglove", name, _IMAGES[name], "google/protobuf/timestamp.proto")
    return piece(1, time) + piece(1, image)


def message(frame: Frame) -> tuple[str, bytes]:
    """Name and bytes of the message that a frame becomes. It must have a picture."""
    raw = frame.encoding == "raw"
    seconds, nanos = divmod(max(frame.time_ns, 0), _NS)
    values: dict[str, bytes | int] = {
        "timestamp": integer(1, seconds) + integer(2, nanos), "frame_id": frame.agent_id.encode(), "data": frame.data,
        "width": frame.width, "height": frame.height, "step": 3 * frame.width, "encoding": b"rgb8",
        "format": frame.encoding.encode(),
    }  # fmt: skip
    name = "RawImage" if raw else "CompressedImage"
    encoded = b""
    for field, (number, _) in _IMAGES[name].items():
        value = values[field]
        encoded += fixed32(number, value) if isinstance(value, int) else piece(number, value)
    return name, encoded


def _file(path: str, package: str, name: str, fields: Fields, *imported: str) -> bytes:
    described = b"".join(
        piece(2, piece(1, field.encode()) + integer(3, number) + integer(4, 1) + integer(5, kind)
               + (piece(6, _TIME.encode()) if kind == _MESSAGE else b""))
        for field, (number, kind) in fields.items()
    )  # fmt: skip
    return (
        piece(1, path.encode())
        + piece(2, package.encode())
        + b"".join(piece(3, other.encode()) for other in imported)
        + piece(4, piece(1, name.encode()) + described)
        + piece(12, b"proto3")
    )
