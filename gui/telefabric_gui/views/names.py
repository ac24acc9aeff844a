"""The names of a chart's series, each with its colour, its letter and its value at the cursor."""

from __future__ import annotations

from typing import NamedTuple

from PySide6.QtCore import QEvent, QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QHelpEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QToolTip, QWidget

from telefabric_gui import theme
from telefabric_gui.theme import LEFT, RIGHT
from telefabric_gui.views.painting import draw_chip, painting, write

WIDTH_PX = 152
_ROW_PX, _TALL_PX = 18, 36
_CHIP_PX, _MARK_PX = 15, 22
_NAME_PX = 160
"""The longest name above a plot."""
_ANY = 16_777_215


class Name(NamedTuple):
    text: str
    colour: str
    style: Qt.PenStyle
    letter: str
    value: str
    tip: str


class Names(QWidget):
    """Beside a plot, two lines a series where there is room, else one; above it, one after the other.

    The chart in front has a bar.
    """

    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.names: list[Name] = []
        self.front = False
        self.hint = ""
        """In the place of names, when there are none."""
        self._above = False
        self.lie(above=False)

    def lie(self, *, above: bool) -> None:
        """Above the plot or beside it."""
        self._above = above
        self.setFixedHeight(self._strip_px()) if above else self.setMinimumHeight(0)
        self.setMaximumSize(_ANY if above else WIDTH_PX, self.minimumHeight() if above else _ANY)
        self.setMinimumWidth(0 if above else WIDTH_PX)

    def show_names(self, names: list[Name], *, front: bool, hint: str = "") -> None:
        if (names, front, hint) != (self.names, self.front, self.hint):
            self.names, self.front, self.hint = names, front, hint
            self.setAccessibleDescription(", ".join(f"{one.letter} {one.text} {one.value}".strip() for one in names))
            self.lie(above=self._above)
            self.update()

    def _strip_px(self) -> int:
        places = self._places()
        return 6 + (places[-1].bottom() if places else _ROW_PX)

    def _places(self) -> list[QRect]:
        """Where each name is, as far as there is room."""
        if self._above:
            return self._strip()
        room = self.height() - 8
        row_px = _TALL_PX if len(self.names) * _TALL_PX <= room else _ROW_PX
        shown = min(len(self.names), max(1, room // row_px))
        return [QRect(12, 6 + at * row_px, self.width() - 16, row_px) for at in range(shown)]

    def _strip(self) -> list[QRect]:
        metrics, figures = QFontMetrics(theme.text_font(theme.CAPTION_PX)), QFontMetrics(theme.figure_font(bold=True))
        left, top, found = 12, 4, []
        for name in self.names:
            value_px = max(figures.horizontalAdvance(name.value), 8 * figures.horizontalAdvance("0"))
            wide = min(metrics.horizontalAdvance(name.text), _NAME_PX) + value_px + _MARK_PX + 12
            if left > 12 and left + wide > self.width():
                left, top = 12, top + _ROW_PX
            found.append(QRect(left, top, wide, _ROW_PX))
            left += wide
        return found

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self._above and self.height() != self._strip_px():
            self.lie(above=True)

    def paintEvent(self, event: QPaintEvent) -> None:
        colours = theme.active()
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            if self.front:
                painter.fillRect(QRect(0, 4, 2, self.height() - 8), QColor(colours.accent))
            if not self.names:
                area = QRect(12, 4, self.width() - 16, self.height() - 8)
                wrapped = int(Qt.TextFlag.TextWordWrap)
                write(painter, area, self.hint, colours.faint, theme.text_font(theme.CAPTION_PX), wrapped)
            places = self._places()
            more = len(self.names) - len(places)
            for name, place in zip(self.names, places[:-1] if more else places, strict=False):
                self._draw(painter, name, place)
            if more:
                said = f"and {more + 1} more"
                write(painter, places[-1], said, colours.faint, theme.text_font(theme.CAPTION_PX), LEFT)

    def _draw(self, painter: QPainter, name: Name, place: QRect) -> None:
        colours, top, left = theme.active(), place.top(), place.left() + _MARK_PX
        if name.letter:
            draw_chip(painter, QRect(place.left(), top + 2, _CHIP_PX, _CHIP_PX), name.letter, name.colour)
        else:
            painter.setPen(QPen(QColor(name.colour), 3, name.style))
            painter.drawLine(place.left(), top + 9, place.left() + 14, top + 9)
        small, figures = theme.text_font(theme.CAPTION_PX), theme.figure_font(bold=True)
        room = place.right() - left
        if place.height() == _TALL_PX:
            write(painter, QRectF(left, top + 17, room, 17), name.value, colours.text, figures, LEFT)
        else:
            aside = 10 if self._above else 4
            write(painter, QRectF(left, top, room - aside, 18), name.value, colours.text, figures, RIGHT)
            room -= QFontMetrics(figures).horizontalAdvance(name.value) + aside + 4
        text = QFontMetrics(small).elidedText(name.text, Qt.TextElideMode.ElideMiddle, room)
        write(painter, QRectF(left, top, room, 18), text, colours.dim, small, LEFT)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.chosen.emit()
        super().mousePressEvent(event)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            found = zip(self.names, self._places(), strict=False)
            tip = next((name.tip for name, place in found if place.contains(event.pos())), "")
            QToolTip.showText(event.globalPos(), tip, self)
            return True
        return super().event(event)
