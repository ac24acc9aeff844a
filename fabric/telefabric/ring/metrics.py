"""The figures of this user's rings on this machine, from what writers and readers put down beside them each second.

Sums and maxima, as those of the broker: never a series for each ring.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from telefabric.metrics.figures import GAUGE, Family, Figures
from telefabric.ring import places
from telefabric.ring.discovery import discover

_P = "telefabric_ring_"
_NOW = "of the rings that are here now"
_OLD_S = 5.0
"""A reader tells once a second."""
_WRITERS = {
    "published_frames": ("published", "Frames published"),
    "frames_per_second": ("frames_per_s", "Frames published a second"),
    "rate_limited_frames": ("rate_limited", "Frames not published, over the rate"),
    "left_out_frames": (
        "left_out",
        "Frames left out: no room, too long a HUD, or given inside another frame",
    ),
    "generations": ("generations", "Files made"),
    "bell_errors": ("bell_errors", "Readers that could not be woken"),
}
_READERS = {
    "reader_received_frames": ("received", "Frames read"),
    "reader_skipped_frames": ("skipped", "Frames passed over for newer ones"),
    "reader_retries": ("retries", "Reads that met a frame in the making"),
    "reader_damaged_frames": ("damaged", "Frames that contradicted themselves"),
    "reader_starved_reads": ("starved", "Reads given up after some retries"),
    "reader_generations": ("generations", "Files gone on in"),
}
"""Metric → the counter that is summed, and its description."""
FAMILIES = (
    Family(_P + "rings", GAUGE, "Rings by state.", ("state",)),
    *(Family(_P + name, GAUGE, f"{what}, {_NOW}.") for name, (_, what) in _WRITERS.items()),
    Family(_P + "readers", GAUGE, f"Readers, {_NOW}."),
    *(Family(_P + name, GAUGE, f"{what}, by the readers that there are now.") for name, (_, what) in _READERS.items()),
    Family(_P + "reader_lag_largest_frames", GAUGE, "Frames that the reader furthest behind has not looked at."),
)


def figures(base: Path | None = None) -> Figures:
    """The figures of the rings that exist now, without those that cannot be read. Any thread."""
    rings = discover(base)
    writers = [_read(one.folder / places.STATS) for one in rings]
    readers = [told for one in rings for told in _readers(one.folder)]
    values = {
        **_sums(_WRITERS, writers),
        "readers": len(readers),
        **_sums(_READERS, readers),
        "reader_lag_largest_frames": max((one.get("lag", 0) for one in readers), default=0),
    }
    states: dict[tuple[str, ...], float] = dict(Counter((one.state,) for one in rings))
    return {_P + "rings": states, **{_P + name: {(): value} for name, value in values.items()}}


def _sums(names: dict[str, tuple[str, str]], told: list[dict[str, Any]]) -> dict[str, float]:
    return {name: sum(one.get(counter, 0) for one in told) for name, (counter, _) in names.items()}


def _readers(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / places.READERS).glob("*.json")):
        told = _read(path)
        if time.time_ns() - told.get("time_ns", 0) < _OLD_S * 1e9:
            yield told


def _read(path: Path) -> dict[str, Any]:
    try:
        return {name: value for name, value in _decode(path.read_bytes()).items() if isinstance(value, int | float)}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


_decode = msgspec.json.Decoder(dict[str, Any]).decode
