"""Episodes that were played by people, of all runs or of one: newest first, read from the store as one scrolls."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt
from PySide6.QtGui import QColor

from telefabric.feed import Answer, EpisodeRow, EpisodesIn
from telefabric_gui import theme
from telefabric_gui.formatting import NONE, count, real, short
from telefabric_gui.item_models.table import Index
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.theme import LEFT, RIGHT

MODES = "human", "unknown"
"""Older workers and other programs do not record who acted."""
PAGE = 200


class Head(NamedTuple):
    title: str
    width: int
    alignment: int
    tip: str = ""


HEADS = (
    Head("RUN", 17, LEFT),
    Head("EP", 6, RIGHT, "Episode"),
    Head("RETURN", 8, RIGHT, "Sum of the rewards"),
    Head("LENGTH", 7, RIGHT, "Steps"),
    Head("MODE", 11, LEFT, "Who acted"),
    Head("END", 10, LEFT, "Reason of its end"),
    Head("ENDED AT", 20, LEFT, "The worker's clock, in this machine's time zone"),
    Head("SEED", 8, RIGHT, "Seed of its reset"),
    Head("AGENT", 11, LEFT),
    Head("GAME", 18, LEFT),
)
MODE = next(place for place, head in enumerate(HEADS) if head.title == "MODE")


class HumanEpisodes(QAbstractTableModel):
    """Asks for a page at a time. `refresh` from time to time for what is new. GUI thread."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.rows: list[EpisodeRow] = []
        self.run_id: str | None = None
        """The one run of which episodes are shown; None for all."""
        self.problem = ""
        """Why the store did not answer; empty when it did."""
        self.asked = False
        """The store has answered once."""
        self._more = False
        self._waiting: set[int] = set()
        """The ids before which episodes were asked for; 0 for the newest."""
        self._asking = Asking(None, self)

    def use(self, feed: Asker | None) -> None:
        """Show the episodes of another feed."""
        self._asking.close()
        self._asking.deleteLater()
        self._asking = Asking(feed, self)
        self.choose(None)

    def choose(self, run_id: str | None) -> None:
        """Show the episodes of one run, or of all."""
        self._asking.forget()
        self.beginResetModel()
        self.run_id, self.rows, self.problem = run_id, [], ""
        self.asked = self._more = False
        self._waiting.clear()
        self.endResetModel()

    def refresh(self) -> None:
        """Look for newer episodes."""
        self._ask(0, self._take_newest)

    # -- as a model ----------------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(HEADS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(HEADS):
            return None
        head = HEADS[section]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return head.alignment
        return {Qt.ItemDataRole.DisplayRole: head.title, Qt.ItemDataRole.ToolTipRole: head.tip or None}.get(
            Qt.ItemDataRole(role)
        )

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = self.rows[index.row()], index.column()
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return HEADS[column].alignment
        if role == Qt.ItemDataRole.ForegroundRole and column == MODE:
            return QColor(theme.active().mode(row.control_mode))
        if role == Qt.ItemDataRole.ToolTipRole and not column:
            return row.run_id
        return _texts(row)[column] if role == Qt.ItemDataRole.DisplayRole else None

    def canFetchMore(self, parent: Index) -> bool:
        return self._more and not parent.isValid()

    def fetchMore(self, parent: Index) -> None:
        if self.rows:
            self._ask(self.rows[-1].id, self._take_older)

    # -- asking --------------------------------------------------------------------------------------------------

    def _ask(self, before: int, then: Any) -> None:
        if before not in self._waiting and self._asking.can_ask:
            self._waiting.add(before)
            self._asking.ask(EpisodesIn(list(MODES), self.run_id, before, PAGE), partial(self._take, before, then))

    def _take(self, before: int, then: Any, answer: Answer) -> None:
        self._waiting.discard(before)
        self.asked, self.problem = True, answer.problem
        if answer.page is not None and (not before or (self.rows and self.rows[-1].id == before)):
            then(answer.page)

    def _take_newest(self, page: Any) -> None:
        """New ones come on top. When others have gone, which were deleted or voided, begin again with this page."""
        ids, held = [row.id for row in page.rows], [row.id for row in self.rows]
        fresh = ids.index(held[0]) if held and held[0] in ids else len(ids)
        known = held[: len(ids) - fresh] if page.more else held
        if not held or ids[fresh:] != known or fresh == len(ids) > 0:
            self.beginResetModel()
            self.rows, self._more = page.rows, page.more
            self.endResetModel()
        elif fresh:
            self.beginInsertRows(QModelIndex(), 0, fresh - 1)
            self.rows = page.rows[:fresh] + self.rows
            self.endInsertRows()

    def _take_older(self, page: Any) -> None:
        self._more = page.more
        if page.rows:
            self.beginInsertRows(QModelIndex(), len(self.rows), len(self.rows) + len(page.rows) - 1)
            self.rows = self.rows + page.rows
            self.endInsertRows()


def _texts(row: EpisodeRow) -> tuple[str, ...]:
    length = NONE if row.length is None else count(row.length)
    end, seed = short(row.end_reason or NONE, 20), short(row.seed, 20)
    return (
        row.run_id, count(row.episode_index), real(row.total_reward), length, row.control_mode, end,
        _ended(row.time_ns), seed, row.agent_id, short(row.game_id, 40),
    )  # fmt: skip


def _ended(time_ns: int) -> str:
    try:
        return datetime.fromtimestamp(time_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return NONE
