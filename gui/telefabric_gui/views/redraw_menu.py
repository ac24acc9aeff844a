"""The menu of the redraw: presets, and how often tables, charts and pictures are drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from PySide6.QtGui import QAction, QActionGroup
from PySide6.QtWidgets import QMenu, QWidget

from telefabric_gui.formatting import duration
from telefabric_gui.redraw import EVERY_MS, PRESETS, TICK_MS, Redraw
from telefabric_gui.views.styled import heading, menu_of

_WORDS = {
    "low-latency": "Low latency: all at once",
    "balanced": "Balanced",
    "high-rate": "High rate: over 1\u202f000 steps/s",
}
_VIEWS = {"tables_ms": "Tables", "charts_ms": "Charts", "pictures_ms": "Pictures"}


def redraw_menu(parent: QWidget, redraw: Redraw, chosen: Callable[[Redraw], object]) -> QMenu:
    """`chosen` takes the redraw that is to be."""
    menu = menu_of(parent)
    heading(menu, "Show what comes")
    presets = QActionGroup(menu)
    for name, text in _WORDS.items():
        _add(menu, presets, text, PRESETS[name] == redraw, partial(chosen, PRESETS[name]))
    menu.addSeparator()
    for field, title in _VIEWS.items():
        now_ms = getattr(redraw, field)
        times = menu.addMenu(f"{title}: {_often(now_ms)}")
        group = QActionGroup(times)
        for every_ms in EVERY_MS:
            other = msgspec.structs.replace(redraw, **{field: every_ms})
            _add(times, group, _often(every_ms), every_ms == now_ms, partial(chosen, other))
    return menu


def _often(every_ms: int) -> str:
    return "at once" if every_ms == TICK_MS else f"every {duration(every_ms / 1e3)}"


def _add(menu: QMenu, group: QActionGroup, text: str, on: bool, chosen: Callable[[], object]) -> None:
    action = QAction(text, group, checkable=True, checked=on)
    action.triggered.connect(lambda _on: chosen())
    menu.addAction(action)
