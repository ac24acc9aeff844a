"""A table model over `EventRows`, newest row first, with one row for each range that is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtGui import QColor

from telefabric_gui import theme
from telefabric_gui.formatting import plural
from telefabric_gui.rows import EVENT, GAP, EventRows

Index = QModelIndex | QPersistentModelIndex
MARK_ROLE = int(Qt.ItemDataRole.UserRole)
"""`rows.EVENT`, `HOLE` or `GAP`."""
SENTENCE_ROLE = MARK_ROLE + 1
"""The text of a row of missing events, across all columns."""
_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
_LEFT = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
_CACHED_MAX = 512


class Column(NamedTuple):
    title: str
    width: int
    """Characters."""
    figure: bool
    """Right-aligned."""
    tip: str = ""
    tone: Callable[[str], str] | None = None
    """The name of a theme colour for a cell's text."""


class Cell(NamedTuple):
    """The paint of one cell of an event's row."""

    text: str
    colour: str
    """A theme's colour; none for that of other text."""
    alignment: int


class EventTable(QAbstractTableModel):
    """Shows the rows of a track; `freeze` holds a copy in their place."""

    columns: Sequence[Column]

    def __init__(self, rows: EventRows, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._live = rows
        self._shown = rows
        self.version = 0
        """Rises when events that were shown already say something else."""
        self._cache: dict[tuple[int, int], tuple[str, ...]] = {}
        rows.listener = self

    def cells(self, rows: EventRows, position: int) -> tuple[str, ...]:
        """The texts of one event's row."""
        raise NotImplementedError

    # -- as a model ----------------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._shown)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        column = self.columns[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.title
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _RIGHT if column.figure else _LEFT
        return column.tip or None if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _RIGHT if self.columns[index.column()].figure else _LEFT
        if role not in (
            Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ForegroundRole, Qt.ItemDataRole.ToolTipRole, MARK_ROLE,
            SENTENCE_ROLE,
        ):  # fmt: skip
            return None
        position = self.position(index.row())
        mark = int(self._shown.row(position)["mark"])
        if role == MARK_ROLE:
            return mark
        if mark != EVENT:
            return self._of_mark(index.column(), position, mark, role)
        return self._of_event(index.column(), position, role)

    def key(self, row: int) -> tuple[int, int] | None:
        """The event of a row, wherever the row is: stream and seq; None for a row without an event."""
        found = self._shown.row(self.position(row))
        return (int(found["stream"]), int(found["seq"])) if found["mark"] == EVENT else None

    def cell(self, row: int, column: int) -> Cell:
        """All that `data` says of a cell of an event's row."""
        text, shown = self._texts(self.position(row))[column], self.columns[column]
        colour = getattr(theme.active(), shown.tone(text)) if shown.tone else ""
        return Cell(text, colour, _RIGHT if shown.figure else _LEFT)

    def _of_mark(self, column: int, position: int, mark: int, role: int) -> Any:
        if role == Qt.ItemDataRole.ForegroundRole:
            return QColor(theme.active().error if mark == GAP else theme.active().warning)
        if role == Qt.ItemDataRole.DisplayRole and column:
            return ""
        return self.sentence(position)

    def _of_event(self, column: int, position: int, role: int) -> Any:
        if role == SENTENCE_ROLE:
            return None
        text = self._texts(position)[column]
        if role == Qt.ItemDataRole.ForegroundRole:
            tone = self.columns[column].tone
            return QColor(getattr(theme.active(), tone(text))) if tone else None
        return text

    def forget_texts(self) -> None:
        """The same events say something else from now on."""
        self._cache.clear()
        self.version += 1
        if len(self._shown):
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._shown) - 1, len(self.columns) - 1))

    def _texts(self, position: int) -> tuple[str, ...]:
        """The texts of one event's row."""
        row = self._shown.row(position)
        key = int(row["stream"]), int(row["seq"])
        texts = self._cache.get(key)
        if texts is None:
            if len(self._cache) >= _CACHED_MAX:
                self._cache.clear()
            texts = self._cache[key] = self.cells(self._shown, position)
        return texts

    # -- rows ----------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> EventRows:
        """The shown rows: the track's, or the copy of a pause."""
        return self._shown

    def position(self, row: int) -> int:
        """Position in `rows` of a row of the model; the same the other way round."""
        return len(self._shown) - 1 - row

    def sentence(self, position: int) -> str:
        """The text of a hole or gap."""
        row = self._shown.row(position)
        missing = plural(int(row["last_seq"] - row["seq"]) + 1, "event")
        if row["mark"] == GAP:
            return f"{missing} known to be lost: {self._shown.reason(position) or 'no reason was given'}"
        return f"{missing} missing, being fetched"

    def freeze(self) -> None:
        """Show no change from now on."""
        if self._shown is self._live:
            self._live.listener = None
            self._shown = self._live.frozen()

    def thaw(self) -> None:
        """Show what came meanwhile, and all that comes."""
        if self._shown is not self._live:
            self.beginResetModel()
            self._shown = self._live
            self._live.listener = self
            self.endResetModel()

    @property
    def waiting(self) -> int:
        """Events that came since `freeze`."""
        return self._live.events - self._shown.events

    # -- as a listener -------------------------------------------------------------------------------------------

    def inserting(self, first: int, count: int) -> None:
        row = len(self._shown) - first
        self.beginInsertRows(QModelIndex(), row, row + count - 1)

    def inserted(self) -> None:
        self.endInsertRows()

    def removing(self, first: int, count: int) -> None:
        row = len(self._shown) - first - count
        self.beginRemoveRows(QModelIndex(), row, row + count - 1)

    def removed(self) -> None:
        self.endRemoveRows()

    def resetting(self) -> None:
        self.beginResetModel()

    def reset(self) -> None:
        self.endResetModel()
