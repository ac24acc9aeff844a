"""Where frames of one form lie in a segment. What is the same for each of them is made once, for writer and reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from telefabric.ring import layout, pixels
from telefabric.ring.layout import Form
from telefabric.ring.pixels import Picture, PixelFormat
from telefabric.ring.ring_file import RingFile

if TYPE_CHECKING:
    import numpy as np


class Slot(NamedTuple):
    """One slot with the view of its payload."""

    begin: int
    end: int
    """Indexes of words."""
    descriptor: int
    """Offset in bytes; the meta follows it."""
    payload: np.ndarray[Any, Any]


class Slots:
    """The slots of a segment, for frames of one dtype and shape; each is made at its first use.

    The views keep the memory of a segment that is closed: let go of these first.
    """

    def __init__(self, segment: RingFile, dtype: str, shape: tuple[int, ...]) -> None:
        self._segment, self._dtype, self._shape = segment, dtype, shape
        self._made: list[Slot | None] = [None] * segment.block.slots

    def of(self, number: int) -> Slot:
        """The slot of a frame."""
        place = number % len(self._made)
        return self._made[place] or self._make(number, place)

    def _make(self, number: int, place: int) -> Slot:
        start = self._segment.slot(number)
        payload = payload_of(self._segment, start, self._dtype, self._shape)
        made = Slot((start + layout.BEGIN) // 8, self._segment.end_of(start) // 8, start + layout.DESCRIPTOR, payload)
        self._made[place] = made
        return made


def payload_of(segment: RingFile, slot: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The payload of the slot at this offset."""
    import numpy

    return numpy.ndarray(shape, dtype, segment.data, slot + layout.PAYLOAD)


class WrittenForm:
    """A writer's form: it knows a frame of the same form by its type, and how to pack what stands beside it."""

    def __init__(self, segment: RingFile, picture: Picture, given: PixelFormat | None) -> None:
        array, frame = picture.array, picture.given
        self.words, self.data = segment.words, segment.data
        self.slot = Slots(segment, picture.dtype, frame.shape).of
        self.pack = layout.head_packer(
            Form(
                segment.block.generation, array.nbytes, array.shape[-3], array.shape[-2], picture.tiles, picture.pixels,
                flags=0,
            )
        )  # fmt: skip
        self._type, self._shape, self._dtype = frame.__class__, frame.shape, frame.dtype
        self._given, self._tiled = given, bool(picture.tiles)

    def fits(self, frame: Any, given: PixelFormat | None, tiled: bool) -> bool:
        """The frame is a picture of this form: all that `pixels.picture_of` would find out."""
        return (
            frame.__class__ is self._type
            and frame.shape == self._shape
            and frame.dtype is self._dtype
            and given is self._given
            and tiled is self._tiled
        )


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
        self.packed = packed
        self.pixels, self.tiles = PixelFormat(form.pixels), form.tiles
        self.slot = Slots(segment, dtype, shape).of
