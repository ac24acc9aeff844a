"""What raises in one view, or in the feed, is said there and counted; everything else goes on, and so does it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for
from skips import requires
from store_fixtures import Scribe, episode, run_started, step, stream
from test_gui_feed import LIVE, ScriptedFeed, told, update, view

from telefabric.address import Address
from telefabric.feed import file_feed as filefeed
from telefabric.feed import history_thread as history
from telefabric.feed import merged
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.failures import Failures
from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import Update

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication, QEvent
    from PySide6.QtGui import QGuiApplication

    from telefabric_gui import theme
    from telefabric_gui import window as window_module
    from telefabric_gui.controller import Controller
    from telefabric_gui.views import cover
    from telefabric_gui.views.cover import Cover
    from telefabric_gui.window import MainWindow


class Failing:
    """Raises when called, until it is mended."""

    def __init__(self) -> None:
        self.broken = True
        self.calls = 0

    def __call__(self, *what: object) -> None:
        self.calls += 1
        if self.broken:
            raise ValueError("a value\nthat nobody expected")


@pytest.fixture
def show(qtbot: Any, qapp: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MainWindow]]:
    """A window as the command has it, on a scripted feed; ticks come from the test."""
    made: list[MainWindow] = []
    monkeypatch.setattr(window_module, "_DETAILS_TICKS", 1)
    monkeypatch.setattr(cover, "AGAIN_S", 0.05)
    theme.use(qapp, "dark")

    def shown(feed: Any) -> MainWindow:
        window = MainWindow(Controller(feed))
        made.append(window)
        monkeypatch.setattr(sys, "excepthook", window.views.hook)
        window.resize(1440, 900)
        window.show()
        window.controller._timer.stop()
        qtbot.waitExposed(window)
        return window

    yield shown
    for window in made:
        window.close()
        window.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def tick(main: MainWindow, *events: Any) -> None:
    if events:
        main.controller.feed.updates.append(update(*events))  # type: ignore[attr-defined]
    main.controller.tick()
    QCoreApplication.processEvents()


def followed(show: Callable[..., MainWindow]) -> MainWindow:
    main = show(ScriptedFeed(update(runs=(view(),)), update(told(step(1)), told(episode(2)))))
    tick(main)
    tick(main)
    return main


def covered(main: MainWindow, part: str) -> Cover | None:
    page = main.page
    assert page is not None
    return main.views.cover(getattr(page, part))


def test_a_view_that_fails_says_so_in_its_place_and_the_others_go_on(
    show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    main, failing = followed(show), Failing()
    page = main.page
    assert page is not None
    monkeypatch.setattr(page.charts, "show_source", failing)
    for seq in range(11, 19):  # charts are drawn at every fourth tick
        tick(main, told(step(seq)))
    over = covered(main, "charts")
    assert over is not None
    assert over.isVisible()
    assert over.geometry() == page.charts.rect()
    assert over.sentence.startswith("Charts: not shown. ValueError: a value that nobody expected.")
    over._copy.click()
    copied = QGuiApplication.clipboard().text()
    assert "Charts of agent_0 of run" in copied
    assert "Traceback" in copied
    assert page.step_table.rowCount() == 9
    assert page.details[-2] == ("seq", "18")
    assert main.status._figures["failed"].text() == f"not shown {failing.calls}"
    chain = {part.name: part for part in main.details._chain._parts}
    assert chain["This client"].tone == "error"
    assert all(covered(main, part) is None for part in ("steps", "episodes", "environment"))


def test_a_view_that_failed_is_tried_again_with_what_is_new_and_not_at_each_tick(
    show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    main, failing = followed(show), Failing()
    page = main.page
    assert page is not None
    monkeypatch.setattr(page.episodes_card, "say", failing)
    tick(main, told(episode(11)))
    assert covered(main, "episodes") is not None
    calls = failing.calls
    time.sleep(0.1)
    for _ in range(5):
        tick(main)
    assert failing.calls == calls, "nothing was new"
    for seq in range(12, 30):
        tick(main, told(step(seq)))
    assert calls < failing.calls < calls + 10
    failing.broken = False
    seqs = iter(range(31, 10_000))
    wait_for(lambda: tick(main, told(step(next(seqs)))) or covered(main, "episodes") is None, "it is tried again")
    before = main.controller.failures.number
    tick(main, told(step(10_001)))
    assert main.controller.failures.number == before


def test_a_painter_that_fails_is_the_view_s_own_affair(
    show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    main, failing = followed(show), Failing()
    page = main.page
    assert page is not None
    monkeypatch.setattr(page.environment, "_paint_figures", failing)
    tick(main, told(step(11)))
    page.environment.repaint()
    QCoreApplication.processEvents()
    over = covered(main, "environment")
    assert over is not None
    assert "Environment of agent_0 of run" in over.details
    tick(main, told(step(12)))
    assert page.step_table.rowCount() == 3
    failing.broken = False
    seqs = iter(range(13, 10_000))
    wait_for(lambda: tick(main, told(step(next(seqs)))) or covered(main, "environment") is None, "it is tried again")


def test_a_model_that_fails_while_its_table_is_painted_covers_the_table(
    show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    main, failing = followed(show), Failing()
    page = main.page
    assert page is not None
    monkeypatch.setattr(page.episode_table, "cells", failing)
    tick(main, told(episode(11)))
    page.episodes.viewport().repaint()
    QCoreApplication.processEvents()
    assert covered(main, "episodes") is not None
    assert covered(main, "steps") is None


@pytest.mark.parametrize("where", ["runs", "history"])
def test_a_fault_while_a_list_is_painted_covers_that_list(
    show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    main = show(ScriptedFeed(update(runs=(view("lake"),)), update(runs=(view("pole"),))))
    tick(main)
    main.show_history(where == "history")
    views = {"runs": main.runs, "history": main.history, "stack": main.stack, "top": main.top}
    faulty = views.pop(where)
    with monkeypatch.context() as broken:
        broken.setattr(faulty.table, "row", lambda place: 1 // 0)
        faulty.list.viewport().repaint()
        QCoreApplication.processEvents()
        assert main.views.cover(faulty) is not None
        assert not any(main.views.cover(view) for view in views.values())
        tick(main)
    wait_for(lambda: tick(main) or main.views.cover(faulty) is None, "it is shown again")
    assert faulty.table.rowCount() == 2


def test_a_failure_outside_of_all_views_is_counted(show: Callable[..., MainWindow]) -> None:
    main = followed(show)
    try:
        Failing()()
    except ValueError as error:
        main.views.hook(type(error), error, error.__traceback__)
    assert main.controller.failures.number == 1


def test_a_dock_that_fails_is_covered_too(show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch) -> None:
    main = followed(show)
    monkeypatch.setattr(main.details, "show_health", Failing())
    monkeypatch.setattr(main.status, "show_state", Failing())
    tick(main, told(step(11)))
    for dock in (main.details, main.status):
        over = main.views.cover(dock)
        assert over is not None
        assert over.geometry() == dock.rect()
        assert not over.grab().isNull()
    assert covered(main, "steps") is None


def test_a_feed_that_fails_once_costs_one_tick(
    show: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    main = followed(show)
    with monkeypatch.context() as broken:
        broken.setattr(main.controller.feed, "drain", Failing())
        tick(main)
    tick(main, told(step(11)))
    assert main.controller.failures.number == 1
    assert main.page is not None
    assert main.page.step_table.rowCount() == 2


def test_what_the_feed_has_to_say_is_in_the_banner(show: Callable[..., MainWindow]) -> None:
    main = followed(show)
    said = LIVE._replace(notice="It is read as it is.")
    main.controller.feed.updates.append(update(connection=said))  # type: ignore[attr-defined]
    tick(main)
    assert main.banner.isVisible()
    assert main.banner._text.text() == said.notice


# -- the threads of the feeds ------------------------------------------------------------------------------------
def drained(feed: Any, true: Callable[[Update], object], what: str) -> Update:
    found: list[Update] = []

    def look() -> bool:
        found.append(feed.drain())
        return bool(true(found[-1]))

    wait_for(look, what)
    return found[-1]


def test_the_thread_of_a_store_file_outlives_what_it_meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Scribe(tmp_path / "telemetry.sqlite") as scribe:
        info = stream()
        scribe.put(info, run_started(1, info), step(2))
        scribe.commit()
    feed = FileFeed(tmp_path / "telemetry.sqlite")
    with monkeypatch.context() as broken:
        broken.setattr(filefeed, "FileReader", lambda *given, **options: Failing()())
        feed.start()
        connection = drained(feed, lambda one: one.connection.failures, "word of the failure").connection
    assert connection.notice == "Reading the store file: ValueError: a value that nobody expected"
    feed.watch(frozenset({"run"}))
    assert drained(feed, lambda one: one.events, "events all the same").events[0].seq == 1
    feed.stop()


def test_the_threads_of_a_broker_s_feed_outlive_what_they_meet(
    fabric_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = BrokerFeed(Address.parse(fabric_service.url))
    feed.watch(frozenset({"run"}))
    with monkeypatch.context() as broken:
        broken.setattr(merged.MergedStreams, "live", Failing())
        broken.setattr(history.HistoryThread, "_look_and_fetch", Failing())
        feed.start()
        with fabric_service.connect(run="run") as worker:
            steps = iter(range(1_000_000))

            def failed() -> bool:
                worker.step(episode=0, step=next(steps))
                return bool(feed._live.failures.number and feed._history.failures.number)

            wait_for(failed, "both threads fail")
            assert feed.drain().connection.failures >= 2
            broken.undo()
            drained(feed, lambda one: one.events, "events all the same")
    feed.stop()


def test_what_is_outlived_is_counted_and_told_on_one_line() -> None:
    failures = Failures()
    with failures.outlived("A part"):
        raise KeyError("x" * 1_000 + "\n")
    assert failures.number == 1
    assert failures.last.startswith("A part: KeyError: 'xxx")
    assert len(failures.last) < 200
    with pytest.raises(KeyboardInterrupt), failures.outlived("A part"):
        raise KeyboardInterrupt
