"""The frame around each part of a page: title, badges, a caption, and its body."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget


def label(text: str = "", role: str = "", badge: str = "") -> QLabel:
    """A text in one of the style sheet's roles or badges."""
    made = QLabel(text)
    made.setTextFormat(Qt.TextFormat.PlainText)
    if role:
        made.setProperty("role", role)
    if badge:
        made.setProperty("badge", badge)
    return made


def restyle(widget: QWidget, name: str, value: str) -> None:
    """Change a property that the style sheet looks at."""
    if widget.property(name) != value:
        widget.setProperty(name, value)
        widget.style().unpolish(widget)
        widget.style().polish(widget)


class Card(QFrame):
    """`caption` may be set each tick; it is cut rather than moving anything. `corner` takes widgets on the right."""

    def __init__(self, title: str, body: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.caption = label(role="caption")
        self.caption.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.badges = QHBoxLayout()
        self.corner = QHBoxLayout()
        for row in (self.badges, self.corner):
            row.setSpacing(6)
        header = QHBoxLayout()
        header.setContentsMargins(12, 10, 12, 4)
        header.setSpacing(10)
        self.title = label(title, "title")
        header.addWidget(self.title)
        header.addLayout(self.badges)
        header.addWidget(self.caption, 1)
        header.addLayout(self.corner)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(1, 1, 1, 8)
        layout.setSpacing(0)
        layout.addLayout(header)
        layout.addWidget(body, 1)
