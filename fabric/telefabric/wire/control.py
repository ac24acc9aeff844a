"""Control messages: MessagePack arrays whose first item names the message, and a check. See WIRE.md, "Control".

Unknown trailing fields are skipped; an unknown name is an error of that one message (`WireError`), never of the peer.
"""

from __future__ import annotations

from typing import Annotated, Any, Union, get_args

import msgspec
from msgspec import Meta

from telefabric import limits
from telefabric.errors import WireError
from telefabric.wire.names import fits
from telefabric.wire.policy import QueuePolicy
from telefabric.wire.records import kind_of
from telefabric.wire.seal import seal, unseal
from telefabric.wire.unreadable import unreadable
from telefabric_schemas.decoding import Decoder

PROTOCOL = 1

Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
Name = Annotated[str, Meta(min_length=1)]
"""A name with a limit in bytes of UTF-8: msgspec counts characters, so messages with names check it (`Named`)."""
COUNT_MAX = 2**63 - 1
Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
PublicKey = Annotated[str, Meta(min_length=40, max_length=40)]
"""In Z85, as ZeroMQ writes keys."""
Names = Annotated[list[Name], Meta(max_length=limits.WATCH_NAMES_MAX)]


class Message(msgspec.Struct, array_like=True, gc=False):
    """Root of all control messages."""


class Named(msgspec.Struct, array_like=True, gc=False):
    """Every text and every list of texts in it is a name, or short as one. Raises `ValueError` for one that is not."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            for text in value if isinstance(value, list) else (value,):
                if isinstance(text, str) and not fits(text):
                    size = len(text.encode("utf-8", "replace"))
                    raise ValueError(f"`{field}` has {size} bytes, and a name has {limits.NAME_BYTES_MAX} at most")


class StreamInfo(Named, array_like=True, gc=False):
    """The identity of a stream: all that a store needs to know before its first event."""

    stream: Id
    run_id: Name
    worker_id: Name
    agent_id: Name
    started_ns: Count
    control_mode: str | None = None
    host: str | None = None
    pid: Count | None = None
    sdk_version: str | None = None
    metadata: Annotated[bytes, Meta(max_length=limits.METADATA_BYTES_MAX)] = b"\x80"
    parent: Id | None = None
    """The stream that this one helps: that of its parent process."""
    carrier: str | None = None
    """The key that said HELLO for it last, as the broker knows it; what a worker says is replaced."""


class StreamBeat(msgspec.Struct, array_like=True, gc=False):
    """The state of one stream of a worker."""

    stream: Id
    oldest: Count
    head: Count
    backlog_bytes: Count
    """Emitted and not acknowledged."""
    credit_bytes: Count
    """The last credit that the worker heard, or what is in flight when that is more; what was lent above is free."""
    epoch: Count
    """The last WELCOME or REWIND that the worker heard."""
    next_bytes: Count = 0
    """Size of the next event when it does not fit into the credit."""
    live: Count | None = None
    """The newest live numbers of all its kinds together; 0 while the worker hears nobody ask for it; null for a stream
    that is not sent live."""
    held: bool = False
    """Its spool belongs to another store than WELCOME named: nothing is sent, and no credit is needed."""


class StreamSeq(msgspec.Struct, array_like=True, gc=False):
    """A position in a stream."""

    stream: Id
    seq: Count


class OfInstance(Message):
    """A message within what one broker instance began: another instance's changes nothing."""

    instance: Id


class OfStream(OfInstance):
    """A message about one stream."""

    stream: Id


class OfMarks(OfInstance):
    """A message about positions in several streams."""

    marks: list[StreamSeq]


# -- worker to broker --------------------------------------------------------------------------------------------
class Hello(Message, tag="hello"):
    protocol: int
    info: StreamInfo
    oldest: Count
    head: Count


class Beat(Message, tag="beat"):
    """Once a second, for all streams of a process; answered with ALIVE."""

    sent_ns: int
    streams: Annotated[list[StreamBeat], Meta(max_length=limits.BEAT_STREAMS_MAX)]
    clock_offset_ns: int | None = None
    """How far the broker's wall clock is ahead of the worker's, as the worker last measured it."""
    round_trip_ns: Count | None = None
    left_spools: Count = 0
    """Spools that workers which have ended left in the worker's folder of spools."""


class Bye(Message, tag="bye"):
    """The stream is complete and acknowledged, or its worker is gone and leaves the rest to a later drain."""

    stream: Id
    complete: bool


# -- broker to worker --------------------------------------------------------------------------------------------
class Endpoints(Named, array_like=True, gc=False):
    """Where the broker's other sockets are: full URLs, or ``*:port`` for the host just dialled."""

    data: str
    durable: str
    query: str | None = None
    live: str | None = None
    """Where workers publish live batches."""
    watch: str | None = None
    """Where live subscribers subscribe to their token."""
    tap: str | None = None
    """Plain live batches for anybody on the broker's machine."""


class Welcome(OfStream, tag="welcome"):
    """The stream may send from `expected` on, or must wait (`expected` is null) and why."""

    epoch: Count
    expected: Count | None
    credit_bytes: Count
    interval_ms: Count
    endpoints: Endpoints
    heartbeat_ms: Count
    wait_reason: str | None = None
    fabric: Id | None = None
    """The store behind this broker, as it names itself; null while none is attached."""


class Alive(OfInstance, tag="alive"):
    """Answer to BEAT: the broker's instance and clock."""

    echo_ns: int
    broker_ns: int
    sent: Count = 0
    """For a durable subscriber: the number of batches that it was sent under its token."""


class Ack(OfStream, tag="ack"):
    """All events up to and including `seq` are in every required store."""

    seq: Count


class Credit(OfStream, tag="credit"):
    epoch: Count
    credit_bytes: Count
    interval_ms: Count
    number: Count = 0
    """Ascends: one that arrives after a later one, which a connection that breaks may do, is old."""


class Rewind(OfStream, tag="rewind"):
    """NACK: go back to `expected`; batches of earlier epochs are ignored from now on."""

    epoch: Count
    expected: Count
    credit_bytes: Count
    reason: str


class Who(OfStream, tag="who"):
    """This broker does not know the stream: say HELLO."""


class Unheard(OfStream, tag="unheard"):
    """The stream is watched, and for a while nothing of it came to the live socket: connect that socket again."""


class Refused(OfInstance, tag="refused"):
    """The broker will not serve this peer; the reason is a sentence."""

    reason: str


class Error(OfInstance, tag="error"):
    """Something that the peer said cannot be used. Nothing has to follow from it; somebody should read it."""

    reason: str
    """One word, the same that is counted."""
    message: str
    """A sentence, with the remedy."""
    field: str | None = None
    about: str | None = None
    """Name of the message that it answers; ``batch`` for one on the data or live socket."""


# -- durable subscriber to broker --------------------------------------------------------------------------------
class Attach(Named, Message, tag="attach"):
    protocol: int
    name: Name
    query: str | None = None
    """Where this subscriber answers queries: a URL or ``*:port``."""
    keeps: str = ""
    """Where it keeps what it takes. While one of a name is alive, another that keeps elsewhere is refused."""
    fabric: Id | None = None
    """How a store names itself: made by chance with its file, and kept in it."""
    edits: bool = False
    """It applies edits."""


class Marks(OfMarks, tag="marks"):
    """Answer to ASK: the last stored seq of each stream, 0 for none."""


class Stored(OfMarks, tag="stored"):
    """Committed: the last stored seq of each stream that moved."""


MISSING, DAMAGED = "missing", "damaged"
"""Reasons of NACK and REWIND: there is a hole before a batch, or its body is not the one that its header names."""


class Nack(OfStream, tag="nack"):
    """A batch did not follow, or not whole; the subscriber expects `expected`."""

    epoch: Count
    expected: Count
    reason: str


class DurableBeat(Message, tag="durable_beat"):
    sent_ns: int
    stored_events: Count = 0
    quarantined_events: Count = 0


# -- broker to durable subscriber --------------------------------------------------------------------------------
class Attached(OfInstance, tag="attached"):
    """Subscribe to `token` on the durable endpoint."""

    token: bytes
    endpoints: Endpoints
    required: bool | None = None
    """Whether acknowledgements wait for it; None from a broker that does not say."""
    fabric: Id | None = None
    """The store behind this broker; null while none is attached."""


class Skipped(OfMarks, tag="skipped"):
    """A subscriber that is not required was not sent these streams up to these seqs; the store has them."""


class Living(OfInstance, tag="living"):
    """The streams whose worker was heard within three heartbeats."""

    streams: list[Id]


class Ask(OfInstance, tag="ask"):
    """Report the watermark of each of these streams."""

    streams: list[StreamInfo]


# -- live subscriber to broker -----------------------------------------------------------------------------------
class Watch(Named, Message, tag="watch"):
    """Which live batches to send, and how to queue them; said again, it replaces what was said before."""

    protocol: int
    name: Name
    runs: Names | None = None
    """These runs; null for all."""
    kinds: Names | None = None
    """These kinds; null for all."""
    policy: QueuePolicy = QueuePolicy()
    agents: Names | None = None
    """These agents, of the events that name one; null for all."""
    pictures: Names | None = None
    """Runs whose workers are to send pictures; null for all that are watched, if kinds have frames."""


class WatchBeat(Message, tag="watch_beat"):
    """Once a second; answered with ALIVE, or with WHO when the broker does not know this subscriber."""

    sent_ns: int
    received: Count = 0
    """Events that came under the current token."""
    lost: Count = 0
    """Events that were numbered for it and that no report accounts for."""


class Unwatch(Message, tag="unwatch"):
    """The subscriber wants no more batches."""


# -- broker to live subscriber -----------------------------------------------------------------------------------
class Watching(OfInstance, tag="watching"):
    """Subscribe to `token` on the watch endpoint; `policy` is what was granted."""

    token: bytes
    endpoints: Endpoints
    policy: QueuePolicy


class Recent(OfInstance, tag="recent"):
    """Live batches of before the subscription, oldest first; the store may hold them too."""

    batches: list[bytes]


# -- edits of runs -----------------------------------------------------------------------------------------------
class Edit(Named, Message, tag="edit"):
    """From whoever asks for it to the broker, and from there to the store. Said again until it is answered."""

    id: Id
    """Chosen by chance by the asker: an edit of one id is applied once, however often it is said."""
    command: str
    run_id: Name
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    """Of the type that `telefabric.wire.edits` has for the command."""
    by: str = ""
    """The principal that asks for it, as the broker knows it; what an asker says is replaced."""


class Edited(Message, tag="edited"):
    """The answer to EDIT, from the store to the broker, and from there to whoever asked."""

    id: Id
    outcome: str
    """One of `telefabric.wire.edits.OUTCOMES`."""
    sentence: str


# -- anyone to broker --------------------------------------------------------------------------------------------
class StatusRequest(Message, tag="status?"):
    pass


class StatusReply(OfInstance, tag="status"):
    endpoints: Endpoints
    status: dict[str, Any]


class NextKey(Message, tag="next_key"):
    """From `at_s` on, this is the broker's public key."""

    public: PublicKey
    at_s: Count
    """Seconds since 1970."""


# -- on the socket `enrol` ---------------------------------------------------------------------------------------
class Join(Named, Message, tag="join"):
    """Whoever holds a ticket asks that a key be let in. Said again, it gets the same answer."""

    protocol: int
    public: PublicKey
    holder: str
    """User and machine, for people who read the list of keys."""
    brief: bool = False
    """The key is to end with the ticket."""


class Joined(Named, Message, tag="joined"):
    """The key is let in."""

    name: Name
    role: str
    pattern: str
    """Of the runs that it may publish."""
    expires_s: Count | None = None
    """Seconds since 1970."""


class NotJoined(Message, tag="not_joined"):
    """The key is not let in; `reason` says why."""

    reason: str
    """One word."""
    message: str
    """A sentence, with the remedy."""


AnyMessage = Union[  # noqa: UP007  (msgspec wants a plain Union of the tagged types)
    Hello, Beat, Bye, Welcome, Alive, Ack, Credit, Rewind, Who, Unheard, Refused, Error,
    Attach, Marks, Stored, Nack, DurableBeat, Attached, Living, Ask, Skipped, StatusRequest, StatusReply,
    Watch, WatchBeat, Unwatch, Watching, Recent, NextKey, Join, Joined, NotJoined, Edit, Edited,
]  # fmt: skip

_KINDS = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyMessage)}
_decoder: Decoder[AnyMessage] = Decoder(AnyMessage)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    return seal(_encoder.encode(message))


def decode(data: bytes, bytes_max: int = limits.CONTROL_BYTES_MAX) -> AnyMessage:
    """Raises `WireError` for anything that is not a control message of this protocol, whole and undamaged.

    A broker sends more than it takes: see `limits.STATUS_BYTES_MAX`.
    """
    if len(data) > bytes_max:
        raise WireError("too_large", f"a control message of {len(data)} bytes is over {bytes_max}: leave something out")
    body = unseal(data)
    if body is None:
        about = kind_of(data) or "a control message"
        why = f"{about} fails its check: end it with the CRC-32 of its bytes, 4 bytes, big-endian"
        raise WireError("damaged", why, about=about)
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise unreadable(kind_of(body), str(error), _KINDS) from None
