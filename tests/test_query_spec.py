"""QUERY.md says what the query service does: its tables are compared with the structs, and one can ask by it alone."""

from __future__ import annotations

import os
import types
import typing
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import zmq
from conftest import FabricService
from skips import requires
from slowness import patience
from store_fixtures import running

from telefabric.address import Address
from telefabric.store.read import query
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query_service import QueryService
from telefabric.wire.control import StreamSeq

SPEC = Path(__file__).resolve().parent.parent / "fabric" / "QUERY.md"
pytestmark = requires("the specification, which is in the checkout only", SPEC.exists())
TEXT = SPEC.read_text("utf-8") if SPEC.exists() else ""
QUESTIONS = {str(kind.__struct_config__.tag): kind for kind in typing.get_args(query.AnyQuestion)}
ANSWERS: dict[str, type[msgspec.Struct]] = {
    "page": query.Page, "run": query.Run, "stream": query.Stream, "mark": query.Mark,
    "moment": query.Moment, "name": query.RunName, "event": query.StoredEvent,
    "episode": query.EpisodeRow, "series": query.Series, "bucket": query.Bucket, "bookmark": query.BookmarkRow,
    "count": query.RowCount, "place": query.Place, "found": query.FoundRow, "columns": query.ColumnChunk,
    "points": query.PointChunk, "band": query.Band, "condition": query.Condition,
}  # fmt: skip


def tables(heading: str) -> list[list[str]]:
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    return [row for row in rows if not row[0].startswith("-")]


def items(kind: type[msgspec.Struct]) -> str:
    names, defaults, types = kind.__struct_fields__, len(kind.__struct_defaults__), typing.get_type_hints(kind)
    missing = [""] * (len(names) - defaults) + ["?"] * defaults
    nil = ["∅" if type(None) in typing.get_args(types[name]) else "" for name in names]
    return ", ".join(f"`{name}`{may}{be}" for name, may, be in zip(names, missing, nil, strict=True))


TYPES: dict[Any, str] = {
    int: "int", float: "float", str: "str", bytes: "bin", bool: "bool", list[str]: "array of str",
    list[bytes]: "array of bin", list[StreamSeq]: "array of marks", query.EpisodeKey: "key", query.StepKey: "key",
    query.BucketKey: "key", query.Series: "key", query.CountKey: "key", list[query.T]: "array of rows",
    query.RunName: "key", query.Moment: "moment",
    query.StoredEvent: "event", list[query.Condition]: "array of conditions",
}  # fmt: skip


def types_of_items() -> dict[str, str]:
    """Which items of questions and answers are of which type, as a row of the specification says it."""
    found: dict[str, list[str]] = {}
    for kind in (*QUESTIONS.values(), *ANSWERS.values()):
        for name in kind.__struct_fields__:
            hint = typing.get_type_hints(kind)[name]
            union = typing.get_origin(hint) in (typing.Union, types.UnionType)
            kinds = typing.get_args(hint) if union else (hint,)
            words = found.setdefault(name, [])
            words += [TYPES[one] for one in kinds if one is not type(None) and TYPES[one] not in words]
    rows: dict[str, list[str]] = {}
    for name, words in found.items():
        rows.setdefault(" or ".join(words), []).append(f"`{name}`")
    return {kind: ", ".join(names) for kind, names in rows.items()}


def test_the_type_of_each_item() -> None:
    said = {row[1]: row[0] for row in tables("Answers") if len(row) == 2 and row[1] in types_of_items()}
    assert said == types_of_items()


def test_the_items_of_each_question_and_answer() -> None:
    asked = {row[0].strip("`"): row[1] for row in tables("Questions") if len(row) == 2 and row[0] != "question"}
    assert asked == {tag: items(kind) for tag, kind in QUESTIONS.items()}
    answered = {row[0]: row[1] for row in tables("Answers") if row[0] in ANSWERS}
    assert answered == {name: items(kind) for name, kind in ANSWERS.items()}


def test_every_question_is_described_and_answers_with_something_described() -> None:
    described = {row[0].strip("`"): row[1] for row in tables("Questions") if len(row) == 4 and row[0] != "question"}
    assert list(described) == list(QUESTIONS)
    assert set(described.values()) == set(ANSWERS) - {"page", "condition"}


def test_every_question_has_a_method_that_answers_it() -> None:
    assert [tag for tag in QUESTIONS if not callable(getattr(FileReader, f"_{tag}", None))] == []


def test_a_stranger_with_plain_msgpack_gets_its_rows(fabric_service: FabricService) -> None:
    with fabric_service.connect(run="run", metadata={"a": 1}) as worker:
        worker.metric("loss", 0.5)
        assert worker.flush()
    service = QueryService(Address("127.0.0.1", 0), fabric_service.file)
    with running([service]), zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(service.address.url)

        def ask(*question: object) -> list[typing.Any]:
            number = os.urandom(8)
            socket.send_multipart([number, msgpack.packb(question)])
            assert socket.poll(patience(10_000))
            echoed, status, body = socket.recv_multipart()
            assert (echoed, status) == (number, b"ok")
            return list(msgpack.unpackb(body))

        rows, more, last, *_ = ask("runs", None, 0, 10)
        assert (rows[0][1], more, last) == ("run", False, 1)
        rows, *_ = ask("events", 0, "run", ["metric"], None, "loss", 10)
        assert msgpack.unpackb(rows[0][11])[2:4] == ["loss", 0.5]
