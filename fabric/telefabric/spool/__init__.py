"""The spool: a stream's append-only log on the worker's disk. It is the send queue."""

from telefabric.spool.spool import Chunk, Dropped, Spool, SpoolPolicy, admit, fabrics_in, parent_in

__all__ = ["Chunk", "Dropped", "Spool", "SpoolPolicy", "admit", "fabrics_in", "parent_in"]
