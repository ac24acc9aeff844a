"""`telefabric store backup`, `extract`, `merge` and `verify`: copy, divide, unite and check store files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from telefabric.cli.options import NAME
from telefabric.errors import StoreError, UsageError
from telefabric.settings import absolute, data_folder, resolve

if TYPE_CHECKING:
    from telefabric.store.write.transfer import Moved

_file = click.option(
    "--store", "file", type=click.Path(path_type=Path), metavar="FILE", help="The store file, or its folder."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def _path(file: Path | None) -> Path:
    from telefabric.store.file.database import FILE_NAME, store_file

    return data_folder(None) / FILE_NAME if file is None else store_file(file)


@click.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE")
@_file
@_json
def backup(target: Path, file: Path | None, as_json: bool) -> None:
    """Copy a store to FILE, even while the store runs: a complete snapshot of one moment.

    \b
    Example:
      telefabric store backup ./telemetry-backup.sqlite
    """
    from telefabric.store.file.backup import backup as copy

    target = absolute(target)
    with _progress("pages", quiet=as_json, again="begins again") as progress:
        size = copy(_path(file), target, progress, group_readable=_for_group())
    report = {"file": str(target), "bytes": size}
    click.echo(json.dumps(report) if as_json else f"Copied: {size} bytes to {target}.")


@click.command()
@_file
@_json
def verify(file: Path | None, as_json: bool) -> None:
    """Count and decode all rows of a store, and name every gap and every contradiction.

    The exit code is 1 when the file contradicts itself. Gaps and quarantined rows are not contradictions.

    \b
    Example:
      telefabric store verify --store ./runs/telemetry.sqlite
    """
    from telefabric.store.file.verify import verify as check

    path = _path(file)
    with _progress("events", quiet=as_json, again="begins again") as progress:
        report = check(path, progress)
    if as_json:
        found = [{**one._asdict(), "contradicts": one.contradicts} for one in report.findings]
        click.echo(json.dumps({"streams": report.streams, "rows": report.rows, "findings": found}))
    else:
        for one in report.findings:
            click.echo(f"{one.kind} {one.stream or 'file'} {one.first_seq}..{one.last_seq}: {one.detail}")
        click.echo(f"Verified: {report.rows} rows, {report.streams} streams, {len(report.findings)} findings.")
    if report.contradictions:
        raise StoreError(f"{path} contradicts itself in {report.contradictions} places: restore a backup of it")


_runs = click.option("--run", "runs", multiple=True, type=NAME, metavar="ID", help="This run; may be given repeatedly.")


@click.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE")
@_runs
@_file
@_json
def extract(target: Path, runs: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    """Copy runs of a store to a store FILE of their own, even while the store runs.

    An extract that was interrupted continues when it is begun again.

    \b
    Example:
      telefabric store extract ./ppo.sqlite --run ppo-1 --run ppo-2
    """
    from telefabric.store.write import transfer

    if not runs:
        raise UsageError("name the runs with --run (all of them at once: telefabric store backup)")
    target = absolute(target)
    with _progress("events", quiet=as_json, again="continues") as progress:
        moved = transfer.extract(_path(file), target, runs, progress, group_readable=_for_group())
    _tell(moved, target, as_json)


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE")
@_runs
@_file
@_json
def merge(source: Path, runs: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    """Add the runs of the store FILE, or those with --run, to a store that is not running.

    Of a run that is in both, what is newer is added. A store that does not exist is made.

    \b
    Example:
      telefabric store merge ./ppo.sqlite --store ./runs/telemetry.sqlite
    """
    from telefabric.store.file.database import store_file
    from telefabric.store.write import transfer

    into = _path(file)
    is_new = not into.exists()
    with _progress("events", quiet=as_json, again="continues") as progress:
        moved = transfer.merge(store_file(source), into, runs or None, progress, group_readable=_for_group())
    if is_new:
        click.echo(f"telefabric: there was no store {into}: merge made it", err=True)
    _tell(moved, into, as_json)


def _tell(moved: Moved, target: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"file": str(target), **moved._asdict()}))
        return
    for note in moved.notes:
        click.echo(f"telefabric: {note}", err=True)
    events, runs = (f"{n:,} {what}{'s' * (n != 1)}" for n, what in ((moved.events, "event"), (moved.runs, "run")))
    click.echo(f"Copied: {events} of {runs} to {target}.")


def _for_group() -> bool:
    return bool(resolve("group_readable").value == "on")


@contextmanager
def _progress(what: str, *, quiet: bool, again: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a command is; `again` says what the same command does after ^C."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        try:
            yield progress
        except KeyboardInterrupt:
            click.echo(f"telefabric: interrupted: the same command {again}", err=True)
            raise
