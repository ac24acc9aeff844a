"""Subscribing to a broker from any program: live, where drops are counted, and durable, where nothing is lost.

`LiveSubscription` asks with WATCH, `DurableSubscription` with ATTACH. Neither needs anything of the fabric but the
broker's address; a durable subscriber that has to hold an event before it is acknowledged is named in the broker's
setting ``required``.
"""

from telefabric.subscribe.durable import DurableBatch, DurableSubscription, Owner, Sink
from telefabric.subscribe.live import LiveEvent, LiveSubscription

__all__ = ["DurableBatch", "DurableSubscription", "LiveEvent", "LiveSubscription", "Owner", "Sink"]
