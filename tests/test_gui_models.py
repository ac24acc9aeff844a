"""Every item model of the client keeps Qt's rules, in every view and whatever comes meanwhile."""

from __future__ import annotations

import gc
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import test_gui_window
from processes import wait_for
from slowness import patience
from store_fixtures import Scribe, episode, metric, raw, reset, run_metadata, run_started, step, stream, void

import telefabric_gui
from telefabric.feed import FileFeed
from telefabric.store.file.database import FILE_NAME

pytestmark = [
    test_gui_window.pytestmark[0],
    pytest.mark.qt_log_ignore("This plugin does not support"),  # grabs of menus, said by the offscreen platform
]
if test_gui_window.THERE:
    from every_view import every_view
    from PySide6.QtCore import QAbstractItemModel, QCoreApplication, QEvent
    from PySide6.QtTest import QAbstractItemModelTester
    from shiboken6 import isValid

    from telefabric_gui import theme
    from telefabric_gui.controller import Controller
    from telefabric_gui.window import MainWindow

STEPS = 60


def ours(kind: type) -> bool:
    return kind.__module__.startswith("telefabric_gui")


def kinds_of_models() -> set[type]:
    """The classes of models in the client that are no base of another."""
    for module in pkgutil.walk_packages(telefabric_gui.__path__, "telefabric_gui."):
        importlib.import_module(module.name)
    found, open_ones = set(), [QAbstractItemModel]
    while open_ones:
        kind = open_ones.pop()
        below = kind.__subclasses__()
        open_ones += below
        if ours(kind) and not any(ours(one) for one in below):
            found.add(kind)
    return found


class Examiner:
    """Puts a tester on each model as soon as it is there; a broken rule fails the test."""

    def __init__(self) -> None:
        self._testers: dict[int, tuple[QAbstractItemModel, QAbstractItemModelTester]] = {}

    @property
    def kinds(self) -> set[type]:
        return {type(model) for model, _ in self._testers.values()}

    def look(self) -> None:
        for model in [one for one in gc.get_objects() if isinstance(one, QAbstractItemModel) and ours(type(one))]:
            if isValid(model) and id(model) not in self._testers:
                warning = QAbstractItemModelTester.FailureReportingMode.Warning  # which fails the test
                self._testers[id(model)] = model, QAbstractItemModelTester(model, warning)


class Author:
    """Writes runs, a piece at a time."""

    def __init__(self, path: Path) -> None:
        self.scribe = Scribe(path)
        self._info, self._seq = stream("run 0", after_ns=10**12), 1
        self.scribe.put(self._info, run_started(1, self._info, {"lr": 0.1, "net": {"layers": 2}}))
        self._others = 0

    def write(self) -> None:
        """Steps and their like of one run, with a gap; another run; an edit."""
        made: list[Any] = []
        for _ in range(STEPS):
            self._seq += 1
            made.append(msgspec.structs.replace(step(self._seq), info=raw({"prob": 0.5, "lives": 3})))
        for kind in (episode, metric, reset):
            self._seq += 1
            made.append(kind(self._seq))
        self._seq += 1
        made.append(metric(self._seq, f"loss/part{self._others}"))
        self._seq += 1
        made.append(void(self._seq, self._seq // 20))
        self.scribe.put(self._info, *made)
        self.scribe.put_gap(self._info, self._seq + 1, self._seq + 5, "spool full")
        self._seq += 5
        self._others += 1
        other = stream(f"run {self._others}", after_ns=self._others)
        found = [run_metadata(2, {"lr": self._others}), *(step(seq) for seq in range(3, 40)), episode(40)]
        self.scribe.put(other, run_started(1, other), *found)
        self.scribe.commit()
        edit = ("tag", "archive", "unarchive", "delete")[self._others % 4]
        self.scribe.edit(edit, f"run {max(self._others - 2, 1)}", "good" if edit == "tag" else None)
        self.scribe.commit()


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    found = Author(tmp_path / FILE_NAME)
    found.write()
    yield found
    found.scribe.close()


def test_every_model_keeps_the_rules_in_every_view_while_runs_are_written(
    qtbot: Any, qapp: Any, tmp_path: Path, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    theme.use(qapp, "dark")
    main, examiner = MainWindow(Controller(FileFeed(tmp_path / FILE_NAME))), Examiner()
    main.resize(1440, 900)
    main.show()
    qtbot.waitUntil(lambda: main.page is not None and main.page.time.cursor.total > 0, timeout=patience(20_000))
    seen: list[object] = []
    main.controller.runs_changed.connect(lambda changed, gone: seen.append(changed))
    for view in every_view(main):
        examiner.look()
        seen.clear()
        author.write()
        wait_for(lambda: QCoreApplication.processEvents() or seen, view)
    examiner.look()
    assert not main.controller.failures.number, main.controller.failures.last
    main.close()
    main.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert kinds_of_models() <= examiner.kinds, "add a view to every_view that shows this one"
