"""The title of the environment's card: which view of it is in front, and the others to choose from."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QPushButton, QWidget

from telefabric_gui.views.styled import row

VIDEO, DRAWN, RAW = "video", "drawn", "raw"
GRID = "Grid"
_TIPS = {
    VIDEO: "The pictures that the worker sent",
    DRAWN: "The step's observation: a grid, a picture, numbers or a text",
    RAW: "The events as they came: the newest 100, or those around the cursor",
}


class ViewSwitch(QWidget):
    """`offer` each time that it may have changed what there is; a view that the user chose stays in front."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("View of the environment")
        self._chosen: str | None = None
        self._first = DRAWN
        """What is in front while nothing was chosen."""
        self._group = QButtonGroup(self)
        self._buttons = {name: self._button(name) for name in (VIDEO, DRAWN, RAW)}
        self.setLayout(row(*self._buttons.values(), spacing=8))
        self.offer(GRID, video=False)

    @property
    def view(self) -> str:
        """What is in front."""
        return self._chosen if self._chosen and not self._buttons[self._chosen].isHidden() else self._first

    def offer(self, drawn: str, *, video: bool) -> None:
        """`drawn` names what is made of the observation; a grid comes before the video."""
        before = self.view
        self._first = VIDEO if video and drawn != GRID else DRAWN
        self._buttons[VIDEO].setVisible(video)
        self._buttons[DRAWN].setText(drawn)
        self._show(before)

    def choose(self, name: str) -> None:
        before, self._chosen = self.view, name
        self._show(before)

    def _show(self, before: str) -> None:
        with QSignalBlocker(self._group):
            self._buttons[self.view].setChecked(True)
        if self.view != before:
            self.changed.emit()

    def _button(self, name: str) -> QPushButton:
        made = QPushButton(name.title())
        made.setCheckable(True)
        made.setToolTip(_TIPS[name])
        made.setProperty("role", "view")
        made.setCursor(Qt.CursorShape.PointingHandCursor)
        made.clicked.connect(partial(self.choose, name))
        self._group.addButton(made)
        return made
