"""The menu of the pace: presets, and how often tables, charts and pictures are drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from PySide6.QtGui import QAction, QActionGroup
from PySide6.QtWidgets import QMenu, QWidget

from telefabric_gui.formatting import duration
from telefabric_gui.pace import EVERY_MS, PACES, TICK_MS, Pace
from telefabric_gui.views.styled import menu_of

_PRESETS = {
    "low-latency": "Low latency: all at once",
    "balanced": "Balanced",
    "high-rate": "High rate: over 1\u202f000 steps/s",
}
_VIEWS = {"tables_ms": "Tables", "charts_ms": "Charts", "pictures_ms": "Pictures"}


def pace_menu(parent: QWidget, pace: Pace, chosen: Callable[[Pace], object]) -> QMenu:
    """`chosen` takes the pace that is to be."""
    menu = menu_of(parent)
    menu.addSection("Draw")
    presets = QActionGroup(menu)
    for name, text in _PRESETS.items():
        _add(menu, presets, text, PACES[name] == pace, partial(chosen, PACES[name]))
    menu.addSeparator()
    for field, title in _VIEWS.items():
        now_ms = getattr(pace, field)
        times = menu.addMenu(f"{title}: {_often(now_ms)}")
        group = QActionGroup(times)
        for every_ms in EVERY_MS:
            other = msgspec.structs.replace(pace, **{field: every_ms})
            _add(times, group, _often(every_ms), every_ms == now_ms, partial(chosen, other))
    return menu


def _often(every_ms: int) -> str:
    return "at once" if every_ms == TICK_MS else f"every {duration(every_ms / 1e3)}"


def _add(menu: QMenu, group: QActionGroup, text: str, on: bool, chosen: Callable[[], object]) -> None:
    action = QAction(text, group, checkable=True, checked=on)
    action.triggered.connect(lambda _on: chosen())
    menu.addAction(action)
