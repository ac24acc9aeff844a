"""Frames of an environment: through the ring, over the network, and stored."""

from telefabric_workers.frames.offered import Frames
from telefabric_workers.frames.pictures import Moment
from telefabric_workers.frames.stored import StoredFrames

__all__ = ["Frames", "Moment", "StoredFrames"]
