"""The runs that are drawn over each other in charts, each with its letter and its colour for as long as it is there."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from telefabric_gui.model.layout import first_free

RUNS_MAX = 12


class Overlay(QObject):
    """Runs by the number of their letter. What is given to one is never changed by others that come or go."""

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._slots: dict[str, int] = {}

    @property
    def runs(self) -> list[str]:
        """In the order of their letters."""
        return sorted(self._slots, key=self._slots.__getitem__)

    def toggle(self, run_id: str, in_front: str | None) -> None:
        """Lay a run over the one in front, or take it away; with fewer than two, there is nothing to compare."""
        if run_id in self._slots:
            del self._slots[run_id]
        elif len(self._slots) < RUNS_MAX:
            for one in (in_front, run_id):
                if one is not None and one not in self._slots:
                    self._slots[one] = first_free(self._slots.values())
        self.changed.emit()

    def clear(self) -> None:
        self._slots.clear()
        self.changed.emit()

    def slot(self, run_id: str) -> int:
        """The number of a run's letter and colour: the next free one for a run that is not chosen."""
        return self._slots.get(run_id, first_free(self._slots.values()))

    def letter(self, run_id: str) -> str:
        """The letter of a chosen run; nothing for others."""
        return chr(ord("A") + self._slots[run_id]) if run_id in self._slots else ""

    def shown_with(self, run_id: str) -> list[str]:
        """The runs to draw on the page of a run: its own, and those that are chosen."""
        return [run_id, *(one for one in self.runs if one != run_id)]
