"""Verdicts on Python and the packages. No input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from telefabric import __version__
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding, dotted, numbers

PYTHON_MIN = (3, 11)
ZMQ_MIN = (4, 3, 5)
SQLITE_MIN = (3, 51, 3)
QT_END = (6, 12)
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


def judge_display(pyside: str | None, platform: str, environ: Mapping[str, str]) -> Finding | None:
    """Whether a window could open in this session. None when that does not matter or cannot be told."""
    if pyside is None or not platform.startswith("linux"):
        return None
    for name in ("QT_QPA_PLATFORM", "WAYLAND_DISPLAY", "DISPLAY"):
        if environ.get(name):
            return Finding("display", OK, f"{name} is {environ[name]}.")
    return Finding(
        "display", WARNING, "Neither DISPLAY nor WAYLAND_DISPLAY is set, so telefabric gui cannot open a window.",
        "telefabric gui, on your desktop with this machine's ports forwarded (ssh -L), or log in with ssh -X",
    )  # fmt: skip


def judge_others(versions: dict[str, str | None]) -> Finding:
    absent = [name for name, found in versions.items() if found is None]
    if absent:
        return Finding("packages", PROBLEM, f"{' and '.join(absent)} cannot be found.", "pip install telefabric")
    return Finding("packages", OK, ", ".join(f"{name} {found}" for name, found in versions.items()) + ".")


def missing_libraries(ldd: str) -> list[str]:
    """What the output of ldd calls not found."""
    lines = (line.split() for line in ldd.splitlines())
    return sorted({words[0] for words in lines if words[1:4] == ["=>", "not", "found"]})
