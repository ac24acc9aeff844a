"""Units of systemd for the services, made from one template, `unit.service`.

A line of it that begins with ``@WORD`` is only in units that the word fits: `system` or `user`; the name of a service;
`steps` or `constant`, as this systemd can make restarts slower and slower or not. Debian 12's systemd, 252, is the
oldest that they are for.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

from telefabric.errors import UsageError

SERVICES = {
    "up": "broker and store",
    "broker": "broker",
    "store": "store",
}
USER = "telefabric"
FOLDER = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d/telefabric.conf")
SYSUSERS_TEXT = f'u {USER} - "Telefabric services" /var/lib/{USER}\n'
"""The user that the services run as, and the group that may read the store."""
STEPS_SINCE = 254
"""The version of systemd since which a unit may wait longer before each restart."""
_UNREACHABLE = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What a unit hides from its service."""


def unit_name(service: str) -> str:
    return f"telefabric-{service}.service"


def render(service: str, python: Path, *, user: bool, systemd: int) -> str:
    """The text of a unit for an interpreter, and for a version of systemd."""
    words = {service, "user" if user else "system", "steps" if systemd >= STEPS_SINCE else "constant"}
    kept = []
    for line in files("telefabric.service").joinpath("unit.service").read_text("utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if not word.startswith("@"):
            kept.append(line)
        elif word[1:] in words:
            kept.append(rest)
    command = f"{_quoted(python)} -P -m telefabric.cli.main {service}"
    text = "\n".join(kept)
    return Template(text).substitute(what=SERVICES[service], name=service, command=command) + "\n"


def require_reachable(service: str, used: Iterable[Path]) -> None:
    """Raises `UsageError` for an interpreter or a package that the unit of the machine hides from its service."""
    for path in used:
        folder = next((one for one in _UNREACHABLE if path.is_relative_to(one)), None)
        if folder is not None:
            raise UsageError(
                f"{path} is in {folder}, which a service of the machine cannot read: make an environment in /opt "
                "(sudo /usr/bin/python3 -m venv /opt/telefabric), install Telefabric there (sudo "
                f"/opt/telefabric/bin/pip install 'telefabric[cli,store]') and from it the service (sudo "
                f"/opt/telefabric/bin/telefabric service install {service}), or add --user"
            )


def _quoted(path: Path) -> str:
    """As one word of a command line of systemd."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(character in escaped for character in " \t\\\"'") else escaped
