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
    LinkState,
    RunView,
    StreamView,
    Update,
)
from telefabric.feed.questions import Answer, Asked
from telefabric.keys.core.ticket import Ticket
from telefabric.store.read.query import (
    Band,
    Bands,
    BookmarkRow,
    Bookmarks,
    Bucket,
    BucketKey,
    Buckets,
    ColumnChunk,
    Columns,
    Condition,
    CountKey,
    Counts,
    EpisodeKey,
    EpisodeRow,
    EpisodesBy,
    EpisodesIn,
    EpisodesOf,
    Events,
    FoundRow,
    FrameAt,
    FrameOf,
    FramesOf,
    Mark,
    Marks,
    Newest,
    Page,
    Place,
    Places,
    PointChunk,
    Points,
    Question,
    RowCount,
    RowOf,
    RowsAt,
    Scan,
    Series,
    SeriesOf,
    StepKey,
    StepsOf,
    StoredEvent,
    StreamSince,
)
from telefabric.subscribe.core.handover import Range

__all__ = [
    "HERE", "Answer", "Asked", "Band", "Bands", "BookmarkRow", "Bookmarks", "BrokerAnswer", "BrokerFeed", "Bucket",
    "BucketKey", "Buckets", "ColumnChunk", "Columns", "Condition", "Connection", "CountKey", "Counts", "EpisodeKey",
    "EpisodeRow", "EpisodesBy", "EpisodesIn", "EpisodesOf", "Events", "Failures", "Feed", "FeedEvent", "FileFeed",
    "FoundRow", "FrameAt", "FrameOf", "FramesOf", "KnownBroker", "LinkState", "Mark", "Marks",
    "Newest", "Page", "Place", "Places", "PointChunk", "Points", "Question", "Range", "RowCount", "RowOf", "RowsAt",
    "RunView", "Scan", "Series", "SeriesOf", "StepKey", "StepsOf", "StoredEvent", "StreamSince", "StreamView",
    "Ticket", "Update", "ask_broker", "forget_broker", "join_broker", "known_brokers", "said",
]  # fmt: skip
