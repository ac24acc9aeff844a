"""Bookmarks in a real window, kept in a real store: named as they are made, renamed, removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import test_gui_timeline
import test_gui_window
from processes import broker, free_ports, store
from test_gui_timeline import cursor, page, pixel, until, whole

from telefabric.address import Address
from telefabric.feed.broker_feed import BrokerFeed
from telefabric_workers import connect

pytestmark = test_gui_timeline.pytestmark
if test_gui_window.THERE:
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtGui import QContextMenuEvent
    from PySide6.QtWidgets import QApplication

    from telefabric_gui.window import MainWindow

show = test_gui_timeline.show
STEPS = 3_000


def choose(menu: Any, words: str) -> None:
    next(action for action in menu.actions() if words in action.text()).trigger()


def labels(main: MainWindow) -> list[tuple[int, str]]:
    return [(row, one.label) for row, one in whole(main).bookmarks]


def test_a_bookmark_is_named_as_it_is_made_renamed_and_removed(
    show: Callable[..., MainWindow], qtbot: Any, tmp_path: Path
) -> None:
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    with broker(port), store(port, tmp_path):
        with connect(url, run="run", spool=tmp_path / "spool", exit_flush_s=20) as worker:
            for step in range(STEPS):
                worker.step(episode=step // 100, step=step % 100, observation=step, reward=1.0)
        main = show(BrokerFeed(Address.parse(url)))
        until(qtbot, lambda: main.page is not None and page(main).step_rows.stored == STEPS, 20_000)
        main.activateWindow()
        name = main.bottom.transport.name

        cursor(main).go_to(1_234)
        until(qtbot, lambda: page(main).step_rows.row(1_234) is not None)
        qtbot.keyClick(main, Qt.Key.Key_B)
        assert name.isVisible()
        cursor(main).go_to(5)  # where the cursor is by now is another matter
        qtbot.keyClicks(name, "first p")  # letters that are keys of the window elsewhere
        qtbot.keyClick(name, Qt.Key.Key_Return)
        assert not name.isVisible()
        until(qtbot, lambda: labels(main) == [(1_234, "first p")], 20_000)

        qtbot.keyClick(main, Qt.Key.Key_B)
        qtbot.keyClicks(name, "never")
        qtbot.keyClick(name, Qt.Key.Key_Escape)
        assert not name.isVisible()

        asked: list[tuple[QPoint, int]] = []
        main.bottom.line.menu_wanted.disconnect()
        main.bottom.line.menu_wanted.connect(lambda at, row: asked.append((at, row)))
        for row, lane in ((1_234, "marks"), (2_000, "span")):
            at = pixel_of(main, row, lane)
            event = QContextMenuEvent(QContextMenuEvent.Reason.Mouse, at, main.bottom.line.mapToGlobal(at))
            QApplication.sendEvent(main.bottom.line, event)
        (_, marked), (_, plain) = asked
        assert marked == 1_234
        assert abs(plain - 2_000) < STEPS / 300
        assert page(main).step_rows.row(2_000) is not None

        choose(main.bookmarks.menu(page(main), 1_234), "Rename")
        assert name.text() == "first p"
        name.setText("soft landing")
        qtbot.keyClick(name, Qt.Key.Key_Return)
        until(qtbot, lambda: labels(main) == [(1_234, "soft landing")], 20_000)

        choose(main.bookmarks.menu(page(main), 2_000), "Bookmark row 2\u202f001")
        qtbot.keyClick(name, Qt.Key.Key_Return)  # without a name
        until(qtbot, lambda: labels(main) == [(1_234, "soft landing"), (2_000, "")], 20_000)

        choose(main.bookmarks.menu(page(main), 1_234), "Remove")
        until(qtbot, lambda: labels(main) == [(2_000, "")], 20_000)
        cursor(main).go_to(2_000)
        qtbot.keyClick(main, Qt.Key.Key_B)
        until(qtbot, lambda: labels(main) == [], 20_000)


def pixel_of(main: MainWindow, row: int, lane: str) -> QPoint:
    found = next(one for one in main.bottom.line._lanes if one.name == lane)
    at = pixel(main, row)
    return QPoint(at.x(), found.top + found.height // 2)


def test_a_bookmark_of_a_row_that_is_not_in_memory_reads_it_first(main: MainWindow, qtbot: Any) -> None:
    edits: list[tuple[str, str, Any]] = []
    shown = page(main)
    main.bookmarks._edit = lambda *edit: edits.append(edit)
    main.bookmarks.keep(shown, 70 * 30 + 11, "landing")
    until(qtbot, lambda: edits)
    assert edits[0][:2] == ("run", "bookmark")
    agent, env, episode, step, stream, label = edits[0][2]
    assert (agent, env, episode, step, label) == ("agent_0", 0, 70, 11, "landing")
    assert stream == shown.stream.stream_id


main, file = test_gui_timeline.main, test_gui_timeline.file
