"""The sheet for connecting: a ticket or an address, the saved connections with their state, and a store file.

It lies over the window, which goes on below. Brokers are asked on threads of their own (`Errands`); a timer of the
sheet, which runs while it is open, fetches what they answered.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from PySide6.QtCore import QSignalBlocker, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QKeyEvent, QKeySequence, QPaintEvent, QShortcut
from PySide6.QtWidgets import QFileDialog, QFrame, QLabel, QLineEdit, QScrollArea, QWidget

from telefabric import Address, TelefabricError, UsageError
from telefabric.feed import (
    HERE,
    BrokerAnswer,
    KnownBroker,
    Ticket,
    ask_broker,
    forget_broker,
    join_broker,
    known_brokers,
    said,
)
from telefabric_gui import theme
from telefabric_gui.errands import Errands
from telefabric_gui.formatting import ago, duration, plural
from telefabric_gui.sources import Memory, is_file, start_here
from telefabric_gui.views.painting import painting
from telefabric_gui.views.source_row import Source, SourceRow, State, capital
from telefabric_gui.views.styled import Panel, TickBox, button, column, label, laid_out, restyle, row

WIDTH_PX, MARGIN_PX = 760, 24
_KEYCAP_PX = 20
_LOOK_MS, _ASK_MS = 50, 5_000
_DIMMED = 0.58
"""Opacity of the sheet's ground over the window."""
_JOIN = "join"
_STARTING_MS = 2_000
_SHOWN = 20
"""Characters at either end of a ticket."""
_KEY_DIGITS = 16
"""Of the broker's public key, for people to compare."""
_DEFAULT_PORT = HERE.rpartition(":")[2]
_ASKING = State("faint", "asking …", why_not="The broker has not answered yet")


class ConnectSheet(QWidget):
    """`chosen` brings the source to be shown; the window opens it and closes the sheet."""

    chosen = Signal(str)
    closed = Signal()

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.rows: dict[str, SourceRow] = {}
        self._memory = memory
        self._brokers: dict[str, KnownBroker] = {}
        self._errands = Errands()
        self._ticket: Ticket | None = None
        self._log: Path | None = None
        """What broker and store say that were started here."""
        self._build()
        self._look = QTimer(self, interval=_LOOK_MS)
        self._look.timeout.connect(self._take)
        self._ask = QTimer(self, interval=_ASK_MS)
        self._ask.timeout.connect(self._ask_all)
        QShortcut(QKeySequence.StandardKey.Open, self, activated=self._pick_file)  # type: ignore[call-overload]
        self.setAccessibleName("Connect")
        self.hide()

    # -- building ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.line = QLineEdit(placeholderText="Paste a ticket, tf1…, or type an address such as lab:7750")
        self.line.setAccessibleName("Ticket or address")
        self.line.setFixedHeight(36)
        self.line.textChanged.connect(self._read_line)
        self.line.returnPressed.connect(self._go)
        self.go = button("Join", self._go, "primary")
        self.go.setFixedSize(96, 36)
        self._note_title, self._note_text = label(role="title"), label(role="dim")
        for text in (self._note_title, self._note_text):
            text.setWordWrap(True)
        self.note = Panel("note")
        self.note.setLayout(column(self._note_title, self._note_text, margins=(12, 10, 12, 10), spacing=4))
        close = button("✕", self.close_sheet, tip="Close (Esc)")
        close.setAccessibleName("Close")
        header = row(label("Connect", "large"), 1, _keycap("Esc"), close, spacing=6)
        given = row((self.line, 1), self.go, spacing=8)
        header.setContentsMargins(0, 0, 0, 6)
        top = column(
            header, label("JOIN WITH A TICKET, OR TYPE AN ADDRESS", "heading"), given, self.note,
            margins=(MARGIN_PX, 16, MARGIN_PX, 16), spacing=10,
        )  # fmt: skip
        head = row(label("CONNECTIONS", "heading"), 1, label("asked again every 5 s while this is open", "caption"))
        self._list = column(spacing=8)
        self._scroll = _Fitting(laid_out(column(self._list, 1), "sheet_rows"))
        middle = column(head, (self._scroll, 1), margins=(MARGIN_PX, 14, MARGIN_PX, 18), spacing=10)
        self.again = TickBox("Reconnect to the last one at start")
        self.again.toggled.connect(self._memory.set_again)
        footer = row(button("Open a store file…", self._pick_file), _keycap("Ctrl O"), 1, self.again, spacing=6)
        footer.setContentsMargins(MARGIN_PX - 10, 12, MARGIN_PX, 12)
        self.panel = Panel("sheet")
        self.panel.setLayout(column(top, _rule(), middle, _rule(), footer))
        self.panel.setMaximumWidth(WIDTH_PX)
        margins = (MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX)
        self.setLayout(row(1, (column(1, self.panel, 1), 1_000), 1, margins=margins))

    # -- open and closed -----------------------------------------------------------------------------------------

    def open_sheet(self) -> None:
        self.again.setChecked(self._memory.again)
        self.line.clear()
        self._read_line("")
        self.list_sources()
        self.show()
        self.raise_()
        self.line.setFocus(Qt.FocusReason.PopupFocusReason)
        self._look.start()
        self._ask.start()
        self._ask_all()

    def close_sheet(self) -> None:
        self._look.stop()
        self._ask.stop()
        self.hide()
        self.closed.emit()

    # -- the list ------------------------------------------------------------------------------------------------

    def list_sources(self) -> None:
        """The last one first, then all others that are saved, this machine, and files."""
        for shown in self.rows.values():
            self._list.removeWidget(shown)
            shown.deleteLater()
        self._brokers = {broker.name: broker for broker in known_brokers()}
        urls = {broker.url for broker in self._brokers.values()}
        recent = [
            one for one in self._memory.recent
            if one in self._brokers or ("://" in one and one not in urls) or is_file(one)
        ]  # fmt: skip
        found = dict.fromkeys((*(one for one in recent if not is_file(one)), *self._brokers))
        if HERE not in urls:
            found.setdefault(HERE)
        found |= dict.fromkeys(one for one in recent if is_file(one))
        self.rows = {key: self._add_row(key, last=recent[:1] == [key]) for key in found}
        self._scroll.updateGeometry()

    def _add_row(self, key: str, *, last: bool) -> SourceRow:
        shown = SourceRow(self._source(key, " · last used" if last else ""))
        shown.acted.connect(partial(self._act, key))
        shown.forgotten.connect(partial(self._forget, key))
        self._list.addWidget(shown)
        broker = self._brokers.get(key)
        if is_file(key):
            shown.show_state(_state_of_file(Path(key)))
        elif broker is not None and broker.problem:
            state = State("error", "cannot be used", problem=broker.problem, action="Try again")
            shown.show_state(self._with_last_reached(key, state))
        else:
            shown.show_state(_ASKING)
        return shown

    def _source(self, key: str, last: str) -> Source:
        if is_file(key):
            return Source(Path(key).name, key, "store file")
        if key in self._brokers:
            broker = self._brokers[key]
            runs = f" for {broker.runs}" if broker.runs != "*" else ""
            return Source(key, _place(broker.url) + last, broker.role + runs)
        title = "this machine" if key == HERE else _place(key)
        return Source(title, (_place(key) if key == HERE else "typed") + last, "without keys", key != HERE)

    def _ask_all(self) -> None:
        for key in self.rows:
            broker = self._brokers.get(key)
            if not is_file(key) and not (broker and broker.problem):
                self._errands.send(key, partial(ask_broker, key))

    def _act(self, key: str, action: str) -> None:
        if action in ("Connect", "Open"):
            self.chosen.emit(key)
        elif action == "Start it":
            self._start()
        elif is_file(key) or self._brokers.get(key, KnownBroker("")).problem:
            self.list_sources()
            self._ask_all()
        else:
            self.rows[key].show_state(_ASKING)
            self._errands.send(key, partial(ask_broker, key))

    def _start(self) -> None:
        try:
            self._log = start_here()
        except (TelefabricError, OSError) as error:
            self.say("error", "telefabric up cannot be started", str(error))
            return
        self.rows[HERE].show_state(State("warning", "starting …", action="Start it", why_not="It starts"))
        QTimer.singleShot(_STARTING_MS, self, self._ask_all)

    def _forget(self, key: str) -> None:
        try:
            if key in self._brokers:
                forget_broker(key)
        except TelefabricError as error:
            self.say("error", *parts_of(error))
            return
        self._memory.forget(key)
        self.list_sources()
        self._ask_all()

    # -- what came of it -----------------------------------------------------------------------------------------

    def _take(self) -> None:
        for name, answer in self._errands.take():
            if name == _JOIN:
                self._joined(answer)
            elif isinstance(answer, Exception):
                self.say("error", *parts_of(answer))
            elif name in self.rows:
                self._answered(name, answer)

    def _answered(self, key: str, answer: BrokerAnswer) -> None:
        if key == HERE and self._log is not None and answer.took_s is not None:
            self._log = None
            self.chosen.emit(HERE)  # it was started to be seen
            return
        if answer.took_s is not None:
            self._memory.reached(key)
        state = _state_of(key, answer, self._brokers.get(key), self._log)
        self.rows[key].show_state(self._with_last_reached(key, state))
        self._scroll.updateGeometry()

    def _with_last_reached(self, key: str, state: State) -> State:
        since_s = self._memory.reached_s(key)
        if state.tone != "error" or since_s is None:
            return state
        return state._replace(under=f"last reached {ago(since_s)}")

    def _joined(self, answer: KnownBroker | Exception) -> None:
        self.line.setEnabled(True)
        if isinstance(answer, Exception):
            self.say("error", *parts_of(answer))
            self.go.setEnabled(True)
            return
        self.line.clear()
        self.list_sources()
        self._ask_all()
        if answer.may_watch:
            self.chosen.emit(answer.name)
        else:
            self.say("good", f"Joined as {answer.name}, with the role {answer.role}", "It may not watch runs")

    # -- the line ------------------------------------------------------------------------------------------------

    def _read_line(self, text: str) -> None:
        """Say what the line is, as it is typed or pasted. Of a ticket the secret in its middle is not shown."""
        text = text.strip()
        self._ticket = None
        restyle(self.line, "role", "figures" if text else "")
        self.go.setText("Join" if _is_ticket(text) or not text else "Connect")
        self.note.setHidden(not text)
        self.go.setEnabled(False)
        if not text:
            return
        try:
            if _is_ticket(text):
                self._ticket = Ticket.decode(text)
                self.say("good", *_said_of(self._ticket))
            else:
                self.say("", *self._said_of_address(text))
        except UsageError as error:
            self.say("error", *parts_of(error))
            return
        self.go.setEnabled(True)
        if self._ticket is not None:
            with QSignalBlocker(self.line):
                self.line.setText(f"{text[:_SHOWN]}…{text[-_SHOWN:]}   {len(text)} characters")

    def _said_of_address(self, text: str) -> tuple[str, str]:
        url = _url(text)
        named = next((broker.name for broker in self._brokers.values() if broker.url == url), "")
        return _place(url), f"With the key of {named}" if named else "Without a key"

    def _go(self) -> None:
        if not self.go.isEnabled():
            return
        if self._ticket is None:
            self.chosen.emit(_url(self.line.text().strip()))
            return
        place = _place(self._ticket.address)
        self.say("", f"Joining {place} …", "A key pair is made here, and its public half is sent there.")
        self.line.setEnabled(False)
        self.go.setEnabled(False)
        self._errands.send(_JOIN, partial(join_broker, self._ticket))

    def say(self, tone: str, title: str, text: str) -> None:
        """Below the line: good, error, or neither."""
        restyle(self.note, "tone", tone)
        self._note_title.setText(title)
        self._note_text.setText(text)
        self.note.show()

    def _pick_file(self) -> None:
        dialog = QFileDialog(self, "Open a store file", filter="Telefabric stores (*.sqlite);;All files (*)")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.chosen)
        dialog.open()

    # -- as a widget ---------------------------------------------------------------------------------------------

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape:
            self.close_sheet()

    def paintEvent(self, event: QPaintEvent) -> None:
        with painting(self) as painter:
            ground = QColor(theme.active().window)
            ground.setAlphaF(_DIMMED)
            painter.fillRect(self.rect(), ground)


class _Fitting(QScrollArea):
    """As high as its content, or as high as there is room."""

    def __init__(self, body: QWidget) -> None:
        super().__init__(widgetResizable=True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self._body = body
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(body)

    def sizeHint(self) -> QSize:
        body = self._body
        body.ensurePolished()
        height = body.heightForWidth(self.viewport().width()) if body.hasHeightForWidth() else body.sizeHint().height()
        return QSize(0, height)


def _keycap(text: str) -> QLabel:
    made = label(text)
    made.setObjectName("keycap")
    made.setFixedHeight(_KEYCAP_PX)
    return made


def _rule() -> Panel:
    made = Panel("rule")
    made.setFixedHeight(1)
    return made


def _is_ticket(text: str) -> bool:
    return text[:2] == "tf" and text[2:3].isdigit()


def _url(text: str) -> str:
    """The URL of a typed address; scheme and port may be left out. Raises `UsageError` for what is none."""
    host = text if ":" in text else f"{text}:{_DEFAULT_PORT}"
    return Address.parse(host if "://" in host else f"tcp://{host}").url


def _place(url: str) -> str:
    return url.partition("://")[2] or url


def _said_of(ticket: Ticket) -> tuple[str, str]:
    left_s = ticket.expires_s - time.time()
    left = duration(abs(left_s))
    when = f"good for {left}" if left_s > 0 else f"expired {left} ago by this machine's clock"
    key = ticket.server.hex()
    groups = " ".join(key[place : place + 4] for place in range(0, _KEY_DIGITS, 4))
    return f"{_place(ticket.address)}, {when}", f"Your key pair is made here and stays here. Server key {groups}"


def parts_of(error: Exception) -> tuple[str, str]:
    """What happened, and the remedy."""
    what, _, remedy = (str(error) if isinstance(error, TelefabricError) else said(error)).partition(": ")
    return capital(what), capital(remedy)


def _state_of(key: str, answer: BrokerAnswer, broker: KnownBroker | None, log: Path | None) -> State:
    if answer.took_s is None:
        if key == HERE and answer.word == "nothing runs there":
            why = f"telefabric up has been started and does not answer: see {log}" if log else ""
            return State("faint", "nothing runs here", "telefabric up would start it", why, answer.command, "Start it")
        return State("error", answer.word, "", answer.problem, answer.command, "Try again")
    under = f"{plural(answer.live_runs, 'run')} live" if answer.live_runs else "no run is live"
    if answer.absent:
        under = f"not attached: {', '.join(answer.absent)}"
    why_not = ""
    if broker is not None and not broker.may_watch:
        why_not = f"A key of the role {broker.role} may not watch runs. Ask for: telefabric keys invite … --role client"
    tone = "warning" if answer.absent else "good"
    return State(tone, f"answers in {duration(answer.took_s)}", under, why_not=why_not)


def _state_of_file(file: Path) -> State:
    try:
        size = file.stat().st_size
    except OSError as error:
        problem = f"{file} cannot be opened: {error.strerror}: see whether it was moved"
        return State("error", "not there", problem=problem, action="Try again")
    return State("good", "read-only", f"{size / 1e6:.1f} MB", action="Open")
