"""What is typed above a table: a place to go to, or conditions that the rows must fit, which the store scans for."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QObject, Signal

from telefabric.feed import Asked, Condition, Scan, StoredEvent
from telefabric_gui.budget import Part, Sort
from telefabric_gui.model.lines import Found
from telefabric_gui.model.pages import Pages, found_of
from telefabric_gui.rows import RAW_MORE_BYTES

FOUND_MAX = 200_000
"""Rows that are listed; a search that finds more ends there, and says so."""
HELD_BYTES_MAX = 16 * 2**20
"""Encoded events of found rows, the ones found first; the others are read again when they are in sight."""
_ROWS = 500

PLACES = {
    "step": "global_step", "global": "global_step", "episode": "episode", "ep": "episode", "row": "row", "seq": "seq",
}  # fmt: skip
"""What one can go to, and the name that the store has for it."""


class Words(NamedTuple):
    """What can be typed above a table."""

    place: str
    """What a number alone is."""
    names: dict[str, str]
    """Fields by the names in the table's head."""
    examples: str
    brief: str
    """An example that has room in a narrow field."""


_OF_BOTH = {"ep": "episode_index", "episode": "episode_index", "mode": "control_mode"}
OF_STEPS = Words(
    "step",
    {**_OF_BOTH, "step": "step_index"},
    "step 12 000, episode 512, or reward > 1 and terminated = true",
    "step 12 000, or reward > 1",
)
OF_EPISODES = Words(
    "episode",
    {**_OF_BOTH, "return": "total_reward", "end": "end_reason"},
    "episode 512, or return > 200 and end = truncated",
    "episode 512, or return > 200",
)
_PLACE = re.compile(rf"(?:({'|'.join(PLACES)})\s*)?(\d+)", re.IGNORECASE)
_CONDITION = re.compile(
    r"""([\w/.\-]+)\s*(<=|>=|!=|==|=|<|>|contains\b|~)\s*("[^"]*"|'[^']*'|[^\s,]+)""", re.IGNORECASE
)
_BETWEEN = re.compile(r"\s*(?:,|\band\b)?\s*", re.IGNORECASE)
_SPACES = re.compile("(?<=\\d)[ \u2009\u202f](?=\\d)")


class Goal(NamedTuple):
    """A place to go to: the first row at or behind this value."""

    by: str
    value: int


def asked_for(text: str, words: Words = OF_STEPS) -> Goal | list[Condition] | str:
    """What a text asks for; a sentence when it cannot be understood."""
    text = _SPACES.sub("", text.strip())
    if place := _PLACE.fullmatch(text):
        return Goal(PLACES[(place[1] or words.place).lower()], min(int(place[2]), 2**63 - 1))
    conditions, at = [], 0
    while at < len(text):
        found = _CONDITION.match(text, at)
        if found is None:
            return f"“{text[at:]}” is not understood: type {words.examples}."
        operator = {"==": "=", "~": "contains"}.get(found[2], found[2].lower())
        field = found[1] if "/" in found[1] else words.names.get(found[1].lower(), found[1])
        conditions.append(Condition(field, operator, _value(found[3])))
        at = _BETWEEN.match(text, found.end()).end()  # type: ignore[union-attr]
    return conditions


def _value(text: str) -> int | float | str | bool | None:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text[0] in "\"'":
        return text[1:-1]
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            value = number(text.replace("\u2212", "-"))
        except ValueError:
            continue
        return value if not isinstance(value, int) or -(2**63) <= value < 2**63 else float(value)
    return text


class Search(QObject):
    """A `Listing` of the rows that fit, newest on top. It searches in the background until all stored rows are seen,
    and goes on when more are stored."""

    changed = Signal()

    def __init__(self, pages: Pages, conditions: list[Condition]) -> None:
        super().__init__()
        self.conditions = conditions
        self.problem = ""
        self.stopped = False
        self._rows = pages
        self._found: list[int] = []
        self._held: dict[int, StoredEvent] = {}
        self._made: dict[int, Found] = {}
        """Of those that were in sight last."""
        self._held_bytes = 0
        self._loading: set[int] = set()
        self._last = -1
        self._asked: Asked | None = None
        pages.changed.connect(self._go_on)
        self._go_on()

    @property
    def searched(self) -> int:
        """Rows that were looked at."""
        return self._last + 1

    @property
    def searching(self) -> bool:
        return self._asked is not None

    def __len__(self) -> int:
        return len(self._found)

    def at(self, line: int) -> Found | int:
        row = self._found[len(self._found) - 1 - line]
        if row not in self._made and row in self._held:
            if len(self._made) > _ROWS:
                self._made.clear()
            self._made[row] = found_of(row, self._held[row], self._rows.tail)
        return self._made.get(row) or self._rows.row(row) or row

    def line_of(self, row: int) -> int:
        return len(self._found) - 1 - min(int(np.searchsorted(self._found, row)), len(self._found) - 1)

    def want(self, first: int, last: int) -> None:
        rows = [one for line in range(first, last + 1) if isinstance(one := self.at(line), int)]
        for row in set(rows) - self._loading:
            self._loading.add(row)
            self._rows.ask_row(row, partial(self._row_came, row))

    def parts(self) -> list[Part]:
        """What is held, for the memory's limit."""
        return [Part(Sort.PAGES, self._held_bytes + RAW_MORE_BYTES * len(self._held), self._let_go)]

    def _let_go(self, number: int) -> None:
        least = self._held_bytes - number
        while self._held and self._held_bytes > least:
            self._held_bytes -= len(self._held.pop(next(iter(self._held))).event)

    def stop(self) -> None:
        """Search no further."""
        self.stopped = True
        if self._asked is not None:
            self._rows.drop(self._asked)
            self._asked = None

    def close(self) -> None:
        self.stop()
        self._rows.changed.disconnect(self._go_on)

    def _go_on(self) -> None:
        if self._asked is None and not self.stopped and not self.problem and self.searched < (self._rows.stored or 0):
            _, stream, kind, agent = self._rows.of
            question = Scan(stream, kind, agent, self.conditions, self._last, _ROWS)
            self._asked = self._rows.ask(question, self._came, failed=self._failed)

    def _came(self, answer: Any) -> None:
        self._asked = None
        self._last = max(self._last, answer.last)
        for one in answer.rows:
            self._found.append(one.n)
            if self._held_bytes < HELD_BYTES_MAX:
                self._held[one.n] = one.event
                self._held_bytes += len(one.event.event)
        self.stopped = self.stopped or len(self._found) >= FOUND_MAX
        self._go_on()
        self.changed.emit()

    def _failed(self, problem: str) -> None:
        self._asked, self.problem = None, problem
        self.changed.emit()

    def _row_came(self, row: int, answer: Any) -> None:
        self._loading.discard(row)
        for one in answer.rows:
            self._held[row] = one
            self._held_bytes += len(one.event)
            while self._held_bytes > 2 * HELD_BYTES_MAX:
                gone = self._held.pop(next(iter(self._held)))
                self._held_bytes -= len(gone.event)
        self.changed.emit()
