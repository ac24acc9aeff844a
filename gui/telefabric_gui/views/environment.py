"""The environment of a track as a picture, with the figures of the step under it."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from telefabric_gui import theme
from telefabric_gui.views.scenes import Scene

_FIGURES_PX = 44
_MARGIN_PX = 12


class EnvironmentView(QWidget):
    """Shows a scene; `figures` are (name, value) pairs in fixed columns below it."""

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
        width = (self.width() - 2 * _MARGIN_PX) / max(1, len(self._figures))
        top = self.height() - _FIGURES_PX
        for place, (name, value) in enumerate(self._figures):
            left = _MARGIN_PX + place * width
            painter.setFont(theme.text_font(theme.CAPTION_PX))
            painter.setPen(QColor(colours.dim))
            painter.drawText(QRectF(left, top + 6, width, 18), name)
            painter.setFont(theme.figure_font(13, bold=True))
            painter.setPen(QColor(colours.text))
            painter.drawText(QRectF(left, top + 24, width, 18), value)
