"""The worker's side of one stream: when to greet, what to send next, how far it is acknowledged.

=========== ========================================== ==========================================================
phase       means                                      leaves it
=========== ========================================== ==========================================================
greeting    HELLO is due, or sent and not answered     WELCOME → waiting or streaming
waiting     welcomed; a store has not reported yet     WELCOME with `expected` → streaming
streaming   sends within its credit                    REWIND, WELCOME → streaming, from `expected`;
                                                       WHO, an ACK stall, a new connection → greeting
held        its spool belongs to other stores than     WELCOME → waiting or streaming; WHO, a new connection,
            the one that welcomes it: it sends nothing a store that was admitted → greeting
=========== ========================================== ==========================================================

Whatever names another broker instance than the last WELCOME is ignored. Cursor, credit and what is in flight start
afresh with each WELCOME and REWIND, under a new epoch, so no batch of before can disturb the count.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from random import Random
from typing import NamedTuple

from telefabric import limits
from telefabric.peer.core.backoff import Backoff
from telefabric.wire import control
from telefabric.wire.batch import HEADER_BYTES


class Phase(Enum):
    GREETING = "greeting"
    WAITING = "waiting"
    STREAMING = "streaming"
    HELD = "held"


class SendBatch(NamedTuple):
    """Send the events from `first_seq` on: a body of `bytes_max`, or one event whose message fits `credit_bytes`."""

    first_seq: int
    bytes_max: int
    credit_bytes: int


class SendGap(NamedTuple):
    """Report these seqs as lost."""

    first_seq: int
    last_seq: int


def claimed(message: control.Message) -> int:
    """Up to which seq somebody holds a stream, as a broker's message has it; 0 when it says nothing of that."""
    match message:
        case control.Ack(seq=seq):
            return seq
        case control.Welcome(expected=int(expected)) | control.Rewind(expected=expected):
            return expected - 1
    return 0


def admits(fabrics: tuple[bytes, ...], fabric: bytes | None) -> bool:
    """Whether a spool that belongs to these stores may be delivered to that one; to one without an id always."""
    return not fabrics or fabric is None or fabric in fabrics


_BATCHES_IN_FLIGHT = 4
"""The least that credit above the base is cut into: while the store commits one batch, the next ones are on the way."""


class StreamSession:
    """One stream towards one broker. All times are monotonic nanoseconds. The link's thread owns it."""

    def __init__(self, info: control.StreamInfo, random: Random, fabrics: tuple[bytes, ...] = ()) -> None:
        self.info = info
        self.fabrics = fabrics
        """The stores that may have it, by fabric id; empty until one takes it."""
        self.phase = Phase.GREETING
        self.instance: bytes | None = None
        self.epoch = 0
        self.cursor = 1
        self.acked = 0
        self.credit = 0
        self.in_flight_bytes = 0
        self.next_bytes = 0
        self.rewinds = 0
        self.wait_reason: str | None = None
        self._credit_number = 0
        self._in_flight: deque[tuple[int, int]] = deque()
        self._backoff = Backoff(random)
        self._hello_due_ns = 0
        self._progress_ns = 0
        self._sent_ns = 0
        self.interval_ms = int(limits.BATCH_INTERVAL_MIN_S * 1_000)
        """How long a batch may gather, as the broker said."""

    # -- inputs --------------------------------------------------------------------------------------------------

    def reconnected(self, now_ns: int) -> None:
        """The control connection is new, or the broker does not know the stream: greet at once."""
        self.phase = Phase.GREETING
        self._forget_in_flight()
        self._hello_due_ns = now_ns

    def who(self, now_ns: int) -> None:
        if self.phase is not Phase.GREETING:
            self.reconnected(now_ns)

    def alive(self, message: control.Alive, now_ns: int) -> None:
        """Another broker answers than the one whose WELCOME counts: its own was lost, and epochs may be alike."""
        if message.instance != self.instance:
            self.who(now_ns)

    def welcome(self, message: control.Welcome, now_ns: int) -> None:
        self.instance = message.instance
        self.wait_reason = message.wait_reason
        if message.expected is None:
            self.phase = Phase.WAITING
            self.epoch = message.epoch
            self._forget_in_flight()
            return
        self._start(message.epoch, message.expected, message.credit_bytes, now_ns)
        self.interval_ms = message.interval_ms
        if not admits(self.fabrics, message.fabric):
            self.phase = Phase.HELD
            return
        self.acked = max(self.acked, message.expected - 1)
        if message.fabric is not None and not self.fabrics:
            self.fabrics = (message.fabric,)

    def admitted(self, fabrics: tuple[bytes, ...], now_ns: int) -> None:
        """A user named further stores that may have it."""
        if self.phase is Phase.HELD and fabrics != self.fabrics:
            self.fabrics = fabrics
            self.reconnected(now_ns)

    def rewind(self, message: control.Rewind, now_ns: int) -> None:
        """Acknowledges nothing: what comes before `expected` may be accepted and not committed."""
        if message.instance != self.instance or self.phase is not Phase.STREAMING or message.epoch <= self.epoch:
            return
        self.rewinds += 1
        self._start(message.epoch, message.expected, message.credit_bytes, now_ns)

    def credited(self, message: control.Credit) -> None:
        if message.instance != self.instance or message.epoch != self.epoch or self.phase is not Phase.STREAMING:
            return
        if message.number >= self._credit_number:
            self._credit_number = message.number
            self.credit = message.credit_bytes
            self.interval_ms = message.interval_ms

    def acknowledged(self, message: control.Ack, now_ns: int) -> None:
        if message.instance != self.instance or self.phase is not Phase.STREAMING:
            return
        progress = message.seq > self.acked
        while self._in_flight and self._in_flight[0][0] <= message.seq:
            self.in_flight_bytes -= self._in_flight.popleft()[1]
            progress = True
        if progress:
            self.acked = max(self.acked, message.seq)
            self._progress_ns = now_ns
            self._backoff.reset()

    def tick(self, now_ns: int) -> bool:
        """Notice that acknowledgements have stopped; True at the moment when they are missed."""
        stalled = bool(self._in_flight) and now_ns - self._progress_ns > limits.ACK_STALL_S * limits.NS
        if stalled:
            self.reconnected(now_ns)
        return stalled

    # -- decisions -----------------------------------------------------------------------------------------------

    def hello_due(self, now_ns: int) -> bool:
        """True when HELLO must go out now; the next one is then due after a growing wait."""
        if self.phase is not Phase.GREETING or now_ns < self._hello_due_ns:
            return False
        self._hello_due_ns = now_ns + int(self._backoff.next_s() * limits.NS)
        return True

    def next_send(
        self, *, oldest: int, head: int, unsent_bytes: int, now_ns: int, hurry: bool = False
    ) -> SendBatch | SendGap | None:
        """The seqs to send now, if the spool holds `oldest` … `head`; `hurry` skips the gathering interval."""
        if self.phase is not Phase.STREAMING or (self.cursor > head and self.cursor >= oldest):
            return None
        free = self.credit - self.in_flight_bytes - limits.BATCH_OVERHEAD_BYTES
        if free <= 2 * HEADER_BYTES:
            return None
        if self.cursor < oldest:
            return SendGap(self.cursor, oldest - 1)
        whole = min(limits.BATCH_BYTES_MAX, max(self.credit // _BATCHES_IN_FLIGHT, limits.CREDIT_BASE_BYTES))
        gathered = unsent_bytes >= whole or hurry or now_ns - self._sent_ns >= self.interval_ms * 1_000_000
        worthwhile = free >= min(unsent_bytes, whole) or not self._in_flight
        if not gathered or not worthwhile:
            return None
        return SendBatch(self.cursor, min(free - HEADER_BYTES, whole), free)

    def sent(self, last_seq: int, size: int, now_ns: int) -> None:
        """The batch or gap up to `last_seq`, a message of `size` bytes, is with ZeroMQ."""
        if not self._in_flight:
            self._progress_ns = now_ns
        charged = size + limits.BATCH_OVERHEAD_BYTES
        self._in_flight.append((last_seq, charged))
        self.in_flight_bytes += charged
        self.cursor = last_seq + 1
        self._sent_ns = now_ns
        self.next_bytes = 0

    def too_large(self, size: int) -> None:
        """The next event alone exceeds the credit: ask for a grant of its size in the next heartbeat."""
        self.next_bytes = size + 2 * limits.BATCH_OVERHEAD_BYTES

    def hello(self, oldest: int, head: int) -> control.Hello:
        return control.Hello(control.PROTOCOL, self.info, oldest, head)

    def beat(self, *, oldest: int, head: int, backlog_bytes: int, live: int | None = None) -> control.StreamBeat:
        """Credit that was lowered below what is in flight already is confirmed only as far as that is acknowledged."""
        in_use, held = max(self.credit, self.in_flight_bytes), self.phase is Phase.HELD
        return control.StreamBeat(
            self.info.stream, oldest, head, backlog_bytes, in_use, self.epoch, self.next_bytes, live, held
        )

    # -- inside --------------------------------------------------------------------------------------------------

    def _start(self, epoch: int, expected: int, credit: int, now_ns: int) -> None:
        self.phase = Phase.STREAMING
        self.epoch = epoch
        self.cursor = expected
        self.credit = credit
        self._credit_number = 0
        self._forget_in_flight()
        self._progress_ns = now_ns
        self._sent_ns = 0

    def _forget_in_flight(self) -> None:
        self._in_flight.clear()
        self.in_flight_bytes = 0
