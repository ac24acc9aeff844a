"""The seed of an episode as people look for it and sort by it: an integer, or else JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from telefabric import limits
from telefabric_schemas import values
from telefabric_schemas.decoding import Decoder


def column(seed: msgspec.Raw) -> int | str | None:
    """The seed in the form of its column. None without a seed, and if its JSON form is missing or very long."""
    try:
        value = _decoder.decode(seed)
        if value is None or (type(value) is int and -(2**63) <= value < 2**63):
            return value
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError):
        return None
    return text if len(text) <= limits.SEED_CHARACTERS_MAX else None


def _ext_hook(code: int, data: memoryview) -> Any:
    if code == values.EXT_BIGINT:
        return int.from_bytes(data, "big", signed=True)
    raise TypeError(f"extension {code} has no JSON form")


_decoder: Decoder[Any] = Decoder(ext_hook=_ext_hook)
