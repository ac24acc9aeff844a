"""`telefabric import jsonl`."""

from __future__ import annotations

from pathlib import Path

import click

from telefabric.cli.options import setting
from telefabric_workers.imports.jsonl.reading import log_environment, read_log


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--follow", is_flag=True, help="Continue with what is appended, until the runs in it have ended, or ^C.")
@click.option("--dry-run", is_flag=True, help="Check the lines and report; store nothing, and need no broker.")
@setting("connect")
@setting("run_id", flag="--run")
@setting("agent_id", flag="--agent")
@setting("spool")
@click.option("--json", "as_json", is_flag=True, help="End with one line that is a JSON object.")
def jsonl(
    file: Path,
    follow: bool,
    dry_run: bool,
    connect: str | None,
    run_id: str | None,
    agent_id: str | None,
    spool: str | None,
    as_json: bool,
) -> None:
    """Bring a log of JSON lines into the store: the lines that telefabric run takes from a program.

    \b
    telefabric import jsonl train.jsonl
    telefabric import jsonl train.jsonl --follow --run seed-7

    Each run that the lines name is a run; lines that name none are of the run --run, or of one that is named as the
    file is. A second import adds only what is new, also of a file that was moved, cut or written again.
    """
    environment = log_environment(connect, run_id, agent_id, spool, dry_run=dry_run)
    read_log(file, environment, follow=follow, as_json=as_json)
