"""The card of the environment: its newest picture, or that of the step at the cursor, with the way that it came."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtGui import QHideEvent, QImage, QShowEvent
from PySide6.QtWidgets import QFileDialog, QStackedWidget

from telefabric.feed import RunView
from telefabric_gui import theme
from telefabric_gui.agent_stream import FRAME_OLD_NS, AgentStream
from telefabric_gui.formatting import NONE, age_s, count, decoded, duration, plural, real, short
from telefabric_gui.item_models.events import StepTable, number_of, step_of
from telefabric_gui.lane import Lane
from telefabric_gui.model.asking import Asker
from telefabric_gui.model.cursor import Cursor, Mode
from telefabric_gui.model.lines import Found
from telefabric_gui.model.raw_events import RawEvents
from telefabric_gui.model.returns import Returns
from telefabric_gui.model.step_parts import Shown, probabilities
from telefabric_gui.views.environment import EnvironmentView
from telefabric_gui.views.environments import Environments
from telefabric_gui.views.find import StepFinder
from telefabric_gui.views.frames import place_of, scene_of_frame
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.probabilities import ProbabilitiesPanel, note_of
from telefabric_gui.views.raw import RawView
from telefabric_gui.views.scenes import FrameScene, name_of, scene_of
from telefabric_gui.views.step_picture import StepPicture
from telefabric_gui.views.styled import Badges, Card, label, menu_of, restyle, say_fitting
from telefabric_gui.views.switch import DRAWN, RAW, ViewSwitch

_AGES_S = 1.0
"""How often the ages of environments are said while no frame comes."""
_VALUES_MAX = 3
"""Named numbers of a frame that are shown under it."""
_TIPS = {
    "network": "This picture came over the live path.",
    "live": "The newest step came over the live path.",
    "stored": "This step was read from the store.",
}


class EnvironmentCard(Card):
    """`refresh` once a tick while in sight; a frame of this machine's ring is shown when it comes. GUI thread."""

    not_saved = Signal(str)
    """Why the last picture could not be saved; empty when another one is to be saved."""

    def __init__(
        self, stream: AgentStream, views: Views, feed: Asker, cursor: Cursor, table: StepTable, finder: StepFinder,
        returns: Returns,
    ) -> None:  # fmt: skip
        self.view = EnvironmentView()
        self.view.setAccessibleName("Environment")
        self._stack = QStackedWidget()
        super().__init__("Environment", self._stack)
        self._stream, self._cursor, self._table, self._returns = stream, cursor, table, returns
        self.raw = RawView(RawEvents(stream, feed, self))
        for one in (self.view, self.raw):
            self._stack.addWidget(one)
        self.picture = StepPicture(stream, feed, cursor)
        self.probabilities = ProbabilitiesPanel(self.view)
        self.switch = ViewSwitch()
        self.switch.changed.connect(self._on_view)
        self.environments = Environments(stream, table, finder, cursor, returns)
        self.environments.chosen.connect(self._on_environment)
        self.lane = Lane(stream, self)
        """The frames of this machine's ring, if there is one."""
        self.lane.arrived.connect(
            lambda: views.update(self.view, self.show_lane, self.lane.frame and self.lane.frame.number)
        )
        self.step: Shown | None = None
        """The step that is shown."""
        self.still = False
        """Paused at the newest step: the picture stays, whichever way it came."""
        self._run: RunView | None = None
        self._metadata: Mapping[str, Any] = {}
        self._lane_wanted = True
        """The newest frame is to be shown: nothing is paused, and no step was chosen."""
        self._lane_state = ""
        """The lane's state when the frame was shown."""
        self._lane_shown_s = 0.0
        self._step_shown: object = None
        self._lay_out()

    def _lay_out(self) -> None:
        self.title.hide()
        self.badges.addWidget(self.switch)
        self.path, self.lane_badge = label(badge="dim"), label(badge="dim")
        self.lane_badge.hide()
        self.badges.addWidget(Badges(self.picture.badge, self.path, self.lane_badge))
        self._age = label(role="caption")
        self.corner.addWidget(self._age)
        self.corner.addWidget(self.environments.link)
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.view.customContextMenuRequested.connect(self._offer_picture)

    @property
    def _following(self) -> bool:
        return self._cursor.mode is Mode.FOLLOW

    @property
    def _grows(self) -> bool:
        return self._run is not None and self._run.finished_ns is None

    @property
    def frame_age_s(self) -> float | None:
        """Age of the newest live picture; None without one, or when no more is expected."""
        if self._lane_shown:
            return self.lane.age_s
        frame = self._stream.frame
        return None if frame is None or not self._grows else age_s(frame.time_ns)

    def refresh(self, shown: Found | None, run: RunView | None, metadata: Mapping[str, Any], *, due: bool) -> bool:
        """Show a step of a run, while it is followed only when that is `due`; whether another one is shown now."""
        self._run, self._metadata = run, metadata
        self.environments.told = metadata.get("num_envs")
        following, other = self._following, False
        self._lane_wanted = following
        if shown is not None and not self.still and (not following or due):
            exact = not (following and self._grows)
            other = self._show_step(shown, self._frame(shown, exact=exact))
            if self._lane_shown:
                self.picture.say_nothing()
            elif exact:
                self.environments.show_stored(shown)
                self._name_environment()
        aged = time.monotonic() - self._lane_shown_s >= _AGES_S
        if self._lane_shown and (aged or self.lane.state != self._lane_state):
            self.show_lane()
        if not self.still:
            self._say_path()
        self._say_age()
        return other

    def refresh_raw(self, shown: Found | None) -> None:
        """Show the events around a step, or the newest ones, as they came."""
        if self.raw.isVisible():
            if self._following:
                self.raw.events.follow()
            elif shown is not None:
                self.raw.events.around(int(shown.record["seq"]))
            self.raw.refresh()

    # -- what is shown -------------------------------------------------------------------------------------------

    def _frame(self, shown: Found, *, exact: bool) -> FrameScene | None:
        """The picture of a step, if there is one."""
        found = self.picture.of(shown.record, exact=exact, envs=self.environments.number)
        said = "" if self.switch.beside_video else self.picture.said or self.environments.card.rank
        say_fitting(self.caption, said, theme.fitting(said, self.caption.width()))
        if self.switch.beside_video:
            self.picture.badge.hide()  # it says something of the video
        return found

    @property
    def _lane_shown(self) -> bool:
        """Whether the ring's frame is shown: unless a newer one of another worker came over the network."""
        frame, other = self.lane.frame, self._stream.frame
        if frame is None or not self._lane_wanted or self.switch.view == DRAWN:
            return False
        return other is None or self.lane.state == "live" or other.time_ns - frame.time_ns < FRAME_OLD_NS

    def show_lane(self) -> None:
        """Show the ring's next frame at once."""
        frame = self.lane.frame
        if frame is not None:
            self.switch.offer_video()
        if frame is None or not self._lane_shown:
            return
        hud, self._lane_state, self._lane_shown_s = frame.hud, self.lane.state, time.monotonic()
        env = None
        if frame.tiles:
            self.environments.show_ring(frame, self.lane.state)
            self._name_environment()
            env = self.environments.card.follows
        place = place_of(frame, env)
        own = hud.tiles[place] if place is not None and place < len(hud.tiles) else hud
        figures = (
            ("reward", real(own.reward)), ("return", real(own.episode_return)), ("episode", count(own.episode)),
            ("step", count(own.step)), ("steps/s", real(hud.steps_per_s, 0) if hud.steps_per_s else NONE),
            *((short(name), real(value)) for name, value in list(hud.values.items())[:_VALUES_MAX]),
        )  # fmt: skip
        self.view.show_step(scene_of_frame(frame, env, self.lane.state), figures)

    def _name_environment(self) -> None:
        self.title.setText(self.environments.title)
        self.title.setVisible(bool(self.environments.title))

    def _on_environment(self) -> None:
        """Another one is followed: show its picture and step."""
        self._step_shown = None
        self.show_lane()

    def _show_step(self, shown: Found, frame: FrameScene | None) -> bool:
        row = shown.record
        rate = self._stream.steps_per_s()
        so_far = self._returns.so_far(self._table.pages.lines, shown)
        key = (int(row["seq"]), rate, so_far, len(self._metadata), frame, self._lane_shown)
        if key == self._step_shown:
            return False
        step = step_of(shown.raw)
        names = self._table.action_names
        self.step = Shown(row, step, so_far, names, self._metadata)
        figures = (
            ("reward", real(float(row["reward"]))),
            ("return", real(so_far)),
            ("episode", count(int(row["episode"]))),
            ("step", number_of(row)),
            ("steps/s", NONE if rate is None else count(round(rate))),
        )
        observation, hint = (decoded(step.observation), decoded(step.render_hint)) if step else (None, None)
        drawn = scene_of(observation, hint, self._metadata)
        self.switch.name_drawn(name_of(drawn))
        if frame is not None:
            self.switch.offer_video()
        if not self._lane_shown:
            self.view.show_step(drawn if self.switch.view == DRAWN else frame or drawn, figures)
        chances = probabilities(decoded(step.info), decoded(step.action), names) if step else []
        self.probabilities.show_chances(chances, note_of(int(row["step"])) if self._lane_shown else "")
        self._step_shown = key
        return True

    def _on_view(self) -> None:
        """Another view of the environment was chosen, or is the first one now."""
        self._stack.setCurrentWidget(self.raw if self.switch.view == RAW else self.view)
        self.still, self._step_shown = False, None

    def _say_age(self) -> None:
        """Show the age of the newest step, or of the ring's frame."""
        run = self._run
        running = run is not None and run.state in ("running", "revived", "idle")
        newest = self._table.newest()
        age = age_s(int(newest.record["time_ns"])) if newest is not None else None
        if self._lane_shown:
            age = self.lane.age_s
        self._age.setText(f"age {duration(age)}" if running and self._following and age is not None else "")

    def _say_path(self) -> None:
        """Show the way of the shown step or frame, and the frames per second."""
        lane, live = self.lane, self._stream.live
        skipped = f"This frame came through shared memory; {plural(lane.skipped, 'frame')} skipped."
        path = "fast lane" if self._lane_shown else "live" if live else "stored"
        if path != "fast lane" and isinstance(scene := self.view.scene, FrameScene):
            path = "stored" if scene.frame.seq else "network"
        self.path.setText(path)
        self.path.setToolTip(_TIPS.get(path, skipped))
        restyle(self.path, "badge", "accent" if path == "fast lane" else "dim")
        tone = {"live": "dim", "stalled": "warning", "died": "error"}.get(lane.state, "dim")
        said = f"{lane.fps:.0f} fps" if lane.state == "live" and lane.fps is not None else lane.state
        self.lane_badge.setText(said)
        self.lane_badge.setVisible(self._lane_shown and not (lane.state == "live" and lane.fps is None))
        restyle(self.lane_badge, "badge", tone)

    def _offer_picture(self, at: QPoint) -> None:
        """The context menu of the picture."""
        menu = menu_of(self)
        menu.addAction("Save picture…", lambda: self._ask_where(self.view.picture()))
        whole = menu.addAction("Show the whole picture", lambda: self.view.zoom_to(1.0))
        whole.setEnabled(self.view.zoom > 1)
        menu.popup(self.view.mapToGlobal(at))

    def _ask_where(self, picture: QImage) -> None:
        self.not_saved.emit("")
        picture = picture.copy()  # as it is now, however long the choice takes
        name = f"{self._stream.key.agent_id}.png"
        path, _ = QFileDialog.getSaveFileName(self, "Save picture", name, "Pictures (*.png *.jpg)")
        if path and not picture.save(path):
            self.not_saved.emit(f"The picture could not be saved as {path}: choose another folder, or end it in .png.")

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.environments.card.look_again()
        self.lane.start()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self.lane.stop()
