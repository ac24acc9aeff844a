"""Looks at Python and the packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from telefabric.doctor.checks.installation import missing_libraries
from telefabric.doctor.finding import numbers

_QT_FILES = ("QtGui.abi3.so", "QtWidgets.abi3.so", "Qt/plugins/platforms/libqxcb.so")


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
