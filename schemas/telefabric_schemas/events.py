"""The event types, and their form on the wire.

An event is one MessagePack array: its kind, its ``seq``, then its fields in the order in which they are declared here.
Fields are only ever appended, each with a default: a reader skips trailing fields that it does not know and fills in
those that are missing. ``payload_version`` rises when the meaning of a field changes.

Times are ``time_ns``, wall clock in nanoseconds since 1970-01-01 UTC, and ``mono_ns``, the worker's monotonic clock;
neither decides order, ``seq`` does. Fields of the type `Payload` hold any value; a decoder leaves them encoded
(`msgspec.Raw`) until `telefabric_schemas.values.decode` is asked for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    Payload = Any
else:
    Payload = msgspec.Raw

PAYLOAD_VERSION = 1
NIL = msgspec.Raw(b"\xc0")
EXPIRED, STORED = "expired", "stored"
"""Encodings of a frame without its picture: the store let go of it; on the live path, the store has it."""

ControlMode = Literal["human", "agent", "multi_agent", "hybrid", "replay", "unknown"]
CONTROL_MODES = frozenset(get_args(ControlMode))
Outcome = Literal["completed", "failed", "cancelled"]


INT_MAX = 2**63 - 1
"""Largest integer of a typed field: SQLite's."""


def _unit(unit: str, description: str) -> Meta:
    return Meta(description=description, extra={"unit": unit})


Int64 = Annotated[int, Meta(le=INT_MAX)]
Seq = Annotated[Int64, _unit("1", "Number of the event in its stream, from 1; 0 for kinds that are never stored.")]
AgentId = Annotated[str, _unit("id", "The agent that acted; never null.")]
EnvIndex = Annotated[Int64, _unit("index", "Which environment of a vector env, from 0.")]
EpisodeIndex = Annotated[Int64, _unit("index", "Episode of this agent and environment, from 0.")]
StepIndex = Annotated[Int64, _unit("index", "Step within the episode, from 0.")]
GlobalStep = Annotated[
    Int64 | None, _unit("steps", "Steps of this agent over the stream so far, from 0, or the worker's own count.")
]
Reward = Annotated[float | None, _unit("reward", "What the environment paid for this step; null when it was unusable.")]
TimeNs = Annotated[Int64, _unit("ns", "Wall clock of the worker, since 1970-01-01 UTC.")]
MonoNs = Annotated[Int64, _unit("ns", "Monotonic clock of the worker; differences only.")]
Version = Annotated[Int64, _unit("1", "Version of the payload's meaning.")]
Mode = Annotated[str | None, _unit("enum", "human, agent, multi_agent, hybrid or replay; anything else is unknown.")]
PolicyLabel = Annotated[str | None, _unit("label", "Which policy chose the action.")]


class Event(msgspec.Struct, array_like=True, gc=False):
    """Root of all events; `kind` is the array's first item."""

    seq: Seq

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)


class Step(Event, tag="step"):
    """One action and what came of it."""

    agent_id: AgentId
    env_index: EnvIndex
    episode_index: EpisodeIndex
    step_index: StepIndex
    global_step: GlobalStep
    reward: Reward
    terminated: Annotated[bool, _unit("bool", "The task ended here: a goal, a death.")]
    truncated: Annotated[bool, _unit("bool", "The episode was cut here: a time limit.")]
    time_ns: TimeNs
    mono_ns: MonoNs
    action: Annotated[Payload, _unit("any", "What the agent did.")] = NIL
    observation: Annotated[Payload, _unit("any", "What the agent saw after the action.")] = NIL
    control_mode: Mode = None
    policy_label: PolicyLabel = None
    backend: Annotated[str | None, _unit("label", "Library or engine that stepped the environment.")] = None
    render_hint: Annotated[Payload, _unit("any", "How a viewer may draw this step: grid, text, …")] = NIL
    frame_ref: Annotated[str | None, _unit("ref", "The stored frame of this step.")] = None
    payload_version: Version = PAYLOAD_VERSION
    info: Annotated[Payload, _unit("map", "What else the environment reported.")] = NIL


class Episode(Event, tag="episode"):
    """The end of an episode, with its totals."""

    agent_id: AgentId
    env_index: EnvIndex
    episode_index: EpisodeIndex
    total_reward: Annotated[float | None, _unit("reward", "Sum of the rewards of the episode.")]
    length: Annotated[Int64 | None, _unit("steps", "Steps in the episode.")]
    global_step: GlobalStep
    time_ns: TimeNs
    mono_ns: MonoNs
    end_reason: Annotated[str | None, _unit("enum", "terminated, truncated, or the worker's own word.")] = None
    seed: Annotated[Payload, _unit("seed", "Seed with which the episode was reset.")] = NIL
    game_id: Annotated[str | None, _unit("id", "Environment id, such as FrozenLake-v1.")] = None
    control_mode: Mode = None
    policy_label: PolicyLabel = None
    metadata: Annotated[Payload, _unit("map", "What else belongs to the episode.")] = NIL
    payload_version: Version = PAYLOAD_VERSION


class Reset(Event, tag="reset"):
    """The beginning of an episode: what the agent saw before its first step."""

    agent_id: AgentId
    env_index: EnvIndex
    episode_index: EpisodeIndex
    time_ns: TimeNs
    mono_ns: MonoNs
    observation: Annotated[Payload, _unit("any", "What the agent saw at first.")] = NIL
    info: Annotated[Payload, _unit("map", "What else the environment reported at its reset.")] = NIL
    seed: Annotated[Payload, _unit("seed", "Seed that the reset was given.")] = NIL
    options: Annotated[Payload, _unit("map", "Options that the reset was given.")] = NIL
    control_mode: Mode = None
    payload_version: Version = PAYLOAD_VERSION


class EpisodeVoided(Event, tag="episode_voided"):
    """An episode does not count: it stays in the record, and out of tables and exports.

    That is all that its stream emitted before for this agent, environment and episode.
    """

    agent_id: AgentId
    env_index: EnvIndex
    episode_index: EpisodeIndex
    time_ns: TimeNs
    mono_ns: MonoNs
    reason: Annotated[str | None, _unit("text", "Why, such as undone.")] = None
    payload_version: Version = PAYLOAD_VERSION


class Metric(Event, tag="metric"):
    """One value of a named series."""

    name: Annotated[str, _unit("name", "Name of the series, such as loss.")]
    value: Annotated[float | None, _unit("see unit", "The value; null when it was unusable.")]
    unit: Annotated[str | None, _unit("unit", "Unit of the value, SI where there is one.")]
    global_step: GlobalStep
    agent_id: AgentId
    time_ns: TimeNs
    mono_ns: MonoNs
    payload_version: Version = PAYLOAD_VERSION


class Log(Event, tag="log"):
    """One line of a worker's log."""

    level: Annotated[str, _unit("enum", "debug, info, warning, error or critical.")]
    message: Annotated[str, _unit("text", "The line.")]
    agent_id: AgentId
    time_ns: TimeNs
    mono_ns: MonoNs
    logger: Annotated[str | None, _unit("name", "Name of the logger.")] = None
    fields: Annotated[Payload, _unit("map", "Structured values that belong to the line.")] = NIL
    payload_version: Version = PAYLOAD_VERSION


class RunStarted(Event, tag="run_started"):
    """The first event of every stream."""

    run_id: Annotated[str, _unit("id", "The run.")]
    worker_id: Annotated[str, _unit("id", "The worker process within the run.")]
    agent_id: AgentId
    time_ns: TimeNs
    mono_ns: MonoNs
    control_mode: Mode = None
    metadata: Annotated[Payload, _unit("map", "The user's metadata of the run.")] = NIL
    host: Annotated[str | None, _unit("name", "Machine of the worker.")] = None
    pid: Annotated[Int64 | None, _unit("pid", "Process of the worker.")] = None
    sdk_version: Annotated[str | None, _unit("version", "Version of the worker SDK.")] = None
    payload_version: Version = PAYLOAD_VERSION
    parent: Annotated[bytes | None, _unit("id", "The stream that this one helps: that of its parent process.")] = None


class RunMetadata(Event, tag="run_metadata"):
    """Metadata of the run that the user adds after its start; they replace values of the same name."""

    metadata: Annotated[Payload, _unit("map", "Names and values.")]
    agent_id: AgentId
    time_ns: TimeNs
    mono_ns: MonoNs
    payload_version: Version = PAYLOAD_VERSION


class RunCompleted(Event, tag="run_completed"):
    """The last event of a stream that ended by itself."""

    outcome: Annotated[str, _unit("enum", "completed, failed or cancelled.")]
    reason: Annotated[str | None, _unit("text", "Why it failed or was cancelled.")]
    time_ns: TimeNs
    mono_ns: MonoNs
    steps: Annotated[Int64 | None, _unit("steps", "Steps that this stream emitted.")] = None
    episodes: Annotated[Int64 | None, _unit("episodes", "Episodes that this stream emitted.")] = None
    payload_version: Version = PAYLOAD_VERSION


class Frame(Event, tag="frame"):
    """A stored picture of one step."""

    agent_id: AgentId
    env_index: EnvIndex
    episode_index: EpisodeIndex
    step_index: StepIndex
    frame_ref: Annotated[str, _unit("ref", "The name by which steps refer to this frame.")]
    width: Annotated[Int64, _unit("px", "Width.")]
    height: Annotated[Int64, _unit("px", "Height.")]
    encoding: Annotated[str, _unit("enum", "How data is encoded: jpeg, png, raw. Without data: expired, stored.")]
    data: Annotated[bytes, _unit("bytes", "The encoded picture.")]
    time_ns: TimeNs
    mono_ns: MonoNs
    payload_version: Version = PAYLOAD_VERSION


class Gap(Event, tag="gap"):
    """A range of seqs that is known to be lost. Takes their place in the stream; its seq is the first of them."""

    last_seq: Annotated[Int64, _unit("1", "Last seq of the range.")]
    reason: Annotated[str, _unit("enum", "Why they are lost: spool_full, disk_full, no_longer_held, unreadable.")]
    time_ns: TimeNs
    payload_version: Version = PAYLOAD_VERSION


class RunHeartbeat(Event, tag="run_heartbeat"):
    """A sign of life; live only."""

    state: Annotated[str, _unit("enum", "pending, running, idle or closing.")]
    head_seq: Annotated[Int64, _unit("1", "Newest seq that the worker emitted.")]
    backlog_bytes: Annotated[Int64, _unit("bytes", "What the worker holds that is not acknowledged.")]
    time_ns: TimeNs
    mono_ns: MonoNs
    counters: Annotated[dict[str, int] | None, _unit("events", "Newest live number of each kind of the stream.")] = None


class Overflow(Event, tag="overflow"):
    """Events that were dropped on the live path, by whom and why; live only."""

    hop: Annotated[str, _unit("enum", "Where: worker, broker or client.")]
    reason: Annotated[str, _unit("enum", "Why.")]
    of_kind: Annotated[str, _unit("kind", "Kind of the dropped events.")]
    count: Annotated[Int64, _unit("events", "How many.")]
    time_ns: TimeNs
    reached: Annotated[Int64, _unit("1", "Live number of that kind that the dropped events reached.")] = 0


class Control(Event, tag="control"):
    """A stream was throttled or resumed; live only."""

    stream: Annotated[bytes, _unit("id", "The stream, 16 bytes.")]
    state: Annotated[str, _unit("enum", "throttled or resumed.")]
    credit_bytes: Annotated[Int64, _unit("bytes", "Credit from now on.")]
    time_ns: TimeNs


AnyEvent = Union[  # noqa: UP007  (msgspec wants a plain Union of the tagged types)
    Step,
    Episode,
    Reset,
    EpisodeVoided,
    Metric,
    Log,
    RunStarted,
    RunMetadata,
    RunCompleted,
    Frame,
    Gap,
    RunHeartbeat,
    Overflow,
    Control,
]
