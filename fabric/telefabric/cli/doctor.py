"""`telefabric doctor`: what is fine and what is wrong with this machine and its broker, and what to type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from telefabric.address import Address
from telefabric.cli.options import setting
from telefabric.cli.plain import clean
from telefabric.doctor.examine import examine
from telefabric.doctor.finding import OK, PROBLEM, WARNING, Finding
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.settings import resolve, user_data


@click.command()
@setting("connect")
@setting("data")
@setting("spool")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(connect: str | None, data: str | None, spool: str | None, as_json: bool) -> None:
    """Check this machine and the broker, here or elsewhere, and say what is wrong and what to type.

    Versions, settings, the name, every port and who answers there, whether the store stores and answers, whether live
    arrives, streams that are behind and where, refusals, clocks, limits, Qt, folders, disks, the store's file and
    left-behind spools. Nothing is changed, and it takes ten seconds at most. Ends with 1 when there is a problem;
    warnings are none.

    \b
    Example:
      telefabric doctor
      telefabric doctor --connect tcp://lab:7750
      telefabric doctor --json | jq '.findings[] | select(.state != "ok")'
    """
    address = Address.parse(_value("connect", connect))
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
    """A setting; its default when what the environment or the file says of it is malformed, which is a row.

    Raises `UsageError` for a malformed flag.
    """
    try:
        return resolve(name, given).value
    except UsageError:
        if given is not None:
            raise
        return resolve(name, environ={}, file={}).value


def _print(findings: Sequence[Finding]) -> None:
    """On a terminal in colour; a remedy under its row."""
    colours = {OK: "green", WARNING: "yellow", PROBLEM: "red"}
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        state = click.style(f"{finding.state:<8}", fg=colours[finding.state])
        click.echo(f"{state} {finding.check:<{width}} {clean(finding.sentence)}")
        if finding.remedy:
            click.echo(f"{'':<{width + 9}} → {clean(finding.remedy)}")
