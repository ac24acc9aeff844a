"""The tables of events and their columns, in the order in which rows are made here; the event comes last.

A file may have them in another order: a column that a later version added is the last of its table.
"""

from __future__ import annotations

from telefabric_schemas import events

_HEAD = ("id", "run", "stream", "seq")
_OF_EPISODE = ("agent_id", "env_index", "episode_index")

COLUMNS: dict[str, tuple[str, ...]] = {
    "lifecycle": (*_HEAD, "kind", "time_ns", "event"),
    "steps": (
        *_HEAD, *_OF_EPISODE, "step_index", "global_step", "reward", "terminated", "truncated", "time_ns",
        "control_mode", "event",
    ),
    "episodes": (
        *_HEAD, *_OF_EPISODE, "total_reward", "length", "global_step", "end_reason", "game_id", "time_ns",
        "control_mode", "seed", "event",
    ),
    "resets": (*_HEAD, *_OF_EPISODE, "seed", "time_ns", "control_mode", "event"),
    "voids": (*_HEAD, *_OF_EPISODE, "reason", "time_ns", "event"),
    "metrics": (*_HEAD, "agent_id", "name", "value", "unit", "global_step", "time_ns", "event"),
    "logs": (*_HEAD, "agent_id", "level", "message", "time_ns", "event"),
    "frames": (*_HEAD, *_OF_EPISODE, "step_index", "frame_ref", "time_ns", "event"),
    "gaps": (*_HEAD, "last_seq", "reason", "time_ns", "event"),
    "quarantine": (*_HEAD, "last_seq", "reason", "detail", "time_ns", "event"),
}  # fmt: skip
RANGES = ("gaps", "quarantine")
"""The tables whose rows cover the seqs up to `last_seq`."""
EVENTS: dict[str, tuple[type[events.Event], ...]] = {
    "lifecycle": (events.RunStarted, events.RunMetadata, events.RunCompleted), "steps": (events.Step,),
    "episodes": (events.Episode,), "resets": (events.Reset,), "voids": (events.EpisodeVoided,),
    "metrics": (events.Metric,), "logs": (events.Log,), "frames": (events.Frame,), "gaps": (events.Gap,),
    "quarantine": (),
}  # fmt: skip
"""The events of each table; those in quarantine cannot be read, and are a kind of their own."""
KINDS_OF = {
    table: tuple(str(event.__struct_config__.tag) for event in found) or (table,) for table, found in EVENTS.items()
}
