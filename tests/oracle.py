"""What must hold after chaos, counted from what is stored: nothing lost, nothing twice, nothing changed, all in order.

The observation of every step is a function of a number that the emitter was given, and each emitter notes in a file
how far `emit` has returned. So what has to be there, and with which bytes, is known whoever was killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from emitter import STREAM_BYTES, Progress, observation
from exporter import kept

from telefabric.store.file.database import open_reader
from telefabric.store.file.verify import audit
from telefabric.wire.batch import decode_body
from telefabric_schemas import Step, values

IDS_PER_EMITTER = 1 << 32
STEPS_PER_EPISODE = 500
FAULTLESS = {"lost": 0, "duplicated": 0, "wrong": 0, "disordered": 0, "quarantined": 0}


class Emitted:
    """What one emitter has certainly emitted."""

    def __init__(self, progress: Progress) -> None:
        self.stream, self.seq = progress.read()
        self._first_id = int(progress.path.stem) * IDS_PER_EMITTER

    def is_as_emitted(self, step: Step) -> bool:
        number = self._first_id + step.episode_index * STEPS_PER_EPISODE + step.step_index
        return values.decode(step.observation) == observation(number)


def emitted_of(progresses: Iterable[Progress]) -> list[Emitted]:
    """All but those that were killed before they had a stream."""
    found = [Emitted(progress) for progress in progresses]
    return [each for each in found if each.stream not in (b"", bytes(STREAM_BYTES))]


def is_faultless(report: dict[str, Any]) -> bool:
    """Of what `Chaos.report` tells. A required exporter has to have all that was emitted, too."""
    exporter = report["exporter"]
    holes = exporter["not_sent"] if exporter["required"] else 0
    return all(report[name] == count for name, count in FAULTLESS.items()) and not (
        holes or exporter["wrong"] or exporter["disordered"]
    )


def judge_store(file: Path, progresses: Iterable[Progress]) -> dict[str, int]:
    """`events`, and what of `FAULTLESS` was found. Raises AssertionError when SQLite finds the file damaged."""
    found: Counter[str] = Counter(FAULTLESS)
    for emitted in emitted_of(progresses):
        counted = audit(file, emitted.stream, emitted.seq)
        found["events"] += emitted.seq
        found["lost"] += counted.missing + counted.lost
        found["duplicated"] += counted.duplicated
        found.update(_judge_steps(file, emitted))
    connection = open_reader(file)
    try:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        found["quarantined"] = int(str(connection.execute("SELECT count(*) FROM quarantine").get))
    finally:
        connection.close()
    return dict(found)


def _judge_steps(file: Path, emitted: Emitted) -> dict[str, int]:
    """Steps whose payload is not that of their number, and steps that arrived before an earlier one."""
    connection = open_reader(file)
    decode = msgspec.msgpack.Decoder(Step).decode
    query = "SELECT seq, event FROM steps JOIN streams USING (stream) WHERE stream_id = ? ORDER BY id"
    wrong = disordered = before = 0
    try:
        for seq, event in connection.execute(query, (emitted.stream,)):
            wrong += not emitted.is_as_emitted(decode(event))
            disordered += seq <= before
            before = seq
    finally:
        connection.close()
    return {"wrong": wrong, "disordered": disordered}


def judge_exporter(file: Path, progresses: Iterable[Progress]) -> dict[str, int]:
    """The same of an exporter's file; `not_sent` it has to read from the store, unless it is required."""
    by_stream = {emitted.stream: emitted for emitted in emitted_of(progresses)}
    held: Counter[bytes] = Counter()
    newest: Counter[bytes] = Counter()
    found: Counter[str] = Counter(dict.fromkeys(("not_sent", "wrong", "disordered"), 0))
    with file.open("rb") as records:
        for header, body, skip in kept(records):
            emitted = by_stream[header.stream]
            for record in decode_body(body, header.events)[skip:]:
                seq = record.event.seq
                found["disordered"] += seq <= newest[header.stream]
                newest[header.stream] = seq
                held[header.stream] += seq <= emitted.seq
                found["wrong"] += isinstance(record.event, Step) and not emitted.is_as_emitted(record.event)
    found["not_sent"] = sum(emitted.seq - held[emitted.stream] for emitted in by_stream.values())
    return dict(found)
