"""Frames over the network, for clients that ask for pictures: JPEG over the live path, the newest per environment.

The caller's thread copies the picture; the link's thread encodes it, without the interpreter lock. Needs the extra
``frames`` (simplejpeg and numpy).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from telefabric.log.limit import Pace, library_logger
from telefabric_schemas import Frame
from telefabric_workers.frames import jpeg
from telefabric_workers.frames.moment import Moment, Shot

if TYPE_CHECKING:
    import numpy as np

    from telefabric.uplink import LinkedStream

log = library_logger("telefabric.worker.frames")


class _Copy(NamedTuple):
    """A copied picture, and which step it shows."""

    moment: Moment
    picture: np.ndarray[Any, Any]
    time_ns: int
    mono_ns: int


class NetworkFrames:
    """Offers pictures to one stream's link, at most `fps_max` a second of each environment. Any thread."""

    def __init__(self, linked: LinkedStream, fps_max: int, quality: int) -> None:
        self._linked = linked
        self._quality = quality
        self._paces: defaultdict[tuple[str, int], Pace] = defaultdict(lambda: Pace(fps_max))

    def wants(self, moment: Moment, rendered: bool) -> bool:
        if not self._linked.feed.pictures:
            return False
        return self._paces[moment.agent_id, moment.env_index].due(time.monotonic_ns())

    def take(self, shot: Shot, picture: Any) -> None:
        key = (shot.moment.agent_id, shot.moment.env_index)
        now_ns = time.monotonic_ns()
        self._paces[key].took(now_ns)
        copy = _Copy(shot.moment, jpeg.copied(picture), time.time_ns(), now_ns)
        self._linked.frames[key] = _encoder(copy, self._quality)

    def close(self) -> None:
        return


def _encoder(copy: _Copy, quality: int) -> Callable[[], Frame | None]:
    def encode() -> Frame | None:
        try:
            return jpeg.encoded(copy.picture, copy.moment, quality, copy.time_ns, copy.mono_ns)
        except (ValueError, RuntimeError) as error:
            log.warning("worker.frame_left_out: a frame of %s was not sent: %s", copy.moment.agent_id, error)
            return None

    return encode
