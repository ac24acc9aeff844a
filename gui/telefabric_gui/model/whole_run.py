"""All of a run at a glance: its axis, what is stored of it, what is missing, its episodes, modes and bookmarks.

The store is asked for what is new only. A short run comes with the seq, step and moment of every row, a longer one with
those of every 1,024th and of its newest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
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
    RowsAt,
)
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.model.axis import Axis, Reals
from telefabric_gui.model.cursor_rules import Subject
from telefabric_gui.rows import GAP, Mark
from telefabric_schemas import event_of

EXACT_ROWS_MAX = 65_536
"""Rows of a run that is short: one question."""
EPISODES_MAX = 1_000_000
"""Episodes that are held: 48 MB. The table of episodes has all."""
ASK_S = 0.5
"""Between two looks at what is new."""
_PAGE = 2_000
_EPISODE_FIELDS = ("seq", "episode_index", "env_index", "length", "total_reward", "global_step")


class Span(NamedTuple):
    """Rows that are stored, live only, missing or not loaded. A missing one lies before its first row and has none."""

    first: float
    last: float
    kind: str
    """``stored``, ``live only``, ``missing``, ``not loaded``."""
    sentence: str


class Episodes(NamedTuple):
    """Ends of episodes in order of arrival; float64 arrays of one length."""

    row: Reals
    number: Reals
    env: Reals
    length: Reals
    total: Reals


def spans_of(rows: int, stored: int | None, axis: Axis, marks: Iterable[Mark]) -> list[Span]:
    """How much of a run is where: of `rows` rows the store has counted the first `stored`, None before it said so.

    What lies behind its count is live only, whatever else is believed: only the count is a promise. `marks` are ranges
    of seqs that are lost, or have not come.
    """
    if stored is None:
        return [Span(0, rows, "not loaded", "The store has not said yet how far it is.")] if rows else []
    found = []
    if stored:
        found.append(Span(0, stored, "stored", "Committed to the store."))
    if rows > stored:
        found.append(Span(stored, rows, "live only", "Received live, not yet committed to the store."))
    listed = list(marks)
    places = np.clip(np.ceil(axis.rows_of_seqs([mark.first for mark in listed])), 0, rows).tolist()
    for mark, at in zip(listed, places, strict=True):
        number = mark.last - mark.first + 1
        events = f"{number:,}".replace(",", "\u202f") + (" event" if number == 1 else " events")
        if mark.kind == GAP:
            said = f"{events} missing for good" + (f": {mark.reason}." if mark.reason else ".")
        else:
            said = f"{events} did not come live. They are fetched when the store has them."
        found.append(Span(at, at, "missing", said))
    return found


class WholeRun(QObject):
    """The run of one subject. `refresh` while it is in sight. GUI thread."""

    changed = Signal()

    def __init__(self, feed: Asker, subject: Subject, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.subject = subject
        self.axis = Axis()
        self.rows = 0
        self.stored: int | None = None
        """Rows that the store has counted; None before it said so."""
        self.bands: list[Band] = []
        self.bookmarks: list[tuple[float, BookmarkRow]] = []
        """With the row at which each is, as far as it is known."""
        self.episodes = Episodes(*(np.empty(0) for _ in Episodes._fields))
        self.problem = ""
        """Why the store did not answer; empty when it did."""
        self._asking = Asking(feed, self)
        self._columns = np.empty((3, 0))
        self._places: dict[int, Place] = {}
        self._ends = np.empty((len(_EPISODE_FIELDS), 0))
        self._marked: list[BookmarkRow] = []
        self._lost: list[Mark] = []
        self._marks: list[Mark] = []
        self._gaps_after = 0
        self._bands_to = -1
        self._known_rows = -1
        self._asked_s = -1e9
        self._busy: set[str] = set()
        """Questions that are being asked, by what they are about."""

    # -- what is known -------------------------------------------------------------------------------------------

    def spans(self) -> list[Span]:
        lost = {mark.first: mark for mark in (*self._marks, *self._lost)}
        return spans_of(self.rows, self.stored, self.axis, sorted(lost.values()))

    def band_at(self, row: float) -> Band | None:
        return next((band for band in reversed(self.bands) if band.n <= row), None)

    # -- asking --------------------------------------------------------------------------------------------------

    def grow(self, rows: int, stored: int | None, marks: Iterable[Mark]) -> None:
        """So many rows are known, and so many of them stored; these ranges have not come to this client."""
        given = sorted(marks)
        if (rows, stored, given) != (self.rows, self.stored, self._marks):
            self.rows, self.stored, self._marks = rows, stored, given
            self.changed.emit()

    def refresh(self) -> None:
        """Ask for what is new, at most every half second."""
        now_s = time.monotonic()
        if now_s - self._asked_s < ASK_S:
            return
        self._asked_s = now_s
        self.look_at_bookmarks()
        if self.stored and self.stored != self._known_rows and not self._busy - {"bookmarks"}:
            self._known_rows = self.stored
            self._ask_rows()
            self._ask_bands()
            self._ask_episodes()
            self._ask_gaps()

    def look_at_bookmarks(self) -> None:
        """Ask which bookmarks there are."""
        self._ask("bookmarks", Bookmarks(self.subject.run_id, 0, _PAGE), self._take_bookmarks)

    def close(self) -> None:
        self._asking.close()

    def _ask(self, about: str, question: Any, take: Callable[[Any], None]) -> None:
        """One question of a sort at a time."""
        if about not in self._busy:
            self._busy.add(about)
            self._asking.ask(question, lambda answer: self._took(about, answer, take))

    def _took(self, about: str, answer: Answer, take: Callable[[Any], None]) -> None:
        self._busy.discard(about)
        self.problem = answer.problem
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

    _end: Place | None = None

    def _make_axis(self) -> None:
        if self._known_rows <= EXACT_ROWS_MAX:
            seq, step, time_ns = self._columns
            self.axis = Axis(np.arange(len(seq)), seq, step, time_ns)
        else:
            self.axis = Axis.of_places([*self._places.values(), *([self._end] if self._end else [])])
        self._place_episodes()
        self._place_bookmarks()

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
        stream_id, agent_id = self.subject.stream_id, self.subject.agent_id
        found = [one for one in page.rows if one.agent_id == agent_id and one.stream_id in (None, stream_id)]
        if found != self._marked:
            self._marked = found
            self._place_bookmarks()

    def _place_bookmarks(self) -> None:
        """A bookmark is where its episode begins, and its step behind it."""
        ends = self.episodes
        placed = []
        for one in self._marked:
            at = np.flatnonzero((ends.number == one.episode_index) & (ends.env == one.env_index))
            if len(at):
                first = ends.row[at[0]] - ends.length[at[0]] + 1
                placed.append((float(max(0.0, first + one.step_index)), one))
        self.bookmarks = placed


def _numbers(chunk: Any) -> Reals:
    """The columns of a chunk, one below the other."""
    return np.array([np.frombuffer(column, "<f8") for column in chunk.columns])
