"""The environment of a stream as a picture, with the figures of the step under it."""

from __future__ import annotations

from functools import lru_cache

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QImage, QMouseEvent, QPainter, QPaintEvent, QWheelEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from telefabric_gui import theme
from telefabric_gui.views.painting import painting, write
from telefabric_gui.views.scenes import Scene

_FIGURES_PX = 44
_MARGIN_PX = 12
_GAP_PX, _STEP_PX = 8, 12
_ZOOM_MAX = 32.0


class EnvironmentView(QWidget):
    """Shows a scene, with (name, value) pairs in columns below it. The wheel zooms, a double click ends that."""

    def __init__(self) -> None:
        super().__init__()
        self.scene: Scene | None = None
        self._figures: tuple[tuple[str, str], ...] = ()
        self.zoom, self._shift = 1.0, QPointF()
        """How much larger than it fits, and how far the middle was moved, in pixels of the widget."""
        self._dragged: QPointF | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(240, 160)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)  # else all that it lies on is painted with each frame

    def sizeHint(self) -> QSize:
        return QSize(360, 300)

    def show_step(self, scene: Scene, figures: tuple[tuple[str, str], ...]) -> None:
        """Show this scene from now on."""
        self.scene, self._figures = scene, figures
        if scene.words != self.toolTip():
            self.setAccessibleDescription(scene.words)
            self.setToolTip(scene.words)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        with painting(self) as painter:
            painter.fillRect(event.rect(), QColor(theme.active().panel))
            if self.scene is None:
                return
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            self._paint_figures(painter)
            painter.setClipRect(self._area)
            painter.translate(self._area.center() + self._shift)
            painter.scale(self.zoom, self.zoom)
            painter.translate(-self._area.center())
            self.scene.paint(painter, self._area)  # last: a scene that fails takes nothing else along

    # -- zoom ----------------------------------------------------------------------------------------------------

    def zoom_to(self, zoom: float, at: QPointF | None = None) -> None:
        """Zoom around a point of the widget, by default its middle. 1 shows the whole scene again."""
        zoom = min(max(zoom, 1.0), _ZOOM_MAX)
        off = (at or self._area.center()) - self._area.center()
        self._shift = off - (off - self._shift) * (zoom / self.zoom)
        self.zoom = zoom
        self._keep_in_sight()

    def _keep_in_sight(self) -> None:
        reach_x, reach_y = (self._area.width() * (self.zoom - 1) / 2, self._area.height() * (self.zoom - 1) / 2)
        x, y = self._shift.x(), self._shift.y()
        self._shift = QPointF(min(max(x, -reach_x), reach_x), min(max(y, -reach_y), reach_y))
        self.update()

    def wheelEvent(self, event: QWheelEvent) -> None:
        self.zoom_to(self.zoom * 1.25 ** (event.angleDelta().y() / 120), event.position())
        event.accept()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._dragged = event.position()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._dragged is not None:
            self._shift += event.position() - self._dragged
            self._dragged = event.position()
            self._keep_in_sight()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._dragged = None

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.zoom_to(1.0)

    # -- painting ------------------------------------------------------------------------------------------------

    @property
    def _area(self) -> QRectF:
        """The area of the scene."""
        return QRectF(self.rect()).adjusted(_MARGIN_PX, 4, -_MARGIN_PX, -_FIGURES_PX)

    def picture(self) -> QImage:
        """The scene as an image: with the pixels that it has, or as it is painted here when it has none of its own."""
        image = getattr(self.scene, "image", None)
        if isinstance(image, QImage):
            return image
        return self.grab(self._area.toRect()).toImage()

    def _paint_figures(self, painter: QPainter) -> None:
        colours = theme.active()
        caption, figure = _fonts()
        needs = [_need(name, value) for name, value in self._figures]
        width = self.width() - 2 * _MARGIN_PX
        while len(needs) > 1 and sum(needs) > width:
            needs.pop()  # the last ones matter least
        spare = max(0.0, width - sum(needs)) / max(1, len(needs))
        left, top = float(_MARGIN_PX), self.height() - _FIGURES_PX
        for need, (name, value) in zip(needs, self._figures, strict=False):
            write(painter, QRectF(left, top + 6, need, 18), name, colours.dim, caption, 0)
            write(painter, QRectF(left, top + 24, need, 18), value, colours.text, figure, 0)
            left += need + spare


def _fonts() -> tuple[QFont, QFont]:
    """The fonts of a figure's name and of its value."""
    return theme.text_font(theme.CAPTION_PX), theme.figure_font(13, bold=True)


@lru_cache(1_024)
def _need(name: str, value: str) -> int:
    """How wide a column must be, in steps, so that it seldom moves."""
    caption, figure = map(QFontMetrics, _fonts())
    wide = max(caption.horizontalAdvance(name), figure.horizontalAdvance(value))
    return -(-(wide + _GAP_PX) // _STEP_PX) * _STEP_PX
