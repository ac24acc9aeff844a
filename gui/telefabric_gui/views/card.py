"""The frame around each part of a page, and the strip with a warning above them."""

from __future__ import annotations

from PySide6.QtWidgets import QSizePolicy, QWidget

from telefabric_gui.views.styled import Panel, column, label, row


class Card(Panel):
    """`caption` may be set each tick; it is cut rather than moving anything. `corner` takes widgets on the right."""

    def __init__(self, title: str, body: QWidget) -> None:
        super().__init__("card")
        self.caption = label(role="caption")
        self.caption.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.badges = row(spacing=6)
        self.corner = row(spacing=6)
        self.title = label(title, "title")
        header = row(self.title, self.badges, (self.caption, 1), self.corner, margins=(12, 10, 12, 4), spacing=10)
        self.setLayout(column(header, (body, 1), margins=(1, 1, 1, 8)))


class Banner(Panel):
    """Hidden while there is nothing to say."""

    def __init__(self) -> None:
        super().__init__("banner")
        self._text = label()
        self._text.setWordWrap(True)
        self.setLayout(row(self._text, margins=(16, 7, 16, 7)))
        self.hide()

    def say(self, sentence: str) -> None:
        if sentence != self._text.text():
            self._text.setText(sentence)
        self.setVisible(bool(sentence))
