"""`telefabric ring`: the frame rings on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table

from telefabric import limits
from telefabric.cli.options import setting
from telefabric.cli.plain import clean
from telefabric.ring import RingInfo, RingReader, collect_garbage, discover
from telefabric.settings import resolve


@click.group()
def ring() -> None:
    """Rings are the shared memory through which workers on this machine show their frames.

    \b
    Example:
      telefabric ring list
    """


@ring.command("list")
@setting("ring", flag="--folder")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per ring.")
def list_rings(ring: str | None, as_json: bool) -> None:
    """List this user's rings with run, agent, worker, state and newest frame.

    \b
    Example:
      telefabric ring list --json
    """
    rows = [_row(info) for info in discover(resolve("ring", ring).value)]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif not rows:
        click.echo("No rings: no worker on this machine has shown a frame.")
    else:
        _show(rows)


@ring.command()
@setting("ring", flag="--folder")
@click.option(
    "--grace", "grace_s", type=click.FloatRange(min=0), metavar="SECONDS", default=limits.RING_GRACE_S,
    show_default=True, help="Keep rings that changed within this time.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per removed ring.")
def gc(ring: str | None, grace_s: float, as_json: bool) -> None:
    """Remove the rings of writers that have ended. Rings of living writers and of other users stay.

    \b
    Example:
      telefabric ring gc --grace 0
    """
    cleared = collect_garbage(resolve("ring", ring).value, grace_s=grace_s)
    for folder, size in cleared:
        if as_json:
            click.echo(json.dumps({"folder": str(folder), "bytes": size}))
        else:
            click.echo(f"Removed {folder}, {size / 1e6:.1f} MB.")
    if not cleared and not as_json:
        click.echo("Nothing to remove.")


def _row(info: RingInfo) -> dict[str, Any]:
    reader = RingReader(info.folder)
    frame = reader.latest()
    newest = reader.newest
    reader.close()
    return {
        **asdict(info.manifest.name),
        "pid": info.manifest.pid,
        "state": info.state,
        "published": newest,
        "pixels": frame and frame.pixels.name,
        "shape": frame and list(frame.array.shape),
        "folder": str(info.folder),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("run", "agent", "worker", "state", "frames", "picture", "folder"):
        table.add_column(name, overflow="fold", justify="right" if name == "frames" else "left")
    for row in rows:
        picture = f"{row['pixels']} {'x'.join(map(str, row['shape']))}" if row["shape"] else "none yet"
        ids = map(clean, (row["run_id"], row["agent_id"], row["worker_id"], row["state"]))
        table.add_row(*ids, f"{row['published']:,}".replace(",", " "), picture, Path(row["folder"]).name)
    Console(markup=False, emoji=False).print(table)  # a name may look like markup of rich
    click.echo(f"in {Path(rows[0]['folder']).parent}")
