"""The newest values of a named series: what came live or was read with the newest events."""

from __future__ import annotations

import numpy as np

from telefabric_gui.reduction import Floats

VALUES_MAX = 50_000
_KEPT = 1_000
_NEW_BYTES = 160
"""Three numbers as objects."""


class Tail:
    """Step and value in the order of seq, whichever came first; the oldest leave. GUI thread."""

    def __init__(self, values_max: int = VALUES_MAX) -> None:
        self._values_max = values_max
        self._new: list[tuple[float, float, float]] = []
        self._table: Floats = np.empty((0, 3), np.float64)

    def add(self, seq: int, step: int | None, value: float | None) -> None:
        """A value, at the agent's own count of steps, or else at the seq: as in the store's overview."""
        self._new.append((seq, seq if step is None else step, np.nan if value is None else value))
        if len(self._new) > self._values_max:
            self._take()

    @property
    def bytes_held(self) -> int:
        return self._table.nbytes + _NEW_BYTES * len(self._new)

    def let_go(self, number: int) -> None:
        """Have the older half leave, however little is wanted; of a few, none."""
        if self._new:
            self._take()
        if len(self._table) > _KEPT:
            self._table = self._table[len(self._table) // 2 :].copy()

    def remove(self, first: int, last: int) -> None:
        """The values of these seqs are lost for good."""
        self._take()
        begin, end = np.searchsorted(self._table[:, 0], [first, last + 1])
        self._table = np.delete(self._table, slice(begin, end), axis=0)

    def arrays(self, after: int = 0) -> tuple[Floats, Floats]:
        """Steps and values behind a seq."""
        if self._new:
            self._take()
        table = self._table[np.searchsorted(self._table[:, 0], after, "right") :]
        return table[:, 1], table[:, 2]

    def _take(self) -> None:
        table = np.concatenate((self._table, np.array(self._new, np.float64).reshape(-1, 3)))
        self._new.clear()
        if (table[1:, 0] < table[:-1, 0]).any():
            table = table[np.argsort(table[:, 0], kind="stable")]
        self._table = table[-self._values_max :]
