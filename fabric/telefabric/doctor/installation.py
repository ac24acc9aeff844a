"""Python, the packages, and what Qt needs of the system."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from telefabric import __version__
from telefabric.doctor.finding import Finding, dotted, numbers, say

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
_QT_FILES = ("QtGui.abi3.so", "QtWidgets.abi3.so", "Qt/plugins/platforms/libqxcb.so")


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
    """The libraries that Qt's window and its X11 plugin lack. Qt itself is not loaded."""
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


def missing_libraries(ldd: str) -> list[str]:
    """The libraries that the output of ldd calls not found."""
    lines = (line.split() for line in ldd.splitlines())
    return sorted({words[0] for words in lines if words[1:4] == ["=>", "not", "found"]})


# -- verdicts ----------------------------------------------------------------------------------------------------
def judge_python(found: tuple[int, ...]) -> Finding:
    what = "old" if found < PYTHON_MIN else "fine"
    return say("python", what, found=dotted(found), least=dotted(PYTHON_MIN), version=__version__)


def judge_zmq(pyzmq: str, libzmq: tuple[int, ...]) -> Finding:
    what = "old" if libzmq < ZMQ_MIN else "fine"
    return say("zmq", what, pyzmq=pyzmq, found=dotted(libzmq), least=dotted(ZMQ_MIN))


def judge_sqlite(apsw: str | None, sqlite: tuple[int, ...]) -> Finding:
    what = "absent" if apsw is None else "old" if sqlite < SQLITE_MIN else "fine"
    return say("sqlite", what, apsw=apsw, found=dotted(sqlite), least=dotted(SQLITE_MIN))


def judge_qt(pyside: str | None, python: tuple[int, ...], missing: Sequence[str] | None) -> Finding:
    """`missing`: libraries that the system lacks; None when that could not be found out."""
    if pyside is None:
        return say("qt", "absent")
    if numbers(pyside) >= QT_END and python[:2] == (3, 11):
        return say("qt", "aborts", pyside=pyside)
    if not missing:
        return say("qt", "unknown" if missing is None else "fine", pyside=pyside)
    packages = sorted({DEBIAN_PACKAGES[name] for name in missing if name in DEBIAN_PACKAGES})
    unknown = sorted(name for name in missing if name not in DEBIAN_PACKAGES)
    remedies = (
        f"sudo apt-get install {' '.join(packages)}" if packages else "",
        f"install what brings {', '.join(unknown)}" if unknown else "",
    )
    return say("qt", "lacks", missing=", ".join(missing), remedy="; ".join(filter(None, remedies)))


def judge_display(pyside: str | None, platform: str, environ: Mapping[str, str]) -> Finding | None:
    """Whether a window could open in this session. None if that does not matter or cannot be found out."""
    if pyside is None or not platform.startswith("linux"):
        return None
    for name in ("QT_QPA_PLATFORM", "WAYLAND_DISPLAY", "DISPLAY"):
        if environ.get(name):
            return say("display", "fine", name=name, value=environ[name])
    return say("display", "absent")


def judge_others(versions: dict[str, str | None]) -> Finding:
    absent = [name for name, found in versions.items() if found is None]
    if absent:
        return say("packages", "absent", absent=" and ".join(absent))
    return say("packages", "fine", versions=", ".join(f"{name} {found}" for name, found in versions.items()))
