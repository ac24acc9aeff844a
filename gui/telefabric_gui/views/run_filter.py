"""The field in which runs are searched, and the words that it offers."""

from __future__ import annotations

from functools import partial

from PySide6.QtWidgets import QLineEdit, QPushButton

from telefabric_gui.item_models.runs import RunTable
from telefabric_gui.model.run_search import ARCHIVED
from telefabric_gui.views.styled import button, menu_of

TIP = "All words must fit: dqn failed, state:lost, tag:baseline, -tag:old, mode:human, lr=0.001, seed>3, archived"
_TAGS_MAX = 40


class RunFilter(QLineEdit):
    """Searches a table of runs as one types. `words` is a button with the states, modes and tags of the runs."""

    def __init__(self, table: RunTable, name: str, placeholder: str) -> None:
        super().__init__(placeholderText=placeholder, clearButtonEnabled=True)
        self._runs = table.runs
        self.setAccessibleName(name)
        self.setToolTip(TIP)
        self.textChanged.connect(table.search)

    def words(self, text: str) -> QPushButton:
        return button(text, self._offer, "plain", "By state, control mode and tag")

    def _offer(self) -> None:
        """A chosen word comes into the search, or leaves it."""
        menu, words = menu_of(self), self.text().split()
        runs = [row.run for row in self._runs.rows.values()]
        for field, found in (
            ("state", {run.state for run in runs}),
            ("mode", {run.control_mode for run in runs}),
            ("tag", {tag for run in runs for tag in run.tags if " " not in tag}),
            ("", {ARCHIVED} if any(run.archived for run in runs) else set()),
        ):
            for word in (f"{field}:{one}".lstrip(":") for one in sorted(found)[:_TAGS_MAX]):
                left = [one for one in words if one != word]
                chosen = " ".join([*words, word] if left == words else left)
                action = menu.addAction(word.replace("&", "&&"), partial(self.setText, chosen))
                action.setCheckable(True)
                action.setChecked(left != words)
            menu.addSeparator()
        menu.popup(self.mapToGlobal(self.rect().bottomLeft()))
