"""Parts of `info` as series: there is no overview of them, so the steps in sight are read, the newest ones first.

The store has to decode each event, so there is a limit to what is read for one picture; how much of it has been read is
said beside the chart.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from PySide6.QtCore import QObject, Signal

from telefabric.feed import Answer, Asked, Columns
from telefabric_gui.budget import Part, Sort
from telefabric_gui.formatting import millions
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.model.pyramid import with_tail
from telefabric_gui.model.series import AGAIN_S, SeriesKey
from telefabric_gui.reduction import NOTHING, Floats, Samples, joined, single

BLOCK = 8_192
"""Rows that are asked for at once."""
_BLOCK_BYTES = 2 * 8 * BLOCK
BLOCKS_IN_SIGHT_MAX = 16
"""The newest 131,072 steps in sight: two values a pixel of the widest screens; the store decodes them in seconds."""
BLOCKS_MAX = 256
"""Of all series; the ones drawn least recently go. 32 MB."""
_ASKED_MAX = 2
"""Questions at once, so that tables and pictures are not kept waiting."""
_Place = tuple[SeriesKey, int]


class Read(NamedTuple):
    """How many of the rows in sight have been read."""

    rows: int
    of: int
    limited: bool
    """There are more than are read for one picture."""
    whole: bool = True
    """All that is read for one picture has been."""

    @property
    def words(self) -> str:
        """For the caption of the chart; none when all have been read."""
        more = " · zoom in for the others" if self.limited else ""
        return f"{millions(self.rows, self.of)} steps read{more}" if self.rows < self.of else ""


@dataclass
class _Block:
    x: Floats
    y: Floats
    read_s: float
    wanted_s: float

    @property
    def whole(self) -> bool:
        return len(self.x) >= BLOCK


@dataclass
class _Coming:
    asked: Asked | None = None
    rows: int = 0
    columns: list[Floats] = field(default_factory=list)


class InfoSeries(QObject):
    """Answers come from the feed's threads by a signal. GUI thread."""

    arrived = Signal(object)
    """A part of this series."""

    def __init__(self, feed: Asker, parent: QObject) -> None:
        super().__init__(parent)
        self._asking = Asking(feed, self)
        self._blocks: OrderedDict[_Place, _Block] = OrderedDict()
        self._coming: dict[_Place, _Coming] = {}
        self._made: dict[SeriesKey, tuple[object, Samples]] = {}
        self._failed_s = -AGAIN_S
        self.problem = ""

    def want(self, key: SeriesKey, first: float, last: float, *, grows: bool) -> Read:
        """Read these rows of a series, and no longer those that are out of sight."""
        first, last = max(int(first), 0), int(last)
        numbers = range(last // BLOCK, first // BLOCK - 1, -1) if last >= first else range(0)
        wanted = numbers[:BLOCKS_IN_SIGHT_MAX]
        for place in [place for place in self._coming if place[0] == key and place[1] not in wanted]:
            if (asked := self._coming.pop(place).asked) is not None:
                self._asking.drop(asked)
        rows, now_s = 0, time.monotonic()
        for number in wanted:
            place = key, number
            held = self._blocks.get(place)
            if held is not None:
                self._blocks.move_to_end(place)
                held.wanted_s = now_s
                begin = number * BLOCK
                rows += max(0, min(last + 1, begin + len(held.x)) - max(first, begin))
            again = held is None or (grows and not held.whole and now_s - held.read_s >= AGAIN_S)
            free = len(self._coming) < _ASKED_MAX and now_s - self._failed_s >= AGAIN_S
            if again and free and place not in self._coming:
                self._coming[place] = _Coming()
                self._ask(place)
        whole = all((key, number) in self._blocks for number in wanted)
        return Read(rows, max(0, last + 1 - first), len(wanted) < len(numbers), whole)

    def samples(self, key: SeriesKey, tail: Samples, tail_row: float) -> Samples:
        """All that is held of a series, up to the newest live value; these begin at a row.

        No line leads over what has not been read.
        """
        numbers = sorted(number for one, number in self._blocks if one == key)
        held = [self._blocks[key, number] for number in numbers]
        made = numbers, [block.read_s for block in held], len(tail.x), *tail.x[-1:], tail_row
        if key not in self._made or self._made[key][0] != made:
            parts = []
            for at, block in enumerate(held):
                part, _ = single(block.x, block.y)
                goes_on = at > 0 and held[at - 1].whole and numbers[at] == numbers[at - 1] + 1
                if not goes_on and len(part.x):
                    part = part._replace(cut=np.append(True, part.cut[1:]))
                parts.append(part)
            hole = bool(held) and numbers[-1] * BLOCK + len(held[-1].x) < tail_row
            self._made[key] = made, with_tail(joined(*parts) if parts else NOTHING, tail, hole=hole)
        return self._made[key][1]

    def parts(self) -> list[Part]:
        """What is held, for the memory's limit."""
        return [Part(Sort.SERIES, _BLOCK_BYTES * len(self._blocks), self._let_go)]

    def _let_go(self, number: int) -> None:
        since_s = time.monotonic() - AGAIN_S
        for place, _ in list(self._blocks.items())[: -(-number // _BLOCK_BYTES)]:
            if self._blocks[place].wanted_s < since_s:  # else it is read at once again
                del self._blocks[place]
        self._made.clear()

    def forget(self) -> None:
        """Another feed is shown."""
        self._asking.forget()
        for held in (self._blocks, self._coming, self._made):
            held.clear()

    # -- asking --------------------------------------------------------------------------------------------------

    def _ask(self, place: _Place) -> None:
        (key, number), coming = place, self._coming[place]
        fields = ["global_step", "seq", key.name]
        question = Columns(
            key.stream_id, "step", key.agent_id, number * BLOCK + coming.rows, BLOCK - coming.rows, fields
        )  # fmt: skip
        coming.asked = self._asking.ask(question, partial(self._take, place, coming))

    def _take(self, place: _Place, coming: _Coming, answer: Answer) -> None:
        if self._coming.get(place) is not coming:
            return
        if answer.page is None:
            del self._coming[place]
            self._failed_s, self.problem = time.monotonic(), answer.problem
            return
        self.problem = ""
        (chunk,) = answer.page.rows
        coming.rows += chunk.rows
        coming.columns.append(np.array([np.frombuffer(one, "<f8") for one in chunk.columns]))
        if answer.page.more and chunk.rows and coming.rows < BLOCK:
            self._ask(place)
            return
        del self._coming[place]
        step, seq, value = np.concatenate(coming.columns, axis=1)
        now_s = time.monotonic()
        self._blocks[place] = _Block(np.where(np.isnan(step), seq, step), value, now_s, now_s)
        while len(self._blocks) > BLOCKS_MAX:
            self._blocks.popitem(last=False)
        self.arrived.emit(place[0])
