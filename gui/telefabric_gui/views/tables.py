"""The view of a table of events: newest on top, following it until one scrolls away."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QRect, Qt, Signal
from PySide6.QtGui import QBrush, QColor, QFontMetrics, QPainter, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from telefabric_gui import theme
from telefabric_gui.models.table import MARK_ROLE, SENTENCE_ROLE, EventTable, Index
from telefabric_gui.rows import EVENT, GAP

ROW_PX = 24
_PAD_PX = 6
_COLUMNS_MIN = 4
_HEADER_PX = 11


class TableView(QTableView):
    """At its top it follows what comes; scrolled away it stands still, whatever comes above."""

    picked = Signal(int)
    """Position of the row under the cursor in the model's rows; -1 when none is."""

    def __init__(self, model: EventTable, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._events = model
        self.setModel(model)
        self.setItemDelegate(_Delegate(self))
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setCornerButtonEnabled(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerItem)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setTabKeyNavigation(False)
        vertical = self.verticalHeader()
        vertical.setVisible(False)
        vertical.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        vertical.setDefaultSectionSize(ROW_PX)
        vertical.setMinimumSectionSize(ROW_PX)
        self._lay_out_columns()
        self._top_before = 0
        model.rowsAboutToBeInserted.connect(self._before_insert)
        model.rowsInserted.connect(self._after_insert)
        self.selectionModel().selectionChanged.connect(self._on_selection)
        model.modelReset.connect(lambda: self.picked.emit(-1))

    @property
    def following(self) -> bool:
        """Whether the newest row is in sight."""
        return self.verticalScrollBar().value() == 0

    def follow(self) -> None:
        """Back to the newest row, with none picked."""
        self.clearSelection()
        self.setCurrentIndex(QModelIndex())
        self.scrollToTop()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._hide_what_does_not_fit()

    def _hide_what_does_not_fit(self) -> None:
        """Columns stand in order of importance: the last ones go first."""
        left = self.viewport().width()
        for place, width in enumerate(self._widths):
            left -= width
            self.setColumnHidden(place, left < 0 and place >= _COLUMNS_MIN)

    def _lay_out_columns(self) -> None:
        digits = QFontMetrics(theme.figure_font())
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setMinimumSectionSize(digits.horizontalAdvance("000"))
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        titles = QFontMetrics(theme.text_font(_HEADER_PX, bold=True))
        for place, column in enumerate(self._events.columns):
            widest = max(digits.horizontalAdvance("0" * column.width) + 2, titles.horizontalAdvance(column.title) + 2)
            self.setColumnWidth(place, widest + 2 * _PAD_PX)
        self._widths = [self.columnWidth(place) for place in range(len(self._events.columns))]
        header.setStretchLastSection(True)

    def _before_insert(self, parent: QModelIndex, first: int, last: int) -> None:
        self._top_before = self.rowAt(0) if not self.following else -1

    def _after_insert(self, parent: QModelIndex, first: int, last: int) -> None:
        if self._top_before > 0 and first <= self._top_before:
            self.updateGeometries()
            self.verticalScrollBar().setValue(self._top_before + last - first + 1)

    def _on_selection(self, *what: object) -> None:
        chosen = self.selectionModel().selectedRows()
        row = chosen[0].row() if chosen else -1
        if row < 0 or self._events.index(row, 0).data(MARK_ROLE) != EVENT:
            self.picked.emit(-1)
        else:
            self.picked.emit(self._events.position(row))

    def picked_position(self) -> int | None:
        """Position of the chosen row now; rows that came since may have moved it."""
        chosen = self.selectionModel().selectedRows()
        if not chosen or self._events.index(chosen[0].row(), 0).data(MARK_ROLE) != EVENT:
            return None
        return self._events.position(chosen[0].row())


class _Delegate(QStyledItemDelegate):
    """Draws cells without a focus frame, and rows of missing events hatched with one sentence over all columns."""

    def __init__(self, view: QTableView) -> None:
        super().__init__(view)
        self._table = view

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        mark = index.data(MARK_ROLE)
        cell: QRect = option.rect
        painter.save()
        if mark == EVENT:
            self._paint_event(painter, cell, bool(option.state & QStyle.StateFlag.State_Selected), index)
        else:
            self._paint_missing(painter, cell, mark, index)
        painter.restore()

    def _paint_event(self, painter: QPainter, cell: QRect, selected: bool, index: Index) -> None:
        colours = theme.active()
        if selected:
            painter.fillRect(cell, QColor(colours.raised))
        text, colour = index.data(), index.data(Qt.ItemDataRole.ForegroundRole)
        line = cell.adjusted(_PAD_PX, 0, -_PAD_PX, 0)
        painter.setFont(theme.figure_font())
        painter.setPen(QColor(colours.text) if colour is None else colour)
        if painter.fontMetrics().horizontalAdvance(text) > line.width():
            text = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, line.width())
        painter.drawText(line, index.data(Qt.ItemDataRole.TextAlignmentRole), text)

    def _paint_missing(self, painter: QPainter, cell: QRect, mark: int, index: Index) -> None:
        colours = theme.active()
        colour = colours.error if mark == GAP else colours.warning
        painter.setClipRect(cell)
        painter.fillRect(cell, QColor(colours.tinted(colour)))
        hatch = QColor(colour)
        hatch.setAlphaF(0.35)
        painter.setBrushOrigin(0, cell.top())
        painter.fillRect(QRect(cell.left(), cell.top(), cell.width(), 3), QBrush(hatch, Qt.BrushStyle.BDiagPattern))
        painter.fillRect(
            QRect(cell.left(), cell.bottom() - 2, cell.width(), 3), QBrush(hatch, Qt.BrushStyle.BDiagPattern)
        )
        painter.setPen(QColor(colour))
        painter.setFont(theme.text_font(theme.CAPTION_PX))
        line = QRect(_PAD_PX + 8, cell.top(), self._table.viewport().width() - 2 * _PAD_PX, cell.height())
        painter.drawText(
            line, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), index.data(SENTENCE_ROLE)
        )
