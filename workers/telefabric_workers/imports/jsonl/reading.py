"""Read a file of lines to its end, or follow it, as `telefabric run` and `telefabric import jsonl` do."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import click

from telefabric.errors import EnvironmentProblem
from telefabric.settings import absolute
from telefabric.store.read.remote_reader import RemoteReader
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.imports.jsonl.logfile import LogFile
from telefabric_workers.outbox import link_of

_LOOK_S = 0.2


def log_environment(
    connect: str | None, run_id: str | None, agent_id: str | None, spool: str | None, *, dry_run: bool
) -> WorkerEnvironment:
    """For the streams of a file: nothing of them is dropped, and the metadata are not of this program."""
    return WorkerEnvironment.read(
        connect=connect,
        run_id=run_id,
        agent_id=agent_id,
        spool=spool,
        mode="dry-run" if dry_run else "durable",
        when_full="block",
    )


def read_log(path: Path, environment: WorkerEnvironment, *, follow: bool, as_json: bool = False) -> None:
    """Record its lines, and print what was added. Raises what `LogFile` and the store raise."""
    path = absolute(path)
    dry = environment.mode == "dry-run"
    while follow and not path.exists():
        time.sleep(_LOOK_S)
    with ExitStack() as opened:
        reader = None
        if not dry:
            reader = opened.enter_context(RemoteReader(environment.address))
            opened.enter_context(link_of(environment))
        file = LogFile(path, environment, reader, environment.run_id if environment.run_named else None)
        try:
            _read(file, last=not follow)
            while follow and not file.is_over:
                time.sleep(_LOOK_S)
                for _ in file.read(last=False):
                    pass
        finally:
            file.close()
            report = file.report
            added = {run: dict(kinds) for run, kinds in report.added.items()}
            told = {"lines": report.lines, "runs": added, "bad_lines": report.bad.count}
            click.echo(json.dumps(told) if as_json else "\n".join(report.sentences()))
    if dry and report.bad.count:
        raise EnvironmentProblem(f"{report.bad.count} of {report.lines} lines name a kind of event and are none")


def _read(file: LogFile, *, last: bool) -> None:
    """What is there, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task, due_s = bar.add_task("reading", total=file.tail.size), 0.0
        for offset in file.read(last=last):
            if time.monotonic() > due_s:
                bar.update(task, completed=offset)
                due_s = time.monotonic() + _LOOK_S
