"""The bar over the time line: to move and run the cursor, its position in words, and what the line counts."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QRectF, QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QLabel, QPushButton, QSizePolicy

from telefabric_gui.formatting import count, plural
from telefabric_gui.model.axis import By
from telefabric_gui.model.cursor import SPEEDS, Cursor, Mode
from telefabric_gui.views.painting import painting
from telefabric_gui.views.styled import Panel, button, column, drop_menu, label, row
from telefabric_gui.views.timeline import TimeLine, paint_span

LEGEND = ("stored", "live only", "missing", "not loaded")


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
                ("first", "⏮", "To the first step (Home)"), ("back", "⏴", "A step back (←; Shift an episode)"),
                ("toggle", "▶", "Replay, or pause (Space)"), ("on", "⏵", "A step on (→; Shift an episode)"),
                ("last", "⏭", "Follow the newest (End)"), ("loop", "Loop", "Replay the selection again and again (L)"),
                ("bookmark", "Bookmark", "Keep this step in the store (B)"),
            )
        }  # fmt: skip
        self._loop = self._buttons["loop"]
        self._loop.setCheckable(True)
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
        first = [self._buttons[name] for name in ("first", "back", "toggle", "on", "last")]
        others = [self._buttons[name] for name in ("loop", "bookmark")]
        legend = self._legend()
        bar = row(*first, speeds, *others, (self._place, 1), legend, self._by, margins=(12, 4, 16, 2), spacing=6)
        self.setLayout(bar)

    def show_cursor(self, cursor: Cursor, place: str) -> None:
        """Show mode, speed and selection, and the position in words."""
        replaying = cursor.mode is Mode.REPLAY
        self._buttons["toggle"].setText("❚❚" if cursor.mode is not Mode.PAUSED else "▶")
        self._buttons["toggle"].setToolTip("Pause (Space)" if replaying else "Replay, or pause (Space)")
        selection = cursor.selection
        steps = f"Loop {plural(selection[1] - selection[0] + 1, 'step')}" if selection else "Loop"
        if self._loop.text() != steps:
            self._loop.setText(steps)
        with QSignalBlocker(self._loop):
            self._loop.setChecked(cursor.looping)
        if cursor.speed in self._speeds:
            self._speeds[cursor.speed].setChecked(True)
        if place != self._place.text():
            self._place.setText(place)
            self._place.setToolTip(place)

    def show_axis(self, by: By) -> None:
        self._by.setText(f"by {by.value} ▾")

    def _button(self, name: str, text: str, tip: str) -> QPushButton:
        made = button(text, lambda: self.acted.emit(name), "transport", tip)
        made.setObjectName(f"transport_{name}")
        made.setAccessibleName(tip)
        made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        return made

    def _legend(self) -> QHBoxLayout:
        """Colours and words of the spans."""
        parts = []
        for kind in LEGEND:
            parts += [_Swatch(kind), label(kind, role="caption")]
        return row(*parts, spacing=6)

    def _offer_axes(self) -> None:
        drop_menu(self._by, [(f"by {by.value}", partial(self.axis_wanted.emit, by)) for by in By])


class _Swatch(QLabel):
    """A piece of a span, as the time line paints it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind
        self.setFixedSize(14, 10)

    def paintEvent(self, event: object) -> None:
        with painting(self) as painter:
            paint_span(painter, QRectF(0.5, 0.5, 13, 9), self._kind)


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


def place_of(cursor: Cursor, step: int | None, episode: str, time: str) -> str:
    """The position in words; unknown parts are left out."""
    if cursor.row is None:
        return ""
    first = f"step {count(step)}" if step is not None else f"row {count(cursor.row)}"
    return "   ".join(part for part in (first, episode, time) if part)
