"""Parts of `info` that the user wants to see of every step."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QObject, Signal

PINS_MAX = 32
"""More would fill the details, where the step itself is to be seen."""


class Pins(QObject):
    """Paths, in the order in which they were pinned."""

    changed = Signal()

    def __init__(self, paths: Iterable[str] = (), parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.paths = list(dict.fromkeys(paths))[:PINS_MAX]

    def toggle(self, path: str) -> None:
        """Pin a part, or let it go."""
        if path in self.paths:
            self.paths.remove(path)
        elif len(self.paths) < PINS_MAX:
            self.paths.append(path)
        self.changed.emit()
