"""The link from a process to a broker: it sends what the spools hold, and drains those of dead workers."""

from telefabric.uplink.link import Link, held_back
from telefabric.uplink.linked_stream import LinkedStream
from telefabric.uplink.orphans import orphan_candidates

__all__ = ["Link", "LinkedStream", "held_back", "orphan_candidates"]
