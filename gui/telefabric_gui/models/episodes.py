"""The table of episodes."""

from __future__ import annotations

from typing import Any

from telefabric_gui.formatting import NONE, clock, count, decoded, real, short
from telefabric_gui.models.table import Column, EventTable
from telefabric_gui.rows import NO_STEP
from telefabric_gui.theme import LEFT, RIGHT
from telefabric_schemas import Episode, event_of


def _tone(end: str) -> str:
    return "dim" if end in ("truncated", "reset", "closed") else "text"


class EpisodeTable(EventTable):
    """One row an episode."""

    columns = (
        Column("EP", 6, RIGHT, "Episode"),
        Column("RETURN", 8, RIGHT, "Sum of the rewards"),
        Column("LENGTH", 7, RIGHT, "Steps"),
        Column("END", 10, LEFT, "Reason of its end", _tone),
        Column("SEED", 6, RIGHT, "Seed of its reset"),
        Column("MODE", 7, LEFT, "Who acted", lambda mode: "dim"),
        Column("TIME", 13, RIGHT, "The worker's clock, in this machine's time zone"),
    )

    def cells(self, row: Any, raw: bytes | None) -> tuple[str, ...]:
        told = (NONE, NONE, NONE)
        # The whole episode again, from its bytes, when they are held. Nothing here raises: Qt's models must not.
        if raw is not None and isinstance(episode := event_of(raw), Episode):
            mode = short(episode.control_mode or NONE, 12)
            told = (short(episode.end_reason or NONE, 20), short(decoded(episode.seed), 12), mode)
        length = NONE if row["length"] == NO_STEP else count(int(row["length"]))
        return (count(int(row["episode"])), real(float(row["total"])), length, *told, clock(int(row["time_ns"])))
