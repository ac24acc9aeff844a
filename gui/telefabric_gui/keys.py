"""The keys of the window, and the table that says what each does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QMessageBox, QWidget

_MEANINGS = (
    ("F, End", "follow: show the newest events"),
    ("P", "pause: stay at the step that is shown"),
    ("Space", "pause, and go on: replay, or follow again where it was paused"),
    ("1 to 6", "replay at 0.1, 0.5, 1, 2, 5, 10 times"),
    ("Left, Right", "a step back or on; with Shift an episode"),
    (", .", "the stored frame before or behind"),
    ("Home", "the first step"),
    ("L", "replay the selection again and again"),
    ("B", "bookmark this step in the store, under a name if you type one; or remove its bookmark"),
    ("Esc", "unselect what is selected, then follow"),
    ("H", "hide or show the probabilities over the picture"),
    ("[  ]", "hide or show the left and the right side"),
    ("/, Ctrl+F", "filter runs"),
    ("Ctrl+H", "all runs as a table: search, sort, compare"),
    ("Ctrl+G", "go to a step or an episode, or search for steps"),
    ("Ctrl+click", "on a run: draw it in the charts, too"),
    ("Ctrl+Tab", "next tab"),
    ("Ctrl+W", "close the further replay in front, or else the run"),
    ("C", "connect to another broker, or open a file"),
    ("T", "dark or light"),
    ("Ctrl+Q", "quit"),
)


def bind(acts: Iterable[tuple[Any, Callable[[], object]]], of: QWidget) -> None:
    """Have each key do its act while `of` or a part of it has the keyboard, and is enabled."""
    for key, act in acts:
        QShortcut(QKeySequence(key), of, activated=act)  # type: ignore[call-overload]


def show_meanings(over: QWidget) -> None:
    rows = "".join(f"<tr><td><b>{key}</b>&nbsp;&nbsp;</td><td>{what}</td></tr>" for key, what in _MEANINGS)
    box = QMessageBox(QMessageBox.Icon.NoIcon, "Keys", f"<table cellpadding=3>{rows}</table>", parent=over)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.open()
