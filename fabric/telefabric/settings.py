"""The one table of settings: flags, environment, `telefabric.toml` and defaults all come from here.

A flag wins over the environment (``TELEFABRIC_…``), that over ``telefabric.toml`` in the current folder (or the file
that ``TELEFABRIC_CONFIG`` names), that over the default. Paths are made absolute here, so that they stay what they are
when the program changes its folder: those of flags and variables from the current folder, those of a file from its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from telefabric import address, limits
from telefabric.errors import UsageError
from telefabric.wire import policy
from telefabric.wire.names import DEMAND, is_name, is_printable

FILE_NAME = "telefabric.toml"
OFF = "off"


class Setting(NamedTuple):
    """One setting. `parse` turns a string into its value, or raises `ValueError` with what it should be."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    unit: str = ""

    @property
    def variable(self) -> str:
        return "TELEFABRIC_" + self.name.upper()

    @property
    def option_help(self) -> str:
        """The help of its flag, which names its variable and default."""
        default = "" if self.default is None else f"; default {self.default}"
        return f"{self.help} [{self.variable}{default}]"


class Resolved(NamedTuple):
    """A value and where it came from: flag, environment, file or default."""

    value: Any
    source: str


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("some text")
    return value


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError(DEMAND)
    return value


def _url(value: str) -> str:
    try:
        return address.Address.parse(value).url
    except UsageError:
        raise ValueError(f"an address such as {address.DEFAULT}") from None


def _peer(value: str) -> str:
    found = address.Address.parse(_url(value))
    if found.host == "*" or not found.port:
        raise ValueError(f"the address of one broker, such as {address.DEFAULT}")
    return found.url


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return parse


def _seconds_from(low: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not (math.isfinite(number) and number >= low):
            raise ValueError(f"a number of seconds, {low:g} or more")
        return number

    return parse


def _names(value: str) -> str:
    """One or more names; `names_of` takes them apart."""
    names = [name.strip() for name in value.split(",")]
    if len(set(names)) < len(names) or not all(names) or not is_printable(value):
        raise ValueError("one or more different names, with commas between")
    return ",".join(map(_name, names))


def names_of(value: str) -> list[str]:
    return value.split(",")


def _endpoint(value: str) -> str:
    """An address of this machine, by its port alone if one likes, or off."""
    if value == OFF:
        return OFF
    url = f"tcp://127.0.0.1:{value}" if value.isdecimal() else value
    try:
        return address.Address.parse(url).url
    except UsageError:
        raise ValueError("off, a port such as 9464, or an address such as tcp://127.0.0.1:9464") from None


def metrics_endpoint(given: Any = None, offset: int = 0) -> address.Address | None:
    """Where a service has its metrics, so many ports above the setting; None while they are off.

    Raises `UsageError` for an address beyond loopback, and for a port with no room above it.
    """
    url = resolve("metrics", given).value
    if url == OFF:
        return None
    found = address.Address.parse(url)
    found.require_loopback()
    if found.port + offset > address.PORT_MAX:
        raise UsageError(
            f"metrics at port {found.port} leave no room for those of store and query service on the two ports above "
            f"it: choose a port up to {address.PORT_MAX - 2} with --metrics"
        )
    return found.beside(offset)


def _policy(value: str) -> str:
    policy.parse_policy(value)
    return value


def _storing(value: str) -> str:
    """off, best, steps:N or episodes:N; `storing_of` takes it apart."""
    name, colon, number = value.partition(":")
    plain = name in ("off", "best") and not colon
    if not plain and not (name in ("steps", "episodes") and number.isdecimal() and 0 < int(number) < 2**31):
        raise ValueError("off, best, steps:N or episodes:N")
    return value


def storing_of(value: str) -> tuple[str, int]:
    """What of, and each how many."""
    name, _, number = value.partition(":")
    return name, int(number or 1)


CAPTURED = ("versions", "git", "command", "environment")


def _captured(value: str) -> str:
    """all, off, or some of `CAPTURED`; `captured_of` takes it apart."""
    if value not in ("all", OFF) and not set(value.split(",")) <= set(CAPTURED):
        raise ValueError(f"all, off, or some of {', '.join(CAPTURED)} with commas between")
    return value


def captured_of(value: str) -> frozenset[str]:
    return frozenset(CAPTURED if value == "all" else () if value == OFF else value.split(","))


def _choice(*names: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in names:
            raise ValueError("one of " + ", ".join(names))
        return value

    return parse


def _path(value: str) -> Path:
    try:
        if "\0" not in _text(value):
            return Path(value).expanduser()
    except RuntimeError:  # ~somebody who has no home
        pass
    raise ValueError("a path")


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("connect", _peer, address.DEFAULT, "Broker that workers, stores and readers connect to."),
        Setting("listen", _url, address.DEFAULT, "Where the broker listens; its other sockets are on the ports above."),
        Setting("data", _path, None, "Folder of the store; the user's data folder unless given."),
        Setting("spool", _path, None, "Folder of the workers' spools; spool/ in the user's data folder unless given."),
        Setting(
            "spool_bytes_max",
            _whole(2 * limits.SEGMENT_BYTES, 2**62),
            limits.SPOOL_BYTES_MAX,
            "Largest size of one stream's spool; see when_full.",
            "bytes",
        ),
        Setting(
            "spool_free_bytes_min",
            _whole(0, 2**62),
            limits.SPOOL_FREE_BYTES_MIN,
            "Free room on its file system below which a spool does not grow; see when_full.",
            "bytes",
        ),
        Setting(
            "when_full",
            _choice(*limits.WHEN_FULL),
            "drop_oldest",
            "What a full spool does: drop_oldest records each loss, block waits for room, error raises SpoolFull.",
        ),
        Setting(
            "fsync",
            _choice(*limits.FSYNC),
            "off",
            "When a spool is synced. off survives a kill, interval loses a second at a power loss, always no event.",
        ),
        Setting("run_id", _name, None, "Run that a worker belongs to; made from the time unless given."),
        Setting("agent_id", _name, "agent_0", "Agent that a worker's events name unless they name their own."),
        Setting("worker_id", _name, None, "Name of the worker process; host-pid unless given."),
        Setting(
            "mode",
            _choice("dual", "durable", "fast-lane", "off", "dry-run"),
            "dual",
            "What a worker does: dual stores and shows, durable stores and shows no frames, fast-lane shows frames on "
            "this machine and nothing else, off nothing, dry-run only validates and counts.",
        ),
        Setting("ring", _path, None, "Folder of the rings of frames; shared memory (/dev/shm) unless given."),
        Setting(
            "video",
            _choice("grid", "single", "off"),
            "grid",
            "Whose frames are shown: grid the first video_tiles environments', single the first one's, off none.",
        ),
        Setting("video_tiles", _whole(1, 64), 16, "How many environments of an agent a grid shows."),
        Setting("frame_fps", _whole(1, 1_000), 60, "Most frames a second in the ring of an agent.", "1/s"),
        Setting(
            "network_fps", _whole(1, 1_000), 20, "Most frames a second of each environment over the network.", "1/s"
        ),
        Setting(
            "store_frames",
            _storing,
            "off",
            "Which frames are stored: off, steps:N (whose step divides by N), episodes:N (all of each Nth episode), or "
            "best (those of each episode whose return is the best so far).",
        ),
        Setting("jpeg_quality", _whole(1, 100), 85, "Of frames that are stored, or sent over the network."),
        Setting(
            "capture",
            _captured,
            "all",
            "What a run's metadata say of its program: all, off, or some of versions (Python, system, libraries), git "
            "(commit, dirty or not), command (without secrets) and environment (id, arguments, spaces).",
        ),
        Setting(
            "system_metrics_s",
            _whole(0, 86_400),
            10,
            "How often a worker tells of CPU, memory, disk and GPU while its program emits; 0 is never.",
            "s",
        ),
        Setting("exit_flush_s", _seconds_from(0), 5.0, "How long a worker waits at its end for acknowledgements.", "s"),
        Setting(
            "streams_max",
            _whole(1, limits.STREAMS_MAX),
            limits.STREAMS_MAX,
            "How many streams the broker serves at once; further ones wait.",
        ),
        Setting(
            "lost_after_s",
            _seconds_from(3 * limits.LIVING_S),
            limits.LOST_AFTER_S,
            "How long a store waits for word of a worker before it calls its run lost.",
            "s",
        ),
        Setting(
            "frame_bytes_max",
            _whole(0, 2**62),
            limits.FRAME_BYTES_KEPT,
            "Most bytes of frames that a store keeps; over it the pictures of the oldest expire. 0 keeps all.",
            "bytes",
        ),
        Setting(
            "group_readable",
            _choice("on", "off"),
            "off",
            "on: the group of the store's files may read them, and copies of them; else their owner alone.",
        ),
        Setting(
            "required",
            _names,
            "store",
            "Durable subscribers that have to hold an event before it is acknowledged, with commas between.",
        ),
        Setting(
            "policy",
            _policy,
            "balanced",
            f"How a live client's queue in the broker behaves: {policy.FORMS}.",
        ),
        Setting(
            "metrics",
            _endpoint,
            OFF,
            "Port for Prometheus: the broker's metrics there, those of store and query service on the two above it.",
        ),
        Setting("log_level", _choice("debug", "info", "warning", "error"), "info", "The least that services log."),
        Setting("log_format", _choice("console", "json"), "console", "How the services write their logs, to stderr."),
    )
}


def resolve(
    name: str, given: Any = None, *, environ: Mapping[str, str] | None = None, file: Mapping[str, Any] | None = None
) -> Resolved:
    """The value of a setting. Raises `UsageError`, one sentence with the remedy, for a malformed one."""
    setting = SETTINGS[name]
    environ = os.environ if environ is None else environ
    if given is not None:
        return Resolved(_parse(setting, given, name.replace("_", "-")), "flag")
    if setting.variable in environ:
        return Resolved(_parse(setting, environ[setting.variable], setting.variable), "environment")
    file = load_file(environ) if file is None else file
    if name in file:
        if type(file[name]) not in (str, int, float):
            raise UsageError(f"{name} in {FILE_NAME} is {file[name]!r} and should be a text in quotes or a number")
        return Resolved(
            _parse(setting, file[name], f"{name} in {FILE_NAME}", absolute(_file_path(environ)).parent), "file"
        )
    return Resolved(setting.default, "default")


def load_file(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """What ``telefabric.toml`` says; nothing when there is none. Raises `UsageError` for a malformed one."""
    path = _file_path(environ)
    if not os.path.isfile(path):
        if "TELEFABRIC_CONFIG" in environ:
            raise UsageError(f"TELEFABRIC_CONFIG names {path}, which is no file: correct or unset it")
        return {}
    import tomllib

    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}: correct it, or move it away") from None
    unknown = sorted(set(found) - set(SETTINGS))
    if unknown:
        raise UsageError(f"{path} sets {unknown[0]!r}, which is no setting; there are: {', '.join(sorted(SETTINGS))}")
    return found


def _file_path(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("TELEFABRIC_CONFIG", FILE_NAME))


def _parse(setting: Setting, value: Any, where: str, folder: Path | None = None) -> Any:
    try:
        found = setting.parse(str(value))
    except ValueError as error:
        raise UsageError(f"{where} is {str(value)!r} and should be {error}") from None
    return absolute(found, folder) if isinstance(found, Path) else found


def absolute(path: Path, folder: Path | None = None) -> Path:
    """The path from `folder`, or from the current one. Raises `UsageError` when that has been removed."""
    try:
        return folder / path if folder else path.absolute()
    except FileNotFoundError:
        raise UsageError(f"{path} begins at the current folder, which is gone: change to one that exists") from None


def data_folder(given: Any = None) -> Path:
    """The folder of the store."""
    folder: Path | None = resolve("data", given).value
    return folder or user_data()


def spool_folder(given: Any = None) -> Path:
    """The folder of the workers' spools."""
    folder: Path | None = resolve("spool", given).value
    return folder or user_data() / "spool"


def user_data() -> Path:
    """Where store and spools are unless a setting says otherwise. Raises `UsageError` without a home folder."""
    import platformdirs  # takes 30 ms, and most workers are told where their spool is

    found = platformdirs.user_data_path("telefabric", appauthor=False)
    if found.parts[0] == "~":  # neither a variable nor the system names one
        raise UsageError("this user has no home folder: set HOME, or TELEFABRIC_DATA and TELEFABRIC_SPOOL")
    return absolute(found)
