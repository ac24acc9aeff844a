"""The bar on top: name, connection, and whether one follows or has paused."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QLabel, QPushButton

from telefabric_gui.views.painting import Dot
from telefabric_gui.views.styled import Panel, button, label, row

HEIGHT_PX = 44


class TopBar(Panel):
    """Emits what the user wants; `show_…` tells it what is."""

    paused = Signal(bool)
    theme_wanted = Signal()
    help_wanted = Signal()
    connect_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("topbar")
        self.setFixedHeight(HEIGHT_PX)
        self.dot = Dot()
        self._address = button("", self.connect_wanted)
        self._waiting = label(role="warning")
        self._follow = QPushButton("●  Follow live")
        self._follow.setToolTip("Follow new events as they come (F or End)")
        self._follow.clicked.connect(lambda: self.paused.emit(False))
        self._pause = QPushButton("❚❚  Pause")
        self._pause.setObjectName("pause")
        self._pause.setToolTip("Freeze the view; new events are kept (P, or Space to switch)")
        self._pause.clicked.connect(lambda: self.paused.emit(True))
        group = QButtonGroup(self)
        for switch in (self._follow, self._pause):
            switch.setCheckable(True)
            group.addButton(switch)
        self._follow.setChecked(True)
        switches = Panel("segments")
        switches.setLayout(row(self._follow, self._pause, margins=(2, 2, 2, 2), spacing=2))
        name = QLabel("Telefabric")
        name.setObjectName("name")
        left = row(name, self.dot, self._address, 1, spacing=6)
        left.insertSpacing(1, 14)
        theme = button("Theme", self.theme_wanted, tip="Dark or light (T)")
        keys = button("?", self.help_wanted, tip="Keys (?)")
        right = row(self._waiting, 1, theme, keys, spacing=6)
        layout = row((left, 1), switches, (right, 1), margins=(16, 0, 12, 0), spacing=16)
        layout.setAlignment(switches, Qt.AlignmentFlag.AlignVCenter)
        self.setLayout(layout)

    def show_connection(self, tone: str, address: str, words: str, *, pulse: bool) -> None:
        self.dot.show_state(tone, words, pulse=pulse)
        if address != self._address.text():
            self._address.setText(address)
        self._address.setToolTip(f"{words}\nClick to connect to another (C)")

    def show_paused(self, paused: bool, waiting: str = "") -> None:
        (self._pause if paused else self._follow).setChecked(True)
        self._waiting.setText(waiting)
