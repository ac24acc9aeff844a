"""The cards of the two tables of a page: its steps and its episodes, each with the line that finds rows in it."""

from __future__ import annotations

from PySide6.QtCore import Signal

from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.formatting import count, plural
from telefabric_gui.item_models.events import EpisodeTable, StepTable
from telefabric_gui.model.asking import Asker
from telefabric_gui.model.cursor import Cursor, Mode
from telefabric_gui.model.pages import Of, Pages
from telefabric_gui.model.rows_of_env import RowsOfEnv
from telefabric_gui.model.search import OF_EPISODES
from telefabric_gui.views.columns import columns_named, names_of, offer_columns
from telefabric_gui.views.find import EpisodeOrder, Finder, StepFinder
from telefabric_gui.views.styled import Card, button, column, laid_out, say_fitting
from telefabric_gui.views.tables import TableView


class StepsCard(Card):
    """The steps of a stream."""

    newest_wanted = Signal()
    columns_chosen = Signal(list)
    """Names of the columns that the user wants."""

    def __init__(self, stream: AgentStream, feed: Asker) -> None:
        run_id, agent_id = stream.key
        self.rows = Pages(stream.steps, Of(run_id, stream.stream_id, "step", agent_id), feed, voided=stream.voided)
        self.table = StepTable(self.rows, stream.metric_at)
        self.view = TableView(self.table, "Steps")
        self.finder = StepFinder(self.table, self.view)
        super().__init__("Steps", laid_out(column(self.finder.line, (self.view, 1))))
        self.table.setParent(self)
        self._stream = stream
        self._named: list[str] = []
        """The columns that were chosen."""
        self._newest = button("newest", self.newest_wanted, "link", "Back to the newest step (End)")
        self._newest.hide()
        find = button("find", self.finder.line.open_line, "link", "Go to a step or an episode, or search (Ctrl+G)")
        self._columns = button("columns \u25be", self._offer_columns, "link", "Choose the columns")
        for link in (self._newest, find, self._columns):
            self.corner.addWidget(link)

    def say(self, cursor: Cursor, own: RowsOfEnv | None) -> None:
        """Where the table is, and of how many rows; `own` are those of one environment, if it shows no others."""
        if not self.table.several and self._stream.newest_steps()["env"].max(initial=0) > 0:
            self.table.several = True
            self.show_columns(self._named)
        following, search, number = cursor.mode is Mode.FOLLOW, self.finder.search, _number_of(self.rows)
        if own is not None:
            said = [f"#{own.env}: {count(len(own))} of the newest", f"#{own.env}"]
        elif search is not None:
            said = [f"{count(len(search))} of {number}"]
        elif following:
            newest = "following" if cursor.live else "at the end"
            said = [f"{newest if self.view.following else 'scrolled back'} · {number}", number]
        else:
            at = count((cursor.row or 0) + 1)
            said = [f"row {at} of {number}", f"{at} of {number}", f"row {at}", at]
        say_fitting(self.caption, *said)
        self._newest.setVisible(not (following and self.view.following))

    def show_columns(self, names: list[str]) -> None:
        """Show the columns of these names; the usual ones for none."""
        self._named = names
        self.finder.show_columns(columns_named(self.table, names))

    def _offer_columns(self) -> None:
        offer_columns(
            self._columns,
            self.table,
            self._stream.metrics,
            lambda columns: self.columns_chosen.emit(names_of(columns)),
        )


class EpisodesCard(Card):
    """The episodes of a stream."""

    def __init__(self, stream: AgentStream, feed: Asker) -> None:
        run_id, agent_id = stream.key
        of = Of(run_id, stream.stream_id, "episode", agent_id)
        self.rows = Pages(stream.episodes, of, feed, voided=stream.voided, whole_from=stream.steps_whole_from)
        self.table = EpisodeTable(self.rows)
        self.view = TableView(self.table, "Episodes")
        self.finder = Finder(self.table, self.view, OF_EPISODES)
        self.view.order_wanted.connect(self.finder.line.close_line)  # before the order is made
        self.order = EpisodeOrder(self.table, self.view)
        self.finder.begins.connect(self.order.show_all)
        super().__init__("Episodes", laid_out(column(self.finder.line, (self.view, 1))))
        self.table.setParent(self)
        self._stream = stream
        find = button("find", self.finder.line.open_line, "link", "Go to an episode, or filter them")
        self.corner.addWidget(find)

    def say(self) -> None:
        """How many episodes are listed, and in which order."""
        voided = len(self._stream.voided)
        said = f" · {plural(voided, 'episode')} voided, in the store alone" if voided else ""
        by, descending = self.table.order
        search = self.finder.search
        found = f"{count(len(search))} of " if search is not None else ""
        order = f" · {by.replace('_', ' ')}, {'greatest' if descending else 'least'} first" if by else ""
        self.caption.setText(found + _number_of(self.rows) + order + said)


def _number_of(rows: Pages) -> str:
    """How many rows there are, and whether those in sight are still being read."""
    return rows.problem or f"{count(rows.shown_rows)}{' · loading' if rows.loading else ''}"
