"""`telefabric doctor`: what is fine and what is wrong with this machine, and what to type."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click

from telefabric.address import Address
from telefabric.cli.doctor.examine import examine
from telefabric.cli.doctor.finding import OK, PROBLEM, WARNING, Finding
from telefabric.cli.options import setting
from telefabric.errors import EnvironmentProblem
from telefabric.settings import data_folder, resolve, spool_folder


@click.command()
@setting("connect")
@setting("data")
@setting("spool")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(connect: str | None, data: str | None, spool: str | None, as_json: bool) -> None:
    """Check this machine, and say what is wrong and what to type.

    Versions, ports, who answers at the address, limits, Qt's system libraries, folders, disks, left-behind spools and
    the clock. Nothing is changed. Ends with 1 when there is a problem; warnings are none.

    \b
    Example:
      telefabric doctor
      telefabric doctor --connect tcp://127.0.0.1:7750 --json | jq '.findings[] | select(.state != "ok")'
    """
    address = Address.parse(resolve("connect", connect).value)
    findings = examine(address, data_folder(data), spool_folder(spool))
    problems = sum(finding.state == PROBLEM for finding in findings)
    if as_json:
        rows = [finding._asdict() for finding in findings]
        click.echo(json.dumps({"healthy": not problems, "findings": rows}))
    else:
        _print(findings)
    if problems:
        raise EnvironmentProblem(f"{problems} of {len(findings)} checks found a problem: each row says what to do")


def _print(findings: Iterable[Finding]) -> None:
    """On a terminal in colour; a remedy under its row."""
    colours = {OK: "green", WARNING: "yellow", PROBLEM: "red"}
    for finding in findings:
        state = click.style(f"{finding.state:<8}", fg=colours[finding.state])
        click.echo(f"{state} {finding.check:<13} {finding.sentence}")
        if finding.remedy:
            click.echo(f"{'':<22} → {finding.remedy}")
