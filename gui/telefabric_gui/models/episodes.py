"""The table of episodes."""

from __future__ import annotations

from telefabric_gui.formatting import NONE, clock, count, decoded, real, short
from telefabric_gui.models.table import Column, EventTable
from telefabric_gui.rows import NO_STEP, EventRows
from telefabric_schemas import Episode, event_of


def _tone(end: str) -> str:
    return "dim" if end in ("truncated", "reset", "closed") else "text"


class EpisodeTable(EventTable):
    """One row an episode."""

    columns = (
        Column("EP", 6, True, "Episode"),
        Column("RETURN", 8, True, "Sum of the rewards"),
        Column("LENGTH", 7, True, "Steps"),
        Column("END", 10, False, "Reason of its end", _tone),
        Column("SEED", 6, True, "Seed of its reset"),
        Column("MODE", 7, False, "Who acted", lambda mode: "dim"),
        Column("TIME", 13, True, "The worker's clock, in this machine's time zone"),
    )

    def cells(self, rows: EventRows, position: int) -> tuple[str, ...]:
        row = rows.row(position)
        episode = _episode_of(rows.raw(position))
        length = int(row["length"])
        return (
            count(int(row["episode"])),
            real(float(row["total"])),
            NONE if length == NO_STEP else count(length),
            NONE if episode is None else short(episode.end_reason or NONE, 20),
            NONE if episode is None else short(decoded(episode.seed), 12),
            NONE if episode is None else short(episode.control_mode or NONE, 12),
            clock(int(row["time_ns"])),
        )


def _episode_of(raw: bytes | None) -> Episode | None:
    """The whole episode again, from its bytes; None when they are not held. Never raises: Qt's models must not."""
    found = None if raw is None else event_of(raw)
    return found if isinstance(found, Episode) else None
