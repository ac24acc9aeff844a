"""`telefabric demo`: a run that really learns, through a broker and a store of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from telefabric.address import Address
from telefabric.service.embedded import Services
from telefabric.service.logs import set_up_logs
from telefabric.settings import absolute, data_folder
from telefabric.store.file.verify import audit
from telefabric_workers.connection import connect
from telefabric_workers.demo import cartpole, frozenlake
from telefabric_workers.demo.client import Client
from telefabric_workers.demo.training import WINDOW_EPISODES

if TYPE_CHECKING:
    from telefabric_workers.worker import Worker

TASKS: dict[str, Any] = {"frozenlake": frozenlake, "cartpole": cartpole}
_FLUSH_S = 30.0
_SEEN_RATE = 1_000.0
"""Steps a second when somebody looks on: faster than eyes, slow enough to see it learn."""


@click.command()
@click.option(
    "--task", type=click.Choice(sorted(TASKS)), default="frozenlake", show_default=True, help="What to learn."
)
@click.option("--episodes", type=click.IntRange(min=1), help="How many episodes; the task's own number by default.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same run.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Steps a second; as fast as it goes by default."
)
@click.option("--data", metavar="DIR", help="Folder of store and spool; demo/ in the user's data folder by default.")
@click.option("--headless", is_flag=True, help="Without the client: no window, no picture.")
@click.option("--keep", is_flag=True, help="Leave the window open at the end, until you close it.")
@click.option("--json", "as_json", is_flag=True, help="End with one line that is a JSON object.")
def demo(
    task: str,
    episodes: int | None,
    seed: int,
    rate: float | None,
    data: str | None,
    headless: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Learn a small task, look on, store every step of it, and count again what is stored.

    Starts a broker and a store of its own on a free port of this machine, and the client on them; without a display
    the client draws off screen and leaves a picture. Ends by itself.

    \b
    Example:
      telefabric demo --episodes 500 --data ./demo
    """
    set_up_logs(log_level="warning")
    folder = absolute(Path(data)) if data else data_folder() / "demo"
    started_s = time.monotonic()
    with Services(Address("127.0.0.1", 0), folder, log_level="warning") as services:
        metadata = {"game_id": TASKS[task].GAME_ID, "seed": seed}
        worker = connect(services.address.url, metadata=metadata, spool=folder / "spool", exit_flush_s=_FLUSH_S)
        client = Client(services.address, folder / "demo.png")
        with worker:
            if not headless:
                client.open()
            score = _train(worker, task, episodes, seed, rate or (_SEEN_RATE if client.on_screen else None))
        took_s = time.monotonic() - started_s
        screenshot = client.close(keep=keep)
    found = audit(services.file, worker.stream_id, worker.emitted)
    report = {
        "emitted": found.emitted,
        "stored": found.stored,
        "missing": found.missing,
        "duplicated": found.duplicated,
        "store": str(services.file),
        "success_rate": score.success_rate,
        "mean_return": score.mean_return,
        "episodes": score.episodes,
        "steps": score.steps,
        "run_id": worker.run_id,
        "screenshot": screenshot,
    }
    _say(report, took_s)
    if as_json:
        click.echo(json.dumps(report))
    if found.missing or found.duplicated or found.stored != found.emitted:
        sys.exit(1)


def _train(worker: Worker, task: str, episodes: int | None, seed: int, rate: float | None) -> Any:
    """Train with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = episodes or TASKS[task].EPISODES
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TextColumn("episodes"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(task, total=total)
        worker.register_on_episode_end(lambda episode: progress.advance(bar))
        return TASKS[task].train(worker, episodes=total, seed=seed, rate=rate)


def _say(report: dict[str, Any], took_s: float) -> None:
    click.echo(
        f"Learned   {report['success_rate']:.0%} of the last {min(WINDOW_EPISODES, report['episodes'])} episodes "
        f"succeeded, after {report['episodes']} episodes and {report['steps']} steps in {took_s:.1f} s."
    )
    click.echo(f"Emitted   {report['emitted']} events.")
    click.echo(f"Stored    {report['stored']} of them, {report['missing']} missing, {report['duplicated']} duplicated.")
    click.echo(f"Store     {report['store']}")
    if report["screenshot"]:
        click.echo(f"Picture   {report['screenshot']}")
    command = "telefabric" if shutil.which("telefabric") else os.path.relpath(sys.argv[0])
    click.echo(f"Look      {command} dump --store {report['store']} --run {report['run_id']} | head")
