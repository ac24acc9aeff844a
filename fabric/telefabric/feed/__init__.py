"""The data that a client shows: runs and their events, from a broker or a store file."""

from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.brokers import (
    HERE,
    BrokerAnswer,
    KnownBroker,
    ask_broker,
    forget_broker,
    join_broker,
    known_brokers,
)
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
from telefabric.keys.core.ticket import Ticket
from telefabric.subscribe.core.handover import Range

__all__ = [
    "HERE", "BrokerAnswer", "BrokerFeed", "Connection", "Failures", "Feed", "FeedEvent", "FileFeed", "FoundFrame",
    "FramePlace", "KnownBroker", "LinkState", "Range", "RunView", "StreamView", "Ticket", "Update", "ask_broker",
    "forget_broker", "join_broker", "known_brokers", "said",
]  # fmt: skip
