"""What keys and buttons do with the cursor of the page in front: follow, pause, replay, and go elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from telefabric_gui.model.cursor import SPEEDS, Mode
from telefabric_gui.views.multi_agent import MultiAgentPage
from telefabric_gui.views.page import AgentPage
from telefabric_gui.views.tabs import Tabs

_ACTS = {
    "Home": "first", "Left": "back", "Right": "on", "Shift+Left": "episode back", "Shift+Right": "episode on",
    ",": "frame back", ".": "frame on", "L": "loop", "B": "bookmark",
}  # fmt: skip
"""Key → the name of its act."""


class Playing:
    """Without a page in front, nothing happens. GUI thread."""

    def __init__(self, tabs: Tabs, bookmark: Callable[[], object]) -> None:
        self._tabs = tabs
        self._bookmark = bookmark
        self.to_replay = ""
        """The run that is replayed from its start when its first step is known."""

    def keys(self) -> list[tuple[str, Callable[[], object]]]:
        """Key → what it does."""
        acts: list[tuple[str, Callable[[], object]]] = [("F", self.follow), ("End", self.follow), ("P", self.pause)]
        acts += [(key, partial(self.act, name)) for key, name in _ACTS.items()]
        return acts + [(str(number), partial(self.replay, speed)) for number, speed in enumerate(SPEEDS, 1)]

    def follow(self) -> None:
        """Follow new events, with the newest in sight."""
        if page := self._tabs.front:
            page.follow()

    def pause(self) -> None:
        """Stay at the step that is shown."""
        if page := self._tabs.front:
            page.time.cursor.pause()

    def replay(self, speed: float | None = None) -> None:
        """Run on from the step that is shown; at another speed if one is given."""
        if page := self._tabs.front:
            if speed is not None:
                page.time.cursor.set_speed(speed)
            page.time.cursor.replay()

    def set_mode(self, mode: Mode) -> None:
        {Mode.FOLLOW: self.follow, Mode.PAUSED: self.pause, Mode.REPLAY: self.replay}[mode]()

    def let_go(self) -> None:
        """Unselect what is selected, or else follow."""
        if page := self._tabs.front:
            cursor = page.time.cursor
            (page.follow if cursor.selection is None else cursor.select_nothing)()

    def act(self, name: str) -> None:
        """What a button of the transport, or its key, does."""
        if (page := self._tabs.front) is None:
            return
        cursor, jumps = page.time.cursor, page.time.jumps
        acts: dict[str, Callable[[], object]] = {
            "first": lambda: cursor.go_to(0), "back": lambda: cursor.step(-1), "on": lambda: cursor.step(1),
            "toggle": cursor.toggle, "last": self.follow, "loop": lambda: cursor.loop(not cursor.looping),
            "bookmark": self._bookmark,
            "episode back": lambda: jumps.by_episodes(-1), "episode on": lambda: jumps.by_episodes(1),
            "frame back": lambda: jumps.by_frames(ahead=False), "frame on": lambda: jumps.by_frames(ahead=True),
        }  # fmt: skip
        acts[name]()

    def begin_replay(self, front: AgentPage | MultiAgentPage) -> None:
        """Begin the replay that is due, once the page in front has its run's first step."""
        cursor = front.time.cursor
        if front.run_id == self.to_replay and cursor.total:
            if isinstance(front, AgentPage) and cursor.live and not front.apart:
                self._tabs.open_replay(front.stream.key)  # the page that follows goes on
                return
            self.to_replay = ""
            cursor.go_to(0)
            cursor.replay()
