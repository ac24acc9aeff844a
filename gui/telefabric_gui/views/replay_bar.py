"""The strip that says that a page is a replay: read-only, why, and what is known of the episode at its cursor."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QSizePolicy

from telefabric.feed import RunView
from telefabric_gui.formatting import clock, count, duration
from telefabric_gui.views.styled import Panel, label, restyle, row


class ReplayBar(Panel):
    """Absent on the page that follows a run."""

    def __init__(self) -> None:
        super().__init__("streams")
        self._badge = label(badge="dim")
        self._said = label(role="caption")
        self._said.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._facts = label(role="caption")
        self.setLayout(row(self._badge, (self._said, 1), self._facts, margins=(16, 8, 16, 0), spacing=8))
        self.hide()

    def show_run(self, run: RunView | None, *, apart: bool) -> None:
        """A run that has ended is read-only; `apart` from the page that follows, one that goes on is replayed."""
        ended = run is not None and run.finished_ns is not None
        self.setVisible(ended or apart)
        if ended and run is not None and run.finished_ns is not None:
            took = f" after {duration((run.finished_ns - run.started_ns) / 1e9)}" if run.started_ns else ""
            tip = f"The run has ended: {run.state} at {clock(run.finished_ns)[:8]}{took}. No steps are added any more."
            said = f"{run.state} {clock(run.finished_ns)[:8]}"
        else:
            tip = "The run goes on in its Online tab; this page has a cursor of its own."
            said = "The run goes on in its Online tab"
        self._badge.setText("read-only" if ended else "replay")
        restyle(self._badge, "badge", "dim" if ended else "accent")
        self._said.setText(said)
        for part in (self._badge, self._said):
            part.setToolTip(tip)

    def show_episode(self, episode: int, facts: Sequence[tuple[str, str]] | None) -> None:
        """Show an episode with its `facts`: empty for one that has not ended, None before the store has answered."""
        known = "   ".join(f"{name} {value}" for name, value in facts or ()) or "not ended"
        self._facts.setText(f"episode {count(episode)}" + ("" if facts is None else f":   {known}"))
