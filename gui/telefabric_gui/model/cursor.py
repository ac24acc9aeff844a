"""The one cursor of a page: its views show it and move it, and none knows another."""

from __future__ import annotations

import time

from PySide6.QtCore import QObject, QTimer, Signal

from telefabric_gui.model.cursor_rules import SPEEDS, CursorRules, Mode, Subject

__all__ = ["SPEEDS", "Cursor", "Mode", "Subject"]

REPLAY_MS = 33
"""Between two moves of replay: no display shows more."""
ROWS_PER_S = 50.0
"""Replay at normal speed unless the run's environment says how many frames a second it has."""


class Cursor(QObject):
    """Position, mode, range in sight and selection. `CursorRules` has the rules and the units. GUI thread."""

    subject_changed = Signal()
    moved = Signal()
    """The position, or what is known of it: views look at `row` again."""
    mode_changed = Signal()
    sight_changed = Signal()
    selection_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.subject: Subject | None = None
        self.rows_per_s = ROWS_PER_S
        """Of replay at normal speed."""
        self._rules = CursorRules()
        self._timer = QTimer(self, interval=REPLAY_MS)
        self._timer.timeout.connect(self._run)
        self._ran_s = 0.0

    @property
    def row(self) -> int | None:
        return self._rules.row

    @property
    def total(self) -> int:
        return self._rules.total

    @property
    def mode(self) -> Mode:
        return self._rules.mode

    @property
    def speed(self) -> float:
        return self._rules.speed

    @property
    def looping(self) -> bool:
        return self._rules.looping

    @property
    def selection(self) -> tuple[int, int] | None:
        return self._rules.selection

    @property
    def sight(self) -> tuple[float, float]:
        return self._rules.sight

    @property
    def sees_all(self) -> bool:
        """The range in sight is the whole run, and grows with it."""
        return self._rules.sees_all

    def show(self, subject: Subject) -> None:
        """Look at another subject, from its newest row on."""
        if subject == self.subject:
            return
        self.subject = subject
        self._rules = CursorRules()
        self._timer.stop()
        for signal in (self.subject_changed, self.mode_changed, self.selection_changed, self.sight_changed, self.moved):
            signal.emit()

    def grow(self, total: int) -> None:
        """So many rows are known now."""
        if total > self.total:
            self._change(lambda rules: rules.grow(total))
            self.sight_changed.emit()

    def follow(self) -> None:
        self._change(CursorRules.follow)

    def pause(self) -> None:
        self._change(CursorRules.pause)

    def replay(self, speed: float | None = None) -> None:
        """Run on from the position; at another speed if one is given."""
        self._change(lambda rules: rules.replay(speed))

    def toggle(self) -> None:
        """Pause what follows or replays; replay what is paused."""
        self.replay() if self.mode is Mode.PAUSED else self.pause()

    def go_to(self, row: int) -> None:
        self._change(lambda rules: rules.go_to(row))

    def step(self, rows: int) -> None:
        """Move by rows, and stay there."""
        if self.row is not None:
            at = self.row + rows
            self._change(lambda rules: (rules.pause(), rules.go_to(at)))

    def select(self, first: int, last: int) -> None:
        self._change(lambda rules: rules.select(first, last))
        self.selection_changed.emit()

    def select_nothing(self) -> None:
        self._change(CursorRules.select_nothing)
        self.selection_changed.emit()

    def loop(self, looping: bool) -> None:
        """Replay the selection again and again; all of the run when nothing is selected."""
        self._rules.looping = looping
        self.selection_changed.emit()

    def see(self, first: float, last: float) -> None:
        self._change(lambda rules: rules.see(first, last))

    def see_all(self) -> None:
        self._change(CursorRules.see_all)

    def zoom(self, factor: float, at: float) -> None:
        """Multiply the span in sight, with the row `at` where it is."""
        self._change(lambda rules: rules.zoom(factor, at))

    def _run(self) -> None:
        now_s = time.monotonic()
        rows = (now_s - self._ran_s) * self.rows_per_s * self.speed
        self._ran_s = now_s
        self._change(lambda rules: rules.advance(rows))

    def _change(self, by: object) -> None:
        """Let the rules decide, and say what became different."""
        rules = self._rules
        before = rules.row, rules.mode, rules.speed, rules.sight
        by(rules)  # type: ignore[operator]
        row, mode, speed, sight = rules.row, rules.mode, rules.speed, rules.sight
        if (mode is Mode.REPLAY) != self._timer.isActive():
            self._ran_s = time.monotonic()
            self._timer.start() if mode is Mode.REPLAY else self._timer.stop()
        if (mode, speed) != before[1:3]:
            self.mode_changed.emit()
        if sight != before[3]:
            self.sight_changed.emit()
        if row != before[0]:
            self.moved.emit()
