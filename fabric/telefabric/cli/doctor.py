"""`telefabric doctor`: what is fine and what is wrong with this machine, and what to type.

Each check is in two parts: a look at the machine, and a verdict, which is a function of what was seen and does no input
or output. Nothing is changed, and nothing is written but an empty file that is gone at once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import click
import zmq

from telefabric import __version__, limits
from telefabric.address import DEFAULT, Address
from telefabric.cli.options import setting
from telefabric.errors import EnvironmentProblem, SpoolError, Unreachable, UsageError, WireError
from telefabric.filelock import FileLock
from telefabric.inquiry import ask_status
from telefabric.link import orphan_candidates
from telefabric.settings import data_folder, resolve, spool_folder
from telefabric.transport import common_options
from telefabric.wire import control

OK, WARNING, PROBLEM = "ok", "warning", "problem"

PYTHON_MIN = (3, 11)
ZMQ_MIN = (4, 3, 5)
SQLITE_MIN = (3, 51, 3)
QT_END = (6, 12)
STORE_LOG = "telemetry.sqlite-wal"
WORKERS = 1_000
FILES_A_WORKER = 3
"""A broker's connections to one worker process: control, data, live."""
FILES_OF_ITS_OWN = 100
DISK_LOW_BYTES = 1 << 30
DISK_FULL_BYTES = 100 * limits.MIB
SHM_LOW_BYTES = 128 * limits.MIB
"""Containers get 64 MiB by default, which is eleven 1080p pictures."""
CLOCK_OFF_S = 1.0
PORTS = {0: "control", 1: "data", 2: "live", 3: "durable", 4: "queries", 5: "tap", 6: "watch"}
_ASK_S = 1.5
_CLOCK_TRIES = 5
_LISTENING = "0A"

NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gfs2",
    "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs",
})  # fmt: skip
DEBIAN_PACKAGES = {
    "libEGL.so.1": "libegl1", "libGL.so.1": "libgl1", "libOpenGL.so.0": "libopengl0", "libGLX.so.0": "libglx0",
    "libxkbcommon.so.0": "libxkbcommon0", "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libdbus-1.so.3": "libdbus-1-3", "libfontconfig.so.1": "libfontconfig1", "libfreetype.so.6": "libfreetype6",
    "libglib-2.0.so.0": "libglib2.0-0", "libgthread-2.0.so.0": "libglib2.0-0", "libz.so.1": "zlib1g",
    "libX11.so.6": "libx11-6", "libX11-xcb.so.1": "libx11-xcb1", "libSM.so.6": "libsm6", "libICE.so.6": "libice6",
    "libxcb.so.1": "libxcb1", "libxcb-cursor.so.0": "libxcb-cursor0", "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0", "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0", "libxcb-render.so.0": "libxcb-render0",
    "libxcb-render-util.so.0": "libxcb-render-util0", "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-shm.so.0": "libxcb-shm0", "libxcb-sync.so.1": "libxcb-sync1", "libxcb-util.so.1": "libxcb-util1",
    "libxcb-xfixes.so.0": "libxcb-xfixes0", "libxcb-xkb.so.1": "libxcb-xkb1",
}  # fmt: skip
"""Which Debian or Ubuntu package has a library that Qt asks the system for."""
_QT_FILES = ("QtGui.abi3.so", "QtWidgets.abi3.so", "Qt/plugins/platforms/libqxcb.so")


class Finding(NamedTuple):
    """One row: what was looked at, how it is, one sentence on it, and what to do when it is not fine."""

    check: str
    state: str
    sentence: str
    remedy: str = ""


# -- verdicts ----------------------------------------------------------------------------------------------------
def judge_python(found: tuple[int, ...]) -> Finding:
    if found < PYTHON_MIN:
        return Finding(
            "python", PROBLEM, f"Python {dotted(found)} is older than {dotted(PYTHON_MIN)}.",
            "Install a newer one and make the environment again with it.",
        )  # fmt: skip
    return Finding("python", OK, f"Python {dotted(found)}, telefabric {__version__}.")


def judge_zmq(pyzmq: str, libzmq: tuple[int, ...]) -> Finding:
    if libzmq < ZMQ_MIN:
        return Finding(
            "zmq", PROBLEM, f"libzmq {dotted(libzmq)} is older than {dotted(ZMQ_MIN)}, on which delivery was measured.",
            "pip install -U --only-binary pyzmq pyzmq",
        )  # fmt: skip
    return Finding("zmq", OK, f"pyzmq {pyzmq} with libzmq {dotted(libzmq)}.")


def judge_sqlite(apsw: str | None, sqlite: tuple[int, ...]) -> Finding:
    if apsw is None:
        return Finding(
            "sqlite", WARNING, "apsw is not installed: this machine can emit, and neither store nor read.",
            "pip install 'telefabric[store]'",
        )  # fmt: skip
    if sqlite < SQLITE_MIN:
        return Finding(
            "sqlite", PROBLEM,
            f"SQLite {dotted(sqlite)} can corrupt a busy store; {dotted(SQLITE_MIN)} or newer cannot.",
            "pip install -U apsw",
        )  # fmt: skip
    return Finding("sqlite", OK, f"apsw {apsw} with SQLite {dotted(sqlite)}.")


def judge_qt(pyside: str | None, python: tuple[int, ...], missing: Sequence[str] | None) -> Finding:
    """`missing`: libraries that the system lacks; None when that could not be found out."""
    if pyside is None:
        return Finding("qt", OK, "PySide6 is not installed; only telefabric gui needs it: 'telefabric[gui]'.")
    if numbers(pyside) >= QT_END and python[:2] == (3, 11):
        return Finding(
            "qt", PROBLEM, f"PySide6 {pyside} on Python 3.11 aborts after some thousands of calls.",
            "pip install 'PySide6-Essentials<6.12'",
        )  # fmt: skip
    if missing is None:
        return Finding("qt", OK, f"PySide6 {pyside}; without ldd its system libraries were not looked at.")
    if missing:
        packages = sorted({DEBIAN_PACKAGES[name] for name in missing if name in DEBIAN_PACKAGES})
        unknown = sorted(name for name in missing if name not in DEBIAN_PACKAGES)
        remedy = f"sudo apt-get install {' '.join(packages)}" if packages else ""
        others = f"install what brings {', '.join(unknown)}" if unknown else ""
        return Finding(
            "qt", WARNING, f"telefabric gui cannot open a window: the system lacks {', '.join(missing)}.",
            "; ".join(part for part in (remedy, others) if part),
        )  # fmt: skip
    return Finding("qt", OK, f"PySide6 {pyside}, and all system libraries that it needs.")


def judge_others(versions: dict[str, str | None]) -> Finding:
    absent = [name for name, found in versions.items() if found is None]
    if absent:
        return Finding("packages", PROBLEM, f"{' and '.join(absent)} cannot be found.", "pip install telefabric")
    return Finding("packages", OK, ", ".join(f"{name} {found}" for name, found in versions.items()) + ".")


class BrokerSeen(NamedTuple):
    """What answered at the address."""

    status: dict[str, Any] | None
    query: str | None = None
    taken: Mapping[int, str] | None = None
    """Ports of the address that somebody listens on, and who; None when it is on another machine."""


def judge_broker(address: Address, seen: BrokerSeen) -> Finding:
    if seen.status is not None:
        streams, live = len(seen.status.get("streams", ())), len(seen.status.get("live", ()))
        return Finding(
            "broker", OK,
            f"A broker of protocol {control.PROTOCOL} answers at {address.url}: "
            f"{counted(streams, 'stream')}, {counted(live, 'live subscriber')}.",
        )  # fmt: skip
    listen = "" if address.url == DEFAULT else f" --listen {address.url}"
    if seen.taken is None:
        return Finding(
            "broker", PROBLEM, f"Nobody answers at {address.url}, which is on another machine.",
            f"Start it there with telefabric up{listen}, or correct TELEFABRIC_CONNECT.",
        )  # fmt: skip
    if not seen.taken:
        last = address.port + max(PORTS)
        return Finding(
            "broker", WARNING, f"Nobody answers at {address.url}; ports {address.port} to {last} are free.",
            f"telefabric up{listen}",
        )  # fmt: skip
    taken = ", ".join(f"{port} ({PORTS[port - address.port]}, by {who})" for port, who in seen.taken.items())
    return Finding(
        "broker", PROBLEM, f"No broker of this version answers at {address.url}, and taken are: {taken}.",
        f"Stop what listens there, or choose other ports: telefabric up --listen tcp://127.0.0.1:{_elsewhere(address)}",
    )  # fmt: skip


def judge_store(address: Address, seen: BrokerSeen) -> Finding | None:
    """None when there is no broker that could have one."""
    if seen.status is None:
        return None
    absent = seen.status.get("absent", [])
    if absent:
        return Finding(
            "store", PROBLEM, f"Nothing is stored: no {' and no '.join(absent)} is attached to the broker.",
            f"telefabric store --connect {address.url}",
        )  # fmt: skip
    names = ", ".join(one["name"] for one in seen.status.get("durable", ()))
    if seen.query is None:
        return Finding(
            "store", WARNING, f"{names} is attached, and nobody answers queries: clients see no history.",
            f"telefabric store --connect {address.url}",
        )  # fmt: skip
    return Finding("store", OK, f"{names} is attached and answers queries at {address.resolve(seen.query)}.")


def judge_clock(offset_s: float | None) -> Finding | None:
    if offset_s is None:
        return None
    if abs(offset_s) > CLOCK_OFF_S:
        way = "ahead of" if offset_s < 0 else "behind"
        return Finding(
            "clock", WARNING,
            f"This machine's clock is {abs(offset_s):.1f} s {way} the broker's: times look wrong, order does not.",
            "sudo timedatectl set-ntp true",
        )  # fmt: skip
    return Finding("clock", OK, f"The clock is within {abs(offset_s) * 1000:.1f} ms of the broker's.")


def judge_open_files(soft: int, hard: int) -> Finding:
    """For a broker that is started from this shell."""
    needed = WORKERS * FILES_A_WORKER + FILES_OF_ITS_OWN
    if soft >= needed:
        return Finding("open files", OK, f"The limit of {soft} open files is enough for {WORKERS} workers.")
    workers = max((soft - FILES_OF_ITS_OWN) // FILES_A_WORKER, 0)
    remedy = f"ulimit -n {needed}, in the shell that starts the broker"
    if hard < needed:
        remedy = (
            f"Raise the hard limit of {hard} first (LimitNOFILE= in a unit, /etc/security/limits.conf), then {remedy}"
        )
    state = WARNING if workers else PROBLEM
    return Finding(
        "open files", state, f"The limit of {soft} open files lets a broker serve {workers} workers.", remedy
    )


def judge_shm(total: int | None) -> Finding:
    if total is None:
        return Finding(
            "/dev/shm", WARNING, "There is no /dev/shm: pictures can only take the slow lane.",
            "sudo mount -t tmpfs tmpfs /dev/shm",
        )  # fmt: skip
    if total < SHM_LOW_BYTES:
        return Finding(
            "/dev/shm", WARNING, f"/dev/shm holds {size(total)}, which is little for pictures.",
            "docker run --shm-size=1g, or: sudo mount -o remount,size=1G /dev/shm",
        )  # fmt: skip
    return Finding("/dev/shm", OK, f"/dev/shm holds {size(total)}.")


class FolderSeen(NamedTuple):
    path: Path
    error: str
    """Why it cannot be written; empty when it can."""
    free: int
    file_system: str


def judge_folder(check: str, variable: str, seen: FolderSeen) -> Finding:
    if seen.error:
        return Finding(
            check, PROBLEM, f"{seen.path} cannot be written: {seen.error}.",
            f"Correct its rights, or set {variable} to a folder that can be.",
        )  # fmt: skip
    if seen.file_system in NETWORK_FILE_SYSTEMS:
        return Finding(
            check, PROBLEM,
            f"{seen.path} is on a network file system ({seen.file_system}), on which memory maps and locks fail.",
            f"Set {variable} to a folder on a local disk.",
        )  # fmt: skip
    free = f"{size(seen.free)} free on {seen.file_system or 'its disk'}"
    if seen.free < DISK_LOW_BYTES:
        state = PROBLEM if seen.free < DISK_FULL_BYTES else WARNING
        return Finding(
            check, state, f"{seen.path} has only {free}.", f"Make room, or set {variable} to another folder."
        )
    return Finding(check, OK, f"{seen.path} can be written, {free}.")


def judge_store_log(log: Path, log_bytes: int) -> Finding | None:
    """`log`: the write-ahead log beside the store. None when there is none, or a short one."""
    if log_bytes <= limits.LOG_BYTES_LONG:
        return None
    return Finding(
        "store log", WARNING,
        f"{log} has grown to {size(log_bytes)}: a process reads the store and does not end; "
        f"at {size(limits.LOG_BYTES_MAX)} the store waits for it.",
        f"lsof {log} names who has it open; end what reads on and on.",
    )  # fmt: skip


def judge_spools(root: Path, left: Sequence[int], error: str, address: Address) -> Finding:
    """`left`: the bytes on the disk of each spool whose worker is gone."""
    if error:
        return Finding("left spools", PROBLEM, f"{error}.", "Set TELEFABRIC_SPOOL to the workers' folder.")
    if not left:
        return Finding("left spools", OK, f"No dead worker left a spool in {root}.")
    return Finding(
        "left spools", WARNING,
        f"{counted(len(left), 'spool')} of dead workers wait in {root} ({size(sum(left))} on the disk).",
        f"telefabric spool drain --connect {address.url}",
    )  # fmt: skip


def missing_libraries(ldd: str) -> list[str]:
    """What the output of ldd calls not found."""
    lines = (line.split() for line in ldd.splitlines())
    return sorted({words[0] for words in lines if words[1:4] == ["=>", "not", "found"]})


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds an absolute path, by the text of /proc/mounts; empty when unknown."""
    found = (-1, "")
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = Path(words[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if path.is_relative_to(point) and len(point.parts) >= found[0]:  # a later mount covers an earlier one
            found = (len(point.parts), words[2])
    return found[1]


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    found: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def dotted(parts: Iterable[int]) -> str:
    return ".".join(map(str, parts))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1_000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:,.1f} TB"


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _elsewhere(address: Address) -> int:
    return address.port + 20 if address.port + 30 < 65_536 else address.port - 20


# -- looks -------------------------------------------------------------------------------------------------------
def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def look_at_sqlite() -> tuple[str | None, tuple[int, ...]]:
    try:
        import apsw
    except ImportError:
        return None, ()
    return apsw.apsw_version(), numbers(apsw.sqlite_lib_version())


def look_for_qt_libraries() -> list[str] | None:
    """What the loader cannot find for Qt's window and its X11 plugin. Qt itself is not loaded."""
    found = importlib.util.find_spec("PySide6")
    ldd = shutil.which("ldd")
    if found is None or ldd is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0])
    files = [str(folder / name) for name in _QT_FILES if (folder / name).exists()]
    done = subprocess.run(
        [ldd, *files], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}, timeout=30
    )
    return missing_libraries(done.stdout)


def look_at_broker(address: Address) -> BrokerSeen:
    if not _refuses(address):
        try:
            reply = ask_status(address, _ASK_S)
        except Unreachable:
            pass  # what does answer there is told below
        else:
            return BrokerSeen(reply.status, reply.endpoints.query)
    return BrokerSeen(None, taken=_listeners(address))


def _refuses(address: Address) -> bool:
    """Nobody listens there, which need not be waited for."""
    try:
        with socket.create_connection((address.host.strip("[]"), address.port), _ASK_S):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False  # a name or a network that may answer yet


def look_at_clock(address: Address) -> float | None:
    """Seconds that the broker's clock is ahead of this one, by the quickest of some round trips."""
    found: list[tuple[int, float]] = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        common_options(dealer)
        dealer.connect(address.url)
        for _ in range(_CLOCK_TRIES):
            dealer.send(control.encode(control.Beat(time.monotonic_ns(), [])))
            if not dealer.poll(int(_ASK_S * 1000)):
                break
            now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            try:
                message = control.decode(dealer.recv_multipart()[-1])
            except WireError:
                break
            if isinstance(message, control.Alive):
                round_trip_ns = now_ns - message.echo_ns
                found.append((round_trip_ns, (message.broker_ns - wall_ns + round_trip_ns // 2) / 1e9))
    return min(found)[1] if found else None


def _listeners(address: Address) -> dict[int, str] | None:
    """Ports of a broker at the address that are taken; None when it is on another machine."""
    try:
        address.require_loopback()
    except UsageError:
        return None
    by_port = dict(_listening_sockets())
    wanted = range(address.port, address.port + len(PORTS))
    return {port: _owner(by_port[port]) for port in wanted if port in by_port}


def _listening_sockets() -> Iterator[tuple[int, str]]:
    """Port and inode of every TCP socket that listens on this machine."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # no Linux, or no IPv6
            continue
        for words in map(str.split, lines):
            if words[3] == _LISTENING:
                yield int(words[1].rpartition(":")[2], 16), words[9]


def _owner(inode: str) -> str:
    """The process that holds a socket, as far as this user may look."""
    link = f"socket:[{inode}]"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(entry) == link for entry in (process / "fd").iterdir()):
                return f"process {process.name}, {(process / 'comm').read_text().strip()}"
        except OSError:  # it has just ended, or is another user's
            continue
    return "a process of another user"


def look_at_folder(path: Path) -> FolderSeen:
    path = path.absolute()
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    error = ""
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as problem:
        error, free = problem.strerror or str(problem), 0
    try:
        mounts = Path("/proc/mounts").read_text()
    except OSError:
        mounts = ""
    return FolderSeen(path, error, free, file_system_of(there.resolve(), mounts))


def look_at_size(file: Path) -> int:
    """Its length; 0 when it is not there."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def look_at_shm() -> int | None:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def look_for_spools(root: Path) -> tuple[list[int], str]:
    """The bytes of each spool whose owner is gone; and why nobody can tell, if so."""
    try:
        return [_bytes(spool) for spool in orphan_candidates(root) if _is_left(spool)], ""
    except (SpoolError, OSError) as error:
        return [], str(error)


def _is_left(spool: Path) -> bool:
    if (spool / "closed").exists() or not (spool / "lock").exists():
        return False
    lock = FileLock.take(spool / "lock")
    if lock is None:
        return False
    lock.release()
    return True


def _bytes(folder: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in folder.iterdir())


def look_at_open_files() -> tuple[int, int]:
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 30
    return soft if soft >= 0 else most, hard if hard >= 0 else most


def examine(address: Address, data: Path, spool: Path) -> list[Finding]:
    """All findings, in order."""
    python = tuple(sys.version_info[:3])
    broker = look_at_broker(address)
    found = [
        judge_python(python),
        judge_zmq(zmq.__version__, zmq.zmq_version_info()),
        judge_others({name: package_version(name) for name in ("msgspec", "msgpack", "platformdirs")}),
        judge_sqlite(*look_at_sqlite()),
        judge_qt(package_version("PySide6-Essentials") or package_version("PySide6"), python, look_for_qt_libraries()),
        judge_broker(address, broker),
        judge_store(address, broker),
        judge_clock(look_at_clock(address) if broker.status is not None else None),
        judge_open_files(*look_at_open_files()),
        judge_shm(look_at_shm()),
        judge_folder("data folder", "TELEFABRIC_DATA", look_at_folder(data)),
        judge_store_log(data / STORE_LOG, look_at_size(data / STORE_LOG)),
        judge_folder("spool folder", "TELEFABRIC_SPOOL", look_at_folder(spool)),
        judge_spools(spool, *look_for_spools(spool), address),
    ]
    return [finding for finding in found if finding is not None]


# -- the command -------------------------------------------------------------------------------------------------
@click.command()
@setting("connect")
@setting("data")
@setting("spool")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(connect: str | None, data: str | None, spool: str | None, as_json: bool) -> None:
    """Check this machine, and say what is wrong and what to type.

    Versions, ports, who answers at the address, limits, Qt's system libraries, folders, disks, left-behind spools and
    the clock. Nothing is changed. Ends with 1 when there is a problem; warnings are none.

    \b
    Example:
      telefabric doctor
      telefabric doctor --connect tcp://127.0.0.1:7750 --json | jq '.findings[] | select(.state != "ok")'
    """
    address = Address.parse(resolve("connect", connect).value)
    findings = examine(address, data_folder(data), spool_folder(spool))
    problems = sum(finding.state == PROBLEM for finding in findings)
    if as_json:
        rows = [finding._asdict() for finding in findings]
        click.echo(json.dumps({"healthy": not problems, "findings": rows}))
    else:
        _print(findings)
    if problems:
        raise EnvironmentProblem(f"{problems} of {len(findings)} checks found a problem: each row says what to do")


def _print(findings: Iterable[Finding]) -> None:
    """On a terminal in colour; a remedy under its row."""
    colours = {OK: "green", WARNING: "yellow", PROBLEM: "red"}
    for finding in findings:
        state = click.style(f"{finding.state:<8}", fg=colours[finding.state])
        click.echo(f"{state} {finding.check:<13} {finding.sentence}")
        if finding.remedy:
            click.echo(f"{'':<22} → {finding.remedy}")
