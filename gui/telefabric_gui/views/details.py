"""The right dock: health of each part, latency, the step that is shown, and what is known of the run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetrics, QHelpEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QFrame, QScrollArea, QToolTip, QWidget

from telefabric_gui import theme
from telefabric_gui.formatting import duration
from telefabric_gui.model.pins import Pins
from telefabric_gui.model.step_parts import Line, Shown
from telefabric_gui.views.painting import fill_with, painting, write
from telefabric_gui.views.step import Lines, StepPart
from telefabric_gui.views.styled import Panel, column, label, laid_out, restyle, row

WIDTH_PX = 300
_LINK_PX = 56
_LINE_PX = 17
_CAPTION_LINES_MAX = 4
_BUCKETS = 36
_HISTOGRAM_PX = 84


class HealthRow(NamedTuple):
    """One link of the chain from worker to this client. `tone` is good, warning, error or faint."""

    name: str
    figure: str
    caption: str
    tone: str = "good"


class DetailsDock(Panel):
    """`show_…` once a tick; each part paints itself, so that no figure moves another."""

    def __init__(self, pins: Pins) -> None:
        super().__init__("details")
        self.setFixedWidth(WIDTH_PX)
        self._verdict = label(badge="good")
        self._chain = _Chain()
        self._latency = _Histogram()
        self._step = StepPart(pins)
        self._run = Lines()
        heading = row(label("HEALTH", "heading"), 1, self._verdict, spacing=8)
        self._latency_part = _part("LATENCY, EMIT TO RECEIVE", self._latency)
        self._step_part = _part("THIS STEP", self._step)
        self._run_part = _part("RUN", self._run)
        parts = self._latency_part, self._step_part, self._run_part
        for part in (self._verdict, *parts):
            part.hide()  # until there is something to say
        body = column(heading, self._chain, *parts, 1, margins=(14, 12, 10, 12), spacing=8)
        area = QScrollArea(widgetResizable=True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(laid_out(body, "details_body"))
        self.setLayout(row(area, margins=(1, 0, 0, 0)))

    def show_health(self, parts: Sequence[HealthRow], verdict: str, tone: str) -> None:
        self._verdict.setText(verdict)
        self._verdict.show()
        restyle(self._verdict, "badge", tone)
        self._chain.show_parts(parts)

    def show_latency(self, samples_s: Sequence[float]) -> None:
        self._latency_part.setVisible(bool(samples_s))
        if samples_s:
            self._latency.show_samples(samples_s)

    def show_step(self, shown: Shown | None) -> None:
        self._step_part.setVisible(shown is not None)
        self._step.show_step(shown)

    def show_run(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._run_part.setVisible(bool(pairs))
        self._run.show_lines([Line(*pair) for pair in pairs])


def _part(title: str, body: QWidget) -> QWidget:
    heading = label(title, "heading")
    heading.setContentsMargins(0, 12, 0, 0)
    return laid_out(column(heading, body, spacing=8))


class _Tipped(QWidget):
    """A part that says more where the mouse is."""

    def tip_at(self, y: int) -> str:
        raise NotImplementedError

    def event(self, event: QEvent) -> bool:
        if event.type() != QEvent.Type.ToolTip or not isinstance(event, QHelpEvent):
            return super().event(event)
        QToolTip.showText(event.globalPos(), self.tip_at(event.pos().y()), self)
        return True


class _Chain(_Tipped):
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
        heights = [metrics.boundingRect(room, flags, held(part.caption)).height() for part in self._parts]
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
                fill_with(painter, getattr(colours, part.tone))
                painter.drawEllipse(QPointF(8, top + 13), 5, 5)
                self._paint_texts(painter, part, top, self._lines[place])
                top += height

    def _paint_texts(self, painter: QPainter, part: HealthRow, top: int, lines: int) -> None:
        colours, caption = theme.active(), theme.text_font(theme.CAPTION_PX)
        first = QRect(26, top + 3, self._text_px, 20)
        second = QRect(26, top + 25, self._text_px, _LINE_PX * lines)
        write(painter, first, part.name, colours.text, theme.text_font(bold=True))
        write(painter, first, part.figure, colours.dim, caption, theme.RIGHT)
        words = held(part.caption)
        if lines == 1:
            words = painter.fontMetrics().elidedText(words, Qt.TextElideMode.ElideMiddle, second.width())
        colour = getattr(colours, part.tone) if part.tone in ("warning", "error") else colours.dim
        write(painter, second, words, colour, caption, int(Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextWordWrap))

    def tip_at(self, y: int) -> str:
        for part, bottom in zip(self._parts, accumulate(self._heights), strict=True):
            if y < bottom:
                return f"{part.name}: {part.figure}\n{part.caption}"
        return ""


def held(sentence: str) -> str:
    """With joiners, at which no line breaks, in the options and addresses that one copies."""
    return sentence.replace("--", "-\u2060-\u2060").replace("://", ":\u2060/\u2060/\u2060")


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
            for place, words in enumerate(self._words):
                area = QRectF(place * self.width() / 3, height + 6, self.width() / 3, 18)
                write(painter, area, words, colours.dim, theme.text_font(theme.CAPTION_PX), 0)
