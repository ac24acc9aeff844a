"""What `telefabric run --auto` gives to the program that it starts, and what it says when that cannot work."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from telefabric_workers.run.auto import hook

_STARTUP = Path(__file__).parent / "startup"
_PYTHON = re.compile(r"(python|pypy)[\d.]*t?(\.exe)?")


@contextmanager
def environment(command: Sequence[str], given: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """The environment in which the program records itself, as long as it runs: `given`, by default our own, and more.

    Says on stderr, in one sentence, when nothing of the program can be recorded.
    """
    variables = dict(os.environ if given is None else given)
    flag = unhooked_by(command)
    if flag is not None:
        hook.say(f"records nothing: {flag} turns off Python's start-up hook; the program runs on.")
        yield variables
        return
    with tempfile.TemporaryDirectory(prefix="telefabric-auto-", ignore_cleanup_errors=True) as folder:
        before = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = f"{_STARTUP}{os.pathsep}{before}" if before else str(_STARTUP)
        variables[hook.VARIABLE] = folder
        variables.pop(hook.TOP, None)
        yield variables
        if not os.listdir(folder):
            hook.say("recorded nothing: the program ran no Python that reads PYTHONPATH")


def unhooked_by(command: Sequence[str]) -> str | None:
    """The option of a Python command line with which Python reads no start-up hook of ours; None without one."""
    if not command or not _PYTHON.fullmatch(os.path.basename(command[0])):
        return None
    options = iter(command[1:])
    for option in options:
        if not option.startswith("-") or option in ("-", "--"):
            break
        if option.startswith("--"):
            continue
        for place, letter in enumerate(option[1:], 2):
            if letter in "IES":
                return f"-{letter}"
            if letter in "cm":
                return None
            if letter in "WX":
                if place == len(option):
                    next(options, None)
                break
    return None
