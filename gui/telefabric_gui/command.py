"""`telefabric gui`: the window."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click

from telefabric import EnvironmentProblem, UsageError, parse_policy, settings

for _needed in ("PySide6", "pyqtgraph"):  # looked for and not imported: --help and errors can do without
    if find_spec(_needed) is None:
        raise ModuleNotFoundError(f"No module named {_needed!r}", name=_needed)


_FILE = click.Path(path_type=Path)


@click.command()
@click.option(
    "--connect",
    metavar="BROKER",
    help="The broker to show, by address or by the name of a saved connection; by default the one that the "
    "environment names, else the last one.",
)
@click.option("--store", type=_FILE, metavar="FILE", help="Show this store file, or the store in this folder.")
@click.option("--policy", metavar="POLICY", help=settings.SETTINGS["policy"].option_help)
@click.option("--memory-limit", metavar="MB", help=settings.SETTINGS["memory_limit"].option_help)
@click.option(
    "--theme",
    type=click.Choice(["dark", "light", "auto"]),
    default="auto",
    show_default=True,
    help="Colours; auto follows the desktop.",
)
@click.option("--screenshot", type=_FILE, hidden=True, help="Save a picture of the window and quit.")
@click.option("--after", type=click.FloatRange(min=0), default=3.0, hidden=True, help="Seconds before the picture.")
@click.option("--size", metavar="WxH", hidden=True, help="Size of the window.")
@click.option("--sheet", is_flag=True, hidden=True, help="Open the sheet for connecting.")
@click.option("--tied", is_flag=True, hidden=True, help="End, or take the picture, when standard input closes.")
def gui(
    connect: str | None,
    store: Path | None,
    policy: str | None,
    memory_limit: str | None,
    theme: str,
    screenshot: Path | None,
    after: float,
    size: str | None,
    tied: bool,
    sheet: bool,
) -> None:
    """Open the client: runs as they happen, and their stored events.

    \b
    Examples:
      telefabric gui
      telefabric gui --connect tcp://lab-broker:7750
      telefabric gui --connect lab
      telefabric gui --store ./demo/telemetry.sqlite
    """
    if store is not None and connect is not None:
        raise UsageError("--store reads a file and --connect asks a broker: give one of them")
    from telefabric_gui.app import run  # takes Qt along
    from telefabric_gui.sources import Memory, feed_of

    wish = parse_policy(settings.resolve("policy", policy).value)
    told = settings.resolve("connect", connect)
    source, offer = str(store.absolute()) if store is not None else told.value, False
    if store is None and told.source == "default":
        source, offer = Memory().last() or source, True
    feed = feed_of(source, wish)
    _require_display()
    run(
        feed, opener=partial(feed_of, policy=wish), source="" if tied or screenshot else source, offer=offer,
        theme_name=theme, screenshot=screenshot, after_s=after, size=_size(size), tied=tied, sheet=sheet,
        memory_limit=settings.resolve("memory_limit", memory_limit).value,
    )  # fmt: skip


def _size(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    width, _, height = given.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UsageError(f"{given} is not a size: give width and height, such as 1440x900")
    return int(width), int(height)


def _require_display() -> None:
    """Raises `EnvironmentProblem` without a display: Qt would end the whole process."""
    if sys.platform == "linux" and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    ):
        raise EnvironmentProblem("no display was found: run it on a desktop, or with ssh -X, or under xvfb-run")
