"""At every delivery, received + dropped + lost = newest: counted beside the subscription, from the frames themselves.

`install` makes every subscription of this process check itself; one that is wrong ends its thread with an error.
"""

from __future__ import annotations

from telefabric.feed.failures import Failures
from telefabric.subscribe.core.accounting import Ledger
from telefabric.subscribe.live import LiveEvent, LiveSubscription
from telefabric.wire.batch import parse_header
from telefabric.wire.delivery import decode_delivery

plain = LiveSubscription._delivered
"""What `install` wraps."""
deliveries = 0
"""How many were checked in this process."""


class Recount:
    """What a ledger has to say, by the frames that came under its token."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.hop = ledger.broker_hop
        """Of one subscription; the next has another."""
        self.received = 0
        self.dropped = 0
        self.newest = 0

    def add(self, frames: list[bytes]) -> None:
        delivery = decode_delivery(frames[1])
        self.received += parse_header(frames[2])[0].events if frames[2] else 0
        self.dropped += sum(drop.events for drop in delivery.drops)
        assert delivery.number >= self.newest, "deliveries come in order of number"
        self.newest = delivery.number

    def check(self) -> None:
        hop = self.ledger.broker_hop
        said = hop.received, sum(hop.dropped.values()), hop.newest
        assert said == (self.received, self.dropped, self.newest)
        assert hop.lost_in_transit == self.newest - self.received - self.dropped >= 0
        assert min(self.ledger.lost_in_transit) >= 0
        for account in self.ledger.sources.values():
            assert account.received + sum(account.dropped.values()) <= account.newest or account.before is None


def install() -> None:
    def checked(self: LiveSubscription, frames: list[bytes], found: list[LiveEvent]) -> None:
        global deliveries
        recount = self.__dict__.get("recount")
        if recount is None or recount.hop is not self.ledger.broker_hop:
            recount = self.__dict__["recount"] = Recount(self.ledger)
        plain(self, frames, found)
        if len(frames) == 3 and _is_readable(frames):
            recount.add(frames)
            recount.check()
            deliveries += 1

    def not_outlived(self: Failures, what: str, error: BaseException) -> str:
        if isinstance(error, AssertionError):
            raise error  # what is wrong here ends even a thread that outlives everything else
        return take(self, what, error)

    LiveSubscription._delivered = checked  # type: ignore[method-assign]
    take = Failures.take
    Failures.take = not_outlived  # type: ignore[method-assign]


def _is_readable(frames: list[bytes]) -> bool:
    """A fault may have garbled what counts, which the subscription then cannot count either."""
    from telefabric.errors import WireError

    try:
        decode_delivery(frames[1])
        if frames[2]:
            parse_header(frames[2])
    except WireError:
        return False
    return True
