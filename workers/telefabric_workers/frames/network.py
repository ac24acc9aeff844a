"""Frames over the network, for clients that ask for pictures: JPEG over the live path, the newest per environment.

The caller's thread copies the picture; the link's thread encodes it, without the interpreter lock. Needs the extra
``frames`` (simplejpeg and numpy).
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from telefabric.log.limit import Pace, library_logger
from telefabric_schemas import Frame
from telefabric_workers.frames import pictures
from telefabric_workers.frames.pictures import Moment, Shot

if TYPE_CHECKING:
    import numpy as np

    from telefabric.uplink import LinkedStream

log = library_logger("telefabric.worker.frames")


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
        copy = pictures.copied(picture)
        self._linked.frames[key] = partial(_encoded, copy, shot.moment, self._quality, time.time_ns(), now_ns)
        self._linked.wake()

    def close(self) -> None:
        return


def _encoded(picture: np.ndarray[Any, Any], moment: Moment, quality: int, time_ns: int, mono_ns: int) -> Frame | None:
    try:
        return pictures.encoded(picture, moment, quality, time_ns, mono_ns)
    except (ValueError, RuntimeError) as error:
        log.warning("worker.frame_left_out: a frame of %s was not sent: %s", moment.agent_id, error)
        return None
