"""The main window: runs on the left, a tab for each agent in the centre, details on the right."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QCloseEvent, QKeySequence
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QGridLayout,
    QMainWindow,
    QSplitter,
    QStackedWidget,
    QWidget,
)

from telefabric import settings
from telefabric.feed import Feed, LinkState, RunView
from telefabric_gui import health, keys, theme
from telefabric_gui.bars import Bars
from telefabric_gui.budget import Holder, MemoryBudget, Part
from telefabric_gui.connecting import Connecting
from telefabric_gui.controller import Controller
from telefabric_gui.exposure import Exposure
from telefabric_gui.item_models.runs import Runs, spark
from telefabric_gui.model.charting import Charting
from telefabric_gui.model.cursor import Mode
from telefabric_gui.model.pins import Pins
from telefabric_gui.model.sparks import Sparks
from telefabric_gui.playing import Playing
from telefabric_gui.redraw import Redraw
from telefabric_gui.sources import Memory, Opener, feed_of
from telefabric_gui.views.bookmarks import Bookmarks
from telefabric_gui.views.empty import EmptyView, situation
from telefabric_gui.views.history import HistoryView
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.multi_agent import MultiAgentPage
from telefabric_gui.views.page import AgentPage
from telefabric_gui.views.redraw_menu import redraw_menu
from telefabric_gui.views.runs import WIDTH_PX, RunsDock
from telefabric_gui.views.series import SeriesDock
from telefabric_gui.views.styled import Banner, column, laid_out, row
from telefabric_gui.views.tabs import Tabs

DETAILS_FROM_PX = 1280
"""Below this width the right dock starts collapsed."""
_DETAILS_TICKS = 6
"""Figures that change thirty times a second cannot be read."""
_SLOW_TICKS = 15
"""Slow figures, such as sparklines and memory, are updated once per this many ticks."""


class MainWindow(QMainWindow):
    """Takes over the controller: starts it when shown, stops it and the feed when closed.

    `opener` makes the feed of a source that is chosen in the sheet for connecting. `source` is that of the first feed,
    to be remembered when it works; with `offer` the sheet opens by itself when it does not. `memory_limit` is in MB.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        opener: Opener = feed_of,
        source: str = "",
        offer: bool = False,
        memory_limit: int = settings.SETTINGS["memory_limit"].default,
    ) -> None:
        super().__init__()
        self.controller = controller
        self.budget = MemoryBudget(memory_limit * 2**20, health.memory_bytes, health.give_back)
        self.memory = Memory()
        controller.redraw = self.memory.redraw
        self.views = Views(controller.failures)
        controller.setParent(self)
        self.setWindowTitle("Telefabric")
        self.resize(1440, 900)
        self.restoreGeometry(self.memory.geometry)
        self.known_runs = Runs(self)
        self.sparks = Sparks(controller, self)
        self.charting = Charting(controller, controller.held_of, self.memory.layout, self)
        self.pins = Pins(self.memory.pins, self)
        self._ticks = 0
        self._painted_s = 0.0
        self._in_history = False
        self._left_shown = True
        """Whether the left side comes back after the table of all runs."""
        self._exposure = Exposure(self, controller, lambda run_id: frozenset(self.charting.overlay.shown_with(run_id)))
        self._body = QWidget(focusPolicy=Qt.FocusPolicy.ClickFocus)
        self.connecting = Connecting(self.memory, opener, self._use, self._body, source, offer=offer)
        self.sheet = self.connecting.sheet
        self._build()
        self._lay_out()
        self._connect()
        self._add_keys()
        self._on_tick()

    # -- building ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.runs = RunsDock(self.known_runs, self.charting.overlay)
        self.runs.setAccessibleName("Runs")
        self.series = SeriesDock(self.charting)
        self.banner = Banner()
        self.empty = EmptyView()
        self.tabs = Tabs(self.controller, self.charting, self.views, self.empty)
        self.history = HistoryView(self.known_runs, self.memory)
        self.bars = bars = Bars(self.controller, self.tabs, self.budget, self.pins)
        self.top, self.bottom, self.status, self.details = bars.top, bars.bottom, bars.status, bars.details
        self.bookmarks = Bookmarks(self.bottom, lambda: self.front, self.controller.edit)
        self.playing = Playing(self.tabs, self.bookmarks.toggle)

    def _lay_out(self) -> None:
        self.stack = QStackedWidget()
        self.stack.addWidget(self.tabs)
        self.stack.addWidget(self.history)
        centre = laid_out(column(self.banner, (self.stack, 1), self.bottom), "centre")
        self.left = QSplitter(Qt.Orientation.Vertical, childrenCollapsible=False)
        self.left.setFixedWidth(WIDTH_PX)
        self.left.addWidget(self.runs)
        self.left.addWidget(self.series)
        self.left.setSizes([600, 400])
        middle = row(self.left, (centre, 1), self.details)
        self._body.setLayout(column(self.top, (middle, 1), self.status))
        over = QGridLayout()
        over.setContentsMargins(0, 0, 0, 0)
        over.addWidget(self._body, 0, 0)
        over.addWidget(self.sheet, 0, 0)
        self.setCentralWidget(laid_out(over))

    def _connect(self) -> None:
        controller = self.controller
        controller.ticked.connect(self._on_tick)
        controller.runs_changed.connect(self._take_runs)
        self.sparks.came.connect(lambda run_id, values: self.known_runs.show_spark(run_id, spark(values)))
        for view in (self.runs, self.history):
            view.chosen.connect(self.open_run)
            view.edit_wanted.connect(controller.edit)
            view.replay_wanted.connect(partial(self.open_run, replay=True))
        self.history.closed.connect(lambda: self.show_history(False))
        self.runs.history_wanted.connect(self.show_history)
        self.runs.scrolled.connect(self._want_sparks)
        self.runs.overlay_wanted.connect(self._overlay)
        self.charting.layout.changed.connect(lambda: self.memory.keep_layout(self.charting.layout.text))
        self.tabs.page_built.connect(self._on_built)
        self.tabs.page_changed.connect(self._on_tab)
        self.tabs.page_goes.connect(lambda: self.bottom.line.show_run(None, None))
        self.pins.changed.connect(lambda: self.memory.keep_pins(self.pins.paths))
        self.top.mode_wanted.connect(self.playing.set_mode)
        self.bottom.transport.acted.connect(self.playing.act)
        self.bottom.transport.speed_wanted.connect(self.playing.replay)
        self.top.theme_wanted.connect(self.switch_theme)
        self.top.redraw_wanted.connect(self._offer_redraw)
        self.top.connect_wanted.connect(self.connecting.open_sheet)
        self.empty.connect_wanted.connect(self.connecting.open_sheet)
        self.top.help_wanted.connect(self.show_keys)

    def _add_keys(self) -> None:
        find = QKeySequence.StandardKey.Find
        acts: list[tuple[Any, Callable[[], object]]] = [
            ("Space", self._press_space), ("[", lambda: self._toggle(self.left)),
            ("]", lambda: self._toggle(self.details)), ("T", self.switch_theme), ("?", self.show_keys),
            ("C", self.connecting.open_sheet), ("Ctrl+H", lambda: self.show_history(not self._in_history)),
            ("Esc", self._let_go), ("/", self._to_filter), (find, self._to_filter),
            ("Ctrl+W", self.tabs.close_front), ("Ctrl+Q", self.close), ("Ctrl+Tab", lambda: self._next_tab(1)),
            ("Ctrl+Shift+Tab", lambda: self._next_tab(-1)),
        ]  # fmt: skip
        keys.bind((*acts, *self.playing.keys()), self._body)

    # -- what the user does --------------------------------------------------------------------------------------

    def open_run(self, run_id: str, *, replay: bool = False) -> None:
        """Watch a run, and show its first tab when it has one; or replay it, once its first step is known."""
        self._turn_to(history=False)
        self.playing.to_replay = run_id if replay else ""
        self.controller.watch(run_id)
        self.tabs.show_run(run_id)
        self._show_centre()

    def show_history(self, shown: bool = True) -> None:
        """Show all runs, if there are some, as a table in the place of those that are open."""
        shown = shown and bool(self.controller.runs)
        self._turn_to(history=shown)
        self._show_centre()
        if shown and (front := self.front):
            self.history.choose(front.run_id)
        self._show_bottom()
        (self.history.search if shown else self.runs.list).setFocus()

    def _turn_to(self, *, history: bool) -> None:
        """The list of runs gives its room to the table of all of them."""
        if history and not self._in_history:
            self._left_shown = not self.left.isHidden()
            self.left.hide()
        elif self._in_history and not history:
            self.left.setVisible(self._left_shown)
        self._in_history = history

    def _use(self, feed: Feed) -> None:
        """Show another feed."""
        self.controller.use(feed)
        self.tabs.human.episodes.use(feed)
        self.charting.forget()

    def _offer_redraw(self) -> None:
        under = self.top.redraw
        menu = redraw_menu(under, self.controller.redraw, self.set_redraw)
        menu.popup(under.mapToGlobal(under.rect().bottomLeft()))

    def set_redraw(self, redraw: Redraw) -> None:
        """Draw views as often as `redraw` says, now and at the next start."""
        self.controller.redraw = redraw
        self.memory.keep_redraw(redraw)

    def _overlay(self, run_id: str) -> None:
        """Draw a run over the one in front, in its charts, or take it away."""
        page = self.page
        self.charting.overlay.toggle(run_id, page.stream.key.run_id if page else None)

    def switch_theme(self) -> None:
        """Dark to light and back."""
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        theme.use(app, "light" if theme.active().name == "dark" else "dark")

    def show_keys(self) -> None:
        keys.show_meanings(self)

    @property
    def page(self) -> AgentPage | None:
        """The page in front."""
        return self.tabs.page

    @property
    def front(self) -> AgentPage | MultiAgentPage | None:
        """The page in front that has a cursor: of one agent, or of all of a run."""
        return self.tabs.front

    def _press_space(self) -> None:
        focused = QApplication.focusWidget()
        if isinstance(focused, QAbstractButton):
            focused.click()  # to a button, Space means itself
        else:
            self.playing.act("toggle")

    def _toggle(self, dock: QWidget) -> None:
        dock.setVisible(not dock.isVisible())

    def _to_filter(self) -> None:
        if not self._in_history:
            self.left.show()
        (self.history.search if self._in_history else self.runs.filter).setFocus(Qt.FocusReason.ShortcutFocusReason)

    def _let_go(self) -> None:
        if self.runs.filter.hasFocus():
            self.runs.filter.clear()
            self.runs.list.setFocus()
        elif self._in_history:
            self.show_history(False)
        else:
            self.playing.let_go()

    def _next_tab(self, step: int) -> None:
        if number := self.tabs.count():
            self.tabs.setCurrentIndex((self.tabs.currentIndex() + step) % number)

    # -- what the controller tells -------------------------------------------------------------------------------

    def _on_built(self, page: AgentPage) -> None:
        page.show_columns(self.memory.step_columns)
        page.columns_chosen.connect(self._show_columns)
        page.pin_wanted.connect(self.pins.toggle)

    def _show_columns(self, names: list[str]) -> None:
        """Show these columns in all tables of steps, and at the next start."""
        self.memory.keep_step_columns(names)
        for tab in self.tabs.agents:
            if tab.page is not None:
                tab.page.show_columns(names)

    def _on_tab(self) -> None:
        if page := self.front:
            self.runs.select(page.run_id)
            self._refresh_page()

    def _on_tick(self) -> None:
        self._exposure.look(self.page, self.front, covered=self._in_history)
        if self._ticks % _DETAILS_TICKS == 0:
            self.budget.keep(self._held)
        if self._exposure.in_sight:
            self._refresh_views()
        self.connecting.note_link(self.controller.connection.link)
        self._ticks += 1

    def _refresh_views(self) -> None:
        self._refresh_page()
        bars, slow = self.bars, self._ticks % _SLOW_TICKS == 0
        for view, show, each in (
            (self.top, lambda: bars.show_top(hidden=self._in_history), 1),
            (self.status, lambda: bars.show_figures(self._painted_s, memory=slow), 1),
            (self.stack, self._show_centre, 1), (self.bottom, self._show_bottom, 1),
            (self.details, lambda: bars.show_health(*self._subject, latency=slow), _DETAILS_TICKS),
            (self.runs, self._show_runs, _SLOW_TICKS), (self.history, self.history.refresh, _SLOW_TICKS),
        ):  # fmt: skip
            if self._ticks % each == 0:
                self.views.update(view, show, self._ticks)

    # -- showing -------------------------------------------------------------------------------------------------

    def _held(self) -> list[Part]:
        """All that takes much memory here."""
        pages = [*(tab.page for tab in self.tabs.agents), *(tab.page for tab in self.tabs.runs)]
        holders: list[Holder] = [*self.controller.streams.values(), *(page for page in pages if page)]
        return [part for holder in (*holders, self.charting.data, self.charting.info) for part in holder.parts()]

    @property
    def _subject(self) -> tuple[RunView | None, AgentPage | None]:
        """Details are of this run, and of the step of this page."""
        if self._in_history:
            return next(iter(self.history.picked), None), None
        return self.controller.runs.get(front.run_id) if (front := self.front) else None, self.page

    def _show_bottom(self) -> None:
        self.bars.show_bottom(hidden=self._in_history)

    def _show_centre(self) -> None:
        connection = self.controller.connection
        broken = connection.link in (LinkState.UNREACHABLE, LinkState.REFUSED, LinkState.HISTORY) and self.tabs.agents
        self.banner.say(self.controller.answer or (connection.sentence if broken else connection.notice))
        controller = self.controller
        self.stack.setCurrentWidget(self.history if self._in_history and controller.runs else self.tabs)
        waiting_for = controller.watched[-1] if controller.watched else None
        self.empty.show_situation(situation(connection, len(controller.runs), waiting_for))

    def _refresh_page(self) -> None:
        page, front = self.page, self.front
        self.series.show_source(page.source if page else None)
        if front is None or self._in_history:
            return
        if page is not None:
            left_out = sum(number for key, number in self.controller.left_out.items() if key[:2] == page.stream.key)
            page.streams_bar.show_streams(page.stream, self.controller.streams_of(page.stream.key), left_out)
            page.refresh(self.controller.runs.get(page.run_id), self.controller.redraw)
            if page.time.cursor.mode is not Mode.FOLLOW:  # what is newest changes too often to be read
                self.details.show_step(page.step)
        else:
            front.refresh(self.controller.runs.get(front.run_id))
        self.playing.begin_replay(front)

    def _take_runs(self, changed: Sequence[RunView], gone: Sequence[str]) -> None:
        self.sparks.forget(gone)
        self.known_runs.take(changed, gone)
        self.views.update(self.runs, self._show_runs, self._ticks)
        self.views.update(self.history, self.history.refresh, self._ticks)

    def _show_runs(self) -> None:
        drawn: set[str] = set()
        self.tabs.refresh()
        for tab in self.tabs.agents:
            run_id = tab.stream.key.run_id
            if run_id not in drawn | self.sparks.known and (points := spark(tab.stream.returns())):
                drawn.add(run_id)
                self.known_runs.show_spark(run_id, points)
        for run_id, number in Counter(key.run_id for key in {tab.stream.key for tab in self.tabs.agents}).items():
            self.known_runs.show_agents(run_id, number)
        self._want_sparks()
        if page := self.front:
            self.runs.select(page.run_id)

    def _want_sparks(self) -> None:
        self.sparks.want(self.runs.in_sight)

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
        if not self._exposure.started:
            self._exposure.started = True
            self.details.setVisible(self.width() >= DETAILS_FROM_PX)
            self._body.setFocus()  # else Space would press the first button
            self.controller.start()

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._exposure.started:
            self.memory.keep_geometry(self.saveGeometry())
            self.controller.stop()
        event.accept()
