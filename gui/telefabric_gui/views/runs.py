"""The left dock: a filter, and runs as rows of two lines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PySide6.QtCore import QModelIndex, QPoint, QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QKeyEvent, QMouseEvent, QPainter, QPen, QPolygonF
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
)

from telefabric.feed import RunView
from telefabric_gui import theme
from telefabric_gui.formatting import count
from telefabric_gui.item_models.runs import RunRow, Runs, RunTable, mode_words, state_words
from telefabric_gui.item_models.table import Index
from telefabric_gui.model.overlay import Overlay
from telefabric_gui.views.painting import (
    badge_width,
    draw_badge,
    draw_chip,
    draw_dot,
    fill_with,
    line_colour,
    strokes,
    write_cut,
)
from telefabric_gui.views.run_filter import RunFilter
from telefabric_gui.views.run_menu import RunMenu
from telefabric_gui.views.styled import Panel, button, column, label, row

WIDTH_PX = 264
ROW_PX = 64
_SPARK = QSize(68, 18)


class RunsDock(Panel):
    """Choosing a run with a click, Enter or an arrow key opens it."""

    chosen = Signal(str)
    overlay_wanted = Signal(str)
    """A run is to be drawn over the one in front, in its charts, or not any more."""
    edit_wanted = Signal(str, str, object)
    """A run, a command and its value."""
    replay_wanted = Signal(str)
    history_wanted = Signal()
    scrolled = Signal()

    def __init__(self, runs: Runs, overlay: Overlay) -> None:
        super().__init__("runs")
        self.table = RunTable(runs, parent=self)
        self.overlay = overlay
        self.setMinimumWidth(WIDTH_PX)
        self._runs = runs
        self._total = label(role="caption")
        self.filter = RunFilter(self.table, "Filter runs", "Filter: state, tag, mode")
        self.list = _List(self._on_lay)
        self.list.setMouseTracking(True)
        self.list.setModel(self.table)
        self.list.setItemDelegate(_Delegate(self.list, self.table, overlay))
        overlay.changed.connect(self.list.viewport().update)
        self.list.setAccessibleName("Runs")
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.clicked.connect(self._on_chosen)
        self.list.activated.connect(self._on_chosen)
        self.list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.list.customContextMenuRequested.connect(self._on_menu)
        self._hint = label("No run matches the filter.", "dim")
        self._hint.setContentsMargins(12, 0, 12, 0)
        history = button("all ▸", self.history_wanted, "link", "Search, sort and compare all runs (Ctrl+H)")
        heading = row(label("RUNS", "heading"), 1, self._total, history, spacing=8)
        top = column(
            heading, row((self.filter, 1), self.filter.words("▾"), spacing=4), margins=(12, 12, 12, 8), spacing=8
        )
        self.setLayout(column(top, self._hint, (self.list, 1), margins=(0, 0, 1, 0)))
        self.list.verticalScrollBar().valueChanged.connect(self.scrolled)
        for signal in (runs.changed, self.table.modelReset):
            signal.connect(self._on_count)
        self._on_count()

    def select(self, run_id: str) -> None:
        """Mark a run as the one whose tab is in front."""
        place = self.table.place_of(run_id)
        if place >= 0 and place != self.list.currentIndex().row():
            self.list.setCurrentIndex(self.table.index(place, 0))

    @property
    def in_sight(self) -> list[RunView]:
        """The runs whose rows are in sight."""
        first = self.list.rowAt(0) if self.isVisible() else -1
        last = min(first + self.list.viewport().height() // ROW_PX + 1, self.table.rowCount() - 1)
        return [self.table.row(place).run for place in range(first, last + 1)] if first >= 0 else []

    def _on_chosen(self, index: QModelIndex) -> None:
        if not QApplication.keyboardModifiers() & Qt.KeyboardModifier.ControlModifier:
            self.chosen.emit(index.data())

    def _on_lay(self, index: QModelIndex) -> None:
        self.overlay_wanted.emit(index.data())

    def _on_menu(self, place: QPoint) -> None:
        index = self.list.indexAt(place)
        if index.isValid():
            run = self.table.row(index.row()).run
            laid = "Take out of the charts" if self.overlay.letter(run.run_id) else "Draw in the charts, too"
            signals = {"Replay from the start": self.replay_wanted, laid: self.overlay_wanted}
            first = [(words, partial(signal.emit, run.run_id)) for words, signal in signals.items()]
            menu = RunMenu(self, [run], self.edit_wanted.emit, first)
            menu.popup(self.list.viewport().mapToGlobal(place))

    def _on_count(self, *what: object) -> None:
        shown, total = self.table.rowCount(), len(self._runs.rows)
        self._total.setText(count(total) if shown == total else f"{count(shown)} of {count(total)}")
        self._hint.setVisible(bool(total) and not shown)


class _List(QTableView):
    """Ctrl and a click, or Insert, calls `lay` with the row.

    A table of one column: after each change a QListView lays out all of its rows again.
    """

    def __init__(self, lay: Callable[[QModelIndex], None]) -> None:
        super().__init__()
        self._lay = lay
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.horizontalHeader().hide()
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(ROW_PX)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        index = self.indexAt(event.position().toPoint())
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier and index.isValid():
            self._lay(index)
            event.accept()
            return
        super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Insert and self.currentIndex().isValid():
            self._lay(self.currentIndex())
            return
        super().keyPressEvent(event)


class _Delegate(QStyledItemDelegate):
    """State dot, name and mode badge; below agent, state in words and a sparkline of the return.

    A run that is laid over others in charts has its letter in the place of the dot.
    """

    def __init__(self, parent: QTableView, table: RunTable, overlay: Overlay) -> None:
        super().__init__(parent)
        self._table, self._overlay = table, overlay

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        with strokes(painter):
            area: QRect = option.rect
            state: QStyle.StateFlag = option.state
            self._ground(painter, area.adjusted(8, 1, -8, -1), state)
            self._paint(painter, area.adjusted(8, 1, -8, -1), self._table.row(index.row()))

    def _ground(self, painter: QPainter, area: QRect, state: QStyle.StateFlag) -> None:
        selected = bool(state & QStyle.StateFlag.State_Selected)
        if selected or state & QStyle.StateFlag.State_MouseOver:
            ground = QColor(theme.active().raised)
            ground.setAlphaF(1.0 if selected else 0.5)
            fill_with(painter, ground)
            painter.drawRoundedRect(area, 6, 6)
        if selected:
            painter.fillRect(area.left(), area.top() + 10, 3, area.height() - 20, QColor(theme.active().accent))

    def _paint(self, painter: QPainter, area: QRect, row: RunRow) -> None:
        colours, run = theme.active(), row.run
        if letter := self._overlay.letter(run.run_id):
            colour = line_colour(self._overlay.slot(run.run_id))
            draw_chip(painter, QRect(area.left() + 10, area.top() + 12, 16, 16), letter, colour)
        else:
            draw_dot(painter, area.left() + 18, area.top() + 20, colours.state(run.state))
        mode = mode_words(run)
        badge_left = area.right() - badge_width(mode) - 7
        draw_badge(painter, badge_left, area.top() + 10, mode, colours.mode(run.control_mode))
        name = QRect(area.left() + 32, area.top() + 10, badge_left - area.left() - 40, 20)
        caption = QRect(area.left() + 32, area.top() + 33, area.width() - 32 - _SPARK.width() - 14, 20)
        alarming = run.state in ("stalled", "waiting", "held", "failed", "lost", "revived")
        colour = colours.state(run.state) if alarming else colours.dim
        bold, small = theme.text_font(bold=True), theme.text_font(theme.CAPTION_PX)
        write_cut(painter, name, run.run_id, colours.text, bold, Qt.TextElideMode.ElideMiddle)
        whole = QFontMetrics(small).elidedText(row.caption, Qt.TextElideMode.ElideRight, caption.width()) == row.caption
        words = row.caption if whole else state_words(run)
        write_cut(painter, caption, words, colour, small)
        if row.spark:
            self._spark(painter, area, row)

    def _spark(self, painter: QPainter, area: QRect, run: RunRow) -> None:
        box = QRectF(area.right() - _SPARK.width() - 8, area.top() + 35, _SPARK.width(), _SPARK.height())
        step = box.width() / (len(run.spark) - 1)
        points = [
            QPointF(box.left() + place * step, box.bottom() - one * box.height()) for place, one in enumerate(run.spark)
        ]
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(theme.active().mode(run.run.control_mode)), 1.3))
        painter.drawPolyline(QPolygonF(points))
