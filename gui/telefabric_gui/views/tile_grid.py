"""All tiles of a vector environment in one painted widget: a click or the arrows follow one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QFontMetrics, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from telefabric_gui import theme
from telefabric_gui.formatting import count, duration, real
from telefabric_gui.model.tiles import OLD_S, Tile
from telefabric_gui.rows import NO_STEP
from telefabric_gui.theme import CENTRED, LEFT, RIGHT
from telefabric_gui.views.painting import painting, write
from telefabric_gui.views.scenes import paint_image

GRID_MS = 66
"""Between two paintings of all tiles; the one that is followed is painted with each of its frames."""
_MARGIN_PX, _GAP_PX, _LINE_PX = 12, 8, 14
_NARROW_PX, _TWO_LINES_PX = 56, 70
"""Widths from which the letters of a tile are as large as elsewhere, and from which it has its second line."""
_SMOOTH_MAX = 16
"""More pictures are scaled as fast as Qt can: smoothly, 64 would take half of the time between two paintings."""
_GREYED, _STALLED = 0.35, 0.4
"""Opacity of pictures of a writer that has gone, and of an environment that stalled."""
_CHIP, _ON_CHIP = "#e614171c", "#ffffff"
_STEPS = {Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1)}


class TileGrid(QWidget):
    """Shows tiles in the order in which they are given."""

    followed = Signal(int)
    """This environment was chosen."""
    whole_wanted = Signal()
    """Enter: the followed picture alone."""
    order_wanted = Signal()
    """O: the next order."""

    def __init__(self) -> None:
        super().__init__()
        self.tiles: Sequence[Tile] = ()
        self.follows: int | None = None
        """The environment that is followed."""
        self.gone = False
        """The writer has gone: the pictures are its last."""
        self._timer = QTimer(self, singleShot=True, interval=GRID_MS)
        self._timer.timeout.connect(self.update)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(240, 160)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setAccessibleName("Environments")

    def sizeHint(self) -> QSize:
        return QSize(500, 500)

    def show_tiles(self, tiles: Sequence[Tile], follows: int | None, *, gone: bool = False) -> None:
        """Show these from now on; they are painted soon."""
        self.tiles, self.follows, self.gone = tiles, follows, gone
        if not self._timer.isActive():
            self._timer.start()

    # -- mouse and keys ------------------------------------------------------------------------------------------

    def tile_at(self, at: QPointF) -> Tile | None:
        cells = zip(self._cells(), self.tiles, strict=True)
        return next((tile for cell, tile in cells if cell.contains(at)), None)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        tile = self.tile_at(event.position())
        if event.button() == Qt.MouseButton.LeftButton and tile is not None and tile.step != NO_STEP:
            self.followed.emit(tile.env)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key = Qt.Key(event.key())
        if key in _STEPS and self.tiles:
            self._move(*_STEPS[key])
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.whole_wanted.emit()
        elif key == Qt.Key.Key_O:
            self.order_wanted.emit()
        else:
            super().keyPressEvent(event)

    def _move(self, columns: int, rows: int) -> None:
        envs = [tile.env for tile in self.tiles]
        at = envs.index(self.follows) if self.follows in envs else 0
        to = at + columns + rows * self._columns
        if 0 <= to < len(envs) and self.tiles[to].step != NO_STEP:
            self.followed.emit(envs[to])

    def event(self, event: QEvent) -> bool:
        # The arrows move here, though the window has them for steps.
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent) and event.key() in _STEPS:
            event.accept()
            return True
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            tile = self.tile_at(QPointF(event.pos()))
            QToolTip.showText(event.globalPos(), "" if tile is None else words_of(tile), self)
            return True
        return super().event(event)

    # -- places --------------------------------------------------------------------------------------------------

    @property
    def _area(self) -> QRectF:
        return QRectF(self.rect()).adjusted(_MARGIN_PX, 4, -_MARGIN_PX, -4)

    @property
    def _aspect(self) -> float:
        """Width of the pictures for a height of 1."""
        image = next((tile.image for tile in self.tiles if tile.image is not None), None)
        return 4 / 3 if image is None or not image.height() else min(max(image.width() / image.height(), 0.25), 4.0)

    @property
    def _columns(self) -> int:
        """The number with which the pictures are largest."""
        number, area, aspect = len(self.tiles), self._area, self._aspect

        def width(columns: int) -> float:
            rows = math.ceil(number / columns)
            each = area.width() / columns - _GAP_PX
            return min(each, (area.height() / rows - _GAP_PX - _words_px(each)) * aspect)

        return max(range(1, number + 1), key=width)

    def _cells(self) -> list[QRectF]:
        if not self.tiles:
            return []
        columns, area = self._columns, self._area
        rows = math.ceil(len(self.tiles) / columns)
        width = area.width() / columns
        height = min(area.height() / rows, (width - _GAP_PX) / self._aspect + _words_px(width - _GAP_PX) + _GAP_PX)
        gap = _GAP_PX / 2
        places = [divmod(place, columns) for place in range(len(self.tiles))]
        return [
            QRectF(area.left() + at * width + gap, area.top() + line * height + gap, width - _GAP_PX, height - _GAP_PX)
            for line, at in places
        ]

    # -- painting ------------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        with painting(self) as painter:
            painter.fillRect(event.rect(), QColor(theme.active().panel))
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            best = max((tile.total for tile in self.tiles if tile.total is not None), default=None)
            for cell, tile in zip(self._cells(), self.tiles, strict=True):
                self._paint_tile(painter, cell, tile, best)

    def _paint_tile(self, painter: QPainter, cell: QRectF, tile: Tile, best: float | None) -> None:
        colours, follows = theme.active(), tile.env == self.follows
        words = _words_px(cell.width())
        picture = cell.adjusted(2, 2, -2, -2 - words)
        painter.save()
        painter.setOpacity(_GREYED if self.gone else _STALLED if tile.stalled else 1.0)
        if tile.image is not None:
            paint_image(painter, picture, tile.image, smooth=len(self.tiles) <= _SMOOTH_MAX)
        else:
            painter.fillRect(picture, QColor(colours.raised))
        painter.restore()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._paint_foot(painter, picture, tile)
        if tile.stalled or follows:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(QColor(colours.accent if follows else colours.warning), 1.5))
            painter.drawRoundedRect(cell, 3, 3)
        if words:
            line = QRectF(cell.left() + 4, cell.bottom() - words - 1, cell.width() - 8, _LINE_PX)
            role = "followed" if follows else "best" if tile.total == best else ""
            self._paint_words(painter, line, tile, role)

    def _paint_words(self, painter: QPainter, line: QRectF, tile: Tile, role: str) -> None:
        """Number and return; below them step and age."""
        colours = theme.active()
        px = 11 if line.width() >= _NARROW_PX else 9
        font, figure = theme.text_font(px), theme.figure_font(px, bold=True)
        number, total = f"#{count(tile.env)}", real(tile.total)
        digits = QFontMetrics(figure).horizontalAdvance
        if digits(f"{number} {total}") > line.width():
            total = real(tile.total, 0)
        if digits(f"{number} {total}") > line.width():
            number = ""
        write(painter, line, number, colours.dim, font)
        write(painter, line, total, colours.text, figure, RIGHT)
        left = painter.fontMetrics().horizontalAdvance(number + "  ")
        if role and left + painter.fontMetrics().horizontalAdvance(role + total) < line.width():
            colour = colours.accent if role == "followed" else colours.good
            write(painter, line.adjusted(left, 0, 0, 0), role, colour, theme.text_font(11, bold=True))
        if _words_px(line.width() + 8) > _LINE_PX:
            below = line.translated(0, _LINE_PX)
            step, age = f"step {count(tile.step)}", duration(tile.age_s)
            if tile.step == NO_STEP:
                step, age = "", f"> {age}"
            old = tile.age_s >= OLD_S and not self.gone
            write(painter, below, age, colours.warning if old else colours.dim, font, RIGHT)
            fits = painter.fontMetrics().horizontalAdvance(f"{step} {age}") <= below.width()
            write(painter, below, step if fits else step.removeprefix("step "), colours.dim, font, LEFT)

    def _paint_foot(self, painter: QPainter, picture: QRectF, tile: Tile) -> None:
        """What is to be said of the picture, over its foot."""
        font = theme.text_font(11, bold=tile.stalled)
        lines = [*tile.foot] if picture.height() > 3 * _LINE_PX else [*tile.foot[:1]]
        if tile.image is None and not lines:
            lines = ["no frame"]
        if not lines:
            return
        height = len(lines) * _LINE_PX + 4
        chip = QRectF(picture.left(), picture.bottom() - height, picture.width(), height)
        painter.fillRect(chip, QColor(_CHIP))
        colour = theme.DARK.warning if tile.stalled else _ON_CHIP
        for place, said in enumerate(lines):
            line = QRectF(chip.left() + 2, chip.top() + 2 + place * _LINE_PX, chip.width() - 4, _LINE_PX)
            painter.setFont(font)
            shorter = (said, said.rpartition(": ")[2], said.split()[0])
            fits = (one for one in shorter if painter.fontMetrics().horizontalAdvance(one) <= line.width())
            write(painter, line, next(fits, ""), colour, font, CENTRED)


def _words_px(width: float) -> int:
    """Height of the lines under a picture in a tile of this width."""
    return 2 * _LINE_PX if width >= _TWO_LINES_PX else _LINE_PX if width >= 30 else 0


def words_of(tile: Tile) -> str:
    if tile.step == NO_STEP:
        return f"Environment {tile.env}: no step for more than {duration(tile.age_s)}. Search the steps for it"
    said = f". {'. '.join(tile.foot)}" if tile.foot else ""
    place = f"Environment {tile.env}: episode {count(tile.episode)}, step {count(tile.step)}"
    return f"{place}, return {real(tile.total)}. Its newest step is {duration(tile.age_s)} old{said}"
