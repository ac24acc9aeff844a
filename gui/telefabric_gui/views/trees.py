"""A tree whose groups have a chevron, and whose painting keeps what it raises to itself."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPointF, QRect
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QTreeView

from telefabric_gui import theme
from telefabric_gui.views.painting import reported

_ARM_PX = 3.0


class Tree(QTreeView):
    def drawBranches(self, painter: QPainter, rect: QRect, index: QModelIndex | QPersistentModelIndex) -> None:
        """The style sheet leaves them out."""
        if not index.model().hasChildren(index):
            return
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(theme.active().faint), 1.4))
        at = QPointF(rect.right() - self.indentation() / 2 + 1, rect.center().y() + 0.5)
        ends = ((-1, -0.5), (0, 0.5), (1, -0.5)) if self.isExpanded(index) else ((-0.5, -1), (0.5, 0), (-0.5, 1))
        painter.drawPolyline([at + QPointF(x, y) * _ARM_PX for x, y in ends])
        painter.restore()

    def paintEvent(self, event: QPaintEvent) -> None:
        with reported():
            super().paintEvent(event)
