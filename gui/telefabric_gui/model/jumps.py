"""Jumps of the cursor whose row only the store knows: an episode, a step of one, a frame, a global step, a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, Signal

from telefabric.feed import Answer, Counts, RowOf, RowsAt, StepKey, StepsOf
from telefabric_gui.model.asking import ANY_ID, Asker, Asking
from telefabric_gui.model.cursor import Cursor, Mode
from telefabric_schemas import Frame, Step, event_of

_LINE_MAX = 32
"""A key that is held repeats that often in a second."""


class Jumps(QObject):
    """A jump to a place takes the place of the one before; moves by frames or episodes go one after the other.

    Whatever else moves a paused cursor, or lets it follow, ends them. When nothing is there, the cursor stays.
    GUI thread.
    """

    failed = Signal(str)
    """Why the cursor stays: a sentence."""

    def __init__(self, feed: Asker | None, cursor: Cursor, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._cursor = cursor
        self._asking = Asking(feed, self)
        self._line: list[Callable[[], None]] = []
        """Moves that wait for the one that is under way."""
        self._goes = False
        cursor.moved.connect(self._on_moved)
        cursor.mode_changed.connect(self._on_mode)

    def close(self) -> None:
        self._asking.close()

    def to_value(self, by: str, value: int, env_index: int | None = None) -> None:
        """To the first row at or behind a ``seq``, ``global_step``, ``time_ns`` or ``episode``."""
        self._begin()
        self._row_of("step", by, value, self._go, f"No {by.replace('_', ' ')} {value} is stored.", env_index)

    def to_step(self, env_index: int, episode_index: int, step_index: int) -> None:
        """To a step by its place."""
        self._begin()
        self._to_step(env_index, episode_index, step_index)

    def by_episodes(self, number: int) -> None:
        """Move by `number` episodes of the environment at the cursor, to a first step; below 0 goes back."""
        self._move(lambda: self._by_episodes(number))

    def by_frames(self, ahead: bool) -> None:
        """To the next stored frame, or the one before."""
        self._move(lambda: self._by_frames(ahead))

    # -- inside --------------------------------------------------------------------------------------------------

    def _to_step(self, env_index: int, episode_index: int, step_index: int) -> None:
        subject = self._cursor.subject
        if subject is None:
            return
        key = StepKey(step_index - 1, ANY_ID)
        question = StepsOf(
            subject.run_id, subject.agent_id, env_index, episode_index, key, 1, subject.stream_id, voided=True
        )
        nothing = f"Step {step_index} of episode {episode_index} is not stored."
        self._ask(question, lambda rows: self._row_of("step", "seq", rows[0].seq, self._go, nothing), nothing)

    def _by_episodes(self, number: int) -> None:
        ahead = number > 0

        def go(step: Step, row: int) -> None:
            back = number if ahead or step.step_index == 0 else number + 1
            said = "There is no later episode." if ahead else "There is no earlier episode."
            if step.episode_index + back < 0:
                self._fail(said)
            else:
                self._row_of("step", "episode", step.episode_index + back, self._go, said, step.env_index)

        self._here(go)

    def _by_frames(self, ahead: bool) -> None:
        said = f"There is no {'later' if ahead else 'earlier'} frame in the store."
        on = 1 if ahead else -1

        def look(here: Step, n: int) -> None:
            """Go to frame `n`, unless it is that of the step at the cursor, or there is none."""
            if n < 0:
                self._fail(said)
            else:
                self._ask(RowsAt(*self._of("frame"), n, 1), lambda rows: take(here, n, rows), said)

        def take(here: Step, n: int, rows: list[Any]) -> None:
            frame = event_of(rows[0].event)
            if isinstance(frame, Frame):
                place = frame.env_index, frame.episode_index, frame.step_index
                if place == (here.env_index, here.episode_index, here.step_index):
                    look(here, n + on)
                else:
                    self._to_step(*place)

        def go(here: Step, seq: int) -> None:
            """The frames of later steps come after the step's own seq, at most one of its own among them."""
            self._row_of("frame", "seq", seq, lambda n: look(here, n if ahead else n - 1), "" if not ahead else said)

        self._here(go)

    def _begin(self) -> None:
        """Forget the jump before, and the moves in line."""
        self._asking.forget()
        self._line.clear()

    def _on_moved(self) -> None:
        if self._cursor.mode is Mode.PAUSED and not self._goes:
            self._begin()

    def _on_mode(self) -> None:
        if self._cursor.mode is Mode.FOLLOW:
            self._begin()

    def _move(self, by: Callable[[], None]) -> None:
        """Now, or behind the move that is under way."""
        if not self._asking.waits:
            self._line.clear()
            by()
        elif len(self._line) < _LINE_MAX:
            self._line.append(by)

    def _fail(self, sentence: str) -> None:
        self._line.clear()
        self.failed.emit(sentence)

    def _of(self, kind: str) -> tuple[bytes, str, str]:
        subject = self._cursor.subject
        assert subject is not None
        return subject.stream_id, kind, subject.agent_id

    def _go(self, row: int) -> None:
        self._goes = True
        self._cursor.go_to(row)
        self._goes = False
        if self._line:
            self._line.pop(0)()

    def _here(self, then: Any) -> None:
        """The step at the cursor, and its seq."""
        if self._cursor.subject is None or self._cursor.row is None:
            return

        def take(rows: list[Any]) -> None:
            step = event_of(rows[0].event)
            if isinstance(step, Step):
                then(step, rows[0].seq)

        self._ask(RowsAt(*self._of("step"), self._cursor.row, 1), take, "This step is not stored yet.")

    def _row_of(self, kind: str, by: str, value: int, then: Any, nothing: str, env: int | None = None) -> None:
        """`then` is given the number of the row; without a sentence for nothing, that behind the last one."""

        def take(answer: Answer) -> None:
            if answer.page is None:
                self._fail(answer.problem)
            elif answer.page.rows:
                then(answer.page.rows[0].n)
            elif nothing:
                self._fail(nothing)
            else:
                self._asking.ask(Counts(self._cursor.subject.run_id), take_counts, urgent=True)  # type: ignore[union-attr]

        def take_counts(answer: Answer) -> None:
            stream_id, _, agent_id = self._of(kind)
            rows = answer.page.rows if answer.page is not None else []
            then(
                next(
                    (one.n for one in rows if (one.stream_id, one.kind, one.agent_id) == (stream_id, kind, agent_id)), 0
                )
            )

        self._asking.ask(RowOf(*self._of(kind), by, value, env), take, urgent=True)

    def _ask(self, question: Any, then: Any, nothing: str) -> None:
        def take(answer: Answer) -> None:
            if answer.page is None:
                self._fail(answer.problem)
            elif not answer.page.rows:
                self._fail(nothing)
            else:
                then(answer.page.rows)

        self._asking.ask(question, take, urgent=True)
