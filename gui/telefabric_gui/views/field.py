"""Fields that one leaves with Esc, for which the window has another use."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent
from PySide6.QtWidgets import QApplication, QLineEdit

NAME_CHARACTERS_MAX = 120
_NAME_PX = 240


class Field(QLineEdit):
    left = Signal()
    """With Esc."""

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape:
            event.accept()
            if event.type() == QEvent.Type.KeyPress:
                self.left.emit()
            return True
        return super().event(event)


class NameField(Field):
    """Hidden until a name is asked for. Enter gives it, an empty one too; Esc, or a click elsewhere, gives none."""

    def __init__(self) -> None:
        super().__init__(placeholderText="name, or none: Enter keeps it", maxLength=NAME_CHARACTERS_MAX)
        self.setObjectName("name_field")
        self.setAccessibleName("Name of the bookmark")
        self.setFixedWidth(_NAME_PX)
        self._named: Callable[[str], object] | None = None
        self._back = QApplication.focusWidget()
        self.returnPressed.connect(lambda: self._end(self._named))
        self.left.connect(lambda: self._end(None))
        self.hide()

    def ask(self, text: str, named: Callable[[str], object]) -> None:
        """`named` takes what is typed."""
        self._named, self._back = named, QApplication.focusWidget()
        self.setText(text)
        self.selectAll()
        self.show()
        self.setFocus()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        if event.reason() not in (Qt.FocusReason.PopupFocusReason, Qt.FocusReason.ActiveWindowFocusReason):
            self.hide()

    def _end(self, named: Callable[[str], object] | None) -> None:
        if self._back is not None:
            self._back.setFocus()
        self.hide()
        if named is not None:
            named(self.text().strip())
