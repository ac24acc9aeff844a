"""The main window: runs on the left, a tab for each agent in the centre, details on the right."""

from __future__ import annotations

import time
from functools import partial

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QCloseEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QGridLayout,
    QMainWindow,
    QMessageBox,
    QStackedWidget,
    QTabWidget,
    QWidget,
)

from telefabric import TelefabricError
from telefabric.feed import LinkState
from telefabric_gui import health, theme
from telefabric_gui.agent_stream import AgentKey, AgentStream
from telefabric_gui.controller import Controller
from telefabric_gui.formatting import count, duration, plural
from telefabric_gui.models.runs import RunList, RunRow, spark
from telefabric_gui.sources import Memory, Opener, feed_of
from telefabric_gui.views.connect import ConnectSheet, parts_of
from telefabric_gui.views.details import DetailsDock
from telefabric_gui.views.empty import EmptyView, situation
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.page import AgentPage, Tab
from telefabric_gui.views.runs import RunsDock
from telefabric_gui.views.status import StatusBar
from telefabric_gui.views.styled import Banner, column, laid_out, row
from telefabric_gui.views.topbar import TopBar

DETAILS_FROM_PX = 1280
"""Below this width the right dock starts collapsed."""
_DETAILS_TICKS = 4
"""Figures that change twenty times a second cannot be read."""
_SLOW_TICKS = 10
"""Slow figures, such as sparklines and memory, are updated once per this many ticks."""
_KEYS = (
    ("F, End", "follow: show the newest events"),
    ("P", "pause: freeze the view"),
    ("Space", "pause, and follow again"),
    ("Esc", "unselect the chosen step"),
    ("[  ]", "hide or show the left and the right side"),
    ("/, Ctrl+F", "filter runs"),
    ("Ctrl+Tab", "next tab"),
    ("Ctrl+W", "close the run in front"),
    ("C", "connect to another broker, or open a file"),
    ("T", "dark or light"),
    ("Ctrl+Q", "quit"),
)


class MainWindow(QMainWindow):
    """Takes over the controller: starts it when shown, stops it and the feed when closed.

    `opener` makes the feed of a source that is chosen in the sheet for connecting. `source` is that of the first feed,
    to be remembered when it works; with `offer` the sheet opens by itself when it does not.
    """

    def __init__(
        self, controller: Controller, *, opener: Opener = feed_of, source: str = "", offer: bool = False
    ) -> None:
        super().__init__()
        self.controller = controller
        self.memory = Memory()
        self._opener, self._source, self._offer = opener, source, offer
        self._remembered = False
        self.views = Views(controller.failures)
        controller.setParent(self)
        self.setWindowTitle("Telefabric")
        self.resize(1440, 900)
        self.run_list = RunList(self)
        self._tabs: dict[AgentKey, Tab] = {}
        self._ticks = 0
        self._painted_s = 0.0
        self._started = False
        self._build()
        self._connect()
        self._add_keys()
        self._on_tick()

    # -- building ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.top = TopBar()
        self.runs = RunsDock(self.run_list)
        self.details = DetailsDock()
        self.status = StatusBar()
        for view, name in (
            (self.top, "The bar on top"), (self.runs, "Runs"), (self.details, "Health and details"),
            (self.status, "Figures"),
        ):  # fmt: skip
            view.setAccessibleName(name)
        self.banner = Banner()
        self.empty = EmptyView()
        self.tabs = QTabWidget(documentMode=True, movable=True, elideMode=Qt.TextElideMode.ElideMiddle)
        self.tabs.setObjectName("tabs")
        self.tabs.tabBar().setExpanding(False)
        self.tabs.tabBar().setDrawBase(False)
        self.sheet = ConnectSheet(self.memory)
        self.stack = QStackedWidget()
        self.stack.addWidget(self.empty)
        self.stack.addWidget(self.tabs)
        centre = laid_out(column(self.banner, (self.stack, 1)), "centre")
        middle = row(self.runs, (centre, 1), self.details)
        self._body = laid_out(column(self.top, (middle, 1), self.status))
        over = QGridLayout()
        over.setContentsMargins(0, 0, 0, 0)
        over.addWidget(self._body, 0, 0)
        over.addWidget(self.sheet, 0, 0)
        self.setCentralWidget(laid_out(over))

    def _connect(self) -> None:
        controller = self.controller
        controller.ticked.connect(self._on_tick)
        controller.runs_changed.connect(lambda: self.views.update(self.runs, self._show_runs, self._ticks))
        controller.stream_opened.connect(self._open_page)
        controller.stream_closed.connect(self._close_page)
        controller.paused_changed.connect(self._on_paused)
        self.runs.chosen.connect(self.open_run)
        self.runs.edit_wanted.connect(controller.edit)
        self.tabs.currentChanged.connect(self._on_tab)
        self.top.paused.connect(lambda paused: controller.set_paused(True) if paused else self.follow())
        self.top.theme_wanted.connect(self.switch_theme)
        self.top.connect_wanted.connect(self.show_sheet)
        self.empty.connect_wanted.connect(self.show_sheet)
        self.sheet.chosen.connect(self.open_source)
        self.sheet.closed.connect(lambda: self._rest(False))
        self.top.help_wanted.connect(self.show_keys)

    def _add_keys(self) -> None:
        keys = QKeySequence.StandardKey
        for sequence, action in (
            ("F", self.follow), ("End", self.follow), ("P", lambda: self.controller.set_paused(True)),
            ("Space", self._toggle_paused), ("[", lambda: self._toggle(self.runs)),
            ("]", lambda: self._toggle(self.details)), ("T", self.switch_theme), ("?", self.show_keys),
            ("C", self.show_sheet),
            ("Esc", self._let_go), ("/", self._to_filter), (keys.Find, self._to_filter), ("Ctrl+W", self._close_run),
            ("Ctrl+Q", self.close), ("Ctrl+Tab", lambda: self._next_tab(1)),
            ("Ctrl+Shift+Tab", lambda: self._next_tab(-1)),
        ):  # fmt: skip
            QShortcut(QKeySequence(sequence), self._body, activated=action)  # type: ignore[call-overload]

    # -- what the user does --------------------------------------------------------------------------------------

    def open_run(self, run_id: str) -> None:
        """Watch a run, and show its first tab when it has one."""
        self.controller.watch(run_id)
        for key, tab in self._tabs.items():
            if key.run_id == run_id:
                self.tabs.setCurrentWidget(tab)
                return
        self._show_centre()

    def follow(self) -> None:
        """Follow new events, with the newest in sight."""
        self.controller.set_paused(False)
        if page := self.page:
            page.follow()

    def show_sheet(self) -> None:
        """Open the sheet for connecting."""
        self._rest(True)
        self.sheet.open_sheet()

    def open_source(self, source: str) -> None:
        """Show a broker or a store file, by its address, name or path, in place of what is shown."""
        try:
            feed = self._opener(source)
        except TelefabricError as error:
            self.sheet.say("error", *parts_of(error))
            return
        self._source, self._offer, self._remembered = source, False, False
        self.controller.use(feed)
        self.sheet.close_sheet()

    def _rest(self, resting: bool) -> None:
        """Below the sheet nothing takes keys or clicks."""
        self._body.setEnabled(not resting)

    def switch_theme(self) -> None:
        """Dark to light and back."""
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        theme.use(app, "light" if theme.active().name == "dark" else "dark")

    def show_keys(self) -> None:
        rows = "".join(f"<tr><td><b>{key}</b>&nbsp;&nbsp;</td><td>{what}</td></tr>" for key, what in _KEYS)
        box = QMessageBox(QMessageBox.Icon.NoIcon, "Keys", f"<table cellpadding=3>{rows}</table>", parent=self)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    @property
    def page(self) -> AgentPage | None:
        """The page in front."""
        found = self.tabs.currentWidget()
        return self._built(found) if isinstance(found, Tab) else None

    def _toggle_paused(self) -> None:
        focused = QApplication.focusWidget()
        if isinstance(focused, QAbstractButton):
            focused.click()  # to a button, Space means itself
        elif self.controller.paused:
            self.follow()
        else:
            self.controller.set_paused(True)

    def _toggle(self, dock: QWidget) -> None:
        dock.setVisible(not dock.isVisible())

    def _to_filter(self) -> None:
        self.runs.show()
        self.runs.filter.setFocus(Qt.FocusReason.ShortcutFocusReason)

    def _let_go(self) -> None:
        if self.runs.filter.hasFocus():
            self.runs.filter.clear()
            self.runs.list.setFocus()
        elif page := self.page:
            page.steps.follow()

    def _close_run(self) -> None:
        if page := self.page:
            self.controller.unwatch(page.stream.key.run_id)

    def _next_tab(self, step: int) -> None:
        if number := self.tabs.count():
            self.tabs.setCurrentIndex((self.tabs.currentIndex() + step) % number)

    # -- what the controller tells -------------------------------------------------------------------------------

    def _open_page(self, stream: AgentStream) -> None:
        if stream.key in self._tabs:
            self._choose_stream(self._tabs[stream.key])
            return
        tab = self._tabs[stream.key] = Tab(stream)
        at = self.tabs.addTab(tab, f"{stream.key.agent_id} · {stream.key.run_id}")
        self.tabs.setTabToolTip(at, f"Agent {stream.key.agent_id} of run {stream.key.run_id}")
        first = sum(other.run_id == stream.key.run_id for other in self._tabs) == 1
        if first and self.controller.watched and self.controller.watched[-1] == stream.key.run_id:
            self.tabs.setCurrentWidget(tab)

    def _built(self, tab: Tab) -> AgentPage:
        if tab.page is not None:
            return tab.page
        page = tab.build(self.views, self.controller.feed)
        page.let_go.connect(self.follow)
        page.frame_wanted.connect(self.controller.feed.ask_frame)
        page.streams_bar.chosen.connect(partial(self._on_stream, tab))
        page.set_paused(self.controller.paused)
        return page

    def _close_page(self, stream: AgentStream) -> None:
        tab = self._tabs[stream.key]
        if tab.chosen is stream:
            tab.chosen = None
        if self.controller.streams_of(stream.key):
            self._choose_stream(tab)
            return
        del self._tabs[stream.key]
        tab.let_go()
        self.tabs.removeTab(self.tabs.indexOf(tab))
        tab.deleteLater()

    def _on_stream(self, tab: Tab, stream: AgentStream | None) -> None:
        tab.chosen = stream
        self._choose_stream(tab)
        self._refresh_page()

    def _choose_stream(self, tab: Tab) -> None:
        """Show the chosen stream, else the newest; while paused, change only from a stream that is gone."""
        streams = self.controller.streams_of(tab.stream.key)
        if not (self.controller.paused and tab.stream in streams and tab.chosen is None):
            tab.show_stream(tab.chosen or streams[0])

    def _on_paused(self, paused: bool) -> None:
        for tab in self._tabs.values():
            if tab.page is not None:
                tab.page.set_paused(paused)
        self._show_paused()

    def _on_tab(self) -> None:
        if page := self.page:
            self.runs.select(page.stream.key.run_id)
            self._refresh_page()

    def _on_tick(self) -> None:
        for view, show, each in (
            (self.top, self._show_top, 1), (self.status, self._show_figures, 1), (self.stack, self._show_centre, 1),
            (self.details, self._show_health, _DETAILS_TICKS), (self.runs, self._show_runs, _SLOW_TICKS),
        ):  # fmt: skip
            if self._ticks % each == 0:
                self.views.update(view, show, self._ticks)
        self._refresh_page()
        self._note_link(self.controller.connection.link)
        self._ticks += 1

    def _note_link(self, link: LinkState) -> None:
        """Remember a source that works; offer others when the first one does not."""
        if self._source and link in (LinkState.LIVE, LinkState.FILE):
            if not self._remembered:
                self.memory.worked(self._source)
                self._remembered, self._offer = True, False
            self.memory.reached(self._source)
        elif self._offer and link in (LinkState.UNREACHABLE, LinkState.REFUSED):
            self._offer = False
            self.show_sheet()

    # -- showing -------------------------------------------------------------------------------------------------

    def _show_top(self) -> None:
        connection = self.controller.connection
        tone, words = health.LINKS[connection.link]
        told = f"{words}: {connection.address}\n{connection.sentence}".rstrip()
        self.top.show_connection(tone, health.place_of(connection), told, pulse=connection.link is LinkState.LIVE)
        self._show_paused()

    def _show_figures(self) -> None:
        connection = self.controller.connection
        live = connection.link is LinkState.LIVE
        self.status.show_state(*health.LINKS[connection.link], pulse=live)
        if self._ticks % _SLOW_TICKS == 0:
            self.status.show_figure("memory", f"memory {count(round(health.memory_bytes() / 1e6))} MB")
        for name, text, role in health.figures_of(self.controller, self.controller.tick_s + self._painted_s):
            self.status.show_figure(name, text, role)
        age = page.frame_age_s if (page := self.page) else None
        self.status.show_figure("frame", "" if age is None or not live else f"frame age {duration(age)}")

    def _show_paused(self) -> None:
        controller, waiting = self.controller, ""
        if controller.paused and (page := self.page):
            behind = duration(time.monotonic() - controller.paused_since_s)
            waiting = f"{plural(page.step_table.waiting, 'new step')}, {behind} behind"
        self.top.show_paused(controller.paused, waiting)

    def _show_centre(self) -> None:
        connection = self.controller.connection
        broken = connection.link in (LinkState.UNREACHABLE, LinkState.REFUSED, LinkState.HISTORY) and self._tabs
        self.banner.say(self.controller.answer or (connection.sentence if broken else connection.notice))
        if self._tabs:
            self.stack.setCurrentWidget(self.tabs)
            return
        controller = self.controller
        waiting_for = controller.watched[-1] if controller.watched else None
        self.empty.show_situation(situation(connection, len(controller.runs), waiting_for))
        self.stack.setCurrentWidget(self.empty)

    def _refresh_page(self) -> None:
        page = self.page
        wanted = page is not None and page.lane.state != "live" and self.isVisible() and not self.isMinimized()
        self.controller.feed.want_pictures(frozenset({page.stream.key.run_id}) if page and wanted else frozenset())
        if page is not None:
            left_out = sum(number for key, number in self.controller.left_out.items() if key[:2] == page.stream.key)
            page.streams_bar.show_streams(page.stream, self.controller.streams_of(page.stream.key), left_out)
            page.refresh(self.controller.runs.get(page.stream.key.run_id), paused=self.controller.paused)

    def _show_health(self) -> None:
        if not self.details.isVisible():
            return
        controller, page = self.controller, self.page
        run = controller.runs.get(page.stream.key.run_id) if page else None
        self.details.show_health(health.parts_of(controller, run), *health.verdict_of(controller))
        if self._ticks % _SLOW_TICKS == 0:
            self.details.show_latency(controller.latencies)
        self.details.show_step(page.details if page else [])
        self.details.show_run(health.run_details(run))

    def _show_runs(self) -> None:
        controller = self.controller
        lines = {}
        for key, tab in self._tabs.items():
            self._choose_stream(tab)
            if key.run_id not in lines:
                lines[key.run_id] = spark(tab.stream.returns().y)
        rows = [RunRow(run, lines.get(run.run_id, ())) for run in controller.runs.values()]
        self.run_list.show(rows)
        if page := self.page:
            self.runs.select(page.stream.key.run_id)

    # -- as a widget ---------------------------------------------------------------------------------------------

    def event(self, event: QEvent) -> bool:
        if event.type() != QEvent.Type.UpdateRequest:
            return super().event(event)
        begun = time.perf_counter()
        done = super().event(event)
        self._painted_s = time.perf_counter() - begun
        return done

    def showEvent(self, event: object) -> None:
        super().showEvent(event)  # type: ignore[arg-type]
        if not self._started:
            self._started = True
            self.details.setVisible(self.width() >= DETAILS_FROM_PX)
            self.controller.start()

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._started:
            self.controller.stop()
        event.accept()
