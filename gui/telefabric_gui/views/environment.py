"""The environment of a track as a picture, with the figures of the step under it."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from telefabric_gui import theme
from telefabric_gui.views.scenes import Scene

_FIGURES_PX = 44
_MARGIN_PX = 12
_GAP_PX, _STEP_PX = 8, 12


class EnvironmentView(QWidget):
    """Shows a scene; `figures` are (name, value) pairs in columns below it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Scene | None = None
        self._figures: tuple[tuple[str, str], ...] = ()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(240, 160)

    def sizeHint(self) -> QSize:
        return QSize(360, 300)

    def show_step(self, scene: Scene, figures: tuple[tuple[str, str], ...]) -> None:
        """What to show from now on."""
        self._scene, self._figures = scene, figures
        self.setAccessibleDescription(scene.words)
        self.setToolTip(scene.words)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._scene is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRectF(self.rect()).adjusted(_MARGIN_PX, 4, -_MARGIN_PX, -_FIGURES_PX)
        self._scene.paint(painter, area)
        self._paint_figures(painter)
        painter.end()

    def _paint_figures(self, painter: QPainter) -> None:
        colours = theme.active()
        caption, figure = theme.text_font(theme.CAPTION_PX), theme.figure_font(13, bold=True)
        needs = [_need(caption, name, figure, value) for name, value in self._figures]
        spare = max(0.0, self.width() - 2 * _MARGIN_PX - sum(needs)) / max(1, len(needs))
        left, top = float(_MARGIN_PX), self.height() - _FIGURES_PX
        for need, (name, value) in zip(needs, self._figures, strict=True):
            painter.setFont(caption)
            painter.setPen(QColor(colours.dim))
            painter.drawText(QRectF(left, top + 6, need, 18), name)
            painter.setFont(figure)
            painter.setPen(QColor(colours.text))
            painter.drawText(QRectF(left, top + 24, need, 18), value)
            left += need + spare


def _need(caption: QFont, name: str, figure: QFont, value: str) -> int:
    """How wide a column must be, in steps, so that it seldom moves."""
    wide = max(QFontMetrics(caption).horizontalAdvance(name), QFontMetrics(figure).horizontalAdvance(value))
    return -(-(wide + _GAP_PX) // _STEP_PX) * _STEP_PX
