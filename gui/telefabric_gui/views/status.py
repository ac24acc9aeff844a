"""The bar at the bottom: the figures that are always in sight, each in a place of its own."""

from __future__ import annotations

from PySide6.QtWidgets import QLabel

from telefabric_gui import theme
from telefabric_gui.views.painting import Dot
from telefabric_gui.views.styled import Badges, Panel, label, restyle, row

HEIGHT_PX = 28
_MARGIN_PX = 2
"""A label asks for a little more than its text takes."""
FIGURES = {
    "rate": ("0 000 000 events/s", "Events that this client receives per second"),
    "replay": ("replay 00 000 steps/s, live goes on", "Replay runs through what is stored; nothing live is lost by it"),
    "behind": ("behind live 00.0 s", "Age of the newest live event when it came in"),
    "missing": ("missing 000 000", "Events that have not come yet and are being fetched from the store"),
    "gaps": ("gaps 000 000", "Events that are lost for good"),
    "dropped": ("dropped here 000 000", "Live events that were dropped on the way to this client"),
    "failed": ("not shown 000", "How often something could not be shown; its view names the reason"),
    "frame": ("frame age 000 ms", "Time since the newest picture of the tab in front was taken"),
    "memory": ("memory 0 000 of 0 000 MB", "Memory of this client"),
    "redraw": ("redraw 000 ms at 30 Hz", "Time to process new events and paint them"),
}


class StatusBar(Panel):
    """`show_figure` once a tick; widths are fixed, so that nothing moves. Without room, the last ones are hidden."""

    def __init__(self) -> None:
        super().__init__("statusbar")
        self.setFixedHeight(HEIGHT_PX)
        self.dot = Dot()
        self._state = label(role="dim")
        self._figures: dict[str, QLabel] = {}
        for name, (widest, tip) in FIGURES.items():
            figure = self._figures[name] = label(role="dim")
            figure.setFont(theme.text_font(theme.CAPTION_PX))
            figure.setMinimumWidth(figure.fontMetrics().horizontalAdvance(widest) + _MARGIN_PX)
            figure.setToolTip(tip)
        state = row(self.dot, self._state, spacing=6)
        figures = Badges(*self._figures.values(), spacing=16)
        self.setLayout(row(state, (figures, 1), margins=(14, 0, 14, 0), spacing=16))

    def show_state(self, tone: str, words: str, *, pulse: bool) -> None:
        self.dot.show_state(tone, words, pulse=pulse)
        self._state.setText(words)

    def show_figure(self, name: str, text: str, role: str = "dim", tip: str = "") -> None:
        self._figures[name].setText(text)
        if tip:
            self._figures[name].setToolTip(tip)
        self._figures[name].setVisible(bool(text))
        restyle(self._figures[name], "role", role)
