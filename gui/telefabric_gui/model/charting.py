"""What all charts of a window have in common: their layout, the runs laid over each other, and the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from PySide6.QtCore import QObject

from telefabric.feed import Answer, Series, SeriesOf
from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.info import INFO
from telefabric_gui.model.asking import Asker, Asking
from telefabric_gui.model.info_series import InfoSeries
from telefabric_gui.model.layout import Layout
from telefabric_gui.model.overlay import Overlay
from telefabric_gui.model.series import SeriesData, SeriesKey
from telefabric_gui.model.streams import Source, Streams


class Charting(QObject):
    """`live` finds what is held of a run's agent, if anything, and whether the run still goes on."""

    def __init__(
        self, feed: Asker, live: Callable[[str, str], tuple[AgentStream | None, bool]], kept: str, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._live = live
        self._asking = Asking(feed, self)
        self.layout = Layout(kept, self)
        self.overlay = Overlay(self)
        self.data = SeriesData(feed, self)
        self.info = InfoSeries(feed, self)
        self.streams = Streams(feed, self)
        self._stored: dict[str, list[Series]] = {}

    def sources(self, own: Source) -> list[Source]:
        """What is drawn on the page of a stream: it, and the runs that are laid over it."""
        found = [own]
        for run_id in self.overlay.shown_with(own.run_id)[1:]:
            live, grows = self._live(run_id, own.agent_id)
            agent_id, stream_id = (live.key.agent_id, live.stream_id) if live else (own.agent_id, None)
            found.append(self.streams.found(Source(run_id, agent_id, stream_id, live, grows)))
        return found

    def names(self, own: Source) -> list[str]:
        """The series of an agent, stored and live."""
        if own.run_id not in self._stored:
            self.look_again(own.run_id)
        stored = {one.series for one in self._stored[own.run_id] if one.agent_id == own.agent_id}
        return sorted(stored | set(own.live.series() if own.live else ()))

    def known(self, key: SeriesKey) -> bool:
        """Whether nothing has to be waited for before a series is drawn: of parts of `info` nobody knows the range."""
        return key.name.startswith(INFO) or self.data.known(key)

    def look_again(self, run_id: str, after: Series | None = None) -> None:
        """Ask which series of a run are stored."""
        self._stored.setdefault(run_id, [])
        self._asking.ask(SeriesOf(run_id, after), partial(self._take_names, run_id))

    def forget(self) -> None:
        """Another feed is shown."""
        self._asking.forget()
        self.data.forget()
        self.info.forget()
        self.streams.forget()
        self._stored.clear()
        self.overlay.clear()

    def _take_names(self, run_id: str, answer: Answer) -> None:
        if answer.page is None or run_id not in self._stored:
            return
        known: list[Any] = self._stored[run_id]
        known += [one for one in answer.page.rows if one not in known]
        if answer.page.more:
            self.look_again(run_id, answer.page.rows[-1])
