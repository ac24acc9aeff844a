"""The tab Human Replay: episodes that people played, from the store. It is always there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from PySide6.QtCore import QRect, Qt, QTimer, Signal
from PySide6.QtGui import QFontMetrics, QHideEvent, QKeyEvent, QPainter, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QStackedWidget,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from telefabric_gui import theme
from telefabric_gui.formatting import count
from telefabric_gui.item_models.human import HEADS, MODE, HumanEpisodes
from telefabric_gui.item_models.table import Index
from telefabric_gui.model.tab_titles import cut
from telefabric_gui.views.empty import EmptyView, Situation
from telefabric_gui.views.painting import BADGE_PX, draw_badge, strokes
from telefabric_gui.views.styled import Card, button, cells, column, drop_menu, label, row

REFRESH_MS = 2_000
_ALL = "All runs"
_NOTHING = Situation(
    "Nobody has played yet",
    "Episodes that people play are listed here, of all runs. A program keeps them when its worker says who acts:",
    'connect(run="taxi-human", control_mode="human")',
)


class HumanReplay(QWidget):
    """Enter or a double click opens the replay of an episode. The store is asked while the tab is in sight."""

    wanted = Signal(object)
    """The replay of an `EpisodeRow`."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("page")
        self.setAccessibleName("Human Replay")
        self.episodes = HumanEpisodes(self)
        self.list = cells(QTableView(), "Episodes played by people")
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.list.setModel(self.episodes)
        self.list.setItemDelegateForColumn(MODE, _Badge(self.list))
        letter = QFontMetrics(theme.text_font()).averageCharWidth()
        for place, head in enumerate(HEADS):
            self.list.setColumnWidth(place, letter * head.width + 20)
        self.list.doubleClicked.connect(lambda index: self.wanted.emit(self.episodes.rows[index.row()]))
        self.run_ids: list[str] = []
        """The runs that are open, of which one may be chosen."""
        self._runs = button(f"{_ALL} \u25be", self._offer, "link", "Of all runs, or of one that is open")
        self.empty = EmptyView()
        self._told = label("", "dim")
        self._told.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._stack = QStackedWidget()
        for part in (self.list, self.empty, self._told):
            self._stack.addWidget(part)
        self._card = Card("Human Replay", self._stack)
        self._card.corner.addWidget(self._runs)
        self.setLayout(column(row((self._card, 1), margins=(12, 12, 12, 12))))
        self._timer = QTimer(self, interval=REFRESH_MS)
        self._timer.timeout.connect(self.episodes.refresh)
        for signal in (self.episodes.modelReset, self.episodes.rowsInserted):
            signal.connect(self.say)

    def offer_runs(self, run_ids: Sequence[str]) -> None:
        """These runs are open; one that was closed is not the chosen one any more."""
        self.run_ids = list(run_ids)
        if self.episodes.run_id not in (None, *run_ids):
            self.choose(None)

    def say(self) -> None:
        """How many there are; or why none is in sight."""
        episodes = self.episodes
        known = count(len(episodes.rows)) + (" and older ones" if episodes.canFetchMore(self.list.rootIndex()) else "")
        self._card.caption.setText(episodes.problem or (f"{known} · human or unknown" if episodes.rows else ""))
        if episodes.rows:
            self._stack.setCurrentWidget(self.list)
        elif episodes.asked and not episodes.problem and episodes.run_id is None:
            self.empty.show_situation(_NOTHING)
            self._stack.setCurrentWidget(self.empty)
        else:
            none = f"No episode of {episodes.run_id} was played by people." if episodes.asked else "Asking the store …"
            self._told.setText(episodes.problem or none)
            self._stack.setCurrentWidget(self._told)

    def choose(self, run_id: str | None) -> None:
        """Show the episodes of one run, or of all."""
        self.episodes.choose(run_id)
        self._runs.setText(f"{_ALL if run_id is None else cut(run_id, 24)} \u25be")
        if self.isVisible():
            self.episodes.refresh()

    def _offer(self) -> None:
        runs = [(run_id.replace("&", "&&"), partial(self.choose, run_id)) for run_id in self.run_ids]
        drop_menu(self._runs, [(_ALL, partial(self.choose, None)), *runs])

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.episodes.refresh()
        self._timer.start()
        self.say()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._timer.stop()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        chosen = self.list.currentIndex()
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and chosen.isValid():
            self.wanted.emit(self.episodes.rows[chosen.row()])
        else:
            super().keyPressEvent(event)


class _Badge(QStyledItemDelegate):
    """A control mode as its badge."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: Index) -> None:
        super().initStyleOption(option, index)
        option.text = ""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        super().paint(painter, option, index)
        with strokes(painter):
            area: QRect = option.rect
            mode = str(index.data())
            draw_badge(painter, area.left() + 8, area.center().y() - BADGE_PX // 2, mode, theme.active().mode(mode))
