"""`telefabric service`: the services as units of systemd, which starts them with the machine and after a failure."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

import telefabric
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.service import units

_SHOWN = ("LoadState", "ActiveState", "SubState", "MainPID", "NRestarts", "StatusText")
_SERVICE = click.argument("service", metavar="up|broker|store", type=click.Choice(list(units.SERVICES)))
_USER = click.option("--user", is_flag=True, help="A service of this user, not of the machine.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Print what would be written and run, and change nothing.")


class Write(NamedTuple):
    path: Path
    text: str


class Remove(NamedTuple):
    path: Path


class Run(NamedTuple):
    words: Sequence[str]


Step = Write | Remove | Run


@click.group()
def service() -> None:
    """Let systemd run the services: from the start of the machine on, and again after a failure.

    \b
    Example:
      sudo telefabric service install up
      telefabric service status
    """


@service.command()
@_SERVICE
@_USER
@_DRY_RUN
def install(service: str, user: bool, dry_run: bool) -> None:
    """Write the unit of a service, and start it now and with the machine. Installed again, it is updated.

    \b
    Example:
      telefabric service install up --user
      telefabric service install store --dry-run
      sudo /opt/telefabric/bin/telefabric service install up

    A service of the machine runs as the user `telefabric`, keeps its store in /var/lib/telefabric, and lets members of
    the group `telefabric` read it.
    """
    python = Path(sys.executable)
    version = _systemd_version()
    if not user:
        used = (python, python.resolve(), Path(sys.prefix), Path(sys.base_prefix), Path(telefabric.__file__).resolve())
        units.require_reachable(service, used)
    steps = to_install(service, units.render(service, python, user=user, systemd=version), user=user)
    _carry_out(steps, f"install {service}", user=user, dry_run=dry_run)
    if not dry_run:
        _tell_what_next(service, user=user)


@service.command()
@_SERVICE
@_USER
@_DRY_RUN
def uninstall(service: str, user: bool, dry_run: bool) -> None:
    """Stop a service and remove its unit. The store, the settings and the user `telefabric` stay.

    \b
    Example:
      telefabric service uninstall up --user
      sudo /opt/telefabric/bin/telefabric service uninstall up
    """
    if not dry_run and not _unit_path(service, user=user).exists():
        raise UsageError(f"{_unit_path(service, user=user)} is not there: telefabric service status shows what is")
    _carry_out(to_uninstall(service, user=user), f"uninstall {service}", user=user, dry_run=dry_run)


@service.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def status(as_json: bool) -> None:
    """Show the installed services, of the machine and of this user. The exit code is 1 when one does not run.

    \b
    Example:
      telefabric service status
    """
    found = [
        {"service": name, "of": "user" if user else "machine", **state}
        for user in (False, True)
        for name in units.SERVICES
        if (state := _state(name, user=user))
    ]
    for one in found:
        click.echo(json.dumps(one) if as_json else _line(one))
    if not found and not as_json:
        click.echo("No service is installed: sudo telefabric service install up")
    if any(one["ActiveState"] != "active" for one in found):
        sys.exit(1)


def to_install(service: str, unit: str, *, user: bool) -> list[Step]:
    """The steps that install a unit, in order."""
    name = units.unit_name(service)
    steps: list[Step] = []
    if not user:
        steps += [Write(units.SYSUSERS, units.SYSUSERS_TEXT), Run(("systemd-sysusers", str(units.SYSUSERS)))]
    steps.append(Write(_unit_path(service, user=user), unit))
    commands = (("daemon-reload",), ("enable", name), ("restart", name))
    return [*steps, *(Run(_systemctl(*words, user=user)) for words in commands)]


def to_uninstall(service: str, *, user: bool) -> list[Step]:
    """The steps that remove a unit, in order."""
    return [
        Run(_systemctl("disable", "--now", units.unit_name(service), user=user)),
        Remove(_unit_path(service, user=user)),
        Run(_systemctl("daemon-reload", user=user)),
    ]


def _carry_out(steps: Sequence[Step], what: str, *, user: bool, dry_run: bool) -> None:
    """Raises `EnvironmentProblem` at the first step that fails."""
    if dry_run:
        for step in steps:
            click.echo(_shown(step))
        return
    if not user and os.geteuid() != 0:
        raise UsageError(f"a service of the machine takes root: sudo {sys.argv[0]} service {what}, or add --user")
    for step in steps:
        match step:
            case Run(words):
                _run(words)
            case Write(path, text):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
                path.chmod(0o644)
            case Remove(path):
                path.unlink(missing_ok=True)


def _shown(step: Step) -> str:
    match step:
        case Run(words):
            return f"# run: {shlex.join(words)}"
        case Write(path, text):
            return f"# write: {path}\n{text}"
        case Remove(path):
            return f"# remove: {path}"


def _run(words: Sequence[str]) -> str:
    """What it printed. Raises `EnvironmentProblem` when it cannot be run, or fails."""
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EnvironmentProblem(
            f"there is no {words[0]} here, so systemd does not run this machine: let what starts its services run "
            "telefabric up"
        ) from None
    if ended.returncode:
        why = " ".join(ended.stderr.split()) or f"exit code {ended.returncode}"
        raise EnvironmentProblem(f"{shlex.join(words)} failed: {why}")
    return ended.stdout


def _systemctl(*words: str, user: bool) -> tuple[str, ...]:
    return ("systemctl", *(["--user"] if user else []), *words)


def _systemd_version() -> int:
    return int(_run(("systemctl", "--version")).split()[1].partition(".")[0])


def _unit_path(service: str, *, user: bool) -> Path:
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    return (own if user else units.FOLDER) / units.unit_name(service)


def _state(service: str, *, user: bool) -> dict[str, str]:
    """What systemd says of an installed service; empty when it is not installed."""
    if not _unit_path(service, user=user).exists():
        return {}
    shown = _run(_systemctl("show", units.unit_name(service), f"--property={','.join(_SHOWN)}", user=user))
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def _line(one: dict[str, str]) -> str:
    there = one["MainPID"] != "0"
    running, said = (f"process {one['MainPID']}", one["StatusText"]) if there else ("no process", "")
    return (
        f"{one['service']} (of the {one['of']})   {one['ActiveState']}, {one['SubState']}   {running}   "
        f"restarts: {one['NRestarts']}   {said}".rstrip()
    )


def _tell_what_next(service: str, *, user: bool) -> None:
    name, of = units.unit_name(service), " --user" if user else ""
    click.echo(f"{name} is installed and runs: telefabric service status; journalctl{of} -u {name} -f")
    folder = "~/.config/telefabric" if user else "/etc/telefabric"
    click.echo(f"Its settings are in {folder}/telefabric.toml: systemctl{of} restart {name} after a change")
    if user:
        click.echo("It ends when you log out, unless you let your services go on: loginctl enable-linger")
    elif service != "broker":
        click.echo(f"Who may read its store: sudo usermod -aG {units.USER} NAME")
