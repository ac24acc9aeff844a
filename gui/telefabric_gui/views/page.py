"""A tab: one agent of one run, with its environment, a chart, its episodes and its steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QHideEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import QWidget

from telefabric.feed import RunView
from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.budget import Part
from telefabric_gui.formatting import clock, count, metadata_of
from telefabric_gui.item_models.events import number_of
from telefabric_gui.item_models.runs import warning_of
from telefabric_gui.lane import FRAME_MS
from telefabric_gui.model.asking import Asker
from telefabric_gui.model.charting import Charting
from telefabric_gui.model.cursor import Mode, Subject
from telefabric_gui.model.episode_at import EpisodeAt
from telefabric_gui.model.episode_facts import EpisodeFacts
from telefabric_gui.model.lines import Found
from telefabric_gui.model.pace import pace_of
from telefabric_gui.model.returns import Returns
from telefabric_gui.model.run_time import RunTime
from telefabric_gui.model.search import Goal
from telefabric_gui.model.step_parts import Shown, lines
from telefabric_gui.model.streams import Source
from telefabric_gui.redraw import BALANCED, TICK_MS, Redraw, is_due
from telefabric_gui.rows import NO_STEP
from telefabric_gui.views.cards import Cards
from telefabric_gui.views.charts import ChartsView
from telefabric_gui.views.environment_card import EnvironmentCard
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.replay_bar import ReplayBar
from telefabric_gui.views.scenes import action_names
from telefabric_gui.views.streams import StreamsBar
from telefabric_gui.views.styled import Banner, Card, column
from telefabric_gui.views.table_cards import EpisodesCard, StepsCard

_SAID_S = 4.0
"""How long a sentence about a jump is in sight."""


class AgentPage(QWidget):
    """`refresh` once a tick while in sight; the tables follow their models by themselves."""

    let_go = Signal()

    def __init__(self, stream: AgentStream, views: Views, charting: Charting, feed: Asker) -> None:
        super().__init__()
        self.setObjectName("page")
        self.setAccessibleName(f"{stream.key.agent_id} of {stream.key.run_id}")
        self.stream = stream
        self.run_id = stream.key.run_id
        self._views = views
        run_id, agent_id = stream.key
        subject = Subject(run_id, agent_id, stream.stream_id)
        self.steps_card, self.episodes_card = StepsCard(stream, feed), EpisodesCard(stream, feed)
        self.step_rows, self.episode_rows = self.steps_card.rows, self.episodes_card.rows
        self.step_table, self.episode_table = self.steps_card.table, self.episodes_card.table
        self.steps, self.episodes = self.steps_card.view, self.episodes_card.view
        self.step_finder, self.episode_finder = self.steps_card.finder, self.episodes_card.finder
        self.columns_chosen = self.steps_card.columns_chosen
        self.time = RunTime(feed, subject, self)
        self._at: tuple[int, int] | None = None
        """The row at the cursor and its seq, once it was shown."""
        self.returns = Returns(feed, subject, stream.voided, self)
        self.episode_at = EpisodeAt(feed, self.episode_rows, self)
        self.facts = EpisodeFacts(feed, subject, self)
        self.environment_card = EnvironmentCard(
            stream, views, feed, self.time.cursor, self.step_table, self.step_finder, self.returns
        )
        self.environment, self.raw = self.environment_card.view, self.environment_card.raw
        self.environments, self.lane = self.environment_card.environments, self.environment_card.lane
        self.picture, self.probabilities = self.environment_card.picture, self.environment_card.probabilities
        self.pin_wanted = self.raw.pin_wanted
        self.charts = ChartsView(charting)
        self.charts.setAccessibleName("Charts")
        self._join_charts()
        self.banner = Banner()
        self.streams_bar = StreamsBar()
        self.apart = False
        """A further replay of a run, beside the page that follows it."""
        self.replay_bar = ReplayBar()
        self._follow_cursor()
        self._ticks = 0
        self.redraw = BALANCED
        self._not_saved = ""
        """Why the last picture could not be saved."""
        self._not_jumped = "", 0.0
        """Why the cursor did not move, and since when that is so."""
        self._metadata: Mapping[str, Any] = {}
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
            (self.environment, self._refresh_environment),
            (self.raw, lambda: self.environment_card.refresh_raw(self._shown)),
            (self.steps, lambda: self.steps_card.say(cursor, self.environments.rows)),
            (self.episodes, self.episodes_card.say), (self.banner, self._warn), (self.replay_bar, self._say_replay),
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
        due, shown = is_due(self.redraw.pictures_ms, self._ticks), self._shown
        other = self.environment_card.refresh(shown, self._run, metadata, due=due)
        if shown is None or shown.row != self.time.cursor.row:
            return
        replays = self.time.cursor.mode is Mode.REPLAY
        if self._following or (self._at is None and (other or not replays)):
            self._at = shown.row, int(shown.record["seq"])
        if other and not self._following:
            self.episode_at.look(int(shown.record["env"]), int(shown.record["episode"]))

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
        self.episodes_card.order.show_all()
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
        self.episode_finder.line.goal.connect(self._on_goal)
        self.time.jumps.failed.connect(self._cannot_jump)
        self.raw.step_wanted.connect(self._go_to_seq)
        self.steps_card.newest_wanted.connect(self.let_go)
        self.environment_card.not_saved.connect(self._say_not_saved)

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
        self.environment_card.still = cursor.held and self.isVisible()
        self.charts.set_still(cursor.mode is Mode.PAUSED)
        self._set_pace()
        self._choose_step()

    def _set_pace(self) -> None:
        """Replay is as fast as the environment, by the newest steps: they are always there."""
        records = self.stream.newest_steps()
        self.time.cursor.pace = pace_of(self._metadata, records["env"], records["time_ns"])

    def _on_moved(self) -> None:
        if not self._following:
            self.environment_card.still, self._at = False, None
        self._choose_step()

    def _choose_step(self) -> None:
        """Show in the table where the cursor is; while it follows, no step is chosen."""
        row = self.time.cursor.row
        if self._following or row is None:
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
        if self.environment_card.still and self.time.cursor.row is not None:
            self.environment_card.still = False
            self.time.cursor.go_to(self.time.cursor.row)

    def _keep_step(self) -> None:
        """The step at the cursor has another number when rows before it come late: stay at the step."""
        cursor = self.time.cursor
        if self._at is None or self._following or self._at[0] != cursor.row:
            return
        row, seq = self._at
        number = self.step_rows.row_of_seq(seq)
        if number is not None and number != row:
            still = self.environment_card.still
            cursor.renumber(number)
            self.environment_card.still, self._at = still, (number, seq)

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
        QShortcut(QKeySequence("Ctrl+G"), self, self.step_finder.line.open_line)
        QShortcut(QKeySequence("H"), self, self.probabilities.toggle)
        self.charts_card = Card("Charts", self.charts)
        self.charts_card.corner.addLayout(self.charts.corner)
        self.charts.drawn.connect(self._say_charts)
        cards = Cards(
            environment=self.environment_card, charts=self.charts_card, episodes=self.episodes_card,
            steps=self.steps_card, vector=self.environments.card,
        )  # fmt: skip
        self.environments.join(cards)
        self.setLayout(column(self.banner, self.replay_bar, self.streams_bar, (cards, 1)))

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        for rows in (self.step_rows, self.episode_rows):
            rows.see(0, -1)  # none is in sight

    def _say_not_saved(self, sentence: str) -> None:
        self._not_saved = sentence
        self._warn()

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

    @property
    def step(self) -> Shown | None:
        """The step that is shown."""
        return self.environment_card.step

    @property
    def frame_age_s(self) -> float | None:
        """Age of the newest live picture; None without one."""
        return self.environment_card.frame_age_s

    def show_columns(self, names: list[str]) -> None:
        """Show the columns of these names in the table of steps."""
        self.steps_card.show_columns(names)

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
        self.charts_card.title.setText(self.charts.title)
        self.charts_card.caption.setText(self.charts.caption)
