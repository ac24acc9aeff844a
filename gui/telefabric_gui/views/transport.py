"""The bar over the time line: to move and run the cursor, its position in words, and what the line counts."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QPointF, QSignalBlocker, Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent, QPolygonF
from PySide6.QtWidgets import QButtonGroup, QLabel, QPushButton, QSizePolicy

from telefabric_gui import theme
from telefabric_gui.formatting import count, plural
from telefabric_gui.model.axis import By
from telefabric_gui.model.cursor import SPEEDS, Cursor, Mode
from telefabric_gui.views.field import NameField
from telefabric_gui.views.painting import fill_with, painting
from telefabric_gui.views.styled import Panel, button, column, drop_menu, row
from telefabric_gui.views.timeline import TimeLine

_MOVE_PX = 32
_WORDS_PX = 22


class Transport(Panel):
    """Buttons that the keys of the window have, too; the window connects them."""

    acted = Signal(str)
    """first, back, toggle, on, last, loop or bookmark."""
    speed_wanted = Signal(float)
    axis_wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__("transport")
        self._buttons = {
            name: self._button(name, text, tip)
            for name, text, tip in (
                ("first", "", "To the first step (Home)"), ("back", "", "A step back (Left; with Shift an episode)"),
                ("toggle", "", "Replay, or pause (Space)"), ("on", "", "A step on (Right; with Shift an episode)"),
                ("last", "", "Follow the newest (End)"), ("loop", "Loop", "Replay the selection again and again (L)"),
                ("bookmark", "Bookmark", "Keep this step in the store (B)"),
            )
        }  # fmt: skip
        self._loop = self._buttons["loop"]
        self._loop.setCheckable(True)
        self._loop_for = 0, 0
        """The selection, and the width, for which its text is."""
        speeds = Panel("segments")
        group = QButtonGroup(self)
        switches = []
        for number, speed in enumerate(SPEEDS, 1):
            switch = QPushButton(f"{speed:g}\u00d7")
            switch.setProperty("role", "speed")
            switch.setCheckable(True)
            switch.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            switch.setToolTip(f"Replay at {speed:g} times ({number})")
            switch.clicked.connect(partial(self.speed_wanted.emit, speed))
            group.addButton(switch)
            switches.append(switch)
        self._speeds = dict(zip(SPEEDS, switches, strict=True))
        speeds.setLayout(row(*switches, margins=(2, 2, 2, 2), spacing=2))
        self._place = QLabel()
        self._place.setObjectName("place")
        self._place.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._by = button("by step ▾", self._offer_axes, "link", "What the time line counts")
        moves = [self._buttons[name] for name in ("first", "back", "toggle", "on", "last")]
        others = [self._buttons[name] for name in ("loop", "bookmark")]
        bar = self._bar = row(*moves, speeds, *others, 1, self._by, margins=(12, 6, 16, 2), spacing=4)
        self.name = NameField()
        """Of a bookmark."""
        for part in (self._place, self.name):
            part.setFixedHeight(_WORDS_PX)  # nothing moves when a name is asked for
        words = row((self._place, 1), self.name, margins=(14, 2, 16, 0))
        self.setLayout(column(bar, words))

    def show_cursor(self, cursor: Cursor, place: str) -> None:
        """Show mode, speed and selection, and the position in words."""
        replaying = cursor.mode is Mode.REPLAY
        runs = replaying or (cursor.mode is Mode.FOLLOW and cursor.live)
        self._buttons["toggle"].show_strokes("pause" if runs else "toggle")
        self._buttons["toggle"].setToolTip("Pause (Space)" if runs else "Replay (Space)")
        first, last = cursor.selection or (1, 0)
        if (last - first, self.width()) != self._loop_for:
            self._loop_for = last - first, self.width()
            self._say_loop(last - first + 1)
        with QSignalBlocker(self._loop):
            self._loop.setChecked(cursor.looping)
        if cursor.speed in self._speeds:
            self._speeds[cursor.speed].setChecked(True)
        if place != self._place.text():
            self._place.setText(place)
            self._place.setToolTip(place)

    def show_axis(self, by: By) -> None:
        self._by.setText(f"by {by.value} ▾")

    def _say_loop(self, steps: int) -> None:
        """How many steps are selected, as far as there is room for it: no button gives way, and no window grows."""
        for text in (f"Loop {plural(steps, 'step')}", f"Loop {count(steps)}", "Loop") if steps else ("Loop",):
            self._loop.setText(text)
            self._bar.invalidate()  # Qt does it later
            if self._bar.sizeHint().width() <= self.width():
                return

    def _button(self, name: str, text: str, tip: str) -> _Move:
        made = _Move(text)
        made.show_strokes(name)
        made.setToolTip(tip)
        made.setProperty("role", "transport")
        made.clicked.connect(lambda: self.acted.emit(name))
        made.setObjectName(f"transport_{name}")
        made.setAccessibleName(tip)
        made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        return made

    def _offer_axes(self) -> None:
        drop_menu(self._by, [(f"by {by.value}", partial(self.axis_wanted.emit, by)) for by in By])


_STROKES = {
    "first": (((0, 0), (2, 0), (2, 10), (0, 10)), ((10, 0), (10, 10), (3, 5))),
    "back": (((8, 0), (8, 10), (1, 5)),),
    "toggle": (((1, 0), (10, 5), (1, 10)),),
    "pause": (((1, 0), (4, 0), (4, 10), (1, 10)), ((6, 0), (9, 0), (9, 10), (6, 10))),
    "on": (((2, 0), (9, 5), (2, 10)),),
    "last": (((0, 0), (7, 5), (0, 10)), ((8, 0), (10, 0), (10, 10), (8, 10))),
}
"""Polygons of the moves, in a square of 10: fonts do not have the signs everywhere."""


class _Move(QPushButton):
    """A button with a sign that is painted, or with a text."""

    _strokes = ""

    def show_strokes(self, name: str) -> None:
        if name != self._strokes and name in _STROKES:
            self._strokes = name
            self.setFixedWidth(_MOVE_PX)
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.translate(self.width() / 2 - 5, self.height() / 2 - 5)
            fill_with(painter, theme.active().text)
            for points in _STROKES.get(self._strokes, ()):
                painter.drawPolygon(QPolygonF([QPointF(*point) for point in points]))


class Bottom(Panel):
    """Transport and time line of the page in front."""

    def __init__(self) -> None:
        super().__init__("bottom")
        self.transport, self.line = Transport(), TimeLine()
        self.transport.axis_wanted.connect(self.show_axis)
        self.setLayout(column(self.transport, self.line, margins=(0, 1, 0, 0)))

    def show_axis(self, by: By) -> None:
        self.line.show_axis(by)
        self.transport.show_axis(by)
