"""Notebook cells: which one a worker was opened in, so that the same cell run again ends it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """One execution of a cell."""

    name: str
    """The notebook's name of the cell; its source where the notebook gives none."""
    execution: int

    def is_again(self, earlier: Cell | None) -> bool:
        """This is a later execution of the same cell."""
        return earlier is not None and self.name == earlier.name and self.execution != earlier.execution


def current_cell() -> Cell | None:
    """The cell that runs now; None where no IPython does."""
    ipython = sys.modules.get("IPython")
    shell: Any = None if ipython is None else ipython.get_ipython()
    if shell is None:
        return None
    name = _given_name(shell)
    if not name:
        source = shell.user_ns.get("In") or [""]
        name = f"source:{source[-1]}"
    return Cell(name, int(shell.execution_count))


def _given_name(shell: Any) -> str:
    """Notebooks send the id of the cell with its source; IPython's own terminal has no parent message."""
    parent: Any = getattr(shell, "get_parent", dict)()
    metadata = parent.get("metadata") if isinstance(parent, dict) else None
    found = metadata.get("cellId") if isinstance(metadata, dict) else None
    return f"cell:{found}" if found else ""
