"""Every view for itself: what raises in one is shown in its place and counted, and everything else goes on.

All updates of views are made by `Views.update`. What Qt calls by itself, such as painting, has nobody to raise to:
Python hands it to `sys.excepthook`, and `Views.hook` finds the view that it happened in.
"""

from __future__ import annotations

import platform
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from types import TracebackType
from weakref import WeakKeyDictionary

import PySide6
from PySide6.QtCore import QObject, QTimer
from PySide6.QtWidgets import QWidget

from telefabric.feed import Failures, said
from telefabric_gui.views.cover import Cover


class Views:
    """The views of one window. GUI thread."""

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._given: WeakKeyDictionary[QWidget, object] = WeakKeyDictionary()
        """View → the data that it was last given."""
        self._covers: WeakKeyDictionary[QWidget, Cover] = WeakKeyDictionary()

    def update(self, view: QWidget, show: Callable[[], object], given: object) -> None:
        """Have a view show what is `given`; one that failed, only once that is something else, and after a pause."""
        cover = self.cover(view)
        if cover and not cover.due(given):
            return
        self._given[view] = given
        try:
            show()
        except Exception as error:  # noqa: BLE001  a boundary: the other views go on
            self._fail(view, error)
        else:
            if cover:
                cover.hide()

    def cover(self, view: QWidget) -> Cover | None:
        """The cover of a view that failed; None for one that works."""
        found = self._covers.get(view)
        return None if found is None or found.isHidden() else found

    def hook(self, kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
        """Handle, as `sys.excepthook`, an error in code that Qt called."""
        if not issubclass(kind, Exception):
            sys.__excepthook__(kind, error, at)
            return
        view = self._view_of(at)
        if view is None:
            self._failures.take("Telefabric", error)
        else:
            QTimer.singleShot(0, view, lambda: self._fail(view, error))  # nothing may be shown while Qt paints

    def _fail(self, view: QWidget, error: BaseException) -> None:
        names = _names_of(view)
        self._failures.take(" of ".join(names), error)
        cover = self._covers.get(view)
        if cover is None:
            cover = self._covers[view] = Cover(view)
        head = f"telefabric {version('telefabric')}, PySide6 {PySide6.__version__}, Python {platform.python_version()}"
        details = "\n".join((head, " of ".join(names), *traceback.format_exception(error)))
        cover.fall(names[0], said(error), details, self._given.get(view))

    def _view_of(self, at: TracebackType | None) -> QWidget | None:
        """The view whose method, or whose part's method, failed."""
        for frame, _ in traceback.walk_tb(at):
            one = frame.f_locals.get("self")
            while isinstance(one, QObject):
                if isinstance(one, QWidget) and one in self._given:
                    return one
                one = one.parent()
        return None


def _names_of(view: QWidget) -> list[str]:
    """The view's name, and the name of its subject."""
    names = []
    one: QWidget | None = view
    while one is not None:
        names.append(one.accessibleName())
        one = one.parentWidget()
    return [name for name in names if name] or ["A view"]
