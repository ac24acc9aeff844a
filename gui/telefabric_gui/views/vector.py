"""The card of a vector environment: its tiles in an order of one's choice, and which of them is followed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QPushButton

from telefabric.ring import RingFrame, TileHud
from telefabric_gui.formatting import count, duration, plural
from telefabric_gui.model.tiles import ORDERS, Ages, Tile, TileOrder
from telefabric_gui.rows import NO_STEP
from telefabric_gui.views.frames import image_of
from telefabric_gui.views.styled import Card, Panel, TickBox, button, column, label, laid_out, row, say_fitting
from telefabric_gui.views.tile_grid import TileGrid

_TIPS = {
    "worst": "The least return first", "best": "The greatest return first", "longest": "The longest episode first",
    "index": "In the order of the environments",
}  # fmt: skip


class Newest(NamedTuple):
    """The newest step of an environment that came."""

    episode: int
    step: int
    ended: bool
    stored: bool


class VectorCard(Card):
    """The page gives it a frame of the ring, or stored tiles. `chosen` says which environment the user follows."""

    chosen = Signal(int)
    cards_wanted = Signal()
    """The charts and episodes are wanted in its place."""
    picture_wanted = Signal()
    """The followed picture is wanted alone."""

    def __init__(self) -> None:
        self.grid = TileGrid()
        self._buttons = QButtonGroup()
        segments = Panel("segments")
        segments.setLayout(row(*(self._switch(name) for name in ORDERS), margins=(2, 2, 2, 2), spacing=2))
        self._stalled_first = TickBox("stalled first")
        self._stalled_first.setChecked(True)
        self._stalled_first.setToolTip("Environments that stand still come before all others")
        self._stalled_first.toggled.connect(self._sort)
        bar = row(segments, 1, self._stalled_first, margins=(12, 0, 12, 4))
        super().__init__("Environments", laid_out(column(bar, (self.grid, 1))))
        self._badge = label(badge="warning")
        self._badge.hide()
        self.badges.addWidget(self._badge)
        self.corner.addWidget(button("charts", self.cards_wanted, "link", "Charts and episodes in place of the grid"))
        self.follows: int | None = None
        """The environment that is followed: the first in order, until one is chosen."""
        self.tiles: Sequence[Tile] = ()
        """In order."""
        self._ages, self._order = Ages(), TileOrder()
        self._last_frame = self._envs = 0
        self.grid.followed.connect(self.follow)
        self.grid.order_wanted.connect(self._next_order)
        self.grid.whole_wanted.connect(self.picture_wanted)

    @property
    def followed(self) -> Tile | None:
        return next((tile for tile in self.tiles if tile.env == self.follows), None)

    @property
    def rank(self) -> str:
        """How the followed environment does among the others, in a word; empty when nothing is to be said."""
        known = sorted(tile.total for tile in self.tiles if tile.total is not None)
        if len(known) < 2 or (tile := self.followed) is None or known[0] == known[-1]:
            return ""
        return "worst" if tile.total == known[0] else "best" if tile.total == known[-1] else ""

    def follow(self, env: int) -> None:
        self.follows = env
        self.grid.show_tiles(self.tiles, env, gone=self.grid.gone)
        self.chosen.emit(env)

    def look_again(self) -> None:
        """Nobody has looked for a while: the frame that is there says of nothing that it has stalled."""
        self._ages.came_s = time.monotonic()

    def mark(self, env: int) -> None:
        """This environment is followed from now on, since the cursor is at its step."""
        self.follows = env
        self.grid.show_tiles(self.tiles, env, gone=self.grid.gone)

    def show_ring(self, frame: RingFrame, state: str, newest: Mapping[int, Newest], silent: Sequence[Tile]) -> None:
        """Show a frame of the ring with the newest steps of its environments, and the silent ones; again for ages."""
        now_s = time.monotonic()
        huds: list[TileHud] = frame.hud.tiles
        if len(huds) != frame.tiles:  # a writer that says less of them than it shows
            huds = [TileHud(place) for place in range(frame.tiles)]
        if frame.number != self._last_frame:
            self._last_frame = frame.number
            self._ages.see(huds, frame.shown_ns / 1e9, now_s)
        gone = state in ("closed", "died")
        tiles = []
        for place, hud in enumerate(huds):
            tile = self._ages.tile(hud, now_s)._replace(image=image_of(frame.array[place], frame.pixels))
            if gone:
                tile = tile._replace(stalled=False, foot=())
            tiles.append(_with_foot(tile, newest.get(hud.env_index)))
        shown = {tile.env for tile in tiles}
        tiles += [tile for tile in silent if tile.env not in shown and not gone]
        self._show(tiles, now_s, gone=gone, envs=len(newest.keys() | {tile.env for tile in tiles}))

    def show_stored(self, tiles: Sequence[Tile]) -> None:
        self._show(tiles, time.monotonic(), gone=self.grid.gone and tiles is self.tiles, envs=self._envs)

    def _show(self, tiles: Sequence[Tile], now_s: float, *, gone: bool, envs: int) -> None:
        self.tiles = self._order.arrange(tiles, now_s, held=self.grid.underMouse())
        if self.followed is None and self.tiles:
            self.follows = next((tile for tile in self.tiles if tile.step != NO_STEP), self.tiles[0]).env
        self.grid.show_tiles(self.tiles, self.follows, gone=gone)
        stalled = [tile for tile in tiles if tile.stalled]
        self._badge.setVisible(bool(stalled) and not gone)
        self._badge.setText(f"{count(len(stalled))} stalled")
        self._badge.setToolTip(f"No step for some time: environment {', '.join(str(one.env) for one in stalled)}")
        self._envs = max(envs, len(tiles))
        shown = f"{count(len(tiles))} of {count(self._envs)}"
        say_fitting(self.caption, f"{shown} shown", shown)
        self.grid.setAccessibleDescription(f"{plural(len(tiles), 'environment')}, {self._order.by} first")

    # -- the order -----------------------------------------------------------------------------------------------

    def _switch(self, name: str) -> QPushButton:
        made = QPushButton(name)
        made.setProperty("role", "order")
        made.setCheckable(True)
        made.setChecked(name == "worst")
        made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        made.setToolTip(f"{_TIPS[name]} (O: the next order)")
        made.clicked.connect(partial(self.sort_by, name))
        made.setObjectName(f"order_{name}")
        self._buttons.addButton(made)
        return made

    def sort_by(self, name: str) -> None:
        """Sort by one of `ORDERS`."""
        next(one for one in self._buttons.buttons() if one.objectName() == f"order_{name}").setChecked(True)
        self._order.by = name
        self._sort()

    def _next_order(self) -> None:
        names = [*ORDERS]
        self.sort_by(names[(names.index(self._order.by) + 1) % len(names)])

    def _sort(self) -> None:
        self._order.sort(self._order.by, stalled_first=self._stalled_first.isChecked())
        self.show_stored(self.tiles)


def _with_foot(tile: Tile, newest: Newest | None) -> Tile:
    """What is to be said of a tile beside its figures."""
    own = newest is not None and (newest.episode, newest.step) == (tile.episode, tile.step)
    if tile.stalled:
        kept = ("stored" if newest.stored else "live only") if own and newest is not None else ""
        last = (f"step {count(tile.step)}: {kept}",) if kept else ()
        return tile._replace(foot=(f"stalled {_seconds(tile.age_s)}", *last))
    ended = own and newest is not None and newest.ended
    return tile._replace(foot=("ended",)) if ended else tile


def _seconds(age_s: float) -> str:
    """Whole ones, which have room in a small tile."""
    return f"{age_s:.0f} s" if age_s < 10 else duration(age_s)


def newest_of(records: Any, stored_seq: int) -> dict[int, Newest]:
    """The newest step of each environment among records in the order of seq."""
    envs, back = np.unique(records["env"][::-1], return_index=True)
    found = records[len(records) - 1 - back]
    return {
        int(env): Newest(int(one["episode"]), int(one["step"]), bool(one["terminated"] or one["truncated"]),
                         int(one["seq"]) <= stored_seq)
        for env, one in zip(envs, found, strict=True)
    }  # fmt: skip
