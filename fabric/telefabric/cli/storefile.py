"""`telefabric store backup` and `telefabric store verify`: copy and check a store file, in use or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from telefabric.errors import StoreError
from telefabric.settings import absolute, data_folder, resolve

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

    with _progress("pages", quiet=as_json) as progress:
        for_group = resolve("group_readable").value == "on"
        size = copy(_path(file), absolute(target), progress, group_readable=for_group)
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
    with _progress("events", quiet=as_json) as progress:
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


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield progress
