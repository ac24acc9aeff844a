"""`telefabric export`: what is stored, in the forms of other tools."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, track

from telefabric.cli.options import NAME
from telefabric.cli.plain import clean
from telefabric.cli.read import open_source, require_run
from telefabric.errors import UsageError
from telefabric.exchange import mp4
from telefabric.exchange.exporting import transfer
from telefabric.exchange.folder import Question
from telefabric.exchange.formats import FORMATS, Format
from telefabric.exchange.selection import Range, Selection
from telefabric.settings import absolute

_STORE = (
    click.option("--store", type=click.Path(path_type=Path), metavar="FILE", help="Read this store file."),
    click.option("--connect", metavar="URL", help="Ask the store of the broker there."),
)
_FORCE = click.option("--force", is_flag=True, help="Replace what an earlier export wrote there.")
_OPTIONS = {
    "raw": click.option("--raw/--no-raw", default=True, show_default=True,
                        help="Add each event as it was received, as MessagePack."),
    "env": click.option("--env", type=click.IntRange(min=0), metavar="N",
                        help="Only this environment, and the spaces of the run's metadata that its values fit."),
    "project": click.option("--project", default="telefabric", show_default=True, metavar="NAME",
                            help="The project of W&B."),
}  # fmt: skip
"""Options of some formats."""


@click.group()
def export() -> None:
    """Write stored events in the form of another tool.

    \b
    telefabric export csv walker --run walker
    telefabric export parquet walker --run walker --kind step --kind episode
    telefabric export mp4 best.mp4 --run walker --episode 12

    Without --store or --connect, export looks for the store in the same places as telefabric dump.
    """


def _command(name: str, form: Format) -> click.Command:
    """The command of one format of the table."""
    examples = f"telefabric export {name} TARGET --run frozenlake-q"
    again = "continues an export that was interrupted" if form.resumes else "begins an interrupted export again"
    text = f"""Write stored events as {form.summary}, in the folder TARGET.

    \b
    {examples}
    {examples} --episodes 10-19

    A second call {again}. Events that are stored while it runs are left out. Voided episodes are left out, too.
    """

    def callback(target: Path, run: str | None, agent: str | None, kinds: tuple[str, ...], **given: Any) -> None:
        episodes, steps = (Range.parse(given[each]) if given[each] else None for each in ("episodes", "steps"))
        chosen = Selection(
            tuple(sorted({*kinds})) or form.default_kinds(), run, agent, episodes, steps, given["voided"]
        )
        options = {each: given[each] for each in form.options}
        _run(name, absolute(target), chosen, options, given["store"], given["connect"], given["force"])

    choices = click.Choice(form.kinds)
    kind_help = f"Only this kind; may be given several times. Default: {', '.join(form.default_kinds())}."
    decorations = (
        click.argument("target", type=click.Path(path_type=Path, file_okay=False), metavar="TARGET"),
        click.option("--run", type=NAME, metavar="ID", help="Only this run."),
        click.option("--agent", type=NAME, metavar="ID", help="Only this agent."),
        click.option("--kind", "kinds", multiple=True, type=choices, metavar="KIND", help=kind_help),
        click.option("--episodes", metavar="RANGE",
                     help="Only episodes with these indices: 7, 10-19 or 10-; and only events that name an episode."),
        click.option("--steps", metavar="RANGE",
                     help="Only these global steps; and only events that name one."),
        click.option("--voided", is_flag=True, help="Also what was voided, for example undone."),
        *(_OPTIONS[each] for each in form.options),
        _FORCE,
        *_STORE,
    )  # fmt: skip
    return _decorated(callback, decorations, name, text)


def _decorated(callback: Callable[..., None], decorations: tuple[Any, ...], name: str, text: str) -> click.Command:
    for decoration in reversed(decorations):
        callback = decoration(callback)
    return click.command(name, help=text)(callback)


def _run(
    name: str, target: Path, chosen: Selection, options: dict[str, Any], store: Path | None, connect: str | None,
    force: bool,
) -> None:  # fmt: skip
    form = FORMATS[name]
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with open_source(store, connect) as reader:
        require_run(reader, chosen.run, chosen.agent)
        opener = form.opener(reader, options)
        question = Question(name, reader.where, chosen, options)
        bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        try:
            with bar:
                task = bar.add_task("events by id", total=None)
                tell = partial(_tell, bar, task)
                done = transfer(reader, target, question, opener, tell, force=force, resumes=form.resumes)
        except KeyboardInterrupt:
            again = "continues" if form.resumes else "begins again"
            click.echo(f"telefabric: interrupted: the same command {again}", err=True)
            raise
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(done.counts.items()))
    left = "".join(f" Left out: {why} ({count:,})." for why, count in sorted(done.left_out.items()))
    click.echo(f"Wrote {clean(str(target))}: {sum(done.counts.values()):,} events ({kinds}).{left}")


def _tell(bar: Progress, task: Any, reached: int, last: int) -> None:
    bar.update(task, completed=reached, total=last)


for _name, _form in FORMATS.items():
    export.add_command(_command(_name, _form))


@export.command("mp4")
@click.argument("video", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.mp4")
@click.option("--run", "run_id", type=NAME, required=True, metavar="ID", help="The run.")
@click.option("--episode", required=True, type=int, metavar="N", help="The episode, counted from 0.")
@click.option("--agent", "agent_id", type=NAME, metavar="ID", help="The agent; needed when the run has several.")
@click.option("--env", "env_index", type=int, default=0, metavar="N", help="The environment; default 0.")
@click.option("--stream", "stream", metavar="HEX", help="The stream; by default that of the newest attempt.")
@click.option("--worker", "worker_id", metavar="ID", help="Use the newest stream of this worker that has the episode.")
@click.option("--voided", is_flag=True, help="Accept an episode that was voided, for example undone.")
@click.option("--fps", type=click.IntRange(1, 240), default=30, show_default=True, help="Steps per second of video.")
@click.option("--hud/--no-hud", default=True, help="Print reward, return, episode and step below the picture.")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@click.option("--store", type=click.Path(path_type=Path), metavar="FILE", help="Read this store file.")
@click.option("--connect", metavar="URL", help="Ask the store of the broker there.")
def video_command(
    video: Path, run_id: str, episode: int, agent_id: str | None, env_index: int, stream: str | None,
    worker_id: str | None, voided: bool, fps: int, hud: bool, force: bool, store: Path | None, connect: str | None,
) -> None:  # fmt: skip
    """Write an episode as a video: one picture per step, from the stored frames, as H.264.

    \b
    telefabric export mp4 best.mp4 --run frozenlake-q --episode 12
    telefabric export mp4 walk.mp4 --store telemetry.sqlite --run walker --agent ada --episode 3 --fps 60 --no-hud

    A step without a stored frame shows the frame before it; the last line says how many steps did so. Workers store
    frames only when asked to: with store_frames of connect(), or TELEFABRIC_STORE_FRAMES. A video that is interrupted
    is begun again.
    """
    video = absolute(video)
    if os.path.exists(video) and not force:  # False in a folder that is closed: writing names the reason
        raise UsageError(f"{video} is there already: name another file, or replace it with --force")
    with open_source(store, connect) as reader:
        require_run(reader, run_id, agent_id)
        agent = agent_id or mp4.only_agent(reader, run_id)
        place, others = mp4.find(reader, (run_id, agent, env_index, episode), stream, worker_id, voided)
        made = mp4.write_video(reader, place, video, fps=fps, hud=hud, seen=_drawing)
    held = f" {made.held} of them had no frame of their own and show another's." if made.held else ""
    left_out = "".join(f" Left out: {each}." for each in others)
    click.echo(f"Wrote {video}: {made.steps} steps, {made.steps / fps:.1f} s.{held}{left_out}")


def _drawing(shown: Iterable[mp4.Shown], count: int) -> Iterable[mp4.Shown]:
    return track(shown, "writing", count, console=Console(stderr=True), transient=True)
