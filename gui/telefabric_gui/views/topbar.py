"""The bar on top: name, connection, and whether one follows, has paused, or replays."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QLabel, QPushButton

from telefabric_gui.model.cursor import Mode
from telefabric_gui.views.painting import Dot
from telefabric_gui.views.styled import Caption, Panel, button, restyle, row, say_fitting

HEIGHT_PX = 44


class TopBar(Panel):
    """Emits what the user wants; `show_…` tells it what is."""

    mode_wanted = Signal(object)
    theme_wanted = Signal()
    help_wanted = Signal()
    connect_wanted = Signal()
    redraw_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("topbar")
        self.setFixedHeight(HEIGHT_PX)
        self.dot = Dot()
        self._address = button("", self.connect_wanted)
        self._waiting = Caption("warning")
        self._follow = QPushButton("●  Follow live")
        self._follow.clicked.connect(lambda: self.mode_wanted.emit(Mode.FOLLOW))
        self._pause = QPushButton("❚❚  Pause")
        self._pause.setObjectName("pause")
        self._pause.setToolTip("Stay at the step that is shown; new events are kept (P, or Space to switch)")
        self._pause.clicked.connect(lambda: self.mode_wanted.emit(Mode.PAUSED))
        self._replay = QPushButton("▶  Replay")
        self._replay.setObjectName("replay")
        self._replay.setToolTip("Run on from the step that is shown (Space, or 1 to 6 for a speed)")
        self._replay.clicked.connect(lambda: self.mode_wanted.emit(Mode.REPLAY))
        self._switches = {Mode.FOLLOW: self._follow, Mode.PAUSED: self._pause, Mode.REPLAY: self._replay}
        group = QButtonGroup(self)
        for switch in self._switches.values():
            switch.setCheckable(True)
            group.addButton(switch)
        self.show_mode(None)
        switches = Panel("segments")
        switches.setLayout(row(*self._switches.values(), margins=(2, 2, 2, 2), spacing=2))
        name = QLabel("Telefabric")
        name.setObjectName("name")
        left = row(name, self.dot, self._address, 1, spacing=6)
        left.insertSpacing(1, 14)
        self.redraw = button("Redraw \u25be", self.redraw_wanted, tip="How often tables, charts and pictures are drawn")
        theme = button("Theme", self.theme_wanted, tip="Dark or light (T)")
        keys = button("?", self.help_wanted, tip="Keys (?)")
        right = row((self._waiting, 1), self.redraw, theme, keys, spacing=6)
        layout = row((left, 1), switches, (right, 1), margins=(16, 0, 12, 0), spacing=16)
        layout.setAlignment(switches, Qt.AlignmentFlag.AlignVCenter)
        self.setLayout(layout)

    def show_connection(self, tone: str, address: str, words: str, *, pulse: bool) -> None:
        self.dot.show_state(tone, words, pulse=pulse)
        if address != self._address.text():
            self._address.setText(address)
        self._address.setToolTip(f"{words}\nClick to connect to another (C)")

    def show_mode(self, mode: Mode | None, waiting: Sequence[str] = ("",), *, live: bool = False) -> None:
        """The mode of the page in front, None without any; and what came since one paused, from long to short."""
        for switch in self._switches.values():
            switch.setEnabled(mode is not None)
        self._switches[mode or Mode.FOLLOW].setChecked(True)
        say_fitting(self._waiting, *waiting)
        ended = mode is not None and not live
        self._follow.setText("●  At the end" if ended else "●  Follow live")
        tip = "The last step: no more is expected" if ended else "Follow new events as they come"
        self._follow.setToolTip(f"{tip} (F or End)")
        restyle(self._follow, "live", str(live).lower())
