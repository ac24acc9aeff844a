"""The fast lane: frames and what is shown over them, through shared memory, on one machine. See `fabric/RING.md`."""

from telefabric.ring.discovery import Cleared, RingInfo, collect_garbage, discover, rings_of
from telefabric.ring.hud import Hud, TileHud
from telefabric.ring.pixels import PixelFormat
from telefabric.ring.places import Name
from telefabric.ring.reader import ReaderCounters, RingFrame, RingReader
from telefabric.ring.writer import RingWriter, WriterCounters

__all__ = [
    "Cleared",
    "Hud",
    "Name",
    "PixelFormat",
    "ReaderCounters",
    "RingFrame",
    "RingInfo",
    "RingReader",
    "RingWriter",
    "TileHud",
    "WriterCounters",
    "collect_garbage",
    "discover",
    "rings_of",
]
