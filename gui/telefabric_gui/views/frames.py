"""Frames of the ring as scenes: one picture, or the tiles of several environments in an order of one's choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QImage, QPainter

from telefabric.ring import PixelFormat, RingFrame, TileHud
from telefabric_gui import theme
from telefabric_gui.formatting import count, real
from telefabric_gui.views.painting import fill_with, write
from telefabric_gui.views.scenes import Scene, paint_image

_FORMATS = {
    PixelFormat.RGB8: QImage.Format.Format_RGB888, PixelFormat.BGR8: QImage.Format.Format_BGR888,
    PixelFormat.RGBA8: QImage.Format.Format_RGBA8888, PixelFormat.GRAY8: QImage.Format.Format_Grayscale8,
    PixelFormat.GRAY16: QImage.Format.Format_Grayscale16,
}  # fmt: skip
_LABEL_PX = 16
_CENTRED = int(Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextSingleLine | Qt.TextFlag.TextDontClip)
_GREYED = 0.35
"""Opacity of the last frame of a writer that has gone."""

ORDERS: dict[str, Callable[[TileHud], Any]] = {
    "environment": lambda tile: tile.env_index,
    "best first": lambda tile: (-tile.episode_return, tile.env_index),
    "worst first": lambda tile: (tile.episode_return, tile.env_index),
    "stalled first": lambda tile: (tile.fresh, tile.env_index),
}
"""How tiles may be sorted, by what a menu calls it."""


def image_of(array: np.ndarray[Any, Any], pixels: PixelFormat) -> QImage:
    """An image over the array (height, width, channels), which it keeps. Depth is stretched to what there is of it."""
    if pixels == PixelFormat.DEPTH:
        array, pixels = _stretched(array), PixelFormat.GRAY8
    height, width = array.shape[:2]
    return QImage(array.data, width, height, array.strides[0], _FORMATS[pixels])


def _stretched(depth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """float32 as 8 bits; what was not measured is black."""
    there = np.isfinite(depth)
    if not there.any():
        return np.zeros(depth.shape, np.uint8)
    nearest, farthest = float(depth[there].min()), float(depth[there].max())
    scaled = (np.where(there, depth, nearest) - nearest) / ((farthest - nearest) or 1.0)
    return np.where(there, 255 - scaled * 200, 0).astype(np.uint8)


class PictureScene:
    """One picture."""

    def __init__(self, frame: RingFrame) -> None:
        self.words = f"A frame of episode {frame.hud.episode}."
        self.image = image_of(frame.array, frame.pixels)

    def paint(self, painter: QPainter, area: QRectF) -> None:
        paint_image(painter, area, self.image)


class TilesScene:
    """Pictures of several environments, each with its index and return; ❚❚ marks one that stood still."""

    def __init__(self, frame: RingFrame, order: str) -> None:
        tiles = frame.hud.tiles
        if len(tiles) != frame.tiles:  # a writer that says less of them than it shows
            tiles = [TileHud(place) for place in range(frame.tiles)]
        places = sorted(range(frame.tiles), key=lambda place: ORDERS[order](tiles[place]))
        self.words = f"Frames of {frame.tiles} environments, by {order}."
        self._tiles = [(tiles[place], image_of(frame.array[place], frame.pixels)) for place in places]

    @property
    def image(self) -> QImage:
        """All of them, without labels, as many pixels as they have."""
        width, height = self._tiles[0][1].width(), self._tiles[0][1].height()
        columns = math.ceil(math.sqrt(len(self._tiles)))
        whole = QImage(columns * width, math.ceil(len(self._tiles) / columns) * height, QImage.Format.Format_RGB32)
        whole.fill(0)
        with QPainter(whole) as painter:
            for place, (_, image) in enumerate(self._tiles):
                painter.drawImage(place % columns * width, place // columns * height, image)
        return whole

    def paint(self, painter: QPainter, area: QRectF) -> None:
        first = self._tiles[0][1]
        columns = _columns(len(self._tiles), area, first.width() / first.height())
        rows = math.ceil(len(self._tiles) / columns)
        width, height = area.width() / columns, area.height() / rows
        for place, (tile, image) in enumerate(self._tiles):
            cell = QRectF(area.left() + place % columns * width, area.top() + place // columns * height, width, height)
            cell.adjust(2, 2, -2, -2)
            labelled = cell.height() > 3 * _LABEL_PX and cell.width() > 60
            picture = cell.adjusted(0, 0, 0, -_LABEL_PX) if labelled else cell
            paint_image(painter, picture, image)
            if labelled:
                self._label(painter, QRectF(cell.left(), cell.bottom() - _LABEL_PX, cell.width(), _LABEL_PX), tile)

    def _label(self, painter: QPainter, area: QRectF, tile: TileHud) -> None:
        words = f"{'' if tile.fresh else '❚❚ '}{count(tile.env_index)} · {real(tile.episode_return)}"
        colour = theme.active().dim if tile.fresh else theme.active().warning
        shown = theme.fitting(words, int(area.width()))
        write(painter, area, shown, colour, theme.figure_font(theme.CAPTION_PX), _CENTRED)


def _columns(number: int, area: QRectF, aspect: float) -> int:
    """The number of columns with which pictures of this aspect (width / height) are largest."""

    def size(columns: int) -> float:
        rows = math.ceil(number / columns)
        return min(area.width() / columns / aspect, area.height() / rows)

    return max(range(1, number + 1), key=size)


class GoneScene(NamedTuple):
    """The last frame of a writer that has gone, greyed, and what became of it."""

    scene: Scene
    why: str

    @property
    def words(self) -> str:
        return f"{self.why} {self.scene.words}"

    def paint(self, painter: QPainter, area: QRectF) -> None:
        painter.save()
        painter.setOpacity(_GREYED)
        self.scene.paint(painter, area)
        painter.restore()
        font, centred = theme.text_font(13, bold=True), int(Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap)
        painter.setFont(font)
        needs = painter.boundingRect(area, centred, self.why)
        fill_with(painter, theme.active().panel)
        painter.drawRoundedRect(needs.adjusted(-12, -8, 12, 8), 6, 6)
        write(painter, area, self.why, theme.active().text, font, centred)


def scene_of_frame(frame: RingFrame, order: str, state: str) -> Scene:
    """A frame of the ring as it is to be shown while the ring is in this state."""
    scene: Scene = TilesScene(frame, order) if frame.tiles else PictureScene(frame)
    why = {"died": "The worker died.", "closed": "The worker has ended."}.get(state)
    return scene if why is None else GoneScene(scene, f"{why} This was its last frame.")
