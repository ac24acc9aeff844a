"""`telefabric keys`: who may connect to the services of a data folder."""

from __future__ import annotations

import ipaddress
import json
import re
from datetime import datetime, timedelta
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from telefabric.address import Address
from telefabric.cli.options import setting
from telefabric.cli.plain import clean
from telefabric.errors import UsageError
from telefabric.keys import saved_connections
from telefabric.keys.core.registry import Key, TicketRecord
from telefabric.keys.core.roles import INVITED, Role
from telefabric.keys.gate import now, read_seen
from telefabric.keys.key_folder import KeyFolder
from telefabric.settings import data_folder, resolve

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DAYS_MAX = 3_650
_LOOPBACK = "127.0.0.1"
LOCAL = "local"


@click.group()
def keys() -> None:
    """Keys say who may connect to broker and store. With keys, they may listen beyond this machine.

    \b
    Example:
      telefabric keys init
      telefabric keys invite ada --role worker --address lab.example.org
    """


@keys.command()
@setting("data")
@setting("listen")
def init(data: str | None, listen: str | None) -> None:
    """Make the server key. From their next start on, the services of the data folder ask everybody for a key.

    \b
    Example:
      telefabric keys init --data ./runs
    """
    folder = KeyFolder(data_folder(data))
    port = Address.parse(resolve("listen", listen).value).port
    owner = folder.init(f"tcp://{_LOOPBACK}:{port}")
    name = saved_connections.free_name(LOCAL)
    path = saved_connections.save(name, owner)
    click.echo(f"The server key and the registry of keys are in {folder.path}; only their owner may read them.")
    click.echo(f"This user connects with --connect {name}, which is saved in {path}.")
    click.echo(
        "Start the services again, and let others in with: telefabric keys invite NAME --role ROLE --address HOST"
    )


@keys.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice([role.value for role in INVITED]), required=True,
    help="worker publishes, client reads, operator also edits, store keeps, relay does all three.",
)  # fmt: skip
@click.option("--address", metavar="HOST[:PORT]", help="The broker's address, as the other machine dials it.")
@click.option("--this-machine", is_flag=True, help="In place of --address: for a program on this machine.")
@click.option("--runs", metavar="PATTERN", default="*", show_default=True, help="Runs that it may publish: sweep-*")
@click.option("--expires", metavar="TIME", default="1h", show_default=True, help="How long the ticket may be used.")
@click.option("--reusable", is_flag=True, help="The ticket may be used again and again until it expires.")
@setting("data")
@setting("listen")
def invite(
    name: str,
    role: str,
    address: str | None,
    this_machine: bool,
    runs: str,
    expires: str,
    reusable: bool,
    data: str | None,
    listen: str | None,
) -> None:
    """Print a ticket: one line with which another machine gets a key of its own (telefabric join).

    \b
    Example:
      telefabric keys invite ada --role worker --address lab.example.org --runs 'sweep-*'
      telefabric keys invite batch --role worker --address 10.0.0.5 --reusable --expires 2d
    """
    if this_machine == bool(address):
        raise UsageError("give either --address, which the other machine dials, or --this-machine")
    began = now()
    record = TicketRecord(
        saved_connections.require_name(name), Role(role), began, began + _duration(expires), runs, reusable
    )
    port = Address.parse(resolve("listen", listen).value).port
    dialled = Address(_LOOPBACK, port) if address is None else _dialled(address, port)
    ticket = KeyFolder(data_folder(data)).invite(record, dialled)
    click.echo(ticket.encode())
    uses = "as often as wanted" if reusable else "once"
    until = record.expires.astimezone().strftime("%Y-%m-%d %H:%M")
    click.echo(f"It may be used {uses} until {until}, on the other machine: telefabric join TICKET", err=True)


def _dialled(text: str, port: int) -> Address:
    """What the other machine dials. Raises `UsageError` for what would lead it to itself, or nowhere."""
    host = text.removeprefix("tcp://")
    found = Address.parse(f"tcp://{host}" if ":" in host else f"tcp://{host}:{port}")
    if found.host == "*" or _is(found.host, "is_unspecified"):
        raise UsageError(
            f"nobody can dial {found.host}: give the name or address by which the other machine reaches this one, such "
            "as --address lab.example.org"
        )
    if found.host == "localhost" or _is(found.host, "is_loopback"):
        raise UsageError(
            f"on another machine {found.host} is that machine itself: give the name or address by which it reaches "
            "this one; for a program on this machine, --this-machine"
        )
    return found


def _is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host.strip("[]")), what))
    except ValueError:  # a name
        return False


def _duration(text: str, flag: str = "--expires") -> timedelta:
    found = re.fullmatch(r"([0-9]{1,8})([smhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _DAYS_MAX * _UNITS["d"]:
        raise UsageError(f"{flag} is {text!r} and should be a time such as 90s, 30m, 1h or 7d")
    return timedelta(seconds=seconds)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per key or ticket.")
@setting("data")
def list_keys(as_json: bool, data: str | None) -> None:
    """List keys and unused tickets: name, role, runs, state, when each key was last heard, and from where.

    \b
    Example:
      telefabric keys list --json
    """
    folder = KeyFolder(data_folder(data))
    registry, seen = folder.registry().current(), read_seen(folder.seen)
    rows = [
        {**_row("key", key), "holder": key.holder, "seen": seen.get(public) and _time(seen[public].at),
         "from": seen.get(public) and seen[public].host}
        for public, key in registry.keys.items()
    ]  # fmt: skip
    unused = [ticket for ticket in registry.tickets.values() if ticket.reusable or not ticket.uses]
    rows += [_row("ticket", ticket) for ticket in unused]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        _show(rows)


def _row(what: str, one: Key | TicketRecord) -> dict[str, Any]:
    state = "valid"
    if one.revoked is not None:
        state = "revoked"
    elif one.expires is not None and one.expires <= now():
        state = "expired"
    expires = one.expires and _time(one.expires)
    return {
        "what": what,
        "name": one.name,
        "role": one.role.value,
        "runs": one.runs,
        "state": state,
        "expires": expires,
    }


def _time(moment: datetime) -> str:
    return moment.astimezone().isoformat(timespec="seconds")


_WHOLE = ("role", "state", "expires", "last heard")
"""Columns that a narrow terminal does not fold."""


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("name", "role", "runs", "state", "expires", "last heard", "from", "holder"):
        table.add_column(name, overflow="fold", no_wrap=name in _WHOLE)
    for row in rows:
        name = row["name"] if row["what"] == "key" else f"{row['name']} (ticket)"
        rest = [row.get(key) or "" for key in ("role", "runs", "state", "expires", "seen", "from", "holder")]
        rest[3:5] = [moment[:16].replace("T", " ") for moment in rest[3:5]]
        table.add_row(*map(clean, (name, *rest)))
    Console(markup=False, emoji=False).print(table)  # a name may look like markup of rich


@keys.command("rotate-server")
@click.option("--at", "after", metavar="TIME", default="1d", show_default=True, help="In how long it is taken.")
@setting("data")
def rotate_server(after: str, data: str | None) -> None:
    """Make the server's next key. Running services tell everybody who is connected until then.

    \b
    Example:
      telefabric keys rotate-server --at 7d
    """
    at = now() + _duration(after, "--at")
    KeyFolder(data_folder(data)).rotate(at)
    click.echo(f"The services take another key at {at.astimezone():%Y-%m-%d %H:%M}, and connect again.")
    click.echo("Programs that are connected until then learn it; who is away, or has a ticket unused, needs a new one.")


@keys.command()
@click.argument("name")
@setting("data")
def revoke(name: str, data: str | None) -> None:
    """Take a key or ticket back; a ticket's name stands for all keys that came with it.

    \b
    Example:
      telefabric keys revoke ada
    """
    registry = KeyFolder(data_folder(data)).registry()
    registry.change(lambda found: (found.revoke(name, now()), None))
    click.echo(f"{name} is revoked: running services end its connections within a second.")
