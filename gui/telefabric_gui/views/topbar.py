"""The bar on top: name, connection, and whether one follows or has paused."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QFrame, QHBoxLayout, QLabel, QPushButton, QWidget

from telefabric_gui.views.card import label
from telefabric_gui.views.dot import Dot

HEIGHT_PX = 44


class TopBar(QFrame):
    """Emits what the user wants; `show_…` tells it what is."""

    paused = Signal(bool)
    theme_wanted = Signal()
    help_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("topbar")
        self.setFixedHeight(HEIGHT_PX)
        name = QLabel("Telefabric")
        name.setObjectName("name")
        self.dot = Dot()
        self._address = label(role="dim")
        self._waiting = label(role="warning")
        self._follow = QPushButton("●  Follow live")
        self._follow.setToolTip("Follow new events as they come (F or End)")
        self._pause = QPushButton("❚❚  Pause")
        self._pause.setObjectName("pause")
        self._pause.setToolTip("Freeze the view; new events are kept (P, or Space to switch)")
        self._lay_out(name)

    def show_connection(self, tone: str, address: str, words: str, *, pulse: bool) -> None:
        self.dot.show_state(tone, words, pulse=pulse)
        if address != self._address.text():
            self._address.setText(address)
        self._address.setToolTip(words)

    def show_paused(self, paused: bool, waiting: str = "") -> None:
        (self._pause if paused else self._follow).setChecked(True)
        self._waiting.setText(waiting)

    def _lay_out(self, name: QLabel) -> None:
        segments = QFrame()
        segments.setObjectName("segments")
        row = QHBoxLayout(segments)
        row.setContentsMargins(2, 2, 2, 2)
        row.setSpacing(2)
        group = QButtonGroup(self)
        for button in (self._follow, self._pause):
            button.setCheckable(True)
            group.addButton(button)
            row.addWidget(button)
        self._follow.setChecked(True)
        self._follow.clicked.connect(lambda: self.paused.emit(False))
        self._pause.clicked.connect(lambda: self.paused.emit(True))
        left, right = QHBoxLayout(), QHBoxLayout()
        left.setSpacing(6)
        left.addWidget(name)
        left.addSpacing(14)
        left.addWidget(self.dot)
        left.addWidget(self._address)
        left.addStretch(1)
        right.setSpacing(6)
        right.addWidget(self._waiting)
        right.addStretch(1)
        for text, tip, signal in (
            ("Theme", "Dark or light (T)", self.theme_wanted), ("?", "Keys (?)", self.help_wanted),
        ):  # fmt: skip
            button = QPushButton(text)
            button.setProperty("role", "plain")
            button.setToolTip(tip)
            button.clicked.connect(signal)
            right.addWidget(button)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(16, 0, 12, 0)
        layout.setSpacing(16)
        layout.addLayout(left, 1)
        layout.addWidget(segments, 0, Qt.AlignmentFlag.AlignVCenter)
        layout.addLayout(right, 1)
