"""The menu of a run in the list: what is edited of it, and the questions that this needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QInputDialog, QMenu, QMessageBox, QWidget

from telefabric.feed import RunView

Edit = Callable[[str, str, object], None]


class RunMenu(QMenu):
    """`edit` gets the run, a command and its value; `laid` says that the run is laid over others in charts."""

    def __init__(self, parent: QWidget, run: RunView, edit: Edit, overlay: Callable[[], object], *, laid: bool) -> None:
        super().__init__(parent)
        self._run, self._edit = run, edit
        self.addAction("Take out of the charts" if laid else "Draw in the charts, too", overlay)
        self.addSeparator()
        self.addAction("Tag…", self._tag)
        for tag in run.tags:
            self.addAction(f"Remove the tag {tag!r}".replace("&", "&&"), partial(self._do, "untag", tag))
        self.addAction("Note…", self._note)
        archive = "unarchive" if run.archived else "archive"
        self.addAction(archive.capitalize(), partial(self._do, archive))
        self.addAction("Delete…", self._delete)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)

    def _do(self, command: str, value: object = None) -> None:
        self._edit(self._run.run_id, command, value)

    def _tag(self) -> None:
        tag, chosen = QInputDialog.getText(self.parentWidget(), "Tag", f"A tag for {self._run.run_id}:")
        if chosen and tag.strip():
            self._do("tag", tag.strip())

    def _note(self) -> None:
        title, before = f"The note of {self._run.run_id}:", self._run.notes
        note, chosen = QInputDialog.getMultiLineText(self.parentWidget(), "Note", title, before)
        if chosen and note != before:
            self._do("note", note)

    def _delete(self) -> None:
        asked = f"Delete {self._run.run_id} with all its events, for good?"
        if QMessageBox.question(self.parentWidget(), "Delete", asked) == QMessageBox.StandardButton.Yes:
            self._do("delete")
