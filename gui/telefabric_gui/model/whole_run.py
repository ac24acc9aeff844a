"""All of a run at a glance: its axis, what is stored of it, what is missing, its episodes, modes and bookmarks.

The store is asked for what is new only. A short run comes with the seq, step and moment of every row, a longer one with
those of every 1,024th and of its newest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QObject, Signal

from telefabric.feed import (
    Answer,
    Band,
    Bands,
    BookmarkRow,
    Bookmarks,
    Columns,
    Events,
    Place,
    Places,
    RowOf,
    RowsAt,
    StepKey,
    StepsOf,
)
from telefabric_gui.budget import Part, Sort
from telefabric_gui.formatting import plural
from telefabric_gui.model.asking import ANY_ID, Asker, Asking
from telefabric_gui.model.axis import Axis, Reals, columns_of
from telefabric_gui.model.cursor_rules import Subject
from telefabric_gui.model.lines import Segment
from telefabric_gui.rows import GAP, NO_STEP, Mark
from telefabric_schemas import event_of

EXACT_ROWS_MAX = 65_536
"""Rows of a run that is short: one question."""
EPISODES_MAX = 1_000_000
"""Episodes that are held: 48 MB. The table of episodes has all."""
ASK_S = 0.5
"""Between two looks at what is new."""
_PAGE = 2_000
_PLACE_BYTES = 300
_EPISODE_FIELDS = ("seq", "episode_index", "env_index", "length", "total_reward", "global_step")


class Span(NamedTuple):
    """Rows that are stored, live only, missing or not loaded. A missing one lies before its first row and has none."""

    first: float
    last: float
    kind: str
    """``stored``, ``live only``, ``missing``, ``not loaded``."""
    sentence: str


class Alert(NamedTuple):
    """Something at a row that is to be looked at."""

    row: int
    label: str
    """Some words beside its mark on the time line."""
    sentence: str
    tone: str = "warning"
    """``warning`` or ``error``."""


class Episodes(NamedTuple):
    """Ends of episodes in order of arrival; float64 arrays of one length."""

    row: Reals
    number: Reals
    env: Reals
    length: Reals
    total: Reals


class Stored(NamedTuple):
    """How far the store is, by its own count."""

    rows: int
    seq: int
    """Of the last of these rows."""


def spans_of(rows: int, stored: Stored | None, axis: Axis, marks: Iterable[Mark], problem: str = "") -> list[Span]:
    """Where the rows of a run are: in the store, or only here. `marks` are seqs that are lost or have not come.

    Only the store's own count makes a row stored: it counts what is below its watermark, and nothing else. What has not
    come to this client is not missing once the store has it. `problem` is why the store does not answer.
    """
    if not rows:
        return []
    if stored is None:
        here = Span(0, rows, "live only", f"Received live. {problem}")
        return [here if problem else Span(0, rows, "not loaded", "The store has not said yet how much it has.")]
    found = []
    if stored.rows:
        found.append(Span(0, min(stored.rows, rows), "stored", "Committed to the store."))
    if rows > stored.rows:
        found.append(Span(stored.rows, rows, "live only", problem or "Received live, not yet committed to the store."))
    return found + _missing(rows, stored, axis, marks)


def _missing(rows: int, stored: Stored, axis: Axis, marks: Iterable[Mark]) -> list[Span]:
    listed, least = [], []
    for mark in marks:
        first = mark.first if mark.kind == GAP else max(mark.first, stored.seq + 1)
        if first <= mark.last:
            listed.append(mark._replace(first=first))
            least.append(0 if mark.kind == GAP else stored.rows)  # the axis may know less than the store has counted
    places = np.ceil(axis.rows_of_seqs([mark.first for mark in listed]))
    places = np.minimum(np.maximum(places, least), rows).tolist()
    return [Span(at, at, "missing", _why_missing(mark)) for mark, at in zip(listed, places, strict=True)]


def _why_missing(mark: Mark) -> str:
    events = plural(mark.last - mark.first + 1, "event")
    if mark.kind == GAP:
        return f"{events} missing for good{f': {mark.reason}' if mark.reason else ''}."
    return f"{events} did not come live. They are fetched as soon as the store has them."


class WholeRun(QObject):
    """The run of one subject. `refresh` while it is in sight. GUI thread."""

    changed = Signal()

    def __init__(self, feed: Asker | None, subject: Subject, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.subject = subject
        self.axis = Axis()
        self.rows = 0
        self.stored: Stored | None = None
        """None before the store said how much it has."""
        self.bands: list[Band] = []
        self.bookmarks: list[tuple[int, BookmarkRow]] = []
        """With the row of each. Those whose row is not known yet are left out."""
        self.alerts: list[Alert] = []
        """In the order of their rows; set them by `show_alerts`."""
        self.episodes = Episodes(*(np.empty(0) for _ in Episodes._fields))
        self.problem = ""
        """Why the store does not answer; empty when it does."""
        self._asking = Asking(feed, self)
        self._columns = np.empty((3, 0))
        self._places: dict[int, Place] = {}
        self._end: Place | None = None
        """The newest row that the store has said."""
        self._ends = np.empty((len(_EPISODE_FIELDS), 0))
        self._bookmarked: dict[int, int | None] = {}
        """Number of a bookmark → its row; None before that is known."""
        self._lost: list[Mark] = []
        self._marks: list[Mark] = []
        self._tail: Segment | None = None
        self._tail_axis = (0, 0)
        """Rows of the tail that are in the axis: the first, and how many."""
        self._gaps_after = 0
        self._bands_to = -1
        self._known_rows = -1
        self._asked_s = -1e9
        self._busy: set[str] = set()
        """Questions that are being asked, by what they are about."""

    # -- what is known -------------------------------------------------------------------------------------------

    def spans(self) -> list[Span]:
        lost = {mark.first: mark for mark in (*self._marks, *self._lost)}
        return spans_of(self.rows, self.stored, self.axis, sorted(lost.values()), self.problem)

    def show_alerts(self, alerts: Iterable[Alert]) -> None:
        """All that there are."""
        self.alerts = sorted(alerts)
        self.changed.emit()

    def bookmark_at(self, row: int) -> BookmarkRow | None:
        return next((one for at, one in self.bookmarks if at == row), None)

    def band_at(self, row: float) -> Band | None:
        return next((band for band in reversed(self.bands) if band.n <= row), None)

    def parts(self) -> list[Part]:
        """What is held, for the memory's limit. All of it is in sight on the time line."""
        numbers = (self._columns, self._ends, *self.episodes)
        return [Part(Sort.ROWS, sum(one.nbytes for one in numbers) + _PLACE_BYTES * len(self._places))]

    # -- asking --------------------------------------------------------------------------------------------------

    def grow(
        self, rows: int, stored: Stored | None, marks: Iterable[Mark], tail: Segment | None = None, problem: str = ""
    ) -> None:
        """Take what the rows' owner knows: how many there are and how many of them are stored, what has not come to
        this client, the live tail, and why the store does not answer."""
        given = sorted(marks)
        self._tail = tail
        if (rows, stored, given, problem) != (self.rows, self.stored, self._marks, self.problem):
            self.rows, self.stored, self._marks, self.problem = rows, stored, given, problem
            self.changed.emit()

    def refresh(self) -> None:
        """Ask for what is new, at most every half second."""
        now_s = time.monotonic()
        if now_s - self._asked_s < ASK_S:
            return
        self._asked_s = now_s
        self.look_at_bookmarks()
        stored = self.stored.rows if self.stored is not None else 0
        if stored and stored != self._known_rows and all(one.startswith("bookmark") for one in self._busy):
            self._known_rows = stored
            self._ask_rows()
            self._ask_bands()
            self._ask_episodes()
            self._ask_gaps()
        elif self._tail is not None and (self._tail.first, self._tail.rows) != self._tail_axis:
            self._make_axis()
            self.changed.emit()

    def look_at_bookmarks(self) -> None:
        """Ask which bookmarks there are."""
        self._ask("bookmarks", Bookmarks(self.subject.run_id, 0, _PAGE), self._take_bookmarks)

    def close(self) -> None:
        """Nothing is asked for any more."""
        self._asking.close()

    def _ask(self, about: str, question: Any, take: Callable[[Any], None]) -> None:
        """One question of a sort at a time."""
        if about not in self._busy and self._asking.can_ask:
            self._busy.add(about)
            self._asking.ask(question, lambda answer: self._took(about, answer, take))

    def _took(self, about: str, answer: Answer, take: Callable[[Any], None]) -> None:
        self._busy.discard(about)
        if answer.page is None:
            self._known_rows = -1
        else:
            take(answer.page)
        self.changed.emit()

    # -- rows ----------------------------------------------------------------------------------------------------

    def _ask_rows(self) -> None:
        of = self.subject.stream_id, "step", self.subject.agent_id
        held = self._columns.shape[1]
        if self._known_rows <= EXACT_ROWS_MAX:
            if held < self._known_rows:
                fields = ["seq", "global_step", "time_ns"]
                self._ask("rows", Columns(*of, held, EXACT_ROWS_MAX, fields), self._take_rows)
            return
        after = max(self._places, default=-1)
        self._ask("places", Places(*of, after, _PAGE), self._take_places)
        self._ask("end", RowsAt(*of, self._known_rows - 1, 1), self._take_end)

    def _take_rows(self, page: Any) -> None:
        for chunk in page.rows:
            self._columns = np.hstack([self._columns[:, : chunk.first], _numbers(chunk)])
        self._make_axis()
        if page.rows and page.rows[0].rows and self._columns.shape[1] < self._known_rows:
            self._ask_rows()

    def _take_places(self, page: Any) -> None:
        self._places |= {place.n: place for place in page.rows}
        self._make_axis()
        if page.more and page.rows:
            of = self.subject.stream_id, "step", self.subject.agent_id
            self._ask("places", Places(*of, page.rows[-1].n, _PAGE), self._take_places)

    def _take_end(self, page: Any) -> None:
        for row in page.rows:
            step = getattr(event_of(row.event), "global_step", None)
            self._end = Place(self._known_rows - 1, row.seq, row.id, step, row.time_ns)
            self._make_axis()

    def _make_axis(self) -> None:
        """Of what the store has said, and of the tail behind it."""
        if self._places:
            known = columns_of([*self._places.values(), *([self._end] if self._end else [])])
        else:
            known = np.vstack([np.arange(self._columns.shape[1]), self._columns])
        tail = self._tail
        if tail is not None:
            self._tail_axis = tail.first, tail.rows
            events = tail.events
            steps = np.where(events["global_step"] == NO_STEP, np.nan, events["global_step"])
            rows = np.array([tail.first + np.arange(tail.rows), events["seq"], steps, events["time_ns"]], np.float64)
            newer = (rows[0] > known[0, -1]) & (rows[1] > known[1, -1]) if known.size else slice(None)
            known = np.hstack([known, rows[:, newer]])
        self.axis = Axis(*known)
        self._place_episodes()

    # -- bands, episodes, gaps, bookmarks ------------------------------------------------------------------------

    def _ask_bands(self) -> None:
        of = self.subject.stream_id, self.subject.agent_id
        self._ask("bands", Bands(*of, self._bands_to, _PAGE), self._take_bands)

    def _take_bands(self, page: Any) -> None:
        for band in page.rows:
            last = self.bands[-1] if self.bands else None
            if last is None or (band.control_mode, band.policy_label) != (last.control_mode, last.policy_label):
                self.bands.append(band)
        self._bands_to = max(self._bands_to, page.last)
        if page.more:
            self._ask_bands()

    def _ask_episodes(self) -> None:
        of = self.subject.stream_id, "episode", self.subject.agent_id
        held = self._ends.shape[1]
        if held < EPISODES_MAX:
            self._ask("episodes", Columns(*of, held, EXACT_ROWS_MAX, list(_EPISODE_FIELDS)), self._take_episodes)

    def _take_episodes(self, page: Any) -> None:
        for chunk in page.rows:
            self._ends = np.hstack([self._ends[:, : chunk.first], _numbers(chunk)])
        self._place_episodes()
        if page.more:
            self._ask_episodes()

    def _place_episodes(self) -> None:
        """An episode ends with the newest row before its own seq."""
        seq, number, env, length, total, _ = self._ends
        rows = np.floor(self.axis.rows_of_seqs(seq)) if self.axis else np.empty(0)
        if len(rows) == len(seq):
            self.episodes = Episodes(rows, number, env, length, total)

    def _ask_gaps(self) -> None:
        question = Events(self._gaps_after, self.subject.run_id, ["gap"], None, None, _PAGE)
        self._ask("gaps", question, self._take_gaps)

    def _take_gaps(self, page: Any) -> None:
        stream_id = self.subject.stream_id
        self._lost += [
            Mark(row.seq, row.last_seq, GAP, row.reason or "") for row in page.rows if row.stream_id == stream_id
        ]
        self._gaps_after = max(self._gaps_after, page.last)
        if page.more:
            self._ask_gaps()

    def _take_bookmarks(self, page: Any) -> None:
        """Bookmarks of this agent; the row of each is asked for once, as soon as its step is stored."""
        stream_id, agent_id = self.subject.stream_id, self.subject.agent_id
        found = [one for one in page.rows if one.agent_id == agent_id and one.stream_id in (None, stream_id)]
        self._bookmarked = {one.bookmark: self._bookmarked.get(one.bookmark) for one in found}
        self.bookmarks = [(row, one) for one in found if (row := self._bookmarked[one.bookmark]) is not None]
        for one in found:
            if self._bookmarked[one.bookmark] is None:
                key = StepKey(one.step_index - 1, ANY_ID)
                question = StepsOf(
                    one.run_id, agent_id, one.env_index, one.episode_index, key, 1, stream_id, voided=True
                )
                self._ask(f"bookmark {one.bookmark}", question, partial(self._take_marked_step, one))

    def _take_marked_step(self, one: BookmarkRow, page: Any) -> None:
        for step in page.rows[:1]:
            question = RowOf(self.subject.stream_id, "step", self.subject.agent_id, "seq", step.seq)
            self._ask(f"bookmark {one.bookmark}", question, partial(self._take_marked_row, one))

    def _take_marked_row(self, one: BookmarkRow, page: Any) -> None:
        for place in page.rows[:1]:
            self._bookmarked[one.bookmark] = place.n
            self.bookmarks = sorted([*self.bookmarks, (place.n, one)], key=itemgetter(0))


def _numbers(chunk: Any) -> Reals:
    """The columns of a chunk, one below the other."""
    return np.array([np.frombuffer(column, "<f8") for column in chunk.columns])
