"""The view of a table of a whole run: newest on top, following it until one scrolls away."""

from __future__ import annotations

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QRect, QRectF, QSignalBlocker, QSize, Qt, Signal
from PySide6.QtGui import QBrush, QColor, QFontMetrics, QHideEvent, QPainter, QPaintEvent, QPixmap, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from telefabric_gui import theme
from telefabric_gui.item_models.table import EventTable, Spot
from telefabric_gui.model.lines import Found
from telefabric_gui.views.painting import fill_with, painting, write

ROW_PX = 24
_PAD_PX = 6
_BAR_PX = 3
"""Of the accent, at the left of the chosen row."""
_COLUMNS_MIN = 4
_HEADER_PX = 11
_SIGHTS_KEPT = 3
"""How many times the rows that are in sight are kept as pictures, of 40 kB each."""
_PLAIN = int(Qt.TextFlag.TextSingleLine | Qt.TextFlag.TextDontClip)
"""Flags for texts that have room: they save a third of the time."""


class TableView(QTableView):
    """A table that follows new rows while its top is in sight; scrolled away, or with a row shown, it keeps its place.

    Its scroll bar is the whole run, a line a row. What is chosen and what is on top are kept as spots, since lines
    come above and among them.
    """

    picked = Signal(int)
    """The number of the row that the user chose; -1 when none is chosen any more."""
    order_wanted = Signal(str)
    """By a click on the head of a column that the store can sort by: its name there."""

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
        self._top: Spot | None = None
        """The line on top; None while the newest one is."""
        self._chosen: Spot | None = None
        self._holds = False
        """Keeps its place at the top, too."""
        self._restoring = False
        self.verticalScrollBar().valueChanged.connect(self._on_scroll)
        self.selectionModel().selectionChanged.connect(self._on_selection)
        self.horizontalHeader().setSectionsClickable(any(column.order for column in model.columns))
        self.horizontalHeader().sectionClicked.connect(self._on_head)
        model.modelAboutToBeReset.connect(self._before_reset)
        model.modelReset.connect(self._on_reset)

    @property
    def following(self) -> bool:
        """Whether the newest row is in sight."""
        return self._top is None

    def follow(self) -> None:
        """Back to the newest row, with none chosen."""
        self.clearSelection()
        self.setCurrentIndex(QModelIndex())
        self.scrollToTop()

    def show_row(self, row: int) -> None:
        """Mark a row as chosen, bring it into sight, and stay there."""
        self._hold(True)
        if self._chosen is None or self._chosen.row != row:  # else it is the reset before it, or itself
            self._chosen = Spot(row)
            if self._events.pages.row(row) is None:
                self._events.pages.see(row, row)
            line = self._events.line_of(self._chosen)
            self._bring_into_sight(line)
            self._mark_chosen()

    def _bring_into_sight(self, line: int) -> None:
        rows = self._lines_in_sight
        if not 0 <= line - self.verticalScrollBar().value() < rows:
            self.updateGeometries()
            self.verticalScrollBar().setValue(max(line - rows // 2, 0))

    def show_none(self) -> None:
        """Mark no row as chosen, and follow again at the top."""
        self._hold(False)
        if self._chosen is not None:
            self._chosen = None
            self._mark_chosen()

    def _hold(self, holds: bool) -> None:
        if holds != self._holds:
            self._holds = holds
            self._on_scroll(self.verticalScrollBar().value())

    @property
    def _lines_in_sight(self) -> int:
        return max(self.viewport().height() // ROW_PX, 1)

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._pictures.clear()

    def resizeEvent(self, event: QResizeEvent) -> None:
        line, top = self._chosen_line, self.verticalScrollBar().value()
        super().resizeEvent(event)
        self._hide_what_does_not_fit()
        if line is not None and top <= line <= top + event.oldSize().height() // ROW_PX:
            self._bring_into_sight(line)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Row by row: an item delegate is asked for each cell, which takes ten times as long."""
        columns = [place for place in range(len(self._widths)) if not self.isColumnHidden(place)]
        spans = [(place, self.columnViewportPosition(place), self.columnWidth(place)) for place in columns]
        width, ratio = self.viewport().width(), self.devicePixelRatioF()
        look = (tuple(spans), width, ratio, theme.active().name, self._events.version, tuple(self._events.columns))
        if look != self._painted_for:
            self._painted_for = look
            self._pictures.clear()
        with painting(self.viewport()) as painter:
            painter.fillRect(event.rect(), QColor(theme.active().panel))
            first, lines, bottom = self.verticalScrollBar().value(), self._events.rowCount(), event.rect().bottom()
            chosen = self._chosen_line
            row = first + max(event.rect().top(), 0) // ROW_PX
            while row < lines and (top := (row - first) * ROW_PX) <= bottom:
                self._paint_row(painter, row, top, spans, row == chosen)
                row += 1
        if lines:
            self._events.want(first, min(first + self._lines_in_sight, lines - 1))

    def _paint_row(
        self, painter: QPainter, row: int, top: int, spans: list[tuple[int, int, int]], chosen: bool
    ) -> None:
        found = self._events.at(row)
        if isinstance(found, int):
            self._paint_loading(painter, row, top, spans, chosen)
            return
        key = self._events.key(row)
        if key is None:
            self._paint_missing(painter, row, top)
            return
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
            if chosen:
                painter.fillRect(QRect(0, 0, _BAR_PX, ROW_PX), QColor(colours.accent))
            painter.setFont(theme.figure_font())
            for column, left, width in spans:
                cell = self._events.cell(row, column)
                painter.setPen(QColor(cell.colour or colours.text))
                room = QRect(left + _PAD_PX, 0, width - 2 * _PAD_PX, ROW_PX)
                painter.drawText(room, cell.alignment | _PLAIN, theme.fitting(cell.text, room.width()))
        return picture

    def _paint_loading(
        self, painter: QPainter, row: int, top: int, spans: list[tuple[int, int, int]], chosen: bool
    ) -> None:
        """A grey bar in each column, where its text will be."""
        colours = theme.active()
        if chosen:
            painter.fillRect(QRect(0, top, self.viewport().width(), ROW_PX), QColor(colours.raised))
            painter.fillRect(QRect(0, top, _BAR_PX, ROW_PX), QColor(colours.accent))
        fill_with(painter, colours.line)
        for column, left, width in spans:
            room = min(width, self._widths[column]) - 2 * _PAD_PX
            long = room * (5 + (row * 7 + column * 3) % 4) // 9
            right = self._events.columns[column].alignment & int(Qt.AlignmentFlag.AlignRight)
            start = left + width - _PAD_PX - long if right else left + _PAD_PX
            painter.drawRoundedRect(QRectF(start, top + 8, long, ROW_PX - 16), 3, 3)

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
        """Hide columns that have no room: of the base ones the last first, of those that were chosen none."""
        left = self.viewport().width()
        chosen = [place for place, column in enumerate(self._events.columns) if column.source]
        kept = max([_COLUMNS_MIN, *(place + 1 for place in chosen)])
        for place, width in enumerate(self._widths):
            left -= width
            self.setColumnHidden(place, left < 0 and place >= kept)
        shown = [width for place, width in enumerate(self._widths) if not self.isColumnHidden(place)]
        spare = self.viewport().width() - sum(shown)
        digit = QFontMetrics(theme.figure_font()).horizontalAdvance("0")
        for place, column in enumerate(self._events.columns):
            if column.grows_to:
                self.setColumnWidth(place, self._widths[place] + max(0, min(spare, digit * column.grows_to)))

    def _lay_out_columns(self) -> None:
        digits = QFontMetrics(theme.figure_font())
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setMinimumSectionSize(digits.horizontalAdvance("000"))
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        titles = QFontMetrics(theme.text_font(_HEADER_PX, bold=True))
        self._widths: list[int] = []
        for place, column in enumerate(self._events.columns):
            title = titles.horizontalAdvance(column.title + " \u25be" * bool(column.order))
            widest = max(digits.horizontalAdvance("0" * column.width), title) + 2
            self._widths.append(max(widest + 2 * _PAD_PX, header.minimumSectionSize()))
            self.setColumnWidth(place, self._widths[place])
        header.setStretchLastSection(True)
        self._laid_out_for = self._events.columns

    # -- keeping the place ---------------------------------------------------------------------------------------

    def _on_scroll(self, line: int) -> None:
        if not self._restoring:
            self._top = self._events.spot(line) if line > 0 or self._holds else None

    def _before_reset(self) -> None:
        self._restoring = True

    def _on_reset(self) -> None:
        """Lines have come or gone: show what was on top, and what was chosen."""
        self.updateGeometries()
        self.verticalScrollBar().setValue(self._events.line_of(self._top) if self._top else 0)
        self._restoring = False
        if len(self._widths) != len(self._events.columns) or self._laid_out_for is not self._events.columns:
            self._lay_out_columns()
            self._hide_what_does_not_fit()
        self._mark_chosen()

    def _mark_chosen(self) -> None:
        """Let the selection of Qt be the chosen line, without word of it."""
        selection, flags = self.selectionModel(), QItemSelectionModel.SelectionFlag
        line = self._chosen_line
        index = QModelIndex() if line is None else self._events.index(line, 0)
        with QSignalBlocker(selection):
            selection.setCurrentIndex(index, flags.ClearAndSelect | flags.Rows)
        self.viewport().update()

    def _on_selection(self, *what: object) -> None:
        lines = self.selectionModel().selectedRows()
        found = self._events.at(lines[0].row()) if lines else None
        missing = isinstance(found, Found) and self._events.key(lines[0].row()) is None
        self._chosen = None if found is None or missing else self._events.spot(lines[0].row())
        self.picked.emit(self._chosen.row if self._chosen else -1)
        self.viewport().update()

    def _on_head(self, place: int) -> None:
        if order := self._events.columns[place].order:
            self.order_wanted.emit(order)

    def forget_place(self) -> None:
        """To the top, with none chosen: the lines are others."""
        self._top = self._chosen = None
        self.scrollToTop()

    @property
    def chosen(self) -> Found | int | None:
        """What is chosen; the number of its row while that is not in memory."""
        if self._chosen is None:
            return None
        if (line := self._chosen_line) is not None:
            return self._events.at(line)
        return self._events.pages.row(self._chosen.row) or self._chosen.row

    @property
    def _chosen_line(self) -> int | None:
        """The line of what is chosen, if it is among those that are listed."""
        if self._chosen is None:
            return None
        line = self._events.line_of(self._chosen)
        found = self._events.at(line)
        return line if (found if isinstance(found, int) else found.row) == self._chosen.row else None
