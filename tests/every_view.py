"""Every view of the client, opened one after the other in a window that shows a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QMenu, QMessageBox

from telefabric_gui.model.layout import AXES
from telefabric_gui.model.search import asked_for
from telefabric_gui.window import MainWindow

KEY = Qt.Key
CTRL = Qt.KeyboardModifier.ControlModifier


def every_view(main: MainWindow) -> Iterator[str]:
    """Opens the next view, gives its name, and closes it when asked for the one after it."""
    for name, view in VIEWS.items():
        close = view(main)
        yield name
        if close is not None:
            close()


def _press(main: MainWindow, key: Qt.Key, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
    main._body.setFocus()
    QTest.keyClick(main, key, modifier)


def _page(main: MainWindow) -> Any:
    assert main.page is not None
    return main.page


def _replay(main: MainWindow) -> Callable[[], None]:
    main.page.time.cursor.go_to(0)  # type: ignore[union-attr]
    main.playing.replay(10.0)
    return main.playing.follow


def _selection(main: MainWindow) -> Callable[[], None]:
    cursor = _page(main).time.cursor
    cursor.select(cursor.total // 4, cursor.total // 2)
    cursor.see(0, cursor.total / 2)

    def close() -> None:
        here = _page(main).time.cursor  # of another page, when another attempt has begun
        here.select_nothing()
        here.see_all()

    return close


def _charts(main: MainWindow) -> Callable[[], None]:
    layout = main.charting.layout
    layout.add_chart()
    layout.put("reward")
    layout.set_log(len(layout.charts) - 1, True)
    layout.set_axis(AXES[2])

    def close() -> None:
        layout.remove_chart(len(layout.charts) - 1)
        layout.set_axis(AXES[0])

    return close


def _overlay(main: MainWindow) -> Callable[[], None]:
    for run_id in sorted(main.controller.runs):
        if run_id != _page(main).stream.key.run_id:
            main.runs.overlay_wanted.emit(run_id)
    return main.charting.overlay.clear


def _search(main: MainWindow) -> Callable[[], None]:
    _page(main).step_finder._on_conditions(asked_for("reward > 0"))
    return lambda: _page(main).step_finder.show_all()  # noqa: PLW0108 - of the page that is there then


def _order(main: MainWindow) -> Callable[[], None]:
    _page(main).episodes.order_wanted.emit("total_reward")
    return lambda: _page(main).episodes_card.order.show_all()  # noqa: PLW0108 - as above


def _columns(main: MainWindow) -> Callable[[], None]:
    _page(main).steps_card._columns.click()
    return _close_menus


def _keys(main: MainWindow) -> Callable[[], None]:
    main.show_keys()
    return lambda: [box.close() for box in main.findChildren(QMessageBox)] and None


def _history(main: MainWindow) -> Callable[[], None]:
    main.show_history()
    main.history.list.selectAll()
    return lambda: main.show_history(False)


def _sheet(main: MainWindow) -> Callable[[], None]:
    main.connecting.open_sheet()
    return main.sheet.close_sheet


def _close_menus() -> None:
    for menu in [one for one in QApplication.topLevelWidgets() if isinstance(one, QMenu)]:
        menu.close()


def _filter(main: MainWindow) -> Callable[[], None]:
    main.runs.filter.setText("run")
    return main.runs.filter.clear


def _step(main: MainWindow) -> Callable[[], None]:
    _press(main, KEY.Key_Home)
    _press(main, KEY.Key_Right)
    return main.playing.follow


def _docks(main: MainWindow) -> Callable[[], None]:
    _press(main, KEY.Key_BracketLeft)
    _press(main, KEY.Key_BracketRight)

    def close() -> None:
        _press(main, KEY.Key_BracketLeft)
        _press(main, KEY.Key_BracketRight)

    return close


def _theme(main: MainWindow) -> Callable[[], None]:
    main.switch_theme()
    return main.switch_theme


def _tab(main: MainWindow, title: str) -> Callable[[], None]:
    """The tab whose title begins so; without one, as of a run of one agent, nothing."""
    here, tabs = main.tabs.currentWidget(), main.tabs
    at = next((at for at in range(tabs.count()) if tabs.tabText(at).startswith(title)), tabs.currentIndex())
    tabs.setCurrentIndex(at)
    return lambda: tabs.setCurrentWidget(here) if tabs.indexOf(here) >= 0 else None


def _raw(main: MainWindow) -> Callable[[], None]:
    """The environment as a tree of events, then as it was."""

    def press(name: str) -> None:
        for button in _page(main).findChildren(QAbstractButton):
            if button.text() == name and button.isVisible():
                button.click()

    press("Raw")
    return lambda: [press(name) for name in ("Grid", "Picture", "Numbers", "Video")] and None


def _another_replay(main: MainWindow) -> Callable[[], None]:
    """A further page of the same agent, with a cursor of its own."""
    main.tabs.open_replay(_page(main).stream.key)

    def close() -> None:
        for tab in [tab for tab in main.tabs.agents if tab.copy]:
            main.tabs.setCurrentWidget(tab)  # another tab may have come to the front meanwhile
            main.tabs.close_front()

    return close


VIEWS: dict[str, Callable[[MainWindow], Callable[[], object] | None]] = {
    "followed": lambda main: main.playing.follow(),
    "a chosen step": _step,
    "replay": _replay,
    "a selection": _selection,
    "charts": _charts,
    "runs over each other": _overlay,
    "search of steps": _search,
    "order of episodes": _order,
    "choice of columns": _columns,
    "raw": _raw,
    "another replay": _another_replay,
    "Multi-Agent": partial(_tab, title="Multi-Agent"),
    "Human Replay": partial(_tab, title="Human Replay"),
    "list of runs": _filter,
    "history": _history,
    "keys": _keys,
    "sheet for connecting": _sheet,
    "docks": _docks,
    "the other theme": _theme,
}
"""What opens a view; it returns what closes it."""
