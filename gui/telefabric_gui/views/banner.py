"""A strip with a warning, above what it is about."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QHBoxLayout, QWidget

from telefabric_gui.views.card import label


class Banner(QFrame):
    """Hidden while there is nothing to say."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("banner")
        self._text = label()
        self._text.setWordWrap(True)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(16, 7, 16, 7)
        layout.addWidget(self._text)
        self.hide()

    def say(self, sentence: str) -> None:
        if sentence != self._text.text():
            self._text.setText(sentence)
        self.setVisible(bool(sentence))
