"""Texts, buttons, menus and layouts in the words of the style sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from PySide6.QtCore import QEvent, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QBoxLayout,
    QCheckBox,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLayout,
    QMenu,
    QPushButton,
    QSizePolicy,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from telefabric_gui import theme
from telefabric_gui.views.painting import TICK_BOX_PX, draw_tick_box, painting, write

Part = QWidget | QLayout | int | tuple[QWidget | QLayout, int]
"""A number is an empty space that stretches by so much; a pair is a part with the share of free space that it takes."""
Margins = tuple[int, int, int, int]
_NONE: Margins = (0, 0, 0, 0)
_Box = TypeVar("_Box", bound=QBoxLayout)
_View = TypeVar("_View", bound=QTableView)
_CAPTION_PX = 56
"""A caption with less room than this is left out."""
CELLS_PX = 26
"""Rows of a table that one acts on."""


class Panel(QFrame):
    """A part of the window, by its name in the style sheet."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)


def label(text: str = "", role: str = "", badge: str = "") -> QLabel:
    """A text in one of the style sheet's roles or badges."""
    made = QLabel(text, textFormat=Qt.TextFormat.PlainText)
    if role:
        made.setProperty("role", role)
    if badge:
        made.setProperty("badge", badge)
    return made


def say_fitting(shown: QLabel, *texts: str) -> None:
    """Show the first of these texts that has room, and the first of all as its tooltip."""
    room = shown.width()
    fits = next((text for text in texts if shown.fontMetrics().horizontalAdvance(text) <= room), texts[-1])
    if fits != shown.text():
        shown.setText(fits)
    shown.setToolTip(texts[0])


def button(text: str, clicked: Any, role: str = "plain", tip: str = "") -> QPushButton:
    """A button that calls or emits `clicked`."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setProperty("role", role)
    made.clicked.connect(clicked)
    if role == "link":
        made.setCursor(Qt.CursorShape.PointingHandCursor)
    return made


def menu_of(parent: QWidget) -> QMenu:
    """A menu that goes when it is closed."""
    menu = QMenu(parent)
    menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    return menu


def heading(menu: QMenu, text: str) -> None:
    """A line over a group of entries: Qt's own sections have no text in a style sheet."""
    menu.addSeparator()
    menu.addAction(text).setEnabled(False)


def drop_menu(under: QWidget, entries: Iterable[tuple[str, Callable[[], object]]]) -> None:
    """Open a menu below a button."""
    menu = menu_of(under)
    for text, chosen in entries:
        menu.addAction(text, chosen)
    menu.popup(under.mapToGlobal(under.rect().bottomLeft()))


def restyle(widget: QWidget, name: str, value: str) -> None:
    """Change a property that the style sheet looks at."""
    if widget.property(name) != value:
        widget.setProperty(name, value)
        widget.style().unpolish(widget)
        widget.style().polish(widget)


def row(*parts: Part, margins: Margins = _NONE, spacing: int = 0) -> QHBoxLayout:
    """Parts from left to right."""
    return _filled(QHBoxLayout(), parts, margins, spacing)


def column(*parts: Part, margins: Margins = _NONE, spacing: int = 0) -> QVBoxLayout:
    """Parts from top to bottom."""
    return _filled(QVBoxLayout(), parts, margins, spacing)


def laid_out(layout: QLayout, name: str = "") -> QWidget:
    """A widget of its own around a layout."""
    made = QWidget()
    made.setObjectName(name)
    made.setLayout(layout)
    return made


def _filled(layout: _Box, parts: Iterable[Part], margins: Margins, spacing: int) -> _Box:
    layout.setContentsMargins(*margins)
    layout.setSpacing(spacing)
    for given in parts:
        part, stretch = given if isinstance(given, tuple) else (given, 0)
        if isinstance(part, QWidget):
            layout.addWidget(part, stretch)
        elif isinstance(part, QLayout):
            layout.addLayout(part, stretch)
        else:
            layout.addStretch(part)
    return layout


class Badges(QWidget):
    """Beside each other, the first ones first, as far as there is room for them: the others are out of sight."""

    def __init__(self, *badges: QWidget, spacing: int = 6) -> None:
        super().__init__()
        self._badges, self._spacing = badges, spacing
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        for badge in badges:
            badge.setParent(self)

    def sizeHint(self) -> QSize:
        sizes = [_size_of(badge) for badge in self._badges if not badge.isHidden()]
        wide = sum(size.width() + self._spacing for size in sizes) - self._spacing
        return QSize(max(0, wide), max((size.height() for size in sizes), default=0))

    def minimumSizeHint(self) -> QSize:
        return QSize(0, 0)

    def event(self, event: QEvent) -> bool:
        if event.type() in (QEvent.Type.Resize, QEvent.Type.LayoutRequest):
            self._place()
            self.updateGeometry()
        return super().event(event)

    def _place(self) -> None:
        left = 0
        for badge in self._badges:
            size = _size_of(badge)
            if not badge.isHidden():
                fits = left + size.width() <= self.width()
                top = (self.height() - size.height()) // 2
                badge.setGeometry(left if fits else -size.width(), top, size.width(), size.height())
                left += size.width() + self._spacing


def _size_of(badge: QWidget) -> QSize:
    return badge.sizeHint().expandedTo(badge.minimumSize())


class Caption(QLabel):
    """Cut at its end where there is no room for all of it, and left out where there is hardly any."""

    def __init__(self, role: str = "caption") -> None:
        super().__init__(textFormat=Qt.TextFormat.PlainText)
        self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def paintEvent(self, event: QPaintEvent) -> None:
        metrics, room = self.fontMetrics(), self.width()
        if metrics.horizontalAdvance(self.text()) <= room:
            super().paintEvent(event)
        elif room >= _CAPTION_PX:
            cut = metrics.elidedText(self.text(), Qt.TextElideMode.ElideRight, room)
            with painting(self) as painter:
                painter.drawText(self.rect(), theme.LEFT, cut)


class TickBox(QCheckBox):
    """As the tree of series has them."""

    def sizeHint(self) -> QSize:
        return QSize(TICK_BOX_PX + 14 + self.fontMetrics().horizontalAdvance(self.text()), super().sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        area = self.rect()
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            box = QRectF(1.5, area.center().y() - TICK_BOX_PX / 2 + 1, TICK_BOX_PX, TICK_BOX_PX)
            draw_tick_box(painter, box, theme.active().accent, ticked=self.isChecked(), focused=self.hasFocus())
            area.setLeft(TICK_BOX_PX + 10)
            write(painter, area, self.text(), theme.active().dim, self.font())


class Card(Panel):
    """`caption` may be set each tick; it is cut rather than moving anything. `corner` takes widgets on the right."""

    def __init__(self, title: str, body: QWidget) -> None:
        super().__init__("card")
        self.caption = Caption()
        self.badges = row(spacing=6)
        self.corner = row(spacing=6)
        self.title = label(title, "title")
        header = row(self.title, self.badges, (self.caption, 1), self.corner, margins=(12, 10, 12, 4), spacing=10)
        self.setLayout(column(header, (body, 1), margins=(1, 1, 1, 8)))


class Banner(Panel):
    """Hidden while there is nothing to say."""

    def __init__(self) -> None:
        super().__init__("banner")
        self._text = label()
        self._text.setWordWrap(True)
        self.setLayout(row(self._text, margins=(16, 7, 16, 7)))
        self.hide()

    def say(self, sentence: str) -> None:
        if sentence != self._text.text():
            self._text.setText(sentence)
        self.setVisible(bool(sentence))


def cells(view: _View, name: str) -> _View:
    """The look of a table of rows that one opens."""
    view.setAccessibleName(name)
    view.setObjectName("cells")
    view.setShowGrid(False)
    view.setWordWrap(False)
    view.setCornerButtonEnabled(False)
    view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
    view.setTabKeyNavigation(False)
    view.verticalHeader().setVisible(False)
    view.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
    view.verticalHeader().setDefaultSectionSize(CELLS_PX)
    view.horizontalHeader().setStretchLastSection(True)
    view.horizontalHeader().setHighlightSections(False)
    view.horizontalHeader().setTextElideMode(Qt.TextElideMode.ElideRight)
    view.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    return view
