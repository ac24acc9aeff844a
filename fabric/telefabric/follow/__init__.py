"""Following runs of a broker, live and stored as one: the feed of clients and of ``telefabric tail --from-start``."""

from telefabric.follow.follower import Follower, Source

__all__ = ["Follower", "Source"]
