"""Pictures: the step that one shows, and its JPEG, which needs the extra ``frames`` (simplejpeg and numpy)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from telefabric_schemas import Frame

if TYPE_CHECKING:
    import numpy as np


def copied(frame: Any) -> np.ndarray[Any, Any]:
    """A copy of the caller's picture in the one form that is encoded: uint8, (height, width, 3 or 1), C order.

    Raises `ValueError` if it is not a picture, and `ImportError` without the extra.
    """
    import numpy
    import simplejpeg  # noqa: F401  (a missing extra is an error of the caller, not of the link's thread)

    array = numpy.asarray(frame)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != numpy.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"a frame of shape {array.shape} and dtype {array.dtype}; uint8 of (height, width[, 3]) is one"
        )
    return numpy.array(array, order="C", copy=True)


def encoded(
    picture: np.ndarray[Any, Any], moment: Moment, quality: int, time_ns: int, mono_ns: int, frame_ref: str = ""
) -> Frame:
    """The picture as an event that has no seq yet."""
    import simplejpeg

    height, width, channels = picture.shape
    data = simplejpeg.encode_jpeg(picture, quality=quality, colorspace="RGB" if channels == 3 else "GRAY")
    return Frame(
        0, moment.agent_id, moment.env_index, moment.episode, moment.step, frame_ref, width, height, "jpeg", data,
        time_ns, mono_ns,
    )  # fmt: skip


class Moment(NamedTuple):
    """The step that a frame shows."""

    agent_id: str
    env_index: int
    episode: int
    step: int
    reward: float
    ended: bool
    """The episode ends with it."""


class Shot(NamedTuple):
    """A moment, with what the ring shows of its episode."""

    moment: Moment
    episode_return: float
    steps_per_s: float
    """0 while it is not known."""
    values: Mapping[str, float]
