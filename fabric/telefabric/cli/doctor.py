"""`telefabric doctor`: check this machine and its broker, and name the remedy for each problem."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from telefabric.cli.options import setting
from telefabric.cli.plain import clean
from telefabric.doctor.examine import examine
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.keys.saved_connections import address_of
from telefabric.settings import resolve, user_data


@click.command()
@setting("connect")
@setting("data")
@setting("spool")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(connect: str | None, data: str | None, spool: str | None, as_json: bool) -> None:
    """Check this machine and a broker, here or elsewhere; say what is wrong and which command corrects it.

    It checks versions, settings, the broker's name, every port and what answers there, whether the store stores and
    answers, whether live events arrive, which streams are behind and at which hop, refusals, clocks, limits, Qt,
    folders, disks, the store's file and spools left behind. It changes nothing and takes ten seconds at most. The exit
    code is 1 when it found a problem; warnings alone leave it 0.

    \b
    Example:
      telefabric doctor
      telefabric doctor --connect tcp://lab:7750
      telefabric doctor --json | jq '.findings[] | select(.state != "ok")'
    """
    address = address_of(_value("connect", connect))
    data_folder = _value("data", data) or user_data()
    findings = examine(address, data_folder, _value("spool", spool) or user_data() / "spool")
    problems = sum(finding.state == PROBLEM for finding in findings)
    if as_json:
        rows = [finding._asdict() for finding in findings]
        click.echo(json.dumps({"healthy": not problems, "findings": rows}))
    else:
        _print(findings)
    if problems:
        raise EnvironmentProblem(f"{problems} of {len(findings)} checks found a problem: each row says what to do")


def _value(name: str, given: str | None) -> Any:
    """A setting's value; the default when environment or file have a malformed one, which a finding reports.

    Raises `UsageError` for a malformed flag.
    """
    try:
        return resolve(name, given).value
    except UsageError:
        if given is not None:
            raise
        return resolve(name, environ={}, file={}).value


def _print(findings: Sequence[Finding]) -> None:
    """One line a finding, in colour on a terminal, with the remedy under it."""
    colours = {OK: "green", WARNING: "yellow", PROBLEM: "red"}
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        state = click.style(f"{finding.state:<8}", fg=colours[finding.state])
        click.echo(f"{state} {finding.check:<{width}} {clean(finding.sentence)}")
        if finding.remedy:
            click.echo(f"{'':<{width + 9}} → {clean(finding.remedy)}")
