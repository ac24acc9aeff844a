"""Credit: how many unacknowledged bytes each stream may have in flight.

Lent, not owned. Every stream always holds the base grant. The rest of the total goes to streams with a backlog,
max-min fair (nobody gets more than it asks for, and what is left over is shared equally), and an event that is larger
than its stream's share waits in line for one grant of its size.

A stream has one change of its grant under way at a time: until its heartbeat shows the grant, the larger of that and
the one before counts as lent. So the sum of what workers believe to hold never exceeds the total, however late they
hear and report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


def max_min_fair(wants: Mapping[bytes, int], pool: int) -> dict[bytes, int]:
    """Shares of `pool`: none above its want, and no share can grow but at the cost of a smaller one."""
    shares: dict[bytes, int] = {}
    waiting = sorted(wants.items(), key=lambda item: item[1])
    for place, (stream, want) in enumerate(waiting):
        shares[stream] = min(want, pool // (len(waiting) - place))
        pool -= shares[stream]
    return shares


@dataclass(slots=True)
class _Account:
    granted: int
    confirmed: int
    """The grant that the worker's heartbeats have shown last."""
    wanted: int = 0
    """Beyond the base. Streams that want nothing more are most, and what changes below the base changes nothing."""
    next_bytes: int = 0

    @property
    def reserved(self) -> int:
        """The most bytes that the stream may believe it may have in flight."""
        return max(self.granted, self.confirmed)

    @property
    def settled(self) -> bool:
        return self.granted == self.confirmed


_NONE = _Account(0, 0)
_QUICK_STREAMS = 64


class CreditBook:
    """The streams' shares of the total credit."""

    def __init__(self, *, total: int, base: int, streams_max: int, stream_bytes_max: int) -> None:
        self._base = base
        self._pool = total - base * streams_max
        self._stream_extra_max = min(stream_bytes_max - base, self._pool)
        self._accounts: dict[bytes, _Account] = {}
        self._line: list[bytes] = []
        self._stirring: dict[bytes, _Account] = {}
        """Streams that hold or want more than the base. Of a thousand most do not, and a review leaves them out."""
        self._dirty = False

    def open(self, stream: bytes) -> int:
        """(Re)start a stream at the base grant."""
        self.close(stream)
        self._accounts[stream] = _Account(self._base, self._base)
        return self._base

    def close(self, stream: bytes) -> None:
        self._accounts.pop(stream, None)
        if stream in self._line:
            self._line.remove(stream)
        self._stirring.pop(stream, None)
        self._dirty = True

    def granted(self, stream: bytes) -> int:
        return self._accounts.get(stream, _NONE).granted

    def reserved(self, stream: bytes) -> int:
        return self._accounts.get(stream, _NONE).reserved

    def report(self, stream: bytes, backlog: int, next_bytes: int, confirmed: int) -> None:
        """Note a worker's heartbeat; its credit is `confirmed` once it equals the grant."""
        account = self._accounts.get(stream)
        if account is None:
            return
        wanted = min(max(backlog - self._base, 0), self._stream_extra_max)
        next_bytes = min(next_bytes, self._base + self._stream_extra_max)
        told = (wanted, next_bytes, confirmed if confirmed == account.granted else account.confirmed)
        if told == (account.wanted, account.next_bytes, account.confirmed):
            return
        account.wanted, account.next_bytes, account.confirmed = told
        if stream in self._line:
            if account.settled and next_bytes <= account.granted:
                self._line.remove(stream)
        elif next_bytes > account.granted:
            self._line.append(stream)
        self._stirring[stream] = account
        self._dirty = True

    def review(self) -> dict[bytes, int]:
        """The grants that change now."""
        if not self._dirty:
            return {}
        self._dirty = False
        targets = self._targets()
        changed = self._lower(targets)
        free = self._free()
        for stream in targets:  # those in line first
            account = self._accounts[stream]
            raised = min(targets[stream], account.granted + free)
            whole = stream not in self._line or raised >= account.next_bytes
            if account.settled and whole and raised > account.granted:
                free -= raised - account.granted
                account.granted = changed[stream] = raised
        self._stirring = {stream: one for stream, one in self._stirring.items() if not self._at_rest(stream, one)}
        return changed

    def _at_rest(self, stream: bytes, account: _Account) -> bool:
        return not account.wanted and account.granted == account.reserved == self._base and stream not in self._line

    def _targets(self) -> dict[bytes, int]:
        """The credit that each stream should hold: first in line get all they need, the others fair shares."""
        pool = self._pool
        targets: dict[bytes, int] = {}
        for stream in self._line:
            extra = max(self._accounts[stream].next_bytes - self._base, 0)
            if extra <= pool:
                targets[stream] = self._base + extra
                pool -= extra
            else:
                targets[stream] = self._base
        others = {stream: one.wanted for stream, one in self._stirring.items() if stream not in targets}
        shares = max_min_fair(others, pool)
        targets.update({stream: self._base + share for stream, share in shares.items()})
        return targets

    def _lower(self, targets: Mapping[bytes, int]) -> dict[bytes, int]:
        """Take back what exceeds the target by more than an eighth (small swings are not worth a message), or by
        anything as long as others are owed more than is free."""
        changed: dict[bytes, int] = {}
        owed = sum(max(target - self._accounts[stream].reserved, 0) for stream, target in targets.items())
        exact = owed > self._free()
        for stream, target in targets.items():
            account = self._accounts[stream]
            spare = 0 if exact or target == self._base else account.granted // 8
            if account.settled and target < account.granted - spare:
                account.granted = changed[stream] = target
        return changed

    def _free(self) -> int:
        return self._pool - sum(account.reserved - self._base for account in self._stirring.values())

    @property
    def quick(self) -> bool:
        """A review has few streams to look at."""
        return len(self._stirring) <= _QUICK_STREAMS

    def total_reserved(self) -> int:
        return sum(account.reserved for account in self._accounts.values())
