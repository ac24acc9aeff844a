"""The application around the window: Qt, theme, and its end."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from pathlib import Path

from PySide6.QtCore import QEvent, QObject, QTimer, Signal
from PySide6.QtWidgets import QApplication

from telefabric import EnvironmentProblem, settings
from telefabric.feed import Feed
from telefabric_gui import theme
from telefabric_gui.controller import Controller
from telefabric_gui.sources import Opener, feed_of
from telefabric_gui.window import MainWindow

SWITCH_INTERVAL_S = 0.0005
"""Qt lets go of the interpreter at every painter call, and with Python's own 5 ms a busy feed keeps it each time."""


class _Input(QObject):
    """Standard input, which is watched by a thread of its own and tells that of the window."""

    closed = Signal()

    def watch(self) -> None:
        while os.read(sys.stdin.fileno(), 4_096):
            pass
        self.closed.emit()


def run(
    feed: Feed, *, theme_name: str, screenshot: Path | None, after_s: float, size: tuple[int, int] | None, tied: bool,
    opener: Opener = feed_of, source: str = "", offer: bool = False, sheet: bool = False,
    memory_limit: int = settings.SETTINGS["memory_limit"].default,
) -> None:  # fmt: skip
    """Show the feed until the window is closed; with `screenshot`, until it is saved. Ends cleanly on ^C.

    `opener`, `source`, `offer` and `memory_limit` are those of `MainWindow`; with `sheet` the one for connecting is
    open at first. The picture is taken after `after_s`; with `tied`, when standard input closes, which without a
    picture closes the window. Raises `EnvironmentProblem` when the picture cannot be written.
    """
    app = QApplication.instance() or QApplication(sys.argv[:1])
    assert isinstance(app, QApplication)
    app.setApplicationName("Telefabric")
    theme.use(app, theme_name)
    window = MainWindow(Controller(feed), opener=opener, source=source, offer=offer, memory_limit=memory_limit)
    if size:
        window.resize(*size)
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda number, frame: window.close()) for number in signals]
    saved: list[bool] = []
    end = window.close if screenshot is None else lambda: _grab(window, screenshot, saved)
    standard_input = _Input()
    standard_input.closed.connect(end)
    if tied:
        threading.Thread(target=standard_input.watch, name="parent-watch", daemon=True).start()
    elif screenshot is not None:
        QTimer.singleShot(int(after_s * 1000), window, end)
    window.show()
    if sheet:
        window.connecting.open_sheet()
    interval_s = sys.getswitchinterval()
    hook, sys.excepthook = sys.excepthook, window.views.hook
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # the collector would look through all of Qt's classes again every few seconds: 50 ms of pause
    try:
        app.exec()
    finally:
        gc.unfreeze()
        sys.excepthook = hook
        sys.setswitchinterval(interval_s)
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
        window.close()
    if screenshot is not None and not any(saved):
        raise EnvironmentProblem(
            f"the picture could not be written to {screenshot}: name a .png file in a folder of yours"
        )


def _grab(window: MainWindow, file: Path, saved: list[bool]) -> None:
    QApplication.sendPostedEvents(None, QEvent.Type.LayoutRequest)  # texts may just have grown
    saved.append(window.grab().save(str(file)))
    window.close()
