"""Environments of one agent as tiles: how old each is, which have stalled, and in which order they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from telefabric.ring import TileHud
from telefabric_gui.rows import NO_STEP

OLD_S = 0.5
"""From this age on, a tile's age is shown as a warning."""
STALLED_S = 3.0
"""An environment without a step for this long has stalled; a ring has the same rule."""
ORDER_S = 2.0
"""The order stays for at least this long, or nobody could follow a tile with the eye."""
NEW_S = 1.0
"""How long an episode is called new."""
SILENT_MAX = 64
"""Of more environments than a ring shows, the others are not known to be silent."""


class Tile(NamedTuple):
    """One environment at one moment."""

    env: int
    episode: int
    step: int
    """`NO_STEP` when none is in memory; then `age_s` is the least that it can be."""
    total: float | None
    """Return of the episode so far; None while it is not known."""
    age_s: float
    """Since its newest step."""
    stalled: bool = False
    foot: tuple[str, ...] = ()
    """What is said over the picture, in lines."""
    image: Any = None
    """None when there is no picture."""


class Ages:
    """When each environment stepped last, by the frames that came, and when its episode began."""

    def __init__(self) -> None:
        self._stepped: dict[int, tuple[tuple[int, int], float]] = {}
        self._shown_s, self.came_s = -math.inf, math.inf
        """When the newest frame was published, and when it came here: a ring keeps it for who looks later."""
        self._begun_s: dict[int, float] = {}

    def see(self, huds: Iterable[TileHud], shown_s: float, came_s: float | None = None) -> None:
        """A frame was published, and came later when one has not looked before."""
        self._shown_s, self.came_s = shown_s, shown_s if came_s is None else came_s
        for hud in huds:
            place, known = (hud.episode, hud.step), self._stepped.get(hud.env_index)
            if known is None or known[0] != place or hud.fresh:
                self._stepped[hud.env_index] = place, shown_s
            if known is not None and known[0][0] != hud.episode:
                self._begun_s[hud.env_index] = shown_s

    def tile(self, hud: TileHud, now_s: float) -> Tile:
        """A tile without its picture."""
        env = hud.env_index
        stepped_s = self._stepped[env][1] if env in self._stepped else now_s
        new = now_s - self._begun_s.get(env, -math.inf) < NEW_S
        foot = ("new episode",) if new else ()
        stalled = max(self._shown_s - stepped_s, now_s - self.came_s) >= STALLED_S
        return Tile(env, hud.episode, hud.step, hud.episode_return, now_s - stepped_s, stalled, foot)


def silent(seen: Collection[int], told: object, for_s: float) -> list[Tile]:
    """Environments that are not among those `seen` in the last `for_s` seconds: their numbers, or the run's metadata
    (`num_envs`), tell of them."""
    number = max(max(seen, default=-1) + 1, told if isinstance(told, int) else 0)
    if for_s < STALLED_S or not 1 < number <= SILENT_MAX:
        return []
    return [Tile(env, NO_STEP, NO_STEP, None, for_s, True, ("stalled",)) for env in range(number) if env not in seen]


def _by_total(tile: Tile, sign: int) -> tuple[bool, float, int]:
    """Returns that are not known come last."""
    total = tile.total
    return (True, 0.0, tile.env) if total is None or math.isnan(total) else (False, sign * total, tile.env)


ORDERS: dict[str, Callable[[Tile], Any]] = {
    "worst": lambda tile: _by_total(tile, 1),
    "best": lambda tile: _by_total(tile, -1),
    "longest": lambda tile: (-tile.step, tile.env),
    "index": lambda tile: tile.env,
}
"""By what comes first."""


class TileOrder:
    """It changes at most once in `ORDER_S`, and not at all while it is held, such as under the pointer.

    Once all returns have been read, it is made of them at once.
    """

    def __init__(self) -> None:
        self.by = "worst"
        self.stalled_first = True
        self._envs: list[int] = []
        self._changed_s = -math.inf
        self._unknown = False
        """Not all returns were known when the order was made."""

    def sort(self, by: str, *, stalled_first: bool) -> None:
        """Sort by one of `ORDERS` from now on."""
        self.by, self.stalled_first, self._envs = by, stalled_first, []

    def arrange(self, tiles: Iterable[Tile], now_s: float, *, held: bool) -> list[Tile]:
        by_env = {tile.env: tile for tile in tiles}
        wanted = [tile.env for tile in sorted(by_env.values(), key=self._key)]
        unknown = any(_by_total(tile, 1)[0] for tile in by_env.values())
        settled, self._unknown = self._unknown and not unknown, unknown
        if set(wanted) == set(self._envs) and (held or (now_s - self._changed_s < ORDER_S and not settled)):
            return [by_env[env] for env in self._envs]
        if wanted != self._envs:
            self._envs, self._changed_s = wanted, now_s
        return [by_env[env] for env in self._envs]

    def _key(self, tile: Tile) -> Any:
        return not (self.stalled_first and tile.stalled), ORDERS[self.by](tile)
