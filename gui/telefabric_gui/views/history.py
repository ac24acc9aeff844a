"""All runs as a table: searched, sorted, edited and opened; below it, two of them compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

from PySide6.QtCore import QItemSelection, QItemSelectionModel, QPoint, QRect, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QHideEvent, QKeyEvent, QPainter, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from telefabric.feed import RunView
from telefabric_gui import theme
from telefabric_gui.formatting import count, metadata_of, plural
from telefabric_gui.item_models.runs import (
    COLUMNS,
    MODE,
    NAME,
    STARTED,
    STATE,
    RunColumn,
    Runs,
    RunTable,
    of_metadata,
    tone_of,
)
from telefabric_gui.item_models.table import Index
from telefabric_gui.model.run_difference import Difference, difference
from telefabric_gui.sources import Memory
from telefabric_gui.views.painting import BADGE_PX, draw_badge, draw_dot, strokes, write_cut
from telefabric_gui.views.run_filter import TIP, RunFilter
from telefabric_gui.views.run_menu import RunMenu
from telefabric_gui.views.styled import Card, button, cells, column, label, laid_out, menu_of, row

_DIFFERENCE_PX = 232
_CHANGES_PX = (240, 240)
"""Widths of names and of values before; what is now has the rest."""
_BAR_PX, _PAD_PX = 3, 8
_NAMES_MAX = 60
"""Names of metadata that are offered as columns, those of most runs first."""
_APART_MAX = 200
"""Chosen rows stay chosen in another order while they lie in at most this many groups: Qt compares each with each."""
_LOOKED_AT = 2_000
"""Runs, newest first, that are looked at for such names."""


class HistoryView(QWidget):
    """Enter or a double click opens a run. One chosen run is compared with the run before it, two with each other."""

    chosen = Signal(str)
    replay_wanted = Signal(str)
    edit_wanted = Signal(str, str, object)
    """A run, a command and its value."""
    closed = Signal()

    def __init__(self, runs: Runs, memory: Memory) -> None:
        super().__init__()
        self.setObjectName("page")
        self.setAccessibleName("All runs")
        self._runs, self._memory = runs, memory
        self.table = RunTable(runs, COLUMNS, self)
        self.table.follow(False)
        self.search = RunFilter(self.table, "Search all runs", "Search: dqn failed  tag:baseline  lr=0.001")
        self.list = cells(QTableView(), "All runs")
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setModel(self.table)
        self.list.setItemDelegate(_Delegate(self.list, self.table))
        self.list.setSortingEnabled(True)
        self.list.sortByColumn(COLUMNS.index(STARTED), Qt.SortOrder.DescendingOrder)
        self.list.doubleClicked.connect(lambda index: self.chosen.emit(self.table.row(index.row()).run.run_id))
        self.list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.list.customContextMenuRequested.connect(self._on_menu)
        self.changes = cells(QTableWidget(0, 3), "What changed")
        self.changes.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.changes.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        for place, width in enumerate(_CHANGES_PX):
            self.changes.setColumnWidth(place, width)
        self._equal = button("", self._toggle_equal, "link")
        self._with_equal = False
        self._picked: list[str] = []
        """The runs that are chosen; they stay so while the table is laid out again."""
        self.pair: tuple[RunView, RunView] | None = None
        """The runs that are compared, the later one last."""
        self._lay_out()
        self.table.modelReset.connect(self._on_reset)
        self.list.selectionModel().selectionChanged.connect(self._on_selection)
        self.show_columns(memory.run_columns)

    def _lay_out(self) -> None:
        self._acts = [
            button("Open", lambda: self._first(self.chosen.emit), "transport", "Open the run (Enter)"),
            button("Replay", lambda: self._first(self.replay_wanted.emit), "transport", "Replay it from its start"),
            button("Edit ▾", self._on_edit, "transport", "Tags, note, archive, delete"),
        ]
        self._more = button("Columns ▾", self._offer_columns, "plain", "Values of the metadata as columns")
        found = row((self.search, 1), self.search.words("Filter ▾"), self._more, margins=(12, 4, 12, 8), spacing=4)
        self._hint = label(f"No run fits the words. {TIP}.", "dim")
        self._hint.setWordWrap(True)
        self._hint.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._hint.setContentsMargins(14, 4, 12, 8)
        self._runs_card = Card("All runs", laid_out(column(found, (self._hint, 1), (self.list, 1))))
        for act in self._acts:
            self._runs_card.corner.addWidget(act)
        self._runs_card.corner.addWidget(button("close", self.closed, "link", "Back to the runs that are open (Esc)"))
        self._changes_card = Card("What changed", self.changes)
        self._changes_card.corner.addWidget(self._equal)
        self._changes_card.setFixedHeight(_DIFFERENCE_PX)
        self.setLayout(column((self._runs_card, 1), self._changes_card, margins=(12, 12, 12, 12), spacing=12))
        self._on_selection()

    # -- what is chosen ------------------------------------------------------------------------------------------

    def choose(self, run_id: str) -> None:
        """Choose a run, unless some are chosen."""
        place = self.table.place_of(run_id)
        if place >= 0 and not self._picked:
            self.list.selectRow(place)

    @property
    def picked(self) -> list[RunView]:
        """The chosen runs, in the order of the table."""
        selection = self.list.selectionModel().selection()
        ranges = [selection.at(place) for place in range(selection.count())]  # ten times as fast as the rows' indexes
        places = sorted({place for one in ranges for place in range(one.top(), one.bottom() + 1)})
        return [self.table.row(place).run for place in places]

    def _first(self, act: Callable[[str], None]) -> None:
        for run in self.picked[:1]:
            act(run.run_id)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.table.follow(True)

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self.table.follow(False)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._first(self.chosen.emit)
        else:
            super().keyPressEvent(event)

    def _menu(self) -> RunMenu:
        return RunMenu(self, self.picked, self.edit_wanted.emit)

    def _on_edit(self) -> None:
        self._menu().popup(self._acts[-1].mapToGlobal(self._acts[-1].rect().bottomLeft()))

    def _on_menu(self, place: QPoint) -> None:
        if self.list.indexAt(place).isValid():
            self._menu().popup(self.list.viewport().mapToGlobal(place))

    def _on_reset(self) -> None:
        """The model forgot which rows were chosen."""
        flags, chosen = QItemSelectionModel.SelectionFlag, QItemSelection()
        places = sorted(place for place in map(self.table.place_of, self._picked) if place >= 0)
        for _, group in groupby(enumerate(places), lambda pair: pair[1] - pair[0]):
            rows = [place for _, place in group]
            chosen.select(self.table.index(rows[0], 0), self.table.index(rows[-1], 0))
        if chosen.count() <= _APART_MAX:
            self.list.selectionModel().select(chosen, flags.Select | flags.Rows)
        self._on_selection()

    def refresh(self) -> None:
        """Say what has become of the runs since."""
        self._say_count()
        rows = self._runs.rows
        if any(run.run_id not in rows or rows[run.run_id].run is not run for run in self.pair or ()):
            self._compare()

    def _on_selection(self, *what: object) -> None:
        self._picked = [run.run_id for run in self.picked]
        for act in self._acts:
            act.setEnabled(bool(self._picked))
        self._say_count()
        self._compare()

    def _say_count(self) -> None:
        shown, total, chosen = self.table.rowCount(), len(self._runs.rows), len(self._picked)
        said = count(total) if shown == total else f"{count(shown)} of {count(total)}"
        self._runs_card.caption.setText(f"{said} · {plural(chosen, 'run')} chosen" if chosen > 1 else said)
        self._hint.setVisible(not shown)
        self.list.setVisible(bool(shown))

    # -- what changed --------------------------------------------------------------------------------------------

    def _compare(self) -> None:
        picked = self.picked
        before = self._runs.before(picked[0]) if len(picked) == 1 else None
        if len(picked) == 2:
            before, picked = picked[1], picked[:1]
        self.pair = (before, picked[0]) if before is not None and len(picked) == 1 else None
        if self.pair is None:
            alone = "There is no run before this one: choose another run, too, to compare the two."
            general = "Choose a run to compare it with the run before it, or two runs."
            self._show_changes([], alone if len(picked) == 1 else general)
            return
        self._show_changes(difference(*self.pair), "")

    def _show_changes(self, found: list[Difference], said: str) -> None:
        equal = sum(one.equal for one in found)
        if self.pair is not None:
            before, now = (run.run_id for run in self.pair)
            said = f"{plural(len(found) - equal, 'value')} other than in {before}"
            self.changes.setHorizontalHeaderLabels(["NAME", before, now])
        self.changes.horizontalHeader().setVisible(bool(found))
        self._changes_card.caption.setText(said)
        self._equal.setVisible(bool(equal))
        self._equal.setText(f"{'hide' if self._with_equal else 'show'} the {count(equal)} that are equal")
        shown = found if self._with_equal else [one for one in found if not one.equal]
        self.changes.setRowCount(len(shown))
        colours = theme.active()
        for place, one in enumerate(shown):
            for at, text in enumerate((one.name, one.before, one.now)):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                item.setForeground(QColor(colours.text if at and not one.equal else colours.dim))
                self.changes.setItem(place, at, item)

    def _toggle_equal(self) -> None:
        self._with_equal = not self._with_equal
        self._compare()

    # -- what is searched, and columns -------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of metadata, those of most runs first, then by name."""
        newest = sorted(self._runs.rows.values(), key=lambda one: one.run.number)[-_LOOKED_AT:]
        counted = Counter(name for one in newest for name in metadata_of(one.run.metadata))
        return sorted(counted, key=lambda name: (-counted[name], name))[:_NAMES_MAX]

    def _offer_columns(self) -> None:
        menu, shown = menu_of(self), self._memory.run_columns
        for name in dict.fromkeys((*shown, *self.names())):
            action = menu.addAction(name.replace("&", "&&"), partial(self._toggle_column, name))
            action.setCheckable(True)
            action.setChecked(name in shown)
        menu.popup(self._more.mapToGlobal(self._more.rect().bottomLeft()))

    def _toggle_column(self, name: str) -> None:
        shown = self._memory.run_columns
        names = [one for one in shown if one != name] if name in shown else [*shown, name]
        self._memory.keep_run_columns(names)
        self.show_columns(names)

    def show_columns(self, names: Sequence[str]) -> None:
        """Show these values of the metadata beside what every run has."""
        self.table.choose_columns([*COLUMNS[:-2], *map(of_metadata, names), *COLUMNS[-2:]])
        digits = QFontMetrics(theme.text_font())
        for place, one in enumerate(self.table.columns):
            self.list.setColumnWidth(place, digits.averageCharWidth() * one.width + 28)
        head = self.list.horizontalHeader()
        head.setSortIndicator(self.table.sorted_by, head.sortIndicatorOrder())
        head.setSortIndicatorShown(False)  # it points to the other side; the title has a mark


class _Delegate(QStyledItemDelegate):
    """State with its dot, control mode as its badge; a chosen row has a bar of the accent."""

    def __init__(self, parent: QTableView, table: RunTable) -> None:
        super().__init__(parent)
        self._table = table

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        with strokes(painter):
            area: QRect = option.rect
            state: QStyle.StateFlag = option.state
            column, run = self._table.columns[index.column()], self._table.row(index.row()).run
            if state & QStyle.StateFlag.State_Selected:
                painter.fillRect(area, QColor(theme.active().raised))
                if not index.column():
                    painter.fillRect(area.left(), area.top(), _BAR_PX, area.height(), QColor(theme.active().accent))
            self._paint(painter, area.adjusted(_PAD_PX, 0, -_PAD_PX, 0), column, run)

    def _paint(self, painter: QPainter, area: QRect, column: RunColumn, run: RunView) -> None:
        colour, text = tone_of(column, run), column.text(run)
        if column is MODE:
            draw_badge(painter, area.left(), area.top() + (area.height() - BADGE_PX + 1) // 2, text, colour)
            return
        if column is STATE:
            draw_dot(painter, area.left() + 4, area.center().y() + 1, colour)
            area.setLeft(area.left() + 16)
        font = theme.text_font(bold=column is NAME)
        cut = Qt.TextElideMode.ElideMiddle if column is NAME else Qt.TextElideMode.ElideRight
        write_cut(painter, area, text, colour, font, cut, column.alignment)
