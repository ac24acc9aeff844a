"""All agents of a run side by side at one moment: what each sees and does, who is alive, each one's share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from PySide6.QtCore import QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QGridLayout, QScrollArea, QSizePolicy, QWidget

from telefabric.feed import RunView
from telefabric_gui import theme
from telefabric_gui.agent_stream import AgentStream
from telefabric_gui.budget import Part
from telefabric_gui.formatting import clock, count, decoded, metadata_of, plural, real, short
from telefabric_gui.item_models.events import step_of
from telefabric_gui.model.asking import Asker
from telefabric_gui.model.cursor import Mode, Subject
from telefabric_gui.model.pages import Of, Pages
from telefabric_gui.model.run_time import RunTime
from telefabric_gui.model.side_by_side import Moment, Peer, Standing, shares
from telefabric_gui.model.stored_frames import StoredFrames
from telefabric_gui.rows import EVENT
from telefabric_gui.views.environment import EnvironmentView
from telefabric_gui.views.isolation import Views
from telefabric_gui.views.painting import draw_chip, fill_with, line_colour, painting, write
from telefabric_gui.views.scenes import FrameScene, TextScene, action_names, scene_of
from telefabric_gui.views.styled import Banner, Panel, button, column, label, laid_out, restyle, row

_CARD_PX, _CARD_HEIGHT_PX, _GAP_PX = 252, 220, 12
_SHARES_PX = 40
_AS_LONG = 0.9
"""Agents with at least this part of the most steps are as long in the run; the first of them leads."""
_LOOKED_AT = 64
"""Rows of the tail among which the newest step is."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class MultiAgentPage(QWidget):
    """`refresh` once a tick while in sight. The cursor is that of the agent with the most steps, or of a chosen one."""

    agent_wanted = Signal(object, object)
    """The tab of an agent's stream is to be opened, at a `Standing`."""

    def __init__(self, streams: Sequence[AgentStream], views: Views, feed: Asker) -> None:
        super().__init__()
        self.setObjectName("page")
        self.run_id = streams[0].key.run_id
        self.setAccessibleName(f"All agents of {self.run_id}")
        self._views, self._feed = views, feed
        self.peers: list[Peer] = []
        self.cards: list[AgentCard] = []
        self._run: RunView | None = None
        self._metadata: Mapping[str, Any] = {}
        self.banner = Banner()
        self.shares = Shares()
        self._said = label(role="caption")
        self._said.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._grid = QGridLayout()
        self._grid.setContentsMargins(12, 0, 12, 12)
        self._grid.setSpacing(_GAP_PX)
        body = laid_out(column((self._grid, 100), 1), "page")
        area = QScrollArea(widgetResizable=True)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(body)
        head = Panel("card")
        title = row(label("Share of the return", "title"), (self._said, 1), spacing=10)
        head.setLayout(column(title, self.shares, margins=(12, 10, 12, 10), spacing=6))
        top = row((head, 1), margins=(12, 12, 12, 12))
        self.setLayout(column(self.banner, top, (area, 1)))
        self._chosen = False
        """The user has chosen the agent that leads."""
        self._begin(_longest(streams))
        self.show_streams(streams, 0)

    # -- whose cursor it is --------------------------------------------------------------------------------------

    def _begin(self, lead: AgentStream) -> None:
        run_id, agent_id = lead.key
        self.lead = lead
        self.step_rows = Pages(lead.steps, Of(run_id, lead.stream_id, "step", agent_id), self._feed, voided=lead.voided)
        self.time = RunTime(self._feed, Subject(run_id, agent_id, lead.stream_id), self)
        self._seen: int | None = None

    def follow_agent(self, at: int) -> None:
        """Have another agent lead, from the moment on that is shown."""
        self._chosen = True
        peer, mode = self.peers[at], self.time.cursor.mode
        moment = self.moment
        found = peer.at(moment) if moment is not None else None
        self.close_lead()
        self._begin(peer.stream)
        if mode is not Mode.FOLLOW and found is not None:
            seq, time = found.seq, self.time
            time.once_known(lambda: time.jumps.to_value("seq", seq))

    def close_lead(self) -> None:
        for part in (self.step_rows, self.time):
            part.close()

    def close_models(self) -> None:
        """Ask for nothing any more."""
        self.close_lead()
        for card, peer in zip(self.cards, self.peers, strict=True):
            card.frames.close()
            peer.close()

    def parts(self) -> list[Part]:
        """What is held beside the streams themselves, for the memory's limit."""
        return [part for holder in (self.step_rows, self.time.whole) for part in holder.parts()]

    # -- what the window asks for --------------------------------------------------------------------------------

    def show_streams(self, streams: Sequence[AgentStream], hidden: int) -> None:
        """The newest stream of each agent; `hidden` agents have none that is open."""
        self._hidden = hidden
        if [peer.stream for peer in self.peers] == list(streams):
            return
        for card, gone in zip(self.cards, self.peers, strict=True):
            card.frames.close()
            card.deleteLater()
            gone.close()
            gone.deleteLater()
        self.peers = [Peer(stream, self._feed, self) for stream in streams]
        self.cards = [AgentCard(at, stream, self._feed) for at, stream in enumerate(streams)]
        for at, card in enumerate(self.cards):
            card.opened.connect(partial(self._on_open, at))
            card.lead.clicked.connect(partial(self.follow_agent, at))
        if self.lead not in streams:
            self.close_lead()
            self._begin(next((one for one in streams if one.key == self.lead.key), streams[0]))
        self._arrange()

    def refresh(self, run: RunView | None) -> None:
        """Show where all are at the cursor."""
        self._run = run
        self._metadata = metadata_of(run.metadata if run else b"")
        grows = run is not None and run.finished_ns is None
        longest = _longest([peer.stream for peer in self.peers])
        behind = self.lead.steps.events < _AS_LONG * longest.steps.events
        if behind and not self._chosen and self.time.cursor.mode is Mode.FOLLOW:
            self.close_lead()  # when it was chosen, less had come of the other
            self._begin(longest)
        self.step_rows.refresh()
        self.time.refresh(self.step_rows, self.lead.steps.marks, live=grows)
        cursor = self.time.cursor
        if cursor.row is not None and cursor.row != self._seen and cursor.mode is not Mode.FOLLOW:
            self._seen = cursor.row
            self.step_rows.see(cursor.row, cursor.row)
        self._views.update(self, partial(self._show, grows=grows), (cursor.row, self.lead.version))

    @property
    def moment(self) -> Moment | None:
        """The step of the agent that leads, or while one follows the newest of its stream; None while it is read."""
        if self.time.cursor.mode is Mode.FOLLOW and (newest := self._newest) is not None:
            return newest
        row = self.time.cursor.row
        found = None if row is None else self.step_rows.row(row)
        if found is None:
            return None
        return _moment_of(self.lead, found.record)

    @property
    def _newest(self) -> Moment | None:
        """The agent that leads may be out of the episode that others go on with."""
        found: list[Moment] = []
        for stream in (peer.stream for peer in self.peers if peer.stream.stream_id == self.lead.stream_id):
            records = stream.steps.records[-_LOOKED_AT:]
            records = records[(records["mark"] == EVENT) & ~records["reset"]]
            found += [_moment_of(stream, records[-1])] if len(records) else []
        return max(found, key=lambda moment: moment.seq, default=None)

    @property
    def place(self) -> str:
        """Where the cursor is, in words."""
        row, moment = self.time.cursor.row, self.moment
        if row is None or moment is None:
            return "" if row is None else f"row {count(row)} of {self.lead.key.agent_id} is being read"
        episode = f"episode {count(moment.episode)}, step {count(moment.step)}"
        return f"{self.lead.key.agent_id}: row {count(row)}   {episode}   {clock(moment.time_ns)}"

    def follow(self) -> None:
        self.time.cursor.follow()

    # -- showing -------------------------------------------------------------------------------------------------

    def _show(self, *, grows: bool) -> None:
        moment = self.moment
        if moment is None:
            return
        cursor = self.time.cursor
        found = [peer.at(moment) for peer in self.peers]
        parts = shares([one.so_far if one is not None else 0.0 for one in found])
        live = grows and cursor.mode is Mode.FOLLOW
        for card, peer, one, share in zip(self.cards, self.peers, found, parts, strict=True):
            card.show_standing(peer, one, share, self._metadata, live=live, leads=peer.stream is self.lead)
            if cursor.mode is Mode.REPLAY and one is not None:
                card.frames.read_ahead(one.seq, cursor.rows_per_s * cursor.speed)
        self.shares.show_shares(
            [(card.letter, card.colour, share) for card, share in zip(self.cards, parts, strict=True)]
        )
        out = sum(one is not None and bool(one.ended) for one in found)
        hidden = f" · {plural(self._hidden, 'agent')} more without room" if self._hidden else ""
        self._said.setText(
            f"{count(len(found) - out)} of {plural(len(found), 'agent')} alive · episode {count(moment.episode)}, "
            f"step {count(moment.step)} · of the episode so far{hidden}"
        )

    def _on_open(self, at: int) -> None:
        moment = self.moment
        found = self.peers[at].at(moment) if moment is not None else None
        self.agent_wanted.emit(self.peers[at].stream, found)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """As many cards side by side as there is room for."""
        across = max(1, (self.width() - _GAP_PX) // (_CARD_PX + _GAP_PX))
        across = min(across, max(1, len(self.cards)))
        for at, card in enumerate(self.cards):
            self._grid.addWidget(card, at // across, at % across)
        for at in range(self._grid.columnCount()):
            self._grid.setColumnStretch(at, int(at < across))


def _longest(streams: Sequence[AgentStream]) -> AgentStream:
    """The first of those with the most steps, as far as they came here."""
    most = max(stream.steps.events for stream in streams)
    return next(stream for stream in streams if stream.steps.events >= _AS_LONG * most)


def _moment_of(stream: AgentStream, record: Any) -> Moment:
    numbers = (int(record[part]) for part in ("seq", "env", "episode", "step", "time_ns"))
    return Moment(stream.stream_id, *numbers)


class AgentCard(Panel):
    """One agent. A click opens its tab at this moment."""

    opened = Signal()

    def __init__(self, at: int, stream: AgentStream, feed: Asker) -> None:
        super().__init__("card")
        self.letter, self.colour = _LETTERS[at % len(_LETTERS)], at
        run_id, agent_id = stream.key
        self.setAccessibleName(f"Agent {agent_id}")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setMinimumHeight(_CARD_HEIGHT_PX)
        self.setMaximumHeight(2 * _CARD_HEIGHT_PX)
        self.frames = StoredFrames(feed, Subject(run_id, agent_id, stream.stream_id), stream.keep_stored, self)
        self._decoded: FrameScene | None = None
        self._shown: object = None
        name = label(short(agent_id, 24), "title")
        name.setToolTip(agent_id)
        self.state = label(badge="dim")
        self.share = label(role="caption")
        self.lead = button("lead", lambda: None, "link", "Let the cursor be that of this agent")
        self.picture = EnvironmentView()
        self.picture.setMinimumSize(200, 120)
        self.picture.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        chip = _Chip(self)
        head = row(chip, name, self.state, 1, self.share, self.lead, margins=(12, 10, 12, 4), spacing=8)
        self.setLayout(column(head, (self.picture, 1), margins=(1, 1, 1, 6)))

    def show_standing(
        self, peer: Peer, found: Standing | None, share: float, metadata: Mapping[str, Any], *, live: bool, leads: bool
    ) -> None:
        """Show where the agent is."""
        self.lead.setEnabled(not leads)
        self.lead.setText("leads" if leads else "lead")
        self.share.setText("" if found is None else _percent(share))
        text, tone, tip = _state(found, reading=peer.reading)
        self.state.setText(text)
        self.state.setToolTip(tip)
        restyle(self.state, "badge", tone)
        if found is None:
            return
        raw = peer.raw(found)
        frame = self._frame(peer.stream, found, raw, live=live)
        shown = found, raw is None, frame, live
        if shown == self._shown:
            return
        self._shown = shown
        step = step_of(raw)
        action, names = (decoded(step.action) if step else None), action_names(metadata)
        named = names[action] if type(action) is int and 0 <= action < len(names) else short(action, 12)
        figures = (
            ("action", named), ("reward", real(found.reward)), ("return", real(found.so_far)),
            ("step", count(found.step)),
        )  # fmt: skip
        scene = frame or (scene_of(decoded(step.observation), decoded(step.render_hint), metadata) if step else None)
        self.picture.show_step(scene or self.picture.scene or TextScene("reading"), figures)

    def _frame(self, stream: AgentStream, found: Standing, raw: bytes | None, *, live: bool) -> FrameScene | None:
        step = step_of(raw)
        record = {
            "env": found.env, "episode": found.episode, "step": found.step, "seq": found.seq,
            "time_ns": step.time_ns if step else 0,
        }  # fmt: skip
        frame = stream.frame_of(record, exact=not live)
        if not live and (frame is None or frame.step_index != found.step):
            self.frames.look(record)
        if frame is not None and (self._decoded is None or self._decoded.frame is not frame):
            self._decoded = FrameScene(frame)
        readable = frame is not None and self._decoded is not None and not self._decoded.image.isNull()
        return self._decoded if readable else None

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if self.rect().contains(event.position().toPoint()):
            self.opened.emit()


class _Chip(QWidget):
    """The letter of an agent on its colour."""

    def __init__(self, card: AgentCard) -> None:
        super().__init__()
        self._card = card
        self.setFixedSize(16, 16)

    def paintEvent(self, event: QPaintEvent) -> None:
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            draw_chip(painter, QRect(0, 0, 16, 16), self._card.letter, line_colour(self._card.colour))


class Shares(QWidget):
    """One bar: what was won from the middle to the right, what was lost to the left; all to the right if none lost."""

    def __init__(self) -> None:
        super().__init__()
        self._given: list[tuple[str, int, float]] = []
        self.setFixedHeight(_SHARES_PX)

    def sizeHint(self) -> QSize:
        return QSize(320, _SHARES_PX)

    def show_shares(self, given: list[tuple[str, int, float]]) -> None:
        """Letter, number of the colour, and share of each agent."""
        if given != self._given:
            self._given = given
            words = ", ".join(f"{letter} {_percent(share)}" for letter, _, share in given)
            self.setAccessibleDescription(words)
            self.setToolTip(f"{words}. Of all that was won and lost in the episode so far.")
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, width = theme.active(), float(self.width())
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            fill_with(painter, colours.line)
            painter.drawRoundedRect(QRectF(0, 4, width, 12), 3, 3)
            lost = -sum(share for *_, share in self._given if share < 0)
            left, right = lost * width, lost * width
            for letter, slot, share in self._given:
                part = abs(share) * width
                start = right if share >= 0 else left - part
                right, left = (right + part, left) if share >= 0 else (right, left - part)
                self._paint_part(painter, QRectF(start, 4, part, 12), letter, slot, share)
            if 0 < lost < 1:
                painter.fillRect(QRectF(lost * width - 1, 0, 2, 20), QColor(colours.text))

    @staticmethod
    def _paint_part(painter: QPainter, part: QRectF, letter: str, slot: int, share: float) -> None:
        if part.width() < 1:
            return
        fill_with(painter, line_colour(slot))
        painter.drawRect(part.adjusted(0, 0, -1, 0))
        words = f"{letter} {_percent(share)}"
        font = theme.figure_font(11)
        if part.width() > 7 * len(words) + 4:
            write(painter, QRectF(part.left(), 20, part.width(), 18), words, theme.active().dim, font)
        elif part.width() > 12:
            write(painter, QRectF(part.left(), 20, part.width(), 18), letter, theme.active().dim, font)


def _percent(share: float) -> str:
    return f"{real(100 * share, 0)} %"


def _state(found: Standing | None, *, reading: bool) -> tuple[str, str, str]:
    """Text, tone and tooltip of the badge."""
    if found is None:
        tip = "The store is asked" if reading else "It has no step in this episode up to this moment"
        return ("reading" if reading else "not here"), "dim", tip
    if not found.ended:
        return "alive", "good", f"It goes on after step {count(found.step)}"
    tip = f"Its episode ended with step {count(found.step)}: {found.ended}"
    if found.ended == "terminated":
        return f"dead since {count(found.step)}", "error", tip
    return f"stopped at {count(found.step)}", "warning", tip
