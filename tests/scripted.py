"""Programs of a few lines, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

_COMMAND = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
"""Warnings are errors, but for Python's own about forking with threads."""


def script(
    code: str, *arguments: object, check: bool = True, timeout_s: float = 120, **environ: str
) -> subprocess.CompletedProcess[str]:
    """What became of a program of that source; with `check` it has to end with 0."""
    done = subprocess.run(
        [*_COMMAND, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **environ}, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done
