"""The data that a client shows: runs and their events, from a broker or a store file."""

from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.failures import Failures, said
from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import (
    Connection,
    Feed,
    FeedEvent,
    FoundFrame,
    FramePlace,
    LinkState,
    RunView,
    StreamView,
    Update,
)
from telefabric.subscribe.core.handover import Range

__all__ = [
    "BrokerFeed", "Connection", "Failures", "Feed", "FeedEvent", "FileFeed", "FoundFrame",
    "FramePlace", "LinkState", "Range", "RunView", "StreamView", "Update", "said",
]  # fmt: skip
