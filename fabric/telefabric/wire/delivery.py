"""Live batches and how they are delivered. See WIRE.md, "Live path"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from telefabric import limits
from telefabric.errors import WireError
from telefabric_schemas.decoding import Decoder

_SEPARATOR = b"\0"
_FRAME = b"frame"
_PICTURES = _SEPARATOR + b"pictures" + _SEPARATOR
TOPIC_BYTES_MAX = 2 * limits.NAME_BYTES_MAX + 1
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


AS_WISHED = frozenset(("sampled", "replaced", "not_wanted"))
"""Reasons of drops that a subscriber asked for."""


class Drop(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Events that the broker dropped for this subscriber, and why."""

    reason: str
    """queue_full, too_old; by the subscriber's own wish: sampled, replaced, not_wanted (another agent)."""
    kind: str
    """Empty, like `stream`, when too many were affected to tell them apart."""
    stream: bytes
    events: Count
    reached: Count = 0
    """The number that their source gave the last of them."""


class Delivery(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Sent by the broker before each batch, and once a second by itself: see `telefabric.broker.core.live_lane`."""

    number: Count
    drops: list[Drop] = []


def topic_of(run: str, kind: str) -> bytes:
    """The topic of a live batch; with an empty kind, the prefix of all kinds of a run."""
    return run.encode() + _SEPARATOR + kind.encode()


def pictures_wish(topic: bytes) -> bytes:
    """The topic that the broker subscribes to when it wants the pictures of runs whose topics begin with `topic`.

    No batch has such a topic, because no run has an empty name: the subscription itself is the message.
    """
    return _PICTURES + (topic[: topic.rfind(_SEPARATOR) + 1] or topic)


def has_batches(topic: bytes) -> bool:
    """Whether any batch could come under a subscription to this topic: no run has an empty name."""
    return not topic.startswith(_SEPARATOR)


def has_frames(topic: bytes) -> bool:
    """Whether any frame could."""
    _, separator, kind = topic.rpartition(_SEPARATOR)
    return not separator or _FRAME.startswith(kind)


def wishes_pictures(wishes: Iterable[bytes], run: str) -> bool:
    """Whether a run's pictures are wanted, by what the broker subscribed to."""
    topic = topic_of(run, "")
    return any(wish.startswith(_PICTURES) and topic.startswith(wish[len(_PICTURES) :]) for wish in wishes)


def topic_parts(topic: bytes) -> tuple[str, str] | None:
    """Run and kind of a topic; None if it is not a topic."""
    if len(topic) > TOPIC_BYTES_MAX:
        return None
    run, separator, kind = topic.rpartition(_SEPARATOR)
    try:
        return (run.decode(), kind.decode()) if separator and run and kind else None
    except UnicodeDecodeError:
        return None


def encode_delivery(delivery: Delivery) -> bytes:
    return _encoder.encode(delivery)


def decode_delivery(data: bytes) -> Delivery:
    """Raises `WireError`."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise WireError("bad_delivery", f"a delivery cannot be read: {error}") from None


_encoder = msgspec.msgpack.Encoder()
_decoder: Decoder[Delivery] = Decoder(Delivery)
