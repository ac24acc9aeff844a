"""`telefabric import tensorboard`."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from telefabric.cli.options import setting
from telefabric.doctor.finding import counted_kinds
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.settings import absolute
from telefabric.store.read.reader import Reader
from telefabric.store.read.remote_reader import RemoteReader
from telefabric_workers.environment import WorkerEnvironment
from telefabric_workers.imports.filestream import CONTINUES
from telefabric_workers.imports.tensorboard.folder import OPEN_MAX, EventFile, event_files
from telefabric_workers.outbox import link_of

_LOOK_S = 0.5
_IDLE_S = 600.0
"""A file that is followed and was not written for so long has ended, until it is written again."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--follow", is_flag=True, help="Continue with what is appended, until ^C.")
@click.option("--prefix", default="", metavar="TEXT", help="Put this before the name of each run, such as lab/.")
@setting("connect")
@setting("agent_id", flag="--agent")
@setting("spool")
@click.option("--json", "as_json", is_flag=True, help="End with one line that is a JSON object.")
def tensorboard(
    folder: Path, follow: bool, prefix: str, connect: str | None, agent_id: str | None, spool: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Bring TensorBoard's event files into the store: each folder below DIR that has some is a run.

    \b
    telefabric import tensorboard runs
    telefabric import tensorboard runs --follow --prefix laptop/

    Scalars become metrics, texts and tensors log lines, with the wall times of the files. Histograms, pictures, sound
    and graphs are left out and counted. A second import adds only what is new. A restart, which writes a new file, is a
    further attempt at its run.
    """
    folder = absolute(folder)
    if not folder.exists():
        raise UsageError(f"there is no folder {folder}: name one with event files")
    environment = WorkerEnvironment.read(connect=connect, agent_id=agent_id, spool=spool, mode="durable")
    environment = environment._replace(spool_policy=environment.spool_policy._replace(when_full="block"))
    with RemoteReader(environment.address) as reader, link_of(environment):
        job = Import(folder, prefix, environment, reader)
        try:
            job.once(follow=follow)
            while follow:
                time.sleep(_LOOK_S)
                job.look()
        finally:
            job.end()
            if isinstance(sys.exception(), KeyboardInterrupt) and not job.is_whole:
                click.echo(CONTINUES, err=True)
    click.echo(json.dumps(job.report()) if as_json else "\n".join(job.sentences()))


class Import:
    """One import of a folder."""

    def __init__(self, folder: Path, prefix: str, environment: WorkerEnvironment, reader: Reader) -> None:
        self._folder, self._prefix = folder, prefix
        self._environment, self._reader = environment, reader
        self._files: dict[Path, EventFile] = {}
        self._added: dict[str, Counter[str]] = {}
        """By run and kind."""
        self._left_out: Counter[str] = Counter()
        self._told: set[str] = set()
        self.is_whole = True
        """Each file was read to its end."""

    def once(self, *, follow: bool) -> None:
        """All that is there now, one file after the other, with a progress bar on a terminal."""
        from rich.console import Console
        from rich.progress import Progress

        files = self._known()
        if not files:
            raise EnvironmentProblem(f"no event files in {self._folder}: name a folder of TensorBoard's")
        total = sum(path.stat().st_size for path in files)
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task, done = bar.add_task("importing", total=total), 0
            for path, file in files.items():
                for offset in file.read(self._environment, self._reader):
                    bar.update(task, completed=done + offset)
                done += file.offset
                if not follow:
                    self._tell(file)
                    self._forget(path)
                self._end_some()

    def look(self) -> None:
        """What has been appended since; the streams of the files that grow stay open."""
        for path in [path for path, file in self._files.items() if file.is_replaced()]:
            self._forget(path)
        for path, file in self._known().items():
            before = file.offset
            for _ in file.read(self._environment, self._reader):
                pass
            if file.offset > before:  # the one that grew last is the last
                self._files[path] = self._files.pop(path)
        self._end_some()

    def _end_some(self) -> None:
        """Of the files that grew, those that do so no more, or longest ago."""
        growing = [file for file in self._files.values() if file.is_open and not file.is_replaced()]
        for left, file in zip(range(len(growing), 0, -1), growing, strict=True):
            if left > OPEN_MAX or file.idle_s > _IDLE_S:
                file.end()

    def end(self) -> None:
        for path, file in list(self._files.items()):
            self._tell(file)
            self._forget(path)

    def _known(self) -> dict[Path, EventFile]:
        """All files, also those that were not there before; a copy."""
        try:
            for path, run_id in event_files(self._folder, self._prefix).items():
                if path not in self._files:
                    self._files[path] = EventFile(path, run_id)
        except FileNotFoundError:
            pass  # a folder that went while it was looked through
        except OSError as error:
            raise EnvironmentProblem(f"{error.filename} cannot be read: {error.strerror}: check its rights") from None
        return dict(self._files)

    def _forget(self, path: Path) -> None:
        file = self._files.pop(path)
        self.is_whole &= file.is_through
        file.end()
        if file.stream is not None:
            self._added.setdefault(file.stream.run_id, Counter()).update(+file.counts)
        self._left_out.update(file.left_out)

    def _tell(self, file: EventFile) -> None:
        """Say once what cannot be read of a file."""
        if (sentence := file.unread) and sentence not in self._told:
            self._told.add(sentence)
            click.echo(f"telefabric: {sentence}", err=True)

    def report(self) -> dict[str, Any]:
        return {"runs": dict(sorted(self._added.items())), "left_out": self._left_out}

    def sentences(self) -> list[str]:
        lines = [f"{run_id}: {counted_kinds(added) or 'nothing new'}" for run_id, added in sorted(self._added.items())]
        if self._left_out:
            lines.append("Left out: " + ", ".join(f"{what} ({count})" for what, count in self._left_out.items()))
        return lines or ["No record was read."]
