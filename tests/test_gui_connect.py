"""The client's sheet for connecting, against real brokers with keys: tickets, states, failures, the last one again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from processes import broker as plain_broker
from processes import free_ports, wait_for
from skips import requires
from slowness import patience
from store_fixtures import Scribe, step
from test_gui_feed import ScriptedFeed, update, view
from test_gui_feed import told as told_event
from test_keys_services import Lab

from telefabric.address import Address
from telefabric.feed import HERE, Answer, FrameAt, Ticket, brokers
from telefabric.feed.interface import Connection, LinkState
from telefabric.keys import saved_connections
from telefabric.keys.core.registry import TicketRecord
from telefabric.keys.core.roles import Role
from telefabric.keys.gate import now
from telefabric.keys.join import join_and_save
from telefabric.keys.pairs import join_pairs_in_child
from telefabric_schemas import event_of
from telefabric_workers import connect

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from click.testing import CliRunner
    from PySide6.QtCore import QCoreApplication, QEvent, Qt
    from PySide6.QtTest import QTest

    from telefabric_gui import app, theme
    from telefabric_gui.command import gui
    from telefabric_gui.controller import Controller
    from telefabric_gui.sources import Memory, feed_of
    from telefabric_gui.views import connect as connect_module
    from telefabric_gui.window import MainWindow

PICTURE = np.zeros((8, 8, 3), np.uint8)
FEED_THREADS = {"telefabric-live", "telefabric-history", "telefabric-feed-end"}
NOT_REACHED = Connection(LinkState.UNREACHABLE, HERE, "Nobody answers")


class Laboratory(Lab):
    def join(self, name: str, role: Role, runs: str = "*") -> Address:
        """As a user's program does it, which may have CURVE sockets, as the windows here have."""
        ticket = Ticket.decode(self.ticket(name, role, runs=runs))
        return join_and_save(ticket, timeout_s=patience(10), make_pairs=join_pairs_in_child).connection.dialled

    def ticket(self, name: str, role: Role = Role.CLIENT, **more: Any) -> str:
        record = TicketRecord(name, role, now(), now() + timedelta(hours=1), **more)
        return self.keys.invite(record, Address.parse(self.url)).encode()


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TELEFABRIC_DATA", str(tmp_path / "own"))
    return tmp_path / "config" / "telefabric"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Laboratory]:
    """A broker and a store with keys; nobody has joined them from here."""
    found = Laboratory(tmp_path)
    for name in saved_connections.names():
        saved_connections.forget(name)
    with found.service:
        yield found


@pytest.fixture
def window(qtbot: Any, qapp: Any) -> Iterator[Callable[..., MainWindow]]:
    made: list[MainWindow] = []
    theme.use(qapp, "dark")

    def show(feed: Any = None, **options: Any) -> MainWindow:
        window = MainWindow(Controller(feed or ScriptedFeed(connection=NOT_REACHED)), **options)
        made.append(window)
        window.show()
        qtbot.waitExposed(window)
        return window

    yield show
    for window in made:
        window.close()
        window.deleteLater()
        assert not window.controller.failures.number, window.controller.failures.last
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    wait_for(lambda: not {one.name for one in threading.enumerate()} & FEED_THREADS, "feeds end")


def until(look: Callable[[], Any], what: str, timeout_s: float = 20) -> Any:
    """Wait while the window goes on."""
    return wait_for(lambda: (QTest.qWait(20), look())[1], what, timeout_s)


def state(main: MainWindow, key: str) -> Any:
    return main.sheet.rows[key].state


def told(main: MainWindow) -> str:
    sheet = main.sheet
    return f"{sheet._note_title.text()} {sheet._note_text.text()}" if sheet.note.isVisible() else ""


def saved(name: str, like: str, **changed: Any) -> None:
    """Another saved connection, made from one."""
    saved_connections.save(name, msgspec.structs.replace(saved_connections.load(like), **changed))


# -- joining -----------------------------------------------------------------------------------------------------
def test_a_pasted_ticket_is_read_joined_and_shows_runs_frames_and_history(
    lab: Laboratory, window: Callable[..., MainWindow]
) -> None:
    main = window()
    main.connecting.open_sheet()
    line = lab.ticket("ada")
    main.sheet.line.setText(line)
    key = Ticket.decode(line).server.hex()
    assert f"127.0.0.1:{lab.port}, good for 59 min" in told(main)
    assert f"Server key {key[:4]} {key[4:8]}" in told(main)
    assert line[20:-20] not in main.sheet.line.text(), "what is secret of it is not shown"
    QTest.keyClick(main.sheet.line, Qt.Key.Key_Return)
    until(lambda: not main.sheet.isVisible(), "joined, and the sheet is closed")
    assert saved_connections.load("ada").role is Role.CLIENT
    until(lambda: main.controller.connection.link is LinkState.LIVE, "live")
    lab.join("eve", Role.WORKER)
    assert lab.work("eve", "sweep-1") == ""
    page = until(lambda: main.page, "a tab for the run that came")
    until(lambda: page.step_table.rowCount() == 10, "all its steps")
    assert main.memory.recent == ["ada"]

    again = window(feed_of(main.memory.last()))
    page = until(lambda: again.page, "from the store alone")
    until(lambda: page.step_table.rowCount() == 10, "what was stored before")


def test_over_the_address_alone_go_live_steps_pictures_frames_history_and_edits(
    lab: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.join("eve", Role.WORKER)
    lab.join("ada", Role.OPERATOR)
    monkeypatch.setenv("TELEFABRIC_STORE_FRAMES", "steps:1")
    seen: dict[str, set[bool]] = {}
    found: list[Answer] = []
    edits: list[str] = []

    def drained() -> dict[str, set[bool]]:
        """Kind → whether one came live, and whether one came from the store."""
        news = feed.drain()
        for one in news.events:
            kind = "picture" if one.kind == "frame" and not one.seq else one.kind
            seen.setdefault(kind, set()).add(one.live)
        edits.extend(news.answers)
        return seen

    feed = feed_of(lab.url)
    feed.start()
    feed.watch(frozenset({"sweep-1"}))
    feed.want_pictures(frozenset({"sweep-1"}))
    try:
        with connect("eve", run="sweep-1", spool=tmp_path / "spool", exit_flush_s=patience(20)) as worker:
            for number in range(5):
                worker.step(episode=0, step=number, action=1, observation=1, reward=0.0, frame=PICTURE)
            assert worker.flush(patience(20))
            wait_for(lambda: False in drained().get("step", ()), "history")

            def one_more() -> bool:
                worker.step(episode=0, step=5, action=1, observation=1, reward=0.0, frame=PICTURE)
                return True in drained().get("step", ()) and "picture" in seen

            wait_for(one_more, "live steps and pictures")
        feed.ask(FrameAt("sweep-1", "agent_0", 0, 0, 2), found.append)
        wait_for(lambda: found, "the frame of a step")
        assert found[0].page is not None
        assert event_of(found[0].page.rows[0].event).step_index == 2  # type: ignore[union-attr]
        feed.edit("sweep-1", "tag", "good")
        wait_for(lambda: (drained(), edits)[1], "an answer to an edit")
        assert "has the tag" in edits[0]
    finally:
        feed.stop()


def test_each_way_in_which_a_ticket_fails_is_said_with_its_remedy(
    lab: Laboratory, window: Callable[..., MainWindow]
) -> None:
    main = window()
    main.connecting.open_sheet()
    line = lab.ticket("ada")
    main.sheet.line.setText(line[:-9])
    assert "This is no whole ticket Copy the line that telefabric keys invite printed" in told(main)
    assert not main.sheet.go.isEnabled()
    used, revoked = lab.ticket("bob"), lab.ticket("eve")
    subprocess.run([sys.executable, "-m", "telefabric.cli.main", "join", used], check=True, capture_output=True)
    lab.revoke("eve")
    for given, sentence in ((used, "was used already"), (revoked, "was revoked")):
        main.sheet.line.setText(given)
        main.sheet.go.click()
        assert "Joining" in told(main)
        until(lambda: "Joining" not in told(main), "answered")
        assert sentence in told(main)
        assert "ask for a new ticket" in told(main).lower()
        assert main.sheet.go.isEnabled(), "it may be tried again"
    assert saved_connections.names() == ["bob"]


def test_a_worker_s_ticket_is_joined_and_does_not_watch(lab: Laboratory, window: Callable[..., MainWindow]) -> None:
    main = window()
    main.connecting.open_sheet()
    main.sheet.line.setText(lab.ticket("ada", Role.WORKER, runs="sweep-*"))
    main.sheet.go.click()
    until(lambda: "may not watch" in told(main), "joined")
    row = main.sheet.rows["ada"]
    until(lambda: row.state.word.startswith("answers"), "asked")
    assert not row.button.isEnabled()
    assert "--role client" in row.button.toolTip()
    assert row.source.role == "worker for sweep-*"


def test_joining_and_asking_never_hold_the_window_up(
    window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr(connect_module, "ask_broker", lambda key: go.wait(patience(20)))
    main = window()
    main.connecting.open_sheet()
    before = main._ticks
    until(lambda: main._ticks > before + 5, "the window goes on")
    assert state(main, HERE).word == "asking …"
    main.sheet.close_sheet()
    go.set()


# -- states ------------------------------------------------------------------------------------------------------
def test_each_row_says_how_its_broker_is_and_a_failed_one_opens_with_what_helps(
    lab: Laboratory, window: Callable[..., MainWindow]
) -> None:
    lab.join("ada", Role.CLIENT)
    lab.join("eve", Role.CLIENT)
    lab.revoke("eve")
    saved("stranger", "ada", server=saved_connections.load("ada").public)
    saved("unknown", "ada", **join_pairs_in_child(os.urandom(32)).new._asdict())
    saved("closed", "ada", address=f"tcp://127.0.0.1:{free_ports()}")
    saved("nowhere", "ada", address="tcp://lab.invalid:7750")
    saved("old", "eve", expires=now() - timedelta(days=1))
    saved("open", "ada")
    (saved_connections.folder() / "open.json").chmod(0o644)
    expected = {
        "closed": "nothing runs there", "eve": "key refused", "nowhere": "no such machine", "old": "key expired",
        "open": "cannot be used", "silent": "no answer", "stranger": "wrong server key", "unknown": "key not known",
    }  # fmt: skip
    main = window()
    with full_socket() as port:
        saved("silent", "ada", address=f"tcp://127.0.0.1:{port}")
        main.connecting.open_sheet()
        until(lambda: words(main, expected) == expected, f"all are {expected}")
    assert state(main, "ada").word.startswith("answers in ")
    assert not main.sheet.rows["ada"].more.isVisible()
    for key in expected:
        row = main.sheet.rows[key]
        assert row.more.isVisible(), key
        assert row.button.text() == "Try again"
        what, colon, remedy = row.state.problem.partition(": ")
        assert what, row.state
        assert colon, row.state
        assert remedy, row.state
    assert state(main, "eve").command == f"telefabric keys invite eve --role client --this-machine --listen {lab.url}"
    assert state(main, "closed").command == "telefabric doctor --connect closed"
    assert "within 2 s" in state(main, "silent").problem
    assert f"chmod 600 {saved_connections.folder() / 'open.json'}" in state(main, "open").problem
    body = main.sheet._scroll._body
    assert body.width() == main.sheet._scroll.viewport().width()


def test_a_row_that_fails_says_when_it_was_last_reached(
    lab: Laboratory, window: Callable[..., MainWindow], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.join("ada", Role.CLIENT)
    saved("never", "ada", address=f"tcp://127.0.0.1:{free_ports()}")
    main = window()
    main.connecting.open_sheet()
    until(lambda: state(main, "ada").word.startswith("answers in "), "ada answers")
    assert state(main, "ada").under == "no run is live"
    saved("ada", "never")
    clock = time.time
    monkeypatch.setattr("telefabric_gui.sources.time.time", lambda: clock() + 3 * 86_400 + 5)
    later = window()
    later.connecting.open_sheet()
    until(lambda: state(later, "ada").word == state(later, "never").word == "nothing runs there", "both are asked")
    assert state(later, "ada").under == "last reached 3 days ago"
    assert state(later, "never").under == ""
    assert later.sheet.rows["ada"]._under.isVisible()
    later.memory.forget("ada")
    assert Memory().reached_s("ada") is None


@pytest.mark.parametrize("spoiled", ["", "{", "[1]", '{"ada": "x"}'])
def test_a_spoiled_memory_remembers_nothing(config: Path, spoiled: str) -> None:
    config.mkdir(parents=True)
    (config / "client.ini").write_text(f"[General]\nreached={spoiled}\n")
    assert Memory().reached_s("ada") is None


def test_what_is_connected_was_reached_until_it_went(lab: Laboratory, window: Callable[..., MainWindow]) -> None:
    lab.join("ada", Role.CLIENT)
    main = window(feed_of("ada"), source="ada")
    until(lambda: main.memory.reached_s("ada") is not None, "reached")
    main.memory._reached["ada"] -= 3_600
    until(lambda: (main.memory.reached_s("ada") or 0) < 60, "and again, for as long as it answers")


def test_a_broker_that_is_far_is_asked_again_for_longer(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.join("ada", Role.CLIENT)
    monkeypatch.setattr(brokers, "_SOON_S", 0.0)  # nothing answers within that
    assert brokers.ask_broker("ada").word == "answers"


def words(main: MainWindow, keys: Iterable[str]) -> dict[str, str]:
    return {key: state(main, key).word for key in sorted(keys)}


@contextmanager
def full_socket() -> Iterator[int]:
    """A port at which the kernel drops whoever comes, as a firewall does."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def test_without_keys_a_typed_address_connects_and_is_remembered(window: Callable[..., MainWindow]) -> None:
    with plain_broker(free_ports()) as service:
        place = service.url.removeprefix("tcp://")
        main = window()
        main.connecting.open_sheet()
        main.sheet.line.setText(place)
        assert told(main) == f"{place} Without a key"
        main.sheet.go.click()
        until(lambda: main.controller.connection.link is LinkState.LIVE, "connected")
        main.connecting.open_sheet()
        assert list(main.sheet.rows) == [service.url, HERE]
        until(lambda: state(main, service.url).word.startswith("answers"), "asked")
        assert state(main, service.url).under == "not attached: store"
        row = main.sheet.rows[service.url]
        assert row.source.under == "typed · last used"


@pytest.mark.parametrize(("typed", "url"), [("lab", "tcp://lab:7750"), ("tcp://lab:8000", "tcp://lab:8000")])
def test_scheme_and_port_may_be_left_out(window: Callable[..., MainWindow], typed: str, url: str) -> None:
    asked: list[str] = []
    main = window(opener=lambda source: (asked.append(source), ScriptedFeed())[1])
    main.connecting.open_sheet()
    main.sheet.line.setText("lab:x")
    assert "Write tcp://HOST:PORT" in told(main)
    main.sheet.line.setText(typed)
    QTest.keyClick(main.sheet.line, Qt.Key.Key_Return)
    assert asked == [url]


def test_what_was_shown_before_is_forgotten_and_its_feed_ends(window: Callable[..., MainWindow]) -> None:
    before = ScriptedFeed(update(runs=(view(),)), update(*[told_event(step(seq)) for seq in range(1, 9)]))
    after = ScriptedFeed(update(runs=(view("other"),)))
    main = window(before, opener=lambda source: after)
    until(lambda: len(main.tabs.agents) == 1, "the run before")
    main.connecting.open_source("tcp://lab:7750")
    until(lambda: not before.running, "its feed ends")
    assert len(main.tabs.agents) == 0
    assert after.running
    until(lambda: list(main.controller.runs) == ["other"], "the other's runs alone")
    assert main.controller.watched == ["other"], "its newest run opens by itself, as at start"
    assert main.memory.recent == ["tcp://lab:7750"]


def test_nothing_on_this_machine_is_started_with_a_click(
    window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = f"tcp://127.0.0.1:{free_ports()}"
    for module in (connect_module, brokers):  # not the port of a broker that may really run here
        monkeypatch.setattr(module, "HERE", here)
    monkeypatch.setenv("TELEFABRIC_LISTEN", here)
    main = window()
    main.connecting.open_sheet()
    until(lambda: state(main, here).action == "Start it", "nothing runs here")
    assert not main.sheet.rows[here].more.isVisible(), "that is no failure"
    main.sheet.rows[here].button.click()
    try:
        until(lambda: not main.sheet.isVisible(), "it runs")
        until(lambda: main.controller.connection.link is LinkState.LIVE, "and is shown")
        assert main.controller.connection.address == here
        assert "broker.started" in (tmp_path / "own" / "up.log").read_text()
    finally:
        for pid in running(here):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not running(here), "it has ended")


def running(listen: str) -> list[int]:
    """The processes of `telefabric up` that were started with this setting."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words, names = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes().split(b"\0")
            if b"telefabric" in words and f"TELEFABRIC_LISTEN={listen}".encode() in names:
                found.append(int(folder.name))
    return found


def test_a_row_is_forgotten_at_the_second_click(lab: Laboratory, window: Callable[..., MainWindow]) -> None:
    lab.join("ada", Role.CLIENT)
    lab.revoke("ada")
    main = window()
    main.memory.worked("ada")
    main.connecting.open_sheet()
    until(lambda: state(main, "ada").word == "key refused", "asked")
    main.sheet.rows["ada"].forget.click()
    assert saved_connections.names() == ["ada"]
    main.sheet.rows["ada"].forget.click()
    assert saved_connections.names() == []
    assert main.memory.recent == []
    assert list(main.sheet.rows) == [HERE]


def test_a_store_file_is_a_row_too(window: Callable[..., MainWindow], tmp_path: Path) -> None:
    file = tmp_path / "lunar.sqlite"
    with Scribe(file):
        pass
    main = window()
    main.sheet.chosen.emit(str(file))
    until(lambda: main.controller.connection.link is LinkState.FILE, "opened")
    main.connecting.open_sheet()
    assert (state(main, str(file)).word, state(main, str(file)).action) == ("read-only", "Open")
    file.unlink()
    main.connecting.open_sheet()
    assert state(main, str(file)).word == "not there"


# -- at start and with keys --------------------------------------------------------------------------------------
def test_the_last_one_that_worked_opens_at_start_unless_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, lab: Laboratory
) -> None:
    lab.join("ada", Role.CLIENT)
    shown: list[tuple[str, bool, str]] = []
    monkeypatch.setattr(
        app, "run", lambda feed, **given: shown.append((feed.address.url, given["offer"], given["source"]))
    )

    def start(*words: str) -> tuple[str, bool, str]:
        CliRunner().invoke(gui, words, catch_exceptions=False)
        return shown.pop()

    assert start() == (HERE, True, HERE)
    Memory().worked("ada")
    assert start() == (lab.url, True, "ada")
    assert start("--connect", "tcp://lab:7750") == ("tcp://lab:7750", False, "tcp://lab:7750")
    monkeypatch.setenv("TELEFABRIC_CONNECT", "tcp://other:7750")
    assert start() == ("tcp://other:7750", False, "tcp://other:7750")
    monkeypatch.delenv("TELEFABRIC_CONNECT")
    Memory().set_again(False)
    assert start() == (HERE, True, HERE)
    Memory().set_again(True)
    saved_connections.forget("ada")
    assert start() == (HERE, True, HERE)


def test_the_sheet_opens_by_itself_when_what_nobody_named_cannot_be_reached(window: Callable[..., MainWindow]) -> None:
    named, unnamed = window(), window(offer=True)
    until(unnamed.sheet.isVisible, "offered")
    assert not named.sheet.isVisible()
    unnamed.sheet.close_sheet()
    before = unnamed._ticks
    until(lambda: unnamed._ticks > before + 3, "the window goes on")
    assert not unnamed.sheet.isVisible(), "once is enough"


def test_below_the_sheet_no_key_and_no_click_does_anything(window: Callable[..., MainWindow]) -> None:
    main = window()
    main.activateWindow()
    until(main.isActiveWindow, "it has the keys")
    QTest.keyClick(main, Qt.Key.Key_C)
    assert main.sheet.isVisible()
    QTest.keyClicks(main.sheet.line, "p t")
    QTest.keyClick(main.sheet.again, Qt.Key.Key_P)
    assert theme.active().name == "dark"
    assert not main.top.isEnabled()
    QTest.keyClick(main.sheet.line, Qt.Key.Key_Escape)
    assert not main.sheet.isVisible()
    QTest.keyClick(main, Qt.Key.Key_T)
    assert theme.active().name == "light"
