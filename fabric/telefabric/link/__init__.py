"""The link from a process to a broker: it sends what the spools hold, and drains those of dead workers."""

from telefabric.link.link import Link
from telefabric.link.linked import LinkedStream
from telefabric.link.orphans import orphan_candidates

__all__ = ["Link", "LinkedStream", "orphan_candidates"]
