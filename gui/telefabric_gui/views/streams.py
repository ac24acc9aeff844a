"""The strip that says which stream of an agent a page shows, and what is left out of it; absent while it has one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QSizePolicy

from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.formatting import count, plural, short
from telefabric_gui.views.styled import Panel, button, drop_menu, label, row

_LISTED_MAX = 3


class StreamsBar(Panel):
    chosen = Signal(object)
    """A stream; None for the newest attempt, whichever that is."""

    def __init__(self) -> None:
        super().__init__("streams")
        self._streams: Sequence[AgentStream] = ()
        self._text = label(role="caption")
        self._text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._choose = button("another stream \u25be", self._offer, "link")
        self.setLayout(row((self._text, 1), self._choose, margins=(16, 6, 16, 0), spacing=6))
        self.hide()

    def show_streams(self, shown: AgentStream, streams: Sequence[AgentStream], left_out: int) -> None:
        """One of these is shown; `left_out` events are of streams for which there was no room."""
        self._streams = streams
        others = [one for one in streams if one is not shown]
        self.setVisible(bool(others or left_out))
        if self.isHidden():
            return
        listed = "; ".join(map(_steps_of, others[:_LISTED_MAX]))
        more = f"; {count(len(others) - _LISTED_MAX)} more" if len(others) > _LISTED_MAX else ""
        more += f"; {plural(left_out, 'event')} of older ones, in the store" if left_out else ""
        said = f"{_name(shown).capitalize()} is shown. Not shown: {(listed + more).removeprefix('; ')}."
        self._text.setText(said)
        self._text.setToolTip(said)

    def _offer(self) -> None:
        streams = [(_steps_of(one), partial(self.chosen.emit, one)) for one in self._streams]
        drop_menu(self._choose, [("The newest attempt", partial(self.chosen.emit, None)), *streams])


def _steps_of(stream: AgentStream) -> str:
    return f"{_name(stream)}, {plural(stream.steps.events, 'step')}"


def _name(stream: AgentStream) -> str:
    source = stream.source
    if source is None:
        return f"stream {stream.stream_id.hex()[:8]}"
    role = "" if source.role == "counts" else f" ({source.role})"
    return f"attempt {source.attempt} of {short(source.worker_id, 30)}{role}"
