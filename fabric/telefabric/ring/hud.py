"""The HUD of a frame. It travels in the frame's slot, so that it cannot belong to another frame."""

from __future__ import annotations

import msgspec

from telefabric_schemas.decoding import Decoder


class TileHud(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The HUD of one tile of a grid: its environment, and that environment's values."""

    env_index: int
    episode: int = 0
    step: int = 0
    reward: float = 0.0
    episode_return: float = 0.0
    fresh: bool = True
    """Rendered for this frame, not kept from an earlier one."""


class Hud(msgspec.Struct, array_like=True, frozen=True):
    """Indexes count from 0; `steps_per_s` is 0 while it is not known."""

    env_index: int = 0
    episode: int = 0
    step: int = 0
    reward: float = 0.0
    episode_return: float = 0.0
    steps_per_s: float = 0.0
    values: dict[str, float] = {}
    """Any named scalars."""
    tiles: list[TileHud] = []


encode = msgspec.msgpack.Encoder().encode
_decoder: Decoder[Hud] = Decoder(Hud)
decode = _decoder.decode
"""Raises `msgspec.DecodeError`."""
