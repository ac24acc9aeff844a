"""Where frames of one form lie in a segment. What is the same for each of them is made once, for writer and reader."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from telefabric.ring import layout, pixels
from telefabric.ring.layout import Form
from telefabric.ring.pixels import Picture, PixelFormat
from telefabric.ring.ring_file import RingFile

if TYPE_CHECKING:
    import numpy as np


def payloads_of(segment: RingFile, dtype: str, shape: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    """The payload of each slot, for frames of one dtype and shape, at the places of the segment.

    The views keep the memory of a segment that is closed (those of `numpy.ndarray` would not, and then lead nowhere):
    let go of these first.
    """
    import numpy

    slots, count = map(segment.slot, range(segment.block.slots)), math.prod(shape)
    return [numpy.frombuffer(segment.data, dtype, count, slot + layout.PAYLOAD).reshape(shape) for slot in slots]


class WrittenForm:
    """A writer's form. A frame of this `type` and `key` needs no second look; `pack` makes the head of its slot."""

    def __init__(self, segment: RingFile, picture: Picture, given: PixelFormat | None) -> None:
        array, frame = picture.array, picture.given
        self.words, self.data, self.places = segment.words, segment.data, segment.places
        self.payloads = payloads_of(segment, picture.dtype, frame.shape)
        self.pack = layout.head_packer(
            Form(
                segment.block.generation, array.nbytes, array.shape[-3], array.shape[-2], picture.tiles, picture.pixels,
                flags=0,
            )
        )  # fmt: skip
        self.type, self.key = frame.__class__, (frame.shape, frame.dtype, given, bool(picture.tiles))


class ReadForm:
    """A reader's form. Raises `ValueError` if the descriptor that has it contradicts itself or the segment."""

    def __init__(self, segment: RingFile, packed: bytes) -> None:
        form = layout.parse_form(packed)
        found = pixels.shape_of(form.pixels, form.height, form.width, form.tiles)
        if found is None or form.generation != segment.block.generation:
            raise ValueError(form)
        dtype, shape = found
        size = pixels.bytes_of(dtype, shape)
        if size != form.payload_bytes or size > segment.block.capacity:
            raise ValueError(form)
        self.packed, self.checked = packed, bool(segment.block.features & layout.FEATURE_CHECKSUM)
        self.pixels, self.tiles = PixelFormat(form.pixels), form.tiles
        self.payloads = payloads_of(segment, dtype, shape)
