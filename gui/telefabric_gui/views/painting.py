"""Painting that keeps what it raises to itself, and the strokes that all painters make.

Qt is in the midst of painting everything else when it calls a painter. PySide raises what one leaves behind in each
that follows, which paints nothing then, and a painter that was not ended makes Qt crash.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from PySide6.QtCore import QPointF, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPaintDevice, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from telefabric_gui import theme
from telefabric_gui.theme import CENTRED, LEFT


@contextmanager
def reported() -> Iterator[None]:
    """An error in the block goes to `sys.excepthook`, like an uncaught one."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  a boundary: between Qt and a painter
        sys.excepthook(type(error), error, error.__traceback__)


@contextmanager
def painting(device: QPaintDevice) -> Iterator[QPainter]:
    """A painter for one paint event."""
    with reported(), QPainter(device) as painter:
        yield painter


@contextmanager
def strokes(painter: QPainter) -> Iterator[None]:
    """The block paints a part with Qt's own painter, and leaves that as it was."""
    with reported():
        painter.save()
        try:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            yield
        finally:
            painter.restore()


def write(painter: QPainter, area: QRect | QRectF, text: str, colour: str, font: QFont, alignment: int = LEFT) -> None:
    painter.setFont(font)
    painter.setPen(QColor(colour))
    painter.drawText(area, alignment, text)


def write_cut(
    painter: QPainter, area: QRect, text: str, colour: str, font: QFont,
    cut: Qt.TextElideMode = Qt.TextElideMode.ElideRight, alignment: int = LEFT,
) -> None:  # fmt: skip
    """Write on a line what fits it."""
    write(painter, area, QFontMetrics(font).elidedText(text, cut, area.width()), colour, font, alignment)


BADGE_PX = 19
_ORDER = 0, 1, 2, 3, 5, 4
"""Red, which is for what failed, comes last."""
PEN_STYLES = Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine, Qt.PenStyle.DashDotLine


def line_colour(slot: int) -> str:
    """The colour of what has this number among those that are drawn together."""
    return theme.active().series[_ORDER[slot % len(_ORDER)]]


def fill_with(painter: QPainter, colour: str | QColor) -> None:
    """What is drawn next is filled, and has no outline."""
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(colour))


def draw_chip(painter: QPainter, area: QRect, letter: str, colour: str) -> None:
    """A letter on the colour of what is compared."""
    fill_with(painter, colour)
    painter.drawRoundedRect(area, 4, 4)
    write(painter, area, letter, theme.active().on_accent, theme.text_font(11, bold=True), CENTRED)


def draw_badge(painter: QPainter, left: int, top: int, text: str, colour: str) -> None:
    """A word on a tint of its colour."""
    badge = QRect(left, top, badge_width(text), BADGE_PX)
    fill_with(painter, theme.active().tinted(colour))
    painter.drawRoundedRect(badge, BADGE_PX / 2, BADGE_PX / 2)
    write(painter, badge, text, colour, theme.text_font(11, bold=True), CENTRED)


def badge_width(text: str) -> int:
    return QFontMetrics(theme.text_font(11, bold=True)).horizontalAdvance(text) + 16


TICK_BOX_PX = 14


def draw_tick_box(painter: QPainter, box: QRectF, colour: str, *, ticked: bool, focused: bool = False) -> None:
    """A square of `TICK_BOX_PX` in this colour when it is ticked."""
    colours = theme.active()
    painter.setPen(QPen(QColor(colours.text if focused else colour if ticked else colours.faint), 1.2))
    painter.setBrush(QColor(colour) if ticked else Qt.BrushStyle.NoBrush)
    painter.drawRoundedRect(box, 3, 3)
    if ticked:
        painter.setPen(QPen(QColor(colours.on_accent), 1.8))
        left, top = box.left(), box.top()
        painter.drawPolyline([QPointF(left + dx, top + dy) for dx, dy in ((3.2, 7.2), (6.0, 10.0), (10.8, 4.4))])


def draw_dot(painter: QPainter, x: int, y: int, colour: str) -> None:
    """Of a state, around this point."""
    fill_with(painter, colour)
    painter.drawEllipse(QPointF(x, y), 4, 4)


_PULSE_S = 1.5


class Dot(QWidget):
    """`pulse` while its subject is live: the only thing that moves by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedSize(14, 14)
        self._tone = "faint"
        self._pulse = False

    def show_state(self, tone: str, words: str, *, pulse: bool = False) -> None:
        self.setToolTip(words)
        self.setAccessibleName(words)
        if (tone, pulse) != (self._tone, self._pulse) or pulse:
            self._tone, self._pulse = tone, pulse
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            colour = QColor(getattr(theme.active(), self._tone))
            if self._pulse:
                share = (time.monotonic() % _PULSE_S) / _PULSE_S
                halo = QColor(colour)
                halo.setAlphaF(0.4 * (1 - share))
                fill_with(painter, halo)
                painter.drawEllipse(QPointF(7, 7), 4 + 3 * share, 4 + 3 * share)
            fill_with(painter, colour)
            painter.drawEllipse(QPointF(7, 7), 4, 4)
