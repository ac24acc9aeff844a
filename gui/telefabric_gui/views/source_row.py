"""One source in the sheet for connecting: its name, its state, and, when it failed, why and what helps."""

from __future__ import annotations

from typing import NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QLineEdit, QSizePolicy

from telefabric_gui.views.painting import Dot
from telefabric_gui.views.styled import Panel, button, column, label, laid_out, restyle, row

HEAD_PX = 54
_NAME_PX, _ROLE_PX = 228, 136
_UNDER_WORD_PX = 22
"""The dot's width and the space behind it."""


class Source(NamedTuple):
    """What a row is about, but for its state."""

    title: str
    under: str
    role: str
    can_forget: bool = True


class State(NamedTuple):
    """What is known of a source. `problem` opens the lower part of its row."""

    tone: str
    word: str
    under: str = ""
    problem: str = ""
    command: str = ""
    action: str = "Connect"
    why_not: str = ""
    """Why the action is not to be had."""


class SourceRow(Panel):
    """Emits the action that its button says, or that it is to be forgotten."""

    acted = Signal(str)
    forgotten = Signal()

    def __init__(self, source: Source) -> None:
        super().__init__("source")
        self.source = source
        self.state = State("faint", "")
        self._dot, self._word, self._under = Dot(), _cut(label()), _cut(label(role="caption"))
        self.button = button("", lambda: self.acted.emit(self.state.action), "button")
        under = row((self._under, 1), margins=(_UNDER_WORD_PX, 0, 0, 0))
        lines = (
            (_NAME_PX, _cut(label(source.title, "title")), _cut(label(source.under, "caption"))),
            (_ROLE_PX, _cut(label(source.role, "caption")), label("", "caption")),
            (0, row(self._dot, (self._word, 1), spacing=8), under),
        )
        columns = [laid_out(column(1, first, second, 1, spacing=4)) for _, first, second in lines]
        for (width, _, _), made in zip(lines[:2], columns, strict=False):
            made.setFixedWidth(width)
        head = laid_out(row(*columns[:2], (columns[2], 1), self.button, margins=(16, 0, 12, 0), spacing=12))
        head.setFixedHeight(HEAD_PX)
        self._build_more()
        self.setLayout(column(head, self.more))

    def _build_more(self) -> None:
        self._title, self._why = label(role="title"), label(role="dim")
        self._command = QLineEdit(readOnly=True)
        self._command.setObjectName("command")
        self._command.setProperty("role", "figures")
        self._command.setAccessibleName("Command to type")
        self._copy = button("Copy", lambda: QGuiApplication.clipboard().setText(self._command.text()))
        self.forget = button("Forget", self._on_forget, tip="Remove it from this list")
        for text in (self._title, self._why):
            text.setWordWrap(True)
        rule = Panel("rule")
        rule.setFixedHeight(1)
        sign = column(label("\u25b2", "error"), 1)
        under = row((self._command, 1), self._copy, self.forget, spacing=6)
        texts = column(self._title, self._why, under, spacing=6)
        self.more = laid_out(column(rule, row(sign, (texts, 1), spacing=10), margins=(16, 0, 12, 12), spacing=12))
        self.more.hide()

    def show_state(self, state: State) -> None:
        if state == self.state:
            return
        self.state = state
        self._dot.show_state(state.tone, state.word)
        self._word.setText(state.word)
        restyle(self._word, "role", "dim" if state.tone == "faint" else state.tone)
        self._under.setText(state.under)
        for text in (self._word, self._under):
            text.setToolTip(text.text())
        self.button.setText(state.action)
        self.button.setEnabled(not state.why_not)
        self.button.setToolTip(state.why_not)
        what, _, remedy = state.problem.partition(": ")
        self._title.setText(f"{capital(what)}.")
        self._why.setText(f"{capital(remedy)}.")
        self._command.setText(state.command)
        self._command.setToolTip(state.command)
        self._command.setCursorPosition(0)
        for widget in (self._command, self._copy):
            widget.setVisible(bool(state.command))
        self.forget.setVisible(self.source.can_forget)
        self.more.setVisible(bool(state.problem))
        self.setAccessibleName(f"{self.source.title}: {state.word}. {state.problem}")

    def _on_forget(self) -> None:
        """At the second click: a key that is gone takes another ticket."""
        if self.forget.text() == "Forget":
            self.forget.setText("Forget for good")
        else:
            self.forgotten.emit()


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cut(text: QLabel) -> QLabel:
    """A text that is cut where it has no room."""
    text.setToolTip(text.text())
    text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    return text
