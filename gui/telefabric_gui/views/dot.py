"""The dot of a state, with its words in a tooltip."""

from __future__ import annotations

import time

from PySide6.QtCore import QPointF
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from telefabric_gui import theme
from telefabric_gui.views.painting import fill_with, painting

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
