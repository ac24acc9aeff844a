"""Read a file of lines to its end, or follow it, as `telefabric run` and `telefabric import jsonl` do."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from telefabric.cli.plain import clean
from telefabric.doctor.finding import counted
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.settings import absolute
from telefabric.store.read.remote_reader import RemoteReader
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.imports.filestream import CONTINUES
from telefabric_workers.imports.jsonl.logfile import LogFile
from telefabric_workers.outbox import link_of

_LOOK_S = 0.2


def read_log(path: Path, given: Mapping[str, Any], *, dry_run: bool, follow: bool, as_json: bool = False) -> None:
    """Record its lines, and print what was added. `given`: settings. Raises what `LogFile` and the store raise."""
    if str(path) == "-":
        raise UsageError("- is not a file: telefabric run -- cat records the lines of the standard input")
    mode = "dry-run" if dry_run else "durable"
    environment = WorkerEnvironment.read(mode=mode, when_full="block", **given)  # nothing of a file is dropped
    path = absolute(path)
    if follow and not path.exists():
        click.echo(f"telefabric: waiting for {clean(str(path))}", err=True)
        while not path.exists():
            time.sleep(_LOOK_S)
    with ExitStack() as opened:
        reader = None
        if not dry_run:
            reader = opened.enter_context(RemoteReader(environment.address))
            opened.enter_context(link_of(environment))
        # not that of the environment, which is of the worker that a program opens, and hides the runs in the file
        file = LogFile(path, environment, reader, environment.run_id if given.get("run_id") is not None else None)
        try:
            _read(file, last=not follow)
            while follow and not file.is_over:
                time.sleep(_LOOK_S)
                for _ in file.read(last=False):
                    pass
        finally:
            file.close()
            report = file.report
            added = {run: dict(+kinds) for run, kinds in report.added.items()}
            told = {"lines": report.lines, "runs": added, "bad_lines": report.bad.count}
            click.echo(json.dumps(told) if as_json else "\n".join(report.sentences()))
            if isinstance(sys.exception(), KeyboardInterrupt) and not report.is_whole:
                click.echo(CONTINUES, err=True)
    if dry_run and report.bad.count:
        raise EnvironmentProblem(
            f"{counted(report.bad.count, 'problem')} in {counted(report.lines, 'line')}: an import would store such a "
            "line as text, or without the value"
        )


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
