"""The store writer as a process: subscribes to the broker, commits, then acknowledges.

One thread does all of it: SQLite gives the interpreter lock away at every statement, and a second busy thread would
take it for milliseconds each time. Queries are answered by a process of their own
(`telefabric.store.read.query_service`).
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from random import Random

from telefabric import limits
from telefabric.address import Address
from telefabric.errors import StoreError, StoreReplaced
from telefabric.log.events import EventLog
from telefabric.metrics.figures import Figures, Histogram
from telefabric.metrics.summary import Health
from telefabric.peer.core.backoff import Backoff
from telefabric.store.core.lost_streams import Vigil
from telefabric.store.file.access import file_bytes, log_bytes
from telefabric.store.metrics import COMMIT_BOUNDS_S, FAMILIES, figures, log_frames
from telefabric.store.tables.rows import Place, Rows
from telefabric.store.write.checkpoints import Checkpoints
from telefabric.store.write.retention import Retention
from telefabric.store.write.writer import Writer
from telefabric.subscribe import DurableBatch, DurableSubscription, Owner
from telefabric.wire.control import Edit, StreamInfo
from telefabric.wire.edits import DONE, REFUSED
from telefabric.wire.names import end_of
from telefabric_schemas import RunCompleted

log = EventLog("telefabric.store")

_POLL_S = 0.02
_LOOK_S = 1.0
_WORKERS_TOLD = 10
_NEVER = 2**62
"""Nanoseconds."""


class Store(Owner):
    """Opens the file on construction (raises `StoreError`), serves in `run` until `stop`.

    `run` raises `StoreReplaced` when the file is removed or replaced under it: its supervisor begins again with
    what is there then. Whatever else goes wrong with the file, it tries again until that is over. On the thread that
    runs it: `ready` is called once, when the broker has taken it in or none did for `limits.READY_S`; `show` is given
    the store's figures once a second, and `tend` the time in each turn from then on.
    """

    def __init__(
        self,
        broker: Address,
        path: Path,
        *,
        name: str = "store",
        lost_after_s: float = limits.LOST_AFTER_S,
        frame_bytes_max: int = limits.FRAME_BYTES_KEPT,
        group_readable: bool = False,
        show: Callable[[Figures], None] | None = None,
        tell: Callable[[str], None] = lambda words: None,
        tend: Callable[[int], None] = lambda now_ns: None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path = path.absolute()
        self._broker = broker
        self._group_readable = group_readable
        self._writer = Writer(path, group_readable=group_readable, tell=tell)
        self._writing = True
        """False after a failure, until the file is opened again."""
        keeps = end_of(f"{socket.gethostname()}:{path}")
        self.subscription = DurableSubscription(
            broker, name=name, held=self._held, keeps=keeps, required=True, owner=self
        )
        self.subscription.edits = True
        self._lost_after_s = lost_after_s
        self._stopped = False  # an Event takes a lock, which the code that a signal interrupts may hold
        self._tend = tend
        self._ready: Callable[[], None] | None = ready
        """None after it was called."""
        self._backoff = Backoff(Random(os.urandom(8)))
        self._checkpoints = Checkpoints(time.monotonic_ns())
        self._retention = Retention(frame_bytes_max)
        self._told_silent = False
        self._look_due_ns = self._deletion_due_ns = 0
        self._health = Health("store", FAMILIES, show, time.monotonic_ns())
        self._commits = Histogram(COMMIT_BOUNDS_S)
        self._changes: Counter[str] = Counter()
        """Streams lost and revived."""
        self._edits = Counter(dict.fromkeys((DONE, REFUSED), 0))
        self._removed = 0
        """Rows of runs that were deleted."""
        self._discarded = 0
        """Events that came of runs that were deleted."""
        self._failures = 0
        self._begin()

    def _begin(self) -> None:
        """From what the database says."""
        running, lost = self._writer.unfinished()
        self._vigil = Vigil(self._lost_after_s)
        self._vigil.expect(running, time.monotonic_ns())
        self._vigil.expect(lost, 0, lost=True)
        self._rows: Rows = self._writer.begin()
        self._committing: Rows | None = None
        self._deletion_due_ns = 0
        self.subscription.fabric = self._writer.fabric_id

    def reload(self, *, lost_after_s: float, frame_bytes_max: int) -> None:
        """Go on with other limits. On the thread that runs it, or before."""
        self._lost_after_s = self._vigil.lost_after_s = lost_after_s
        self._retention.bytes_max = frame_bytes_max

    def stop(self) -> None:
        """End `run` soon, after a last commit. Any thread, and signal handlers."""
        self._stopped = True

    def close(self) -> None:
        """Let go of the file, when `run` has ended. It is whole without its log if nobody else has it open."""
        if self._writing:
            self._writing = False
            self._writer.close()

    def run(self) -> None:
        """Serve until `stop`. The file stays open: `close` it."""
        log.info("store.started", path=str(self.path), broker=self._broker.url)
        ready_by_ns = time.monotonic_ns() + int(limits.READY_S * limits.NS)
        try:
            while not self._stopped:
                try:
                    self._turn()
                except StoreReplaced:
                    raise
                except StoreError as error:
                    self._fail(error)
                now_ns = time.monotonic_ns()
                self._health.tend(self._figures, now_ns)
                if self._ready is None:
                    self._tend(now_ns)
                elif self.subscription.attached or now_ns >= ready_by_ns:
                    say_ready, self._ready = self._ready, None
                    say_ready()
            if self._writing:
                self._commit_all()
        finally:
            self.subscription.close()
            log.info("store.stopped", path=str(self.path), stored_events=self.subscription.stored_events)

    def _commit_all(self) -> None:
        """All that has gathered, and wait until it is stored."""
        self.subscription.stored(self._end_commit())
        self._begin_commit()
        self.subscription.stored(self._end_commit())

    def _turn(self) -> None:
        if not self._writing:
            self._reopen()
            return
        self.subscription.feed(self, self._patience_s(time.monotonic_ns()))
        now_ns = time.monotonic_ns()
        if now_ns >= self._look_due_ns:
            self._look_due_ns = now_ns + int(_LOOK_S * limits.NS)
            self._writer.require_file()
            self._checkpoints.tend(self._writer, now_ns)
            self._retention.tend(self._writer, now_ns)
        if now_ns >= self._deletion_due_ns:
            self._remove_deleted(now_ns)

    # -- what the subscription says ------------------------------------------------------------------------------

    def attached(self, instance: bytes) -> None:
        self._told_silent = False
        log.info("store.attached", broker=self._broker.url, instance=instance.hex())

    def refused(self, reason: str) -> None:
        log.error("store.refused", reason=reason)

    def silent(self, *, stuck: bool) -> None:
        if stuck:
            log.warning("store.data_renewed", broker=self._broker.url)
        elif not self._told_silent:
            log.warning("store.broker_silent", broker=self._broker.url, remedy="telefabric broker, or --connect")
            self._told_silent = True

    def living(self, streams: Collection[bytes]) -> None:
        change = self._vigil.living(streams, time.monotonic_ns())
        self._rows.lost += change.lost
        self._rows.revived += change.revived

    def is_of_its_run(self, info: StreamInfo) -> bool:
        """Whoever carries on a stream under another run's name would write into a run that is not theirs."""
        place = self._writer.find(info.stream)
        if place is None:
            return True
        if place.run_id == info.run_id:
            if info.carrier is not None and self._writer.hand_over(place, info.carrier):
                self._rows.carriers[info.stream] = info.carrier
            return True
        self.subscription.refused["other_run"] += 1
        log.warning("store.other_run", stream=info.stream.hex(), run=place.run_id, said=info.run_id)
        return False

    def forgotten(self, stream: bytes) -> None:
        self._writer.forget(stream)

    def conflict(self, batch: DurableBatch) -> None:
        """Keep what came second, change nothing."""
        header = batch.header
        detail = f"seqs {header.first_seq} to {header.last_seq} are stored with other bytes"
        place = self._place(header.stream)
        if not place.deleted:
            self._rows.quarantine_batch(place, header, batch.body, "conflict", detail)
        log.warning("store.conflict", stream=header.stream.hex(), detail=detail)

    def _held(self, stream: bytes) -> int:
        """The committed watermark."""
        if not self._writer.over(stream) and self._vigil.heard(stream, time.monotonic_ns()):
            self._rows.revived.append(stream)
        if self._writer.find(stream) is not None:
            self.subscription.infos.pop(stream, None)  # it is in the file
        return self._writer.stored_seq(stream)

    def _place(self, stream: bytes) -> Place:
        info = self.subscription.infos.pop(stream, None)
        place = self._writer.find(stream) if info is None else self._writer.place(info)
        assert place is not None, "a stream that is judged was asked about, or is in the file"
        return place

    # -- edits ---------------------------------------------------------------------------------------------------

    def edit(self, message: Edit) -> None:
        """Apply it and answer, when no row waits for its run. Raises `StoreError`; whoever asks says it again."""
        self._commit_all()
        answer = self._writer.edit(message)
        self.subscription.answer(answer)
        self._edits[answer.outcome] += 1
        log.info(
            "store.edited", command=message.command, run=message.run_id, by=message.by, outcome=answer.outcome,
            sentence=answer.sentence,
        )  # fmt: skip
        if message.command == "delete":
            self._deletion_due_ns = 0

    def _remove_deleted(self, now_ns: int) -> None:
        """Some rows of runs that were deleted, if there are any."""
        until_s, before = time.monotonic() + limits.RETENTION_TURN_S, self._removed
        while (removed := self._writer.remove_deleted(limits.DELETED_ROWS_A_PIECE)) is not None:
            self._removed += removed
            if time.monotonic() > until_s:
                self._deletion_due_ns = now_ns + int(limits.DELETION_S * limits.NS)
                return
        if self._removed > before:
            self._retention.recount()
        self._deletion_due_ns = now_ns + _NEVER

    # -- commits -------------------------------------------------------------------------------------------------

    def commit(self, batches: Iterator[DurableBatch]) -> Mapping[bytes, int]:
        """Add what has come, up to a transaction's worth, and begin its commit when that is due.

        The disk works on one transaction while the next gathers. Watermarks are reported first: rows take a while.
        """
        rows = self._rows
        while not rows.full and (batch := next(batches, None)) is not None:
            rows.add(self._place(batch.header.stream), batch.header, batch.body, batch.skip, whole=batch.whole)
        more = self.subscription.more
        due = self._due(time.monotonic_ns(), more)
        if self._committing is None:
            if due:
                self._begin_commit()
        elif due or self._writer.commit_ended or not more:  # with more at hand the disk works meanwhile
            return self._end_commit()
        return {}

    def _patience_s(self, now_ns: int) -> float:
        if not self._rows:
            self._rows.began_ns = now_ns
            return _POLL_S
        return max(0.0, limits.COMMIT_INTERVAL_S - (now_ns - self._rows.began_ns) / limits.NS)

    def _due(self, now_ns: int, more: bool) -> bool:
        patience_s = limits.COMMIT_INTERVAL_BUSY_S if more else limits.COMMIT_INTERVAL_S
        return self._rows.full or (bool(self._rows) and now_ns - self._rows.began_ns >= patience_s * limits.NS)

    def _begin_commit(self) -> None:
        """Write what has gathered. Raises `StoreError` when the file cannot be written."""
        if self._rows:
            self._writer.begin_commit(self._rows)
            self._committing, self._rows = self._rows, self._writer.begin()

    def _end_commit(self) -> Mapping[bytes, int]:
        """When one is under way: wait for it; what it stored. Raises `StoreError` when it failed."""
        rows = self._committing
        if rows is None:
            return {}
        marks = self._writer.end_commit()
        self._committing = None
        self._commits.observe(self._writer.commit_s)
        self._changes.update(self._writer.changes)
        if lost := self._writer.lost_workers:
            log.warning("store.streams_lost", streams=len(lost), workers=lost[:_WORKERS_TOLD])
        self.subscription.stored_events += rows.events
        self.subscription.quarantined_events += rows.quarantined
        self._discarded += sum(events for _, events in rows.discarded.values())
        self._vigil.ended(place.stream_id for place, event in rows.lifecycle if isinstance(event, RunCompleted))
        self._checkpoints.written(time.monotonic_ns())
        self._backoff.reset()
        return marks

    def _fail(self, error: StoreError) -> None:
        """Nothing of the transaction is stored: forget it, let go of the broker, and begin again from the database."""
        wait_s = self._backoff.begin(time.monotonic_ns())
        self._failures += 1
        log.error("store.failed", reason=str(error), retry_s=round(wait_s, 1))
        self.subscription.close()
        self.close()
        self._committing = None

    def _reopen(self) -> None:
        if self._backoff.left_s(time.monotonic_ns()):
            time.sleep(_POLL_S)
            return
        self._writer = Writer(self.path, group_readable=self._group_readable)
        self._writing = True
        self._writer.require_short_log()
        self._begin()

    def _figures(self, now_ns: int) -> Figures:
        size = log_bytes(self.path)
        return figures(
            stored_events_total=self.subscription.stored_events,
            quarantined_events_total=self.subscription.quarantined_events,
            refused_batches_total=self.subscription.refused,
            commit_seconds=self._commits.distribution(),
            file_bytes=file_bytes(self.path),
            log_bytes=size,
            log_frames=log_frames(size, self._writer.page_bytes),
            log_held_seconds=self._checkpoints.held_s(now_ns),
            checkpoints_total=self._checkpoints.outcomes,
            checkpointed_frames_total=self._checkpoints.frames,
            streams_known=self.subscription.streams_known,
            streams_lost_total=self._changes["lost"],
            streams_revived_total=self._changes["revived"],
            expired_frames_total=self._retention.expired,
            edits_total=self._edits,
            removed_rows_total=self._removed,
            discarded_events_total=self._discarded,
            attached=int(self.subscription.attached),
            writing=int(self._writing),
            failures_total=self._failures,
        )
