"""The stored or live picture of the step at the cursor, and how far it is from that step, in a badge and in words."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject

from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.formatting import MINUS, count, plural
from telefabric_gui.model.asking import Asker
from telefabric_gui.model.cursor import Cursor, Mode
from telefabric_gui.model.stored_frames import BEHIND_FRAMES, Looked, StoredFrames
from telefabric_gui.views.scenes import FrameScene
from telefabric_gui.views.styled import label, restyle
from telefabric_schemas import Frame

LOOKING_S = 0.2
"""An answer that comes sooner is not announced."""
KEPT_S = 1.0
"""How long the picture before stays while the next one is looked for."""


class StepPicture(QObject):
    """The page asks for the picture `of` a step once a tick. GUI thread."""

    def __init__(self, stream: AgentStream, feed: Asker, cursor: Cursor) -> None:
        super().__init__()
        self.badge = label(badge="dim")
        self.badge.hide()
        self.said = ""
        """Why there is no picture; empty when there is one."""
        self._stream = stream
        self._cursor = cursor
        assert cursor.subject is not None
        self.stored = StoredFrames(feed, cursor.subject, stream.keep_stored, self)
        self._decoded: FrameScene | None = None
        """The picture that was decoded last."""

    def of(self, record: Any, *, exact: bool, envs: int = 1) -> FrameScene | None:
        """The picture of a step, else the nearest; when not `exact`, that of its time. None when there is none.

        Of several environments, the frames of the others around it are wanted, too.
        """
        frame, looked = self._stream.frame_of(record, exact=exact), None
        own = frame is not None and frame.step_index == record["step"]
        replaying = self._cursor.mode is Mode.REPLAY
        if exact and (replaying or envs > 1):
            self.stored.behind = max(BEHIND_FRAMES, 2 * envs)
            self.stored.read_ahead(int(record["seq"]), self._cursor.rows_per_s)
        if exact and not own and not (replaying and self.stored.knows(int(record["seq"]))):
            looked = self.stored.look(record)
            if frame is None and looked is None and self._decoded and self.stored.asked_for_s < KEPT_S:
                self._say_other(self._decoded.frame)
                return self._decoded
        if frame is not None and (self._decoded is None or self._decoded.frame is not frame):
            self._decoded = FrameScene(frame)
        found = self._decoded if frame is not None else None
        if found is not None and found.image.isNull():
            found, self.said = None, "its frame cannot be read as a picture"
        elif found is None and exact:
            self.said = self._why_none(looked)
        else:
            self.said = ""
        self._say_distance(frame if found and exact else None, int(record["step"]))
        return found

    def _why_none(self, looked: Looked | None) -> str:
        if looked is not None:
            none = "its frames have expired" if looked.expired else "no frame of this episode is stored"
            return looked.problem or none
        return "looking for its frame" if self.stored.asked_for_s > LOOKING_S else ""

    def say_nothing(self) -> None:
        """Another picture is shown."""
        self.badge.hide()

    def _say_distance(self, frame: Frame | None, step: int) -> None:
        self.badge.setVisible(frame is not None)
        if frame is None:
            return
        off = frame.step_index - step
        if not off:
            self._say("exact frame", "Frame of this step", "good")
            return
        away = f"{plural(abs(off), 'step')} {'later' if off > 0 else 'earlier'}"
        sign = "+" if off > 0 else MINUS
        self._say(f"nearest {sign}{count(abs(off))}", f"The stored frame that is nearest, {away}", "warning")

    def _say_other(self, frame: Frame) -> None:
        """The picture of another episode stays for a moment."""
        self.said = ""
        place = f"episode {count(frame.episode_index)}, step {count(frame.step_index)}"
        self._say("looking", f"This is the frame of {place}; that of the step at the cursor is looked for", "warning")

    def _say(self, text: str, tip: str, tone: str) -> None:
        self.badge.setVisible(True)
        self.badge.setText(text)
        self.badge.setToolTip(tip)
        restyle(self.badge, "badge", tone)
