"""The rows of a whole run, of one kind and agent in one stream: pages of the store and the live tail, without a seam.

Row n is the n-th of its kind, as the store counts. Pages are asked for when they are in sight, those in sight first,
and kept up to `bytes_max`, the ones last seen. GUI thread; answers come on the feed's threads, and change over by a
signal.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QObject, Signal

from telefabric.feed import Answer, Asked, CountKey, Counts, Events, Points, RowOf, RowsAt, StoredEvent
from telefabric_gui.budget import Part, Sort
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.model.lines import Found, Lines, Segment
from telefabric_gui.model.seam import End, Seam
from telefabric_gui.rows import (
    EVENT,
    GAP,
    RAW_MORE_BYTES,
    VOID,
    EventRows,
    Mark,
    Row,
    episode_row,
    of_episode,
    step_row,
)
from telefabric_schemas import Episode, Reset, Step, event_of

PAGE = 128
"""Rows of a page: two of them fill the tallest table, and with small pictures as observations they are 4 MB."""
BYTES_MAX = 48 * 2**20
COUNT_S = 0.5
"""How often the store is asked how far it is, while the rows are in sight."""
RETRY_S = 2.0
_GAPS_A_PAGE = 1_000
_END = 2**63 - 1


class Of(NamedTuple):
    """Which rows."""

    run_id: str
    stream_id: bytes
    kind: str
    """``step`` or ``episode``."""
    agent_id: str


NOWHERE = Of("", b"", "step", "")


class Series(NamedTuple):
    """Points of a metric within a page."""

    steps: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    def at(self, step: int) -> float | None:
        found = np.flatnonzero(self.steps == step)
        return float(self.values[found[-1]]) if len(found) else None


class _Page:
    """A page: first what has come of it, then its rows."""

    def __init__(self, number: int) -> None:
        self.first = number * PAGE
        self.from_row = max(self.first - 1, 0)
        """With the row before the page, so that all between the two belongs to the page."""
        self.asked: Asked | None = None
        self.events: list[StoredEvent] = []
        self.resets: list[StoredEvent] = []
        self.segment: Segment | None = None
        self.bytes = 0
        self.series: dict[str, Series | None] = {}
        """Metrics that were asked for; None until they come."""

    @property
    def missing(self) -> int:
        """How many of its rows have not come."""
        return self.first + PAGE - self.from_row - len(self.events)

    @property
    def seqs(self) -> tuple[int, int]:
        """All between the two is of this page; at the end of what is stored, all behind it."""
        before = self.events[0].seq if self.from_row < self.first else 0
        return before, _END if self.missing else self.events[-1].seq


class Pages(QObject):
    """Without a `feed` there is no store to ask, and the tail is all."""

    changed = Signal()
    """Rows came, left, or are loaded."""
    loaded = Signal(int, int)
    """These rows, the first and the last, have come from the store."""

    def __init__(
        self,
        tail: EventRows,
        of: Of = NOWHERE,
        feed: Asker | None = None,
        *,
        voided: Mapping[tuple[int, int], int] | None = None,
        whole_from: Callable[[], int] = lambda: 0,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        super().__init__()
        self.of = of
        self.tail = tail
        self.problem = ""
        """Why the store did not answer; empty when it did."""
        self.series_wanted: tuple[str, ...] = ()
        """Metrics whose values are wanted with each page."""
        self._asking = Asking(feed) if feed is not None else None
        self._voided = voided if voided is not None else {}
        self._voids = dict(self._voided)
        """Those that the pages know."""
        self._whole_from = whole_from
        self._bytes_max = bytes_max
        self._seam = Seam()
        self._lines = Lines()
        self._pages: OrderedDict[int, _Page] = OrderedDict()
        self._loading: dict[int, _Page] = {}
        self._sight = range(0)
        """Pages in sight."""
        self._resets = 0
        self._gaps: list[Mark] = []
        self._gaps_after = 0
        self._counted_s = self._failed_s = -1e9
        tail.listeners.append(self._arrange)
        self._arrange()

    # -- what there is -------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows of the run, stored and live."""
        return self._lines.rows

    @property
    def shown_rows(self) -> int:
        """Rows but for those that are known to be voided."""
        return self.rows - self.tail.voided

    @property
    def stored(self) -> int | None:
        """Rows that the store has; None before it has said so."""
        return self._seam.stored

    @property
    def can_ask(self) -> bool:
        """There is a store."""
        return self._asking is not None

    @property
    def stored_seq(self) -> int:
        """The seq of the last row that the store has; 0 before it has said so."""
        return self._seam.stored_seq

    @property
    def lines(self) -> Lines:
        return self._lines

    @property
    def bytes_held(self) -> int:
        return sum(page.bytes for page in self._pages.values())

    @property
    def loading(self) -> bool:
        """Rows that are in sight have not come yet."""
        return any(number in self._loading for number in self._sight)

    def row(self, row: int) -> Found | None:
        """A row; None while it is not in memory: `see` fetches it."""
        return self._lines.row(row)

    def row_of_seq(self, seq: int) -> int | None:
        """The number of a row of the tail; None for one that is not shown."""
        segment = self._lines.tail
        return None if segment is None else segment.row_of_seq(seq)

    def value(self, name: str, row: int, step: int) -> float | None:
        """The value of a metric at a step; None while it is not known."""
        page = self._pages.get(row // PAGE)
        series = page.series.get(name) if page is not None else None
        return series.at(step) if series is not None else None

    # -- what is wanted ------------------------------------------------------------------------------------------

    def see(self, first: int, last: int) -> None:
        """These rows are in sight: fetch those that are not in memory, then those beside them, and nothing else."""
        self._sight = range(max(first, 0) // PAGE, min(last, self.rows - 1) // PAGE + 1)
        wanted = range(self._sight.start - 1, self._sight.stop + 1)
        for number in [number for number in self._loading if number not in wanted]:
            self._drop(self._loading.pop(number))
        for number in self._sight:
            if number in self._pages:
                self._pages.move_to_end(number)
                self._ask_series(self._pages[number])
            self._want(number, urgent=True)
        self._want_beside()

    def refresh(self) -> None:
        """While in sight, once a tick: ask the store from time to time how far it is."""
        now_s = time.monotonic()
        if self._asking is not None and now_s - self._counted_s > COUNT_S:
            self._counted_s = now_s
            self._ask_counts(Counts(self.of.run_id))

    def close(self) -> None:
        """Nothing is asked for any more."""
        self.tail.listeners.remove(self._arrange)
        if self._asking is not None:
            self._asking.close()
        self._asking = None

    # -- asking --------------------------------------------------------------------------------------------------

    def ask(
        self,
        question: Any,
        then: Callable[[Any], None],
        *,
        urgent: bool = False,
        failed: Callable[[str], None] | None = None,
    ) -> Asked | None:
        """Ask the store; `then` takes the page, on this thread. Without a store, nothing happens.

        `failed` takes the sentence when there is no answer; otherwise it is the table's `problem`.
        """
        if self._asking is None:
            return None
        take = partial(self._take, then, failed or self._on_failure)
        return self._asking.ask(question, take, urgent=urgent)

    def drop(self, asked: Asked) -> None:
        """Nobody waits for this answer any more."""
        if self._asking is not None:
            self._asking.drop(asked)

    def _take(self, then: Callable[[Any], None], failed: Callable[[str], None], answer: Answer) -> None:
        if answer.page is None:
            failed(answer.problem)
        else:
            self.problem = ""
            then(answer.page)

    def _on_failure(self, problem: str) -> None:
        self.problem = problem
        self._failed_s = time.monotonic()
        self._loading.clear()
        self.changed.emit()

    def ask_row(self, row: int, then: Callable[[Any], None]) -> None:
        """One row by itself."""
        self.ask(RowsAt(self.of.stream_id, self.of.kind, self.of.agent_id, row, 1), then, urgent=True)

    def _drop(self, page: _Page) -> None:
        if page.asked is not None:
            self.drop(page.asked)

    def _want(self, number: int, *, urgent: bool) -> None:
        """Fetch a page, unless it is there, comes, or the tail has it."""
        held = self._pages.get(number)
        stored = min(self.stored or 0, number * PAGE + PAGE)
        whole = held is not None and held.segment is not None and held.first + held.segment.rows >= stored
        if whole or number in self._loading or not number * PAGE < stored or self._asking is None:
            return
        if number * PAGE >= self._tail_from or time.monotonic() - self._failed_s < RETRY_S:
            return
        self._loading[number] = _Page(number)
        self._ask_rows(self._loading[number], urgent=urgent)

    def _want_beside(self) -> None:
        """Fetch the pages before and behind those in sight, once these are there."""
        if self._sight and not self.loading:
            for beside in (self._sight[-1] + 1, self._sight[0] - 1):
                if beside >= 0:
                    self._want(beside, urgent=False)

    # -- a page --------------------------------------------------------------------------------------------------

    def _ask_rows(self, page: _Page, *, urgent: bool = True) -> None:
        question = RowsAt(
            self.of.stream_id, self.of.kind, self.of.agent_id, page.from_row + len(page.events), page.missing
        )
        page.asked = self.ask(question, partial(self._rows_came, page), urgent=urgent)

    def _rows_came(self, page: _Page, answer: Any) -> None:
        page.events += answer.rows
        if answer.rows and answer.more and page.missing:
            self._ask_rows(page)
        elif not page.events:
            self._loading.pop(page.first // PAGE, None)
        elif self.of.kind == "step" and self._resets:
            stream, _, agent = self.of[1:]
            question = RowOf(stream, "reset", agent, "seq", page.seqs[0] + 1)
            page.asked = self.ask(question, partial(self._reset_came, page), urgent=True)
        else:
            self._finish(page)

    def _reset_came(self, page: _Page, answer: Any) -> None:
        """The first reset that may be of this page."""
        if answer.rows and answer.rows[0].seq < page.seqs[1]:
            self._ask_resets(page, answer.rows[0].n)
        else:
            self._finish(page)

    def _ask_resets(self, page: _Page, first: int) -> None:
        stream, _, agent = self.of[1:]
        question = RowsAt(stream, "reset", agent, first, PAGE)
        page.asked = self.ask(question, partial(self._resets_came, page, first), urgent=True)

    def _resets_came(self, page: _Page, first: int, answer: Any) -> None:
        page.resets += [one for one in answer.rows if one.seq < page.seqs[1]]
        if answer.rows and answer.more and answer.rows[-1].seq < page.seqs[1]:
            self._ask_resets(page, first + len(answer.rows))
        else:
            self._finish(page)

    def _finish(self, page: _Page) -> None:
        """All of it is there: make its rows."""
        number = page.first // PAGE
        self._loading.pop(number, None)
        before, until = page.seqs
        events = sorted([*page.events[page.first - page.from_row :], *page.resets], key=lambda one: one.seq)
        if not events:
            return
        raws = {one.seq: one.event for one in events}
        names = self.tail.records.dtype.names or ()
        rows = [_row_of(one)[:-1] for one in events]
        rows += [(GAP, gap.first, gap.last) for gap in self._gaps if before < gap.first < until]
        whole = [(*row, *([0] * (len(names) - len(row)))) for row in sorted(rows, key=itemgetter(1))]
        records = np.array(whole, self.tail.records.dtype)
        page.segment = self._segment(page.first, records, lambda record: raws.get(int(record["seq"])))
        page.bytes = records.nbytes + sum(map(len, raws.values())) + RAW_MORE_BYTES * len(raws)
        page.events, page.resets = [], []
        self._pages[number] = page
        self._pages.move_to_end(number)
        self._evict(self._bytes_max)
        self._ask_series(page)
        self._arrange()
        self.loaded.emit(page.first, page.first + page.segment.rows - 1)
        self._want_beside()

    def _segment(self, first: int, records: npt.NDArray[Any], raws: Callable[[Any], bytes | None]) -> Segment:
        for (env, episode), before in self._voided.items():
            records["mark"][of_episode(records, env, episode, before)] = VOID
        return Segment(first, records, raws)

    def parts(self) -> list[Part]:
        """What is held, for the memory's limit."""
        return [Part(Sort.PAGES, self.bytes_held, self._let_go)]

    def _let_go(self, number: int) -> None:
        before = len(self._pages)
        self._evict(self.bytes_held - number)
        if len(self._pages) < before:
            self._arrange()

    def _evict(self, bytes_max: int) -> None:
        held = self.bytes_held
        while held > bytes_max and len(self._pages) > len(self._sight) + 1:
            _, gone = self._pages.popitem(last=False)
            held -= gone.bytes

    def _ask_series(self, page: _Page) -> None:
        """Ask for the metrics that are wanted and were not asked for."""
        if page.segment is None or not page.segment.rows:
            return
        steps = page.segment.records["global_step"]
        steps = steps[steps >= 0]
        for name in self.series_wanted:
            if name not in page.series and len(steps):
                page.series[name] = None
                stream, _, agent = self.of[1:]
                question = Points(stream, agent, f"metric/{name}", int(steps.min()), int(steps.max()), 0, 10 * PAGE)
                self.ask(question, partial(self._series_came, page, name))

    def _series_came(self, page: _Page, name: str, answer: Any) -> None:
        points = [np.frombuffer(one.points, "<f8").reshape(-1, 2) for one in answer.rows]
        both = np.concatenate(points) if points else np.zeros((0, 2))
        page.series[name] = Series(both[:, 0], both[:, 1])
        self.changed.emit()

    # -- how far the store is ------------------------------------------------------------------------------------

    def _ask_counts(self, question: Counts) -> None:
        self.ask(question, self._counts_came)

    def _counts_came(self, answer: Any) -> None:
        stream, kind, agent = self.of[1:]
        counts = {one.kind: one.n for one in answer.rows if (one.stream_id, one.agent_id) == (stream, agent)}
        self._resets = counts.get("reset", self._resets)
        if answer.more and answer.rows:
            last = answer.rows[-1]
            self._ask_counts(Counts(self.of.run_id, CountKey(last.stream_id, last.kind, last.agent_id)))
        if kind in counts and counts[kind] != self.stored:
            self.ask(Events(self._gaps_after, self.of.run_id, ["gap"], None, None, _GAPS_A_PAGE), self._gaps_came)
            question = RowsAt(stream, kind, agent, counts[kind] - 1, 1)
            self.ask(question, partial(self._end_came, counts[kind]), urgent=True)
        elif self.stored is None and not answer.more:
            self._end_came(0, None)

    def _end_came(self, rows: int, answer: Any) -> None:
        self._seam.note(End(rows, answer.rows[-1].seq if answer is not None and answer.rows else 0))
        self._arrange()

    def _gaps_came(self, answer: Any) -> None:
        of_stream = [one for one in answer.rows if one.stream_id == self.of.stream_id]
        self._gaps += [Mark(one.seq, one.last_seq, GAP, one.reason or "") for one in of_stream]
        self._gaps_after = answer.last

    def reason(self, first: int) -> str:
        """Why the seqs of the gap that begins here are lost."""
        stored = next((gap.reason for gap in self._gaps if gap.first == first), "")
        return stored or self.tail.reason(first)

    # -- joining -------------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Join the tail with the pages."""
        if self._voids != (voids := dict(self._voided)):
            self._voids = voids
            for page in self._pages.values():
                if page.segment is not None:
                    page.segment = self._segment(page.first, page.segment.records, page.segment.raws)
        whole_from = self._whole_from() if self.problem else max(self._whole_from(), self.tail.raw_from)
        tail = self._seam.segment(self.tail, whole_from)
        first = tail.first if tail is not None else self.stored or 0
        self._tail_from = first if tail is not None and tail.rows else 2**63
        segments = [page.segment for page in self._pages.values() if page.segment is not None]
        if tail is not None and tail.rows:
            seq = int(tail.records["seq"][0])
            segments = [
                one if one.first + one.rows <= first else one.until(seq) for one in segments if one.first < first
            ]
        rows = max(self.stored or 0, first + tail.rows if tail is not None else 0)
        self._lines = Lines(rows, segments if tail is None else [*segments, tail])
        self.changed.emit()


def found_of(row: int, stored: StoredEvent, like: EventRows) -> Found:
    """A row that came by itself, as the rows of a table are."""
    values, names = _row_of(stored)[:-1], like.records.dtype.names or ()
    record = np.array((*values, *([0] * (len(names) - len(values)))), like.records.dtype)[()]
    return Found(row, record, stored.event)


def _row_of(stored: StoredEvent) -> Row:
    event = event_of(stored.event)
    if isinstance(event, Step | Reset):
        return step_row(stored.seq, event, stored.event)
    if isinstance(event, Episode):
        return episode_row(stored.seq, event, stored.event)
    return (EVENT, stored.seq, stored.seq, stored.kind == "reset", stored.time_ns, b"")  # it cannot be read here
