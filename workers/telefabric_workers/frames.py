"""Pictures of the environment for whoever watches: JPEG over the live path, the newest of each environment.

Nothing happens while nobody watches, and never more often than `FPS_MAX`. The caller's thread copies the picture; the
link's thread encodes it, without the interpreter lock. Needs the extra ``frames`` (simplejpeg and numpy).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from telefabric.ratelimit import library_logger
from telefabric_schemas import Frame

if TYPE_CHECKING:
    import numpy as np

    from telefabric.link import LinkedStream

log = library_logger("telefabric.worker.frames")

FPS_MAX = 20
QUALITY = 85
_INTERVAL_NS = 1_000_000_000 // FPS_MAX


class _Shot(NamedTuple):
    """A copied picture, and which step it shows."""

    agent_id: str
    env_index: int
    episode: int
    step: int
    picture: np.ndarray[Any, Any]
    """uint8, (height, width, 3) RGB or (height, width, 1) grey, C order."""
    time_ns: int
    mono_ns: int

    def encode(self) -> Frame:
        import simplejpeg

        height, width, channels = self.picture.shape
        data = simplejpeg.encode_jpeg(self.picture, quality=QUALITY, colorspace="RGB" if channels == 3 else "GRAY")
        return Frame(
            0, self.agent_id, self.env_index, self.episode, self.step, "", width, height, "jpeg", data,
            self.time_ns, self.mono_ns,
        )  # fmt: skip


class LiveFrames:
    """Offers pictures to one stream's link. Any thread."""

    def __init__(self, linked: LinkedStream) -> None:
        self._linked = linked
        self._due_ns: dict[tuple[str, int], int] = {}

    def offer(self, agent_id: str, env_index: int, episode: int, step: int, frame: Any) -> None:
        """A picture, or a callable that renders it when it will be used.

        Raises `ValueError` for what is no picture and `ImportError` without the extra.
        """
        if not self._linked.feed.watched:
            return
        key = (agent_id, env_index)
        now_ns = time.monotonic_ns()
        if now_ns < self._due_ns.get(key, 0):
            return
        self._due_ns[key] = now_ns + _INTERVAL_NS
        picture = _picture(frame() if callable(frame) else frame)
        if picture is not None:
            shot = _Shot(agent_id, env_index, episode, step, picture, time.time_ns(), now_ns)
            self._linked.frames[key] = _encoder(shot)


def _encoder(shot: _Shot) -> Callable[[], Frame | None]:
    def encode() -> Frame | None:
        try:
            return shot.encode()
        except (ValueError, RuntimeError) as error:
            log.warning("worker.frame_left_out: a frame of %s was not sent: %s", shot.agent_id, error)
            return None

    return encode


def _picture(frame: Any) -> np.ndarray[Any, Any] | None:
    """A copy of the caller's picture in the one form that is encoded; None for no picture at all."""
    if frame is None:
        return None
    import numpy
    import simplejpeg  # noqa: F401  (a missing extra is told to the caller, not found out on the link's thread)

    array = numpy.asarray(frame)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != numpy.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"a frame of shape {array.shape} and dtype {array.dtype}; uint8 of (height, width[, 3]) is one"
        )
    return numpy.array(array, order="C", copy=True)
