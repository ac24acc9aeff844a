"""What the window may show: a broker by its address or by the name of a saved connection, or a store file.

A source is one text; the ones that worked are remembered, the last one first.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QByteArray, QIODevice, QProcess, QSettings

from telefabric import QueuePolicy, settings
from telefabric.feed import BrokerFeed, Feed, FileFeed, known_brokers
from telefabric_gui.redraw import Redraw, redraw_of, text_of

REMEMBERED_MAX = 8
_REACHED_MAX = 64
_REACHED_EVERY_S = 60.0
"""So often the file is written while a source can be reached."""
Opener = Callable[[str], Feed]


def is_file(source: str) -> bool:
    return os.path.isabs(source)


def feed_of(source: str, policy: QueuePolicy | None = None) -> Feed:
    """Raises `TelefabricError` for an address or a saved connection that cannot be used."""
    if is_file(source):
        return FileFeed(Path(source))
    return BrokerFeed(settings.broker_address(source), policy=policy)


def start_here() -> Path:
    """Start broker and store on this machine, which go on without this window; the file for what they say.

    Raises `TelefabricError`.
    """
    log = settings.data_folder() / "up.log"
    up = QProcess()
    up.setProgram(sys.executable)
    up.setArguments(["-m", "telefabric.cli.main", "up"])
    up.setProcessChannelMode(QProcess.ProcessChannelMode.MergedChannels)
    up.setStandardOutputFile(str(log), QIODevice.OpenModeFlag.Append)
    log.parent.mkdir(parents=True, exist_ok=True)
    up.startDetached()
    return log


def _times_in(text: object) -> dict[str, float]:
    """By source; a file that somebody spoiled remembers nothing."""
    try:
        return {str(source): float(at_s) for source, at_s in json.loads(str(text)).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


class Memory:
    """In ``client.ini`` beside the user's saved connections. When it cannot be written, nothing is remembered.

    Raises `UsageError` for a user without a home folder.
    """

    def __init__(self) -> None:
        self._file = QSettings(str(settings.user_config() / "client.ini"), QSettings.Format.IniFormat)
        self._reached = _times_in(self._file.value("reached"))

    @property
    def recent(self) -> list[str]:
        """Sources that worked, the last one first."""
        return self._texts("recent")

    @property
    def again(self) -> bool:
        """Whether the last one is opened again at start."""
        return bool(self._file.value("again", True, type=bool))

    def set_again(self, wanted: bool) -> None:
        self._file.setValue("again", wanted)
        self._file.sync()

    @property
    def layout(self) -> str:
        """The charts, as they were left."""
        return str(self._file.value("charts", ""))

    def keep_layout(self, text: str) -> None:
        self._file.setValue("charts", text)
        self._file.sync()

    @property
    def geometry(self) -> QByteArray:
        """Size and place of the window that was closed last; empty before any was."""
        found = self._file.value("geometry")
        return found if isinstance(found, QByteArray) else QByteArray()

    def keep_geometry(self, geometry: QByteArray) -> None:
        self._file.setValue("geometry", geometry)
        self._file.sync()

    @property
    def pins(self) -> list[str]:
        """Parts of `info` that are shown of every step."""
        return self._texts("pins")

    def keep_pins(self, paths: list[str]) -> None:
        self._file.setValue("pins", paths)
        self._file.sync()

    @property
    def run_columns(self) -> list[str]:
        """The values of the metadata that have a column in the list of all runs."""
        return self._texts("run_columns")

    def keep_run_columns(self, names: list[str]) -> None:
        self._file.setValue("run_columns", names)
        self._file.sync()

    @property
    def step_columns(self) -> list[str]:
        """The columns of the tables of steps, by name; none for those that every table has."""
        return self._texts("step_columns")

    def keep_step_columns(self, names: list[str]) -> None:
        self._file.setValue("step_columns", names)
        self._file.sync()

    @property
    def redraw(self) -> Redraw:
        """How often views are drawn."""
        return redraw_of(str(self._file.value("redraw", "")))

    def keep_redraw(self, redraw: Redraw) -> None:
        self._file.setValue("redraw", text_of(redraw))
        self._file.sync()

    def _texts(self, name: str) -> list[str]:
        """A list; Qt writes one text as that text alone."""
        found = self._file.value(name)
        return [str(one) for one in found] if isinstance(found, list) else [found] if isinstance(found, str) else []

    def worked(self, source: str) -> None:
        self._keep([source, *(one for one in self.recent if one != source)][:REMEMBERED_MAX])

    def forget(self, source: str) -> None:
        self._reached.pop(source, None)
        self._file.setValue("reached", json.dumps(self._reached))
        self._keep([one for one in self.recent if one != source])

    def reached(self, source: str) -> None:
        """It answers now. Call it as often as you like."""
        now_s = time.time()
        if abs(now_s - self._reached.get(source, 0.0)) > _REACHED_EVERY_S:
            self._reached.pop(source, None)
            newest = {**self._reached, source: now_s}
            self._reached = dict(list(newest.items())[-_REACHED_MAX:])
            self._file.setValue("reached", json.dumps(self._reached))
            self._file.sync()

    def reached_s(self, source: str) -> float | None:
        """How long ago it last answered, to the minute; None if it never did."""
        at_s = self._reached.get(source)
        return None if at_s is None else max(time.time() - at_s, 0.0)

    def _keep(self, sources: list[str]) -> None:
        self._file.setValue("recent", sources)
        self._file.sync()

    def last(self) -> str | None:
        """The source to open at start; None when that is not wanted, or its connection is not saved any more."""
        found = self.recent[0] if self.again and self.recent else ""
        named = found and "://" not in found and not is_file(found)
        return None if not found or (named and found not in {one.name for one in known_brokers()}) else found
