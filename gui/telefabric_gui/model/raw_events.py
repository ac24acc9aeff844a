"""The events that the raw view lists: the newest of an agent, or those around the cursor, of all kinds."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QObject, Signal

from telefabric.feed import Answer, StreamSince
from telefabric_gui.agent_stream import RAW_EVENTS_MAX, AgentStream
from telefabric_gui.model.asking import Asker, Asking

_BEFORE = RAW_EVENTS_MAX // 2


class RawEvents(QObject):
    """Lists the events in memory at once, then those of the store, which has all kinds. GUI thread."""

    changed = Signal()

    def __init__(self, stream: AgentStream, feed: Asker | None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._stream = stream
        self._asking = Asking(feed, self)
        self.events: dict[int, bytes] = {}
        """By seq, the newest first."""
        self.at: int | None = None
        """The seq of the step at the cursor; None while the newest events are shown."""
        self.problem = ""
        """Why the store did not say what is around the cursor."""
        self._centre = 0
        self._version = -1
        """Of the stream, when it was looked at last."""

    def follow(self) -> None:
        """The newest events."""
        self.at = None
        self._show(self._stream.raws)

    def around(self, seq: int) -> None:
        """List the events around one; while it is in the list, the list stays."""
        near = self.at is not None and abs(seq - self._centre) <= _BEFORE // 2
        if seq == self.at:
            self._fill()
            return
        self.at = seq
        if near and seq in self.events:
            self.changed.emit()
            return
        self._centre = seq
        if held := self._stream.raws_around(seq, _BEFORE):
            self._show(held)  # else what is there stays until the store has answered
        self._asking.forget()
        question = StreamSince(self._stream.stream_id, max(seq - _BEFORE - 1, 0), RAW_EVENTS_MAX)
        self._asking.ask(question, partial(self._take, seq), urgent=True)

    def close(self) -> None:
        self._asking.close()

    def _take(self, seq: int, answer: Answer) -> None:
        self.problem = answer.problem if answer.page is None else ""
        agent = self._stream.key.agent_id
        rows = [] if answer.page is None else [row for row in answer.page.rows if row.agent_id == agent]
        found = {row.seq: row.event for row in rows}
        if seq in found:  # else it is not stored yet
            self._show(self._stream.raws_around(seq, _BEFORE) | found)
        elif self.problem:
            self.changed.emit()

    def _fill(self) -> None:
        """More may have come behind the cursor since."""
        if len(self.events) < RAW_EVENTS_MAX and self._version != self._stream.version:
            self._version = self._stream.version
            self._show(self._stream.raws_around(self._centre, _BEFORE) | self.events)

    def _show(self, events: dict[int, bytes]) -> None:
        if events.keys() != self.events.keys():
            self.events = dict(sorted(events.items(), reverse=True)[:RAW_EVENTS_MAX])
            self.changed.emit()
