"""The centre of the window while there is nothing to show: the situation, and the next command to type."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLineEdit

from telefabric.feed import Connection, LinkState
from telefabric.settings import STORE_FILE_NAME
from telefabric_gui import theme
from telefabric_gui.views.styled import Panel, button, column, label, laid_out, row

_WIDTH_PX = 700


class Situation(NamedTuple):
    """A heading, a sentence, and a command when one helps."""

    title: str
    sentence: str
    command: str = ""


def situation(connection: Connection, runs: int, waiting_for: str | None) -> Situation:
    """Why there is nothing to show."""
    link, address = connection.link, connection.address
    if link is LinkState.CONNECTING:
        return Situation("Connecting", f"To {address} …" if address else "…")
    if link is LinkState.REFUSED:
        return Situation("Refused", connection.sentence or f"{address} refuses this client.")
    if link is LinkState.UNREACHABLE:
        if "://" in address:
            sentence, _, command = connection.sentence.partition(" Start one with: ")  # in a field of its own
            return Situation("Not reachable", sentence, command)
        return Situation("No store to read", connection.sentence, _demo(address))
    if waiting_for is not None:
        return Situation("Waiting for the first step", f"{waiting_for} has begun, and has emitted no step yet.")
    if runs:
        return Situation("Choose a run", "Click one in the list, or move there with the arrow keys and press Enter.")
    if link is LinkState.FILE:
        told = "This store is empty. Fill it with a small run that really learns:"
        return Situation("No run yet", told, _demo(address))
    command = f"TELEFABRIC_CONNECT={shlex.quote(address)} python -m telefabric_workers.demo.frozenlake"
    return Situation("No run yet", "The broker runs, and no worker has connected yet. Start one:", command)


def _demo(file: str) -> str:
    """Fills the store file, if it has the name that a store gives to its file."""
    path = Path(file)
    return f"telefabric demo --data {shlex.quote(str(path.parent))}" if path.name == STORE_FILE_NAME else ""


class EmptyView(Panel):
    """Shows a situation; its command is copied with a click."""

    connect_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("empty")
        self._shown: Situation | None = None
        self._title = label(role="large")
        self._sentence = label(role="dim")
        self._sentence.setWordWrap(True)
        self._command = QLineEdit(readOnly=True)
        self._command.setAccessibleName("Command to type")
        self._copy = button("Copy", lambda: QGuiApplication.clipboard().setText(self._command.text()), "button")
        tip = "A saved connection, a ticket, a file (C)"
        connect = button("Connect to another…", self.connect_wanted, "button", tip)
        under = row(self._copy, connect, 1, spacing=8)  # not beside it: the command has all of the width
        texts = laid_out(column(self._title, self._sentence, self._command, under, spacing=12))
        texts.setMaximumWidth(_WIDTH_PX)
        middle = row(1, (texts, 100), 1, margins=(16, 0, 16, 0), spacing=6)
        self.setLayout(column(2, middle, 3, margins=(9, 9, 9, 9), spacing=6))

    def show_situation(self, now: Situation) -> None:
        if now == self._shown:
            return
        self._shown = now
        self._title.setText(now.title)
        self._sentence.setText(now.sentence)
        self._command.setFont(theme.figure_font())
        self._command.setText(now.command)
        self._command.setToolTip(now.command)
        self._command.setCursorPosition(0)
        for widget in (self._command, self._copy):
            widget.setVisible(bool(now.command))
