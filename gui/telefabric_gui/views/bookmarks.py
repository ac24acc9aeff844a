"""Bookmarks: a step is kept in the store under a name, which may be empty, by key, button, or menu of the time line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from PySide6.QtCore import QObject, QPoint
from PySide6.QtWidgets import QMenu

from telefabric.feed import BookmarkRow
from telefabric_gui.formatting import count, short
from telefabric_gui.model.pages import Pages, found_of
from telefabric_gui.model.run_time import RunTime
from telefabric_gui.views.styled import menu_of
from telefabric_gui.views.transport import Bottom

Edit = Callable[[str, str, object], None]


class _Page(Protocol):
    """What is in front, if it has a cursor over the steps of an agent."""

    time: RunTime
    step_rows: Pages


class Bookmarks(QObject):
    """Of the page in front, which `page` gives; `edit` asks the store."""

    def __init__(self, bottom: Bottom, page: Callable[[], _Page | None], edit: Edit) -> None:
        super().__init__(bottom)
        self._bottom, self._page, self._edit = bottom, page, edit
        bottom.line.menu_wanted.connect(self._offer)

    def toggle(self) -> None:
        """Keep the step that is shown, under the name that is typed next; or keep it no longer."""
        page = self._page()
        row = page.time.cursor.row if page else None
        if page is None or row is None:
            return
        if (kept := page.time.whole.bookmark_at(row)) is not None:
            self._remove(page, kept)
        else:
            self._keep(page, row)

    def menu(self, page: _Page, row: int) -> QMenu:
        """What can be done with a row of the time line."""
        made, kept = menu_of(self._bottom.line), page.time.whole.bookmark_at(row)
        if kept is None:
            made.addAction(f"Bookmark row {count(row + 1)}…", partial(self._keep, page, row))
        else:
            name = short(kept.label, 40) or "bookmark"
            made.addAction(f"Go to {name}", partial(page.time.cursor.go_to, row))
            made.addAction("Rename…", partial(self._rename, page, kept))
            made.addAction("Remove bookmark", partial(self._remove, page, kept))
        made.addSeparator()
        made.addAction("Show the whole run", page.time.cursor.see_all).setEnabled(not page.time.cursor.sees_all)
        return made

    def _offer(self, at: QPoint, row: int) -> None:
        if (page := self._page()) is not None:
            self.menu(page, row).popup(at)

    def _keep(self, page: _Page, row: int) -> None:
        self._bottom.transport.name.ask("", lambda label: self.keep(page, row, label))

    def keep(self, page: _Page, row: int, label: str) -> None:
        """Ask for a bookmark at a row, which is read first if it is not in memory."""
        run_id, agent_id, stream_id, _ = page.time.whole.subject

        def found(record: Any) -> None:
            place = (int(record[part]) for part in ("env", "episode", "step"))
            self._edit(run_id, "bookmark", [agent_id, *place, stream_id, label])

        def came(answer: Any) -> None:
            for stored in answer.rows:
                found(found_of(row, stored, page.step_rows.tail).record)

        if (held := page.step_rows.row(row)) is not None:
            found(held.record)
        else:
            page.step_rows.ask_row(row, came)

    def _rename(self, page: _Page, kept: BookmarkRow) -> None:
        """The new one first: if the second edit fails, there are two."""

        def named(label: str) -> None:
            place = [kept.agent_id, kept.env_index, kept.episode_index, kept.step_index, kept.stream_id]
            self._edit(kept.run_id, "bookmark", [*place, label])
            self._remove(page, kept)

        self._bottom.transport.name.ask(kept.label, named)

    def _remove(self, page: _Page, kept: BookmarkRow) -> None:
        self._edit(page.time.whole.subject.run_id, "unbookmark", kept.bookmark)
