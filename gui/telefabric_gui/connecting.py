"""Which source is shown: chosen in the sheet for connecting, remembered when it works, others offered when not."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtWidgets import QWidget

from telefabric import TelefabricError
from telefabric.feed import Feed, LinkState
from telefabric_gui.sources import Memory, Opener
from telefabric_gui.views.connect import ConnectSheet, parts_of


class Connecting:
    """`source` is that of the feed that is shown at first; with `offer` the sheet opens when it does not work.

    `use` shows another feed. `below` is what the sheet lies over. GUI thread.
    """

    def __init__(
        self, memory: Memory, opener: Opener, use: Callable[[Feed], object], below: QWidget, source: str, *, offer: bool
    ) -> None:
        self.sheet = ConnectSheet(memory)
        self._memory, self._opener, self._use, self._below = memory, opener, use, below
        self._source, self._offer = source, offer
        self._remembered = False
        self.sheet.chosen.connect(self.open_source)
        self.sheet.closed.connect(lambda: self._rest(False))

    def open_sheet(self) -> None:
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
        self._use(feed)
        self.sheet.close_sheet()

    def note_link(self, link: LinkState) -> None:
        """Remember a source that works; offer others when the first one does not."""
        if self._source and link in (LinkState.LIVE, LinkState.FILE):
            if not self._remembered:
                self._memory.worked(self._source)
                self._remembered, self._offer = True, False
            self._memory.reached(self._source)
        elif self._offer and link in (LinkState.UNREACHABLE, LinkState.REFUSED):
            self._offer = False
            self.open_sheet()

    def _rest(self, resting: bool) -> None:
        """Below the sheet nothing takes keys or clicks."""
        self._below.setEnabled(not resting)
