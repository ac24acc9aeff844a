"""Edits from the client: the menu of a run, what becomes of an edit, and a file that is read-only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import broker, free_ports, store, wait_for
from skips import requires
from slowness import patience
from store_fixtures import Scribe, run_completed, run_started, stream
from test_gui_feed import ScriptedFeed, update, view
from test_gui_window import THERE, tick, window

from telefabric import Address
from telefabric.errors import UsageError
from telefabric.feed import BrokerFeed, FileFeed
from telefabric.feed.edit_requests import EditRequests
from telefabric.store.file.database import FILE_NAME
from telefabric_workers import connect

if THERE:
    from PySide6.QtWidgets import QInputDialog, QMessageBox

    from telefabric_gui.views import run_menu
    from telefabric_gui.views.run_menu import RunMenu
    from telefabric_gui.window import MainWindow

__all__ = ["window"]
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]


def choose(menu: RunMenu, words: str) -> None:
    (action,) = [one for one in menu.actions() if words in one.text()]
    action.trigger()


def test_the_menu_of_a_run_edits_it(window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch) -> None:
    run = view("lake", "completed", tags=("good", "a & b"), notes="before")
    feed = ScriptedFeed(update(runs=(run,)))
    main = window(feed)
    tick(main)
    monkeypatch.setattr(QInputDialog, "getText", lambda *asked: (" new ", True))
    monkeypatch.setattr(QInputDialog, "getMultiLineText", lambda *asked: (f"{asked[-1]} and after", True))
    monkeypatch.setattr(QMessageBox, "question", lambda *asked: QMessageBox.StandardButton.Yes)
    menu = RunMenu(main.runs, [run], main.runs.edit_wanted.emit)
    for words in ("Tag", "'good'", "'a && b'", "Note", "Archive", "Delete"):
        choose(menu, words)
    assert feed.edits == [
        ("lake", "tag", "new"), ("lake", "untag", "good"), ("lake", "untag", "a & b"),
        ("lake", "note", "before and after"), ("lake", "archive", None), ("lake", "delete", None),
    ]  # fmt: skip
    choose(RunMenu(main.runs, [run._replace(archived=True)], main.runs.edit_wanted.emit), "Unarchive")
    assert feed.edits[-1] == ("lake", "unarchive", None)


def test_a_question_that_is_declined_edits_nothing(
    window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = ScriptedFeed(update(runs=(view("lake"),)))
    main = window(feed)
    monkeypatch.setattr(QInputDialog, "getText", lambda *asked: ("new", False))
    monkeypatch.setattr(QInputDialog, "getMultiLineText", lambda *asked: ("", True))
    monkeypatch.setattr(QMessageBox, "question", lambda *asked: QMessageBox.StandardButton.No)
    menu = RunMenu(main.runs, [view("lake")], main.runs.edit_wanted.emit)
    for words in ("Tag", "Note", "Delete"):
        choose(menu, words)
    assert feed.edits == []


def test_a_click_with_the_right_button_opens_the_menu_of_the_run_below(
    window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(run_menu.RunMenu, "popup", lambda menu, place: opened.append(menu.runs[0].run_id))
    main = window(ScriptedFeed(update(runs=(view("lake", started_ns=2), view("pole")))))
    tick(main)
    index = main.runs.list.model().index(1, 0)
    main.runs.list.customContextMenuRequested.emit(main.runs.list.visualRect(index).center())
    main.runs.list.customContextMenuRequested.emit(main.runs.list.rect().bottomRight())
    assert opened == ["pole"]


def test_archived_runs_are_left_out_until_they_are_asked_for(window: Callable[..., MainWindow]) -> None:
    runs = (view("lake", tags=("baseline",)), view("pole", archived=True))
    main = window(ScriptedFeed(update(runs=runs)))
    tick(main, 2)
    for text, left in (("", 1), ("archived", 1), ("archived baseline", 0), ("baseline", 1)):
        main.runs.filter.setText(text)
        assert main.runs.table.rowCount() == left, text


def test_what_became_of_an_edit_is_said_for_a_while(
    window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = update(runs=(view("lake"),))._replace(answers=("Run 'lake' has the tag 'good'.",))
    feed = ScriptedFeed(answered)
    main = window(feed)
    tick(main)
    assert main.banner.isVisible()
    assert "has the tag 'good'" in main.controller.answer
    for place in range(5):
        feed.updates.append(update()._replace(answers=(f"Answer {place}.",)))
        tick(main)
    assert main.controller.answer == "Answer 2. Answer 3. Answer 4."
    feed.updates.append(update()._replace(answers=("Answer 5.",), edits_left=12))
    tick(main)
    assert main.controller.answer == "Answer 3. Answer 4. Answer 5. 12 edits to do."
    main.controller._answered_s -= 60
    tick(main)
    assert not main.banner.isVisible()


def test_edits_are_made_in_their_order_by_one_thread_while_there_are_some() -> None:
    made: list[tuple[str, str, object]] = []
    free = threading.Event()

    def ask(command: str, run_id: str, value: object) -> str:
        made.append((command, run_id, value))
        free.wait()
        if command == "delete":
            raise UsageError("no")
        return f"{run_id} has it"

    edits = EditRequests(ask)
    asked = [("tag", f"run{place}", place) for place in range(40)] + [("delete", "run3", None)]
    for one in asked:
        edits.ask(*one)
    assert edits.left == 41
    assert sum(one.name == "edits" for one in threading.enumerate()) == 1
    answers: list[str] = []
    free.set()
    wait_for(lambda: answers.extend(edits.take()) or len(answers) == 41, "all answers")
    assert made == asked
    assert (answers[0], answers[-2:]) == ("Run0 has it.", ["Run39 has it.", "No."])
    assert edits.left == 0
    edits.ask("tag", "again", 1)
    wait_for(edits.take, "an answer after a pause")


def test_a_file_is_read_only_and_says_so(tmp_path: Path) -> None:
    with Scribe(tmp_path / FILE_NAME) as scribe:
        info = stream("walk")
        scribe.put(info, run_started(1, info), run_completed(2))
        scribe.commit()
    feed = FileFeed(tmp_path)
    feed.start()
    try:
        feed.edit("walk", "tag", "good")
        (answer,) = wait_for(lambda: feed.drain().answers, "an answer")
    finally:
        feed.stop()
    assert answer == (
        f"A store file is read-only: start its store with telefabric up --data {tmp_path}, and edit through the broker."
    )


def test_edits_over_a_broker_are_answered_and_seen(tmp_path: Path) -> None:
    port = free_ports()
    with broker(port) as service, store(port, tmp_path):
        with connect(service.url, run="walk", spool=tmp_path / "spool", exit_flush_s=patience(30)) as worker:
            worker.step(episode=0, step=0)
            assert worker.flush(patience(30))
        feed = BrokerFeed(Address("127.0.0.1", port))
        feed.start()
        try:
            feed.edit("walk", "tag", "good")
            feed.edit("nothing", "archive")
            answers: list[str] = []
            tags: set[tuple[str, ...]] = set()

            def all_came() -> bool:
                found = feed.drain()
                answers.extend(found.answers)
                tags.update(run.tags for run in found.runs or ())
                return len(answers) == 2 and ("good",) in tags

            wait_for(all_came, "two answers, and the tag in the list")
            assert answers == [
                "Run 'walk' has the tag 'good'.",
                "The store has no run 'nothing': see telefabric runs list.",
            ]
        finally:
            feed.stop()
