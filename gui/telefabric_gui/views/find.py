"""Finding rows: the line above the steps for a place or for conditions, and the orders of the episodes."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QSizePolicy

from telefabric.feed import Condition, RowOf
from telefabric_gui.formatting import count, millions, plural
from telefabric_gui.item_models.events import EpisodeTable, StepTable
from telefabric_gui.item_models.table import Column, EventTable
from telefabric_gui.model.ordered import Ordered
from telefabric_gui.model.search import OF_STEPS, Goal, Search, Words, asked_for
from telefabric_gui.rows import EVENT
from telefabric_gui.views.field import Field
from telefabric_gui.views.styled import Panel, button, column, label, laid_out, row
from telefabric_gui.views.tables import TableView


class FindLine(Panel):
    """Hidden until it is asked for. Enter goes to a place or searches; Esc closes it and shows all rows again."""

    goal = Signal(object)
    """A `Goal`."""
    conditions = Signal(object)
    """Of the rows that are to be shown; None for all."""
    stop_wanted = Signal()

    def __init__(self, words: Words) -> None:
        super().__init__("find")
        self._words = words
        self.field = Field(placeholderText=words.brief, clearButtonEnabled=True)
        self.field.setToolTip(words.examples)
        self.field.setAccessibleName(f"Go to a place, or search for rows: {words.examples}")
        self.field.returnPressed.connect(self._on_enter)
        self.field.textChanged.connect(lambda text: self.conditions.emit(None) if not text else None)
        self._said = label(role="caption")
        self._said.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._stop = button("stop", self.stop_wanted, "link", "Search no further")
        self._all = button("show all", self.close_line, "link", "Show all rows again (Esc)")
        self._under = laid_out(row((self._said, 1), self._stop, self._all, spacing=8))
        self.setLayout(column(self.field, self._under, margins=(12, 4, 12, 6), spacing=4))
        self.field.left.connect(self.close_line)
        self.say("")
        self.hide()

    def open_line(self) -> None:
        self.show()
        self.field.setFocus()
        self.field.selectAll()

    def close_line(self) -> None:
        self.field.clear()
        self.conditions.emit(None)
        self.say("")
        self.hide()

    def say(self, sentence: str) -> None:
        self._said.setText(sentence)
        self._said.setToolTip(sentence)
        self._under.setVisible(bool(sentence))
        self._stop.hide()

    def show_search(self, search: Search, rows: int) -> None:
        """How far it is, and how many rows it has found."""
        done = not search.searching and not search.stopped
        searched = "all" if done else millions(search.searched, rows)
        self.say(search.problem or f"searched {searched} · {count(len(search))} found")
        self._stop.setVisible(search.searching)

    def _on_enter(self) -> None:
        asked = asked_for(self.field.text(), self._words) if self.field.text().strip() else None
        if isinstance(asked, str):
            self.say(asked)
        elif isinstance(asked, Goal):
            self.goal.emit(asked)
        else:
            self.conditions.emit(asked)


class Finder(QObject):
    """Shows the rows that fit conditions, as far as they are stored."""

    begins = Signal()
    """The table is to show what is found, and nothing else."""

    def __init__(self, table: EventTable, view: TableView, words: Words) -> None:
        super().__init__(view)
        self.line = FindLine(words)
        self._table = table
        self.search: Search | None = None
        self.line.conditions.connect(self._on_conditions)
        self.line.stop_wanted.connect(self._on_stop)

    def show_all(self) -> None:
        """No conditions any more."""
        if self.search is not None:
            self._table.show(None)
            self.search.close()
            self.search = None

    def _on_conditions(self, conditions: list[Condition] | None) -> None:
        self.show_all()
        if conditions and self._table.pages.can_ask:
            self.begins.emit()
            self.search = Search(self._table.pages, conditions)
            self.search.changed.connect(self._on_search)
            self._table.show(self.search)
            self._on_search()

    def _on_search(self) -> None:
        if self.search is not None:
            self.line.show_search(self.search, self._table.pages.stored or 0)

    def _on_stop(self) -> None:
        if self.search is not None:
            self.search.stop()
            self._on_search()


class StepFinder(Finder):
    """Finds places, too."""

    row_wanted = Signal(int)
    """The cursor is to go there."""

    def __init__(self, table: StepTable, view: TableView) -> None:
        super().__init__(table, view, OF_STEPS)
        self.line.goal.connect(self.go_to)

    def show_columns(self, columns: Sequence[Column]) -> None:
        """Show these, and fetch the metrics among them with each page."""
        sources = [column.source.partition("/") for column in columns]
        self._table.pages.series_wanted = tuple(name for kind, _, name in sources if kind == "metric")
        self._table.choose_columns(columns)

    def go_to(self, goal: Goal, env: int | None = None) -> None:
        """Show the first row at or behind a place."""
        if goal.by == "row":
            self._show(max(goal.value, 1) - 1)
            return
        live = self._live_row(goal, env)
        stream, kind, agent = self._table.pages.of[1:]
        question = RowOf(stream, kind, agent, goal.by, goal.value, env)
        asked = self._table.pages.ask(
            question,
            lambda answer: self._show(answer.rows[0].n if answer.rows else live),
            urgent=True,
            failed=self.line.say,
        )
        if asked is None:
            self._show(live)

    def _live_row(self, goal: Goal, env: int | None) -> int | None:
        """A row of the tail that is not stored, for a place behind the store."""
        column = {"global_step": "global_step", "episode": "episode", "seq": "seq"}[goal.by]
        records = self._table.rows.records
        fits = (records[column] >= goal.value) & (records["mark"] == EVENT) & ~records["reset"]
        if env is not None:
            fits &= records["env"] == env
        if not fits.any():
            return None
        seq = int(records["seq"][fits.argmax()])
        return self._table.pages.row_of_seq(seq)

    def _show(self, row: int | None) -> None:
        if row is None or row >= self._table.pages.rows:
            self.line.say(f"There is none: this run has {plural(self._table.pages.rows, 'step')}.")
            return
        self.line.say("")
        self.show_all()
        self.row_wanted.emit(row)


class EpisodeOrder(QObject):
    """A click on a column's head sorts by it, greatest first; the second turns the order, the third ends it."""

    def __init__(self, table: EpisodeTable, view: TableView) -> None:
        super().__init__(view)
        self._table, self._view = table, view
        self._order: Ordered | None = None
        view.order_wanted.connect(self._on_wanted)

    def show_all(self) -> None:
        """The order of time again."""
        if self._order is not None:
            self._table.show(None)
            self._order.close()
            self._order = None
            self._view.forget_place()

    def _on_wanted(self, by: str) -> None:
        before = self._order
        turned = before is not None and before.by == by
        if not self._table.pages.can_ask or (turned and before is not None and not before.descending):
            self.show_all()
            return
        self._order = Ordered(self._table.pages, by, descending=not turned)
        self._view.forget_place()
        self._table.show(self._order, (by, not turned))
        if before is not None:
            before.close()
