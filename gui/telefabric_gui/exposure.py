"""Whether the window is in sight, and what it gives up while it is not."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtWidgets import QWidget

from telefabric_gui.controller import Controller
from telefabric_gui.views.multi_agent import MultiAgentPage
from telefabric_gui.views.page import AgentPage


class Exposure:
    """Of one window, whose desktop may hide or cover it. `together` names the runs that are drawn with one."""

    def __init__(self, window: QWidget, controller: Controller, together: Callable[[str], frozenset[str]]) -> None:
        self._window, self._controller, self._together = window, controller, together
        self.started = False
        """The window has been shown; before, it counts as in sight, since it will be."""
        self._seen = False
        """The desktop tells: it has done so once."""
        self._was_in_sight = True

    @property
    def in_sight(self) -> bool:
        """As far as the desktop reports it."""
        window, handle = self._window, self._window.windowHandle()
        exposed = handle is not None and handle.isExposed()
        self._seen = self._seen or exposed
        shown = window.isVisible() and not window.isMinimized()
        return not self.started or (shown and (exposed or not self._seen))

    def look(self, page: AgentPage | None, front: AgentPage | MultiAgentPage | None, *, covered: bool) -> None:
        """Give up the live events, pictures and bell of what is out of sight; the page in front may be covered."""
        in_sight = self.in_sight and not covered
        seen = front.run_id if front and in_sight else None
        self._controller.show_runs(self._together(seen) if seen else frozenset())
        pictures = page is None or page.lane.state != "live"
        self._controller.feed.want_pictures(frozenset({seen} if seen and pictures else ()))
        if page is not None and in_sight is not self._was_in_sight:
            (page.lane.start if in_sight else page.lane.stop)()
        self._was_in_sight = in_sight
