"""Probabilities of actions as bars, and a panel of them that lies over the picture."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QObject, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from telefabric_gui import theme
from telefabric_gui.formatting import count
from telefabric_gui.model.step_parts import Chance, most_likely
from telefabric_gui.views.painting import fill_with, painting, write

_OVER = theme.DARK
"""Over a picture all is dark, in both themes."""
_GROUND_ALPHA = 0.9
_LINE_PX, _HEAD_PX, _EDGE_PX = 19, 24, 10
_NAME_PX_MAX, _TRACK_PX, _FIGURE_PX, _BAR_PX = 80, 46, 40, 8
_TITLE = "action probabilities"
_COVERS_MAX = 0.4
"""The panel covers no more of the picture's width; where it would, the details alone show the probabilities."""


def draw_bar(painter: QPainter, area: QRectF, share: float, colour: str, ground: str) -> None:
    """A bar of this share of the area; from the left."""
    fill_with(painter, ground)
    painter.drawRoundedRect(area, 2, 2)
    fill_with(painter, colour)
    painter.drawRoundedRect(QRectF(area.left(), area.top(), max(1.0, area.width() * share), area.height()), 2, 2)


def draw_chance(painter: QPainter, area: QRect, chance: Chance, colours: theme.Theme, name_px: int) -> None:
    """Name, bar and figure; of the action that was taken, in bold and in the accent."""
    name_font, figures = theme.text_font(theme.CAPTION_PX, bold=chance.chosen), theme.figure_font(bold=chance.chosen)
    tone = colours.text if chance.chosen else colours.dim
    name = QFontMetrics(name_font).elidedText(chance.name, Qt.TextElideMode.ElideRight, name_px - 4)
    write(painter, QRect(area.left(), area.top(), name_px, area.height()), name, tone, name_font)
    write(painter, area, f"{chance.share:.2f}", tone, figures, theme.RIGHT)
    bar_top = area.top() + (area.height() - _BAR_PX) / 2
    bar = QRectF(area.left() + name_px, bar_top, area.width() - name_px - _FIGURE_PX, _BAR_PX)
    draw_bar(painter, bar, chance.share, colours.accent if chance.chosen else colours.faint, colours.line)


class ProbabilitiesPanel(QWidget):
    """Lies in the upper left corner of its parent, for as long as there is something to show and room."""

    def __init__(self, over: QWidget) -> None:
        super().__init__(over)
        self.setAccessibleName("Action probabilities")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._over = over
        self.wanted = True
        self._chances: list[Chance] = []
        self._note = ""
        over.installEventFilter(self)
        self.hide()

    def show_chances(self, chances: Sequence[Chance], note: str = "") -> None:
        """`note` says of which step they are, where that is not the picture's."""
        shown = most_likely(chances)
        if (shown, note) != (self._chances, self._note):
            self._chances, self._note = shown, note
            said = (f"{one.name} {one.share:.2f}{', taken' if one.chosen else ''}" for one in shown)
            self.setAccessibleDescription("; ".join(said))
            self.update()
        self._place()

    def toggle(self) -> None:
        """Show it or not, from now on."""
        self.wanted = not self.wanted
        self._place()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def _place(self) -> None:
        wide = self._name_px + _TRACK_PX + _FIGURE_PX + 2 * _EDGE_PX
        size = QSize(wide, _HEAD_PX + _LINE_PX * len(self._chances) + 8)
        fits = size.width() <= _COVERS_MAX * self._over.width() and size.height() + 16 <= self._over.height()
        self.setVisible(self.wanted and bool(self._chances) and fits)
        self.setGeometry(QRect(12, 8, size.width(), size.height()))

    @property
    def _name_px(self) -> int:
        metrics = QFontMetrics(theme.text_font(theme.CAPTION_PX, bold=True))
        head = metrics.horizontalAdvance(self._note or _TITLE) - _TRACK_PX - _FIGURE_PX
        widest = max((metrics.horizontalAdvance(one.name) + 8 for one in self._chances), default=0)
        return max(head, min(widest, _NAME_PX_MAX))

    def paintEvent(self, event: QPaintEvent) -> None:
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            ground = QColor(_OVER.window)
            ground.setAlphaF(_GROUND_ALPHA)
            fill_with(painter, ground)
            painter.drawRoundedRect(self.rect(), 4, 4)
            room = self.rect().adjusted(_EDGE_PX, 4, -_EDGE_PX, 0)
            title = QRect(room.left(), room.top(), room.width(), _HEAD_PX - 4)
            write(painter, title, self._note or _TITLE, _OVER.dim, theme.text_font(theme.CAPTION_PX))
            for at, chance in enumerate(self._chances):
                line = QRect(room.left(), _HEAD_PX + at * _LINE_PX, room.width(), _LINE_PX)
                draw_chance(painter, line, chance, _OVER, self._name_px)


def note_of(step: int) -> str:
    """For a picture that may already be a later one."""
    return f"probabilities, step {count(step)}"
