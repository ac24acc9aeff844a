"""A stored series at every resolution, as far as it is held: which parts are wanted for a range, and what to draw.

The store's overview has buckets of 256, 65,536 and 16,777,216 steps, each with its lowest and highest value. A part
of a level is a tile, as large as a short question. A picture begins with the coarsest tile, which has the final axes,
and gets finer as tiles come; single values are asked for once few enough are in sight. Pure: it asks nobody itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from telefabric_gui.reduction import NOTHING, Floats, Samples, joined

VALUES = 0
"""The level of single values."""
TOP = 3
BITS = 8
"""A bucket has 256 of the level below."""
VALUES_MAX = 131_072
"""In sight: with more, buckets are drawn, of two pixels or less on most screens."""
_BUCKETS_A_TILE_BITS = 12
_VALUES_A_TILE = 32_768


@dataclass(frozen=True, order=True)
class Tile:
    """Part of a series on one level: of `1 << bits` steps, or the whole series."""

    level: int
    bits: int = 0
    index: int = 0

    @property
    def whole(self) -> bool:
        return not self.bits

    @property
    def first(self) -> int:
        return self.index << self.bits

    @property
    def last(self) -> int:
        return ((self.index + 1) << self.bits) - 1


_TOP_TILE = Tile(TOP)
_ALL_VALUES = Tile(VALUES)


@dataclass
class _Held:
    samples: Samples
    infinite: int
    final: bool
    """Later steps were stored already when it was read."""


def buckets(level: int, rows: Floats) -> Samples:
    """Samples of rows of bucket, lowest, highest, total and count; a total that is not a number is the middle."""
    number, low, high, total, count = rows.reshape(-1, 5).T
    width = float(1 << BITS * level)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.where(np.isfinite(total), total / count, low / 2 + high / 2)
    x = number * width
    return Samples(x, x + width, low, high, np.clip(mean, low, high), count, np.zeros(len(x), np.bool_))


@dataclass
class Pyramid:
    """One series of one stream."""

    infinite: int = 0
    """Values beyond all numbers among the single ones that are held."""
    version: int = 0
    _tiles: dict[Tile, _Held] = field(default_factory=dict)
    _stale: set[Tile] = field(default_factory=set)
    _made: dict[int, Samples] = field(default_factory=dict)
    """Level → what is drawn at it, while nothing changes."""
    _bits: int = 0

    @property
    def known(self) -> bool:
        """Whether the store has answered."""
        return _TOP_TILE in self._tiles

    @property
    def total(self) -> float:
        """Stored values."""
        return float(self._coarse().number.sum())

    @property
    def bytes(self) -> int:
        return sum(column.nbytes for held in self._tiles.values() for column in held.samples)

    def extent(self) -> tuple[float, float, float, float] | None:
        """First and last x, lowest and highest value of all that is stored; None before it is known, or when empty."""
        top = self._coarse()
        if not len(top.x):
            return None
        return float(top.x[0]), float(top.end[-1]), float(top.low.min()), float(top.high.max())

    @property
    def end(self) -> float:
        """Behind the last step that is stored, as finely as it is held."""
        found = self._made_at(VALUES)
        return float(found.end[-1]) if len(found.x) else -math.inf

    # -- what is wanted ------------------------------------------------------------------------------------------

    def level(self, first: float, last: float, pixels: int) -> int:
        """The finest level that shows in this range: single values where they are few, else buckets of a pixel."""
        if self.total <= VALUES_MAX or self._count(first, last) <= VALUES_MAX:
            return VALUES
        step = (last - first) / max(1, pixels)
        return next((level for level in range(TOP, 1, -1) if 1 << BITS * level <= step), 1)

    def wanted(self, first: float, last: float, pixels: int) -> list[Tile]:
        """The tiles that are missing or out of date in a range, coarsest first."""
        if not self.known:
            return [_TOP_TILE]
        found = [_TOP_TILE, *self._path(first, last, self.level(first, last, pixels))]
        return [tile for tile in found if tile not in self._tiles or tile in self._stale]

    def _path(self, first: float, last: float, level: int) -> Iterator[Tile]:
        extent = self.extent()
        if extent is None:
            return
        if self.total <= VALUES_MAX:
            yield _ALL_VALUES
            return
        first, last, unknown = max(first, extent[0]), min(last, extent[1] - 1), False
        for finer in range(TOP - 1, level - 1, -1):
            bits = BITS * finer + _BUCKETS_A_TILE_BITS if finer else self._value_bits()
            for index in range(int(first) >> bits, (int(last) >> bits) + 1 if last >= first else 0):
                yield Tile(finer, bits, index)
                unknown = unknown or Tile(finer, bits, index) not in self._tiles
            if unknown and finer == TOP - 1:  # how many values there are in sight, these tell
                return

    def _value_bits(self) -> int:
        """The steps of a tile of single values: more where values are far apart. Once chosen, it stays."""
        if not self._bits:
            found = self._made_at(TOP - 1)
            steps_a_value = float((found.end - found.x).sum() / found.number.sum())
            self._bits = max(2 * BITS, round(math.log2(max(1.0, steps_a_value) * _VALUES_A_TILE)))
        return self._bits

    def _count(self, first: float, last: float) -> float:
        """About how many values are in a range."""
        found = self._made_at(TOP - 1)
        width = np.maximum(found.end - found.x, 1.0)
        share = (np.minimum(found.end, last) - np.maximum(found.x, first)) / width
        return float((found.number * np.clip(share, 0.0, 1.0)).sum())

    # -- what is held --------------------------------------------------------------------------------------------

    def put(self, tile: Tile, samples: Samples, infinite: int = 0) -> None:
        """The answer for a tile."""
        before = self.total
        coarse = self._coarse() if tile.level == TOP - 1 else self._made_at(TOP - 1)
        final = not tile.whole and len(coarse.x) > 0 and tile.last < coarse.x[-1]
        self._tiles[tile] = _Held(samples, infinite, final)
        self._stale.discard(tile)
        if tile == _TOP_TILE and before not in (0.0, self.total):
            self._stale |= {held for held, one in self._tiles.items() if not one.final and held != _TOP_TILE}
        self._changed()

    def refresh(self) -> None:
        """More may be stored by now."""
        self._stale.add(_TOP_TILE)

    def forget_fine(self) -> None:
        """Let go of what can be asked for again: all but the coarse levels."""
        self._tiles = {tile: held for tile, held in self._tiles.items() if tile.level > 1}
        self._stale &= self._tiles.keys()
        self._changed()

    def _changed(self) -> None:
        self.infinite = sum(held.infinite for held in self._tiles.values())
        self.version += 1
        self._made.clear()

    def _coarse(self) -> Samples:
        held = self._tiles.get(_TOP_TILE)
        return NOTHING if held is None else held.samples

    def samples(self, first: float, last: float, pixels: int) -> Samples:
        """All of the series, at the level of this range where that is held, and else at the next coarser one."""
        return self._made_at(self.level(first, last, pixels))

    def _made_at(self, level: int) -> Samples:
        if level not in self._made:
            self._made[level] = self._make(level)
        return self._made[level]

    def _make(self, level: int) -> Samples:
        if level == VALUES and _ALL_VALUES in self._tiles:
            return self._tiles[_ALL_VALUES].samples
        if level >= TOP:
            return self._coarse()
        coarser, parts, begin = self._made_at(level + 1), [], 0
        for tile in sorted(tile for tile in self._tiles if tile.level == level and not tile.whole):
            until = int(np.searchsorted(coarser.x, tile.first, "left"))
            parts += [coarser.part(begin, until), self._tiles[tile].samples]
            begin = int(np.searchsorted(coarser.x, tile.last, "right"))
        return joined(*parts, coarser.part(begin, len(coarser.x)))


def with_tail(stored: Samples, tail: Samples, *, hole: bool = False) -> Samples:
    """Stored samples up to the first live one, and then those that are live; behind a hole no line leads to them."""
    if not len(tail.x) or not len(stored.x):
        return joined(stored, tail)
    if hole:
        tail = tail._replace(cut=np.append(True, tail.cut[1:]))
    return joined(stored.at(stored.x < tail.x.min()), tail)
