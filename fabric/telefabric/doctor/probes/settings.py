"""Looks at the settings: which are set, where, and whether they can be read."""

from __future__ import annotations

import os

from telefabric.doctor.checks.settings import SettingsSeen
from telefabric.errors import UsageError
from telefabric.settings import SETTINGS, resolve

_OTHERS = frozenset({"TELEFABRIC_CONFIG"})


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
    known = {one.variable for one in SETTINGS.values()} | _OTHERS
    unknown = sorted(name for name in os.environ if name.startswith("TELEFABRIC_") and name not in known)
    return SettingsSeen(sources, tuple(troubles), tuple(unknown))
