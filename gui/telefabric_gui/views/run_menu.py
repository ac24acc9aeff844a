"""The menu of runs: they are tagged, archived and deleted here, after the questions that this needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QInputDialog, QMenu, QMessageBox, QWidget

from telefabric.feed import RunView
from telefabric_gui.formatting import plural

Edit = Callable[[str, str, object], None]
Chosen = Callable[[], object]


class RunMenu(QMenu):
    """Edits one run or several. `edit` gets a run, a command and its value; the entries of `first` come on top."""

    def __init__(
        self, parent: QWidget, runs: Sequence[RunView], edit: Edit, first: Iterable[tuple[str, Chosen]] = ()
    ) -> None:
        super().__init__(parent)
        self.runs, self._edit = runs, edit
        for words, chosen in first:
            self.addAction(words, chosen)
        self.addSeparator()
        self.addAction("Tag…", self._tag)
        for tag in dict.fromkeys(tag for run in runs for tag in run.tags):
            self.addAction(f"Remove the tag {tag!r}".replace("&", "&&"), partial(self._untag, tag))
        if len(runs) == 1:
            self.addAction("Note…", self._note)
        self.addAction("Unarchive" if self._archived else "Archive", self._archive)
        self.addAction("Delete…", self._delete)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)

    @property
    def _archived(self) -> bool:
        return all(run.archived for run in self.runs)

    @property
    def _which(self) -> str:
        return self.runs[0].run_id if len(self.runs) == 1 else plural(len(self.runs), "run")

    def _do(self, command: str, value: object = None) -> None:
        for run in self.runs:
            self._edit(run.run_id, command, value)

    def _archive(self) -> None:
        self._do("unarchive" if self._archived else "archive")

    def _tag(self) -> None:
        tag, chosen = QInputDialog.getText(self.parentWidget(), "Tag", f"A tag for {self._which}:")
        if chosen and tag.strip():
            self._do("tag", tag.strip())

    def _untag(self, tag: str) -> None:
        for run in self.runs:
            if tag in run.tags:
                self._edit(run.run_id, "untag", tag)

    def _note(self) -> None:
        title, before = f"The note of {self._which}:", self.runs[0].notes
        note, chosen = QInputDialog.getMultiLineText(self.parentWidget(), "Note", title, before)
        if chosen and note != before:
            self._do("note", note)

    def _delete(self) -> None:
        asked = f"Delete {self._which} with all {'its' if len(self.runs) == 1 else 'their'} events, for good?"
        if QMessageBox.question(self.parentWidget(), "Delete", asked) == QMessageBox.StandardButton.Yes:
            self._do("delete")
