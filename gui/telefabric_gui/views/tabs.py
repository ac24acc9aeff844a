"""The tabs of the centre: one for each agent of the runs that are open, and further replays of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from PySide6.QtCore import QPoint, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QIcon, QPainter, QPixmap, QResizeEvent
from PySide6.QtWidgets import QLabel, QMenu, QTabBar, QTabWidget, QWidget

from telefabric.feed import EpisodeRow
from telefabric_gui import theme
from telefabric_gui.agent_stream import AgentKey, AgentStream
from telefabric_gui.controller import Controller
from telefabric_gui.formatting import count
from telefabric_gui.model.charting import Charting
from telefabric_gui.model.cursor import Mode
from telefabric_gui.model.side_by_side import Standing
from telefabric_gui.model.tab_titles import run_title, title_of
from telefabric_gui.views.human import HumanReplay
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.multi_agent import MultiAgentPage
from telefabric_gui.views.page import AgentPage
from telefabric_gui.views.painting import fill_with
from telefabric_gui.views.styled import label, menu_of

_SQUARE_PX = 8


class _Wish(NamedTuple):
    """A page that is to come to the front when its stream is there."""

    key: AgentKey
    stream_id: bytes
    go: Callable[[AgentPage], object]
    apart: bool


Page = TypeVar("Page", AgentPage, MultiAgentPage)


class _Lazy(QWidget, Generic[Page]):
    """A page that is built when it first comes to the front: a run may have many agents.

    It lays the page out by itself: of every label that changes its text a layout would tell the tabs, which then have
    everything in them painted again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.page: Page | None = None

    def hold(self, page: Page) -> Page:
        """This is the page from now on."""
        self.page = page
        page.setParent(self)
        page.setGeometry(self.rect())
        page.setVisible(True)
        return page

    def let_go(self) -> None:
        """The page, and the page of its stream's rows."""
        if self.page is not None:
            self.page.close_models()
            self.page.hide()
            self.page.deleteLater()
            self.page = None

    def minimumSizeHint(self) -> QSize:
        return self.page.minimumSizeHint() if self.page is not None else super().minimumSizeHint()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self.page is not None:
            self.page.setGeometry(self.rect())


class Tab(_Lazy[AgentPage]):
    """One agent of a run."""

    def __init__(self, stream: AgentStream, copy: int = 0) -> None:
        super().__init__()
        self.stream = stream
        """The stream that is shown."""
        self.copy = copy
        """0 for the agent's own tab, which follows; the number of a further replay."""
        self.chosen: AgentStream | None = None
        """The stream that the user chose; None for the newest attempt, also when a newer one begins."""

    def show_stream(self, stream: AgentStream) -> None:
        """Change to the page of another stream; it is built when it comes to the front."""
        if stream is not self.stream:
            self.let_go()
            self.stream = stream


class RunTab(_Lazy[MultiAgentPage]):
    """All agents of a run."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id


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
        super().__init__(documentMode=True, movable=True, elideMode=Qt.TextElideMode.ElideNone)
        self.setObjectName("tabs")
        self.tabBar().setExpanding(False)
        self.tabBar().setDrawBase(False)
        self.setIconSize(QSize(_SQUARE_PX, _SQUARE_PX))
        self.tabBar().setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.tabBar().customContextMenuRequested.connect(self._offer)
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
    def runs(self) -> list[RunTab]:
        """The tabs that show all agents of a run."""
        return [tab for at in range(self.count()) if isinstance(tab := self.widget(at), RunTab)]

    @property
    def front(self) -> AgentPage | MultiAgentPage | None:
        """The page in front that has a cursor."""
        tab = self.currentWidget()
        return self._all_of(tab) if isinstance(tab, RunTab) else self.page

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
        self._close_tab(self.currentWidget())

    def _close_tab(self, tab: QWidget | None) -> None:
        if isinstance(tab, Tab) and tab.copy:
            self._remove(tab)
        elif isinstance(tab, Tab | RunTab):
            self._leave(run_id := _run_of(tab))
            self._controller.unwatch(run_id)

    def _leave(self, run_id: str) -> None:
        """Bring another run's tab to the front, lest each tab that closes has the next page built."""
        tabs = [tab for at in range(self.count()) if (tab := self.widget(at)) is not None]
        others = [tab for tab in tabs if _run_of(tab) != run_id]
        front = self.currentIndex()
        self.setCurrentWidget(min(others, key=lambda tab: (tab is self.human, abs(self.indexOf(tab) - front))))

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
            ended, named = self._ended(run_id), run_id if runs_of[agent_id] > 1 else ""
            copy = tab.copy + 1 if ended else tab.copy  # the agent's own tab is the first replay then
            title = title_of(agent_id, replay=ended or copy > 0, copy=copy, run_id=named)
            at = self.indexOf(tab)
            if title != self.tabText(at):
                self.setTabText(at, title)
            run = self._controller.runs.get(run_id)
            self._mark(at, run.control_mode if run is not None else "unknown")
            frames = tab.page.lane.skipped if tab.page is not None else 0
            drops = self._controller.drops_of(tab.stream.key, tab.stream.stream_id, frames)
            self._count(at, drops.number)
            mode = f"control mode {run.control_mode}" if run is not None else "not in the list of runs"
            self.setTabToolTip(at, "\n".join((f"Agent {agent_id} of run {run_id}, {mode}", *drops.sentences)))
        self._mark(self.indexOf(self.human), "human")
        for run_tab in self.runs:
            at = self.indexOf(run_tab)
            self.setTabText(at, run_title(run_tab.run_id))
            self._mark(at, "multi_agent")
            self.setTabToolTip(at, f"All agents of run {run_tab.run_id}, side by side")

    def choose_stream(self, tab: Tab) -> None:
        """Show the chosen stream, else the newest; a page that does not follow stays at its own while that is there."""
        streams = self._controller.streams_of(tab.stream.key)
        following = tab.page is None or tab.page.time.cursor.mode is Mode.FOLLOW
        if following or tab.stream not in streams or tab.chosen is not None:
            wanted = tab.chosen or streams[0]
            if wanted is not tab.stream:
                self.page_goes.emit()
            tab.show_stream(wanted)

    def _mark(self, at: int, mode: str) -> None:
        """The colour of the control mode; the tooltip names it."""
        look = mode, theme.active().name
        if self.tabBar().tabData(at) != look:
            self.tabBar().setTabData(at, look)
            self.setTabIcon(at, _square(theme.active().mode(mode)))

    def _count(self, at: int, number: int) -> None:
        """How many events the tab does not show, behind its title; nothing for none."""
        side, bar = QTabBar.ButtonPosition.RightSide, self.tabBar()
        badge = bar.tabButton(at, side)
        text = count(number) if number else ""
        if (badge.text() if isinstance(badge, QLabel) else "") == text:
            return
        if isinstance(badge, QLabel):
            badge.deleteLater()
        bar.setTabButton(at, side, label(text, badge="warning") if text else None)

    def _offer(self, place: QPoint) -> None:
        tab = self.widget(self.tabBar().tabAt(place))
        if isinstance(tab, Tab | RunTab):
            self.menu(tab).popup(self.tabBar().mapToGlobal(place))

    def menu(self, tab: Tab | RunTab) -> QMenu:
        """The menu of a tab."""
        menu = menu_of(self)
        if isinstance(tab, Tab):
            menu.addAction("Replay in a further tab", partial(self.open_replay, tab.stream.key))
        alone = isinstance(tab, Tab) and tab.copy
        menu.addAction("Close this replay" if alone else "Close the run", partial(self._close_tab, tab))
        return menu

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
        mine = [self.indexOf(other) for other in self.agents if other.stream.key.run_id == run_id]
        end = self.count() - (self.widget(self.count() - 1) is self.human)
        self._insert(tab, max(mine) + 1 if mine else end)
        if mine and all(other.run_id != run_id for other in self.runs):
            self._insert(RunTab(run_id), max(mine) + 2)
        if first and (run_id == self._wanted or self.currentWidget() is self._start):
            self.setCurrentWidget(tab)
        self._keep_start()
        self._fulfil()

    def _close(self, stream: AgentStream) -> None:
        run_id = stream.key.run_id
        if all(key[0] != run_id for key in self._controller.streams):
            for run_tab in [one for one in self.runs if one.run_id == run_id]:
                self._remove(run_tab)
        left = self._controller.streams_of(stream.key)
        for tab in self.of(stream.key):
            if tab.chosen is stream:
                tab.chosen = None
            if left:
                self.choose_stream(tab)
            else:
                self._remove(tab)

    def _insert(self, tab: Tab | RunTab, at: int) -> None:
        self.insertTab(at, tab, "")
        self._name_tabs()

    def _remove(self, tab: Tab | RunTab) -> None:
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
        page = tab.hold(AgentPage(tab.stream, self._views, self._charting, feed))
        page.apart = bool(tab.copy)
        page.let_go.connect(page.follow)
        self.page_built.emit(page)
        page.streams_bar.chosen.connect(partial(self._on_stream, tab))
        return page

    def _all_of(self, tab: RunTab) -> MultiAgentPage:
        """The page of a run's agents, with those that there are now."""
        streams = [own.stream for own in self.agents if own.stream.key.run_id == tab.run_id and not own.copy]
        if tab.page is None:
            page = tab.hold(MultiAgentPage(streams, self._views, self._controller.feed))
            page.agent_wanted.connect(self._on_agent)
        assert tab.page is not None
        tab.page.show_streams(streams, sum(key.run_id == tab.run_id for key in self._controller.hidden_agents))
        return tab.page

    def _on_agent(self, stream: AgentStream, found: Standing | None) -> None:
        def go(page: AgentPage) -> None:
            if found is None:
                return
            row = page.step_rows.row_of_seq(found.seq) if found.n < 0 else found.n
            if row is None:
                page.time.jumps.to_step(found.env, found.episode, found.step)
            else:
                page.time.cursor.go_to(row)

        self.show_moment(stream.key, stream.stream_id, go, apart=False)

    def _on_stream(self, tab: Tab, stream: AgentStream | None) -> None:
        tab.chosen = stream
        self.choose_stream(tab)
        self.page_changed.emit()


def _run_of(tab: QWidget) -> str:
    """The run of a tab; empty for one that is there without any."""
    return tab.stream.key.run_id if isinstance(tab, Tab) else tab.run_id if isinstance(tab, RunTab) else ""


def _square(colour: str) -> QIcon:
    picture = QPixmap(4 * _SQUARE_PX, 4 * _SQUARE_PX)
    picture.fill(Qt.GlobalColor.transparent)
    with QPainter(picture) as painter:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        fill_with(painter, colour)
        painter.drawRoundedRect(QRectF(picture.rect()), 8, 8)
    return QIcon(picture)
