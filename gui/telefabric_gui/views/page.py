"""A tab: one agent of one run, with its environment, a chart, its episodes and its steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtGui import QHideEvent, QImage, QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import QFileDialog, QStackedWidget, QWidget

from telefabric.feed import RunView
from telefabric_gui import theme
from telefabric_gui.agent_stream import FRAME_OLD_NS, AgentStream
from telefabric_gui.budget import Part
from telefabric_gui.formatting import (
    NONE,
    age_s,
    clock,
    count,
    decoded,
    duration,
    metadata_of,
    plural,
    real,
    short,
)
from telefabric_gui.item_models.events import EpisodeTable, StepTable, number_of, step_of
from telefabric_gui.item_models.runs import warning_of
from telefabric_gui.lane import FRAME_MS, Lane
from telefabric_gui.model.asking import Asker
from telefabric_gui.model.charting import Charting
from telefabric_gui.model.cursor import Mode, Subject
from telefabric_gui.model.episode_at import EpisodeAt
from telefabric_gui.model.episode_facts import EpisodeFacts
from telefabric_gui.model.lines import Found
from telefabric_gui.model.pace import pace_of
from telefabric_gui.model.pages import Of, Pages
from telefabric_gui.model.raw_events import RawEvents
from telefabric_gui.model.returns import Returns
from telefabric_gui.model.run_time import RunTime
from telefabric_gui.model.search import OF_EPISODES, Goal
from telefabric_gui.model.step_parts import Shown, lines, probabilities
from telefabric_gui.model.streams import Source
from telefabric_gui.redraw import BALANCED, TICK_MS, Redraw, is_due
from telefabric_gui.rows import NO_STEP
from telefabric_gui.views.cards import Cards
from telefabric_gui.views.charts import ChartsView
from telefabric_gui.views.columns import columns_named, names_of, offer_columns
from telefabric_gui.views.environment import EnvironmentView
from telefabric_gui.views.environments import Environments
from telefabric_gui.views.find import EpisodeOrder, Finder, StepFinder
from telefabric_gui.views.frames import place_of, scene_of_frame
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.probabilities import ProbabilitiesPanel, note_of
from telefabric_gui.views.raw import RawView
from telefabric_gui.views.replay_bar import ReplayBar
from telefabric_gui.views.scenes import FrameScene, action_names, name_of, scene_of
from telefabric_gui.views.step_picture import StepPicture
from telefabric_gui.views.streams import StreamsBar
from telefabric_gui.views.styled import (
    Badges,
    Banner,
    Card,
    button,
    column,
    label,
    laid_out,
    menu_of,
    restyle,
    say_fitting,
)
from telefabric_gui.views.switch import DRAWN, RAW, ViewSwitch
from telefabric_gui.views.tables import TableView

_SAID_S = 4.0
"""How long a sentence about a jump is in sight."""
_VALUES_MAX = 3
"""Named numbers of a frame that are shown under it."""


class AgentPage(QWidget):
    """`refresh` once a tick while in sight; the tables follow their models by themselves."""

    let_go = Signal()
    columns_chosen = Signal(list)
    """Names of the columns that the user wants, in every table of steps."""

    def __init__(self, stream: AgentStream, views: Views, charting: Charting, feed: Asker) -> None:
        super().__init__()
        self.setObjectName("page")
        self.setAccessibleName(f"{stream.key.agent_id} of {stream.key.run_id}")
        self.stream = stream
        self.run_id = stream.key.run_id
        self._views = views
        self.step: Shown | None = None
        """The step that is shown, for the details dock."""
        run_id, agent_id = stream.key
        steps, episodes = (Of(run_id, stream.stream_id, kind, agent_id) for kind in ("step", "episode"))
        self.step_rows = Pages(stream.steps, steps, feed, voided=stream.voided)
        self.episode_rows = Pages(
            stream.episodes, episodes, feed, voided=stream.voided, whole_from=stream.steps_whole_from
        )
        self.step_table = StepTable(self.step_rows, stream.metric_at, self)
        self.episode_table = EpisodeTable(self.episode_rows, self)
        self.steps = TableView(self.step_table, "Steps")
        self.episodes = TableView(self.episode_table, "Episodes")
        subject = Subject(run_id, agent_id, stream.stream_id)
        self.time = RunTime(feed, subject, self)
        self._at: tuple[int, int] | None = None
        """The row at the cursor and its seq, once it was shown."""
        self.picture = StepPicture(stream, feed, self.time.cursor)
        self.returns = Returns(feed, subject, stream.voided, self)
        self.episode_at = EpisodeAt(feed, self.episode_rows, self)
        self.environment = EnvironmentView()
        self.environment.setAccessibleName("Environment")
        self.probabilities = ProbabilitiesPanel(self.environment)
        self.switch = ViewSwitch()
        self.raw = RawView(RawEvents(stream, feed, self))
        self.pin_wanted = self.raw.pin_wanted
        self.charts = ChartsView(charting)
        self.charts.setAccessibleName("Charts")
        self._join_charts()
        self.banner = Banner()
        self.streams_bar = StreamsBar()
        self.apart = False
        """A further replay of a run, beside the page that follows it."""
        self.replay_bar = ReplayBar()
        self.facts = EpisodeFacts(feed, Subject(run_id, agent_id, stream.stream_id), self)
        self.step_finder = StepFinder(self.step_table, self.steps)
        self.episode_finder = Finder(self.episode_table, self.episodes, OF_EPISODES)
        self.episodes.order_wanted.connect(self.episode_finder.line.close_line)  # before the order is made
        self.episode_order = EpisodeOrder(self.episode_table, self.episodes)
        self.environments = Environments(stream, self.step_table, self.step_finder, self.time.cursor, self.returns)
        self.environments.chosen.connect(self._on_environment)
        self._follow_cursor()
        self._ticks = 0
        self.redraw = BALANCED
        self.lane = Lane(stream, self)
        """The frames of this machine's ring, if there is one."""
        self.lane.arrived.connect(
            lambda: self._views.update(self.environment, self._show_lane, self.lane.frame and self.lane.frame.number)
        )
        self._lane_wanted = True
        """The newest frame is to be shown: nothing is paused, and no step was chosen."""
        self._lane_state = ""
        """The lane's state when the frame was shown."""
        self._not_saved = ""
        """Why the last picture could not be saved."""
        self._not_jumped = "", 0.0
        """Why the cursor did not move, and since when that is so."""
        self._metadata: Mapping[str, Any] = {}
        self._step_shown: object = None
        self._still = False
        """Paused at the newest step: the picture stays, whichever way it came."""
        self._run: RunView | None = None
        self._lay_out()

    # -- what the window asks for --------------------------------------------------------------------------------

    def refresh(self, run: RunView | None, redraw: Redraw = BALANCED) -> None:
        """Show events since the last call; each view fails or succeeds by itself."""
        self._run, self.redraw = run, redraw
        self.lane.frame_ms = max(FRAME_MS, redraw.pictures_ms if redraw.pictures_ms > TICK_MS else 0)
        for rows in (self.step_rows, self.episode_rows):
            rows.refresh()
        self.time.refresh(self.step_rows, self.stream.steps.marks, live=self._grows)
        cursor = self.time.cursor
        given = self.stream.version, cursor.row, cursor.mode
        for view, show in (
            (self.environment, self._refresh_environment), (self.raw, self._refresh_raw), (self.steps, self._say_steps),
            (self.episodes, self._say_episodes), (self.banner, self._warn), (self.replay_bar, self._say_replay),
        ):  # fmt: skip
            self._views.update(view, show, given)
        if is_due(self.redraw.charts_ms, self._ticks):
            self._views.update(self.charts, partial(self.charts.show_source, self.source), given)
        self._ticks += 1

    def _say_replay(self) -> None:
        """Say that the run has ended, and what is known of the episode at the cursor."""
        self.replay_bar.show_run(self._run, apart=self.apart)
        shown = self._shown
        if shown is None or self.replay_bar.isHidden():
            return
        env, episode = int(shown.record["env"]), int(shown.record["episode"])
        self.facts.look(env, episode)
        self.replay_bar.show_episode(episode, self.facts.facts)

    def _refresh_environment(self) -> None:
        metadata = metadata_of(self._run.metadata if self._run else b"")
        if metadata is not self._metadata:
            self._metadata = metadata
            self.step_table.name_actions(action_names(metadata))
            self._set_pace()
        shown, following = self._shown, self._following
        self._lane_wanted = following
        if shown is not None and not self._still and (not following or is_due(self.redraw.pictures_ms, self._ticks)):
            exact = not (following and self._grows)
            self._show_step(shown, self._frame(shown, exact=exact))
            if self._lane_shown:
                self.picture.say_nothing()
            elif exact:
                self.environments.show_stored(shown)
                self._name_environment()
        if self._lane_shown and self.lane.state != self._lane_state:
            self._show_lane()
        if not self._still:
            self._say_path()
        self._say_age(following=following)

    @property
    def _following(self) -> bool:
        return self.time.cursor.mode is Mode.FOLLOW

    @property
    def _grows(self) -> bool:
        """Whether more steps are expected."""
        return self._run is not None and self._run.finished_ns is None

    @property
    def _shown(self) -> Found | None:
        """The step at the cursor, or the reset before it that was chosen in the table; None until it is loaded."""
        row, chosen = self.time.cursor.row, self.steps.chosen
        if self._following or row is None:
            return self.environments.row or self.step_table.newest()
        if self.time.cursor.mode is Mode.REPLAY:
            return self.environments.row or self.step_rows.row(row)
        return chosen if isinstance(chosen, Found) and chosen.row == row else self.step_rows.row(row)

    @property
    def frame_age_s(self) -> float | None:
        """Age of the newest live picture; None without one."""
        if self._lane_shown:
            return self.lane.age_s
        frame = self.stream.frame
        return None if frame is None else age_s(frame.time_ns)

    def parts(self) -> list[Part]:
        """What is held beside the stream itself, for the memory's limit."""
        holders = (
            self.step_rows,
            self.episode_rows,
            self.time.whole,
            self.step_finder.search,
            self.episode_finder.search,
        )
        return [part for holder in holders if holder is not None for part in holder.parts()]

    def close_models(self) -> None:
        """Ask for nothing any more, and let go of the stream's rows."""
        self.step_finder.show_all()
        self.episode_finder.show_all()
        self.episode_order.show_all()
        parts = (self.raw.events, self.step_rows, self.episode_rows, self.time, self.picture.stored, self.returns)
        for part in (*parts, self.episode_at, self.facts):
            part.close()

    def follow(self) -> None:
        """Show the newest step, episode and picture again."""
        self.time.cursor.follow()
        self.steps.follow()
        self.episodes.follow()
        self._ticks = 0

    # -- the cursor ----------------------------------------------------------------------------------------------

    def _follow_cursor(self) -> None:
        cursor = self.time.cursor
        cursor.mode_changed.connect(self._on_mode)
        cursor.moved.connect(self._on_moved)
        self.step_rows.changed.connect(self._keep_step)
        self.steps.picked.connect(lambda row: cursor.follow() if row < 0 else cursor.go_to(row))
        self.steps.pressed.connect(self._show_itself)
        self.step_finder.row_wanted.connect(cursor.go_to)
        self.episodes.picked.connect(self._on_episode)
        self.episode_at.found.connect(self._choose_episode)
        self.episode_finder.begins.connect(self.episode_order.show_all)
        self.episode_finder.line.goal.connect(self._on_goal)
        self.time.jumps.failed.connect(self._cannot_jump)

    def _join_charts(self) -> None:
        """Charts show the cursor, and move it."""
        cursor, charts = self.time.cursor, self.charts
        charts.cursor_wanted.connect(lambda row: cursor.go_to(round(row)))
        charts.sight_wanted.connect(cursor.see)
        charts.whole_wanted.connect(cursor.see_all)
        charts.selection_wanted.connect(lambda first, last: cursor.select(round(first), round(last)))
        for signal in (cursor.moved, cursor.mode_changed):
            signal.connect(lambda: charts.show_cursor(None if cursor.mode is Mode.FOLLOW else cursor.row))
        cursor.sight_changed.connect(lambda: charts.show_sight(None if cursor.sees_all else cursor.sight))
        cursor.selection_changed.connect(lambda: charts.show_selection(cursor.selection))

    def _on_mode(self) -> None:
        cursor = self.time.cursor
        self._still = cursor.held and self.isVisible()
        self.charts.set_still(cursor.mode is Mode.PAUSED)
        self._set_pace()
        self._choose_step()

    def _set_pace(self) -> None:
        """Replay is as fast as the environment, by the newest steps: they are always there."""
        records = self.stream.newest_steps()
        self.time.cursor.pace = pace_of(self._metadata, records["env"], records["time_ns"])

    def _on_moved(self) -> None:
        if not self._following:
            self._still, self._at = False, None
        self._choose_step()

    def _choose_step(self) -> None:
        """Show in the table where the cursor is; while it follows, no step is chosen."""
        row = self.time.cursor.row
        if self._following or row is None:
            self._at = None
            self.steps.show_none()
            self.episode_at.forget()
            self.episodes.show_none()
            return
        self.steps.show_row(row)

    def _choose_episode(self, row: int) -> None:
        """Show in the table the episode of the cursor; one that is ordered or searched keeps its own lines."""
        if not self._following and not self.episode_table.order[0] and self.episode_finder.search is None:
            self.episodes.show_row(row)

    def _show_itself(self) -> None:
        """Show the step that was clicked, though the cursor may have been held there already."""
        if self._still and self.time.cursor.row is not None:
            self._still = False
            self.time.cursor.go_to(self.time.cursor.row)

    def _keep_step(self) -> None:
        """The step at the cursor has another number when rows before it come late: stay at the step."""
        if self._at is None or self._following:
            return
        row, seq = self._at
        found = self.step_rows.row(row)
        if found is not None and int(found.record["seq"]) != seq:
            number = self.step_rows.row_of_seq(seq)
            if number is not None and number != row:
                self._at = number, seq
                self.time.cursor.renumber(number)

    @property
    def place(self) -> str:
        """Where the cursor is, in words."""
        row, found = self.time.cursor.row, self._shown
        if row is None:
            return ""
        if found is None:
            return f"step {count(round(float(self.time.whole.axis.steps(row))))}   row {count(row)} is being read"
        record = found.record
        step = f"row {count(row)}" if record["global_step"] == NO_STEP else f"step {count(int(record['global_step']))}"
        episode = f"episode {count(int(record['episode']))}, step {number_of(record)}"
        return f"{step}   {episode}   {clock(int(record['time_ns']))}"

    def _on_goal(self, goal: Goal) -> None:
        if goal.by == "row":
            self.episodes.show_row(max(goal.value, 1) - 1)
        else:
            self.time.jumps.to_value(goal.by, goal.value)

    def _on_episode(self, row: int) -> None:
        """Go to the first step of the episode that was picked."""
        found = self.episodes.chosen if row >= 0 else None
        if isinstance(found, Found):
            self.time.jumps.to_value("episode", int(found.record["episode"]), int(found.record["env"]))

    def _cannot_jump(self, sentence: str) -> None:
        self._not_jumped = sentence, time.monotonic()

    # -- parts ---------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        views = QStackedWidget()
        for view in (self.environment, self.raw):
            views.addWidget(view)
        self._environment_card = Card("Environment", views)
        self._environment_card.title.hide()
        self._environment_card.badges.addWidget(self.switch)
        self.switch.changed.connect(self._on_view)
        self.raw.step_wanted.connect(self._go_to_seq)
        self._charts_card = Card("Charts", self.charts)
        self._episodes_card = Card("Episodes", laid_out(column(self.episode_finder.line, (self.episodes, 1))))
        find_episodes = button("find", self.episode_finder.line.open_line, "link", "Go to an episode, or filter them")
        self._episodes_card.corner.addWidget(find_episodes)
        self._steps_card = Card("Steps", laid_out(column(self.step_finder.line, (self.steps, 1))))
        find = button("find", self.step_finder.line.open_line, "link", "Go to a step or an episode, or search (Ctrl+G)")
        self._columns = button("columns \u25be", self._offer_columns, "link", "Choose the columns")
        QShortcut(QKeySequence("Ctrl+G"), self, self.step_finder.line.open_line)
        QShortcut(QKeySequence("H"), self, self.probabilities.toggle)
        self._path = label(badge="dim")
        self._lane_badge = label(badge="dim")
        self._lane_badge.hide()
        self._environment_card.badges.addWidget(Badges(self.picture.badge, self._path, self._lane_badge))
        self.environment.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.environment.customContextMenuRequested.connect(self._offer_picture)
        self._age = label(role="caption")
        self._newest = button("newest", self.let_go, "link", "Back to the newest step (End)")
        self._newest.hide()
        self._environment_card.corner.addWidget(self._age)
        self._charts_card.corner.addLayout(self.charts.corner)
        self.charts.drawn.connect(self._say_charts)
        for link in (self._newest, find, self._columns):
            self._steps_card.corner.addWidget(link)
        cards = Cards(
            environment=self._environment_card, charts=self._charts_card, episodes=self._episodes_card,
            steps=self._steps_card, vector=self.environments.card,
        )  # fmt: skip
        self.environments.join(cards)
        self._environment_card.corner.addWidget(self.environments.link)
        self.setLayout(column(self.banner, self.replay_bar, self.streams_bar, (cards, 1)))

    def _frame(self, shown: Found, *, exact: bool) -> FrameScene | None:
        """The picture of a step, if there is one."""
        envs, caption = self.environments.number, self._environment_card.caption
        found = self.picture.of(shown.record, exact=exact, envs=envs)
        said = "" if self.switch.beside_video else self.picture.said or self.environments.card.rank
        say_fitting(caption, said, theme.fitting(said, caption.width()))
        if self.switch.beside_video:
            self.picture.badge.hide()  # it says something of the video
        return found

    @property
    def _lane_shown(self) -> bool:
        """Whether the ring's frame is shown: unless a newer one of another worker came over the network."""
        frame, other = self.lane.frame, self.stream.frame
        if frame is None or not self._lane_wanted or self.switch.view == DRAWN:
            return False
        return other is None or self.lane.state == "live" or other.time_ns - frame.time_ns < FRAME_OLD_NS

    def _show_lane(self) -> None:
        """Show the ring's next frame at once."""
        frame = self.lane.frame
        if frame is not None:
            self.switch.offer_video()
        if frame is None or not self._lane_shown:
            return
        hud, self._lane_state = frame.hud, self.lane.state
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
        self.environment.show_step(scene_of_frame(frame, env, self.lane.state), figures)

    def _name_environment(self) -> None:
        self._environment_card.title.setText(self.environments.title)
        self._environment_card.title.setVisible(bool(self.environments.title))

    def _on_environment(self) -> None:
        """Another one is followed: show its picture and step."""
        self._step_shown = None
        self._show_lane()

    def _offer_picture(self, at: QPoint) -> None:
        """The context menu of the picture."""
        menu = menu_of(self)
        menu.addAction("Save picture…", lambda: self._ask_where(self.environment.picture()))
        whole = menu.addAction("Show the whole picture", lambda: self.environment.zoom_to(1.0))
        whole.setEnabled(self.environment.zoom > 1)
        menu.popup(self.environment.mapToGlobal(at))

    def _ask_where(self, picture: QImage) -> None:
        self._not_saved = ""
        picture = picture.copy()  # as it is now, however long the choice takes
        name = f"{self.stream.key.agent_id}.png"
        path, _ = QFileDialog.getSaveFileName(self, "Save picture", name, "Pictures (*.png *.jpg)")
        if path and not picture.save(path):
            self._not_saved = f"The picture could not be saved as {path}: choose another folder, or end it in .png."
            self.banner.say(self._not_saved)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.lane.start()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self.lane.stop()
        for rows in (self.step_rows, self.episode_rows):
            rows.see(0, -1)  # none is in sight

    def _show_step(self, shown: Found, frame: FrameScene | None) -> None:
        row = shown.record
        rate = self.stream.steps_per_s()
        so_far = self.returns.so_far(self.step_rows.lines, shown)
        key = (int(row["seq"]), rate, so_far, len(self._metadata), frame, self._lane_shown)
        if key == self._step_shown:
            return
        step = step_of(shown.raw)
        names = self.step_table.action_names
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
            self.environment.show_step(drawn if self.switch.view == DRAWN else frame or drawn, figures)
        chances = probabilities(decoded(step.info), decoded(step.action), names) if step else []
        self.probabilities.show_chances(chances, note_of(int(row["step"])) if self._lane_shown else "")
        if not self._following and shown.row == self.time.cursor.row:
            self._at = shown.row, int(row["seq"])
            self.episode_at.look(int(row["env"]), int(row["episode"]))
        self._step_shown = key

    def _on_view(self) -> None:
        """Another view of the environment was chosen, or is the first one now."""
        views = self.raw.parentWidget()
        assert isinstance(views, QStackedWidget)
        views.setCurrentWidget(self.raw if self.switch.view == RAW else self.environment)
        self._still, self._step_shown = False, None

    def _refresh_raw(self) -> None:
        if self.raw.isVisible():
            shown = self._shown
            if self._following:
                self.raw.events.follow()
            elif shown is not None:
                self.raw.events.around(int(shown.record["seq"]))
            self.raw.refresh()

    def _go_to_seq(self, seq: int) -> None:
        """Go to the step of an event, else to the next one behind it."""
        numbered = self.step_rows.stored is not None or self.step_rows.problem
        row = self.step_rows.row_of_seq(seq) if numbered else None  # before, live rows have other numbers
        if row is None:
            self.time.jumps.to_value("seq", seq)
        else:
            self.time.cursor.go_to(row)

    @property
    def details(self) -> list[tuple[str, str]]:
        """The step that is shown, in names and values."""
        return [line[:2] for line in lines(self.step)] if self.step else []

    def _say_steps(self) -> None:
        cursor, search, number = self.time.cursor, self.step_finder.search, self._number_of(self.step_rows)
        if (own := self.environments.rows) is not None:
            said = [f"#{own.env}: {count(len(own))} of the newest", f"#{own.env}"]
        elif search is not None:
            said = [f"{count(len(search))} of {number}"]
        elif self._following:
            said = [f"{'following' if self.steps.following else 'scrolled back'} · {number}", number]
        else:
            at = count((cursor.row or 0) + 1)
            said = [f"row {at} of {number}", f"{at} of {number}", f"row {at}", at]
        say_fitting(self._steps_card.caption, *said)
        self._newest.setVisible(not (self._following and self.steps.following))

    @staticmethod
    def _number_of(rows: Pages) -> str:
        """How many rows there are, and whether those in sight are still being read."""
        return rows.problem or f"{count(rows.shown_rows)}{' · loading' if rows.loading else ''}"

    def _offer_columns(self) -> None:
        offer_columns(
            self._columns,
            self.step_table,
            self.stream.metrics,
            lambda columns: self.columns_chosen.emit(names_of(columns)),
        )

    def show_columns(self, names: list[str]) -> None:
        """Show the columns of these names in the table of steps."""
        self.step_finder.show_columns(columns_named(self.step_table, names))

    def _say_episodes(self) -> None:
        voided = len(self.stream.voided)
        said = f" · {plural(voided, 'episode')} voided, in the store alone" if voided else ""
        by, descending = self.episode_table.order
        search = self.episode_finder.search
        found = f"{count(len(search))} of " if search is not None else ""
        order = f" · {by.replace('_', ' ')}, {'greatest' if descending else 'least'} first" if by else ""
        self._episodes_card.caption.setText(found + self._number_of(self.episode_rows) + order + said)

    def _say_age(self, *, following: bool) -> None:
        """Show the age of the newest step, or of the ring's frame."""
        run = self._run
        running = run is not None and run.state in ("running", "revived", "idle")
        newest = self.step_table.newest()
        age = age_s(int(newest.record["time_ns"])) if newest is not None else None
        if self._lane_shown:
            age = self.lane.age_s
        self._age.setText(f"age {duration(age)}" if running and following and age is not None else "")

    def _say_path(self) -> None:
        """Show the way of the shown step or frame, and the frames per second."""
        lane, live = self.lane, self.stream.live
        tips = {
            "fast lane": f"This frame came through shared memory; {plural(lane.skipped, 'frame')} skipped.",
            "network": "This picture came over the live path.",
            "live": "The newest step came over the live path.",
            "stored": "This step was read from the store.",
        }
        path = "fast lane" if self._lane_shown else "live" if live else "stored"
        if path != "fast lane" and isinstance(scene := self.environment.scene, FrameScene):
            path = "stored" if scene.frame.seq else "network"
        self._path.setText(path)
        self._path.setToolTip(tips[path])
        restyle(self._path, "badge", "accent" if path == "fast lane" else "dim")
        tone = {"live": "dim", "stalled": "warning", "died": "error"}.get(lane.state, "dim")
        said = f"{lane.fps:.0f} fps" if lane.state == "live" and lane.fps is not None else lane.state
        self._lane_badge.setText(said)
        self._lane_badge.setVisible(self._lane_shown and not (lane.state == "live" and lane.fps is None))
        restyle(self._lane_badge, "badge", tone)

    def _warn(self) -> None:
        sentence, at_s = self._not_jumped
        jump = sentence if time.monotonic() - at_s < _SAID_S else ""
        self.banner.say(jump or self._not_saved or (warning_of(self._run) if self._run else ""))

    @property
    def source(self) -> Source:
        """What charts draw on this page."""
        run_id, agent_id = self.stream.key
        return Source(run_id, agent_id, self.stream.stream_id, self.stream, self._grows)

    def _say_charts(self) -> None:
        self._charts_card.title.setText(self.charts.title)
        self._charts_card.caption.setText(self.charts.caption)
