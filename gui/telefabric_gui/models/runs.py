"""The list of runs, and the data of its rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject, Qt

from telefabric.feed import RunView
from telefabric_gui.formatting import NONE, clock, duration, metadata_of, plural, short
from telefabric_gui.models.table import Index
from telefabric_gui.reduction import thinned, unit_of

ROW_ROLE = int(Qt.ItemDataRole.UserRole)
"""The `RunRow`."""
_SPARK_POINTS = 48
_REASON_MAX = 300
_EXPLAINED = {
    "lost": "All received events are kept. The run continues here if its worker is heard again.",
    "revived": "It was silent, and is heard again.",
    "held": "Its events wait at the worker, because its spool belongs to another store: see telefabric status.",
    "idle": "Its worker is alive and has emitted nothing for ten seconds.",
}


class RunRow(NamedTuple):
    run: RunView
    spark: tuple[float, ...]

    @property
    def caption(self) -> str:
        """The second line."""
        agents = self.run.agents
        if not agents:  # of a run that nobody watches, only the store may know them
            return state_words(self.run)
        who = agents[0] if len(agents) == 1 else plural(len(agents), "agent")
        return f"{who} · {state_words(self.run)}"

    @property
    def mode(self) -> str:
        """The badge."""
        return {"multi_agent": "multi"}.get(self.run.control_mode, self.run.control_mode)


def state_words(run: RunView) -> str:
    """State of a run, and how long it has been silent."""
    if run.state == "stalled" and run.silent_s is not None:
        return f"stalled {duration(run.silent_s)}"
    return run.state


def explained(run: RunView) -> str:
    """State of a run in a sentence or two, for its tooltip."""
    lines = [f"{run.run_id}: {state_words(run)}" + (f", {short(run.reason, 200)}" if run.reason else "")]
    if run.state == "stalled":
        lines.append(f"Silent for {duration(run.silent_s or 0)}. All received events are kept.")
    if run.state in _EXPLAINED:
        lines.append(_EXPLAINED[run.state])
    if run.backlog:
        lines.append(f"{plural(run.backlog, 'event')} wait on its machine to be stored.")
    if run.started_ns:
        until = f" {NONE} {clock(run.finished_ns)}" if run.finished_ns else ""
        lines.append(f"{clock(run.started_ns)}{until} · {plural(run.workers, 'worker')}")
    if "game_id" in (told := metadata_of(run.metadata)):
        lines.append(short(told["game_id"]))
    return "\n".join(lines)


def warning_of(run: RunView) -> str:
    """What one should know who looks at a run that has stopped; nothing for others."""
    if run.state == "stalled":
        silent = f" for {duration(run.silent_s)}" if run.silent_s is not None else ""
        waiting = f"{plural(run.backlog, 'event')} of it wait to be stored."
        return f"Stalled: nothing from {run.run_id}{silent}. {waiting if run.backlog else 'Its last step is stored.'}"
    if run.state == "failed":
        why = short(run.reason or "the worker gave no reason", _REASON_MAX)
        return f"Failed: {why}. All received events are kept."
    if run.state == "lost":
        why = short(run.reason or "its worker has been silent for too long", _REASON_MAX)
        return f"Lost: {why}. The run continues here if the worker is heard again."
    return ""


class RunList(QAbstractListModel):
    """Runs, newest first. A row changes in place; the list is reset only when runs come or go."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: list[RunRow] = []

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row = self._rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return row.run.run_id
        if role == Qt.ItemDataRole.ToolTipRole:
            return explained(row.run)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{row.run.run_id}, {row.caption}, {row.mode}"
        return row if role == ROW_ROLE else None

    def show(self, rows: list[RunRow]) -> None:
        """The whole list as it is now."""
        ids, held = [row.run.run_id for row in rows], [row.run.run_id for row in self._rows]
        fresh = len(ids) - len(held)
        if ids == held:
            for place, (old, new) in enumerate(zip(self._rows, rows, strict=True)):
                if old != new:
                    self._rows[place] = new
                    index = self.index(place)
                    self.dataChanged.emit(index, index)
        elif fresh > 0 and ids[fresh:] == held:
            self.beginInsertRows(QModelIndex(), 0, fresh - 1)
            self._rows = rows[:fresh] + self._rows
            self.endInsertRows()
            self.show(rows)
        else:
            self.beginResetModel()
            self._rows = rows
            self.endResetModel()


def spark(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """A few points between 0 and 1: the shape of a series."""
    if len(values) < 2:
        return ()
    means = thinned(values / unit_of(values), _SPARK_POINTS)
    low, high = float(means.min()), float(means.max())
    span = high - low or 1.0
    return tuple(round((float(value) - low) / span, 2) for value in means)
