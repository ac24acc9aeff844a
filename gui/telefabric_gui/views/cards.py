"""Where the cards of a page are: four alike, or a grid of environments with the followed one beside it."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QWidget

from telefabric_gui.views.styled import Card

_GAP_PX = 12
_PLACES: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "cards": {"environment": (0, 0, 1, 1), "charts": (0, 1, 1, 1), "episodes": (1, 0, 1, 1), "steps": (1, 1, 1, 1)},
    "grid": {"vector": (0, 0, 2, 1), "environment": (0, 1, 1, 1), "steps": (1, 1, 1, 1)},
    "picture": {"environment": (0, 0, 2, 2)},
}
"""Row and column, and how many of them, by card."""
_WIDTHS = {"cards": (1, 1), "grid": (7, 6), "picture": (1, 1)}


class Cards(QWidget):
    """Cards that are not in a layout are hidden."""

    changed = Signal()

    def __init__(self, **cards: Card) -> None:
        super().__init__()
        self._of = cards
        self.shown_as = ""
        """One of `_PLACES`."""
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(_GAP_PX, _GAP_PX, _GAP_PX, _GAP_PX)
        self._grid.setSpacing(_GAP_PX)
        self._grid.setRowStretch(0, 1)
        self._grid.setRowStretch(1, 1)
        self.show_as("cards")

    def show_as(self, name: str) -> None:
        if name == self.shown_as:
            return
        self.shown_as, places = name, _PLACES[name]
        for card in self._of.values():
            self._grid.removeWidget(card)
        for name_of, card in self._of.items():
            if name_of in places:
                self._grid.addWidget(card, *places[name_of])
            else:
                card.setParent(self)
            card.setVisible(name_of in places)
        for at, width in enumerate(_WIDTHS[name]):
            self._grid.setColumnStretch(at, width)
        self.changed.emit()
