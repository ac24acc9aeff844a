"""The view of a table of events: newest on top, following it until one scrolls away."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QRect, QSize, Qt, Signal
from PySide6.QtGui import QBrush, QColor, QFontMetrics, QPainter, QPaintEvent, QPixmap, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from telefabric_gui import theme
from telefabric_gui.models.table import EventTable
from telefabric_gui.views.painting import painting, write

ROW_PX = 24
_PAD_PX = 6
_COLUMNS_MIN = 4
_HEADER_PX = 11
_SIGHTS_KEPT = 3
"""How many times the rows that are in sight are kept as pictures, of 40 kB each."""
_PLAIN = int(Qt.TextFlag.TextSingleLine | Qt.TextFlag.TextDontClip)
"""Flags for texts that have room: they save a third of the time."""


class TableView(QTableView):
    """A table that follows new rows while its top is in sight; scrolled away, it keeps its place."""

    picked = Signal(int)
    """Position of the row under the cursor in the model's rows; -1 when none is."""

    def __init__(self, model: EventTable, name: str) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self._events = model
        self.setModel(model)
        self._pictures: dict[tuple[object, ...], QPixmap] = {}
        """Painted rows of events: an event stays the same, and new ones come many times a second."""
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self._painted_for: object = None
        """The look that they have."""
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

    def paintEvent(self, event: QPaintEvent) -> None:
        """Row by row: an item delegate is asked for each cell, which takes ten times as long."""
        columns = [place for place in range(len(self._widths)) if not self.isColumnHidden(place)]
        spans = [(place, self.columnViewportPosition(place), self.columnWidth(place)) for place in columns]
        width, ratio = self.viewport().width(), self.devicePixelRatioF()
        look = (tuple(spans), width, ratio, theme.active().name, self._events.version)
        if look != self._painted_for:
            self._painted_for = look
            self._pictures.clear()
        with painting(self.viewport()) as painter:
            painter.fillRect(event.rect(), QColor(theme.active().panel))
            row, bottom = self.rowAt(max(event.rect().top(), 0)), event.rect().bottom()
            while 0 <= row < self._events.rowCount() and (top := self.rowViewportPosition(row)) <= bottom:
                self._paint_row(painter, row, top, spans)
                row += 1

    def _paint_row(self, painter: QPainter, row: int, top: int, spans: list[tuple[int, int, int]]) -> None:
        key = self._events.key(row)
        if key is None:
            self._paint_missing(painter, row, top)
            return
        chosen = self.selectionModel().isRowSelected(row, QModelIndex())
        picture = self._pictures.get((key, chosen))
        if picture is None:
            if len(self._pictures) >= _SIGHTS_KEPT * (self.viewport().height() // ROW_PX + 2):
                self._pictures.clear()
            picture = self._pictures[key, chosen] = self._painted(row, chosen, spans)
        painter.drawPixmap(0, top, picture)

    def _painted(self, row: int, chosen: bool, spans: list[tuple[int, int, int]]) -> QPixmap:
        colours, ratio = theme.active(), self.devicePixelRatioF()
        picture = QPixmap(QSize(self.viewport().width(), ROW_PX) * ratio)
        picture.setDevicePixelRatio(ratio)
        picture.fill(QColor(colours.raised if chosen else colours.panel))
        with QPainter(picture) as painter:
            painter.setFont(theme.figure_font())
            for column, left, width in spans:
                cell = self._events.cell(row, column)
                painter.setPen(QColor(cell.colour or colours.text))
                room = QRect(left + _PAD_PX, 0, width - 2 * _PAD_PX, ROW_PX)
                painter.drawText(room, cell.alignment | _PLAIN, theme.fitting(cell.text, room.width()))
        return picture

    def _paint_missing(self, painter: QPainter, row: int, top: int) -> None:
        """Hatched, with one sentence over all columns."""
        width, cell = self.viewport().width(), self._events.cell(row, 0)
        painter.fillRect(QRect(0, top, width, ROW_PX), QColor(theme.active().tinted(cell.colour)))
        hatch = QColor(cell.colour)
        hatch.setAlphaF(0.35)
        painter.setBrushOrigin(0, top)
        for edge in (top, top + ROW_PX - 3):
            painter.fillRect(QRect(0, edge, width, 3), QBrush(hatch, Qt.BrushStyle.BDiagPattern))
        line = QRect(_PAD_PX + 8, top, width - 2 * _PAD_PX, ROW_PX)
        write(painter, line, cell.text, cell.colour, theme.text_font(theme.CAPTION_PX))

    def _hide_what_does_not_fit(self) -> None:
        """Hide columns that have no room. They are in order of importance: the last ones go first."""
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
        position = self.picked_position()
        self.picked.emit(-1 if position is None else position)

    def picked_position(self) -> int | None:
        """Position of the chosen row now; rows that came since may have moved it."""
        chosen = self.selectionModel().selectedRows()
        if not chosen or self._events.key(chosen[0].row()) is None:
            return None
        return self._events.position(chosen[0].row())
