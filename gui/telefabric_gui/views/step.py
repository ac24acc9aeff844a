"""The step that is shown, in the details: names and values, probabilities and numbers as bars, pins."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QRect, QRectF, Qt
from PySide6.QtGui import QContextMenuEvent, QFontMetrics, QHelpEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QToolTip, QWidget

from telefabric_gui import theme
from telefabric_gui.formatting import decoded
from telefabric_gui.info import paths_of
from telefabric_gui.model.pins import Pins
from telefabric_gui.model.step_parts import Chance, Line, Shown, lines
from telefabric_gui.views.painting import fill_with, painting, write
from telefabric_gui.views.probabilities import draw_chance
from telefabric_gui.views.styled import heading, menu_of

_PAIR_PX, _BAR_LINE_PX = 22, 19
_INDENT_PX = 12
_NUMBER_GAP_PX, _NUMBER_NAME_PX, _NUMBER_TEXT_PX = 14, 50, 56


class Lines(QWidget):
    """Names on the left, values on the right; what does not fit is cut and whole in the tooltip.

    Numbers with bars go two to a row.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Line] = []
        self._places: list[QRect] = []

    def show_lines(self, given: list[Line]) -> None:
        if given != self._lines:
            self._lines = given
            self._arrange()
            self.setAccessibleDescription("; ".join(f"{line.name}: {line.text}" for line in given))
            self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        self._places, top, wide = [], 0, self.width() - 4
        half = (wide - _NUMBER_GAP_PX) // 2
        beside = False
        for line in self._lines:
            height = _BAR_LINE_PX if line.bar else _PAIR_PX
            if beside and line.bar != "number":
                top, beside = top + _BAR_LINE_PX, False
            left = half + _NUMBER_GAP_PX if beside else 0 if line.bar == "number" else _INDENT_PX * line.depth
            self._places.append(QRect(left, top, half if line.bar == "number" else wide - left, height))
            beside = line.bar == "number" and not beside
            top += 0 if beside else height
        top += _BAR_LINE_PX if beside else 0
        if top != self.height():
            self.setFixedHeight(top)

    def paintEvent(self, event: QPaintEvent) -> None:
        draws = {"": _draw_pair, "chance": _draw_chance, "number": _draw_number}
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            for line, place in zip(self._lines, self._places, strict=True):
                draws[line.bar](painter, place, line)

    def event(self, event: QEvent) -> bool:
        if event.type() != QEvent.Type.ToolTip or not isinstance(event, QHelpEvent):
            return super().event(event)
        found = zip(self._lines, self._places, strict=True)
        tip = next((f"{line.name}\n{line.text}" for line, place in found if place.contains(event.pos())), "")
        QToolTip.showText(event.globalPos(), tip, self)
        return True


class StepPart(Lines):
    """The step that is shown. Its menu pins parts of `info`."""

    def __init__(self, pins: Pins) -> None:
        super().__init__()
        self._pins = pins
        self._shown: Shown | None = None
        self.setToolTip("Right click: pin parts of info")
        pins.changed.connect(lambda: self.show_step(self._shown))

    def show_step(self, shown: Shown | None) -> None:
        self._shown = shown
        self.show_lines([] if shown is None else lines(shown, self._pins.paths))

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        step = self._shown.step if self._shown else None
        offered = dict.fromkeys([*self._pins.paths, *paths_of(decoded(step.info) if step else None)])
        menu = menu_of(self)
        heading(menu, "Pin a part of info" if offered else "This step has no info")
        for path in offered:
            action = menu.addAction(path)
            action.setCheckable(True)
            action.setChecked(path in self._pins.paths)
            action.triggered.connect(lambda _, path=path: self._pins.toggle(path))
        menu.popup(event.globalPos())


def _draw_pair(painter: QPainter, place: QRect, line: Line) -> None:
    colours = theme.active()
    write(painter, place, line.name, colours.dim, theme.text_font())
    room = place.width() - painter.fontMetrics().horizontalAdvance(line.name) - 12
    text = QFontMetrics(theme.figure_font()).elidedText(line.text, Qt.TextElideMode.ElideMiddle, room)
    write(painter, place, text, colours.text, theme.figure_font(), theme.RIGHT)


def _draw_chance(painter: QPainter, place: QRect, line: Line) -> None:
    draw_chance(painter, place, Chance(line.name, line.share, line.strong), theme.active(), 96)


def _draw_number(painter: QPainter, place: QRect, line: Line) -> None:
    """The bar goes from the middle to the left or the right."""
    colours, caption = theme.active(), theme.text_font(theme.CAPTION_PX)
    cut = Qt.TextElideMode.ElideLeft if line.name.endswith("]") else Qt.TextElideMode.ElideMiddle  # indices differ
    name = QFontMetrics(caption).elidedText(line.name, cut, _NUMBER_NAME_PX - 4)
    write(painter, place, name, colours.dim, caption)
    write(painter, place, line.text, colours.text, theme.figure_font(), theme.RIGHT)
    ground = QRectF(place.left() + _NUMBER_NAME_PX, place.center().y() - 2, 0, 5)
    ground.setRight(place.right() - _NUMBER_TEXT_PX)
    fill_with(painter, colours.line)
    painter.drawRoundedRect(ground, 2, 2)
    middle, reach = ground.center().x(), ground.width() / 2 * line.share
    fill_with(painter, colours.faint)
    painter.drawRect(QRectF(min(middle, middle + reach), ground.top(), max(2.0, abs(reach)), ground.height()))
