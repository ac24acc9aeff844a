"""Questions to a store: what can be asked, and what comes back. See QUERY.md.

A request is two frames to a ROUTER, a number of 8 bytes that the asker chose and the question; a reply is three: that
number, one of `OK`, `USAGE` and `FAILED`, and the answer or a sentence in UTF-8. Questions are MessagePack arrays whose
first item names them, answers are `Page`; unknown trailing fields are skipped on both sides.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar, Union, cast, get_args

import msgspec
from msgspec import Meta

from telefabric import limits
from telefabric.errors import UsageError
from telefabric.wire.control import Count, Id, Name, StreamSeq
from telefabric.wire.names import require_short
from telefabric.wire.records import kind_of
from telefabric.wire.unreadable import unreadable
from telefabric_schemas.decoding import Decoder

NUMBER_BYTES = 8
OK, USAGE, FAILED = b"ok", b"usage", b"failed"
DROP = b""
"""A question that drops the one of its number: nobody waits for it any more."""
UNKNOWN = "the store does not understand the question: no question is named"
"""How the sentence of a store begins that is older than the question."""
REPLY_BYTES_MAX = limits.MESSAGE_BYTES_MAX + limits.MIB
"""One event of the largest size and its envelope; a page of several stays below `limits.QUERY_BYTES_MAX` and names."""
STREAMS_A_QUESTION_MAX = 10_000

T = TypeVar("T")

Limit = Annotated[int, Meta(ge=0, le=limits.QUERY_ROWS_MAX)]
Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Kinds = Annotated[list[Name], Meta(max_length=32)]
RowLimit = Annotated[int, Meta(ge=0, le=limits.QUERY_NUMBERS_MAX)]
Fields = Annotated[list[Name], Meta(min_length=1, max_length=32)]


# -- answers -----------------------------------------------------------------------------------------------------
class Page(msgspec.Struct, Generic[T], array_like=True):
    """Some rows, whether there are more, and the number or id from which to ask on."""

    rows: list[T]
    more: bool
    last: int = 0
    others: list[bytes] = msgspec.field(default_factory=list)
    """Streams that hold the same place and were left out, the newest first: the question named no stream."""


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
    """The bytes as received: one event, or the records of a whole quarantined batch."""


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
    attempts: int = 1
    helpers: int = 0
    """Streams that helped another one, such as a pool's."""
    superseded: int = 0
    """Streams that were lost, failed or cancelled, after which the run was taken up again."""
    archived_ns: int | None = None
    """When it was archived; null when it is not."""
    marked_by: str | None = None
    """The principal that gave it its status and reason by hand; null when they follow from its streams."""
    marked_ns: int | None = None
    computed_status: str | None = None
    """The status that follows from its streams."""


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
    parent: bytes | None = None
    """The stream that this one helps."""
    attempt: int = 1
    role: str = "counts"
    """Whether its outcome is the run's: ``counts``, ``helper`` or ``superseded``."""
    outcome_reason: str | None = None
    last_ns: int | None = None
    """Its last word; null while it runs."""
    carrier: str | None = None
    """The key that carried it last; null without keys."""


class Mark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    stream: int
    stream_id: bytes
    stored_seq: int


class BookmarkRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    bookmark: int
    """The file's own number of it."""
    run_id: str
    agent_id: str
    env_index: int
    episode_index: int
    step_index: int
    stream_id: bytes | None
    """Null when the place names no stream."""
    label: str
    by: str
    """The principal that set it."""
    time_ns: int


class Moment(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A moment of the list of runs: while it stays the same, no run has begun, changed or gone."""

    lifecycle_id: Count
    """The newest id of a lifecycle event."""
    stream: Count
    """The newest number of a stream."""
    edit: Count
    """The newest number of an edit."""
    lost: Count
    """A number made of the lost streams, which is another one when they are others."""


class RunName(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The name of a run that is there, or was deleted."""

    run_id: str


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
    seed: int | str | None = None
    """An integer, or JSON."""
    run_id: str = ""
    """Empty from a store of an older version."""

    @property
    def key(self) -> EpisodeKey:
        return EpisodeKey(self.agent_id, self.env_index, self.episode_index, self.id)


class Series(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A numeric series of an agent: ``reward``, ``return`` or ``metric/NAME``."""

    agent_id: str
    series: str


class Bucket(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``256 ** level`` steps of a series of one stream; total is null if it is not a number."""

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


class RowCount(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How many rows of a kind an agent has in a stream."""

    stream_id: bytes
    kind: str
    agent_id: str
    n: int


class Place(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where row `n` of a stream, kind and agent is."""

    n: int
    seq: int
    id: int
    global_step: int | None
    time_ns: int


class FoundRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Row `n`, which fits the conditions."""

    n: int
    event: StoredEvent


class ColumnChunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Columns of consecutive rows, in the order of the fields that were asked for."""

    first: int
    rows: int
    columns: list[bytes]
    """Of each, `rows` little-endian numbers of 64 bits; NaN stands for null and for what is not a number."""


class PointChunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Points of a series, in order of arrival."""

    rows: int
    points: bytes
    """Step and value of each, as little-endian numbers of 64 bits; a value that is not finite is a break."""


class Band(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """From row `n` on, steps have this mode and policy."""

    n: int
    control_mode: str
    policy_label: str | None


# -- questions ---------------------------------------------------------------------------------------------------
class Question(msgspec.Struct, Generic[T], array_like=True):
    """Root of all questions: its name on the wire is its tag, and `T` is a row of the answer."""

    @property
    def name_on_wire(self) -> str:
        return str(self.__struct_config__.tag)

    def values(self) -> dict[str, Any]:
        """Its items by name, and those of the key behind which it goes on as ``after_…``."""
        found = msgspec.structs.asdict(self)
        if isinstance(after := found.get("after"), msgspec.Struct):
            found |= {f"after_{name}": value for name, value in msgspec.structs.asdict(after).items()}
        return found


def answer_of(question: type[Question[T]]) -> type[Page[T]]:
    """The type of the page that answers a question."""
    (row,) = get_args(cast("Any", question).__orig_bases__[0])
    return Page[row]  # type: ignore[valid-type]


class EpisodeKey(msgspec.Struct, array_like=True, frozen=True):
    """The position of an episode among those of its run."""

    agent_id: str
    env_index: Int
    episode_index: Int
    id: Int


class StepKey(msgspec.Struct, array_like=True, frozen=True):
    """The position of a step among those of its episode."""

    step_index: Int
    id: Int


class BucketKey(msgspec.Struct, array_like=True, frozen=True):
    stream: Int
    bucket: Int


class Numbered(Question[T], Generic[T]):
    """Rows by number, after `after`; those of one run with `run_id`."""

    run_id: Name | None
    after: Count
    limit: Limit


class Runs(Numbered[Run], tag="runs"):
    """Runs, or one by name."""


class Streams(Numbered[Stream], tag="streams"):
    """Streams, with what is known of them."""


class Marks(Numbered[Mark], tag="marks"):
    """How far each stream is stored."""


class Bookmarks(Numbered[BookmarkRow], tag="bookmarks"):
    """Bookmarks, or those of one run."""


class RunsNow(Question[Moment], tag="runs_now"):
    """The moment of the list of runs. It costs little."""


class ChangedRuns(Question[RunName], tag="changed_runs"):
    """The runs that began, changed or were deleted since a moment, after `after` in the order of names.

    Some may be among them that did not.
    """

    since: Moment
    after: RunName | None = None
    limit: Limit = limits.QUERY_ROWS_MAX


class Events(Question[StoredEvent], tag="events"):
    """Events of all tables with an id above `since_id`, in the order of id. `name` is a metric's."""

    since_id: Count
    run_id: Name | None
    kinds: Kinds | None
    agent_id: str | None
    name: str | None
    limit: Limit


class Newest(Question[StoredEvent], tag="newest"):
    """The newest events, in the order of id."""

    run_id: Name | None
    kinds: Kinds | None
    agent_id: str | None
    limit: Limit


class Since(Question[StoredEvent], tag="since"):
    """Events of one kind, ``step`` or ``episode``, after a seq of each stream."""

    kind: str
    marks: Annotated[list[StreamSeq], Meta(max_length=STREAMS_A_QUESTION_MAX)]
    limit: Limit


class StreamSince(Question[StoredEvent], tag="stream_since"):
    """Events of all kinds of one stream after a seq, in the order of seq."""

    stream_id: Id
    seq: Count
    limit: Limit


class EpisodesOf(Question[EpisodeRow], tag="episodes_of"):
    """Episodes of a run by agent, environment and index, after `after`.

    Of a place that several attempts have, those of the newest, unless a stream is named. Voided ones when asked for.
    """

    run_id: Name
    agent_id: str | None
    after: EpisodeKey | None
    limit: Limit
    stream_id: Id | None = None
    voided: bool = False


class EpisodesIn(Question[EpisodeRow], tag="episodes_in"):
    """Episodes of any of the control modes, of all runs or of one: the newest first, those below the id `before`.

    0 begins with the newest.
    """

    modes: Kinds
    run_id: Name | None
    before: Count
    limit: Limit
    voided: bool = False


class OfEpisode(Question[StoredEvent]):
    """Events of one episode: of one stream, the newest of the newest attempt unless named."""

    run_id: Name
    agent_id: str
    env_index: Int
    episode_index: Int


class StepsOf(OfEpisode, tag="steps_of"):
    """Steps by index, after `after`."""

    after: StepKey | None
    limit: Limit
    stream_id: Id | None = None
    voided: bool = False


class FrameOf(Question[StoredEvent], tag="frame_of"):
    run_id: Name
    frame_ref: str
    stream_id: Id | None = None


class FrameAt(OfEpisode, tag="frame_at"):
    """The stored frame of a step, or the nearest of its episode."""

    step_index: Int
    stream_id: Id | None = None
    voided: bool = False


class FramesOf(StepsOf, tag="frames_of"):
    """Stored frames by step, asked for as steps are."""


class SeriesOf(Question[Series], tag="series_of"):
    """Series by agent and name, after `after`."""

    run_id: Name
    after: Series | None = None
    limit: Limit = limits.QUERY_ROWS_MAX


class Buckets(Question[Bucket], tag="buckets"):
    """Overview of one series by stream and bucket: of one stream, or of all of a run.

    Of a bucket of a run that several attempts have, those of the newest.
    """

    run_id: Name | None
    stream_id: Id | None
    agent_id: str
    series: str
    level: Int
    first_bucket: Int
    last_bucket: Int
    after: BucketKey | None
    limit: Limit


class CountKey(msgspec.Struct, array_like=True, frozen=True):
    """The position of a count among those of its run."""

    stream_id: Id
    kind: Name
    agent_id: str


class Counts(Question[RowCount], tag="counts"):
    """How many rows there are, by stream, kind and agent, after `after`."""

    run_id: Name
    after: CountKey | None = None
    limit: Limit = limits.QUERY_ROWS_MAX


class OfAgent(Question[T], Generic[T]):
    """Rows of a kind and agent in a stream, which are numbered from 0 in the order of seq."""

    stream_id: Id
    kind: Name
    agent_id: str


class Places(OfAgent[Place], tag="places"):
    """Where every 1,024th row is, after row `after`, which is -1 for the first page."""

    after: Int
    limit: Limit


class RowsAt(OfAgent[StoredEvent], tag="rows_at"):
    """Rows from number `first` on."""

    first: Count
    limit: Limit


class RowOf(OfAgent[Place], tag="row_of"):
    """The first row at or behind a value of `by`: ``seq``, ``id``, ``global_step``, ``time_ns`` or ``episode``.

    With `env_index`, only rows of that environment count. The values should rise: where they go back, because a worker
    begins to count again, the store notices it at every 1,024th row only.
    """

    by: Name
    value: Int
    env_index: Int | None = None


class Columns(OfAgent[ColumnChunk], tag="columns"):
    """Numbers of consecutive rows: columns of the kind's table, and with ``info/KEY`` a part of the event.

    A part is any item of the event, and behind it the keys of maps, with dots between them.
    """

    first: Count
    limit: RowLimit
    fields: Fields


class Points(Question[PointChunk], tag="points"):
    """The values of a series with a step from `first_step` to `last_step`, after the seq `after`.

    Series and steps are those of the overview: an event without a `global_step` has its seq.
    """

    stream_id: Id
    agent_id: str
    series: Name
    first_step: Int
    last_step: Int
    after: Count
    limit: RowLimit


class EpisodesBy(Question[EpisodeRow], tag="episodes_by"):
    """Episodes of an agent in a stream from position `first` on, sorted by a column.

    That is ``total_reward``, ``length``, ``seed``, ``time_ns``, ``end_reason`` or ``episode_index``, where environment
    comes before episode. Null is the smallest.
    """

    stream_id: Id
    agent_id: str
    by: Name
    descending: bool
    first: Count
    limit: Limit
    voided: bool = False


class Condition(msgspec.Struct, array_like=True, frozen=True):
    """A field, as of `Columns` or any column of the kind's table, and what it is compared with.

    The operators are ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, and ``contains`` for texts without regard to case.
    """

    field: Name
    operator: Name
    value: Int | float | Annotated[str, Meta(max_length=4_096)] | bool | None


class Scan(OfAgent[FoundRow], tag="scan"):
    """The rows after row `after` that fit all conditions; -1 begins.

    A page ends after a short time, too: all rows up to number `last` have been looked at.
    """

    conditions: Annotated[list[Condition], Meta(max_length=16)]
    after: Int
    limit: Limit


class Bands(Question[Band], tag="bands"):
    """Where the control mode or the policy of an agent's steps changes, after row `after`; -1 begins.

    Each band that differs from the one before it, the first row included. A policy that is there for fewer rows than
    1,024 may be missed. All rows up to number `last` have been looked at.
    """

    stream_id: Id
    agent_id: str
    after: Int
    limit: Limit


AnyQuestion = Union[  # noqa: UP007  (msgspec wants a plain Union of the tagged types)
    Runs, Streams, Marks, Events, Newest, Since, StreamSince, EpisodesOf, EpisodesIn, StepsOf, FrameOf, FrameAt,
    FramesOf,
    SeriesOf, Buckets, Bookmarks, Counts, Places, RowsAt, RowOf, Columns, Points, EpisodesBy, Scan, Bands,
    RunsNow, ChangedRuns,
]  # fmt: skip

_KINDS = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyQuestion)}
_decoder: Decoder[AnyQuestion] = Decoder(AnyQuestion)


def decode_question(data: bytes) -> AnyQuestion:
    """Raises `UsageError` for anything that is not a question."""
    if len(data) > limits.CONTROL_BYTES_MAX:
        raise UsageError(f"a question of {len(data)} bytes is over {limits.CONTROL_BYTES_MAX}: ask for less at a time")
    try:
        question = _decoder.decode(data)
    except msgspec.DecodeError as error:
        wrong = unreadable(kind_of(data), str(error), _KINDS, what="question", page="QUERY.md")
        raise UsageError(f"the store does not understand the question: {wrong}") from None
    require_short("the question", (getattr(question, field, None) or "" for field in ("run_id", "agent_id")))
    return question
