"""The store writer as a process: subscribes to the broker, commits, then acknowledges.

One thread does all of it: SQLite gives the interpreter lock away at every statement, and a second busy thread would
take it for milliseconds each time. Queries are answered by a process of their own
(`telefabric.store.read.query_service`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from zlib import crc32

import structlog

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import StoreError, StoreReplaced, WireError
from telefabric.metrics.figures import Figures
from telefabric.metrics.summary import Health
from telefabric.peer.core.backoff import Backoff
from telefabric.store.core.lost_streams import Vigil
from telefabric.store.file.database import log_bytes
from telefabric.store.metrics import FAMILIES, Standing, Tally, figures
from telefabric.store.write.checkpoints import Checkpoints
from telefabric.store.write.retention import Retention
from telefabric.store.write.rows import Place, Rows
from telefabric.store.write.writer import Writer
from telefabric.subscribe.core.intake import Intake, Verdict
from telefabric.subscribe.durable import BrokerSession
from telefabric.wire import control
from telefabric.wire.batch import Header, is_whole, parse_header
from telefabric.wire.control import DAMAGED, MISSING
from telefabric.wire.names import end_of

log = structlog.get_logger("telefabric.store")

_POLL_MS = 20
_LOOK_S = 1.0
_MESSAGES_A_TURN = 200
NS = 1_000_000_000


class Store:
    """Opens the file on construction (raises `StoreError`), serves in `run` until `stop`.

    `run` raises `StoreReplaced` when the file is removed or replaced under it: whoever started it begins again with
    what is there then. Whatever else goes wrong with the file, it tries again until that is over. `show` is given the
    store's figures once a second, on the thread that runs it.
    """

    def __init__(
        self,
        broker: Address,
        path: Path,
        *,
        name: str = "store",
        query: str | None = None,
        lost_after_s: float = limits.LOST_AFTER_S,
        frame_bytes_max: int = limits.FRAME_BYTES_KEPT,
        group_readable: bool = False,
        show: Callable[[Figures], None] | None = None,
        tell: Callable[[str], None] = lambda words: None,
    ) -> None:
        self.path = path = path.absolute()
        self._broker = broker
        self._name = name
        self.query = query
        """Where queries are answered, for the broker to tell."""
        self._keeps = end_of(f"{socket.gethostname()}:{path}")
        self._refusal = ""
        self._random = Random(os.urandom(8))
        self._group_readable = group_readable
        self._writer: Writer | None = Writer(path, group_readable=group_readable, tell=tell)
        self._page_bytes = self._writer.page_bytes
        self._intake = Intake()
        self._lost_after_s = lost_after_s
        self._vigil = self._new_vigil(self._writer)
        self._arriving: dict[bytes, control.StreamInfo] = {}
        """Streams that the broker asked about and that have no place in the file yet."""
        self._rows: Rows = self._writer.begin()
        self._committing: Rows | None = None
        self._session: BrokerSession | None = None
        self._stop = threading.Event()
        self._backoff = Backoff(self._random)
        self._reopen_due_ns = 0
        self._checkpoints = Checkpoints(time.monotonic_ns())
        self._retention = Retention(frame_bytes_max)
        self._told_silent = False
        self._look_due_ns = 0
        self._health = Health("store", FAMILIES, show, time.monotonic_ns())
        self.tally = Tally()

    def stop(self) -> None:
        """End `run` soon, after a last commit. Any thread, and signal handlers."""
        self._stop.set()

    def close(self) -> None:
        """Let go of the file, when `run` has ended. It is whole without its log if nobody else has it open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def run(self) -> None:
        """Serve until `stop`. The file stays open: `close` it."""
        log.info("store.started", path=str(self.path), broker=self._broker.url)
        try:
            while not self._stop.is_set():
                try:
                    self._turn()
                except StoreReplaced:
                    raise
                except StoreError as error:
                    self._fail(error)
                self._health.tend(self._figures, time.monotonic_ns())
            if self._writer is not None:
                self._commit()
                self._acknowledge()
        finally:
            if self._session is not None:
                self._session.close()
            log.info("store.stopped", path=str(self.path), stored_events=self.tally.stored_events)

    def _turn(self) -> None:
        now_ns = time.monotonic_ns()
        if self._writer is None:
            self._reopen(now_ns)
            return
        if self._session is None or self._session.silent(now_ns):
            self._reconnect(now_ns)
        session = self._session
        assert session is not None
        session.wait(self._patience_ms(now_ns))
        now_ns = time.monotonic_ns()
        for message in session.receive_control(now_ns):
            self._dispatch(session, message)
        more = self._take_all(session)
        if self._writer.commit_ended or not more:  # with more at hand the disk works meanwhile
            self._acknowledge()
        if self._due(time.monotonic_ns(), more):
            self._commit()
        session.tell_stored(time.monotonic_ns(), self.tally.stored_events, self.tally.quarantined_events)
        self._keep_house(time.monotonic_ns())

    # -- broker --------------------------------------------------------------------------------------------------

    def _reconnect(self, now_ns: int) -> None:
        if self._session is not None:
            if self._session.arrivals.stuck(now_ns):
                log.warning("store.data_renewed", broker=self._broker.url)
            elif not self._told_silent:
                log.warning("store.broker_silent", broker=self._broker.url, remedy="telefabric broker, or --connect")
                self._told_silent = True
            self._session.close()
        self._session = BrokerSession(self._broker)
        self._attach(self._session)

    def _attach(self, session: BrokerSession) -> None:
        assert self._writer is not None
        fabric = self._writer.fabric_id
        session.send(control.Attach(control.PROTOCOL, self._name, self.query, self._keeps, fabric))

    def _dispatch(self, session: BrokerSession, message: control.Message) -> None:
        match message:
            case control.Attached():
                self._listen(session, message)
            case control.Ask() if message.instance == session.instance:
                session.send(control.Marks(message.instance, [self._mark(info) for info in message.streams]))
            case control.Living() if message.instance == session.instance:
                change = self._vigil.living(message.streams, time.monotonic_ns())
                self._rows.lost += change.lost
                self._rows.revived += change.revived
            case control.Who() | control.Ask():  # ATTACHED was lost, or the broker is another one now
                self._attach(session)
            case control.Refused():
                self._refused(message.reason)

    def _listen(self, session: BrokerSession, message: control.Attached) -> None:
        try:
            session.subscribe(message)
        except WireError as error:
            self._refused(str(error))
            return
        self._refusal = ""
        self._told_silent = False
        log.info("store.attached", broker=self._broker.url, instance=message.instance.hex())

    def _refused(self, reason: str) -> None:
        if reason != self._refusal:
            self._refusal = reason
            log.error("store.refused", reason=reason)

    def _mark(self, info: control.StreamInfo) -> control.StreamSeq:
        """The committed watermark; the stream is known from now on."""
        assert self._writer is not None
        stored = self._writer.stored_seq(info.stream)
        if not self._writer.over(info.stream) and self._vigil.heard(info.stream, time.monotonic_ns()):
            self._rows.revived.append(info.stream)
        if self._writer.find(info.stream) is None:
            self._arriving[info.stream] = info
        if not self._intake.knows(info.stream):
            self._learn(info.stream, stored)
        return control.StreamSeq(info.stream, stored)

    def _learn(self, stream: bytes, stored: int) -> None:
        """Judge batches of a stream from now on, and forget the streams of long ago: the file knows them."""
        assert self._writer is not None
        self._intake.reset(stream, stored)
        pending = {stream, *self._rows.marks, *(self._committing.marks if self._committing else ())}
        for forgotten in self._intake.forget_oldest(limits.STREAMS_KNOWN_MAX, pending):
            self._writer.forget(forgotten)
            self._arriving.pop(forgotten, None)

    # -- batches -------------------------------------------------------------------------------------------------

    def _take_all(self, session: BrokerSession) -> bool:
        """Add what has arrived, up to a transaction's worth; True when there may be more."""
        for _ in range(_MESSAGES_A_TURN):
            if self._rows.events >= limits.COMMIT_EVENTS_MAX:
                return True
            data = session.receive_data()
            if data is None:
                return False
            self._take(session, data)
        return True

    def _take(self, session: BrokerSession, message: bytes) -> None:
        """Judge one batch and add its rows. Nothing that comes in here can stop the store."""
        try:
            header, start = parse_header(message)
            body = message[start:]
        except WireError as error:
            self._count(error.reason)
            return
        if header.session != session.instance:
            self._count("stale")
            return
        if not self._intake.knows(header.stream) and self._writer is not None and self._writer.find(header.stream):
            self._learn(header.stream, self._writer.stored_seq(header.stream))
        whole = is_whole(header, body)
        if not whole:
            self._count("damaged")
        judgement = self._intake.judge(header) if whole else self._intake.judge_damaged(header, crc32(body))
        match judgement.verdict:
            case Verdict.ACCEPT:
                self._rows.add(self._place(header.stream), header, body, judgement.skip, whole=whole)
            case Verdict.NACK:
                reason = MISSING if whole else DAMAGED
                nack = control.Nack(header.session, header.stream, header.epoch, judgement.expected, reason)
                session.send(nack)
                self._count("nack")
            case Verdict.CONFLICT:
                self._conflict(header, body)
            case verdict:
                self._count(verdict.value)

    def _conflict(self, header: Header, body: bytes) -> None:
        """Two owners of one stream: keep what came second, change nothing."""
        self._count("conflict")
        detail = f"seqs {header.first_seq} to {header.last_seq} are stored with other bytes"
        self._rows.quarantine_batch(self._place(header.stream), header, body, "conflict", detail)
        log.warning("store.conflict", stream=header.stream.hex(), detail=detail)

    def _place(self, stream: bytes) -> Place:
        assert self._writer is not None
        info = self._arriving.pop(stream, None)
        place = self._writer.find(stream) if info is None else self._writer.place(info)
        assert place is not None, "a stream that is judged was asked about, or is in the file"
        return place

    # -- commits -------------------------------------------------------------------------------------------------

    def _patience_ms(self, now_ns: int) -> int:
        if not self._rows:
            return _POLL_MS
        waited_ms = (now_ns - self._rows.began_ns) // 1_000_000
        return max(0, int(limits.COMMIT_INTERVAL_S * 1000) - waited_ms)

    def _due(self, now_ns: int, more: bool) -> bool:
        if not self._rows:
            self._rows.began_ns = now_ns
            return False
        patience_s = limits.COMMIT_INTERVAL_BUSY_S if more else limits.COMMIT_INTERVAL_S
        return self._rows.events >= limits.COMMIT_EVENTS_MAX or now_ns - self._rows.began_ns >= patience_s * NS

    def _commit(self) -> None:
        """Write what has gathered. Raises `StoreError` when the file cannot be written."""
        writer = self._writer
        assert writer is not None
        if not self._rows:
            return
        self._acknowledge()
        writer.begin_commit(self._rows)
        self._committing, self._rows = self._rows, writer.begin()

    def _acknowledge(self) -> None:
        """When a commit is under way: wait for it, and tell what is stored. Raises `StoreError` when it failed."""
        writer, rows = self._writer, self._committing
        if rows is None:
            return
        assert writer is not None
        marks = writer.end_commit()
        self._committing = None
        self.tally.stored_events += rows.events
        self.tally.quarantined_events += rows.quarantined
        self.tally.commits.observe(writer.commit_s)
        self.tally.changes.update(writer.changes)
        self._vigil.ended(change.place.stream_id for change in rows.lifecycle if change.ends)
        self._checkpoints.written(time.monotonic_ns())
        self._backoff.reset()
        if self._session is not None and self._session.instance is not None:
            stored = [control.StreamSeq(stream, seq) for stream, seq in marks.items()]
            self._session.send(control.Stored(self._session.instance, stored))

    def _fail(self, error: StoreError) -> None:
        """Nothing of the transaction is stored: forget it, let go of the broker, and begin again from the database."""
        wait_s = self._backoff.next_s()
        self.tally.failures += 1
        log.error("store.failed", reason=str(error), retry_s=round(wait_s, 1))
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._committing = None
        self._intake.forget_all()
        self._reopen_due_ns = time.monotonic_ns() + int(wait_s * NS)

    def _reopen(self, now_ns: int) -> None:
        if now_ns < self._reopen_due_ns:
            self._stop.wait(_POLL_MS / 1000)
            return
        self._writer = Writer(self.path, group_readable=self._group_readable)
        self._writer.require_short_log()
        self._vigil = self._new_vigil(self._writer)
        self._rows = self._writer.begin()

    def _new_vigil(self, writer: Writer) -> Vigil:
        running, lost = writer.unfinished()
        vigil = Vigil(self._lost_after_s)
        vigil.expect(running, time.monotonic_ns())
        vigil.expect(lost, 0, lost=True)
        return vigil

    def _keep_house(self, now_ns: int) -> None:
        """See to the file and its log each second."""
        if self._writer is None:
            return
        if now_ns >= self._look_due_ns:
            self._look_due_ns = now_ns + int(_LOOK_S * NS)
            self._writer.require_file()
            self._checkpoints.tend(self._writer, now_ns)
            self._retention.tend(self._writer, now_ns)

    def _figures(self, now_ns: int) -> Figures:
        session, writer = self._session, self._writer
        standing = Standing(
            file_bytes=_size(self.path),
            log_bytes=log_bytes(self.path),
            page_bytes=self._page_bytes,
            log_held_s=self._checkpoints.held_s(now_ns),
            checkpoints=self._checkpoints.outcomes,
            checkpointed_frames=self._checkpoints.frames,
            streams_known=len(self._intake),
            frames_expired=self._retention.expired,
            attached=session is not None and session.instance is not None and not session.silent(now_ns),
            writing=writer is not None,
        )
        return figures(self.tally, standing)

    def _count(self, verdict: str) -> None:
        self.tally.refused[verdict] = self.tally.refused.get(verdict, 0) + 1


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # removed under us: `Writer.require_file` tells
        return 0
