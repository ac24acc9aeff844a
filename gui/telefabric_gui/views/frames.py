"""Frames of the ring as scenes: one picture, or that of one environment among several."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QImage, QPainter

from telefabric.ring import PixelFormat, RingFrame, TileHud
from telefabric_gui import theme
from telefabric_gui.views.painting import fill_with, write
from telefabric_gui.views.scenes import Scene, paint_image

_FORMATS = {
    PixelFormat.RGB8: QImage.Format.Format_RGB888, PixelFormat.BGR8: QImage.Format.Format_BGR888,
    PixelFormat.RGBA8: QImage.Format.Format_RGBA8888, PixelFormat.GRAY8: QImage.Format.Format_Grayscale8,
    PixelFormat.GRAY16: QImage.Format.Format_Grayscale16,
}  # fmt: skip
_GREYED = 0.35
"""Opacity of the last frame of a writer that has gone."""


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
    """One picture: a whole frame, or one of its tiles."""

    def __init__(self, frame: RingFrame, place: int | None = None) -> None:
        self.words = f"A frame of episode {frame.hud.episode}."
        array = frame.array
        if place is not None:
            array = array[place]
            hud = frame.hud.tiles[place] if place < len(frame.hud.tiles) else TileHud(place)
            self.words = f"A frame of environment {hud.env_index}, episode {hud.episode}."
        self.image = image_of(array, frame.pixels)

    def paint(self, painter: QPainter, area: QRectF) -> None:
        paint_image(painter, area, self.image)


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


def scene_of_frame(frame: RingFrame, env: int | None, state: str) -> Scene:
    """A frame of the ring, or the tile of an environment in it, as it is shown while the ring is in this state."""
    scene = PictureScene(frame, place_of(frame, env))
    why = {"died": "The worker died.", "closed": "The worker has ended."}.get(state)
    return scene if why is None else GoneScene(scene, f"{why} This was its last frame.")


def place_of(frame: RingFrame, env: int | None) -> int | None:
    """The place of an environment among the tiles, else the first; None when there are no tiles."""
    places = (place for place, hud in enumerate(frame.hud.tiles[: frame.tiles]) if hud.env_index == env)
    return next(places, 0) if frame.tiles else None
