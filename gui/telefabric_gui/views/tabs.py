"""The tabs of the centre: one for each agent of the runs that are open, and further replays of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QTabWidget, QWidget

from telefabric.feed import EpisodeRow
from telefabric_gui.agent_stream import AgentKey, AgentStream
from telefabric_gui.controller import Controller
from telefabric_gui.model.asking import Asker
from telefabric_gui.model.charting import Charting
from telefabric_gui.model.cursor import Mode
from telefabric_gui.model.tab_titles import title_of
from telefabric_gui.views.human import HumanReplay
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.page import AgentPage


class _Wish(NamedTuple):
    """A page that is to come to the front when its stream is there."""

    key: AgentKey
    stream_id: bytes
    go: Callable[[AgentPage], object]
    apart: bool


class Tab(QWidget):
    """A page that is built when it first comes to the front: a run may have many agents.

    It lays the page out by itself: of every label that changes its text a layout would tell the tabs, which then have
    everything in them painted again.
    """

    def __init__(self, stream: AgentStream, copy: int = 0) -> None:
        super().__init__()
        self.stream = stream
        """The stream that is shown."""
        self.copy = copy
        """0 for the agent's own tab, which follows; the number of a further replay."""
        self.chosen: AgentStream | None = None
        """The stream that the user chose; None for the newest attempt, also when a newer one begins."""
        self.page: AgentPage | None = None

    def show_stream(self, stream: AgentStream) -> None:
        """Change to the page of another stream; it is built when it comes to the front."""
        if stream is not self.stream:
            self.let_go()
            self.stream = stream

    def let_go(self) -> None:
        """The page, and the page of its stream's rows."""
        if self.page is not None:
            self.page.close_models()
            self.page.hide()
            self.page.deleteLater()
            self.page = None

    def build(self, views: Views, charting: Charting, feed: Asker) -> AgentPage:
        self.page = AgentPage(self.stream, views, charting, feed)
        self.page.setParent(self)
        self.page.setGeometry(self.rect())
        self.page.setVisible(True)
        return self.page

    def minimumSizeHint(self) -> QSize:
        return self.page.minimumSizeHint() if self.page is not None else super().minimumSizeHint()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self.page is not None:
            self.page.setGeometry(self.rect())


class Tabs(QTabWidget):
    """Opens, names and closes tabs as the controller's streams come and go. GUI thread.

    `start` is in their place while no run is open.
    """

    page_built = Signal(object)
    page_changed = Signal()
    """The tab in front shows another page."""
    page_goes = Signal()
    """A page is to be forgotten."""

    def __init__(self, controller: Controller, charting: Charting, views: Views, start: QWidget) -> None:
        super().__init__(documentMode=True, movable=True, elideMode=Qt.TextElideMode.ElideMiddle)
        self.setObjectName("tabs")
        self.tabBar().setExpanding(False)
        self.tabBar().setDrawBase(False)
        self._controller, self._charting, self._views, self._start = controller, charting, views, start
        self._wanted = ""
        """The run that the user chose last."""
        self._wish: _Wish | None = None
        self.human = HumanReplay()
        self.human.episodes.use(controller.feed)
        self.human.wanted.connect(self._on_human)
        self.addTab(start, "Start")
        self.setTabToolTip(self.addTab(self.human, "Human Replay"), "Episodes that people played, from the store")
        controller.stream_opened.connect(self._open)
        controller.stream_closed.connect(self._close)
        self.currentChanged.connect(self.page_changed)

    @property
    def agents(self) -> list[Tab]:
        """The tabs of agents, from left to right."""
        return [tab for at in range(self.count()) if isinstance(tab := self.widget(at), Tab)]

    @property
    def page(self) -> AgentPage | None:
        """The page in front, if it is an agent's."""
        tab = self.currentWidget()
        return self._page_of(tab) if isinstance(tab, Tab) else None

    def of(self, key: AgentKey) -> list[Tab]:
        """The tabs of an agent, its own first."""
        return sorted((tab for tab in self.agents if tab.stream.key == key), key=lambda tab: tab.copy)

    def show_run(self, run_id: str) -> None:
        """Bring the first tab of a run to the front, as soon as it has one."""
        self._wanted, self._wish = run_id, None
        for tab in self.agents:
            if tab.stream.key.run_id == run_id:
                self.setCurrentWidget(tab)
                return

    def open_replay(self, key: AgentKey) -> None:
        """Open a further page of an agent, with a cursor of its own."""
        if own := self.of(key):
            copies = [tab.copy for tab in own]
            copy = next(number for number in range(1, len(copies) + 1) if number not in copies)
            tab = Tab(own[0].stream, copy)
            self._insert(tab, self.indexOf(own[-1]) + 1)
            self.setCurrentWidget(tab)

    def show_moment(self, key: AgentKey, stream_id: bytes, go: Callable[[AgentPage], object], *, apart: bool) -> None:
        """Bring the page of a stream to the front, and have `go` move its cursor, as soon as both can be done.

        With `apart`, a run that goes on is left as it is shown, and a replay is opened beside it.
        """
        self._wish = _Wish(key, stream_id, go, apart)
        self._controller.watch(key.run_id)
        self._fulfil()

    def _fulfil(self) -> None:
        """Do what was wished for, once the stream is there."""
        if (wish := self._wish) is None:
            return
        stream = next((one for one in self._controller.streams_of(wish.key) if one.stream_id == wish.stream_id), None)
        tabs = self.of(wish.key)
        if stream is None or not tabs:
            return
        self._wish = None
        if wish.apart and not self._ended(wish.key.run_id) and len(tabs) < 2:
            self.open_replay(wish.key)
        tab = self.of(wish.key)[-1 if wish.apart else 0]
        if stream is not tab.stream:
            tab.chosen = stream
            self.choose_stream(tab)
        self.setCurrentWidget(tab)
        page = self._page_of(tab)
        page.time.once_known(lambda: wish.go(page))

    def _on_human(self, row: EpisodeRow) -> None:
        def go(page: AgentPage) -> None:
            page.time.jumps.to_value("episode", row.episode_index, row.env_index)

        self.show_moment(AgentKey(row.run_id, row.agent_id), row.stream_id, go, apart=True)

    def _ended(self, run_id: str) -> bool:
        run = self._controller.runs.get(run_id)
        return run is not None and run.finished_ns is not None

    def close_front(self) -> None:
        """Close the replay in front; of an agent's own tab, the run."""
        tab = self.currentWidget()
        if isinstance(tab, Tab) and tab.copy:
            self._remove(tab)
        elif isinstance(tab, Tab):
            self._controller.unwatch(tab.stream.key.run_id)

    def refresh(self) -> None:
        """Show the newest stream of each agent, and name the tabs."""
        for tab in self.agents:
            self.choose_stream(tab)
        self.human.offer_runs(self._controller.watched)
        self._name_tabs()

    def _name_tabs(self) -> None:
        tabs = self.agents
        runs_of = Counter(agent_id for _, agent_id in {tab.stream.key for tab in tabs})
        for tab in tabs:
            run_id, agent_id = tab.stream.key
            replay = bool(tab.copy) or self._ended(run_id)
            title = title_of(agent_id, replay=replay, copy=tab.copy, run_id=run_id if runs_of[agent_id] > 1 else "")
            at = self.indexOf(tab)
            if title != self.tabText(at):
                self.setTabText(at, title)
                self.setTabToolTip(at, f"Agent {agent_id} of run {run_id}")

    def choose_stream(self, tab: Tab) -> None:
        """Show the chosen stream, else the newest; a page that does not follow stays at its own while that is there."""
        streams = self._controller.streams_of(tab.stream.key)
        following = tab.page is None or tab.page.time.cursor.mode is Mode.FOLLOW
        if following or tab.stream not in streams or tab.chosen is not None:
            wanted = tab.chosen or streams[0]
            if wanted is not tab.stream:
                self.page_goes.emit()
            tab.show_stream(wanted)

    # -- as streams come and go ----------------------------------------------------------------------------------

    def _open(self, stream: AgentStream) -> None:
        if tabs := self.of(stream.key):
            for tab in tabs:
                self.choose_stream(tab)
            self._fulfil()
            return
        run_id = stream.key.run_id
        first = all(tab.stream.key.run_id != run_id for tab in self.agents)
        tab = Tab(stream)
        self._insert(tab, self.count() - (self.widget(self.count() - 1) is self.human))
        if first and (run_id == self._wanted or self.currentWidget() is self._start):
            self.setCurrentWidget(tab)
        self._keep_start()
        self._fulfil()

    def _close(self, stream: AgentStream) -> None:
        left = self._controller.streams_of(stream.key)
        for tab in self.of(stream.key):
            if tab.chosen is stream:
                tab.chosen = None
            if left:
                self.choose_stream(tab)
            else:
                self._remove(tab)

    def _insert(self, tab: Tab, at: int) -> None:
        self.insertTab(at, tab, "")
        self._name_tabs()

    def _remove(self, tab: Tab) -> None:
        self.page_goes.emit()
        tab.let_go()
        self.removeTab(self.indexOf(tab))
        tab.deleteLater()
        self._name_tabs()
        self._keep_start()

    def _keep_start(self) -> None:
        """The start is there exactly while no agent is."""
        at = self.indexOf(self._start)
        if self.agents and at >= 0:
            self.removeTab(at)
        elif not self.agents and at < 0:
            self.insertTab(0, self._start, "Start")
            self.setCurrentIndex(0)

    # -- pages ---------------------------------------------------------------------------------------------------

    def _page_of(self, tab: Tab) -> AgentPage:
        """The page of a tab, built now if it has not been."""
        if tab.page is not None:
            return tab.page
        feed = self._controller.feed
        page = tab.build(self._views, self._charting, feed)
        page.let_go.connect(page.follow)
        self.page_built.emit(page)
        page.streams_bar.chosen.connect(partial(self._on_stream, tab))
        return page

    def _on_stream(self, tab: Tab, stream: AgentStream | None) -> None:
        tab.chosen = stream
        self.choose_stream(tab)
        self.page_changed.emit()
