"""A real window on a real run, while broker, store and clients are killed, stopped and started again."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import test_gui_window
from emitter import Progress
from processes import TELEFABRIC, Service, broker, free_ports, store
from slowness import patience
from test_kills import assert_whole, emitter

from telefabric.address import Address
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit

pytestmark = test_gui_window.pytestmark
if test_gui_window.THERE:
    from PySide6.QtCore import QCoreApplication, QEvent

    from telefabric_gui import theme
    from telefabric_gui.controller import Controller
    from telefabric_gui.rows import EVENT
    from telefabric_gui.window import MainWindow

SEED = 20_261
ROUNDS = 1
"""Each brings every fault once, in an order of its own."""
BETWEEN_EVENTS = 1_000


class Screen:
    """The window in sight, and beside it a client that is a process of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.window: MainWindow | None = None
        self.other: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Closes the one before, as its user would."""
        self.close()
        self.window = MainWindow(Controller(BrokerFeed(Address.parse(self.url), history_events=None)))
        self.window.resize(1440, 900)  # not what is left of the last one on a small screen
        self.window.show()
        self.other = subprocess.Popen([*TELEFABRIC, "gui", "--connect", self.url], stdin=subprocess.DEVNULL)

    def kill_other(self) -> None:
        """-9, as the system would."""
        if self.other is not None:
            self.other.kill()
            self.other.wait(patience(20))
            self.other = None

    def close(self) -> None:
        self.kill_other()
        if self.window is not None:
            self.window.close()
            self.window.deleteLater()
            self.window = None
            QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    def seqs(self) -> list[int]:
        """Of the events in the table of steps."""
        if self.window is None or (page := self.window.page) is None:
            return []
        rows = page.stream.steps
        return sorted(rows.column("seq")[rows.column("mark") == EVENT].tolist())


def stored_seqs(file: Path) -> list[int]:
    with apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM steps ORDER BY seq")]


def faults(screen: Screen, services: dict[str, Service]) -> list[Callable[[], None]]:
    """Each of them ends with all parts there again."""

    def restart(end: Callable[[Service], object], *names: str) -> Callable[[], None]:
        def fault() -> None:
            for name in names:
                end(services[name])
            for name in names:
                services[name].start()

        return fault

    return [
        restart(Service.kill, "broker"),
        restart(Service.kill, "store"),
        restart(Service.kill, "store", "broker"),
        restart(Service.stop, "broker"),
        restart(Service.stop, "store"),
        screen.kill_other,
        screen.open,
    ]


def test_after_any_kills_and_restarts_the_tables_are_what_the_store_is(qtbot: Any, qapp: Any, tmp_path: Path) -> None:
    theme.use(qapp, "dark")
    choose = random.Random(SEED)
    port = free_ports()
    services = {"broker": broker(port), "store": store(port, tmp_path)}
    progress = Progress(tmp_path / "run.progress")
    screen = Screen(f"tcp://127.0.0.1:{port}")
    try:
        with services["broker"], services["store"], emitter(screen.url, tmp_path, "run", "--rate", 2_000) as worker:
            screen.open()
            for _ in range(ROUNDS):
                for fault in choose.sample(known := faults(screen, services), len(known)):
                    mark = progress.read()[1] + choose.randrange(BETWEEN_EVENTS)
                    qtbot.waitUntil(lambda mark=mark: progress.read()[1] > mark, timeout=patience(20_000))
                    fault()
            worker.signal(signal.SIGINT)
            assert worker.process is not None
            assert screen.window is not None
            process, file, window = worker.process, tmp_path / FILE_NAME, screen.window
            qtbot.waitUntil(lambda: process.poll() is not None, timeout=patience(60_000))
            stream, emitted = progress.read()
            qtbot.waitUntil(lambda: audit(file, stream, emitted).missing == 0, timeout=patience(30_000))
            qtbot.waitUntil(lambda: len(screen.seqs()) >= len(stored_seqs(file)), timeout=patience(30_000))
            qtbot.waitUntil(lambda: window.controller.missing == 0, timeout=patience(20_000))
            assert screen.seqs() == stored_seqs(file)
            qtbot.waitUntil(lambda: window.details._verdict.text() == "all accounted for", timeout=patience(20_000))
    finally:
        screen.close()
    assert_whole(tmp_path / FILE_NAME, stream, emitted)
