"""The README's walk over three machines goes as pasted: each of them is a host of its own, with a user who is new."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import hosts
import pytest
from hosts import Host, Network
from processes import wait_for
from skips import requires
from slowness import patience
from test_readme import README, TEXT, blocks, shape

pytestmark = [
    requires("a checkout, with its documentation", README.exists()),
    requires(hosts.why_not() or "hosts", not hosts.why_not()),
    pytest.mark.timeout(240),
]
COMMANDS_MAX = 8
STAYS = ("telefabric up", "telefabric gui")
"""These run until they are ended."""
TICKET = re.compile(r"tf1[\w-]+")


class Typed(NamedTuple):
    machine: str
    command: str
    pasted: str


class Machine:
    """A host with a user who has nothing yet."""

    def __init__(self, host: Host, home: Path) -> None:
        home.mkdir()
        self._host = host
        self._options = {
            "cwd": home,
            "env": {
                **os.environ, "HOME": str(home), "QT_QPA_PLATFORM": "offscreen",
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT,
        }  # fmt: skip
        for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "TELEFABRIC_RING"):
            self._options["env"].pop(variable, None)  # type: ignore[attr-defined]
        (home / "train.py").write_text(blocks(TEXT, "python")[0])

    def type(self, command: str) -> str:
        """What it prints, on either stream; of a command that stays, the first line but for its log."""
        if command.startswith(STAYS):
            options = {**self._options, "stderr": subprocess.DEVNULL}
            process = self._host.start(["bash", "-c", f"exec {command}"], **options)
            assert process.stdout is not None
            return process.stdout.readline().decode() if "up" in command else ""
        done = self._host.run(["bash", "-c", command], capture_output=False, timeout=patience(60), **self._options)
        assert done.returncode == 0, f"{command}:\n{done.stdout}"
        return done.stdout


def walk() -> list[Typed]:
    (block,) = blocks(TEXT, "shell-session")
    found = re.split(r"^(\w+)\$ (.*)\n", block, flags=re.MULTILINE)
    assert found[0] == ""
    return [Typed(*one) for one in zip(found[1::3], found[2::3], found[3::3], strict=True)]


def test_the_walk_over_three_machines_goes_as_pasted(tmp_path: Path) -> None:
    commands = walk()
    assert len(commands) <= COMMANDS_MAX
    with Network() as network:
        machines = {name: Machine(network.host(name), tmp_path / name) for name in ("lab", "worker", "laptop")}
        tickets: dict[str, str] = {}
        for machine, command, pasted in commands:
            printed = machines[machine].type(TICKET.sub(lambda found: tickets[found[0]], command))
            assert shape(printed) == shape(pasted), command
            tickets.update(zip(TICKET.findall(pasted), TICKET.findall(printed), strict=True))
        laptop = machines["laptop"]
        steps = laptop.type("telefabric dump --connect desk --kind step").splitlines()
        assert len(steps) == 15

        def watches() -> bool:
            status = json.loads(laptop.type("telefabric status --connect desk --json"))
            return "client" in [one["name"] for one in status["live"]]

        wait_for(watches, "the window is connected")
