"""The right dock: health of each part, latency, the step that is shown, and what is known of the run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetrics, QHelpEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QToolTip, QVBoxLayout, QWidget

from telefabric_gui import theme
from telefabric_gui.formatting import duration
from telefabric_gui.views.card import label, restyle
from telefabric_gui.views.painting import painting

WIDTH_PX = 300
_LINK_PX = 56
_LINE_PX = 17
_CAPTION_LINES_MAX = 4
_PAIR_PX = 22
_BUCKETS = 36
_HISTOGRAM_PX = 84


class HealthRow(NamedTuple):
    """One link of the chain from worker to this client. `tone` is good, warning, error or faint."""

    name: str
    figure: str
    caption: str
    tone: str = "good"


class DetailsDock(QFrame):
    """`show_…` once a tick; each part paints itself, so that no figure moves another."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("details")
        self.setFixedWidth(WIDTH_PX)
        self._verdict = label(badge="good")
        self._chain = _Chain()
        self._latency = _Histogram()
        self._latency_heading = label("LATENCY, EMIT TO RECEIVE", "heading")
        self._step = _Pairs()
        self._step_heading = label("THIS STEP", "heading")
        self._run = _Pairs()
        self._run_heading = label("RUN", "heading")
        self._lay_out()

    def show_health(self, parts: Sequence[HealthRow], verdict: str, tone: str) -> None:
        self._verdict.setText(verdict)
        restyle(self._verdict, "badge", tone)
        self._chain.show_parts(parts)

    def show_latency(self, samples_s: Sequence[float]) -> None:
        for widget in (self._latency, self._latency_heading):
            widget.setVisible(bool(samples_s))
        if samples_s:
            self._latency.show_samples(samples_s)

    def show_step(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._step_heading.setVisible(bool(pairs))
        self._step.show_pairs(pairs)

    def show_run(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._run_heading.setVisible(bool(pairs))
        self._run.show_pairs(pairs)

    def _lay_out(self) -> None:
        heading = QHBoxLayout()
        heading.addWidget(label("HEALTH", "heading"))
        heading.addStretch(1)
        heading.addWidget(self._verdict)
        body = QWidget()
        body.setObjectName("details_body")
        column = QVBoxLayout(body)
        column.setContentsMargins(14, 12, 10, 12)
        column.setSpacing(8)
        column.addLayout(heading)
        column.addWidget(self._chain)
        for title, widget in (
            (self._latency_heading, self._latency), (self._step_heading, self._step), (self._run_heading, self._run),
        ):  # fmt: skip
            title.setContentsMargins(0, 12, 0, 0)
            column.addWidget(title)
            column.addWidget(widget)
        column.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(body)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(1, 0, 0, 0)
        layout.addWidget(area)


class _Chain(QWidget):
    """Dots with what each part says. A sentence takes as many lines as it needs."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: tuple[HealthRow, ...] = ()
        self._lines: tuple[int, ...] = ()
        """The number of lines of each part's caption."""

    def show_parts(self, parts: Sequence[HealthRow]) -> None:
        if (given := tuple(parts)) != self._parts:
            self._parts = given
            self._measure()
            self.setAccessibleDescription("; ".join(f"{part.name}: {part.figure}, {part.caption}" for part in given))
            self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._measure()

    def _measure(self) -> None:
        metrics = QFontMetrics(theme.text_font(theme.CAPTION_PX))
        flags, room = int(Qt.TextFlag.TextWordWrap), QRect(0, 0, self._text_px, 1_000)
        heights = [metrics.boundingRect(room, flags, part.caption).height() for part in self._parts]
        self._lines = tuple(min(max(1, height // metrics.height()), _CAPTION_LINES_MAX) for height in heights)
        self.setFixedHeight(sum(self._heights))

    @property
    def _text_px(self) -> int:
        return self.width() - 30

    @property
    def _heights(self) -> list[int]:
        return [_LINK_PX + _LINE_PX * (lines - 1) for lines in self._lines]

    def paintEvent(self, event: QPaintEvent) -> None:
        colours = theme.active()
        with painting(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            top = 0
            for place, (part, height) in enumerate(zip(self._parts, self._heights, strict=True)):
                if place + 1 < len(self._parts):
                    painter.setPen(QPen(QColor(colours.line), 2))
                    painter.drawLine(QPointF(8, top + 24), QPointF(8, top + height))
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(getattr(colours, part.tone)))
                painter.drawEllipse(QPointF(8, top + 13), 5, 5)
                self._paint_texts(painter, part, top, self._lines[place])
                top += height

    def _paint_texts(self, painter: QPainter, part: HealthRow, top: int, lines: int) -> None:
        colours = theme.active()
        first = QRect(26, top + 3, self._text_px, 20)
        painter.setFont(theme.text_font(bold=True))
        painter.setPen(QColor(colours.text))
        painter.drawText(first, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), part.name)
        painter.setFont(theme.text_font(theme.CAPTION_PX))
        painter.setPen(QColor(colours.dim))
        painter.drawText(first, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), part.figure)
        if part.tone in ("warning", "error"):
            painter.setPen(QColor(getattr(colours, part.tone)))
        second = QRect(26, top + 25, self._text_px, _LINE_PX * lines)
        words = part.caption
        if lines == 1:
            words = painter.fontMetrics().elidedText(words, Qt.TextElideMode.ElideMiddle, second.width())
        painter.drawText(second, int(Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextWordWrap), words)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            below = [bottom > event.pos().y() for bottom in accumulate(self._heights)]
            if True in below:
                part = self._parts[below.index(True)]
                QToolTip.showText(event.globalPos(), f"{part.name}: {part.figure}\n{part.caption}", self)
            return True
        return super().event(event)


class _Histogram(QWidget):
    """Latencies on a linear axis up to the 99th percentile, with p50, p99 and the largest below."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(_HISTOGRAM_PX)
        self._counts: list[int] = []
        self._words: tuple[str, ...] = ()

    def show_samples(self, samples_s: Sequence[float]) -> None:
        samples = np.asarray(samples_s, np.float64)
        middle, high = (float(one) for one in np.percentile(samples, (50, 99)))
        reach = max(high * 1.25, 1e-4)
        self._counts = np.histogram(np.clip(samples, 0, reach), _BUCKETS, (0, reach))[0].tolist()
        self._words = (f"p50 {duration(middle)}", f"p99 {duration(high)}", f"max {duration(float(samples.max()))}")
        self.setAccessibleDescription(", ".join(self._words))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        colours = theme.active()
        with painting(self) as painter:
            height, most = self.height() - 26, max([1, *self._counts])
            width = self.width() / _BUCKETS
            for place, number in enumerate(self._counts):
                tall = max(1.0, height * number / most) if number else 1.0
                colour = colours.accent if number else colours.line
                painter.fillRect(QRectF(place * width, height - tall, width - 1, tall), QColor(colour))
            painter.setFont(theme.text_font(theme.CAPTION_PX))
            painter.setPen(QColor(colours.dim))
            for place, words in enumerate(self._words):
                painter.drawText(QRectF(place * self.width() / 3, height + 6, self.width() / 3, 18), words)


class _Pairs(QWidget):
    """Names on the left, values on the right; what does not fit is cut and whole in the tooltip."""

    def __init__(self) -> None:
        super().__init__()
        self._pairs: tuple[tuple[str, str], ...] = ()

    def show_pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        if (given := tuple(pairs)) != self._pairs:
            if len(given) != len(self._pairs):
                self.setFixedHeight(_PAIR_PX * len(given))
            self._pairs = given
            self.setAccessibleDescription("; ".join(f"{name}: {value}" for name, value in given))
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        colours = theme.active()
        with painting(self) as painter:
            for place, (name, value) in enumerate(self._pairs):
                line = QRect(0, place * _PAIR_PX, self.width() - 4, _PAIR_PX)
                painter.setFont(theme.text_font())
                painter.setPen(QColor(colours.dim))
                painter.drawText(line, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), name)
                taken = painter.fontMetrics().horizontalAdvance(name) + 12
                painter.setFont(theme.figure_font())
                painter.setPen(QColor(colours.text))
                text = painter.fontMetrics().elidedText(value, Qt.TextElideMode.ElideMiddle, line.width() - taken)
                painter.drawText(line, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), text)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            place = int(event.pos().y() // _PAIR_PX)
            if 0 <= place < len(self._pairs):
                QToolTip.showText(event.globalPos(), "\n".join(self._pairs[place]), self)
            return True
        return super().event(event)
