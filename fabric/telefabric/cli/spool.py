"""`telefabric spool`: the events that workers left behind on this machine."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import click

from telefabric import __version__
from telefabric.address import Address
from telefabric.cli.options import setting
from telefabric.doctor.finding import counted, few_of
from telefabric.errors import EnvironmentProblem
from telefabric.peer.requests import ask_status
from telefabric.settings import broker_address, spool_folder
from telefabric.uplink import held_back
from telefabric.uplink.drain import Drain, DrainReport, admit_store

_NAMED_MAX = 5
_ASK_S = 3.0


@click.group()
def spool() -> None:
    """Spools hold the events that workers on this machine have emitted and the store has not acknowledged yet.

    \b
    Example:
      telefabric spool drain
    """


@spool.command()
@setting("connect")
@setting("spool")
@click.option("--to", metavar="URL",
              help="Deliver to this broker, also what belongs to the store of another.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="SECONDS",
              help="Give up after this time.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def drain(connect: str | None, spool: str | None, to: str | None, timeout_s: float | None, as_json: bool) -> None:
    """Deliver the events that dead workers on this machine left in their spools.

    Living workers deliver their own spools. The exit code is 1 when something could not be delivered.

    A spool belongs to the store that first welcomed its stream, and no other gets its events unless you say so with
    --to. A living worker that is held back then goes on, too, if it is connected to that broker.

    \b
    Example:
      telefabric spool drain --connect tcp://127.0.0.1:7750
      telefabric spool drain --to tcp://127.0.0.1:7750
    """
    address = broker_address(to or connect)
    root = spool_folder(spool)
    if to is not None:
        _move(root, address)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with Drain(address, root) as draining:
        complete = _watch(draining, deadline, quiet=as_json or not sys.stderr.isatty())
        report = draining.report()
    unreadable = [folder for folder in report["unreadable"] if os.path.exists(folder)]  # or drained by another
    if as_json:
        click.echo(json.dumps(report))
    else:
        _say(report, root)
    held = report["held_spools"]
    left = report["left_spools"] - len(report["unreadable"]) - held
    problems = [] if complete else [f"{counted(left, 'spool')} in {root} not delivered: {draining.obstacle()}"]
    if held:
        problems.append(f"{counted(held, 'spool')} in {root} not delivered: {held_back(address)}")
    if unreadable:  # the log has the fault of each folder
        problems.append(
            f"{counted(len(unreadable), 'spool')} cannot be read: {few_of(unreadable, _NAMED_MAX)}: "
            "correct the rights of such a folder, or move it away"
        )
    if problems:
        raise EnvironmentProblem("; ".join(problems))


def _move(root: Path, address: Address) -> None:
    """Let the store of this broker have what belongs to others."""
    status = ask_status(address, _ASK_S).status
    if "fabric" not in status:
        raise EnvironmentProblem(
            f"the broker at {address.url} is telefabric {status.get('version')} and does not say which store it has: "
            f"upgrade it to {__version__} or newer"
        )
    if status["fabric"] is None:
        raise EnvironmentProblem(f"the broker at {address.url} has no store: start one with telefabric store")
    try:
        admit_store(root, bytes.fromhex(status["fabric"]))
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename} cannot be written: {error.strerror}: check its rights") from None


def _say(report: DrainReport, root: Path) -> None:
    spools, events, lost = report["delivered_spools"], report["delivered_events"], report["lost_events"]
    if spools:
        click.echo(f"Delivered: {counted(events, 'event')} of {counted(spools, 'spool')}.")
        if lost:
            click.echo(f"Not held any more: {counted(lost, 'event')}; telefabric store verify names each gap.")
    elif not report["left_spools"]:
        click.echo(f"Nothing to deliver: no dead worker left a spool in {root}.")


def _watch(draining: Drain, deadline: float | None, *, quiet: bool) -> bool:
    """Wait until all is delivered (True), or until it is hopeless or the time is up (False)."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
        task = progress.add_task("spools", total=None)
        while not draining.finished:
            if draining.hopeless or (deadline is not None and time.monotonic() > deadline):
                return False
            report = draining.report()
            progress.update(task, completed=report["delivered_events"], total=report["known_events"] or None)
            time.sleep(0.05)
    return True
