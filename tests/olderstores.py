"""Stores as the programs of versions 1 and 2 would have left them, and what a migration of them has to lead to."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import apsw
import msgspec
from store_fixtures import (
    Scribe,
    episode,
    frame,
    log,
    metric,
    raw,
    run_completed,
    run_metadata,
    run_started,
    step,
    stream,
)

from telefabric.store.file.database import APPLICATION_ID, FILE_NAME, MIGRATIONS
from telefabric.wire import control
from telefabric_schemas import Event, events

_BATCH = 500
_OLD = ("runs", "streams", "watermarks", "steps", "episodes", "metrics", "logs", "frames", "lifecycle", "gaps",
        "quarantine", "overview")  # fmt: skip
_SEEDS = (7, 8, None, "a name", [1, 2, 3], 2**70, -5, {"map": "4x4"}, b"bytes", float("nan"), True, 0.5)


def write(folder: Path, many: int, seed: int = 1) -> Path:
    """A store of this version with about so many events of what older versions knew: attempts, losses, gaps, seeds."""
    chance = Random(seed)
    path = folder / FILE_NAME
    with Scribe(path) as scribe:
        number = 0
        while number < many:
            run = f"run{number}"
            for attempt in range(chance.choice((1, 1, 2, 3))):
                info = stream(run, f"worker{attempt}", after_ns=attempt * 10_000_000)
                length = chance.choice((3, 60, many // 9, many // 3))
                number += _attempt(scribe, chance, info, max(length, 3), attempt * 10_000_000)
                ending = chance.random()
                if ending < 0.3:
                    scribe.rows.lost.append(info.stream)
                scribe.commit()
    return path


def _attempt(scribe: Scribe, chance: Random, info: control.StreamInfo, length: int, after_ns: int) -> int:
    """The events of one stream, some of which are lost, unreadable or of another agent."""
    seq = 1
    while seq < length:
        if chance.random() < 0.02:
            scribe.put_gap(info, seq, seq + 5, "spool_full")
            seq += 6
            continue
        first, found = seq, []
        while seq < min(length, first + _BATCH):
            found.append(_event(chance, info, seq, after_ns))
            seq += 1
        scribe.put(info, *found, first_seq=first)
        scribe.commit()
    if chance.random() < 0.6:
        word = chance.choice(("completed", "completed", "failed", "on fire"))
        ended = run_completed(seq, word, None if word == "completed" else "a reason")
        scribe.put(info, msgspec.structs.replace(ended, time_ns=ended.time_ns + after_ns))
    return seq


def _event(chance: Random, info: control.StreamInfo, seq: int, after_ns: int) -> Event | bytes:
    if seq == 1:
        return run_started(1, info, {"seq": seq})
    agent = "agent_0" if chance.random() < 0.9 else "agent_1"
    drawn = chance.random()
    if drawn < 0.8:
        found: Event = step(seq, agent, reward=chance.random())
    elif drawn < 0.85:
        found = episode(seq, agent, seed=raw(chance.choice(_SEEDS)), total_reward=chance.random(), length=seq % 50)
    elif drawn < 0.92:
        found = metric(seq, chance.choice(("loss", "lr")), chance.random(), agent)
    elif drawn < 0.96:
        found = log(seq, "hello", agent)
    elif drawn < 0.98:
        found = frame(seq, f"f{seq}", agent=agent)
    elif drawn < 0.99:
        found = run_metadata(seq, {"seq": seq}, agent)
    else:
        return b"\xc1"
    return msgspec.structs.replace(found, time_ns=found.time_ns + after_ns)


def as_version(version: int, path: Path, target: Path) -> Path:
    """The same rows in a file of an older version; outcomes are the workers' own words there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = apsw.Connection(str(target))
    old.execute("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL").fetchall()
    for each in range(1, version + 1):
        old.execute(resources.files("telefabric.store.file").joinpath(MIGRATIONS[each]).read_text("utf-8")).fetchall()
    old.execute("ATTACH ? AS new", (str(path),)).fetchall()
    with old:
        for table in _OLD:
            columns = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
            old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        ended: Any = old.execute("SELECT stream, event FROM main.lifecycle WHERE kind = 'run_completed'").fetchall()
        for number, event in ended:
            word = msgspec.msgpack.decode(event, type=events.RunCompleted).outcome
            old.execute("UPDATE main.streams SET outcome = ? WHERE stream = ?", (word, number))
        old.execute("UPDATE main.runs SET status = 'running', reason = 'older', finished_ns = 1")
    old.pragma("application_id", APPLICATION_ID)
    old.pragma("user_version", version)
    old.close()
    return target


def contents(path: Path) -> dict[str, Any]:
    """All that is in a store but its random name: the schema, and the rows of each table."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found: dict[str, Any] = {
        "schema": sorted(db.execute("SELECT type, name, sql FROM sqlite_schema").fetchall(), key=str)
    }
    for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'store'").fetchall():
        found[str(table)] = sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
    db.close()
    return found
