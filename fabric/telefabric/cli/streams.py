"""This process's own streams and terminal, made fit for use before a command reads, opens or writes anything.

A closed standard stream is opened on nothing: else the next file or socket would take its number, and what is printed
would go into that. What is written to a closed standard output fails, as on a full disk; what standard error
cannot take is not told. Characters that an encoding does not have are written in others.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

_PLAINER = {"\u202f": " ", "\u2026": "...", "\u2192": "->", "\ufffd": "?"}
_ERRORS = "telefabric.plainer"
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Of a write to what is open already. Stores and spools tell theirs by errors of their own: these are the output's."""


def prepare() -> None:
    """Call it once, first of all."""
    if os.environ.get("COLUMNS") == "0":  # some set it without a terminal: the width is not known
        del os.environ["COLUMNS"]
    if sys.stdin is None:
        sys.stdin = _open_on_nothing(0, os.O_RDONLY, "r")
    if sys.stdout is None:
        sys.stdout = _open_on_nothing(1, os.O_RDONLY, "w")
        _UNWRITABLE.add(errno.EBADF)
    if sys.stderr is None:
        sys.stderr = _open_on_nothing(2, os.O_WRONLY, "w")
    codecs.register_error(_ERRORS, _in_other_characters)
    sys.stdout.reconfigure(errors=_ERRORS)  # type: ignore[union-attr]
    told = io.BufferedWriter(_Forgiving(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(told, sys.stderr.encoding, _ERRORS, line_buffering=True)


class _Forgiving(io.FileIO):
    """What it cannot take is told to nobody: there is no other place for it, and the exit code remains."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def why_unwritable(error: OSError) -> str:
    """Why the output cannot be written, if that is what the error is about; else nothing."""
    if error.errno not in _UNWRITABLE or error.filename is not None:
        return ""
    return "it is closed" if error.errno == errno.EBADF else f"{error.strerror}: make room"


def forget_output() -> None:
    """Standard output cannot be written any more: what is still buffered for it goes nowhere, now and at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_on_nothing(number: int, flags: int, mode: str) -> Any:
    try:
        os.fstat(number)
    except OSError:
        nothing = os.open(os.devnull, flags)
        if nothing != number:
            os.dup2(nothing, number)
            os.close(nothing)
    os.set_inheritable(number, True)  # a child's are to be open, too
    return os.fdopen(number, mode, encoding="utf-8", closefd=False)


def _in_other_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_PLAINER.get(each) or each.encode("ascii", "backslashreplace").decode() for each in lost), error.end
