"""The names of a chart's series, each with its colour, its letter and its value at the cursor."""

from __future__ import annotations

from typing import NamedTuple

from PySide6.QtCore import QEvent, QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QHelpEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QToolTip, QWidget

from telefabric_gui import theme
from telefabric_gui.theme import LEFT, RIGHT
from telefabric_gui.views.painting import draw_chip, painting, write

WIDTH_PX = 148
_ROW_PX, _TALL_PX = 18, 36
_CHIP_PX = 15


class Name(NamedTuple):
    text: str
    colour: str
    style: Qt.PenStyle
    letter: str
    value: str
    tip: str


class Names(QWidget):
    """Two lines a series where there is room, else one. The chart in front has a bar."""

    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setFixedWidth(WIDTH_PX)
        self.names: list[Name] = []
        self.front = False
        self.hint = ""
        """In the place of names, when there are none."""

    def show_names(self, names: list[Name], *, front: bool, hint: str = "") -> None:
        if (names, front, hint) != (self.names, self.front, self.hint):
            self.names, self.front, self.hint = names, front, hint
            self.setAccessibleDescription(", ".join(f"{one.letter} {one.text} {one.value}".strip() for one in names))
            self.update()

    def _row_px(self) -> int:
        return _TALL_PX if len(self.names) * _TALL_PX <= self.height() - 8 else _ROW_PX

    def paintEvent(self, event: QPaintEvent) -> None:
        colours = theme.active()
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            if self.front:
                painter.fillRect(QRect(0, 8, 2, self.height() - 16), QColor(colours.accent))
            if not self.names:
                area = QRect(12, 8, self.width() - 16, self.height() - 16)
                wrapped = int(Qt.TextFlag.TextWordWrap)
                write(painter, area, self.hint, colours.faint, theme.text_font(theme.CAPTION_PX), wrapped)
            row_px = self._row_px()
            for at, name in enumerate(self.names[: max(1, (self.height() - 8) // row_px)]):
                self._draw(painter, name, 6 + at * row_px, tall=row_px == _TALL_PX)

    def _draw(self, painter: QPainter, name: Name, top: int, *, tall: bool) -> None:
        colours, left = theme.active(), 34
        if name.letter:
            draw_chip(painter, QRect(12, top + 2, _CHIP_PX, _CHIP_PX), name.letter, name.colour)
        else:
            painter.setPen(QPen(QColor(name.colour), 3, name.style))
            painter.drawLine(12, top + 9, 26, top + 9)
        small, figures = theme.text_font(theme.CAPTION_PX), theme.figure_font(bold=True)
        value_px = QFontMetrics(figures).horizontalAdvance(name.value)
        if tall:
            write(painter, QRectF(left, top + 17, self.width() - left, 17), name.value, colours.text, figures, LEFT)
            value_px = 0
        elif name.value:
            area = QRectF(left, top, self.width() - left - 8, 18)
            write(painter, area, name.value, colours.text, figures, RIGHT)
        room = self.width() - left - value_px - 14
        text = QFontMetrics(small).elidedText(name.text, Qt.TextElideMode.ElideMiddle, room)
        write(painter, QRectF(left, top, room, 18), text, colours.dim, small, LEFT)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.chosen.emit()
        super().mousePressEvent(event)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            at = (event.pos().y() - 6) // self._row_px()
            QToolTip.showText(event.globalPos(), self.names[at].tip if 0 <= at < len(self.names) else "", self)
            return True
        return super().event(event)
