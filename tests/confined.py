"""Runs a command without what a unit of systemd forbids: system calls, address families, memory that becomes code.

``python confined.py UNIT COMMAND…``. It does with libseccomp what systemd does, for machines that systemd does not run.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

_ALLOW, _REFUSE, _EQUALS = 0x7FFF0000, 0x00050000, 4
_PR_SET_MDWE = 65


class _Compared(ctypes.Structure):
    """libseccomp's ``scmp_arg_cmp``."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def why_not() -> str:
    """Why nothing can be confined here; empty when it can."""
    if shutil.which("systemd-analyze") is None or ctypes.util.find_library("seccomp") is None:
        return "systemd-analyze and libseccomp"
    return ""


def inside(unit: Path, command: list[str]) -> list[str]:
    return [sys.executable, __file__, str(unit), *command]


def values(unit: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


def allowed_calls(unit: str) -> set[str]:
    """As the lines of SystemCallFilter say, one after the other."""
    allowed: set[str] = set()
    for line in values(unit, "SystemCallFilter"):
        names = {name for word in line.removeprefix("~").split() for name in _members(word)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def _members(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return {name for line in lines if line and not line.startswith("#") for name in _members(line)}


def confine(unit: str) -> None:
    """This process and all that it starts. Raises `OSError`."""
    families = [getattr(socket, name) for name in " ".join(values(unit, "RestrictAddressFamilies")).split()]
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_REFUSE | errno.EPERM)))
    for name in sorted(allowed_calls(unit)):
        number = library.seccomp_syscall_resolve_name(name.encode())
        for family in families if name == "socket" else [None]:
            compared = (_Compared * 1)(_Compared(0, _EQUALS, family or 0, 0))
            count = 0 if family is None else 1
            library.seccomp_rule_add_array(rules, ctypes.c_uint32(_ALLOW), number, count, compared)
    if values(unit, "MemoryDenyWriteExecute") == ["yes"]:
        ctypes.CDLL(None).prctl(_PR_SET_MDWE, 1, 0, 0, 0)  # fails before Linux 6.3, where it is not tested
    if library.seccomp_load(rules) != 0:
        raise OSError("the kernel does not take the filter")


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text())
    os.execv(sys.argv[2], sys.argv[2:])
