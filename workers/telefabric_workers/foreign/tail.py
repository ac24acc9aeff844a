"""A file of lines that grows, is cut and written again, or gives its name to another file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from telefabric.errors import EnvironmentProblem
from telefabric.limits import LINE_BYTES_MAX

_READ_BYTES = 1024 * 1024


class Tail:
    """Reads the file that has this name now. Raises `EnvironmentProblem` for one that cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise EnvironmentProblem(f"{path} cannot be read: {error.strerror}: name a file of lines") from None
        if not path.is_file():
            self._file.close()
            raise EnvironmentProblem(f"{path} is not a file: telefabric run -- cat {path} reads what comes through it")
        self.offset = 0
        """Where the next line begins that `lines` has not given."""
        self.part = b""
        """What there is of that line."""
        self._size = 0

    @property
    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def lines(self) -> Iterator[bytes]:
        """The complete lines up to the present end, each with its end."""
        parts, size = [self.part], self._size
        while data := self._file.read(_READ_BYTES):
            *complete, part = data.split(b"\n")
            for line in complete:
                self.offset += size + len(line) + 1
                yield b"".join((*parts, line[: max(LINE_BYTES_MAX - size, 0)], b"\n"))
                parts, size = [], 0
            parts.append(part[: max(LINE_BYTES_MAX - size, 0)])
            size += len(part)
        self.part, self._size = b"".join(parts), size

    def last(self) -> bytes:
        """A line that nobody will complete; empty if there is none."""
        line, self.part = self.part, b""
        self.offset, self._size = self.offset + self._size, 0
        return line

    def is_cut(self) -> bool:
        """It is shorter than what was read of it: it is written again."""
        return self.size < self.offset + self._size

    def is_replaced(self) -> bool:
        """Another file has the name now: nothing more comes in this one."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False  # not yet: between two names, or removed

    def close(self) -> None:
        self._file.close()
