"""Questions to a store: what can be asked, what comes back, and the service that answers on a socket of its own.

A request is two frames to a ROUTER, a number of 8 bytes that the asker chose and the question; a reply is three: that
number, one of `OK`, `USAGE` and `FAILED`, and the answer or a sentence in UTF-8. Questions are MessagePack arrays whose
first item names them, answers are `Page`; unknown trailing fields are skipped on both sides.

The service is a process of its own (``python -m telefabric.store.query --listen URL --store FILE``): SQLite gives the
interpreter lock away at every row, and a second busy thread in the store's process would hold up its commits. It is a
part under `telefabric.supervisor`: it says ``ready URL``, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar, Union

import msgspec
import zmq
from msgspec import Meta

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import EnvironmentProblem, StoreError, TelefabricError, UsageError
from telefabric.transport import bind, common_options
from telefabric.wire.control import Count, Id, Name, StreamSeq

if TYPE_CHECKING:
    from telefabric.store.reader import FileReader

OFFSET_QUERY = 4
NUMBER_BYTES = 8
OK, USAGE, FAILED = b"ok", b"usage", b"failed"
REPLY_BYTES_MAX = limits.MESSAGE_BYTES_MAX + limits.MIB
"""One event of the largest size and its envelope; a page of several stays below `limits.QUERY_BYTES_MAX` and names."""
STREAMS_A_QUESTION_MAX = 10_000
_HWM = 4
"""Messages per asker and direction: one that does not read its answers holds so many pages and gets no more."""
_POLL_MS = 100

T = TypeVar("T")

Limit = Annotated[int, Meta(ge=0, le=limits.QUERY_ROWS_MAX)]
Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Kinds = Annotated[list[Name], Meta(max_length=32)]


# -- answers -----------------------------------------------------------------------------------------------------
class Page(msgspec.Struct, Generic[T], array_like=True):
    """Some rows, whether there are more, and the number or id from which to ask on."""

    rows: list[T]
    more: bool
    last: int = 0


class StoredEvent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One row of any event table.

    `kind` is the event's own, or ``quarantine``. `seq` is its number in the stream; a gap and a quarantined batch cover
    `seq` to `last_seq`, all others only `seq`. A quarantined batch with the reason ``conflict`` contradicts what is
    stored, and covers nothing. `agent_id` is the stream's for kinds that name none. `reason` is null but for gaps and
    quarantine, `detail` but for quarantine.
    """

    id: int
    kind: str
    run_id: str
    worker_id: str
    stream_id: bytes
    seq: int
    last_seq: int
    agent_id: str
    time_ns: int
    reason: str | None
    detail: str | None
    event: bytes
    """As received: one event, or the records of a whole quarantined batch."""


class Run(msgspec.Struct, array_like=True, frozen=True, gc=False):
    run: int
    """The file's own number of it, in order of appearance."""
    run_id: str
    status: str
    reason: str | None
    created_ns: int
    started_ns: int | None
    finished_ns: int | None
    control_mode: str
    metadata: bytes
    """A MessagePack map; `telefabric_schemas.values.decode` reads it."""
    tags: str
    notes: str


class Stream(msgspec.Struct, array_like=True, frozen=True, gc=False):
    stream: int
    stream_id: bytes
    run_id: str
    worker_id: str
    agent_id: str
    started_ns: int
    host: str | None
    pid: int | None
    sdk_version: str | None
    outcome: str | None
    stored_seq: int
    """Watermark; 0 when nothing of the stream is stored."""


class Mark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    stream: int
    stream_id: bytes
    stored_seq: int


class EpisodeRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The columns of an episode."""

    id: int
    stream_id: bytes
    seq: int
    agent_id: str
    env_index: int
    episode_index: int
    total_reward: float | None
    length: int | None
    global_step: int | None
    end_reason: str | None
    game_id: str | None
    time_ns: int
    control_mode: str

    @property
    def key(self) -> EpisodeKey:
        return EpisodeKey(self.agent_id, self.env_index, self.episode_index, self.id)


class Series(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A numeric series of an agent: ``reward``, ``return`` or ``metric/NAME``."""

    agent_id: str
    series: str


class Bucket(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``256 ** level`` steps of a series of one stream; total is null when it is no number."""

    stream: int
    stream_id: bytes
    bucket: int
    min: float
    max: float
    first: float
    last: float
    total: float | None
    count: int

    @property
    def key(self) -> BucketKey:
        return BucketKey(self.stream, self.bucket)


# -- questions ---------------------------------------------------------------------------------------------------
class Question(msgspec.Struct, array_like=True):
    """Root of all questions."""


class EpisodeKey(msgspec.Struct, array_like=True, frozen=True):
    """Where an episode stands among those of its run."""

    agent_id: str
    env_index: Int
    episode_index: Int
    id: Int


class StepKey(msgspec.Struct, array_like=True, frozen=True):
    """Where a step stands among those of its episode."""

    step_index: Int
    id: Int


class BucketKey(msgspec.Struct, array_like=True, frozen=True):
    stream: Int
    bucket: Int


class Runs(Question, tag="runs"):
    """Runs by number, after `after`; one by name with `run_id`."""

    run_id: Name | None
    after: Count
    limit: Limit


class Streams(Question, tag="streams"):
    run_id: Name | None
    after: Count
    limit: Limit


class Marks(Question, tag="marks"):
    run_id: Name | None
    after: Count
    limit: Limit


class Events(Question, tag="events"):
    """Events of all tables with an id above `since_id`, in the order of id. `name` is a metric's."""

    since_id: Count
    run_id: Name | None
    kinds: Kinds | None
    agent_id: str | None
    name: str | None
    limit: Limit


class Newest(Question, tag="newest"):
    """The newest events, in the order of id."""

    run_id: Name | None
    kinds: Kinds | None
    agent_id: str | None
    limit: Limit


class Since(Question, tag="since"):
    """Events of one kind, ``step`` or ``episode``, after a seq of each stream."""

    kind: str
    marks: Annotated[list[StreamSeq], Meta(max_length=STREAMS_A_QUESTION_MAX)]
    limit: Limit


class StreamSince(Question, tag="stream_since"):
    """Events of all kinds of one stream after a seq, in the order of seq."""

    stream_id: Id
    seq: Count
    limit: Limit


class EpisodesOf(Question, tag="episodes_of"):
    """Episodes of a run by agent, environment and index, after `after`."""

    run_id: Name
    agent_id: str | None
    after: EpisodeKey | None
    limit: Limit


class StepsOf(Question, tag="steps_of"):
    """Steps of one episode by index, after `after`."""

    run_id: Name
    agent_id: str
    env_index: Int
    episode_index: Int
    after: StepKey | None
    limit: Limit


class FrameOf(Question, tag="frame_of"):
    run_id: Name
    frame_ref: str


class SeriesOf(Question, tag="series_of"):
    run_id: Name


class Buckets(Question, tag="buckets"):
    """Overview of one series by stream and bucket: of one stream, or of all of a run."""

    run_id: Name | None
    stream_id: Id | None
    agent_id: str
    series: str
    level: Int
    first_bucket: Int
    last_bucket: Int
    after: BucketKey | None
    limit: Limit


AnyQuestion = Union[  # noqa: UP007  (msgspec wants a plain Union of the tagged types)
    Runs, Streams, Marks, Events, Newest, Since, StreamSince, EpisodesOf, StepsOf, FrameOf, SeriesOf, Buckets,
]  # fmt: skip

_decoder: msgspec.msgpack.Decoder[AnyQuestion] = msgspec.msgpack.Decoder(AnyQuestion)
_encoder = msgspec.msgpack.Encoder()


def decode_question(data: bytes) -> AnyQuestion:
    """Raises `UsageError` for anything that is not a question."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the store does not understand the question: {error}") from None


# -- the service -------------------------------------------------------------------------------------------------
class QueryService:
    """Binds and opens the file on construction, answers in `run` until `stop`, one question at a time.

    Raises `UsageError` for an address beyond loopback, `EnvironmentProblem` for a port in use or a file that cannot be
    read. `counts` says how many requests were answered, refused and dropped.
    """

    def __init__(self, listen: Address, path: Path, *, deadline_s: float = limits.QUERY_DEADLINE_S) -> None:
        from telefabric.store.reader import FileReader  # which imports the questions of this module

        listen.require_loopback()
        self._stop = threading.Event()
        self._reader: FileReader = FileReader(path, deadline_s=deadline_s, cancelled=self._stop.is_set)
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        common_options(self._socket)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.RCVHWM, _HWM)
        self._socket.set(zmq.SNDHWM, _HWM)
        self._socket.set(zmq.MAXMSGSIZE, limits.CONTROL_BYTES_MAX)
        self._socket.set(zmq.HANDSHAKE_IVL, 5_000)
        self.counts: Counter[str] = Counter()
        try:
            self.address = bind(self._socket, listen)
        except EnvironmentProblem as error:
            self._close()
            raise EnvironmentProblem(f"the store's queries: {error}") from None

    def stop(self) -> None:
        """End `run` soon, a question in work included. Any thread, and signal handlers."""
        self._stop.set()

    def run(self) -> None:
        """Answer until `stop`; closes socket and file at the end. Nothing that comes in can end it."""
        try:
            while not self._stop.is_set():
                if self._socket.poll(_POLL_MS):
                    self._turn(self._socket.recv_multipart())
        finally:
            self._close()

    def _turn(self, frames: list[bytes]) -> None:
        if len(frames) != 3 or len(frames[1]) != NUMBER_BYTES:
            self.counts["bad_request"] += 1
            return
        peer, number, question = frames
        try:
            status, body = OK, _encoder.encode(self._reader.answer(decode_question(question)))
        except UsageError as error:
            status, body = USAGE, str(error).encode()
        except StoreError as error:
            status, body = FAILED, str(error).encode()
        self.counts[status.decode()] += 1
        self._reply([peer, number, status, body])

    def _reply(self, frames: list[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.counts["gone" if error.errno == zmq.EHOSTUNREACH else "not_reading"] += 1

    def _close(self) -> None:
        self._context.destroy(linger=0)
        self._reader.close()


# -- the service as a process ------------------------------------------------------------------------------------
def main(arguments: list[str] | None = None) -> None:
    """The process: says ``ready URL`` and answers until its standard input closes."""
    from telefabric.supervisor import ready, stop_with_parent  # readers import this module, and it takes 0.1 s

    parser = argparse.ArgumentParser(description="Answer questions about a store file; ends with its standard input.")
    parser.add_argument("--listen", required=True, help="tcp://HOST:PORT on this machine; port 0 takes any free one")
    parser.add_argument("--store", required=True, type=Path, help="the store file")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole terminal; the parent decides
    try:
        service = QueryService(Address.parse(given.listen), given.store)
    except TelefabricError as error:
        print(f"telefabric: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    stop_with_parent(service.stop)
    ready(service.address.url)
    os.dup2(2, 1)  # nobody reads on: what else is printed must not fill the pipe
    service.run()


if __name__ == "__main__":
    # Not this copy of the module, whose types are strangers to those that the reader imports.
    import_module("telefabric.store.query").main()
