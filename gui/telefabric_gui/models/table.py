"""A table model over `EventRows`, newest row first, with one row for each range that is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtGui import QColor

from telefabric_gui import theme
from telefabric_gui.formatting import plural
from telefabric_gui.rows import EVENT, GAP, Change, EventRows

Index = QModelIndex | QPersistentModelIndex
_ROLES = (
    Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ForegroundRole, Qt.ItemDataRole.ToolTipRole,
    Qt.ItemDataRole.TextAlignmentRole,
)  # fmt: skip
_CACHED_MAX = 512


class Column(NamedTuple):
    title: str
    width: int
    """Characters."""
    alignment: int
    tip: str = ""
    tone: Callable[[str], str] | None = None
    """The name of a theme colour for a cell's text."""


class Cell(NamedTuple):
    """The paint of one cell."""

    text: str
    colour: str
    """A theme's colour; none for that of other text."""
    alignment: int


class EventTable(QAbstractTableModel):
    """Shows the rows of a stream; `freeze` holds a copy in their place."""

    columns: Sequence[Column]

    def __init__(self, rows: EventRows, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._live = rows
        self.rows = rows
        """The shown rows: the stream's, or the copy of a pause."""
        self.version = 0
        """Rises when events that were shown already say something else."""
        self._cache: dict[int, tuple[str, ...]] = {}
        rows.listener = self._changing

    def cells(self, row: Any, raw: bytes | None) -> tuple[str, ...]:
        """The texts of one event's row; `raw` is the event, while it is held."""
        raise NotImplementedError

    # -- as a model ----------------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        column = self.columns[section]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return column.alignment
        if role == Qt.ItemDataRole.DisplayRole:
            return column.title
        return column.tip or None if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or role not in _ROLES:
            return None
        cell = self.cell(index.row(), index.column())
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return cell.alignment
        if role == Qt.ItemDataRole.ForegroundRole:
            return QColor(cell.colour) if cell.colour else None
        whole_row = role == Qt.ItemDataRole.ToolTipRole and self.key(index.row()) is None
        return self.cell(index.row(), 0).text if whole_row else cell.text

    # -- rows ----------------------------------------------------------------------------------------------------

    def position(self, row: int) -> int:
        """Position in `rows` of a row of the model; the same the other way round."""
        return len(self.rows) - 1 - row

    def key(self, row: int) -> int | None:
        """The seq of the event of a row, wherever the row is; None for a row without an event."""
        found = self.rows.row(self.position(row))
        return int(found["seq"]) if found["mark"] == EVENT else None

    def cell(self, row: int, column: int) -> Cell:
        """A cell of an event, or of a range that is missing: its sentence is in the first column."""
        found, shown = self.rows.row(self.position(row)), self.columns[column]
        if found["mark"] != EVENT:
            colour = theme.active().error if found["mark"] == GAP else theme.active().warning
            return Cell("" if column else self._sentence(found), colour, shown.alignment)
        text = self._texts(found)[column]
        return Cell(text, getattr(theme.active(), shown.tone(text)) if shown.tone else "", shown.alignment)

    def forget_texts(self) -> None:
        """The same events say something else from now on."""
        self._cache.clear()
        self.version += 1
        if len(self.rows):
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.rows) - 1, len(self.columns) - 1))

    def _texts(self, row: Any) -> tuple[str, ...]:
        """The texts of one event's row."""
        seq = int(row["seq"])
        if seq not in self._cache:
            if len(self._cache) >= _CACHED_MAX:
                self._cache.clear()
            self._cache[seq] = self.cells(row, self.rows.raw(row))
        return self._cache[seq]

    def _sentence(self, row: Any) -> str:
        """The text of a hole or gap."""
        missing = plural(int(row["last_seq"] - row["seq"]) + 1, "event")
        if row["mark"] == GAP:
            return f"{missing} known to be lost: {self.rows.reason(int(row['seq'])) or 'no reason was given'}"
        return f"{missing} missing, being fetched"

    # -- changes -------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Show no change from now on."""
        if self.rows is self._live:
            self._live.listener = None
            self.rows = self._live.frozen()

    def thaw(self) -> None:
        """Show what came meanwhile, and all that comes."""
        if self.rows is not self._live:
            self.beginResetModel()
            self.rows = self._live
            self._live.listener = self._changing
            self.endResetModel()

    @property
    def waiting(self) -> int:
        """Events that came since `freeze`."""
        return self._live.events - self.rows.events

    @contextmanager
    def _changing(self, change: Change, first: int, count: int) -> Iterator[None]:
        """A `Listener` of the rows."""
        if change is Change.INSERT:
            row = len(self.rows) - first
            self.beginInsertRows(QModelIndex(), row, row + count - 1)
            yield
            self.endInsertRows()
        elif change is Change.REMOVE:
            row = len(self.rows) - first - count
            self.beginRemoveRows(QModelIndex(), row, row + count - 1)
            yield
            self.endRemoveRows()
        else:
            self.beginResetModel()
            yield
            self.endResetModel()
