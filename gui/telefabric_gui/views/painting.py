"""Painting that keeps what it raises to itself, and the strokes that all painters make.

Qt is in the midst of painting everything else when it calls a painter. PySide raises what one leaves behind in each
that follows, which paints nothing then, and a painter that was not ended makes Qt crash.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from PySide6.QtCore import QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QPaintDevice, QPainter

from telefabric_gui.theme import LEFT


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


def write(painter: QPainter, area: QRect | QRectF, text: str, colour: str, font: QFont, alignment: int = LEFT) -> None:
    painter.setFont(font)
    painter.setPen(QColor(colour))
    painter.drawText(area, alignment, text)


def fill_with(painter: QPainter, colour: str | QColor) -> None:
    """What is drawn next is filled, and has no outline."""
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(colour))
