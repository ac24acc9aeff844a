"""The series of charts: asks the feed for the tiles that are in sight, and joins what is stored to what is live."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QObject, Signal

from telefabric.feed import Answer, Asked, Bucket, Buckets, Points, Question
from telefabric_gui.budget import Part, Sort
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.model.pyramid import BITS, VALUES, Pyramid, Tile, buckets, with_tail
from telefabric_gui.reduction import Floats, Samples, single

BYTES_MAX = 96 * 2**20
"""Stored values of all charts; beyond, the series that was drawn least recently keeps its coarse levels alone."""
_BUCKETS_A_PAGE, _VALUES_A_PAGE = 2_000, 65_536
AGAIN_S = 2.0
"""How often it is asked what has been stored since, and a question that failed is asked again."""
_EVERYTHING = -(2**63), 2**63 - 1


class SeriesKey(NamedTuple):
    """A series of an agent in one stream, named as in the store's overview."""

    run_id: str
    agent_id: str
    stream_id: bytes
    name: str


@dataclass
class _Held:
    pyramid: Pyramid = field(default_factory=Pyramid)
    asked: dict[Tile, Asked | None] = field(default_factory=dict)
    pages: dict[Tile, list[Floats]] = field(default_factory=dict)
    failed_s: float = -AGAIN_S
    wanted_s: float = 0.0
    refreshed_s: float = field(default_factory=time.monotonic)
    tail_from: float = np.inf
    """First step that was live when the end of what is stored was read."""
    drawn: tuple[Hashable, Samples] | None = None
    near: tuple[int, Samples] | None = None
    """The single values up to the end of a block, for the cursor."""
    near_asked: tuple[int, Asked | None] | None = None


class SeriesData(QObject):
    """What charts draw. GUI thread."""

    arrived = Signal(object)
    """A part of this series."""

    def __init__(self, feed: Asker, parent: QObject) -> None:
        super().__init__(parent)
        self._asking = Asking(feed, self)
        self._held: dict[SeriesKey, _Held] = {}
        self.problem = ""
        """Why something could not be read, in a sentence."""

    def want(self, key: SeriesKey, first: float, last: float, pixels: int, tail: Samples, *, grows: bool) -> None:
        """Have a range of steps of a series read, as fine as pixels can show; what is not in sight any more is not."""
        held = self._held.pop(key, None) or _Held()
        self._held[key] = held  # the last is the one drawn last
        held.wanted_s = time.monotonic()
        self._refresh(held, tail, grows=grows)
        wanted = held.pyramid.wanted(first, last, pixels)
        for tile in held.asked.keys() - set(wanted):
            self._asking.drop(held.asked.pop(tile))
            held.pages.pop(tile, None)
        if time.monotonic() - held.failed_s >= AGAIN_S:
            for tile in wanted:
                if tile not in held.asked:
                    self._send(key, held, tile)

    def samples(self, key: SeriesKey, first: float, last: float, pixels: int, tail: Samples) -> Samples:
        """All of a series, as fine as it is held for this range, up to the newest live value."""
        held = self._held.get(key)
        if held is None:
            return tail
        pyramid = held.pyramid
        # What was live when the end was read has left since, and the end has not been read again: see `_refresh`.
        hole = len(tail.x) > 0 and held.tail_from <= pyramid.end < tail.x[0]
        ends = len(tail.x), *tail.x[:1], *tail.x[-1:], *tail.mean[-1:]
        made = pyramid.version, pyramid.level(first, last, pixels), hole, ends
        if held.drawn is None or held.drawn[0] != made:
            held.drawn = made, with_tail(pyramid.samples(first, last, pixels), tail, hole=hole)
        return held.drawn[1]

    def value_at(self, key: SeriesKey, step: float) -> float | None:
        """The newest value at or before a step, where only buckets are held there; None until it has come."""
        held, block = self._held.get(key), int(step) >> BITS
        if held is None:
            return None
        if held.near is not None and held.near[0] == block:
            at = held.near[1].before(step)
            return None if at is None else float(held.near[1].mean[at])
        if held.near_asked is None or held.near_asked[0] != block:
            if held.near_asked is not None:
                self._asking.drop(held.near_asked[1])
            first, last = (block - 1) << BITS, ((block + 1) << BITS) - 1
            question = Points(key.stream_id, key.agent_id, key.name, first, last, 0, _VALUES_A_PAGE)
            asked = self._asking.ask(question, partial(self._take_near, key, block), urgent=True)
            held.near_asked = block, asked
        return None

    def known(self, key: SeriesKey) -> bool:
        """Whether the store has said how long the series is."""
        return key in self._held and self._held[key].pyramid.known

    def extent(self, key: SeriesKey) -> tuple[float, float, float, float] | None:
        """First and last step, lowest and highest value of what is stored."""
        return self._held[key].pyramid.extent() if key in self._held else None

    def infinite(self, key: SeriesKey) -> int:
        """Values beyond all numbers among those that were read."""
        return self._held[key].pyramid.infinite if key in self._held else 0

    def forget(self, keep: Callable[[SeriesKey], bool] = lambda key: False) -> None:
        """Let go of the series of what is not shown any more."""
        for key in [key for key in self._held if not keep(key)]:
            for asked in self._held.pop(key).asked.values():
                self._asking.drop(asked)

    # -- asking --------------------------------------------------------------------------------------------------

    def _refresh(self, held: _Held, tail: Samples, *, grows: bool) -> None:
        """Read the end again before live values that are let go leave a hole behind it."""
        pyramid = held.pyramid
        first = float(tail.x.min()) if len(tail.x) else np.inf
        if not np.isfinite(held.tail_from):
            held.tail_from = first
        leaving = first > (held.tail_from + pyramid.end) / 2 if np.isfinite(first) else grows
        due = pyramid.known and (leaving or not pyramid.total)
        if due and time.monotonic() - held.refreshed_s >= AGAIN_S:
            held.refreshed_s, held.tail_from = time.monotonic(), first
            pyramid.refresh()

    def _send(self, key: SeriesKey, held: _Held, tile: Tile, after: Any = None) -> None:
        question: Question[Any]
        if tile.level == VALUES:
            first, last = _EVERYTHING if tile.whole else (tile.first, tile.last)
            question = Points(
                key.stream_id, key.agent_id, key.name, first, last, after or 0, _VALUES_A_PAGE
            )  # fmt: skip
        else:
            bits = BITS * tile.level
            first, last = _EVERYTHING if tile.whole else (tile.first >> bits, tile.last >> bits)
            question = Buckets(
                None, key.stream_id, key.agent_id, key.name, tile.level, first, last, after, _BUCKETS_A_PAGE
            )
        then = partial(self._take, key, tile, held)
        held.asked[tile] = self._asking.ask(question, then, read=partial(_unpacked, tile))

    def _take(self, key: SeriesKey, tile: Tile, held: _Held, came: tuple[Floats | None, Answer]) -> None:
        rows, answer = came
        page = answer.page
        if self._held.get(key) is not held or tile not in held.asked:
            return
        del held.asked[tile]
        if rows is None or page is None:
            held.failed_s, self.problem = time.monotonic(), answer.problem
            held.pages.pop(tile, None)
            return
        pages = held.pages.setdefault(tile, [])
        pages.append(rows)
        if page.more:
            after = page.last if tile.level == VALUES else page.rows[-1].key
            self._send(key, held, tile, after)
            return
        del held.pages[tile]
        self.problem = ""
        table = np.concatenate(pages)
        if tile.level == VALUES:
            held.pyramid.put(tile, *single(table[:, 0], table[:, 1]))
        else:
            held.pyramid.put(tile, buckets(tile.level, table))
        self._evict(BYTES_MAX, {key})
        self.arrived.emit(key)

    def _take_near(self, key: SeriesKey, block: int, answer: Answer) -> None:
        held = self._held.get(key)
        if held is None or held.near_asked is None or held.near_asked[0] != block:
            return
        held.near_asked = None
        if answer.page is not None:
            points = _numbers(Tile(VALUES), answer.page.rows)
            held.near = block, single(points[:, 0], points[:, 1])[0]
            self.arrived.emit(key)

    @property
    def bytes_held(self) -> int:
        return sum(held.pyramid.bytes for held in self._held.values())

    def parts(self) -> list[Part]:
        """What is held, for the memory's limit."""
        return [Part(Sort.SERIES, self.bytes_held, self._let_go)]

    def _let_go(self, number: int) -> None:
        since_s = time.monotonic() - AGAIN_S
        in_sight = {key for key, held in self._held.items() if held.wanted_s > since_s}  # else it is read at once again
        self._evict(self.bytes_held - number, in_sight)

    def _evict(self, bytes_max: int, keep: Container[SeriesKey]) -> None:
        over = self.bytes_held - bytes_max
        for key, held in self._held.items():
            if over <= 0:
                return
            if key in keep:
                continue
            over -= held.pyramid.bytes
            held.pyramid.forget_fine()
            over += held.pyramid.bytes


def _unpacked(tile: Tile, answer: Answer) -> tuple[Floats | None, Answer]:
    return None if answer.page is None else _numbers(tile, answer.page.rows), answer


def _numbers(tile: Tile, rows: Sequence[Any]) -> Floats:
    if tile.level == VALUES:
        packed = b"".join(row.points for row in rows)
        return np.frombuffer(packed, "<f8").reshape(-1, 2).astype(np.float64)
    return np.array([_bucket(row) for row in rows], np.float64).reshape(-1, 5)


def _bucket(row: Bucket) -> tuple[float, ...]:
    return row.bucket, row.min, row.max, np.nan if row.total is None else row.total, row.count
