"""The main window: runs on the left, a tab for each agent in the centre, details on the right."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QCloseEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QGridLayout,
    QMainWindow,
    QMessageBox,
    QSplitter,
    QStackedWidget,
    QWidget,
)

from telefabric import TelefabricError, settings
from telefabric.feed import LinkState, RunView
from telefabric_gui import health, theme
from telefabric_gui.budget import Holder, MemoryBudget, Part
from telefabric_gui.controller import Controller
from telefabric_gui.formatting import count, duration, plural, real
from telefabric_gui.item_models.runs import Runs, spark
from telefabric_gui.model.charting import Charting
from telefabric_gui.model.cursor import SPEEDS, Mode
from telefabric_gui.model.pins import Pins
from telefabric_gui.model.sparks import Sparks
from telefabric_gui.redraw import Redraw
from telefabric_gui.sources import Memory, Opener, feed_of
from telefabric_gui.views.bookmarks import Bookmarks
from telefabric_gui.views.connect import ConnectSheet, parts_of
from telefabric_gui.views.details import DetailsDock
from telefabric_gui.views.empty import EmptyView, situation
from telefabric_gui.views.history import HistoryView
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.multi_agent import MultiAgentPage
from telefabric_gui.views.page import AgentPage
from telefabric_gui.views.redraw_menu import redraw_menu
from telefabric_gui.views.runs import WIDTH_PX, RunsDock
from telefabric_gui.views.series import SeriesDock
from telefabric_gui.views.status import StatusBar
from telefabric_gui.views.styled import Banner, column, laid_out, row
from telefabric_gui.views.tabs import Tabs
from telefabric_gui.views.topbar import TopBar
from telefabric_gui.views.transport import Bottom

DETAILS_FROM_PX = 1280
"""Below this width the right dock starts collapsed."""
_DETAILS_TICKS = 6
"""Figures that change thirty times a second cannot be read."""
_SLOW_TICKS = 15
"""Slow figures, such as sparklines and memory, are updated once per this many ticks."""
_ACTS = {
    "Home": "first", "Left": "back", "Right": "on", "Shift+Left": "episode back", "Shift+Right": "episode on",
    ",": "frame back", ".": "frame on", "L": "loop", "B": "bookmark",
}  # fmt: skip
"""Key → what it does."""
_KEYS = (
    ("F, End", "follow: show the newest events"),
    ("P", "pause: stay at the step that is shown"),
    ("Space", "pause, and go on: replay, or follow again where it was paused"),
    ("1 to 6", "replay at 0.1, 0.5, 1, 2, 5, 10 times"),
    ("Left, Right", "a step back or on; with Shift an episode"),
    (", .", "the stored frame before or behind"),
    ("Home", "the first step"),
    ("L", "replay the selection again and again"),
    ("B", "bookmark this step in the store, under a name if you type one; or remove its bookmark"),
    ("Esc", "unselect what is selected, then follow"),
    ("H", "hide or show the probabilities over the picture"),
    ("[  ]", "hide or show the left and the right side"),
    ("/, Ctrl+F", "filter runs"),
    ("Ctrl+H", "all runs as a table: search, sort, compare"),
    ("Ctrl+G", "go to a step or an episode, or search for steps"),
    ("Ctrl+click", "on a run: draw it in the charts, too"),
    ("Ctrl+Tab", "next tab"),
    ("Ctrl+W", "close the further replay in front, or else the run"),
    ("C", "connect to another broker, or open a file"),
    ("T", "dark or light"),
    ("Ctrl+Q", "quit"),
)


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
        self._opener, self._source, self._offer = opener, source, offer
        self._remembered = False
        self.views = Views(controller.failures)
        controller.setParent(self)
        self.setWindowTitle("Telefabric")
        self.resize(1440, 900)
        self.known_runs = Runs(self)
        self.sparks = Sparks(controller, self)
        self.charting = Charting(controller, controller.held_of, self.memory.layout, self)
        self.pins = Pins(self.memory.pins, self)
        self._ticks = 0
        self._painted_s = 0.0
        self._in_history = False
        self._left_shown = True
        """Whether the left side comes back after the table of all runs."""
        self._to_replay = ""
        """The run that is replayed from its start when it comes."""
        self._started = self._seen = False
        self._was_in_sight = True
        self._build()
        self._connect()
        self._add_keys()
        self._on_tick()

    # -- building ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.top = TopBar()
        self.runs = RunsDock(self.known_runs, self.charting.overlay)
        self.series = SeriesDock(self.charting)
        self.details = DetailsDock(self.pins)
        self.status = StatusBar()
        for view, name in (
            (self.top, "The bar on top"), (self.runs, "Runs"), (self.details, "Health and details"),
            (self.status, "Figures"),
        ):  # fmt: skip
            view.setAccessibleName(name)
        self.banner = Banner()
        self.empty = EmptyView()
        self.tabs = Tabs(self.controller, self.charting, self.views, self.empty)
        self.sheet = ConnectSheet(self.memory)
        self.stack = QStackedWidget()
        self.stack.addWidget(self.tabs)
        self.history = HistoryView(self.known_runs, self.memory)
        self.stack.addWidget(self.history)
        self.bottom = Bottom()
        self.bookmarks = Bookmarks(self.bottom, lambda: self.front, self.controller.edit)
        self.bottom.hide()
        centre = laid_out(column(self.banner, (self.stack, 1), self.bottom), "centre")
        self.left = QSplitter(Qt.Orientation.Vertical, childrenCollapsible=False)
        self.left.setFixedWidth(WIDTH_PX)
        self.left.addWidget(self.runs)
        self.left.addWidget(self.series)
        self.left.setSizes([600, 400])
        middle = row(self.left, (centre, 1), self.details)
        self._body = laid_out(column(self.top, (middle, 1), self.status))
        self._body.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
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
        self.top.mode_wanted.connect(self.set_mode)
        self.bottom.transport.acted.connect(self.act)
        self.bottom.transport.speed_wanted.connect(self.replay)
        self.top.theme_wanted.connect(self.switch_theme)
        self.top.redraw_wanted.connect(self._offer_redraw)
        self.top.connect_wanted.connect(self.show_sheet)
        self.empty.connect_wanted.connect(self.show_sheet)
        self.sheet.chosen.connect(self.open_source)
        self.sheet.closed.connect(lambda: self._rest(False))
        self.top.help_wanted.connect(self.show_keys)

    def _add_keys(self) -> None:
        keys = QKeySequence.StandardKey
        for sequence, action in (
            ("F", self.follow), ("End", self.follow), ("P", self.pause),
            ("Space", self._press_space), ("[", lambda: self._toggle(self.left)),
            ("]", lambda: self._toggle(self.details)), ("T", self.switch_theme), ("?", self.show_keys),
            ("C", self.show_sheet), ("Ctrl+H", lambda: self.show_history(not self._in_history)),
            ("Esc", self._let_go), ("/", self._to_filter), (keys.Find, self._to_filter),
            ("Ctrl+W", self.tabs.close_front), ("Ctrl+Q", self.close), ("Ctrl+Tab", lambda: self._next_tab(1)),
            ("Ctrl+Shift+Tab", lambda: self._next_tab(-1)),
            *((key, partial(self.act, name)) for key, name in _ACTS.items()),
            *((str(number), partial(self.replay, speed)) for number, speed in enumerate(SPEEDS, 1)),
        ):  # fmt: skip
            QShortcut(QKeySequence(sequence), self._body, activated=action)  # type: ignore[call-overload]

    # -- what the user does --------------------------------------------------------------------------------------

    def open_run(self, run_id: str, *, replay: bool = False) -> None:
        """Watch a run, and show its first tab when it has one; or replay it, once its first step is known."""
        self._turn_to(history=False)
        self._to_replay = run_id if replay else ""
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

    def follow(self) -> None:
        """Follow new events, with the newest in sight."""
        if page := self.front:
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
        self.tabs.human.episodes.use(feed)
        self.charting.forget()
        self.sheet.close_sheet()

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
        return self.tabs.page

    @property
    def front(self) -> AgentPage | MultiAgentPage | None:
        """The page in front that has a cursor: of one agent, or of all of a run."""
        return self.tabs.front

    def set_mode(self, mode: Mode) -> None:
        """Follow, pause or replay."""
        if mode is Mode.FOLLOW:
            self.follow()
        elif mode is Mode.PAUSED:
            self.pause()
        else:
            self.replay()

    def pause(self) -> None:
        """Stay at the step that is shown."""
        if page := self.front:
            page.time.cursor.pause()

    def replay(self, speed: float | None = None) -> None:
        """Run on from the step that is shown; at another speed if one is given."""
        if page := self.front:
            if speed is not None:
                page.time.cursor.set_speed(speed)
            page.time.cursor.replay()

    def act(self, name: str) -> None:
        """What a button of the transport, or its key, does."""
        if (page := self.front) is None:
            return
        cursor, jumps = page.time.cursor, page.time.jumps
        acts: dict[str, Callable[[], object]] = {
            "first": lambda: cursor.go_to(0), "back": lambda: cursor.step(-1), "on": lambda: cursor.step(1),
            "toggle": cursor.toggle, "last": self.follow, "loop": lambda: cursor.loop(not cursor.looping),
            "bookmark": self.bookmarks.toggle,
            "episode back": lambda: jumps.by_episodes(-1), "episode on": lambda: jumps.by_episodes(1),
            "frame back": lambda: jumps.by_frames(ahead=False), "frame on": lambda: jumps.by_frames(ahead=True),
        }  # fmt: skip
        acts[name]()

    def _press_space(self) -> None:
        focused = QApplication.focusWidget()
        if isinstance(focused, QAbstractButton):
            focused.click()  # to a button, Space means itself
        else:
            self.act("toggle")

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
        elif page := self.front:
            if page.time.cursor.selection is not None:
                page.time.cursor.select_nothing()
            else:
                page.follow()

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

    @property
    def _in_sight(self) -> bool:
        """Whether the window is in sight, as far as the desktop reports it; one that is not shown yet will be."""
        handle = self.windowHandle()
        exposed = handle is not None and handle.isExposed()
        self._seen = self._seen or exposed
        return not self._started or (self.isVisible() and not self.isMinimized() and (exposed or not self._seen))

    def _look_at_sight(self) -> None:
        """Give up the live events, the pictures and the bell of what is out of sight."""
        page, front, in_sight = self.page, self.front, self._in_sight and not self._in_history
        seen = front.run_id if front and in_sight else None
        self.controller.show_runs(frozenset(self.charting.overlay.shown_with(seen) if seen else ()))
        pictures = page is None or page.lane.state != "live"
        self.controller.feed.want_pictures(frozenset({seen} if seen and pictures else ()))
        if page is not None and in_sight is not self._was_in_sight:
            (page.lane.start if in_sight else page.lane.stop)()
        self._was_in_sight = in_sight

    def _on_tick(self) -> None:
        self._look_at_sight()
        if self._ticks % _DETAILS_TICKS == 0:
            self.budget.keep(self._held)
        if self._in_sight:
            self._refresh_views()
        self._note_link(self.controller.connection.link)
        self._ticks += 1

    def _refresh_views(self) -> None:
        self._refresh_page()
        for view, show, each in (
            (self.top, self._show_top, 1), (self.status, self._show_figures, 1), (self.stack, self._show_centre, 1),
            (self.bottom, self._show_bottom, 1), (self.details, self._show_health, _DETAILS_TICKS),
            (self.runs, self._show_runs, _SLOW_TICKS), (self.history, self.history.refresh, _SLOW_TICKS),
        ):  # fmt: skip
            if self._ticks % each == 0:
                self.views.update(view, show, self._ticks)

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
        self._show_mode()

    def _show_figures(self) -> None:
        connection = self.controller.connection
        live = connection.link is LinkState.LIVE
        self.status.show_state(*health.LINKS[connection.link], pulse=live)
        if self._ticks % _SLOW_TICKS == 0:
            self.status.show_figure("memory", *health.memory_of(self.budget))
        for name, text, role in health.figures_of(self.controller, self.controller.tick_s + self._painted_s):
            self.status.show_figure(name, text, role)
        age = page.frame_age_s if (page := self.page) else None
        self.status.show_figure("frame", "" if age is None or not live else f"frame age {duration(age)}")

    def _held(self) -> list[Part]:
        """All that takes much memory here."""
        pages = [*(tab.page for tab in self.tabs.agents), *(tab.page for tab in self.tabs.runs)]
        holders: list[Holder] = [*self.controller.streams.values(), *(page for page in pages if page)]
        return [part for holder in (*holders, self.charting.data, self.charting.info) for part in holder.parts()]

    def _show_mode(self) -> None:
        cursor = page.time.cursor if (page := self.front) else None
        waiting = [""]
        if cursor is not None and cursor.new:
            new = plural(cursor.new, "new step")
            waiting = [f"{new}, {duration(cursor.left_for_s)} behind", new, count(cursor.new)]
        known = cursor is not None and not self._in_history
        live = cursor is not None and cursor.live
        self.top.show_mode(cursor.mode if cursor and known else None, waiting, live=known and live)

    def _show_bottom(self) -> None:
        """Time line and transport of the page in front."""
        page = self.front
        self.bottom.setVisible(page is not None and not self._in_history)
        replaying = pace = ""
        if page is not None:
            cursor = page.time.cursor
            self.bottom.line.show_run(cursor, page.time.whole)
            self.bottom.transport.show_cursor(cursor, page.place)
            if cursor.mode is Mode.REPLAY:
                live = ", live goes on" if self.controller.connection.link is LinkState.LIVE else ""
                speed = cursor.rows_per_s
                replaying = f"replay {count(round(speed)) if speed >= 10 else real(speed, 1)} steps/s{live}"
                pace = f"Replay at {cursor.speed:g} times {cursor.pace.why}. Nothing live is lost by it"
        else:
            self.bottom.line.show_run(None, None)
        self.status.show_figure("replay", replaying, tip=pace)

    def _show_centre(self) -> None:
        connection = self.controller.connection
        broken = connection.link in (LinkState.UNREACHABLE, LinkState.REFUSED, LinkState.HISTORY) and self.tabs.agents
        self.banner.say(self.controller.answer or (connection.sentence if broken else connection.notice))
        controller = self.controller
        self.stack.setCurrentWidget(self.history if self._in_history and controller.runs else self.tabs)
        waiting_for = controller.watched[-1] if controller.watched else None
        self.empty.show_situation(situation(connection, len(controller.runs), waiting_for))

    def _begin_replay(self, front: AgentPage | MultiAgentPage) -> None:
        cursor = front.time.cursor
        if front.run_id == self._to_replay and cursor.total:
            if isinstance(front, AgentPage) and cursor.live and not front.apart:
                self.tabs.open_replay(front.stream.key)  # the page that follows goes on
                return
            self._to_replay = ""
            cursor.go_to(0)
            cursor.replay()

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
        self._begin_replay(front)

    def _show_health(self) -> None:
        if not self.details.isVisible():
            return
        controller, page = self.controller, self.page
        run = controller.runs.get(front.run_id) if (front := self.front) else None
        if self._in_history:
            page, run = None, next(iter(self.history.picked), None)
        self.details.show_health(health.parts_of(controller, run), *health.verdict_of(controller))
        if self._ticks % _SLOW_TICKS == 0:
            self.details.show_latency(controller.latencies)
        self.details.show_step(page.step if page else None)
        self.details.show_run(health.run_details(run))

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
        if not self._started:
            self._started = True
            self.details.setVisible(self.width() >= DETAILS_FROM_PX)
            self._body.setFocus()  # else Space would press the first button
            self.controller.start()

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._started:
            self.controller.stop()
        event.accept()
