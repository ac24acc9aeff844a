"""What the bars around the pages say: connection and mode on top, time line and transport below, figures, health."""

from __future__ import annotations

from telefabric.feed import LinkState, RunView
from telefabric_gui import health
from telefabric_gui.budget import MemoryBudget
from telefabric_gui.controller import Controller
from telefabric_gui.formatting import count, duration, plural, real
from telefabric_gui.model.cursor import Mode
from telefabric_gui.model.pins import Pins
from telefabric_gui.views.details import DetailsDock
from telefabric_gui.views.page import AgentPage
from telefabric_gui.views.status import StatusBar
from telefabric_gui.views.tabs import Tabs
from telefabric_gui.views.topbar import TopBar
from telefabric_gui.views.transport import Bottom


class Bars:
    """Each `show` is an update of one bar, of the page in front. GUI thread."""

    def __init__(self, controller: Controller, tabs: Tabs, budget: MemoryBudget, pins: Pins) -> None:
        self._controller, self._tabs, self._budget = controller, tabs, budget
        self.top, self.bottom, self.status, self.details = TopBar(), Bottom(), StatusBar(), DetailsDock(pins)
        for view, name in (
            (self.top, "The bar on top"), (self.details, "Health and details"), (self.status, "Figures"),
        ):  # fmt: skip
            view.setAccessibleName(name)
        self.bottom.hide()

    def show_top(self, *, hidden: bool) -> None:
        """The mode is that of the page in front, unless it is hidden."""
        connection = self._controller.connection
        tone, words = health.LINKS[connection.link]
        told = f"{words}: {connection.address}\n{connection.sentence}".rstrip()
        self.top.show_connection(tone, health.place_of(connection), told, pulse=connection.link is LinkState.LIVE)
        page = self._tabs.front
        if page is None or hidden:
            self.top.show_mode(None)
            return
        cursor, new = page.time.cursor, plural(page.time.cursor.new, "new step")
        waiting = [f"{new}, {duration(cursor.left_for_s)} behind", new, count(cursor.new)] if cursor.new else [""]
        self.top.show_mode(cursor.mode, waiting, live=cursor.live)

    def show_figures(self, painted_s: float, *, memory: bool) -> None:
        """`painted_s` is how long the last painting took; that of `memory` is a slow figure."""
        controller = self._controller
        connection = controller.connection
        live = connection.link is LinkState.LIVE
        self.status.show_state(*health.LINKS[connection.link], pulse=live)
        if memory:
            self.status.show_figure("memory", *health.memory_of(self._budget))
        for name, text, role in health.figures_of(controller, controller.tick_s + painted_s):
            self.status.show_figure(name, text, role)
        age = page.frame_age_s if (page := self._tabs.page) else None
        self.status.show_figure("frame", "" if age is None or not live else f"frame age {duration(age)}")

    def show_bottom(self, *, hidden: bool) -> None:
        """Time line and transport."""
        page = self._tabs.front
        self.bottom.setVisible(page is not None and not hidden)
        replaying = pace = ""
        if page is not None:
            cursor = page.time.cursor
            self.bottom.line.show_run(cursor, page.time.whole)
            self.bottom.transport.show_cursor(cursor, page.place)
            if cursor.mode is Mode.REPLAY:
                link = self._controller.connection.link
                live = ", live goes on" if link is LinkState.LIVE and cursor.live else ""
                speed = cursor.rows_per_s
                replaying = f"replay {count(round(speed)) if speed >= 10 else real(speed, 1)} steps/s{live}"
                pace = f"Replay at {cursor.speed:g} times {cursor.pace.why}. Nothing live is lost by it"
        else:
            self.bottom.line.show_run(None, None)
        self.status.show_figure("replay", replaying, tip=pace)

    def show_health(self, run: RunView | None, page: AgentPage | None, *, latency: bool) -> None:
        """`latency` is a slow figure."""
        if not self.details.isVisible():
            return
        self.details.show_health(health.parts_of(self._controller, run), *health.verdict_of(self._controller))
        if latency:
            self.details.show_latency(self._controller.latencies)
        self.details.show_step(page.step if page else None)
        self.details.show_run(health.run_details(run))
