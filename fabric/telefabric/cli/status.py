"""`telefabric status`: ask the broker how far the events of every stream have come."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from telefabric.address import Address
from telefabric.broker.core.hops import Hop
from telefabric.cli.options import setting
from telefabric.cli.plain import clean
from telefabric.doctor.finding import counted
from telefabric.doctor.streams import remedy
from telefabric.errors import StoreError, Unreachable
from telefabric.peer.requests import ask_status
from telefabric.settings import broker_address
from telefabric.store.read.query import Run
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.uplink import held_back
from telefabric.wire.control import StatusReply

_ASK_S = 3.0
_STORE_S = 1.0
_WATCH_S = 1.0
_STREAMS_SHOWN = 40
"""Streams in the table for people; `--json` has all."""
_GOING_ON = ("running", "revived")
_MISTAKES_SHOWN = 3
_NAME_MIN = 4
_WIDE = 110
"""A terminal with this many columns has room for all columns of a stream."""
_THIN = "\u202f"
"""A narrow space at which terminals do not break a line. rich does, so text with numbers is wrapped here."""
_STYLES = {"running": "green", "revived": "green", "waiting": "yellow", "held": "yellow", "stalled": "yellow"}


@click.command()
@setting("connect")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --watch, one every second.")
@click.option("--watch", is_flag=True, help="Print again every second, until ^C.")
def status(connect: str | None, as_json: bool, watch: bool) -> None:
    """Show how far each stream has come, from its worker to every subscriber, and the first hop that is behind.

    \b
    Example:
      telefabric status
      telefabric status --watch
      telefabric status --json | jq '.streams[] | {run_id, state, backlog, first_behind}'

    States: running, idle (nothing emitted for 10 s), waiting (for a store), held (its spool belongs to another store),
    stalled (three heartbeats missed), revived (heartbeats have resumed after a stall). The next columns count events:
    emitted by the worker, received by the broker, held by each durable subscriber, and sent to live subscribers. Clock:
    how far the broker's clock is ahead of the worker's. A run that was resumed, or has helpers (streams of child
    processes), has a line with its attempt.
    Streams that are behind come first, then running streams, then the others; in each group the newest comes first.
    """
    address = broker_address(connect)
    if as_json:
        _print_json(address)
        while watch:
            time.sleep(_WATCH_S)
            _print_json(address)
        return
    console = Console(markup=False, emoji=False)  # prints `[b]` and `:smile:` in a name unchanged
    looks = _looks(address, console.width)
    if watch and console.is_terminal:
        with Live(next(looks), console=console, auto_refresh=False) as live:
            for shown in looks:
                live.update(shown, refresh=True)
    for shown in looks if watch else islice(looks, 1):  # output that cannot be overwritten
        console.print(shown)


def _print_json(address: Address) -> None:
    reply = ask_status(address, _ASK_S)
    found = dict(reply.status)
    found["streams"] = [
        {**stream, "hops": [Hop(*row)._asdict() for row in stream["hops"]]} for stream in _ordered(found["streams"])
    ]
    found["runs"] = [
        {"run_id": run.run_id, "attempts": run.attempts, "helpers": run.helpers, "superseded": run.superseded}
        for run in _runs(address, reply)
    ]
    click.echo(json.dumps({"broker": address.url, "instance": reply.instance.hex(), **found}))


def _looks(address: Address, width: int) -> Iterator[RenderableType]:
    """One a second. When the broker goes away, say so and wait for it."""
    yield _look(address, width)
    while True:
        time.sleep(_WATCH_S)
        try:
            yield _look(address, width)
        except Unreachable as error:
            yield Text(f"{error} (waiting for it)", style="yellow")


def _look(address: Address, width: int) -> Group:
    reply = ask_status(address, _ASK_S)
    return _shown(address, reply.status, width, _runs(address, reply))


def _runs(address: Address, reply: StatusReply) -> list[Run]:
    """The runs of the shown streams with several attempts, helpers or superseded streams, as the store knows them."""
    names = dict.fromkeys(stream["run_id"] for stream in _ordered(reply.status["streams"])[:_STREAMS_SHOWN])
    if not names or not reply.endpoints.query:
        return []
    try:
        with RemoteReader(address, timeout_s=_STORE_S) as reader:
            found = [reader.run(run_id) for run_id in names]
    except (Unreachable, StoreError):  # the status shows a store that is absent or behind
        return []
    return [run for run in found if run is not None and (run.attempts > 1 or run.helpers or run.superseded)]


# -- for people --------------------------------------------------------------------------------------------------
def _shown(address: Address, found: dict[str, Any], width: int, runs: Sequence[Run] = ()) -> Group:
    """Sentences and tables, one below the other."""
    wide = width >= _WIDE
    parts: list[RenderableType] = [_headline(address, found)]
    if absent := [clean(name) for name in found["absent"]]:
        parts.append(
            f"Nothing is acknowledged now: no {' and no '.join(absent)} is attached. "
            f"Remedy: {remedy(address, absent)}. For one that runs: telefabric doctor"
        )
    if found["streams"]:
        parts += [_streams(found["streams"], wide=wide), *map(_attempt, runs)]
        if held := sum(stream["state"] == "held" for stream in found["streams"]):
            parts.append(f"{counted(held, 'stream')} held back: {held_back(address)}")
    if found["live"]:
        dropped = [one for one in found["live"] if one["dropped"]]  # the table has no room for these counts
        parts += [Text(), _subscribers(found["live"], wide=wide)]
        parts += [f"dropped for {clean(one['name'])}: {_counts(one['dropped'])}" for one in dropped]
    refused = {**found["dropped"], **{f"live {name}": count for name, count in found["live_dropped"].items()}}
    refused.pop("control_unreachable", None)  # answers to peers that had gone: nobody lacks them
    if refused:
        parts += [Text(), f"dropped by the broker: {_counts(refused)}"]
    parts += map(_mistake, found.get("mistakes", ())[:_MISTAKES_SHOWN])
    parts += [_left(host, spools) for host, spools in sorted(found.get("left_spools", {}).items())]
    return Group(*(_wrapped(part, width) if isinstance(part, str) else part for part in parts))


def _attempt(run: Run) -> str:
    """A line such as: run walker: attempt 2, 1 stream superseded, 3 helpers"""
    superseded = f", {counted(run.superseded, 'stream')} superseded" if run.superseded else ""
    helpers = f", {counted(run.helpers, 'helper')}" if run.helpers else ""
    return f"run {clean(run.run_id)}: attempt {run.attempts}{superseded}{helpers}"


def _mistake(one: dict[str, Any]) -> str:
    peer = clean(one["name"]) or f"peer {one['peer']}"
    return f"{peer} was corrected {one['ago_s']:.0f} s ago ({clean(one['reason'])}): {clean(one['message'])}"


def _left(host: str, spools: int) -> str:
    return (
        f"{clean(host) or 'A machine'} has {spools} spools of workers that have ended; workers there deliver them. "
        "Remedy if the number does not fall: telefabric spool drain there"
    )


def _wrapped(text: str, width: int) -> Text:
    """A sentence in lines of that width; numbers are never broken."""
    return Text(textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False), no_wrap=True)


def _headline(address: Address, found: dict[str, Any]) -> str:
    durable = ", ".join(clean(one["name"]) + " (not required)" * (not one["required"]) for one in found["durable"])
    streams = found["streams"]
    behind = sum(stream["first_behind"] is not None for stream in streams)
    late = f"   {behind} behind" if behind else ""
    return f"broker {address.url}   durable: {durable or 'none'}   streams: {len(streams)}{late}"


def _streams(streams: list[dict[str, Any]], *, wide: bool) -> Group:
    streams = _ordered(streams)
    ways = [[Hop(*row) for row in stream["hops"]] for stream in streams]
    names = list(dict.fromkeys(hop.name for way in ways for hop in way if hop.path == "durable"))[2:]
    table = Table(box=None, pad_edge=False)
    for name in ("run", "worker", *(("agent",) if wide else ())):
        table.add_column(name, overflow="fold", min_width=_NAME_MIN)
    table.add_column("state", no_wrap=True)
    for name in ("emitted", "broker", *names, "live", *(("credit kB", "clock ms", "trip ms") if wide else ())):
        table.add_column(clean(name), justify="right", no_wrap=True)
    table.add_column("behind at", overflow="fold")
    for stream, way in list(zip(streams, ways, strict=True))[:_STREAMS_SHOWN]:
        table.add_row(*_row(stream, way, names, wide=wide))
    left = len(streams) - _STREAMS_SHOWN
    return Group(table, *([Text(f"and {left} more: see --json")] if left > 0 else []))


def _ordered(streams: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Streams that are behind first, then running ones; in each group the newest first."""

    def place(stream: dict[str, Any]) -> tuple[bool, bool, int]:
        return stream["first_behind"] is None, stream["state"] not in _GOING_ON, -stream.get("started_ns", 0)

    return sorted(streams, key=place)


def _row(stream: dict[str, Any], way: list[Hop], names: list[str], *, wide: bool) -> Iterator[RenderableType]:
    durable = {hop.name: hop for hop in way if hop.path == "durable"}
    live = [hop.reached for hop in way if hop.path == "live"]
    yield from map(clean, (stream["run_id"], stream["worker_id"], *((stream["agent_id"],) if wide else ())))
    yield Text(stream["state"], style=_STYLES.get(stream["state"], ""))
    yield from (_number(durable[name].reached) if name in durable else "" for name in ("worker", "broker", *names))
    yield _number(max(live)) if live else ""
    if wide:
        yield _number(round(stream["credit_bytes"] / 1e3))
        yield _ms(stream["clock_offset_ms"])
        yield _ms(stream["round_trip_ms"])
    behind = stream["first_behind"]
    late = next((hop for hop in way if hop.name == behind), None)
    yield Text(f"{clean(behind)} for {late.behind_s:.0f} s", style="yellow") if late else ""


def _subscribers(live: list[dict[str, Any]], *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("live subscriber", overflow="fold", min_width=_NAME_MIN)
    table.add_column("policy", no_wrap=True)
    for name in ("for it", "sent", "received", "queued", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in live:
        figures = (one[key] for key in ("numbered", "delivered", "received", "queued", "lost_in_transit"))
        table.add_row(clean(one["name"]), _policy(one["policy"], wide=wide), *map(_number, figures))
    return table


def _policy(policy: dict[str, Any], *, wide: bool) -> str:
    mode = {"sample": [f"1 in {policy['every']}"], "latest_per_key": ["latest"]}.get(policy["mode"], [])
    limits = [f"{_number(policy['events_max'])} events", f"{policy['age_ms_max'] / 1e3:g} s"]
    return (", " if wide else ",\n").join([*mode, *limits])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_number(count)}" for name, count in sorted(counts.items()))


def _number(count: int) -> str:
    return f"{count:,}".replace(",", _THIN)


def _ms(time_ms: float | None) -> str:
    return "" if time_ms is None else f"{time_ms:.1f}"
