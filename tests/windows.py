"""Windows of the client for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def windows(qtbot: Any, qapp: Any) -> Iterator[Callable[..., Any]]:
    """Opens a window on a feed. With `ticking` off its ticks come from the test.

    At the end each is closed, and no view and no event may have failed in it.
    """
    from PySide6.QtCore import QCoreApplication, QEvent

    from telefabric_gui import theme
    from telefabric_gui.controller import Controller
    from telefabric_gui.window import MainWindow

    made: list[MainWindow] = []
    theme.use(qapp, "dark")

    def opened(feed: Any, size: tuple[int, int] = (1440, 900), *, ticking: bool = True) -> MainWindow:
        window = MainWindow(Controller(feed))
        made.append(window)
        window.resize(*size)
        window.show()
        if not ticking:
            window.controller._timer.stop()
        qtbot.waitExposed(window)
        return window

    yield opened
    for window in made:
        assert not window.controller.failures.number, window.controller.failures.last
        window.close()
        window.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
