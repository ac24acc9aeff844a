"""Verdicts on the settings. No input or output."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding
from telefabric.settings import FILE_NAME, SETTINGS


class SettingsSeen(NamedTuple):
    sources: Mapping[str, str]
    """Of each setting that is set, where: environment or file."""
    troubles: tuple[str, ...]
    """The sentences that other commands end with."""
    unknown: tuple[str, ...]
    """Variables that are named like settings and are none."""


def judge_settings(seen: SettingsSeen) -> list[Finding]:
    """One row for each trouble, or one that says what is set."""
    found = [_trouble(sentence) for sentence in seen.troubles] + [_unknown(name) for name in seen.unknown]
    if found:
        return found
    if not seen.sources:
        return [Finding("settings", OK, "No setting is set: all are their defaults.")]
    told = ", ".join(f"{name} ({source})" for name, source in seen.sources.items())
    return [Finding("settings", OK, f"Set are {told}; the others are their defaults.")]


def _trouble(sentence: str) -> Finding:
    """What `resolve` said: of a variable its name comes first, of a file its path or its name."""
    what, separator, remedy = sentence.rpartition(": ")
    first = sentence.split(" ", 1)[0]
    if first in {one.variable for one in SETTINGS.values()}:
        return Finding("settings", PROBLEM, f"{_one_line(sentence)}.", f"unset {first}, or export another value")
    if separator and remedy.startswith("correct"):
        return Finding("settings", PROBLEM, f"{_one_line(what)}.", remedy)
    return Finding("settings", PROBLEM, f"{_one_line(sentence)}.", f"Correct {FILE_NAME}, or move it away")


def _unknown(name: str) -> Finding:
    close = get_close_matches(name, [one.variable for one in SETTINGS.values()], 1)
    return Finding(
        "settings", WARNING,
        f"{name} is set, and no setting is called so" + (f"; {close[0]} is one." if close else "."),
        f"unset {name}" + (f", and export {close[0]}" if close else ""),
    )  # fmt: skip


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
