"""A table model over a listing: newest row first, or in another order, with lines for what is missing among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, SignalInstance
from PySide6.QtGui import QColor

from telefabric_gui import theme
from telefabric_gui.formatting import count, plural
from telefabric_gui.model.lines import Found
from telefabric_gui.model.pages import Pages
from telefabric_gui.rows import EVENT, GAP, HOLE, EventRows

Index = QModelIndex | QPersistentModelIndex
_ROLES = (
    Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ForegroundRole, Qt.ItemDataRole.ToolTipRole,
    Qt.ItemDataRole.TextAlignmentRole,
)  # fmt: skip
_CACHED_MAX = 512
_ORDERS = {True: " \u25be", False: " \u25b4"}
"""Behind the title of the column by which rows are sorted."""


class Column(NamedTuple):
    title: str
    width: int
    """Characters."""
    alignment: int
    tip: str = ""
    tone: Callable[[str], str] | None = None
    """The name of a theme colour for a cell's text."""
    order: str = ""
    """By this the store can sort the rows; empty when it cannot."""
    source: str = ""
    """Of a column that was chosen: ``info/KEY`` or ``metric/NAME``."""
    grows_to: int = 0
    """Characters that it takes where there is room."""


class Cell(NamedTuple):
    """The paint of one cell."""

    text: str
    colour: str
    """A theme's colour; none for that of other text."""
    alignment: int


class Spot(NamedTuple):
    """A line by what it shows: `below` lines under the row of this number, wherever that is."""

    row: int
    below: int = 0


class Listing(Protocol):
    """Which rows a table shows, in the order from top to bottom."""

    @property
    def changed(self) -> SignalInstance: ...
    def __len__(self) -> int: ...
    def at(self, line: int) -> Found | int:
        """What a line shows; the number of its row while that is not in memory."""
        ...

    def line_of(self, row: int) -> int:
        """The line of a row, or that nearest to it."""
        ...

    def want(self, first: int, last: int) -> None:
        """These lines are in sight."""
        ...


class AllRows:
    """All rows, newest on top."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.changed = pages.changed

    def __len__(self) -> int:
        return len(self._pages.lines)

    def at(self, line: int) -> Found | int:
        return self._pages.lines.at(len(self) - 1 - line)

    def line_of(self, row: int) -> int:
        return len(self) - 1 - self._pages.lines.line_of(row)

    def want(self, first: int, last: int) -> None:
        found = [self.at(line) for line in (last, first)]
        self._pages.see(*(one if isinstance(one, int) else one.row for one in found))


class EventTable(QAbstractTableModel):
    """Shows the rows of one kind of an agent's stream."""

    base: Sequence[Column]
    """The columns that every table of the kind has."""

    def __init__(self, rows: EventRows | Pages, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.pages = rows if isinstance(rows, Pages) else Pages(rows)
        self.columns: Sequence[Column] = tuple(self.usual)
        self.order = "", True
        """By what the store sorts the rows, and whether descending; empty for the order of time."""
        self.version = 0
        """Rises when events that were shown already say something else."""
        self._cache: dict[int, tuple[str, ...]] = {}
        self.whole: Listing = AllRows(self.pages)
        self.listing: Listing = self.whole
        self._lines = len(self.listing)
        self.listing.changed.connect(self._sync)

    @property
    def usual(self) -> Sequence[Column]:
        """The columns that are shown when none were chosen."""
        return self.base

    def cells(self, found: Found) -> tuple[str, ...]:
        """The texts of one event's row in the base columns."""
        raise NotImplementedError

    def chosen_cell(self, found: Found, source: str) -> str:
        """The text in a column that was chosen."""
        return ""

    @property
    def rows(self) -> EventRows:
        """The tail that is shown."""
        return self.pages.tail

    # -- as a model ----------------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else self._lines

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        column = self.columns[section]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return column.alignment
        if role == Qt.ItemDataRole.DisplayRole:
            mark = _ORDERS[self.order[1]] if column.order and column.order == self.order[0] else ""
            return column.title + mark
        return column.tip or None if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or role not in _ROLES:
            return None
        cell = self.cell(index.row(), index.column())
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return cell.alignment
        if role == Qt.ItemDataRole.ForegroundRole:
            return QColor(cell.colour) if cell.colour else None
        if role == Qt.ItemDataRole.ToolTipRole and self.key(index.row()) is None:
            found = self.at(index.row())
            return f"Row {count(found)} is being read" if isinstance(found, int) else self.cell(index.row(), 0).text
        return cell.text

    # -- rows ----------------------------------------------------------------------------------------------------

    def at(self, line: int) -> Found | int:
        """What a line shows; the number of its row while that is not in memory."""
        return self.listing.at(line) if 0 <= line < len(self.listing) else -1

    def found(self, line: int) -> Found | None:
        """The event of a line, while it is in memory."""
        found = self.at(line)
        return found if isinstance(found, Found) and found.record["mark"] == EVENT else None

    def newest(self) -> Found | None:
        """The last event, if it is in memory."""
        lines = self.pages.lines
        for line in range(len(lines) - 1, -1, -1):
            found = lines.at(line)
            if isinstance(found, int) or found.record["mark"] == EVENT:
                return None if isinstance(found, int) else found
        return None

    def spot(self, line: int) -> Spot:
        """What a line shows, in a way that holds when others come."""
        found = self.at(line)
        row = found if isinstance(found, int) else found.row
        return Spot(row, line - self.listing.line_of(row))

    def line_of(self, spot: Spot) -> int:
        return self.listing.line_of(spot.row) + (spot.below if self.listing is self.whole else 0)

    def key(self, line: int) -> int | None:
        """The seq of the event of a line, wherever the line is; None for a line without an event in memory."""
        found = self.found(line)
        return None if found is None else int(found.record["seq"])

    def cell(self, line: int, column: int) -> Cell:
        """A cell of an event, or of a range that is missing: its sentence is in the first column."""
        found, shown = self.at(line), self.columns[column]
        if isinstance(found, int):
            return Cell("", "", shown.alignment)
        mark = found.record["mark"]
        if mark in (HOLE, GAP):
            colour = theme.active().error if mark == GAP else theme.active().warning
            return Cell("" if column else self._sentence(found.record), colour, shown.alignment)
        text = self._texts(found)[column]
        return Cell(text, getattr(theme.active(), shown.tone(text)) if shown.tone else "", shown.alignment)

    def choose_columns(self, columns: Sequence[Column]) -> None:
        """Show these columns, base ones and others."""
        if tuple(columns) != tuple(self.columns):
            self.beginResetModel()
            self.columns = tuple(columns)
            self._cache.clear()
            self.version += 1
            self.endResetModel()

    def forget_texts(self) -> None:
        """The same events say something else from now on."""
        self._cache.clear()
        self.version += 1
        if self._lines:
            self.dataChanged.emit(self.index(0, 0), self.index(self._lines - 1, len(self.columns) - 1))

    def _texts(self, found: Found) -> tuple[str, ...]:
        """The texts of one event's row."""
        seq = int(found.record["seq"])
        if seq not in self._cache:
            if len(self._cache) >= _CACHED_MAX:
                self._cache.clear()
            base = dict(zip(self.base, self.cells(found), strict=True))
            self._cache[seq] = tuple(
                self.chosen_cell(found, column.source) if column.source else base[column] for column in self.columns
            )
        return self._cache[seq]

    def _sentence(self, record: Any) -> str:
        """The text of a hole or gap."""
        missing = plural(int(record["last_seq"] - record["seq"]) + 1, "event")
        if record["mark"] == GAP:
            return f"{missing} known to be lost: {self.pages.reason(int(record['seq'])) or 'no reason was given'}"
        return f"{missing} missing, being fetched"

    def want(self, first: int, last: int) -> None:
        """These lines are in sight."""
        self.listing.want(first, last)

    # -- changes -------------------------------------------------------------------------------------------------

    def show(self, listing: Listing | None, order: tuple[str, bool] = ("", True)) -> None:
        """Show other lines; without any, all of the run."""
        self.beginResetModel()
        self.order = order
        self.listing.changed.disconnect(self._sync)
        self.listing = self.whole if listing is None else listing
        self.listing.changed.connect(self._sync)
        self._lines = len(self.listing)
        self.endResetModel()
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, len(self.columns) - 1)

    def _sync(self) -> None:
        """Lines have come at the top and elsewhere; a view keeps its place by their spots."""
        self.beginResetModel()
        self._lines = len(self.listing)
        self.endResetModel()
