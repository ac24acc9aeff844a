"""Events as they came, in a tree: the newest 100 of an agent, or those around the cursor, with a search."""

from __future__ import annotations

import time
from collections.abc import Container
from functools import partial

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QPoint, QSortFilterProxyModel, Qt, Signal
from PySide6.QtGui import QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import QHeaderView, QLineEdit, QWidget

from telefabric_gui.formatting import count
from telefabric_gui.item_models.raw_tree import TEXT_ROLE, RawTree
from telefabric_gui.model.raw_events import RawEvents
from telefabric_gui.views.styled import column, label, menu_of, row
from telefabric_gui.views.trees import Tree

_EVERY_S = 0.5
"""Time between two lists while the newest events are shown: nobody reads a tree that moves faster."""
_INFO = "info."
_NAME_PX, _TYPE_PX = 120, 88


class RawView(QWidget):
    """`refresh` once a tick while in sight."""

    step_wanted = Signal(int)
    """The seq of an event that was clicked."""
    pin_wanted = Signal(str)
    """The path of a part of `info`."""

    def __init__(self, events: RawEvents) -> None:
        super().__init__()
        self.events = events
        self.tree = RawTree(self)
        self._proxy = QSortFilterProxyModel(self, recursiveFilteringEnabled=True, autoAcceptChildRows=True)
        self._proxy.setSourceModel(self.tree)
        self._proxy.setFilterRole(TEXT_ROLE)
        self._proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.search = QLineEdit(placeholderText="Search events", clearButtonEnabled=True)
        self.search.setAccessibleName("Search events")
        self.search.textChanged.connect(self._on_search)
        self._said = label(role="caption")
        self.view = _Tree()
        self.view.setModel(self._proxy)
        header = self.view.header()
        header.setStretchLastSection(False)
        for at, (mode, wide) in enumerate(
            ((QHeaderView.ResizeMode.Interactive, _NAME_PX), (QHeaderView.ResizeMode.Stretch, 0),
             (QHeaderView.ResizeMode.Fixed, _TYPE_PX))
        ):  # fmt: skip
            header.setSectionResizeMode(at, mode)
            header.resizeSection(at, wide)
        self.view.copy_wanted.connect(self.copy)
        self.view.expanded.connect(self._on_expanded)
        self.view.clicked.connect(self._on_clicked)
        self.view.customContextMenuRequested.connect(self._offer)
        self._shown_s = 0.0
        self._stale = True
        self._opening = False
        """Lines are opened by the program, not by the user."""
        self._seqs: list[int] = []
        """Of the events in the tree."""
        events.changed.connect(self._on_changed)
        top = row((self.search, 1), self._said, margins=(12, 2, 12, 6), spacing=10)
        self.setLayout(column(top, (self.view, 1)))

    def refresh(self) -> None:
        """Show what has come; when it follows, not more often than one reads."""
        due = self.events.at is not None or time.monotonic() - self._shown_s >= _EVERY_S
        if self._stale and due and self.isVisible():
            self._stale, self._shown_s = False, time.monotonic()
            self._show()

    def _on_changed(self) -> None:
        self._stale = True

    def _show(self) -> None:
        opened = {self._seq(index) for index in self._events() if self.view.isExpanded(index)}
        place = self.view.verticalScrollBar().value()
        if list(self.events.events) != self._seqs:
            self._seqs = list(self.events.events)
            self.tree.show_events(self.events.events)
            self._open(opened)
            self.view.verticalScrollBar().setValue(place)
        self._mark()
        self._say()

    def _say(self) -> None:
        """How many events there are, where, and how many of them a search has found."""
        where = "newest" if self.events.at is None else f"around seq {count(self.events.at)}"
        found = f"{count(self._proxy.rowCount())} of " if self.search.text() else ""
        self._said.setText(self.events.problem or f"{found}{count(len(self._seqs))} {where}")

    def _open(self, seqs: Container[int]) -> None:
        """Open what a search has found, else these events."""
        self._opening = True
        if self.search.text():
            self.tree.open_all()
            self.view.expandAll()
        else:
            for index in self._events():
                self.view.setExpanded(index, self._seq(index) in seqs)
        self._opening = False

    def _events(self) -> list[QModelIndex]:
        return [self._proxy.index(line, 0) for line in range(self._proxy.rowCount())]

    def _seq(self, index: QModelIndex) -> int:
        """Of the event that a line belongs to."""
        while index.parent().isValid():
            index = index.parent()
        return self._seqs[self._proxy.mapToSource(index).row()]

    def _mark(self) -> None:
        """Choose the event at the cursor, unless a part of it is chosen."""
        chosen, at = self.view.currentIndex(), self.events.at
        found = next((index for index in self._events() if self._seq(index) == at), None)
        if found is not None and not (chosen.isValid() and self._seq(chosen) == at):
            how = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
            self.view.selectionModel().setCurrentIndex(found, how)
            self.view.scrollTo(found)

    # -- what the user does --------------------------------------------------------------------------------------

    def _on_search(self, text: str) -> None:
        if text:
            self.tree.open_all()
        self._proxy.setFilterFixedString(text)
        self._open(())
        self._say()

    def _on_expanded(self, index: QModelIndex) -> None:
        self.tree.open(self._proxy.mapToSource(index))
        if not self._opening:
            self._on_clicked(index)

    def _on_clicked(self, index: QModelIndex) -> None:
        """An event that one looks at is where the cursor goes: what follows would leave at once."""
        self.step_wanted.emit(self._seq(index))

    def _offer(self, at: QPoint) -> None:
        index = self.view.indexAt(at)
        if not index.isValid():
            return
        event = index
        while event.parent().isValid():
            event = event.parent()
        path, menu = self.tree.path(self._proxy.mapToSource(index)), menu_of(self)
        menu.addAction("Copy value", partial(self.copy, index))
        menu.addAction("Copy event as JSON", partial(self.copy, event))
        if path.startswith(_INFO):
            menu.addSeparator()
            menu.addAction(f"Pin {path}, or let it go", partial(self.pin_wanted.emit, path.removeprefix(_INFO)))
        menu.popup(self.view.viewport().mapToGlobal(at))

    def copy(self, index: QModelIndex) -> None:
        if index.isValid():
            QGuiApplication.clipboard().setText(self.tree.text(self._proxy.mapToSource(index)))


class _Tree(Tree):
    copy_wanted = Signal(QModelIndex)

    def __init__(self) -> None:
        super().__init__(uniformRowHeights=True, indentation=14)
        self.setAccessibleName("Events")
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy_wanted.emit(self.currentIndex())
            event.accept()
            return
        super().keyPressEvent(event)
