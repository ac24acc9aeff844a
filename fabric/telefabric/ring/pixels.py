"""Pictures as they lie in a ring: pixel formats, and which arrays they are."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from telefabric import limits

if TYPE_CHECKING:
    import numpy as np


class PixelFormat(IntEnum):
    """Codes of the ring's descriptor. Components are interleaved; rows follow each other without padding."""

    RGB8 = 1
    BGR8 = 2
    RGBA8 = 3
    GRAY8 = 4
    GRAY16 = 5
    DEPTH = 6
    """float32, in any unit; not finite where nothing was measured."""


_TYPES = {
    PixelFormat.RGB8: ("uint8", 3), PixelFormat.BGR8: ("uint8", 3), PixelFormat.RGBA8: ("uint8", 4),
    PixelFormat.GRAY8: ("uint8", 1), PixelFormat.GRAY16: ("uint16", 1), PixelFormat.DEPTH: ("float32", 1),
}  # fmt: skip
_NAMES = {"u1": "uint8", "u2": "uint16", "f4": "float32"}
"""numpy's code without the byte order → name. numpy's own `name` takes as long as publishing a small frame."""
_SIZES = {"uint8": 1, "uint16": 2, "float32": 4}
_GUESSED = {kind: found for found, kind in _TYPES.items() if found != PixelFormat.BGR8}
"""What an array is taken for unless its format is given."""
_FORMS = (
    "uint8 of (height, width[, 1, 3 or 4]), uint16 or float32 of (height, width), "
    f"each side from 1 to {limits.FRAME_SIDE_MAX}"
)


class Picture(NamedTuple):
    """An array with the shape that it has in the ring."""

    array: np.ndarray[Any, Any]
    """(height, width, channels), or (tiles, height, width, channels); a view of the caller's memory."""
    pixels: PixelFormat
    tiles: int
    given: np.ndarray[Any, Any]
    """The caller's array in the shape that it has there."""

    @property
    def dtype(self) -> str:
        """In the ring: in the machine's byte order, whatever the caller's is."""
        return _TYPES[self.pixels][0]


def picture_of(frame: Any, pixels: PixelFormat | None = None, *, tiled: bool = False) -> Picture:
    """A caller's array, or list of rows, as a picture; `tiled`: its first axis counts pictures of one size.

    Nothing is copied. Raises `ValueError` for anything but a picture, with the valid forms.
    """
    import numpy

    array = given = numpy.asarray(frame)
    if array.ndim == 2 + tiled:
        array = array[..., None]
    kind = (_NAMES.get(array.dtype.str[1:], ""), array.shape[-1] if array.ndim == 3 + tiled else 0)
    found = _GUESSED.get(kind) if pixels is None else pixels
    if found is None or _TYPES[found] != kind or 0 in array.shape or max(array.shape) > limits.FRAME_SIDE_MAX:
        wanted = _FORMS if pixels is None else "{} is {} with {} channels".format(pixels.name, *_TYPES[pixels])
        raise ValueError(f"a frame of shape {numpy.shape(frame)} and dtype {array.dtype}: {wanted}")
    return Picture(array, found, len(array) if tiled else 0, given)


def shape_of(pixels: int, height: int, width: int, tiles: int) -> tuple[str, tuple[int, ...]] | None:
    """dtype and shape of a descriptor's picture; None if it does not describe one."""
    if pixels not in _TYPES or not (0 < height <= limits.FRAME_SIDE_MAX and 0 < width <= limits.FRAME_SIDE_MAX):
        return None
    dtype, channels = _TYPES[PixelFormat(pixels)]
    return dtype, (tiles,) * (tiles > 0) + (height, width, channels)


def bytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    return _SIZES[dtype] * math.prod(shape)
