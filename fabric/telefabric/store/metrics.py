"""The store's figures."""

from __future__ import annotations

from collections.abc import Mapping

from telefabric.metrics.figures import COUNTER, GAUGE, HISTOGRAM, Distribution, Family, Figures

_P = "telefabric_store_"
COMMIT_BOUNDS_S = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_LOG_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
"""The headers in SQLite's write-ahead log: https://www.sqlite.org/fileformat2.html#walformat"""

FAMILIES = (
    Family(_P + "stored_events_total", COUNTER, "Events committed, quarantined ones included.", (), "stored"),
    Family(_P + "quarantined_events_total", COUNTER, "Events committed that could not be read.", (), "quarantined"),
    Family(
        _P + "refused_batches_total", COUNTER, "Batches that were not taken, by verdict.", ("verdict",), "refused"
    ),
    Family(_P + "commit_seconds", HISTOGRAM, "Time of a commit, from its first row to the end of the sync."),
    Family(_P + "file_bytes", GAUGE, "Length of the store file without its log.", (), "file_bytes"),
    Family(_P + "log_bytes", GAUGE, "Length of the write-ahead log.", (), "log_bytes"),
    Family(_P + "log_frames", GAUGE, "Pages that the write-ahead log has room for.", (), "log_frames"),
    Family(_P + "log_held_seconds", GAUGE, "How long a reader has held the log; 0 for none.", (), "log_held_s"),
    Family(_P + "checkpoints_total", COUNTER, "Checkpoints: done, or held by a reader.", ("outcome",), "checkpoints"),
    Family(_P + "checkpointed_frames_total", COUNTER, "Pages moved from the log into the file."),
    Family(_P + "streams_known", GAUGE, "Streams that are kept in memory.", (), "streams_known"),
    Family(_P + "streams_lost_total", COUNTER, "Streams that were called lost.", (), "streams_lost"),
    Family(_P + "streams_revived_total", COUNTER, "Lost streams that spoke again.", (), "streams_revived"),
    Family(_P + "expired_frames_total", COUNTER, "Frames whose pictures went for want of room.", (), "frames_expired"),
    Family(_P + "edits_total", COUNTER, "Edits that were judged, by how they ended.", ("outcome",), "edits"),
    Family(_P + "removed_rows_total", COUNTER, "Rows of deleted runs that were removed.", (), "removed_rows"),
    Family(_P + "discarded_events_total", COUNTER, "Events that came of runs deleted before.", (), "discarded"),
    Family(_P + "attached", GAUGE, "1 while the broker has it as a subscriber and is heard.", (), "attached"),
    Family(_P + "writing", GAUGE, "1 while the file can be written, 0 after a failure.", (), "writing"),
    Family(_P + "failures_total", COUNTER, "How often the file failed.", (), "failures"),
)  # fmt: skip


def log_frames(log_bytes: int, page_bytes: int) -> int:
    """How many pages a write-ahead log of this length has room for."""
    return max(log_bytes - _LOG_HEADER_BYTES, 0) // (page_bytes + _FRAME_HEADER_BYTES)


def figures(**values: float | Distribution | Mapping[str, float]) -> Figures:
    """Values by the names of `FAMILIES` without their prefix; those of a family with a label by the label's value."""
    return {
        _P + name: {(label,): count for label, count in value.items()} if isinstance(value, Mapping) else {(): value}
        for name, value in values.items()
    }
