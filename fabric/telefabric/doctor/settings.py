"""The settings: which are set, where, and whether they can be read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from telefabric.doctor.finding import Finding, say
from telefabric.errors import UsageError
from telefabric.settings import FILE_NAME, SETTINGS, resolve

_VARIABLES = [one.variable for one in SETTINGS.values()]


class SettingsSeen(NamedTuple):
    sources: Mapping[str, str]
    """Setting → where it is set: environment or file."""
    troubles: tuple[str, ...]
    """The sentences that other commands end with."""
    unknown: tuple[str, ...]
    """Variables that are named like settings and are none."""


def look_at_settings() -> SettingsSeen:
    sources: dict[str, str] = {}
    troubles: dict[str, None] = {}
    for name in SETTINGS:
        try:
            source = resolve(name).source
        except UsageError as error:
            troubles[str(error)] = None
        else:
            if source != "default":
                sources[name] = source
    known = {*_VARIABLES, "TELEFABRIC_CONFIG"}
    unknown = sorted(name for name in os.environ if name.startswith("TELEFABRIC_") and name not in known)
    return SettingsSeen(sources, tuple(troubles), tuple(unknown))


def judge_settings(seen: SettingsSeen) -> list[Finding]:
    """One row for each trouble, or one that says what is set."""
    found = [_trouble(sentence) for sentence in seen.troubles] + [_unknown(name) for name in seen.unknown]
    if found:
        return found
    if not seen.sources:
        return [say("settings", "defaults")]
    return [say("settings", "set", set=", ".join(f"{name} ({source})" for name, source in seen.sources.items()))]


def _trouble(sentence: str) -> Finding:
    """The error of `resolve`. It begins with the name of a variable, or with the path or name of a file."""
    what, separator, remedy = sentence.rpartition(": ")
    first = sentence.split(" ", 1)[0]
    if first in _VARIABLES:
        what, remedy = sentence, f"unset {first}, or export another value"
    elif not (separator and remedy.startswith("correct")):
        what, remedy = sentence, f"Correct {FILE_NAME}, or move it away"
    return say("settings", "malformed", sentence=" ".join(what.split()).rstrip("."), remedy=remedy)


def _unknown(name: str) -> Finding:
    close = get_close_matches(name, _VARIABLES, 1)
    return say("settings", "misspelt" if close else "unknown", name=name, close="".join(close))
