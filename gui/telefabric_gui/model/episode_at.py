"""The row of the episode that the cursor is in."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from telefabric.feed import Answer, RowOf, RowsAt
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.model.pages import Pages
from telefabric_gui.rows import EVENT
from telefabric_schemas import Episode, event_of


class EpisodeAt(QObject):
    """`look` for an episode among the rows in memory, else in the store; the last one counts. GUI thread."""

    found = Signal(int)
    """The row of the episode. Nothing comes of one that has not ended, or whose end was never recorded."""

    def __init__(self, feed: Asker | None, rows: Pages, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._asking = Asking(feed, self)
        self._rows, self._of = rows, rows.of[1:]
        self._wanted: tuple[int, int] | None = None

    def look(self, env: int, episode: int) -> None:
        if self._wanted == (env, episode):
            return
        self.forget()
        self._wanted = env, episode
        records = self._rows.tail.records
        here = records[(records["mark"] == EVENT) & (records["env"] == env) & (records["episode"] == episode)]
        row = self._rows.row_of_seq(int(here["seq"][-1])) if len(here) else None
        if row is not None:
            self.found.emit(row)
        else:
            question = RowOf(*self._of, "episode", episode, env)
            self._asking.ask(question, self._take, urgent=True)

    def forget(self) -> None:
        """Look for no episode any more."""
        self._asking.forget()
        self._wanted = None

    def close(self) -> None:
        self._asking.close()

    def _take(self, answer: Answer) -> None:
        """The first episode at or behind the wanted one: it may be a later one."""
        if answer.page is None:
            self._wanted = None  # it is asked again with the next step
        elif answer.page.rows:
            row = answer.page.rows[0].n
            self._asking.ask(RowsAt(*self._of, row, 1), lambda found: self._check(row, found), urgent=True)

    def _check(self, row: int, answer: Answer) -> None:
        event = event_of(answer.page.rows[0].event) if answer.page is not None and answer.page.rows else None
        if isinstance(event, Episode) and (event.env_index, event.episode_index) == self._wanted:
            self.found.emit(row)
