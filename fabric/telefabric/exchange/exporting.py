"""Moves the chosen events from a store into the files of a format, chunk by chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from telefabric import limits
from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.exchange.folder import Folder, Progress, Question
from telefabric.exchange.writer import Writer
from telefabric.store.read.reader import Reader

Tell = Callable[[int, int], None]
"""Called with the id that has been reached, and with the last one."""


def transfer(
    reader: Reader, target: Path, question: Question, open_writer: Callable[[Folder], Writer], tell: Tell,
    *, force: bool = False, resumes: bool = True,
) -> Progress:  # fmt: skip
    """Export all events that are stored now, or continue an unfinished export. Raises `TelefabricError`."""
    wanted = Progress(question, until=reader.newest(0).last)
    try:
        folder = Folder.open(target, wanted, force=force, resumes=resumes)
        try:
            _fill(folder, reader, open_writer, tell)
        except Exception as error:
            if isinstance(error, UsageError) or not resumes:  # nobody can continue it
                folder.forget()
            raise
        finally:
            folder.close()
    except OSError as error:
        raise EnvironmentProblem(
            f"{target} cannot be written: {error.strerror or error}: make room or choose another folder, and call again"
        ) from None
    return folder.progress


def _fill(folder: Folder, reader: Reader, open_writer: Callable[[Folder], Writer], tell: Tell) -> None:
    progress = folder.progress
    before = Counter(progress.counts), Counter(progress.left_out)
    writer = open_writer(folder)
    try:
        for done in _chunks(reader, progress, writer, tell):
            _count(progress, writer, *before)
            folder.checkpoint(done)
    finally:
        writer.close()
    _count(progress, writer, *before)
    if not progress.counts:
        raise UsageError(
            f"no stored event fits, so nothing was written: choose others of {reader.where}"
            + "".join(f"; left out: {why} ({count:,})" for why, count in sorted(progress.left_out.items()))
        )
    folder.checkpoint(progress.until, complete=True)


def _chunks(reader: Reader, progress: Progress, writer: Writer, tell: Tell) -> Iterator[int]:
    """Write chunk by chunk. Yields the id up to which all events are in the files."""
    events = size = 0
    for rows, done in progress.question.selection.pages(reader, progress.done, progress.until):
        writer.add(rows)
        events += len(rows)
        size += sum(len(row.event) for row in rows)
        if events >= limits.EXPORT_CHUNK_EVENTS or size >= limits.EXPORT_CHUNK_BYTES or done >= progress.until:
            writer.flush()
            events = size = 0
            yield done
        tell(done, progress.until)


def _count(progress: Progress, writer: Writer, written: Counter[str], left_out: Counter[str]) -> None:
    progress.counts = dict(written + writer.written)
    progress.left_out = dict(left_out + writer.left_out)
