"""The left dock's lower part: the tree of series, searched, each ticked in the colour of its line."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QKeyEvent, QPainter
from PySide6.QtWidgets import QHeaderView, QLineEdit, QStyledItemDelegate, QStyleOptionViewItem

from telefabric_gui import theme
from telefabric_gui.formatting import count
from telefabric_gui.item_models.series_tree import SERIES_ROLE, SeriesFilter, SeriesTree
from telefabric_gui.model.charting import Charting
from telefabric_gui.model.streams import Source
from telefabric_gui.views.painting import TICK_BOX_PX, draw_tick_box, line_colour
from telefabric_gui.views.styled import Panel, column, label, row
from telefabric_gui.views.trees import Tree

_CHART_PX = 54


class SeriesDock(Panel):
    """Shows the series of the page in front."""

    def __init__(self, charting: Charting) -> None:
        super().__init__("series")
        self._charting = charting
        self.tree = SeriesTree(charting.layout, self)
        self._proxy = SeriesFilter(self.tree)
        self._total = label(role="caption")
        self.filter = QLineEdit(placeholderText="Filter: name", clearButtonEnabled=True)
        self.filter.setAccessibleName("Filter series")
        self.filter.textChanged.connect(self._on_filter)
        self.view = _Tree(charting)
        self.view.setModel(self._proxy)
        header = self.view.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Fixed)
        header.setMinimumSectionSize(0)
        self._hint = label("Drag onto a chart, or press Enter to put it in the chart in front.", "caption")
        self._hint.setWordWrap(True)
        heading = row(label("SERIES", "heading"), 1, self._total, spacing=8)
        top = column(heading, self.filter, margins=(12, 12, 12, 8), spacing=8)
        foot = column(self._hint, margins=(12, 4, 12, 10))
        self.setLayout(column(top, (self.view, 1), foot, margins=(0, 0, 1, 0)))
        charting.layout.changed.connect(self._on_count)

    def show_source(self, own: Source | None) -> None:
        """The stream of the page in front; None without one."""
        self.setVisible(own is not None)
        if own is not None and (names := self._charting.names(own)) != self.tree.series:
            self.tree.show_names(names)
            self.view.expandAll()
            self._on_count()

    def _on_filter(self, text: str) -> None:
        self._proxy.search(text)
        self.view.expandAll()

    def _on_count(self) -> None:
        several = len(self._charting.layout.charts) > 1
        self.view.header().resizeSection(1, _CHART_PX if several else 0)  # else names have the room
        self._total.setText(f"{count(self.tree.shown)} of {count(len(self.tree.series))} shown")


class _Tree(Tree):
    def __init__(self, charting: Charting) -> None:
        super().__init__(headerHidden=True, uniformRowHeights=True, indentation=16)
        self._charting = charting
        self.setAccessibleName("Series")
        self.setDragEnabled(True)
        self.setDragDropMode(self.DragDropMode.DragOnly)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # names of layers differ at their ends
        self.setItemDelegate(_Delegate(charting, self))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        series = self.currentIndex().siblingAtColumn(0).data(SERIES_ROLE)
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and series is not None:
            self._charting.layout.put(series)
            event.accept()
            return
        super().keyPressEvent(event)


class _Delegate(QStyledItemDelegate):
    """A box in the colour of the series' line, with a tick; where several runs are compared, colours are theirs."""

    def __init__(self, charting: Charting, parent: _Tree) -> None:
        super().__init__(parent)
        self._charting = charting

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        series = index.data(SERIES_ROLE)
        if series is None or index.column():
            super().paint(painter, option, index)
            return
        self.initStyleOption(option, index)
        area: QRect = option.rect
        shown, option.features = option.text, option.features & ~QStyleOptionViewItem.ViewItemFeature.HasCheckIndicator
        option.text = ""
        widget = option.widget
        widget.style().drawControl(widget.style().ControlElement.CE_ItemViewItem, option, painter, widget)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = QRectF(area.left() + 4.5, area.center().y() - TICK_BOX_PX / 2 + 1, TICK_BOX_PX, TICK_BOX_PX)
        self._draw_box(painter, box, series, index.data(Qt.ItemDataRole.CheckStateRole) == Qt.CheckState.Checked.value)
        painter.setPen(QColor(theme.active().text))
        painter.setFont(theme.text_font())
        text_area = area.adjusted(TICK_BOX_PX + 12, 0, -4, 0)
        cut = painter.fontMetrics().elidedText(shown, Qt.TextElideMode.ElideMiddle, text_area.width())
        painter.drawText(text_area, theme.LEFT, cut)
        painter.restore()

    def _draw_box(self, painter: QPainter, box: QRectF, series: str, ticked: bool) -> None:
        several = len(self._charting.overlay.runs) > 1
        colour = theme.active().dim if several else line_colour(self._charting.layout.slot(series))
        draw_tick_box(painter, box, colour, ticked=ticked)
