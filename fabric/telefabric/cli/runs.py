"""`telefabric runs`: the runs of a store, and edits of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import asdict

from telefabric.cli.options import NAME, setting
from telefabric.cli.plain import clean
from telefabric.cli.read import open_source, require_run
from telefabric.errors import UsageError
from telefabric.exchange.json_form import careful, encode_json
from telefabric.peer.edit_request import ask_edit, read_only
from telefabric.settings import broker_address
from telefabric.store.read.query import BookmarkRow, Run
from telefabric.wire.edits import Bookmark, Marked, tags_of

_NS = 1_000_000_000
_COMPUTED = "computed"
_sources = (
    click.option("--store", type=click.Path(path_type=Path), metavar="FILE", help="Read this store file."),
    click.option("--connect", metavar="URL", help="Ask the store of the broker there."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object per run."),
)
Edit = Callable[[str, Any], None]


def _source(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_sources):
        command = option(command)
    return command


@click.group()
def runs() -> None:
    """List runs, and edit what is known about them. Every edit is kept in the store, with the name of its author.

    \b
    Example:
      telefabric runs list
      telefabric runs tag frozenlake-q baseline
    """


# -- reading -----------------------------------------------------------------------------------------------------
@runs.command("list")
@_source
@click.option("--tag", type=NAME, metavar="TAG", help="Only runs that have this tag.")
@click.option("--archived", is_flag=True, help="Archived runs, too.")
def list_runs(store: Path | None, connect: str | None, as_json: bool, tag: str | None, archived: bool) -> None:
    """List the runs of a store, the newest last. A status that was given by hand has a *.

    \b
    Example:
      telefabric runs list --tag baseline --json
    """
    with open_source(store, connect) as reader:
        found = [run for run in reader.runs() if archived or run.archived_ns is None]
    found = [run for run in found if tag is None or tag in tags_of(run.tags)]
    if as_json:
        for run in found:
            click.echo(encode_json(_as_json(run)))
    elif not found:
        click.echo("No runs.")
    else:
        _show(found)


@runs.command()
@click.argument("run", type=NAME)
@_source
def show(run: str, store: Path | None, connect: str | None, as_json: bool) -> None:
    """Show one run: status, times, tags, note, metadata and bookmarks.

    \b
    Example:
      telefabric runs show frozenlake-q
    """
    with open_source(store, connect) as reader:
        require_run(reader, run)
        found = reader.run(run)
        assert found is not None
        bookmarks = reader.bookmarks(run)
        carriers = sorted({one.carrier for one in reader.streams(run) if one.carrier})
    if as_json:
        more = {"carriers": carriers, "bookmarks": [_bookmark_as_json(one) for one in bookmarks]}
        click.echo(encode_json({**_as_json(found), **more}))
        return
    for name, value in _details(found):
        click.echo(f"{name:<12}{value}")
    if carriers:
        click.echo(f"{'keys':<12}{clean(', '.join(carriers))}")
    for one in bookmarks:
        place = f"{clean(one.agent_id)} env {one.env_index} episode {one.episode_index} step {one.step_index}"
        click.echo(f"{f'bookmark {one.bookmark}':<12} {place}  {clean(one.label)}  (by {clean(one.by)})")


def _details(run: Run) -> list[tuple[str, str]]:
    status = run.status + (f": {clean(run.reason)}" if run.reason else "")
    if run.marked_by is not None:
        status += f"  (marked by {clean(run.marked_by)} at {_moment(run.marked_ns)}; computed: {run.computed_status})"
    metadata = encode_json(careful(msgspec.Raw(run.metadata)))
    lines = [
        ("run", clean(run.run_id)), ("status", status), ("started", _moment(run.started_ns)),
        ("finished", _moment(run.finished_ns)), ("attempts", str(run.attempts)), ("archived", _moment(run.archived_ns)),
        ("tags", ", ".join(map(clean, tags_of(run.tags)))), ("metadata", clean(metadata)),
        *(("note", clean(line)) for line in run.notes.splitlines()),
    ]  # fmt: skip
    return [(name, value) for name, value in lines if value]


def _show(found: list[Run]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("run", "status", "started", "tags", "note"):
        table.add_column(name, overflow="fold")
    for run in found:
        status = run.status + ("*" if run.marked_by is not None else "") + (" (archived)" if run.archived_ns else "")
        note = next(iter(run.notes.splitlines()), "")
        texts = (run.run_id, status, _moment(run.started_ns), ", ".join(tags_of(run.tags)), note)
        table.add_row(*map(clean, texts))
    Console(markup=False, emoji=False).print(table)  # a name may look like markup of rich


def _moment(time_ns: int | None) -> str:
    return "" if time_ns is None else f"{datetime.fromtimestamp(time_ns // _NS):%Y-%m-%d %H:%M:%S}"


def _as_json(run: Run) -> dict[str, Any]:
    return {**asdict(run), "metadata": careful(msgspec.Raw(run.metadata)), "tags": tags_of(run.tags)}


def _bookmark_as_json(one: BookmarkRow) -> dict[str, Any]:
    return {**asdict(one), "stream_id": one.stream_id and one.stream_id.hex()}


# -- editing -----------------------------------------------------------------------------------------------------
def _editing(command: Callable[..., None]) -> Callable[..., None]:
    """A command that edits RUN. It gets a function that asks for an edit and prints what was done, and its own rest."""

    @runs.command(command.__name__)
    @click.argument("run", type=NAME)
    @click.option("--store", metavar="FILE", hidden=True)
    @setting("connect")
    @wraps(command)
    def edit_command(run: str, store: str | None, connect: str | None, **others: Any) -> None:
        if store is not None:
            raise read_only(Path(store))
        address = broker_address(connect)
        command(
            lambda name, value=None: click.echo(clean(ask_edit(address, name, run, value)) + "."), run=run, **others
        )

    return edit_command


@_editing
@click.argument("tags", nargs=-1, required=True, type=NAME, metavar="TAG...")
def tag(edit: Edit, run: str, tags: tuple[str, ...]) -> None:
    """Add tags to RUN.

    \b
    Example:
      telefabric runs tag frozenlake-q baseline "new reward"
    """
    for one in tags:
        edit("tag", one)


@_editing
@click.argument("tags", nargs=-1, required=True, type=NAME, metavar="TAG...")
def untag(edit: Edit, run: str, tags: tuple[str, ...]) -> None:
    """Take tags away from RUN.

    \b
    Example:
      telefabric runs untag frozenlake-q baseline
    """
    for one in tags:
        edit("untag", one)


@_editing
@click.argument("text", type=NAME)
def note(edit: Edit, run: str, text: str) -> None:
    """Replace the note of RUN; - reads it from standard input, and an empty TEXT removes it.

    \b
    Example:
      telefabric runs note frozenlake-q "diverges after step 4000"
    """
    edit("note", sys.stdin.read() if text == "-" else text)


@_editing
@click.argument("episode", type=int)
@click.argument("step", type=int)
@click.option("--agent", type=NAME, default="agent_0", show_default=True, metavar="ID", help="The agent.")
@click.option("--env", type=int, default=0, show_default=True, metavar="N", help="The environment of a vector env.")
@click.option("--label", type=NAME, default="", metavar="TEXT", help="What is to be seen there.")
def bookmark(edit: Edit, run: str, episode: int, step: int, agent: str, env: int, label: str) -> None:
    """Remember a step of RUN, by numbers of EPISODE and STEP.

    \b
    Example:
      telefabric runs bookmark frozenlake-q 17 3 --label "the first goal"
    """
    edit("bookmark", Bookmark(agent, env, episode, step, None, label))


@_editing
@click.argument("number", type=click.IntRange(min=0))
def unbookmark(edit: Edit, run: str, number: int) -> None:
    """Remove bookmark NUMBER of RUN.

    \b
    Example:
      telefabric runs unbookmark frozenlake-q 1
    """
    edit("unbookmark", number)


@_editing
@click.argument("outcome", type=click.Choice(("completed", "cancelled", "failed", "lost", _COMPUTED)))
@click.option("--reason", type=NAME, default="", metavar="TEXT", help="Why.")
def mark(edit: Edit, run: str, outcome: str, reason: str) -> None:
    """Give RUN, which has ended or is lost, another OUTCOME; computed takes that back.

    \b
    Example:
      telefabric runs mark frozenlake-q completed --reason "only the network was gone"
    """
    edit("mark", Marked(None if outcome == _COMPUTED else outcome, reason))  # type: ignore[arg-type]


@_editing
def archive(edit: Edit, run: str) -> None:
    """Put RUN aside: lists leave it out.

    \b
    Example:
      telefabric runs archive frozenlake-q
    """
    edit("archive", None)


@_editing
def unarchive(edit: Edit, run: str) -> None:
    """Take RUN back among the others.

    \b
    Example:
      telefabric runs unarchive frozenlake-q
    """
    edit("unarchive", None)


@_editing
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(edit: Edit, run: str, yes: bool) -> None:
    """Delete RUN with all its events, for good. A run that runs cannot be deleted.

    \b
    Example:
      telefabric runs delete frozenlake-q --yes
    """
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("delete asks before it deletes, and nobody is here to answer: give --yes")
        click.confirm(f"Delete {clean(run)} and all its events for good?", abort=True)
    edit("delete", None)
