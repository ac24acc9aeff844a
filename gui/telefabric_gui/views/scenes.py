"""Pictures of an environment drawn from what a step tells: grid, cart and pole, image, bars, or text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPen

from telefabric_gui import theme
from telefabric_gui.formatting import TIMES, real, short
from telefabric_gui.model.step_parts import names_of_numbers
from telefabric_gui.views.painting import fill_with, write
from telefabric_schemas import Frame

LAKES = {
    16: ("SFFF", "FHFH", "FFFH", "HFFG"),
    64: (
        "SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG",
    ),
}  # fmt: skip
"""The two maps that FrozenLake brings, by number of fields, for workers that do not tell theirs."""
_ACTIONS = {
    "FrozenLake": ("left", "down", "right", "up"), "CartPole": ("left", "right"),
    "LunarLander": ("nothing", "left", "main", "right"), "MountainCar-": ("left", "nothing", "right"),
    "Acrobot": ("left", "nothing", "right"), "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pick up", "drop off"), "Blackjack": ("stick", "hit"),
}  # fmt: skip
"""Names of discrete actions, by the beginning of the game's id."""
_FIELDS = {"S": "#a0b8d8", "F": "#d0e3f2", "H": "#31587e", "G": "#ffd480", "#": "#48525f", "W": "#48525f"}
_FLOOR, _AGENT, _ON_DARK, _ON_LIGHT = "#d0e3f2", "#e4562a", "#d0e3f2", "#31587e"
_BARS_MAX = 64
_FIELDS_MAX = 4_096
"""Most fields of a grid: more would be too small to see."""
_TEXT_MAX = 10_000
_SHARP_PX = 128
_CART_X, _CART_ANGLE = 2.4, 12 * math.pi / 180
"""Where CartPole ends: metres from the middle, and angle of the pole."""


class Scene(Protocol):
    """Something to paint into a rectangle; `words` says the same for screen readers."""

    @property
    def words(self) -> str: ...

    def paint(self, painter: QPainter, area: QRectF) -> None: ...


def scene_of(observation: Any, render_hint: Any, metadata: Mapping[str, Any]) -> Scene:
    """The most telling picture that these allow."""
    hint = render_hint if isinstance(render_hint, dict) else {}
    game = _text(hint.get("game_id")) or _text(metadata.get("game_id"))
    given = hint.get("grid")
    if grid := _grid(metadata.get("grid") if given is None else given, game, observation):
        return GridScene(grid, _place(hint, observation, grid))
    array = _array(observation)
    if array is not None and game.startswith("CartPole") and array.shape == (4,) and np.isfinite(array).all():
        return CartPoleScene(*array.tolist())
    if array is not None and array.dtype == np.uint8 and _is_image(array):
        return ImageScene(array)
    if array is not None and array.ndim == 1 and 1 < len(array) <= _BARS_MAX:
        return BarScene(array, names_of_numbers(metadata))
    text = _text(hint.get("text")) or _text(render_hint)
    return TextScene(text[:_TEXT_MAX] or short(observation, 400))


def name_of(scene: Scene) -> str:
    """What a scene of `scene_of` is, in a word."""
    names = {GridScene: "Grid", BarScene: "Numbers", TextScene: "Text"}
    return names.get(type(scene), "Picture")


def action_names(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of discrete actions: as the run tells in `action_names`, else for the games that are known."""
    names = metadata.get("action_names")
    if isinstance(names, np.ndarray) and names.ndim == 1:
        names = names.tolist()
    if isinstance(names, list | tuple):
        return tuple(map(short, names))
    game = _text(metadata.get("game_id"))
    return next((_ACTIONS[one] for one in _ACTIONS if game.startswith(one)), ())


class GridScene(NamedTuple):
    """Fields by letter, and the agent's field."""

    rows: tuple[str, ...]
    agent: tuple[int, int] | None

    @property
    def words(self) -> str:
        at = f"; the agent is in row {self.agent[0] + 1}, column {self.agent[1] + 1}" if self.agent else ""
        return f"A grid of {len(self.rows)} by {len(self.rows[0])} fields (S start, H hole, G goal){at}."

    def paint(self, painter: QPainter, area: QRectF) -> None:
        height, width = len(self.rows), max(len(row) for row in self.rows)
        side = math.floor(min(area.width() / width, area.height() / height))
        if side < 2:
            return
        left = area.center().x() - side * width / 2
        top = area.center().y() - side * height / 2
        space = 1 if side > 8 else 0
        font = theme.text_font(max(8, side // 4), bold=True)
        for row, fields in enumerate(self.rows):
            for column, letter in enumerate(fields):
                field = QRectF(left + column * side, top + row * side, side, side)
                field.adjust(space, space, -space, -space)
                fill_with(painter, _FIELDS.get(letter, _FLOOR))
                painter.drawRoundedRect(field, 3, 3)
                if side >= 28 and letter in "SHG0123456789" and (row, column) != self.agent:
                    write(painter, field, letter, _ON_DARK if letter == "H" else _ON_LIGHT, font, theme.CENTRED)
        if self.agent:
            self._paint_agent(painter, left + self.agent[1] * side, top + self.agent[0] * side, side)

    def _paint_agent(self, painter: QPainter, left: float, top: float, side: float) -> None:
        centre, radius = QPointF(left + side / 2, top + side / 2), side * 0.25
        fill_with(painter, _AGENT)
        painter.drawEllipse(centre, radius, radius)
        fill_with(painter, "white")
        for offset in (-0.38, 0.38):
            eye = QPointF(centre.x() + offset * radius, centre.y() - 0.2 * radius)
            painter.drawEllipse(eye, radius / 5, radius / 5)


class CartPoleScene(NamedTuple):
    """Position (m), speed (m/s), angle (rad) and angular speed (rad/s)."""

    x: float
    speed: float
    angle: float
    turning: float

    @property
    def words(self) -> str:
        return f"Cart at {self.x:.2f} m, pole at {math.degrees(self.angle):.1f} degrees."

    def paint(self, painter: QPainter, area: QRectF) -> None:
        colours = theme.active()
        scale = min(area.width() / (2 * _CART_X + 0.8), area.height() / 2.1)
        ground = area.center().y() + 0.72 * scale
        middle = area.center().x()
        painter.setPen(QPen(QColor(colours.line), 2))
        reach = (_CART_X + 0.3) * scale
        painter.drawLine(QPointF(middle - reach, ground), QPointF(middle + reach, ground))
        painter.setPen(QPen(QColor(colours.faint), 1, Qt.PenStyle.DashLine))
        for edge in (-_CART_X, _CART_X):
            at = middle + edge * scale
            painter.drawLine(QPointF(at, ground - 0.25 * scale), QPointF(at, ground + 0.1 * scale))
        x = middle + max(-_CART_X - 0.3, min(_CART_X + 0.3, self.x)) * scale
        cart = QRectF(x - 0.28 * scale, ground - 0.26 * scale, 0.56 * scale, 0.26 * scale)
        fill_with(painter, colours.accent)
        painter.drawRoundedRect(cart, 4, 4)
        hinge = QPointF(x, cart.top() + 0.04 * scale)
        tip = QPointF(x + math.sin(self.angle) * 1.2 * scale, hinge.y() - math.cos(self.angle) * 1.2 * scale)
        fallen = abs(self.angle) > _CART_ANGLE
        pen = QPen(QColor(colours.error if fallen else colours.warning), max(3.0, 0.09 * scale))
        pen.setCapStyle(Qt.PenCapStyle.RoundCap)
        painter.setPen(pen)
        painter.drawLine(hinge, tip)
        fill_with(painter, colours.text)
        painter.drawEllipse(hinge, 0.05 * scale, 0.05 * scale)


class FrameScene:
    """A picture that the worker sent: jpeg, png, or raw RGB of 8 bits."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.words = f"Picture of episode {frame.episode_index}, step {frame.step_index}."
        if frame.encoding == "raw":
            row_bytes = 3 * frame.width
            whole = 0 < row_bytes * frame.height == len(frame.data)
            rgb = QImage.Format.Format_RGB888
            self.image = QImage(frame.data, frame.width, frame.height, row_bytes, rgb).copy() if whole else QImage()
        else:
            self.image = QImage.fromData(frame.data)

    def paint(self, painter: QPainter, area: QRectF) -> None:
        paint_image(painter, area, self.image)


class ImageScene:
    """An observation that is a picture: (H, W), (H, W, 1), (H, W, 3) or stacked grey (k, H, W), uint8."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.words = f"The observation as a picture of {TIMES.join(map(str, array.shape))}."
        if array.ndim == 3 and array.shape[2] not in (1, 3):
            array = array[-1]
        kind = (
            QImage.Format.Format_RGB888 if array.ndim == 3 and array.shape[2] == 3 else QImage.Format.Format_Grayscale8
        )
        array = np.ascontiguousarray(array if kind == QImage.Format.Format_RGB888 else array.reshape(array.shape[:2]))
        height, width = array.shape[:2]
        self.image = QImage(array.tobytes(), width, height, array.strides[0], kind).copy()

    def paint(self, painter: QPainter, area: QRectF) -> None:
        paint_image(painter, area, self.image)


class BarScene:
    """A short vector as bars around zero, each with its value."""

    def __init__(self, array: np.ndarray[Any, Any], names: Sequence[str] = ()) -> None:
        self._values = [float(value) for value in array]
        self._names = names if len(names) == len(array) else [f"[{place}]" for place in range(len(array))]
        self.words = "Observation: " + short(self._values, 200)

    def paint(self, painter: QPainter, area: QRectF) -> None:
        colours = theme.active()
        finite = [abs(value) for value in self._values if math.isfinite(value)]
        largest = max(finite, default=0.0) or 1.0  # bars are shares of it: no product of theirs overflows
        height = min(28.0, area.height() / len(self._values))
        top = area.center().y() - height * len(self._values) / 2
        middle, reach = area.center().x(), area.width() / 2 - 76
        font = theme.figure_font(int(max(7, min(12, height * 0.6))))
        for place, value in enumerate(self._values):
            line = QRectF(area.left(), top + place * height, area.width(), height)
            if height >= 9:
                write(painter, line, self._names[place], colours.faint, font)
                write(painter, line, real(value, 3), colours.text, font, theme.RIGHT)
            if math.isfinite(value):
                end = middle + reach * (value / largest)
                bar = QRectF(min(middle, end), line.top() + 2, abs(end - middle), height - 4)
                painter.fillRect(bar, QColor(colours.accent if value >= 0 else colours.warning))
        painter.setPen(QPen(QColor(colours.line), 1))
        painter.drawLine(QPointF(middle, top), QPointF(middle, top + height * len(self._values)))


class TextScene:
    """Anything else, readable."""

    def __init__(self, text: str) -> None:
        self.words = text or "Nothing was observed."

    def paint(self, painter: QPainter, area: QRectF) -> None:
        lines = self.words.split("\n")
        font = theme.figure_font(12 if len(lines) > 1 or len(self.words) > 60 else 24)
        flags = theme.CENTRED | (int(Qt.TextFlag.TextWordWrap) if len(lines) == 1 else 0)
        write(painter, area, self.words, theme.active().text, font, flags)


def paint_image(painter: QPainter, area: QRectF, image: QImage, *, smooth: bool = True) -> None:
    """Paint an image as large as it fits; small pictures keep their pixels sharp.

    In the painter's own format first: Qt scales any other at a third of the speed.
    """
    wanted = QImage.Format.Format_ARGB32_Premultiplied if image.hasAlphaChannel() else QImage.Format.Format_RGB32
    if image.format() != wanted:
        image = image.convertToFormat(wanted)
    size = image.size().scaled(area.size().toSize(), Qt.AspectRatioMode.KeepAspectRatio)
    target = QRectF(0, 0, size.width(), size.height())
    target.moveCenter(area.center())
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, smooth and image.width() > _SHARP_PX)
    painter.drawImage(target, image)


def _text(value: Any) -> str:
    """A user's value as a text."""
    return value if isinstance(value, str) else ""


def _grid(given: Any, game: str, observation: Any) -> tuple[str, ...] | None:
    """Fields by letter: rows as texts, or a table of letters or digits, such as FrozenLake's own `desc`."""
    if isinstance(given, np.ndarray):
        given = given.tolist() if given.ndim == 2 and 0 < given.size <= _FIELDS_MAX else None
    if isinstance(given, list | tuple) and 0 < len(given) <= _FIELDS_MAX:
        rows = [_row(row) for row in given]
        if all(rows) and max(map(len, rows)) * len(rows) <= _FIELDS_MAX:
            return tuple(rows)
    if game.startswith("FrozenLake") and isinstance(observation, int):
        fields = 64 if "8x8" in game else 16
        return LAKES[fields] if 0 <= observation < fields else None
    return None


def _row(given: Any) -> str:
    """One row of a grid; empty if it is not one."""
    if isinstance(given, str):
        return given
    fields = [_field(one) for one in given] if isinstance(given, list | tuple) else []
    return "".join(fields) if all(len(one) == 1 for one in fields) else ""


def _field(given: Any) -> str:
    if isinstance(given, bytes):
        return given.decode("latin-1")
    if isinstance(given, int | float):
        return str(int(given)) if given in range(10) else ""
    return _text(given)


def _place(hint: Mapping[str, Any], observation: Any, rows: Sequence[str]) -> tuple[int, int] | None:
    """Where the agent is: as the hint says, else a discrete observation counts fields row by row."""
    agent, width = hint.get("agent"), len(rows[0])
    if isinstance(agent, np.ndarray):
        agent = agent.ravel().tolist() if agent.size == 2 else None
    if isinstance(agent, list | tuple) and len(agent) == 2 and all(isinstance(one, int) for one in agent):
        row, column = agent
        return (row, column) if row in range(len(rows)) and column in range(len(rows[row])) else None
    if isinstance(observation, int) and 0 <= observation < width * len(rows):
        return divmod(observation, width)
    return None


def _array(observation: Any) -> np.ndarray[Any, Any] | None:
    """A numeric observation as an array."""
    if isinstance(observation, list) and observation and all(type(one) in (int, float) for one in observation):
        return np.array([_real(one) for one in observation])
    if isinstance(observation, np.ndarray) and observation.dtype.kind in "biuf":
        with np.errstate(over="ignore"):
            return observation.astype(np.float64) if observation.dtype.itemsize > 8 else observation
    return None


def _real(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer beyond the floats
        return math.inf if number > 0 else -math.inf


def _is_image(array: np.ndarray[Any, Any]) -> bool:
    return array.ndim in (2, 3) and min(array.shape[:2]) >= 1 and array.size > _BARS_MAX and array.shape[-1] > 0
