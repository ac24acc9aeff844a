"""Objects of Qt live and die on the window's thread, whatever the threads of a feed do meanwhile."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from skips import requires
from slowness import patience
from test_gui_tabs import THERE

if THERE:
    from PySide6.QtCore import QObject, QTimer

    from telefabric.feed import Answer
    from telefabric.feed.questions import Asked
    from telefabric_gui.collector import Collector
    from telefabric_gui.model.asking import Asking
    from telefabric_gui.model.series import SeriesData, SeriesKey
    from telefabric_gui.reduction import NOTHING

pytestmark = requires("PySide6 and pyqtgraph", THERE)
SECONDS = 1.0


class Threads:
    """Answers each question on one of three threads, even if it was dropped meanwhile."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: list[Asked] = []
        self.answered = 0
        self.ended = False
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(3)]
        for thread in self.threads:
            thread.start()

    def ask(self, question: Any, answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        asked = Asked(question, answered)
        with self._changed:
            self._asked.append(asked)
            self._changed.notify()
        return asked

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()
        for thread in self.threads:
            thread.join(patience(10))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self.ended)
                if not self._asked:
                    return
                asked = self._asked.pop()
            asked.answered(Answer(asked.question, None, "nobody knows"))
            self.answered += 1


def models_come_and_go(seconds: float) -> int:
    """How many answers came for models that were being deleted by the window's thread. Crashes where that is wrong."""
    import time

    from PySide6.QtCore import QCoreApplication, QEvent
    from PySide6.QtWidgets import QApplication

    QApplication.instance() or QApplication([])
    feed, until_s = Threads(), time.monotonic() + seconds
    while time.monotonic() < until_s:
        parent = QObject()
        askings = [Asking(feed, parent) for _ in range(5)]
        series = SeriesData(feed, parent)
        series.want(SeriesKey("run", "agent", b"", "reward"), 0, 100, 10, NOTHING, grows=False)
        for asking in askings:
            asking.ask("a question", lambda answer: None)
        QCoreApplication.processEvents()
        parent.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    feed.end()
    return feed.answered


def test_a_model_may_go_while_a_thread_answers_it() -> None:
    said = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__], env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=patience(60), check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert not said.stderr
    assert int(said.stdout) > 100


def test_a_thread_that_answers_holds_no_model(qtbot: Any) -> None:
    died_on: list[threading.Thread] = []
    held: list[Asked] = []

    class Feed:
        def ask(self, question: Any, answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
            held.append(Asked(question, answered))
            return held[-1]

    parent = QObject()
    asking, series = Asking(Feed()), SeriesData(Feed(), parent)
    for one in (asking, series):
        weakref.finalize(one, lambda: died_on.append(threading.current_thread()))
    came: list[Answer] = []
    asking.ask("a question", came.append)
    series.want(SeriesKey("run", "agent", b"", "reward"), 0, 100, 10, NOTHING, grows=False)
    asked = list(held)
    held.clear()
    asking.close()
    del asking, series, one, parent
    gc.collect()
    thread = threading.Thread(target=asked.clear)
    thread.start()
    thread.join()
    assert died_on == [threading.main_thread()] * 2


def test_answers_reach_a_model_on_the_window_s_thread_until_it_is_closed(qtbot: Any) -> None:
    feed, came = Threads(), list[threading.Thread]()
    asking, closed = Asking(feed), Asking(feed)
    for _ in range(3):
        asking.ask("a question", lambda answer: came.append(threading.current_thread()))
        closed.ask("a question", lambda answer: pytest.fail("it was closed"))
    closed.close()
    qtbot.waitUntil(lambda: len(came) == 3, timeout=patience(5_000))
    feed.end()
    assert set(came) == {threading.main_thread()}


def test_cycles_are_collected_on_the_window_s_thread_whoever_makes_objects(qtbot: Any) -> None:
    died_on: list[threading.Thread] = []
    ended = threading.Event()

    class Cycle(QTimer):
        def __init__(self) -> None:
            super().__init__()
            self.itself = self
            weakref.finalize(self, lambda: died_on.append(threading.current_thread()))

    def make_objects() -> None:
        kept: list[list[Any]] = []
        while not ended.is_set():
            kept = [[kept[-100:]] for _ in range(1_000)]

    parent = QObject()
    collector = Collector(parent)
    thread = threading.Thread(target=make_objects)
    collector.start()
    thread.start()
    try:
        for _ in range(20):
            for _ in range(10):
                Cycle()
            qtbot.wait(5)
        qtbot.waitUntil(lambda: len(died_on) > 100, timeout=patience(5_000))
    finally:
        ended.set()
        thread.join()
        collector.stop()
    assert set(died_on) == {threading.main_thread()}


def test_python_collects_itself_again_when_the_last_window_has_ended(qtbot: Any) -> None:
    parent = QObject()
    one, other = Collector(parent), Collector(parent)
    one.start()
    other.start()
    one.stop()
    one.stop()
    assert not gc.isenabled()
    other.stop()
    assert gc.isenabled()


if __name__ == "__main__":
    print(models_come_and_go(SECONDS))
