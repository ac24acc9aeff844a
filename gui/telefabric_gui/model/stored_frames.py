"""The stored frames that a page asks for: that of the step at its cursor, and in replay those that come next."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from PySide6.QtCore import QObject

from telefabric.feed import Answer, FrameAt, RowOf, RowsAt
from telefabric_gui.model.asking import ANY_ID, Asker, Asking
from telefabric_gui.model.cursor import Subject
from telefabric_schemas import EXPIRED, Frame, event_of

AHEAD_FRAMES = 32
AHEAD_S = 0.5
"""Replay reads this long ahead, if that is more frames: an answer through a broker takes up to 0.1 s."""
AHEAD_BYTES_MAX = 16 * 2**20
"""Of large frames fewer are read ahead: they are a part of those that are held."""
BEHIND_FRAMES = 8
"""Read before the first, so that the nearest frame is known."""
_AT_ONCE = 2
"""Questions for the frame of a step that wait: with one, each jump would wait for the one before."""
_AGAIN_S = 2.0
"""The frame of a step may not be stored yet."""


class Looked(NamedTuple):
    """What the store said of the frame of a step."""

    expired: bool = False
    problem: str = ""
    """Why it could not say; empty when it did."""


class StoredFrames(QObject):
    """`keep` is given each frame that comes, unless its picture has expired. GUI thread."""

    def __init__(
        self, feed: Asker | None, subject: Subject, keep: Callable[[Frame], None], parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._subject = subject
        self._keep = keep
        self._asking = Asking(feed, self)
        self._answers: deque[tuple[FrameAt, Looked]] = deque(maxlen=8)
        self._waiting: set[int] = set()
        """Numbers of the questions for frames of steps that wait."""
        self._asked: FrameAt | None = None
        self._asked_s = 0.0
        self.behind = BEHIND_FRAMES
        """The number of frames before the cursor that are read: more when several environments take turns."""
        self._ahead = _Ahead()

    def close(self) -> None:
        self._asking.close()

    # -- the frame of a step -------------------------------------------------------------------------------------

    def look(self, record: Any) -> Looked | None:
        """Ask for the frame of a step, again after a while; what the store said, None before it did."""
        question, now_s = self._question(record), time.monotonic()
        if (question != self._asked or now_s - self._asked_s > _AGAIN_S) and len(self._waiting) < _AT_ONCE:
            self._asked, self._asked_s = question, now_s
            number = max(self._waiting, default=0) + 1
            self._waiting.add(number)
            self._asking.ask(question, lambda answer: self._take(number, question, answer), urgent=True)
        return next((looked for asked, looked in reversed(self._answers) if asked == question), None)

    @property
    def asked_for_s(self) -> float:
        """Seconds since the last question for the frame of a step."""
        return time.monotonic() - self._asked_s

    def _question(self, record: Any) -> FrameAt:
        run_id, agent_id, stream_id, _ = self._subject
        env, episode, step = (int(record[part]) for part in ("env", "episode", "step"))
        return FrameAt(run_id, agent_id, env, episode, step, stream_id or None)

    def _take(self, number: int, question: FrameAt, answer: Answer) -> None:
        self._waiting.discard(number)
        frames = self._kept(answer)
        expired = any(frame.encoding == EXPIRED for frame in frames)
        self._answers.append((question, Looked(expired, answer.problem if answer.page is None else "")))

    def _kept(self, answer: Answer) -> list[Frame]:
        """The frames of an answer."""
        events = [event_of(row.event) for row in (answer.page.rows if answer.page is not None else [])]
        frames = [event for event in events if isinstance(event, Frame)]
        for frame in frames:
            if frame.encoding != EXPIRED:
                self._keep(frame)
        return frames

    # -- those that come next ------------------------------------------------------------------------------------

    def knows(self, seq: int) -> bool:
        """Whether the frames around the step of this seq have been read ahead."""
        return self._ahead.first_seq <= seq < self._ahead.last_seq

    def read_ahead(self, seq: int, rows_per_s: float) -> None:
        """Replay is at the step of this seq: read the frames that come next, unless they are there."""
        ahead = self._ahead
        leads = ahead.leads(seq)
        if ahead.asking or (leads and time.monotonic() < ahead.wait_until_s):
            return
        if leads and ahead.next:
            wanted = ahead.wanted(rows_per_s)
            if ahead.left(seq, self.behind) < wanted:
                self._read_on(ahead, wanted)
            return
        self._ahead = ahead = _Ahead(seq, asking=True)
        _, agent_id, stream_id, _ = self._subject
        question = RowOf(stream_id, "frame", agent_id, "seq", seq)
        self._asking.ask(question, lambda answer: self._begin(ahead, answer), urgent=True)

    def _begin(self, ahead: _Ahead, answer: Answer) -> None:
        """The number of the first frame behind the step is known."""
        if answer.page is None or not answer.page.rows:
            ahead.end()
            return
        ahead.next = max(0, answer.page.rows[0].n - self.behind)
        self._read_on(ahead, self.behind + AHEAD_FRAMES)

    def _read_on(self, ahead: _Ahead, limit: int) -> None:
        ahead.asking = True
        _, agent_id, stream_id, _ = self._subject

        def take(answer: Answer) -> None:
            ahead.add(self._kept(answer))
            if answer.page is None or (len(answer.page.rows) < limit and not answer.page.more):
                ahead.end()

        self._asking.ask(RowsAt(stream_id, "frame", agent_id, ahead.next, limit), take, urgent=True)


class _Ahead:
    """Frames in the order of seq that were read from one place on."""

    def __init__(self, first_seq: int = ANY_ID, *, asking: bool = False) -> None:
        self.asking = asking
        self.next = 0
        """The number of the frame that comes after them."""
        self.first_seq = self.last_seq = first_seq
        self.wait_until_s = 0.0
        """Until then nothing more is expected: the store had no more, or did not answer."""
        self._ended = False
        self._seqs: list[int] = []
        """Of those that replay has not come to, and of some before."""
        self._number = self._bytes = 0

    def add(self, frames: list[Frame]) -> None:
        self.asking = self._ended = False
        self.next += len(frames)
        self._number += len(frames)
        self._bytes += sum(len(frame.data) for frame in frames)
        self._seqs += [frame.seq for frame in frames]
        if self._seqs:
            self.first_seq, self.last_seq = min(self.first_seq, self._seqs[0]), max(self.last_seq, self._seqs[-1])

    def end(self) -> None:
        self.asking, self._ended, self.wait_until_s = False, True, time.monotonic() + _AGAIN_S

    def leads(self, seq: int) -> bool:
        """Whether what is read on from here comes next for the step of this seq."""
        return self.first_seq <= seq and (self._ended or seq <= self.last_seq)

    def left(self, seq: int, behind: int) -> int:
        """Count the frames behind the step of this seq; those long before it may not be held any more."""
        shown = bisect_right(self._seqs, seq)
        if shown > behind:
            del self._seqs[: shown - behind]
            self.first_seq = self._seqs[0]
        return len(self._seqs) - min(shown, behind)

    def wanted(self, rows_per_s: float) -> int:
        room = AHEAD_BYTES_MAX * self._number // max(1, self._bytes)
        return max(1, min(max(AHEAD_FRAMES, round(rows_per_s * AHEAD_S)), room))
