"""The lists of runs, and the data of their rows."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt, QTimer, Signal

from telefabric.feed import RunView
from telefabric_gui import theme
from telefabric_gui.formatting import NONE, clock, duration, metadata_of, minute, plural, short
from telefabric_gui.item_models.table import Index
from telefabric_gui.model.run_search import search, text_of
from telefabric_gui.reduction import thinned, unit_of
from telefabric_gui.theme import LEFT, RIGHT

_SPARK_POINTS = 48
_REASON_MAX = 300
_SORTED_CHARACTERS = 100
_ONE_BY_ONE_MAX = 50
READ_MS = 20
_READ_AT_ONCE = 100
"""Two milliseconds of work: between two ticks nobody feels it, and 10,000 runs are read in two seconds."""
_EXPLAINED = {
    "pending": "The store has no event of it yet.",
    "waiting": "Its events wait at the worker until a store is attached. Start it: telefabric store",
    "lost": "All received events are kept. The run continues here if its worker is heard again.",
    "revived": "It was silent, and is heard again.",
    "held": "Its events wait at the worker, because its spool belongs to another store: see telefabric status.",
    "failed": "All received events are kept. Start it again under the same name to go on as a further attempt.",
    "cancelled": "It was ended on purpose. All received events are kept.",
    "idle": "Its worker is alive and has emitted nothing for ten seconds.",
}


class RunRow(NamedTuple):
    run: RunView
    spark: tuple[float, ...]
    agents: int = 0
    """How many are open; 0 before any is."""

    @property
    def caption(self) -> str:
        """The second line."""
        agents, number = agents_of(self.run), self.agents
        alone = len(agents) == 1 and (number == 1 or (not number and bool(self.spark)))
        if not (alone or number):  # a stream's own name may be none of its agents', as long as that has no return
            return state_words(self.run)
        return f"{agents[0] if alone else plural(number, 'agent')} · {state_words(self.run)}"


def agents_of(run: RunView) -> tuple[str, ...]:
    """The agents by whose names streams go; of several agents, a stream's own name is not one of theirs."""
    return () if run.control_mode == "multi_agent" and len(run.agents) == 1 else run.agents


def mode_words(run: RunView) -> str:
    """The badge of a run's control mode."""
    return {"multi_agent": "multi"}.get(run.control_mode, run.control_mode)


def state_words(run: RunView) -> str:
    """State of a run, and how long it has been silent."""
    if run.state == "stalled" and run.silent_s is not None:
        return f"stalled {duration(run.silent_s)}"
    return run.state


def silence(run: RunView) -> str:
    """How long a stalled run has been silent, which nobody knows once the broker has forgotten its streams."""
    known = run.silent_s is not None
    return f"silent for {duration(run.silent_s or 0)}" if known else "the broker hears nothing of its worker any more"


def explained(run: RunView) -> str:
    """State of a run in a sentence or two, for its tooltip."""
    reason = run.reason or ("the worker gave no reason" if run.state == "failed" else "")
    lines = [f"{run.run_id}: {state_words(run)}" + (f", {short(reason, 200)}" if reason else "")]
    if run.state == "stalled":
        lines.append(f"{silence(run).capitalize()}. All received events are kept.")
    if run.state in _EXPLAINED:
        lines.append(_EXPLAINED[run.state])
    if run.attempts > 1:
        gave_up = plural(run.superseded, "worker")
        lines.append(f"Resumed: this is attempt {run.attempts}; {gave_up} before it gave up and do not count any more.")
    if run.helpers:
        lines.append(f"{plural(run.helpers, 'helper')}, such as processes of a pool, which do not decide how it ends.")
    if run.backlog:
        lines.append(f"{plural(run.backlog, 'event')} wait on its machine to be stored.")
    if run.started_ns:
        until = f" to {clock(run.finished_ns)}" if run.finished_ns else ""
        lines.append(f"{minute(run.started_ns)}{until} · {plural(run.workers, 'worker')}")
    if "game_id" in (told := metadata_of(run.metadata)):
        lines.append(short(told["game_id"]))
    if run.tags:
        lines.append("Tags: " + ", ".join(run.tags))
    return "\n".join([*lines, short(run.notes, 200)] if run.notes else lines)


def warning_of(run: RunView) -> str:
    """A warning above a run that has stopped; empty for any other."""
    if run.state == "stalled":
        silent, kept = " any more", "Events that are not stored yet wait in its worker's spool."
        if run.silent_s is not None:
            silent, waiting = (
                f" for {duration(run.silent_s)}",
                f"{plural(run.backlog, 'event')} of it wait to be stored.",
            )
            kept = waiting if run.backlog else "Its last step is stored."
        return f"Stalled: nothing from {run.run_id}{silent}. {kept}"
    if run.state == "failed":
        why = short(run.reason or "the worker gave no reason", _REASON_MAX)
        return f"Failed: {why}. All received events are kept."
    if run.state == "lost":
        why = short(run.reason or "its worker has been silent for too long", _REASON_MAX)
        return f"Lost: {why}. The run continues here if the worker is heard again."
    return ""


class Runs(QObject):
    """All runs that the window knows, for each of its lists. GUI thread."""

    changed = Signal(list)
    """The names of runs that came, changed or went."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.rows: dict[str, RunRow] = {}
        self._texts: dict[str, str] = {}
        """The text of each run that is searched; made before anybody searches."""
        self._unread: list[str] = []
        """Runs whose text is not made yet."""
        self._reading = QTimer(self, interval=READ_MS)
        self._reading.timeout.connect(self._read)

    def take(self, changed: Sequence[RunView], gone: Sequence[str]) -> None:
        names = [*gone, *(run.run_id for run in changed)]
        for name in gone:
            self.rows.pop(name, None)
        for run in changed:
            old = self.rows.get(run.run_id)
            self.rows[run.run_id] = old._replace(run=run) if old else RunRow(run, ())
        for name in names:
            self._texts.pop(name, None)
        self._unread += names
        self._reading.start()
        self.changed.emit(names)

    def _read(self) -> None:
        """Make the texts of some runs."""
        some, self._unread = self._unread[:_READ_AT_ONCE], self._unread[_READ_AT_ONCE:]
        for name in some:
            if name in self.rows:
                self.text(name)
        if not self._unread:
            self._reading.stop()

    def show_spark(self, run_id: str, points: tuple[float, ...]) -> None:
        row = self.rows.get(run_id)
        if row is not None and row.spark != points:
            self.rows[run_id] = row._replace(spark=points)
            self.changed.emit([run_id])

    def show_agents(self, run_id: str, number: int) -> None:
        """So many agents of a run are open."""
        row = self.rows.get(run_id)
        if row is not None and row.agents != number:
            self.rows[run_id] = row._replace(agents=number)
            self.changed.emit([run_id])

    def text(self, run_id: str) -> str:
        """All that is searched of a run."""
        if (text := self._texts.get(run_id)) is None:
            text = self._texts[run_id] = text_of(self.rows[run_id].run)
        return text

    def before(self, run: RunView) -> RunView | None:
        """The run that began before another, archived ones left out."""
        earlier = [one.run for one in self.rows.values() if newness(one.run) < newness(run) and not one.run.archived]
        return max(earlier, key=newness, default=None)


class RunColumn(NamedTuple):
    title: str
    width: int
    """Characters."""
    value: Callable[[RunView], Any]
    """By this it sorts."""
    text: Callable[[RunView], str]
    alignment: int = LEFT


def newness(run: RunView) -> tuple[bool, int, int, str]:
    """Later runs are larger; one that the store does not know yet is the newest."""
    return run.started_ns is None, run.started_ns or 0, run.number, run.run_id


def _took_s(run: RunView) -> float | None:
    return (run.finished_ns - run.started_ns) / 1e9 if run.finished_ns and run.started_ns else None


@lru_cache
def of_metadata(name: str) -> RunColumn:
    """The column of a value of the metadata."""

    def value(run: RunView) -> Any:
        return metadata_of(run.metadata).get(name)

    return RunColumn(name, 14, value, lambda run: short(value(run)) if name in metadata_of(run.metadata) else "")


NAME = RunColumn("RUN", 25, lambda run: run.run_id, lambda run: run.run_id)
STARTED = RunColumn("STARTED", 17, newness, lambda run: minute(run.started_ns) if run.started_ns else NONE)
STATE = RunColumn("STATE", 13, lambda run: run.state, state_words)
MODE = RunColumn("MODE", 8, lambda run: run.control_mode, mode_words)
COLUMNS = (
    NAME,
    STATE,
    MODE,
    STARTED,
    RunColumn("TOOK", 8, _took_s, lambda run: duration(took) if (took := _took_s(run)) is not None else "", RIGHT),
    RunColumn("TAGS", 12, lambda run: ", ".join(run.tags), lambda run: ", ".join(run.tags)),
    RunColumn("AGENTS", 8, lambda run: ", ".join(agents_of(run)), lambda run: ", ".join(agents_of(run))),
    RunColumn("NOTE", 10, lambda run: run.notes, lambda run: short(run.notes, 80) if run.notes else ""),
)
_Key = tuple[Any, ...]


def tone_of(column: RunColumn, run: RunView) -> str:
    """The colour of a text in a column."""
    colours = theme.active()
    if column in (STATE, MODE):
        return colours.state(run.state) if column is STATE else colours.mode(run.control_mode)
    return colours.text if column is NAME else colours.dim


def _sortable(value: Any) -> _Key:
    """Nothing before numbers, and numbers before texts."""
    if isinstance(value, tuple):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0, 0
    return (1, value) if isinstance(value, int | float) else (2, short(value, _SORTED_CHARACTERS).lower())


class RunTable(QAbstractTableModel):
    """The runs that fit the words of a search, in the order of a column. A change costs what it changes, not the list.

    Up to `_ONE_BY_ONE_MAX` runs come, move and go one by one; more of them at once reset the model.
    """

    def __init__(self, runs: Runs, columns: Sequence[RunColumn] = (NAME,), parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.runs = runs
        self.columns = tuple(columns)
        self._by, self._down = STARTED, True
        self._following = True
        self._fits = search("")
        self._order: list[_Key] = []
        """Keys in rising order; a key ends in the name of its run."""
        self._keys: dict[str, _Key] = {}
        self._rows: dict[str, RunRow] = {}
        """By name, as they are shown: the views hear of one change after the other."""
        runs.changed.connect(self._on_changed)
        self._lay_out()

    # -- as a model ----------------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._order)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return self.columns[section].alignment
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        mark = (" ▾" if self._down else " ▴") if self.columns[section] is self._by else ""
        return self.columns[section].title + mark

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = self.row(index.row()), self.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.text(row.run)
        if role == Qt.ItemDataRole.ToolTipRole:
            return explained(row.run)
        if role == Qt.ItemDataRole.AccessibleTextRole and column is NAME:
            return f"{row.run.run_id}, {row.caption}, {mode_words(row.run)}"
        return None

    def row(self, place: int) -> RunRow:
        return self._rows[self._order[-1 - place if self._down else place][-1]]

    def place_of(self, run_id: str) -> int:
        """The row of a run; -1 when it is not among those that are shown."""
        key = self._keys.get(run_id)
        return -1 if key is None else self._place(bisect_left(self._order, key))

    def _place(self, at: int) -> int:
        return len(self._order) - 1 - at if self._down else at

    # -- what is shown -------------------------------------------------------------------------------------------

    def search(self, words: str) -> None:
        self._fits = search(words)
        self._reset()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        if 0 <= column < len(self.columns):
            self._by, self._down = self.columns[column], order == Qt.SortOrder.DescendingOrder
            self._reset()

    @property
    def sorted_by(self) -> int:
        """The place of the column that decides the order; of `STARTED` when that column is not shown any more."""
        return self.columns.index(self._by if self._by in self.columns else STARTED)

    def choose_columns(self, columns: Sequence[RunColumn]) -> None:
        self.beginResetModel()
        self.columns = tuple(columns)
        self.endResetModel()

    def _reset(self) -> None:
        self.beginResetModel()
        self._lay_out()
        self.endResetModel()

    def _lay_out(self) -> None:
        self._keys = {name: key for name in self.runs.rows if (key := self._key(name)) is not None}
        self._order = sorted(self._keys.values())
        self._rows = {name: self.runs.rows[name] for name in self._keys}

    def _key(self, name: str) -> _Key | None:
        """None for a run that is not shown."""
        row = self.runs.rows.get(name)
        if row is None or not self._fits(row.run, lambda: self.runs.text(name)):
            return None
        return *_sortable(self._by.value(row.run)), *newness(row.run)

    def follow(self, wanted: bool) -> None:
        """Change with the runs, or not: a table that nobody sees need not."""
        if wanted and not self._following:
            self._reset()
        self._following = wanted

    def _on_changed(self, names: Sequence[str]) -> None:
        if not self._following:
            return
        if len(names) > _ONE_BY_ONE_MAX:
            self._reset()
            return
        for name in names:
            self._change(name, self._keys.get(name), self._key(name))

    def _change(self, name: str, old: _Key | None, new: _Key | None) -> None:
        here = QModelIndex()
        at = bisect_left(self._order, old) if old is not None else -1
        if new is None:
            if old is None:
                return
            place = self._place(at)
            self.beginRemoveRows(here, place, place)
            del self._order[at], self._keys[name], self._rows[name]
            self.endRemoveRows()
            return
        to = bisect_left(self._order, new)
        self._keys[name], self._rows[name] = new, self.runs.rows[name]
        if old is None:
            place = len(self._order) - to if self._down else to
            self.beginInsertRows(here, place, place)
            self._order.insert(to, new)
            self.endInsertRows()
            return
        if to in (at, at + 1):
            self._order[at] = new
        else:
            place = self._place(at)
            self.beginMoveRows(here, place, place, here, len(self._order) - to if self._down else to)
            del self._order[at]
            self._order.insert(to - (to > at), new)
            self.endMoveRows()
        place = self._place(to - (to > at))
        self.dataChanged.emit(self.index(place, 0), self.index(place, len(self.columns) - 1))


def spark(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """A few points between 0 and 1: the shape of a series."""
    if len(values) < 2:
        return ()
    means = thinned(values / unit_of(values), _SPARK_POINTS)
    low, high = float(means.min()), float(means.max())
    span = high - low or 1.0
    return tuple(round((float(value) - low) / span, 2) for value in means)
