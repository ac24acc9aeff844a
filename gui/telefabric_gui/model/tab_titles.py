"""Titles of tabs, and what a tab leaves out."""

from __future__ import annotations

import re

_AGENT_MAX = 24
_RUN_MAX = 20
_PREFIX = re.compile(r"agent[_\- ]?(?=.)", re.IGNORECASE)


def title_of(agent_id: str, *, replay: bool, copy: int = 0, run_id: str = "") -> str:
    """``Agent-0-Online``; a second replay has its number, and a run is named when another has the same agent."""
    what = f"{'Replay' if replay else 'Online'}{f'-{copy}' if copy > 1 else ''}"
    named = f"Agent-{cut(_PREFIX.sub('', agent_id, count=1), _AGENT_MAX)}-{what}"
    return f"{named} · {cut(run_id, _RUN_MAX)}" if run_id else named


def run_title(run_id: str) -> str:
    """Of the tab with all agents of a run."""
    return f"Multi-Agent-{cut(run_id, _RUN_MAX)}"


def cut(name: str, length: int) -> str:
    """A name without its middle, since names of runs differ at both ends."""
    name = " ".join(name.split())
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - half]}…{name[-half:]}"
