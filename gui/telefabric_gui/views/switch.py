"""The title of the environment's card: which view of it is in front, and the others to choose from."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QFontMetrics
from PySide6.QtWidgets import QButtonGroup, QPushButton, QWidget

from telefabric_gui import theme
from telefabric_gui.views.styled import row

VIDEO, DRAWN, RAW = "video", "drawn", "raw"
GRID = "Grid"
_TIPS = {
    VIDEO: "The pictures that the worker sent",
    DRAWN: "The step's observation: a grid, a picture, numbers or a text",
    RAW: "The events as they came: the newest 100, or those around the cursor",
}


class ViewSwitch(QWidget):
    """A view that the user chose stays in front; at first a grid is, else the video once there is one."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("View of the environment")
        self._chosen: str | None = None
        self._group = QButtonGroup(self)
        self._buttons = {name: self._button(name) for name in (VIDEO, DRAWN, RAW)}
        self.setLayout(row(*self._buttons.values(), spacing=6))
        self._buttons[VIDEO].hide()
        self.name_drawn("Picture")

    @property
    def view(self) -> str:
        """What is in front."""
        if self._chosen is not None:
            return self._chosen
        video, drawn = self._buttons[VIDEO], self._buttons[DRAWN]
        return DRAWN if video.isHidden() or drawn.text() == GRID else VIDEO

    @property
    def beside_video(self) -> bool:
        """There is a video, and another view is in front."""
        return not self._buttons[VIDEO].isHidden() and self.view != VIDEO

    def name_drawn(self, name: str) -> None:
        """What is made of the observation."""
        before = self.view
        _label(self._buttons[DRAWN], name)
        self._show(before)

    def offer_video(self) -> None:
        """Pictures of the worker have come."""
        before = self.view
        self._buttons[VIDEO].show()
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
        made = QPushButton()
        _label(made, name.title())
        made.setCheckable(True)
        made.setToolTip(_TIPS[name])
        made.setProperty("role", "view")
        made.setCursor(Qt.CursorShape.PointingHandCursor)
        made.clicked.connect(partial(self.choose, name))
        self._group.addButton(made)
        return made


def _label(button: QPushButton, text: str) -> None:
    """With room for the text when it is bold."""
    button.setText(text)
    button.setFixedWidth(QFontMetrics(theme.text_font(bold=True)).horizontalAdvance(text) + 6)
