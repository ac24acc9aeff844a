"""The cover of a view that failed: its name, the reason, and the details to copy."""

from __future__ import annotations

import time

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QBoxLayout, QWidget

from telefabric_gui.views.styled import Panel, button, column, label

AGAIN_S, AGAIN_S_MAX = 0.5, 8.0
"""How long a view is left alone after it failed, and after it has failed again and again."""
_FLAT_PX = 90


class Cover(Panel):
    """A cover as large as its view. Hide it when the view can show something again."""

    def __init__(self, view: QWidget) -> None:
        super().__init__("cover", view)
        self._pause_s, self._failed_s = AGAIN_S, 0.0
        self._given: object = None
        self.details = ""
        self._title, self._why = label(role="error"), label(role="caption")
        self._why.setWordWrap(True)
        self._copy = button("Copy details", lambda: QGuiApplication.clipboard().setText(self.details), "link")
        self._layout = column(self._title, self._why, self._copy, 1, margins=(12, 4, 12, 4), spacing=6)
        self._layout.setAlignment(self._copy, Qt.AlignmentFlag.AlignLeft)
        self.setLayout(self._layout)
        view.installEventFilter(self)

    @property
    def sentence(self) -> str:
        return f"{self._title.text()} {self._why.text()}"

    def fall(self, name: str, why: str, details: str, given: object) -> None:
        """The view failed at showing what was `given`."""
        now_s = time.monotonic()
        since_s = now_s - self._failed_s
        if since_s >= self._pause_s:  # else it is still the same failure, such as one of each cell of a table
            self._pause_s = min(2 * self._pause_s, AGAIN_S_MAX) if since_s < 4 * self._pause_s else AGAIN_S
        self._failed_s, self._given, self.details = now_s, given, details
        self._title.setText(f"{name}: not shown.")
        self._why.setText(f"{why}. Tried again with what comes next; everything else goes on.")
        self.setAccessibleDescription(self.sentence)
        self._fit()
        self.show()
        self.raise_()

    def due(self, given: object) -> bool:
        """Whether there is something else to show, and the pause is over."""
        return given != self._given and time.monotonic() - self._failed_s >= self._pause_s

    def _fit(self) -> None:
        view = self.parentWidget()
        assert view is not None
        flat = view.height() < _FLAT_PX
        self._layout.setDirection(QBoxLayout.Direction.LeftToRight if flat else QBoxLayout.Direction.TopToBottom)
        self._why.setHidden(flat)
        self.setGeometry(view.rect())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Resize:
            self._fit()
        return False
