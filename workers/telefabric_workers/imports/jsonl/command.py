"""`telefabric import jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from telefabric.cli.options import NAME, setting
from telefabric_workers.imports.jsonl.reading import read_log


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--follow", is_flag=True, help="Continue with what is appended, until the runs in it have ended, or ^C.")
@click.option("--dry-run", is_flag=True, help="Check the lines and report; store nothing, and need no broker.")
@setting("connect")
@click.option("--run", "run_id", metavar="RUN_ID", type=NAME, help="The run of all lines, whatever they name.")
@setting("agent_id", flag="--agent")
@setting("spool")
@click.option("--json", "as_json", is_flag=True, help="End with one line that is a JSON object.")
def jsonl(file: Path, follow: bool, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Bring a log of JSON lines into the store: the lines that telefabric run takes from a program.

    \b
    telefabric import jsonl train.jsonl
    telefabric import jsonl train.jsonl --follow --run seed-7

    Each run_id in the lines is a run, and a line without one is of the run before it. If no line has one, the run has
    the file's name. With --run all lines are of that run. A second import adds only what is new, also of a file that
    was moved; a file that was cut or written again is another.
    """
    read_log(file, given, dry_run=dry_run, follow=follow, as_json=as_json)
