"""The left dock: a filter, and runs as rows of two lines."""

from __future__ import annotations

from PySide6.QtCore import (
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QPointF,
    QRect,
    QRectF,
    QSize,
    QSortFilterProxyModel,
    Qt,
    Signal,
)  # fmt: skip
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLineEdit,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)  # fmt: skip

from telefabric_gui import theme
from telefabric_gui.formatting import count, metadata_of, short
from telefabric_gui.models.runs import ROW_ROLE, RunList, RunRow
from telefabric_gui.views.card import label
from telefabric_gui.views.painting import reported

WIDTH_PX = 264
ROW_PX = 64
_SPARK = QSize(68, 18)


class RunsDock(QFrame):
    """Choosing a run with a click, Enter or an arrow key opens it."""

    chosen = Signal(str)

    def __init__(self, runs: RunList, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("runs")
        self.setFixedWidth(WIDTH_PX)
        self._runs = runs
        self._proxy = _Filter(self)
        self._proxy.setSourceModel(runs)
        self._total = label(role="caption")
        self.filter = QLineEdit(placeholderText="Filter: name, state, mode, agent", clearButtonEnabled=True)
        self.filter.setAccessibleName("Filter runs")
        self.filter.textChanged.connect(self._proxy.setFilterFixedString)
        self.filter.textChanged.connect(self._on_count)
        self.list = _List()
        self.list.setModel(self._proxy)
        self.list.setItemDelegate(_Delegate(self.list))
        self.list.setUniformItemSizes(True)
        self.list.setMouseTracking(True)
        self.list.setAccessibleName("Runs")
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.clicked.connect(self._on_chosen)
        self.list.activated.connect(self._on_chosen)
        self._hint = label("No run matches the filter.", "dim")
        self._hint.setContentsMargins(12, 0, 12, 0)
        self._lay_out()
        for signal in (runs.rowsInserted, runs.modelReset, self._proxy.rowsRemoved, self._proxy.rowsInserted):
            signal.connect(self._on_count)
        self._on_count()

    def select(self, run_id: str) -> None:
        """Mark a run as the one whose tab is in front."""
        for row in range(self._proxy.rowCount()):
            index = self._proxy.index(row, 0)
            if index.data() == run_id:
                self.list.setCurrentIndex(index)
                return

    def _lay_out(self) -> None:
        heading = QHBoxLayout()
        heading.addWidget(label("RUNS", "heading"))
        heading.addStretch(1)
        heading.addWidget(self._total)
        top = QVBoxLayout()
        top.setContentsMargins(12, 12, 12, 8)
        top.setSpacing(8)
        top.addLayout(heading)
        top.addWidget(self.filter)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 1, 0)
        layout.setSpacing(0)
        layout.addLayout(top)
        layout.addWidget(self._hint)
        layout.addWidget(self.list, 1)

    def _on_chosen(self, index: QModelIndex) -> None:
        self.chosen.emit(index.data())

    def _on_count(self, *what: object) -> None:
        shown, total = self._proxy.rowCount(), self._runs.rowCount()
        self._total.setText(count(total) if shown == total else f"{count(shown)} of {count(total)}")
        self._hint.setVisible(bool(total) and not shown)


class _List(QListView):
    def paintEvent(self, event: QPaintEvent) -> None:
        with reported():
            super().paintEvent(event)


class _Filter(QSortFilterProxyModel):
    """Runs in which all words of the filter occur."""

    def filterAcceptsRow(self, source_row: int, source_parent: QModelIndex | QPersistentModelIndex) -> bool:
        row: RunRow = self.sourceModel().index(source_row, 0, source_parent).data(ROW_ROLE)
        told = " ".join(short(value, 200) for value in metadata_of(row.run.metadata).values())
        text = f"{row.run.run_id} {row.run.state} {row.run.control_mode} {' '.join(row.run.agents)} {told}".lower()
        return all(word in text for word in self.filterRegularExpression().pattern().replace("\\", "").lower().split())


class _Delegate(QStyledItemDelegate):
    """State dot, name and mode badge; below agent, state in words and a sparkline of the return."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(WIDTH_PX, ROW_PX)

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        row: RunRow = index.data(ROW_ROLE)
        colours = theme.active()
        area: QRect = option.rect.adjusted(8, 1, -8, -1)
        state: QStyle.StateFlag = option.state
        selected = bool(state & QStyle.StateFlag.State_Selected)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        if selected or state & QStyle.StateFlag.State_MouseOver:
            ground = QColor(colours.raised)
            ground.setAlphaF(1.0 if selected else 0.5)
            painter.setBrush(ground)
            painter.drawRoundedRect(area, 6, 6)
        if selected:
            painter.fillRect(QRect(area.left(), area.top() + 10, 3, area.height() - 20), QColor(colours.accent))
        self._dot(painter, area.topLeft() + QPoint(18, 20), colours.state(row.run.state), row.watched)
        badge_left = self._badge(painter, area, row)
        painter.setFont(theme.text_font(bold=True))
        painter.setPen(QColor(colours.text))
        name = QRect(area.left() + 32, area.top() + 10, badge_left - area.left() - 40, 20)
        text = painter.fontMetrics().elidedText(row.run.run_id, Qt.TextElideMode.ElideMiddle, name.width())
        painter.drawText(name, int(Qt.AlignmentFlag.AlignVCenter), text)
        self._caption(painter, area, row)
        if row.spark:
            self._spark(painter, area, row)
        painter.restore()

    def _dot(self, painter: QPainter, centre: QPoint, colour: str, watched: bool) -> None:
        painter.setBrush(QColor(colour))
        painter.drawEllipse(QPointF(centre), 4, 4)

    def _badge(self, painter: QPainter, area: QRect, row: RunRow) -> int:
        colours = theme.active()
        painter.setFont(theme.text_font(11, bold=True))
        width = painter.fontMetrics().horizontalAdvance(row.mode) + 16
        badge = QRect(area.right() - width - 7, area.top() + 10, width, 19)
        colour = colours.mode(row.run.control_mode)
        painter.setBrush(QColor(colours.tinted(colour)))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawRoundedRect(badge, 9, 9)
        painter.setPen(QColor(colour))
        painter.drawText(badge, int(Qt.AlignmentFlag.AlignCenter), row.mode)
        return badge.left()

    def _caption(self, painter: QPainter, area: QRect, row: RunRow) -> None:
        colours = theme.active()
        state = row.run.state
        told = state in ("stalled", "waiting", "failed", "lost", "revived")
        painter.setFont(theme.text_font(theme.CAPTION_PX))
        painter.setPen(QColor(colours.state(state) if told else colours.dim))
        line = QRect(area.left() + 32, area.top() + 33, area.width() - 32 - _SPARK.width() - 18, 20)
        text = painter.fontMetrics().elidedText(row.caption, Qt.TextElideMode.ElideRight, line.width())
        painter.drawText(line, int(Qt.AlignmentFlag.AlignVCenter), text)

    def _spark(self, painter: QPainter, area: QRect, row: RunRow) -> None:
        box = QRectF(area.right() - _SPARK.width() - 8, area.top() + 35, _SPARK.width(), _SPARK.height())
        step = box.width() / (len(row.spark) - 1)
        points = [
            QPointF(box.left() + place * step, box.bottom() - one * box.height()) for place, one in enumerate(row.spark)
        ]
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(theme.active().mode(row.run.control_mode)), 1.3))
        painter.drawPolyline(QPolygonF(points))
