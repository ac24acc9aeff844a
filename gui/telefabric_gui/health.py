"""The health dock's text for each part on an event's way, from what the feed knows."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from telefabric.feed import Connection, LinkState, RunView
from telefabric_gui.budget import MemoryBudget, Sort
from telefabric_gui.controller import Controller
from telefabric_gui.formatting import count, duration, metadata_of, plural, short
from telefabric_gui.item_models.runs import silence
from telefabric_gui.redraw import TICK_MS
from telefabric_gui.views.details import HealthRow

BEHIND_MAX_S = 2.0
"""Live events older than this are not live any more."""
_TOLD_MAX, _TOLD_CHARACTERS = 60, 200
"""The number of values of a run's metadata that are listed, and the characters of each."""
LINKS = {
    LinkState.CONNECTING: ("warning", "Connecting"),
    LinkState.LIVE: ("good", "Connected, live"),
    LinkState.HISTORY: ("warning", "Connected to the store only"),
    LinkState.FILE: ("good", "Reading a store file"),
    LinkState.UNREACHABLE: ("error", "Not reachable"),
    LinkState.REFUSED: ("error", "Refused"),
}
"""The tone of a connection, and its state in a few words."""


def is_file(connection: Connection) -> bool:
    """Whether a store file is shown, and no broker."""
    return connection.link is LinkState.FILE or "://" not in connection.address


def place_of(connection: Connection) -> str:
    """The short address: host and port, or a file's name."""
    address = connection.address
    if "://" in address:
        return address.split("://", 1)[1].split("?", 1)[0]
    return Path(address).name if address else "…"


def parts_of(controller: Controller, run: RunView | None) -> list[HealthRow]:
    """From worker to this client, as far as the feed knows them."""
    connection = controller.connection
    (tone, _), live = LINKS[connection.link], connection.link is LinkState.LIVE
    parts = [_worker(connection, run)] if run else []
    if is_file(connection):
        parts.append(HealthRow("Store file", "read-only", connection.sentence or connection.address, tone))
    elif connection.link is LinkState.HISTORY:
        parts.append(HealthRow("Broker", "store alone", connection.sentence or "no live path", tone))
    else:
        behind = "" if connection.behind_s is None else f"{duration(connection.behind_s)} behind"
        told = connection.address if live else connection.sentence or connection.address
        parts.append(HealthRow("Broker", behind, told, tone))
    if live:
        parts.append(_store(connection, run))
    return [*parts, _client(controller)]


def verdict_of(controller: Controller) -> tuple[str, str]:
    """One word on completeness, and its tone."""
    if controller.missing and controller.connection.absent:
        return f"{count(controller.missing)} wait for a store", "warning"
    if controller.missing:
        return f"{count(controller.missing)} being fetched", "warning"
    if controller.lost:
        return f"{count(controller.lost)} lost for good", "error"
    if controller.connection.link in (LinkState.UNREACHABLE, LinkState.REFUSED):
        return "not connected", "error"
    return ("all accounted for", "good") if controller.watched else ("nothing open", "dim")


def figures_of(controller: Controller, redraw_s: float) -> list[tuple[str, str, str]]:
    """The figures of the status bar: name, text, and the role of the text."""
    connection = controller.connection
    behind_s, missing, lost = connection.behind_s, controller.missing, controller.lost
    dropped = connection.missed
    redraw_ms, failed = redraw_s * 1e3, controller.failures.number + connection.failures
    behind = "" if behind_s is None else f"behind live {behind_s:.1f} s"
    return [
        ("rate", f"{count(round(connection.events_per_s))} events/s", "dim"),
        ("behind", behind, "warning" if (behind_s or 0) > BEHIND_MAX_S else "dim"),
        ("missing", f"missing {count(missing)}", "warning" if missing else "dim"),
        ("gaps", f"gaps {count(lost)}", "error" if lost else "dim"),
        ("dropped", "" if is_file(connection) else f"dropped here {count(dropped)}", "warning" if dropped else "dim"),
        ("failed", f"not shown {count(failed)}" if failed else "", "error"),
        ("redraw", f"redraw {redraw_ms:.0f} ms at {1000 // TICK_MS} Hz", "warning" if redraw_ms > TICK_MS else "dim"),
    ]


def run_details(run: RunView | None) -> Sequence[tuple[str, str]]:
    """Name, state and metadata of the run."""
    if run is None:
        return []
    pairs = [("run", run.run_id), ("state", run.state), ("mode", run.control_mode)]
    if run.reason:
        pairs.append(("reason", short(run.reason, _TOLD_CHARACTERS)))
    if run.started_ns:
        end_ns = run.finished_ns
        pairs.append(("took", duration((end_ns - run.started_ns) / 1e9)) if end_ns else ("workers", count(run.workers)))
    if run.round_trip_ms is not None:
        pairs.append(("round trip", f"{run.round_trip_ms:.0f} ms to the broker"))
    if run.clock_offset_ms:
        way = "behind" if run.clock_offset_ms > 0 else "ahead of"
        pairs.append(("clock", f"{duration(abs(run.clock_offset_ms) / 1e3)} {way} the broker's"))
    counts = ("attempts", run.attempts, 2), ("helpers", run.helpers, 1), ("superseded", run.superseded, 1)
    pairs += [(name, count(number)) for name, number, least in counts if number >= least]
    told = [(name, value) for name, value in metadata_of(run.metadata).items() if name != "grid"]
    pairs += [(name, short(value, _TOLD_CHARACTERS)) for name, value in told[:_TOLD_MAX]]
    return pairs + ([("…", f"{count(len(told) - _TOLD_MAX)} more")] if len(told) > _TOLD_MAX else [])


def memory_of(budget: MemoryBudget) -> tuple[str, str, str]:
    """What this client takes of its limit: text, role, and what it consists of."""
    held, mib = budget.held, 2**20
    text = f"memory {count(round(budget.used_bytes / mib))} of {count(round(budget.limit_bytes / mib))} MB"
    rows, charts, frames = held[Sort.ROWS] + held[Sort.PAGES], held[Sort.SERIES], held[Sort.FRAMES]
    of_it = ", ".join(
        f"{name} {count(round(number / mib))} MB"
        for name, number in (("rows", rows), ("charts", charts), ("frames", frames))
    )
    told = (
        f"Memory of this client and its limit, --memory-limit. Of it {of_it}; the rest is the program.\n"
        "At the limit, frames and the oldest rows leave. They are read again from the store."
    )
    return text, "warning" if budget.used_bytes > budget.limit_bytes else "dim", told


def memory_bytes() -> int:
    """Memory of this process; 0 if the system does not show it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Hand freed memory back to the system: the C library keeps it until it is asked."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _worker(connection: Connection, run: RunView) -> HealthRow:
    known = run.emitted and connection.link is LinkState.LIVE
    figure = f"{count(run.emitted)} emitted" if known else plural(run.workers, "worker")
    if run.state == "stalled":
        return HealthRow("Worker", figure, silence(run), "warning")
    if run.state in ("failed", "lost"):
        return HealthRow("Worker", figure, short(run.reason or run.state, _TOLD_CHARACTERS), "error")
    words = f"{plural(run.workers, 'worker')}, {run.state}" if known else run.state
    if known and run.behind_at == "worker":
        return HealthRow("Worker", figure, f"{words}: its events do not reach the broker", "warning")
    done = run.state in ("completed", "cancelled")
    return HealthRow("Worker", figure, words, "faint" if done or run.state == "pending" else "good")


def _store(connection: Connection, run: RunView | None) -> HealthRow:
    """How much of the shown run is stored, as the broker reports it."""
    stored = f"{count(run.emitted - run.backlog)} stored" if run and run.emitted else ""
    if connection.absent:
        words = "Not attached to the broker: events wait in the workers' spools. Start it: telefabric store"
    elif connection.sentence:
        words = connection.sentence
    elif run and run.behind_at not in (None, "worker", "broker"):
        words = f"{run.behind_at} has not caught up: {plural(run.backlog, 'event')} wait"
    else:
        waiting = f"{plural(run.backlog, 'event')} on the way" if run and run.backlog else "nothing is waiting"
        return HealthRow("Store", stored, waiting, "good")
    return HealthRow("Store", stored, words, "warning")


def _client(controller: Controller) -> HealthRow:
    """The gravest of what this client leaves out."""
    failed, hidden = controller.failures.number, len(controller.hidden_agents)
    unknown, dropped, skipped = controller.unknown_events, controller.connection.missed, controller.skipped
    last = controller.failures.last
    graded = (
        (failed, f"{plural(failed, 'time')} something could not be shown, last {last}", "error"),
        (hidden, f"no tab left for {plural(hidden, 'agent')}", "warning"),
        (unknown, f"{plural(unknown, 'event')} of unknown kinds", "warning"),
        (dropped, f"{count(dropped)} dropped on the live path", "warning"),
        (skipped, f"{count(skipped)} older only in the store", "faint"),
        (1, "keeps up", "good"),
    )
    words, tone = next((words, tone) for number, words, tone in graded if number)
    return HealthRow("This client", f"{count(controller.shown_events)} taken in", words, tone)
