"""Episodes in another order than that of time: by return, length, seed, reason of the end or time."""

from __future__ import annotations

import time
from collections import OrderedDict
from functools import partial
from typing import Any

import msgspec
import numpy as np
from PySide6.QtCore import QObject, Signal

from telefabric.feed import EpisodeRow, EpisodesBy
from telefabric_gui.model.lines import Found
from telefabric_gui.model.pages import Pages
from telefabric_gui.rows import EPISODE_ROW, episode_row
from telefabric_schemas import Episode, values

PAGE = 128
PAGES_KEPT = 64
AGAIN_S = 2.0
"""How often the order is asked for again while episodes come: they go to any place."""
_encoder = msgspec.msgpack.Encoder()


class Ordered(QObject):
    """A `Listing`. What is voided is left out. Its rows are numbered by their place in the order."""

    changed = Signal()

    def __init__(self, pages: Pages, by: str, *, descending: bool) -> None:
        super().__init__()
        self.by, self.descending = by, descending
        self._rows = pages
        self._pages: OrderedDict[int, list[Found]] = OrderedDict()
        self._loading: set[int] = set()
        self._stale: set[int] = set()
        """Pages whose rows may be others by now."""
        self._number, self._end = pages.rows, False
        self._asked_s = time.monotonic()
        pages.changed.connect(self._on_rows)

    def __len__(self) -> int:
        return self._number

    def at(self, line: int) -> Found | int:
        page = self._pages.get(line // PAGE, [])
        return page[line % PAGE] if line % PAGE < len(page) else line

    def line_of(self, row: int) -> int:
        return row

    def want(self, first: int, last: int) -> None:
        for number in range(first // PAGE, last // PAGE + 1):
            if number in self._pages:
                self._pages.move_to_end(number)
            if number not in self._loading and (number not in self._pages or number in self._stale):
                self._loading.add(number)
                self._stale.discard(number)
                _, stream, _, agent = self._rows.of
                question = EpisodesBy(stream, agent, self.by, self.descending, number * PAGE, PAGE)
                self._rows.ask(question, partial(self._came, number), urgent=True)

    def close(self) -> None:
        self._rows.changed.disconnect(self._on_rows)

    def _came(self, number: int, answer: Any) -> None:
        self._loading.discard(number)
        first = number * PAGE
        self._pages[number] = [_found(first + at, row) for at, row in enumerate(answer.rows)]
        if len(answer.rows) < PAGE and answer.more:
            self._number = max(self._number, first + len(answer.rows) + 1)
        elif not answer.more:
            self._number = first + len(answer.rows)
        while len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        self.changed.emit()

    def _on_rows(self) -> None:
        """Episodes may have come."""
        if self._rows.problem:
            self._loading.clear()
        if self._rows.rows != self._number and time.monotonic() - self._asked_s > AGAIN_S:
            self._asked_s = time.monotonic()
            self._stale = set(self._pages)
            self._number = max(self._number, self._rows.rows - self._rows.tail.voided)
            self.changed.emit()


def _found(place: int, row: EpisodeRow) -> Found:
    """A sorted episode: the store tells its columns, and not the event itself."""
    seed = msgspec.Raw(values.encode(row.seed))
    event = Episode(
        row.seq, row.agent_id, row.env_index, row.episode_index, row.total_reward, row.length, row.global_step,
        row.time_ns, 0, row.end_reason, seed, row.game_id, row.control_mode,
    )  # fmt: skip
    raw = _encoder.encode(event)
    return Found(place, np.array(episode_row(row.seq, event, raw)[:-1], EPISODE_ROW)[()], raw)
