"""The one table of settings: flags, environment, `telefabric.toml` and defaults all come from here.

A flag wins over the environment (``TELEFABRIC_…``), the environment over ``telefabric.toml`` in the current folder (or
the file that ``TELEFABRIC_CONFIG`` names), and that file over the default. Paths are made absolute here, so that they
stay valid when the program changes its folder. A relative path in a flag or a variable begins at the current folder,
one in a file at the folder of that file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from telefabric import limits
from telefabric.address import DEFAULT, PORT_MAX, Address
from telefabric.errors import UsageError
from telefabric.keys import saved_connections
from telefabric.wire import policy
from telefabric.wire.names import DEMAND, is_name, is_printable

FILE_NAME = "telefabric.toml"
STORE_FILE_NAME = "telemetry.sqlite"
OFF = "off"
_SHM = Path("/dev/shm")


class Setting(NamedTuple):
    """One setting. `parse` turns a string into the value, or raises `ValueError` that says which values are valid."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str

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


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError(DEMAND)
    return value


def _address(value: str, demand: str = f"an address such as {DEFAULT}") -> Address:
    try:
        return Address.parse(value)
    except UsageError:
        raise ValueError(demand) from None


def _url(value: str) -> str:
    return _address(value).url


def _peer(value: str) -> str:
    """An address, or the name of a saved connection; `broker_address` has the keys for it."""
    if saved_connections.is_saved(value):
        return value
    found = _address(value, f"an address such as {DEFAULT}, or the name of a saved connection (telefabric join)")
    if found.host == "*" or not found.port:
        raise ValueError(f"the address of one broker, such as {DEFAULT}")
    return found.url


def broker_address(given: Any = None) -> Address:
    """The broker of the setting ``connect``, with the keys for it."""
    return saved_connections.address_of(resolve("connect", given).value)


def _number(convert: Callable[[str], float], low: float, high: float, demand: str) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = convert(value)
        except ValueError:
            raise ValueError(demand) from None
        if not low <= number <= high:
            raise ValueError(demand)
        return number

    return parse


def _whole(low: int, high: int) -> Callable[[str], float]:
    return _number(int, low, high, f"a whole number from {low} to {high}")


def _seconds_from(low: float) -> Callable[[str], float]:
    return _number(float, low, sys.float_info.max, f"a number of seconds, {low:g} or more")


def _names(value: str) -> list[str]:
    """One or more names."""
    names = [name.strip() for name in value.split(",")]
    if len(set(names)) < len(names) or not all(names) or not is_printable(value):
        raise ValueError("one or more different names, with commas between")
    return list(map(_name, names))


def _endpoint(value: str) -> str:
    """An address of this machine, a port of it, or off."""
    if value == OFF:
        return OFF
    url = f"tcp://127.0.0.1:{value}" if value.isdecimal() else value
    return _address(url, "off, a port such as 9464, or an address such as tcp://127.0.0.1:9464").url


def metrics_endpoint(given: Any = None, offset: int = 0) -> Address | None:
    """The address of a service's metrics, `offset` ports above the setting; None while metrics are off.

    Raises `UsageError` for an address beyond loopback, and for a port with no room above it.
    """
    url = resolve("metrics", given).value
    if url == OFF:
        return None
    found = Address.parse(url)
    found.require_loopback()
    if found.port + offset > PORT_MAX:
        raise UsageError(
            f"metrics at port {found.port} leave no room for those of store and query service on the two ports above "
            f"it: choose a port up to {PORT_MAX - 2} with --metrics"
        )
    return found.beside(offset)


def _policy(value: str) -> str:
    policy.parse_policy(value)
    return value


def _storing(value: str) -> tuple[str, int]:
    """The two parts of off, best, steps:N or episodes:N; N is 1 where there is none."""
    name, colon, number = value.partition(":")
    plain = name in ("off", "best") and not colon
    if not plain and not (name in ("steps", "episodes") and number.isdecimal() and 0 < int(number) < 2**31):
        raise ValueError("off, best, steps:N or episodes:N")
    return name, int(number or 1)


CAPTURED = ("versions", "git", "command", "environment")


def _captured(value: str) -> frozenset[str]:
    """Of `CAPTURED`: all, none for off, or some."""
    names = CAPTURED if value == "all" else () if value == OFF else value.split(",")
    if not set(names) <= set(CAPTURED):
        raise ValueError(f"all, off, or some of {', '.join(CAPTURED)} with commas between")
    return frozenset(names)


def _choice(*names: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in names:
            raise ValueError("one of " + ", ".join(names))
        return value

    return parse


def _path(value: str) -> Path:
    if not value.strip():
        raise ValueError("some text")
    try:
        if "\0" not in value:
            return Path(value).expanduser()
    except RuntimeError:  # ~user without a home folder
        pass
    raise ValueError("a path")


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("connect", _peer, DEFAULT, "The broker that workers, stores and readers connect to: "
                "an address, or the name of a saved connection."),
        Setting("listen", _url, DEFAULT,
                "Address at which the broker listens; its other sockets use the ports above it."),
        Setting("data", _path, None, "Folder of the store; by default the user's data folder."),
        Setting("spool", _path, None, "Folder of the workers' spools; by default spool/ in the user's data folder."),
        Setting("spool_bytes_max", _whole(2 * limits.SEGMENT_BYTES, 2**62), limits.SPOOL_BYTES_MAX,
                "Largest size of one stream's spool; see when_full."),
        Setting("spool_free_bytes_min", _whole(0, 2**62), limits.SPOOL_FREE_BYTES_MIN,
                "A spool does not grow while its file system has less free room than this; see when_full."),
        Setting("when_full", _choice(*limits.WHEN_FULL), "drop_oldest",
                "What happens when a spool is full: drop_oldest drops the oldest events and records the loss, block "
                "waits for room, error raises SpoolFull."),
        Setting("fsync", _choice(*limits.FSYNC), "off",
                "When a spool is synced to disk. off: events survive a kill; interval: a power loss costs about a "
                "second of events; always: a power loss costs nothing."),
        Setting("run_id", _name, None, "The run that a worker belongs to; by default a name made from the time."),
        Setting("agent_id", _name, "agent_0", "The agent of all events that name no agent themselves."),
        Setting("worker_id", _name, None, "Name of the worker process; by default host-pid."),
        Setting("mode", _choice("dual", "durable", "fast-lane", "off", "dry-run"), "dual",
                "What a worker does: dual stores events and shows frames; durable stores events only; fast-lane only "
                "shows frames on this machine; off does nothing; dry-run only validates and counts."),
        Setting("ring", _path, None,
                "Folder of the frame rings, and of the socket for the broker's own user; by default shared memory "
                "(/dev/shm)."),
        Setting("fastlane", _choice("1", "0"), "1",
                "1: frames go to clients on this machine through shared memory; 0: only over the network."),
        Setting("video", _choice("grid", "single", "off"), "grid",
                "Which environments' frames are shown: grid shows the first video_tiles environments, single the "
                "first one, off none."),
        Setting("video_tiles", _whole(1, 64), 16, "Number of environments of an agent that a grid shows."),
        Setting("frame_fps", _whole(1, 1_000), 60, "Largest number of frames per second in an agent's ring."),
        Setting("network_fps", _whole(1, 1_000), 20,
                "Largest number of frames per second that each environment sends over the network."),
        Setting("store_frames", _storing, "off",
                "Which frames are stored: off; steps:N (every Nth step); episodes:N (all frames of every Nth "
                "episode); or best (all frames of each episode whose return is the best so far)."),
        Setting("jpeg_quality", _whole(1, 100), 85, "JPEG quality of frames that are stored or sent over the network."),
        Setting("capture", _captured, "all",
                "What a run's metadata record about its program: all, off, or some of versions (Python, system, "
                "libraries), git (commit, uncommitted changes), command (without secrets) and environment (id, "
                "arguments, spaces)."),
        Setting("system_metrics_s", _whole(0, 86_400), 10,
                "Seconds between a worker's metrics of CPU, memory, disk and GPU while its program emits; 0: no "
                "metrics."),
        Setting("exit_flush_s", _seconds_from(0), 5.0, "How long a worker that ends waits for acknowledgements."),
        Setting("streams_max", _whole(1, limits.STREAMS_MAX), limits.STREAMS_MAX,
                "How many streams the broker serves at once; further streams wait."),
        Setting("lost_after_s", _seconds_from(3 * limits.LIVING_S), limits.LOST_AFTER_S,
                "How long a store hears nothing from a worker before it calls the worker's run lost."),
        Setting("frame_bytes_max", _whole(0, 2**62), limits.FRAME_BYTES_KEPT,
                "Largest size of all frames in a store; above it the pictures of the oldest frames expire. 0: no "
                "limit."),
        Setting("group_readable", _choice("on", "off"), "off",
                "on: the group of the store's files may read them and their backups; off: only their owner."),
        Setting("store_name", _name, "store",
                "Name of the store as a durable subscriber: each store of a broker has another."),
        Setting("required", _names, "store",
                "Names of the durable subscribers that must hold an event before it is acknowledged, separated by "
                "commas."),
        Setting("tap", _choice("auto", "on", OFF), "auto",
                "The tap, by which every user of the broker's machine reads live events: auto has it while there are "
                "no keys."),
        Setting("policy", _policy, "balanced", f"How the broker's queue for a live client behaves: {policy.FORMS}."),
        Setting("memory_limit", _whole(limits.CLIENT_MEMORY_MB_MIN, 2**20), limits.CLIENT_MEMORY_MB,
                "Megabytes of memory that the window may take; above it frames and the oldest rows leave, and are read "
                "again when they are wanted."),
        Setting("metrics", _endpoint, OFF,
                "Port for Prometheus: the broker's metrics; those of store and query service are on the next two "
                "ports."),
        Setting("log_level", _choice("debug", "info", "warning", "error"), "info",
                "Lowest level of the lines that services log."),
        Setting("log_format", _choice("console", "json"), "console",
                "Format of the services' logs, which go to stderr."),
    )
}  # fmt: skip


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
    if name not in file:
        default = setting.default
        return Resolved(setting.parse(default) if isinstance(default, str) else default, "default")
    if type(file[name]) not in (str, int, float):
        raise UsageError(f"{name} in {FILE_NAME} is {file[name]!r} and should be a text in quotes or a number")
    folder = absolute(_file_path(environ)).parent
    return Resolved(_parse(setting, file[name], f"{name} in {FILE_NAME}", folder), "file")


def load_file(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """The settings in ``telefabric.toml``; empty without that file. Raises `UsageError` for a malformed one."""
    path = _file_path(environ)
    if not os.path.isfile(path):
        if "TELEFABRIC_CONFIG" in environ:
            raise UsageError(f"TELEFABRIC_CONFIG names {path}, which is not a file: correct or unset it")
        return {}
    import tomllib

    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}: correct it, or move it away") from None
    unknown = sorted(set(found) - set(SETTINGS))
    if unknown:
        raise UsageError(
            f"{path} sets {unknown[0]!r}, which is not a setting; the settings are: {', '.join(sorted(SETTINGS))}"
        )
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
    """The path from `folder`, or from the current folder. Raises `UsageError` when that has been removed."""
    try:
        return folder / path if folder else path.absolute()
    except FileNotFoundError:
        raise UsageError(f"{path} begins at the current folder, which is gone: change to one that exists") from None


def data_folder(given: Any = None) -> Path:
    """The folder of the store."""
    return resolve("data", given).value or user_data()


def spool_folder(given: Any = None) -> Path:
    """The folder of the workers' spools."""
    return resolve("spool", given).value or user_data() / "spool"


def runtime_folder(base: Path | None = None) -> Path:
    """What the programs of this user share on this machine, rings and sockets: in `base`, else in that of the setting
    ``ring``, else in shared memory, else in the temporary folder."""
    chosen = base or resolve("ring").value or system_runtime_folder()
    return chosen.absolute() / f"telefabric-{os.getuid() if hasattr(os, 'getuid') else 0}"


def system_runtime_folder() -> Path:
    """Where every user may make a folder that a restart of the machine may empty."""
    import tempfile  # most systems have shared memory, and most processes ask for neither

    return _SHM if _SHM.is_dir() else Path(tempfile.gettempdir())


def user_config() -> Path:
    """The folder of saved connections and of what the client remembers. Raises `UsageError` without a home folder."""
    return saved_connections.folder().parent


def user_data() -> Path:
    """The default folder of store and spools. Raises `UsageError` without a home folder."""
    import platformdirs  # takes 30 ms, and most workers have a setting for their spool

    found = platformdirs.user_data_path("telefabric", appauthor=False)
    if found.parts[0] == "~":  # neither a variable nor the system names a home folder
        raise UsageError("this user has no home folder: set HOME, or TELEFABRIC_DATA and TELEFABRIC_SPOOL")
    return absolute(found)
