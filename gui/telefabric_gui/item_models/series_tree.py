"""The tree of an agent's series: those of the steps, and metrics by the parts of their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PySide6.QtCore import QMimeData, QModelIndex, QObject, QPersistentModelIndex, QSortFilterProxyModel, Qt
from PySide6.QtGui import QStandardItem, QStandardItemModel

from telefabric_gui.agent_stream import METRIC, RETURN, REWARD
from telefabric_gui.formatting import short
from telefabric_gui.info import INFO
from telefabric_gui.model.layout import Layout

SERIES_ROLE = int(Qt.ItemDataRole.UserRole)
"""The name of a leaf's series; None of a group."""
SERIES_MIME = "application/x-telefabric-series"
_DEPTH_MAX = 6


class SeriesTree(QStandardItemModel):
    """Ticked are the series that are in a chart; a tick puts one in the chart in front."""

    def __init__(self, layout: Layout, parent: QObject | None = None) -> None:
        super().__init__(0, 2, parent)
        self._layout = layout
        self._names: list[str] = []
        self._leaves: dict[str, tuple[QStandardItem, QStandardItem]] = {}
        self._busy = False
        self.itemChanged.connect(self._on_changed)
        layout.changed.connect(self.show_layout)

    @property
    def series(self) -> list[str]:
        return self._names

    @property
    def shown(self) -> int:
        """How many are in a chart."""
        return sum(self._layout.chart_of(series) is not None for series in self._names)

    def show_names(self, names: list[str]) -> None:
        """The series that there are now; the tree is made again only when they have changed."""
        if names == self._names:
            return
        self._names = list(names)
        self._busy = True
        self.removeRows(0, self.rowCount())
        self._leaves.clear()
        groups: dict[tuple[str, ...], QStandardItem] = {}
        for series in sorted(names, key=_order):
            *path, leaf = _path(series)
            parent = self.invisibleRootItem()
            for depth in range(len(path)):
                key = tuple(path[: depth + 1])
                if key not in groups:
                    groups[key] = _item(path[depth])
                    parent.appendRow([groups[key], _item("")])
                parent = groups[key]
            item, where = _item(leaf), _item("")
            item.setCheckable(True)
            item.setDragEnabled(True)
            item.setData(series, SERIES_ROLE)
            item.setToolTip(short(series, 300))
            where.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            parent.appendRow([item, where])
            self._leaves[series] = item, where
        self._busy = False
        self.show_layout()

    def show_layout(self) -> None:
        """Tick what is in a chart, and say in which."""
        self._busy = True
        several = len(self._layout.charts) > 1
        for series, (item, where) in self._leaves.items():
            at = self._layout.chart_of(series)
            item.setCheckState(Qt.CheckState.Unchecked if at is None else Qt.CheckState.Checked)
            where.setText(f"chart {at + 1}" if at is not None and several else "")
        self._busy = False

    def _on_changed(self, item: QStandardItem) -> None:
        series = item.data(SERIES_ROLE)
        if self._busy or series is None:
            return
        if item.checkState() == Qt.CheckState.Checked:
            self._layout.put(series)
        else:
            self._layout.remove(series)
        self.show_layout()

    def mimeTypes(self) -> list[str]:
        return [SERIES_MIME]

    def mimeData(self, indexes: Sequence[QModelIndex]) -> QMimeData:
        data = QMimeData()
        for series in (index.data(SERIES_ROLE) for index in indexes):
            if series is not None:
                data.setData(SERIES_MIME, series.encode())
        return data


class SeriesFilter(QSortFilterProxyModel):
    """Leaves in whose names all words occur, with the groups that they are in."""

    def __init__(self, tree: SeriesTree) -> None:
        super().__init__(tree, recursiveFilteringEnabled=True)
        self._words: list[str] = []
        self.setSourceModel(tree)

    def search(self, text: str) -> None:
        self._words = text.lower().split()
        self.setFilterFixedString(text)  # Qt looks at all rows again

    def filterAcceptsRow(self, row: int, parent: QModelIndex | QPersistentModelIndex) -> bool:
        series = self.sourceModel().index(row, 0, parent).data(SERIES_ROLE)
        return series is not None and all(word in "/".join(_path(series)).lower() for word in self._words)


def _path(series: str) -> list[str]:
    """Groups and leaf: those of the steps first, a metric by the slashes of its name."""
    if series in (RETURN, REWARD):
        return ["step", series]
    if series.startswith(INFO):
        return ["info", *(part for part in re.split("[./]", series.removeprefix(INFO), maxsplit=_DEPTH_MAX) if part)]
    parts = [part for part in series.removeprefix(METRIC).split("/", _DEPTH_MAX) if part]
    return parts if len(parts) > 1 else ["metric", *(parts or ["/"])]


def _order(series: str) -> tuple[bool, list[str]]:
    return series not in (RETURN, REWARD), _path(series)


def _item(text: str) -> QStandardItem:
    item = QStandardItem(short(text, 80))
    item.setEditable(False)
    item.setDragEnabled(False)
    return item
