"""`telefabric join`: get a key of one's own with a ticket."""

from __future__ import annotations

import sys

import click

from telefabric.errors import UsageError
from telefabric.keys.core.ticket import Ticket
from telefabric.keys.join import join_and_save


@click.command()
@click.argument("ticket")
@click.option("--name", help="Name under which the connection is saved; by default the name in the ticket.")
def join(ticket: str, name: str | None) -> None:
    """Hand in a ticket of `telefabric keys invite`, and save the connection under a name, for this user.

    The key is made here, and its secret half stays here. With - the ticket comes from standard input.

    \b
    Example:
      telefabric join tf1xQAg...
      telefabric join --name lab - < ticket.txt
    """
    line = sys.stdin.read(_TICKET_CHARACTERS_MAX) if ticket == "-" else ticket
    if not line.strip():
        raise UsageError("there is no ticket on standard input: give the line that telefabric keys invite printed")
    saved = join_and_save(Ticket.decode(line), name)
    key = saved.connection
    runs = f" for the runs {key.runs}" if key.runs != "*" else ""
    click.echo(f"Joined {key.address} as {key.name}, a {key.role.value}{runs}.")
    click.echo(f"Connect with --connect {saved.name}, or TELEFABRIC_CONNECT={saved.name}; it is saved in {saved.path}.")


_TICKET_CHARACTERS_MAX = 4_096
