"""Prepare this process's standard streams before a command reads, opens or writes anything.

A closed standard stream is opened on /dev/null: otherwise the next file or socket would take its number and receive the
output. A write to a closed standard output fails, as on a full disk. Lines that standard error cannot take are
discarded. Characters that the encoding lacks are replaced.
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
"""Errors of a write to an open file. Stores and spools raise errors of their own, so these concern the output."""


def prepare() -> None:
    """Call it once, before anything else."""
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
    """Discards what cannot be written: there is nowhere else to print it, and the exit code remains."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def why_unwritable(error: OSError) -> str:
    """The reason why the output cannot be written; empty for any other error."""
    if error.errno not in _UNWRITABLE or error.filename is not None:
        return ""
    return "it is closed" if error.errno == errno.EBADF else str(error.strerror)


def forget_output() -> None:
    """Discard what is buffered for standard output, now and at the exit: it cannot be written any more."""
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
