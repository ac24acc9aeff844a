"""A closed window leaves no thread, timer, socket or other descriptor behind, after every view was opened."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_gui_window
from processes import broker, free_ports, store, wait_for
from skips import requires
from slowness import patience

from telefabric.address import Address
from telefabric.feed import BrokerFeed, Feed, FileFeed
from telefabric.store.file.database import FILE_NAME
from telefabric_workers import connect

pytestmark = [
    test_gui_window.pytestmark[0],
    pytest.mark.qt_log_ignore("This plugin does not support"),  # grabs of menus, said by the offscreen platform
]
if test_gui_window.THERE:
    from every_view import every_view
    from PySide6.QtCore import QCoreApplication, QEvent, QTimer

    from telefabric_gui import theme
    from telefabric_gui.controller import Controller
    from telefabric_gui.window import MainWindow


def descriptors() -> dict[str, str]:
    """What each open descriptor is: the path of a file, the number of a socket."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # that of the list itself
            continue
    return found


def threads() -> set[str]:
    """All of the process, those of libraries too."""
    return set(os.listdir("/proc/self/task"))


def timers() -> list[Any]:
    return [one for one in gc.get_objects() if isinstance(one, QTimer) and _runs(one)]


def _runs(timer: Any) -> bool:
    try:
        return bool(timer.isActive())
    except RuntimeError:  # Qt has deleted it
        return False


def show_everything(feed: Feed, qtbot: Any) -> None:
    main = MainWindow(Controller(feed))
    main.resize(1440, 900)
    main.show()
    qtbot.waitUntil(lambda: main.page is not None and main.page.time.cursor.total > 20, timeout=patience(20_000))
    for _ in every_view(main):
        qtbot.wait(30)
    assert not main.controller.failures.number, main.controller.failures.last
    main.close()
    main.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@requires("/proc", Path("/proc/self/fd").exists())
@pytest.mark.parametrize("way", ["broker", "file"])
def test_nothing_is_left_after_every_view_was_open(
    qtbot: Any, qapp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    theme.use(qapp, "dark")
    port = free_ports()
    with broker(port), store(port, tmp_path):
        for run in ("one", "two"):
            write(f"tcp://127.0.0.1:{port}", run, tmp_path / "spool")
        made: Callable[[], Feed] = {
            "broker": lambda: BrokerFeed(Address("127.0.0.1", port)), "file": lambda: FileFeed(tmp_path / FILE_NAME)
        }[way]  # fmt: skip
        show_everything(made(), qtbot)  # what Qt opens once for all
        wait_for(lambda: not errands(), "no question of the sheet for connecting is open")
        before = threads(), set(descriptors().values())
        show_everything(made(), qtbot)
        gc.collect()
        assert not timers()
        wait_for(lambda: not errands(), "each question of the sheet has its deadline")
        assert threads() <= before[0]
        assert set(descriptors().values()) <= before[1]


def write(url: str, run: str, spool: Path) -> None:
    with connect(url, run=run, spool=spool, exit_flush_s=patience(20)) as worker:
        for step in range(200):
            worker.step(episode=step // 20, step=step % 20, reward=1.0, action=step % 3, terminated=step % 20 == 19)
            worker.metric("loss", 1 / (step + 1))


def errands() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("errand-")]
