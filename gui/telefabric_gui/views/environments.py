"""Several environments of one agent on its page: their grid, the one that is followed, and its rows in the table."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from telefabric.ring import RingFrame
from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.formatting import count
from telefabric_gui.item_models.events import StepTable
from telefabric_gui.model.cursor import Cursor, Mode
from telefabric_gui.model.lines import Found
from telefabric_gui.model.returns import Returns
from telefabric_gui.model.rows_of_env import RowsOfEnv
from telefabric_gui.model.tiles import silent
from telefabric_gui.views.cards import Cards
from telefabric_gui.views.find import StepFinder
from telefabric_gui.views.stored_tiles import StoredTiles, by_env
from telefabric_gui.views.styled import button
from telefabric_gui.views.vector import VectorCard, newest_of


class Environments(QObject):
    """While there is one environment only, nothing of this is in sight, and `row` is None."""

    chosen = Signal()
    """Another environment is followed."""

    def __init__(
        self, stream: AgentStream, table: StepTable, finder: StepFinder, cursor: Cursor, returns: Returns
    ) -> None:
        super().__init__()
        self.card = VectorCard()
        self.link = button("grid", lambda: self._cards.show_as("grid"), "link", "All environments as tiles")
        self.link.hide()
        self.rows: RowsOfEnv | None = None
        """Those of the table, when it has the rows of one environment alone."""
        self._stream, self._table, self._finder, self._cursor = stream, table, finder, cursor
        self._stored = StoredTiles(stream.held, returns)
        self.told: object = None
        """How many there are, by the run's metadata."""
        self._wanted: int | None = None
        """The environment that the user chose."""
        self._cards: Cards
        self.card.chosen.connect(self._follow)
        cursor.mode_changed.connect(self._show_rows)

    def join(self, cards: Cards) -> None:
        """The grid is one of these cards."""
        self._cards = cards
        self.card.cards_wanted.connect(lambda: cards.show_as("cards"))
        self.card.picture_wanted.connect(lambda: cards.show_as("picture"))
        cards.changed.connect(self._on_cards)

    @property
    def number(self) -> int:
        return max(1, len(self.card.tiles))

    @property
    def title(self) -> str:
        """The name of the followed environment; empty when there is one only."""
        return f"#{count(self.card.follows)}" if self.card.follows is not None else ""

    @property
    def row(self) -> Found | None:
        """The step of the followed environment at the cursor; None when the cursor's own step is to be shown."""
        pages, at = self._table.pages, self._cursor.row
        if not self.card.tiles or at is None or self._cursor.mode is Mode.PAUSED:
            return None
        if self._cursor.mode is Mode.REPLAY:  # else the picture would change between environments
            found = by_env(pages.lines, at).get(self.card.follows or 0)
            return None if found is None else pages.row(found.row)
        records = self._stream.newest_steps()
        own = records[records["env"] == self.card.follows]
        number = pages.row_of_seq(int(own["seq"][-1])) if len(own) else None
        return None if number is None else pages.row(number)

    def show_ring(self, frame: RingFrame, state: str) -> None:
        """Show a frame of the ring that has several."""
        records = self._stream.newest_steps()
        newest = newest_of(records, self._table.pages.stored_seq)
        seen = newest.keys() | {hud.env_index for hud in frame.hud.tiles}
        span_s = float(records["time_ns"].max() - records["time_ns"].min()) / 1e9 if len(records) else 0.0
        self.card.show_ring(frame, state, newest, silent(seen, self.told, span_s))
        self._open()

    def show_stored(self, shown: Found) -> None:
        """Show the environments around the cursor, if their frames are stored."""
        at = self._cursor.row
        if at is None:
            return
        tiles = self._stored.at(self._table.pages.lines, at, self.told)
        if self._cursor.mode is Mode.PAUSED and (tiles or self.card.tiles):
            self.card.mark(int(shown.record["env"]))
        if not tiles:
            return
        self.card.show_stored(tiles)
        self._open()

    # -- inside --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """The grid takes the place of charts when there is one for the first time."""
        if self.link.isHidden() and self._cards.shown_as == "cards":
            self._cards.show_as("grid")

    def _on_cards(self) -> None:
        self.link.setVisible(self._cards.shown_as != "grid")
        self._show_rows()

    def _follow(self, env: int) -> None:
        at = self._cursor.row
        if self._cursor.mode is Mode.PAUSED and at is not None:
            own = by_env(self._table.pages.lines, at).get(env)
            self._cursor.go_to(own.row if own is not None else at)
        self._wanted = env
        self._show_rows()
        self.chosen.emit()

    def _show_rows(self) -> None:
        """The table has the rows of the chosen environment alone while it follows what is newest, beside the grid."""
        env = self._wanted if self._cursor.mode is Mode.FOLLOW and self._cards.shown_as == "grid" else None
        if env == (self.rows.env if self.rows is not None else None):
            return
        if self.rows is not None:
            self._table.show(None)
            self.rows.close()
            self.rows = None
        if env is not None:
            self._finder.line.close_line()
            self.rows = RowsOfEnv(self._table.pages, env)
            self._table.show(self.rows)
