"""`telefabric import`: one command for each format that another program writes."""

from __future__ import annotations

import click

from telefabric_workers.imports.jsonl.command import jsonl
from telefabric_workers.imports.tensorboard.command import tensorboard


@click.group("import")
def importing() -> None:
    """Bring what other programs recorded into the store, through a broker.

    A second import of the same files adds only what is new in them.
    """


importing.add_command(jsonl)
importing.add_command(tensorboard)
