"""`telefabric dump` and `telefabric tail`: events as JSON lines and as lines for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from telefabric import limits, settings
from telefabric.address import Address
from telefabric.cli.livetail import LiveTail, live_row
from telefabric.cli.options import NAME, setting
from telefabric.cli.plain import clean
from telefabric.cli.plotjuggler import PORT, PlotJugglerSocket
from telefabric.cli.streams import forget_output
from telefabric.errors import StoreError, Unreachable, UsageError
from telefabric.exchange.json_form import (
    NO_JSON,
    decode_values,
    json_default,
    json_line,
    literal_json,
    raw_line,
    string_keys,
)
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.peer.requests import ask_status
from telefabric.store.read.query import Page, StoredEvent
from telefabric.store.read.reader import KINDS, QUARANTINE, Reader
from telefabric.store.read.remote_reader import RemoteReader, open_store
from telefabric.wire.names import require_short
from telefabric.wire.policy import parse_policy
from telefabric_schemas import AnyEvent, events
from telefabric_schemas.decoding import decode_event

_POLL_S = 0.1
_POLL_LIVE_S = 0.02
_RETRY_S = 1.0
_SHORT = 48
"""Most characters of a value in a line for people."""
Render = Callable[[StoredEvent], bytes]
Show = Callable[[Iterable[StoredEvent]], None]


class Wanted(NamedTuple):
    """The events that the user asked for: of one run and one agent or of all, and of some kinds or, empty, of all."""

    run: str | None = None
    kinds: tuple[str, ...] = ()
    agent: str | None = None

    def page(self, reader: Reader, after: int, limit: int = limits.QUERY_ROWS_MAX) -> Page[StoredEvent]:
        return reader.events(after, self.run, self.kinds or None, self.agent, limit)

    def newest(self, reader: Reader, limit: int) -> Page[StoredEvent]:
        return reader.newest(limit, self.run, self.kinds or None, self.agent)

    def has(self, row: StoredEvent) -> bool:
        return (not self.kinds or row.kind in self.kinds) and self.agent in (None, row.agent_id)


# -- where from --------------------------------------------------------------------------------------------------
def open_source(store: Path | None, connect: str | None) -> Reader:
    """A reader of the store that the user named, else of this machine's store. Raises `TelefabricError`."""
    if store is not None and connect is not None:
        raise UsageError("--store reads a file and --connect asks a broker: give one of them")
    if store is not None:
        return open_store(store)
    address = settings.resolve("connect", connect)
    file = settings.data_folder() / settings.STORE_FILE_NAME
    named = address.source != "default" and settings.resolve("data").source == "default"
    if connect is None and not named and _is_there(file):
        return open_store(file)
    try:
        return RemoteReader(settings.broker_address(connect))
    except Unreachable as error:
        if address.source != "default":
            raise
        raise Unreachable(f"there is no store at {file}, and {error}, or name a file with --store") from None


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except PermissionError:  # the reader's error names what is closed
        return True


def _source_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what is read, and from where. The command gets a `Wanted`, `store` and `connect`."""

    @wraps(command)
    def source_command(run: str | None, kinds: tuple[str, ...], agent: str | None, **others: Any) -> None:
        command(Wanted(run, kinds, agent), **others)

    options = (
        click.option("--run", type=NAME, metavar="ID", help="Only this run."),
        click.option(
            "--kind", "kinds", multiple=True, type=click.Choice(KINDS), metavar="KIND",
            help=f"Only this kind; may be given several times. One of {', '.join(KINDS)}.",
        ),
        click.option("--agent", type=NAME, metavar="ID", help="Only this agent."),
        click.option("--store", type=click.Path(path_type=Path), metavar="FILE", help="Read this store file."),
        click.option("--connect", metavar="URL", help="Ask the store of the broker there."),
    )  # fmt: skip
    decorated: Callable[..., None] = source_command
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


@contextmanager
def _output(render: Render) -> Iterator[Show]:
    """Show rows on standard output. When its reader goes away, as `head` does, the command is done."""

    def show(rows: Iterable[StoredEvent]) -> None:
        for row in rows:
            sys.stdout.buffer.write(render(row))
        sys.stdout.buffer.flush()

    try:
        yield show
    except BrokenPipeError:
        forget_output()


# -- dump --------------------------------------------------------------------------------------------------------
@click.command()
@_source_options
@click.option("--since", type=click.IntRange(min=0), default=0, metavar="ID", help="Only events with a higher id.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N events.")
@click.option("--nan", type=click.Choice(["text", "literal"]), default="text", show_default=True,
              help="How NaN and the infinities are written.")  # fmt: skip
def dump(wanted: Wanted, store: Path | None, connect: str | None, since: int, limit: int | None, nan: str) -> None:
    """Write stored events as JSON lines: one object per event, in order of arrival.

    \b
    telefabric dump --run frozenlake-q --kind episode | jq .total_reward
    telefabric dump --since 120000 > rest.jsonl
    telefabric dump --store telemetry.sqlite --limit 5

    Without --store or --connect, dump reads from the broker or data folder that the environment or telefabric.toml
    names, else from the store file in your data folder, else from the broker at the default address. Reading a file
    needs no running service.

    Each object has id, kind, run_id, worker_id, stream_id, seq, and the fields of the event. The id grows in order of
    arrival over all kinds: keep the last one, and continue there with --since. Events that are stored while dump runs
    are left for the next dump.

    Each line is strict JSON. Arrays become {"dtype", "shape", "data"}, bytes {"base64"}, timestamps ISO 8601; keys of
    other types become strings. NaN and the infinities become the strings "NaN", "Infinity" and "-Infinity"; with
    --nan literal they are written without quotes, as Python's json does and other readers refuse. A gap names the lost
    seqs and the reason; a quarantine holds bytes that could not be read, with the reason.
    """
    render = partial(json_line, encode=literal_json) if nan == "literal" else json_line
    with _output(render) as show, open_source(store, connect) as reader:
        require_run(reader, wanted.run, wanted.agent)
        newest = reader.newest(0).last
        at = min(since, newest)
        left = limit or sys.maxsize
        while at < newest and left:
            page = wanted.page(reader, at, left)
            show(row for row in page.rows if row.id <= newest)
            at = page.last if page.more else newest
            left -= len(page.rows)


def require_run(reader: Reader, run: str | None, agent: str | None = None) -> None:
    """Raises `StoreError` for a run, or an agent in it, that is not in the store; the error names some that are."""
    if run is not None and reader.run(run) is None:
        known = [found.run_id for found in reader.runs()[-5:]]
        hint = f"the newest are {', '.join(known)}" if known else "it holds none yet"
        raise StoreError(f"there is no run {run!r} in {reader.where}: {hint}")
    if agent is not None and not reader.newest(1, run, None, agent).rows:
        runs = [found.run_id for found in reader.runs()[-5:]] if run is None else [run]
        agents = dict.fromkeys(count.agent_id for one in reversed(runs) for count in reader.counts(one))
        hint = f"{'its newest runs have' if run is None else 'it has'} {', '.join([*agents][:5]) or 'none yet'}"
        where = reader.where if run is None else f"run {run!r} of {reader.where}"
        raise StoreError(f"there is no agent {agent!r} in {where}: {hint}")


# -- tail --------------------------------------------------------------------------------------------------------
@click.command()
@_source_options
@click.option("--since", type=click.IntRange(min=0), metavar="ID", help="Begin after this id, instead of -n.")
@click.option("-n", "--lines", type=click.IntRange(0, 2_000), default=10, show_default=True,
              help="Begin with the last N events.")  # fmt: skip
@click.option("--follow/--no-follow", default=True, show_default=True, help="Continue with events as they are stored.")
@click.option("--from-start", is_flag=True,
              help="All of one run, --run or the newest: first its stored events, then its live ones.")  # fmt: skip
@click.option("--live", is_flag=True,
              help="Events as they are emitted from now on, without waiting for the store; counts drops.")  # fmt: skip
@setting("policy")
@click.option("--plotjuggler", type=click.IntRange(1, 65_535), is_flag=False, flag_value=PORT, metavar="[PORT]",
              help=f"With --live: publish for PlotJuggler on this port, or {PORT}, instead of printing.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, as telefabric dump does.")
@click.option("--raw", is_flag=True,
              help="Print each event's MessagePack array as a JSON array, without names of fields.")  # fmt: skip
def tail(
    wanted: Wanted, store: Path | None, connect: str | None, since: int | None, lines: int, follow: bool,
    from_start: bool, live: bool, policy: str | None, plotjuggler: int | None, as_json: bool, raw: bool,
) -> None:  # fmt: skip
    """Print events as they are stored, one line each.

    \b
    telefabric tail
    telefabric tail --run frozenlake-q --kind episode -n 20
    telefabric tail --connect tcp://127.0.0.1:7750 --json | jq .
    telefabric tail --from-start --run frozenlake-q
    telefabric tail --live --kind step --policy sample:100
    telefabric tail --live --plotjuggler

    Each line has local time, run, agent, kind and the main values of the event. ^C ends tail. --run may name a run that
    has not begun yet. Without --store or --connect, tail looks in the same places as telefabric dump.

    --from-start asks a broker and prints every event of the run once, each stream in order of seq, through restarts of
    broker and store. Live events are printed before they are stored. JSON lines then have no id.

    --live asks a broker, not a store, and prints the events of all runs, or of --run, from now on, without those that
    --policy leaves out. Standard error counts the events that are dropped or lost on the way.
    """
    if as_json and raw:
        raise UsageError("--json and --raw are two forms: give one of them")
    if plotjuggler is not None and not live:
        raise UsageError("--plotjuggler publishes live events: give --live, too")
    render = json_line if as_json else raw_line if raw else human_line
    is_source_chosen = store is not None or since is not None or not follow
    if live:
        if is_source_chosen or from_start:
            raise UsageError(
                "--live shows the events of a broker: leave out --store, --since, --from-start, --no-follow"
            )
        address = settings.broker_address(connect)
        wish = parse_policy(settings.resolve("policy", policy).value)
        ask_status(address)  # an absent broker is an error at once
        tailed = LiveTail(address, *wanted, wish)
        if plotjuggler is not None:
            with PlotJugglerSocket(plotjuggler) as socket:
                tailed.run(socket.show)
        else:
            with _output(render) as show:
                tailed.run(show)
        return
    if policy is not None:
        raise UsageError("--policy concerns the live path: give --live, too")
    if from_start:
        if is_source_chosen:
            raise UsageError(
                "--from-start follows a broker from the first event: leave out --store, --since and --no-follow "
                "(tail --since 0 does the same for a file, dump without following)"
            )
        with _output(render) as show:
            _tail_from_start(settings.broker_address(connect), wanted, show)
        return
    with _output(render) as show, open_source(store, connect) as reader:
        if not follow:  # else it may begin yet
            require_run(reader, wanted.run, wanted.agent)
        page = wanted.newest(reader, lines) if since is None else wanted.page(reader, since)
        show(page.rows)
        while page.more or follow:
            if not page.more:
                time.sleep(_POLL_S)
            page = next_page(reader, page.last, wanted, follow)
            show(page.rows)


def next_page(reader: Reader, after: int, wanted: Wanted, patient: bool) -> Page[StoredEvent]:
    """The page after that id. With `patient`, wait for a broker that went away."""
    told = False
    while True:
        try:
            return wanted.page(reader, after)
        except Unreachable as error:
            if not patient:
                raise
            if not told:
                click.echo(f"telefabric: {error} (waiting for it)", err=True)
                told = True
            time.sleep(_RETRY_S)


# -- tail from the start -----------------------------------------------------------------------------------------
def _tail_from_start(address: Address, wanted: Wanted, show: Show) -> None:
    """Stored events, then live ones, without a break. Continues until interrupted, through restarts of the services."""
    follower = BrokerFeed(address, name="telefabric tail", history_events=None, in_order=True)
    chosen = wanted.run or newest_run(address)
    require_short("--run", [chosen])
    follower.watch(frozenset({chosen}))
    follower.start()
    told = ""
    try:
        while True:
            update = follower.drain()
            sources = {stream: follower.source(stream) for stream in {event.stream_id for event in update.events}}
            rows = (
                live_row(event, event.stream_id, event.run_id, *sources[event.stream_id])
                for event in update.events
                if event.seq  # a live picture has no seq and is not stored
            )
            show(filter(wanted.has, rows))
            if update.connection.sentence not in ("", told):
                told = update.connection.sentence
                click.echo(f"telefabric: {told} (waiting for it)", err=True)
            if not update.events:
                time.sleep(_POLL_LIVE_S)
    finally:
        follower.stop()


def newest_run(address: Address) -> str:
    """The run that began last, stored or not. Raises `Unreachable`, and `StoreError` when there is none."""
    streams = ask_status(address).status.get("streams", [])
    try:
        with RemoteReader(address) as reader:
            stored = [found.run_id for found in reader.runs()]
    except Unreachable:  # a broker without a store still has live runs
        stored = []
    begun = [*stored, *(stream["run_id"] for stream in streams if stream["run_id"] not in stored)]
    if not begun:
        raise StoreError(f"there is no run at {address.url} yet: name one to wait for with --run")
    return str(begun[-1])


# -- lines for people --------------------------------------------------------------------------------------------
_COLOURS = {
    "run_started": "bright_green", "run_metadata": "bright_green", "run_completed": "bright_green", "reset": "cyan",
    "step": "white", "episode": "green", "episode_voided": "yellow", "metric": "blue", "log": "magenta",
    "frame": "white", "gap": "red", "quarantine": "red",
}  # fmt: skip


def human_line(stored: StoredEvent) -> bytes:
    """Time, run, agent, kind and the main values of the event; in colour on a terminal."""
    clock = datetime.fromtimestamp(stored.time_ns // 10**9 if 0 <= stored.time_ns < 10**19 else 0)
    moment = f"{clock:%H:%M:%S}.{stored.time_ns // 10**6 % 1000:03}"
    run, kind = clean(stored.run_id), f"{stored.kind:<13}"
    if sys.stdout.isatty():
        run, kind = click.style(run, fg="cyan"), click.style(kind, fg=_COLOURS.get(stored.kind))
    line = f"{moment} {run} {clean(stored.agent_id)} {kind} {clean(_essence(stored))}\n"
    return line.encode(sys.stdout.encoding, sys.stdout.errors or "strict")


def _essence(stored: StoredEvent) -> str:
    if stored.kind in ("gap", QUARANTINE):
        seqs = f"seq {stored.seq}" + ("" if stored.last_seq == stored.seq else f" to {stored.last_seq}")
        return f"{seqs} {stored.reason}" + (f": {stored.detail}" if stored.detail else "")
    try:
        event = decode_event(stored.event)
    except msgspec.DecodeError as error:
        return f"seq {stored.seq} cannot be read here: {error}"
    return " ".join(filter(None, _words(event)))


def _words(event: AnyEvent) -> Iterator[str | None]:
    if isinstance(event, (events.Reset, events.EpisodeVoided, events.Step, events.Episode, events.Frame)):
        yield f"env {event.env_index}" if event.env_index else None
        yield f"episode {event.episode_index}"
    match event:
        case events.Reset():
            yield f"seed {_short(event.seed)}" if event.seed != events.NIL else None
            yield f"observation {_short(event.observation)}"
        case events.EpisodeVoided():
            yield event.reason
        case events.Step():
            yield f"step {event.step_index} reward {_number(event.reward)} action {_short(event.action)}"
            yield "terminated" * event.terminated + "truncated" * (event.truncated and not event.terminated)
        case events.Episode():
            yield f"return {_number(event.total_reward)} length {event.length}"
            yield event.end_reason
        case events.Metric():
            yield f"{event.name} {_number(event.value)}"
            yield event.unit
            yield None if event.global_step is None else f"at step {event.global_step}"
        case events.Log():
            yield event.level.upper()
            yield event.message
        case events.RunStarted():
            yield f"worker {event.worker_id} {_short(event.metadata)}"
        case events.RunMetadata():
            yield _short(event.metadata)
        case events.RunCompleted():
            yield event.outcome
            yield event.reason
        case events.Frame():
            yield f"step {event.step_index} {event.width}x{event.height} {event.encoding} {len(event.data)} bytes"
        case _:
            yield f"seq {event.seq}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _short(raw: msgspec.Raw) -> str:
    try:
        text = _encode_plainly(string_keys(decode_values(raw)))
    except NO_JSON:
        return "(unreadable)"
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


_encode_plainly = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=json_default).encode
