"""Colours of the client, dark and light: one table, from which style sheet, palette and painted widgets take them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from string import Template

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QFont, QFontDatabase, QFontMetrics, QPalette
from PySide6.QtWidgets import QApplication

TEXT_PX = 13
CAPTION_PX = 12
LEFT = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
CENTRED = int(Qt.AlignmentFlag.AlignCenter)


@dataclass(frozen=True)
class Theme:
    """Colours by role. Meaning is never in a colour alone: words, hatching or a tooltip go with it."""

    name: str
    window: str
    panel: str
    raised: str
    line: str
    text: str
    dim: str
    faint: str
    accent: str
    good: str
    warning: str
    error: str
    human: str
    multi_agent: str
    hybrid: str
    stored: str
    live_only: str
    missing: str
    series: tuple[str, ...]
    tint: float
    """Share of a colour in the ground of a badge that is written in it."""
    on_accent: str
    """Text on the accent."""

    def mode(self, control_mode: str) -> str:
        """Colour of a control mode's badge."""
        return getattr(self, mode_tone(control_mode))  # type: ignore[no-any-return]

    def state(self, state: str) -> str:
        """Colour of a run's state."""
        if state in ("running", "revived"):
            return self.good
        if state in ("stalled", "waiting", "held"):
            return self.warning
        return self.error if state in ("failed", "lost") else self.faint

    def tinted(self, colour: str, ground: str | None = None) -> str:
        """The ground of a badge."""
        return mixed(colour, ground or self.panel, self.tint)


def mode_tone(control_mode: str) -> str:
    """The role whose colour a control mode has."""
    return {"agent": "accent"}.get(control_mode, control_mode if control_mode in _MODES else "dim")


_MODES = "human", "multi_agent", "hybrid"
DARK = Theme(
    "dark", "#14171c", "#1a1e25", "#222833", "#2c333f", "#e6e9ef", "#aab4c3", "#8490a3", "#4c9ffe",
    "#2fbf71", "#f0b429", "#f0616d", "#2fbf71", "#b083f0", "#3fc5c9", "#2f7f8f", "#c98a1b", "#f0616d",
    ("#4c9ffe", "#f0b429", "#2fbf71", "#b083f0", "#f0616d", "#3fc5c9"), 0.12, "#0b1220",
)  # fmt: skip
LIGHT = Theme(
    "light", "#f6f7f9", "#ffffff", "#eef1f5", "#dde2ea", "#1c2430", "#48525f", "#636d7b", "#1b62d1",
    "#147a46", "#966000", "#c9303e", "#147a46", "#7b4fd0", "#0f7579", "#4fa3b3", "#d99a2b", "#d8404d",
    ("#1b62d1", "#966000", "#147a46", "#7b4fd0", "#c9303e", "#11858a"), 0.10, "#ffffff",
)  # fmt: skip
THEMES = {theme.name: theme for theme in (DARK, LIGHT)}
_active = DARK


def active() -> Theme:
    """The colours of painted widgets. GUI thread."""
    return _active


def use(app: QApplication, name: str) -> Theme:
    """Dress the application in ``dark``, ``light``, or with ``auto`` as the desktop is (dark when it does not say)."""
    global _active
    if name == "auto":
        name = "light" if app.styleHints().colorScheme() == Qt.ColorScheme.Light else "dark"
    _active = THEMES[name]
    if app.style().name() != "fusion":
        app.setStyle("Fusion")
    app.setPalette(_palette(_active))
    app.setStyleSheet(style_sheet(_active))
    return _active


@lru_cache
def text_font(pixels: int = TEXT_PX, *, bold: bool = False) -> QFont:
    """The system's font, with digits of one width."""
    font = QFont(QApplication.font())
    font.setPixelSize(pixels)
    font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
    if hasattr(font, "setFeature"):
        font.setFeature(QFont.Tag("tnum"), 1)
    return font


@lru_cache
def figure_font(pixels: int = CAPTION_PX, *, bold: bool = False) -> QFont:
    """The system's monospace font, for figures in columns. Hundreds of texts a second are painted in it."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    font.setStyleStrategy(QFont.StyleStrategy.PreferNoShaping)  # where a script can do without
    font.setPixelSize(pixels)
    font.setBold(bold)
    return font


@lru_cache(4_096)
def fitting(text: str, width: int) -> str:
    """The beginning of a text that fits the width, in the font of figures."""
    metrics = QFontMetrics(figure_font())
    if metrics.horizontalAdvance(text) <= width:
        return text
    return metrics.elidedText(text, Qt.TextElideMode.ElideRight, width)


def mixed(colour: str, ground: str, share: float) -> str:
    """`colour` over `ground` at an opacity of `share`."""
    over, under = QColor(colour), QColor(ground)
    parts = zip(over.getRgb()[:3], under.getRgb()[:3], strict=True)  # type: ignore[index]
    return QColor(*(round(one * share + other * (1 - share)) for one, other in parts)).name()


def _palette(theme: Theme) -> QPalette:
    role = QPalette.ColorRole
    palette = QPalette()
    for of, colour in {
        role.Window: theme.window, role.Base: theme.panel, role.AlternateBase: theme.raised, role.Button: theme.raised,
        role.WindowText: theme.text, role.Text: theme.text, role.ButtonText: theme.text, role.Highlight: theme.raised,
        role.HighlightedText: theme.text, role.ToolTipBase: theme.raised, role.ToolTipText: theme.text,
        role.PlaceholderText: theme.faint, role.Link: theme.accent, role.Mid: theme.line, role.Dark: theme.line,
        role.Light: theme.raised, role.Midlight: theme.raised, role.Shadow: theme.window,
    }.items():  # fmt: skip
        palette.setColor(of, QColor(colour))
    palette.setColor(QPalette.ColorGroup.Disabled, role.Text, QColor(theme.faint))
    palette.setColor(QPalette.ColorGroup.Disabled, role.ButtonText, QColor(theme.faint))
    return palette


def style_sheet(theme: Theme) -> str:
    """The whole application's style; widgets take part by object name or the property ``role``."""
    colours = {key: value for key, value in vars(theme).items() if isinstance(value, str)}
    tones = [
        f'QLabel[role="{tone}"] {{ color: {colours[tone]}; }}\n'
        f'QLabel[badge="{tone}"] {{ color: {colours[tone]}; background: {theme.tinted(colours[tone])}; }}\n'
        for tone in ("dim", "good", "warning", "error", "accent")
    ]
    mono = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont).family()
    sizes = {"text_px": TEXT_PX, "caption_px": CAPTION_PX, "mono": mono}
    template = Template(files("telefabric_gui").joinpath("style.qss").read_text("utf-8"))
    tints = {f"{tone}_tint": theme.tinted(colours[tone]) for tone in ("good", "warning", "error")}
    return template.substitute(colours, **sizes, **tints, tones="".join(tones))
