"""The vectors and the JSON Schema are fresh, say what the code does, and any MessagePack reader reads them."""

import json
import math
import subprocess
import sys
from importlib import resources
from pathlib import Path
from zlib import crc32

import msgpack
import msgspec
import pytest

from telefabric.errors import WireError
from telefabric.store.read import query
from telefabric.wire import batch, control, records
from telefabric.wire.delivery import decode_delivery, encode_delivery
from telefabric_schemas import TOPICS, AnyEvent

FOLDER = resources.files("telefabric_schemas").joinpath("vectors")
NAMES = sorted(entry.name.removesuffix(".bin") for entry in FOLDER.iterdir() if entry.name.endswith(".bin"))
VECTORS = {
    name: (
        FOLDER.joinpath(f"{name}.bin").read_bytes(),
        json.loads(FOLDER.joinpath(f"{name}.json").read_text("utf-8")),
    )
    for name in NAMES
}
SCHEMA = json.loads(
    resources.files("telefabric_schemas").joinpath("json_schema").joinpath("events.json").read_text("utf-8")
)
SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"

decoder = msgspec.msgpack.Decoder(AnyEvent)


def of_kind(what):
    return [name for name, (_, expected) in VECTORS.items() if expected["what"] == what]


KNOWN_EVENTS = [name for name in of_kind("event") if VECTORS[name][1]["fields"] is not None]


def plain(value):
    """What the vectors' JSON says instead of what JSON cannot."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, msgpack.ExtType):
        return {"$ext": [value.code, value.data.hex()]}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def unpacked(data):
    return plain(msgpack.unpackb(data, strict_map_key=False))


def checked(data):
    """A control message without the CRC-32 behind it, which is right."""
    body, check = data[:-4], data[-4:]
    assert int.from_bytes(check, "big") == crc32(body)
    return body


def fields_of(item):
    array = unpacked(msgspec.msgpack.encode(item))
    return dict(zip(item.__struct_fields__, array[len(array) - len(item.__struct_fields__) :], strict=True))


# -- freshness ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SCRIPTS.exists(), reason="the generators are in the checkout only")
@pytest.mark.parametrize("script", ["make_vectors", "make_json_schema", "make_first_peer"])
def test_generated_files_are_fresh(script):
    check = subprocess.run([sys.executable, SCRIPTS / script, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr


# -- coverage ----------------------------------------------------------------------------------------------------


def test_every_vector_has_its_bytes_and_its_meaning():
    files = {entry.name for entry in FOLDER.iterdir() if entry.name != "__pycache__"}
    assert files == {f"{name}.{suffix}" for name in NAMES for suffix in ("bin", "json")}


def test_there_is_a_vector_of_every_event_kind_with_every_field_set():
    for kind, topic in TOPICS.items():
        _, expected = VECTORS[f"event-{kind}"]
        unset = {field for field in topic.event_type.__struct_fields__ if expected["fields"][field] is None}
        assert not unset, f"{kind}: {unset}"


def test_there_is_a_vector_of_every_control_message():
    names = {VECTORS[name][1]["name"] for name in of_kind("control")}
    assert names == {kind.__struct_config__.tag for kind in control.AnyMessage.__args__}


# -- any reader --------------------------------------------------------------------------------------------------


ONE_ARRAY = ("event", "record", "control", "delivery", "question", "answer")


@pytest.mark.parametrize("name", [name for what in ONE_ARRAY for name in of_kind(what)])
def test_plain_msgpack_reads_what_the_vector_says(name):
    data, expected = VECTORS[name]
    assert unpacked(checked(data) if expected["what"] == "control" else data) == expected["msgpack"]


@pytest.mark.parametrize("name", of_kind("batch"))
def test_plain_msgpack_reads_the_records_of_a_batch(name):
    data, expected = VECTORS[name]
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(data[expected["header_bytes"] :])
    assert [plain(record) for record in unpacker] == expected["records"]


# -- our reader --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN_EVENTS)
def test_our_reader_reads_an_event_with_what_is_missing_filled_in_and_what_is_unknown_skipped(name):
    data, expected = VECTORS[name]
    event = decoder.decode(data)
    assert event.kind == expected["kind"]
    assert fields_of(event) == expected["fields"]


@pytest.mark.parametrize("name", [f"event-{kind}" for kind in TOPICS])
def test_our_writer_writes_the_same_bytes(name):
    data, _ = VECTORS[name]
    assert msgspec.msgpack.encode(decoder.decode(data)) == data


def test_a_kind_that_is_unknown_is_an_error_of_that_event_alone():
    data, _ = VECTORS["event-unknown-kind"]
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(data)


def test_a_newer_payload_version_is_read_and_known_as_newer():
    data, _ = VECTORS["event-step-newer-payload"]
    assert decoder.decode(data).payload_version == 2


@pytest.mark.parametrize("name", of_kind("record"))
def test_our_reader_walks_a_record(name):
    data, expected = VECTORS[name]
    [span] = records.walk(data, 0, len(data))
    assert unpacked(data[span.start : span.end]) == expected["msgpack"][2]
    assert records.frame(data[span.start : span.end]) == data


@pytest.mark.parametrize("name", of_kind("batch"))
def test_our_reader_reads_a_batch(name):
    data, expected = VECTORS[name]
    header, start = batch.parse_header(data)
    body = data[start:]
    batch.check_body(header, body)
    assert start == expected["header_bytes"] == batch.HEADER_BYTES
    assert plain(header._asdict()) == expected["header"]
    spans = records.spans(body, header.events)
    assert [unpacked(body[span.start : span.end]) for span in spans] == [one[2] for one in expected["records"]]
    assert len(batch.decode_body(body, header.events)) == header.events


@pytest.mark.parametrize("name", of_kind("batch"))
def test_our_writer_writes_the_same_batch(name):
    data, _ = VECTORS[name]
    header, start = batch.parse_header(data)
    again = batch.pack(header._replace(body_crc=0), data[start:])
    assert again == data


@pytest.mark.parametrize("name", of_kind("control"))
def test_our_reader_reads_a_control_message(name):
    data, expected = VECTORS[name]
    message = control.decode(data)
    assert message.__struct_config__.tag == expected["name"]
    assert fields_of(message) == expected["fields"]


@pytest.mark.parametrize("name", of_kind("control"))
def test_our_writer_writes_the_same_control_message(name):
    data, _ = VECTORS[name]
    if "unknown-trailing" not in name:
        assert control.encode(control.decode(data)) == data


@pytest.mark.parametrize("name", of_kind("delivery"))
def test_our_reader_and_writer_agree_on_a_delivery(name):
    data, expected = VECTORS[name]
    delivery = decode_delivery(data)
    assert fields_of(delivery) == expected["fields"]
    assert encode_delivery(delivery) == data


@pytest.mark.parametrize("name", of_kind("event"))
def test_an_event_is_no_control_message(name):
    with pytest.raises(WireError):
        control.decode(VECTORS[name][0])


# -- queries: what a store reads and an asker writes, and the other way round ---------------------------------------

ROWS = {
    "run": query.Run, "stream": query.Stream, "mark": query.Mark, "event": query.StoredEvent,
    "episode": query.EpisodeRow, "series": query.Series, "bucket": query.Bucket, "bookmark": query.BookmarkRow,
    "count": query.RowCount, "place": query.Place, "found": query.FoundRow, "columns": query.ColumnChunk,
    "points": query.PointChunk, "band": query.Band, "moment": query.Moment, "name": query.RunName,
}  # fmt: skip
CUT = ("query-episodes_of-short", "query-answer-empty")
"""What is missing in them a reader fills in, and a writer writes."""


def test_there_is_a_vector_of_every_question_and_every_row():
    assert {VECTORS[name][1]["name"] for name in of_kind("question")} == {
        kind.__struct_config__.tag for kind in query.AnyQuestion.__args__
    }
    assert {VECTORS[name][1]["name"] for name in of_kind("answer")} == set(ROWS)


@pytest.mark.parametrize("name", of_kind("question"))
def test_a_store_reads_the_question_and_an_asker_writes_it(name):
    data, expected = VECTORS[name]
    question = query.decode_question(data)
    assert question.__struct_config__.tag == expected["name"]
    assert fields_of(question) == expected["fields"]
    if name not in CUT:
        assert msgspec.msgpack.encode(question) == data


@pytest.mark.parametrize("name", of_kind("answer"))
def test_an_asker_reads_the_answer_and_a_store_writes_it(name):
    data, expected = VECTORS[name]
    page = msgspec.msgpack.decode(data, type=query.Page[ROWS[expected["name"]]])
    assert {**fields_of(page), "rows": [fields_of(row) for row in page.rows]} == expected["fields"]
    if name not in CUT:
        assert msgspec.msgpack.encode(page) == data


# -- JSON Schema -------------------------------------------------------------------------------------------------

PYTHON_TYPES = {
    "array": list, "object": dict, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip


def fits(value, schema):
    """As much of JSON Schema as ours uses."""
    if "$ref" in schema:
        return fits(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in schema:
        return any(fits(value, choice) for choice in schema["anyOf"])
    if "const" in schema:
        return value == schema["const"]
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema.get("type")
    if kind and (not isinstance(value, PYTHON_TYPES[kind]) or isinstance(value, bool) != (kind == "boolean")):
        return False
    if kind == "integer":
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if kind == "array":
        pairs = zip(value, schema["prefixItems"], strict=False)
        return len(value) >= schema["minItems"] and all(fits(item, one) for item, one in pairs)
    if kind == "object":
        others = schema.get("additionalProperties", {})
        return all(key in value for key in schema.get("required", ())) and all(
            fits(one, schema.get("properties", {}).get(key, others)) for key, one in value.items()
        )
    return True


@pytest.mark.parametrize("name", KNOWN_EVENTS)
def test_every_event_vector_fits_the_schema_of_its_kind_and_no_other(name):
    _, expected = VECTORS[name]
    fitting = [kind for kind in TOPICS if fits(expected["msgpack"], SCHEMA["$defs"][kind])]
    assert fitting == [expected["kind"]]
    assert fits(expected["msgpack"], SCHEMA)


def test_an_unknown_kind_does_not_fit_the_schema():
    assert not fits(VECTORS["event-unknown-kind"][1]["msgpack"], SCHEMA)


@pytest.mark.parametrize("kind", sorted(TOPICS))
def test_the_schema_names_describes_and_measures_every_field(kind):
    items = SCHEMA["$defs"][kind]["prefixItems"]
    assert [item["title"] for item in items] == ["kind", *TOPICS[kind].event_type.__struct_fields__]
    assert all(item["description"] and item["x-unit"] for item in items[1:])
