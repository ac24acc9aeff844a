"""`telefabric status`: where every stream stands, asked of the broker."""

from __future__ import annotations

import json
from typing import Any

import click

from telefabric.address import Address
from telefabric.cli.options import setting
from telefabric.inquiry import ask_status
from telefabric.settings import resolve

_ASK_S = 3.0


@click.command()
@setting("connect")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(connect: str | None, as_json: bool) -> None:
    """Show what each stream has emitted, and how far it is acknowledged and stored.

    \b
    Example:
      telefabric status
      telefabric status --json | jq '.streams[] | {run_id, backlog}'
    """
    address = Address.parse(resolve("connect", connect).value)
    reply = ask_status(address, _ASK_S)
    if as_json:
        click.echo(json.dumps({"broker": address.url, "instance": reply.instance.hex(), **reply.status}))
    else:
        _print(address, reply.status)


def _print(address: Address, found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    absent = found["absent"]
    stores = ", ".join(one["name"] for one in found["durable"]) or "none"
    console.print(f"broker {address.url}   stores attached: {stores}   streams: {len(found['streams'])}")
    if absent:
        console.print(f"Nothing is stored now: no {' and no '.join(absent)} is attached. Start one: telefabric store")
    if found["streams"]:
        table = Table(box=None, pad_edge=False)
        for name in ("run", "agent", "worker", "state"):
            table.add_column(name, overflow="fold")
        for name in ("emitted", "acked", "stored", "backlog", "credit kB"):
            table.add_column(name, justify="right")
        for one in found["streams"]:
            table.add_row(
                one["run_id"], one["agent_id"], one["worker_id"], one["state"],
                *(f"{one[key]:,}".replace(",", "\u2009") for key in ("emitted", "acknowledged", "stored", "backlog")),
                f"{one['credit_bytes'] / 1e3:,.0f}".replace(",", "\u2009"),
            )  # fmt: skip
        console.print(table)
    if found["dropped"]:
        console.print("messages refused: " + ", ".join(f"{name} {count}" for name, count in found["dropped"].items()))
