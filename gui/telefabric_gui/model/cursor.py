"""The one cursor of a page: its views show it and move it, and none knows another."""

from __future__ import annotations

import time
from collections.abc import Callable

from PySide6.QtCore import QObject, QTimer, Signal

from telefabric_gui.model.cursor_rules import SPEEDS, CursorRules, Mode, Subject
from telefabric_gui.model.pace import UNKNOWN

__all__ = ["SPEEDS", "Cursor", "Mode", "Subject"]

REPLAY_MS = 33
"""Between two moves of replay: no display shows more."""


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
        self.pace = UNKNOWN
        self._rules = CursorRules()
        self._timer = QTimer(self, interval=REPLAY_MS)
        self._timer.timeout.connect(self._run)
        self._ran_s = self._left_s = 0.0

    @property
    def row(self) -> int | None:
        return self._rules.row

    @property
    def total(self) -> int:
        return self._rules.total

    @property
    def new(self) -> int:
        """Rows that came since the position left the newest one."""
        return self._rules.new

    @property
    def left_for_s(self) -> float:
        """Seconds since the position left the newest row."""
        return time.monotonic() - self._left_s if self.mode is not Mode.FOLLOW else 0.0

    @property
    def live(self) -> bool:
        """More rows are expected."""
        return self._rules.live

    @property
    def held(self) -> bool:
        """Paused where it followed, and not moved since."""
        return self._rules.held

    @property
    def mode(self) -> Mode:
        return self._rules.mode

    @property
    def speed(self) -> float:
        return self._rules.speed

    @property
    def rows_per_s(self) -> float:
        """Of replay at its speed."""
        return self.pace.rows_per_s * self.speed

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

    def grow(self, total: int, *, live: bool) -> None:
        """This is how many rows are known now; of a live run, more are expected."""
        self._rules.live = live
        if total > self.total:
            self._change(lambda rules: rules.grow(total))

    def follow(self) -> None:
        self._change(CursorRules.follow)

    def pause(self) -> None:
        self._change(CursorRules.pause)

    def replay(self) -> None:
        """Run on from the position."""
        self._change(CursorRules.replay)

    def set_speed(self, speed: float) -> None:
        """Of replay, now or when it begins."""
        self._rules.speed = speed
        self.mode_changed.emit()

    def toggle(self) -> None:
        """Pause what runs, or let it run on."""
        self._change(CursorRules.toggle)

    def go_to(self, row: int) -> None:
        self._change(lambda rules: rules.go_to(row))

    def renumber(self, row: int) -> None:
        """The row at the position has another number by now."""
        self._change(lambda rules: rules.renumber(row))

    def step(self, rows: int) -> None:
        """Move by rows, and stay there."""
        if self.row is not None:
            at = self.row + rows
            self.pause()
            self.go_to(at)

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
        rows = (now_s - self._ran_s) * self.rows_per_s
        self._ran_s = now_s
        self._change(lambda rules: rules.advance(rows))

    def _change(self, by: Callable[[CursorRules], object]) -> None:
        """Let the rules decide, and emit what became different."""
        rules = self._rules
        row, mode, sight = rules.row, rules.mode, rules.sight
        by(rules)
        if (rules.mode is Mode.REPLAY) != self._timer.isActive():
            self._ran_s = time.monotonic()
            self._timer.start() if rules.mode is Mode.REPLAY else self._timer.stop()
        if rules.mode is not mode:
            self._left_s = time.monotonic() if mode is Mode.FOLLOW else self._left_s
            self.mode_changed.emit()
        if rules.sight != sight:
            self.sight_changed.emit()
        if rules.row != row:
            self.moved.emit()
