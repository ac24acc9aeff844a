"""The fast lane of one agent: the newest frame of its ring on this machine, shown as soon as the writer rings."""

from __future__ import annotations

import time

from PySide6.QtCore import QObject, QSocketNotifier, Qt, QTimer, Signal

from telefabric.ring import RingFrame, RingReader, rings_of
from telefabric_gui.agent_stream import AgentStream

FRAME_MS = 12
"""Less than the time between two frames at 60 a second."""
_LOOK_MS = 500
_POLL_MS = 33
"""Where no bell can be had."""


class Lane(QObject):
    """Runs between `start` and `stop`, while its page is in sight. GUI thread."""

    arrived = Signal()
    """There is another `frame`."""

    def __init__(self, stream: AgentStream, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._stream = stream
        self.frame: RingFrame | None = None
        self.state = "absent"
        """One of the states of `RingReader.state`."""
        self.fps: float | None = None
        """Frames that the writer published in a second."""
        self.frame_ms = FRAME_MS
        """At most one frame is shown in this time."""
        self._reader: RingReader | None = None
        self._notifier: QSocketNotifier | None = None
        self._counted = (0, 0.0)
        self._look_timer = QTimer(self, interval=_LOOK_MS)
        self._look_timer.timeout.connect(self._look)
        self._take_timer = QTimer(self, singleShot=True, timerType=Qt.TimerType.PreciseTimer)
        self._take_timer.timeout.connect(self._take)
        self._took_s = 0.0

    @property
    def skipped(self) -> int:
        """Frames that came faster than they are shown, or while this page was out of sight."""
        return self._reader.counters.skipped if self._reader is not None else 0

    @property
    def age_s(self) -> float | None:
        """Time since the frame's writer published it."""
        return None if self.frame is None else max(0.0, (time.monotonic_ns() - self.frame.shown_ns) / 1e9)

    def start(self) -> None:
        self._look_timer.start()
        self._look()

    def stop(self) -> None:
        """The writer need not render for this any more. The frame stays."""
        self._look_timer.stop()
        self._take_timer.stop()
        self._let_go()

    def _look(self) -> None:
        """Look for a ring, and at its state; if its writer has gone, also for a newer ring."""
        if self._reader is None or self._reader.state in ("closed", "died", "absent"):
            source = self._stream.source
            folders = rings_of(*self._stream.key, worker_id=source.worker_id if source is not None else None)
            if folders and (self._reader is None or folders[0] != self._reader.folder):
                self._let_go()
                self._open(RingReader(folders[0]))
        if self._reader is None:
            return
        self.state = self._reader.state
        self._count()
        if self._notifier is None or self._reader.lag:  # such as the first frame of a writer that began again
            self._take()

    def _open(self, reader: RingReader) -> None:
        self._reader = reader
        bell = reader.bell()
        if bell is not None:
            self._notifier = QSocketNotifier(bell.fileno(), QSocketNotifier.Type.Read, self)
            self._notifier.activated.connect(self._rung)
        self._take()

    def _let_go(self) -> None:
        if self._notifier is not None:
            self._notifier.setEnabled(False)
            self._notifier.deleteLater()
            self._notifier = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._counted = (0, 0.0)
        self.fps = None

    def _rung(self) -> None:
        bell = self._reader.bell() if self._reader is not None else None
        if bell is not None:
            bell.drain()
        if not self._take_timer.isActive():
            since_ms = (time.monotonic() - self._took_s) * 1e3
            self._take_timer.start(max(0, round(self.frame_ms - since_ms)))

    def _take(self) -> None:
        if self._reader is None:
            return
        self._took_s = time.monotonic()
        frame = self._reader.latest()
        if frame is not None:
            self.frame, self.state = frame, self._reader.state
            self.arrived.emit()
        if self._notifier is None:
            self._take_timer.start(_POLL_MS)

    def _count(self) -> None:
        """The writer's rate, each second."""
        assert self._reader is not None
        number, since_s = self._counted
        now_s, newest = time.monotonic(), self._reader.newest
        if now_s - since_s >= 1.0:
            self.fps = (newest - number) / (now_s - since_s) if since_s else None
            self._counted = (newest, now_s)
