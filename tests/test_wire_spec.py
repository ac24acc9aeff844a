"""WIRE.md says what the code does: its tables are compared with the structs, the header and the limits."""

import json
import re
import typing
from pathlib import Path

import msgspec
import pytest
from skips import requires

from telefabric import limits
from telefabric.spool import segment
from telefabric.store.read import query_service as queryservice
from telefabric.uplink.core.stream import Phase
from telefabric.wire import batch, control, edits
from telefabric.wire.policy import QueuePolicy
from telefabric_schemas import TOPICS

DEFAULT_HWM = "1000"
"""Of libzmq."""
SPEC = Path(__file__).resolve().parent.parent / "fabric" / "WIRE.md"
pytestmark = requires("the specification, which is in the checkout only", SPEC.exists())
TEXT = SPEC.read_text("utf-8") if SPEC.exists() else ""

TYPES = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bin",
    dict[str, int]: "map",
    type(None): "nil",
    msgspec.Raw: "any",
}
MESSAGES = {kind.__struct_config__.tag: kind for kind in typing.get_args(control.AnyMessage)}
YES = {True: "yes", False: "no"}
PARTS = {
    "Stream info": control.StreamInfo,
    "Stream beat": control.StreamBeat,
    "Stream seq": control.StreamSeq,
    "Endpoints": control.Endpoints,
    "Queue policy": QueuePolicy,
}


def section(heading):
    """The text from a heading up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"WIRE.md has no heading {heading!r}"
    return found[1]


def rows(heading):
    """The cells of the tables under a heading, without their header rows."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [place for place, row in enumerate(cells) if set(row[0]) <= {"-"} and row[0]]
    headers = {place - 1 for place in rules}
    return [row for place, row in enumerate(cells) if place not in headers and place not in rules]


def bare(cell):
    return cell.strip("`")


@pytest.mark.parametrize("kind", sorted(TOPICS))
def test_the_fields_of_each_kind(kind):
    event = TOPICS[kind].event_type
    plain, annotated = typing.get_type_hints(event), typing.get_type_hints(event, include_extras=True)
    names, defaults = event.__struct_fields__, event.__struct_defaults__
    required = len(names) - len(defaults)
    expected = [["0", "`kind`", "str", "", "error", f"`{kind}`"]]
    for place, name in enumerate(names):
        meta = next(meta for meta in annotated[name].__metadata__ if meta.extra)
        types = " or ".join(TYPES[one] for one in typing.get_args(plain[name]) or (plain[name],))
        default = defaults[place - required] if place >= required else "error"
        missing = "nil" if default is None or isinstance(default, msgspec.Raw) else str(default)
        expected.append([str(place + 1), f"`{name}`", types, meta.extra["unit"], missing, meta.description])
    assert rows(f"`{kind}`") == expected


def test_the_table_of_kinds():
    expected = [
        [f"`{t.kind}`", YES[t.durable], f"{t.rate_hz:g}", str(t.live_queue_events), str(t.drop_order), YES[t.thinned]]
        for t in TOPICS.values()
    ]
    assert rows("The table of kinds") == expected


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_the_fields_of_each_control_message(name):
    table = rows(f"`{name}`")
    assert [bare(row[1]) for row in table] == ["name", *MESSAGES[name].__struct_fields__]
    assert [row[0] for row in table] == [str(place) for place in range(len(table))]
    assert bare(table[0][3]) == name
    optional = [bare(row[1]) for row in table if row[2].endswith("may be missing")]
    defaults = len(MESSAGES[name].__struct_defaults__)
    assert optional == list(MESSAGES[name].__struct_fields__[len(MESSAGES[name].__struct_fields__) - defaults :])


@pytest.mark.parametrize("part", sorted(PARTS))
def test_the_fields_of_each_part_of_a_message(part):
    assert [bare(row[1]) for row in rows(part)] == list(PARTS[part].__struct_fields__)


def test_no_control_message_is_described_that_does_not_exist():
    described = re.findall(r"^#### `(.+)`$", TEXT.partition("### Messages")[2], re.MULTILINE)
    assert described == list(MESSAGES)


def test_the_batch_header_by_its_offsets():
    """Read a packed header through the offsets and sizes of the table alone."""
    data = batch.pack(batch.Header(
        session=b"i" * 16, stream=b"s" * 16, epoch=2, first_seq=3, last_seq=4, events=2, time_ns=6, flags=9,
        counter=5,
    ), b"body")  # fmt: skip
    _, start = batch.parse_header(data)
    found = {}
    for offset, size, field, _ in rows("Batches")[:14]:
        found[field] = data[int(offset) : int(offset) + int(size)]
    assert b"".join(found.values()) == data[:start], "no byte is missing or told twice"
    number = {field: int.from_bytes(value, "big") for field, value in found.items()}
    assert (found["magic"], number["version"], number["header size"]) == (b"TF", batch.VERSION, start)
    assert (found["session"], found["stream"], number["flags"]) == (b"i" * 16, b"s" * 16, 9)
    assert [number[field] for field in ("epoch", "first_seq", "last_seq", "events", "counter", "time_ns")] == [
        2, 3, 4, 2, 5, 6,
    ]  # fmt: skip


def test_the_flags():
    flags = {row[1]: int(row[0], 16) for row in rows("Batches") if row[0].startswith("0x")}
    assert flags == {"live": batch.FLAG_LIVE, "gap": batch.FLAG_GAP}


def test_the_phases_of_a_worker_s_session():
    assert [row[0] for row in rows("The worker's session")] == [phase.value for phase in Phase]


def test_the_commands_of_edits():
    assert [bare(name) for row in rows("Edits") for name in row[0].split(", ")] == list(edits.COMMANDS)


def test_the_versions():
    numbers = {row[0] for row in rows("Versions")}
    spool = segment._VERSION
    assert {f"`protocol`, {control.PROTOCOL}", f"wire version, {batch.VERSION}", f"spool format, {spool}"} <= numbers


def test_the_limits():
    kib, mib = limits.KIB, limits.MIB
    said = {row[0]: row[1] for row in rows("Limits")}
    assert said["encoded event"] == f"{limits.EVENT_BYTES_MAX // mib} MiB"
    assert said["body of a batch, unless one event is larger"] == f"{limits.BATCH_BYTES_MAX // kib} KiB"
    assert said["events in a batch"] == f"{limits.BATCH_EVENTS_MAX:,}"
    assert (
        said["control message"]
        == f"{limits.CONTROL_BYTES_MAX // mib} MiB; STATUS {limits.STATUS_BYTES_MAX // mib} MiB + 64 KiB"
    )
    assert said["metadata in a stream info"] == f"{limits.METADATA_BYTES_MAX // kib} KiB"
    assert said["name in a control message"] == f"{limits.NAME_BYTES_MAX} bytes"
    peers = f"{limits.ERRORS_A_SECOND} a second to one peer, {limits.ERRORS_OF_ALL_A_SECOND} to all"
    told = f"{limits.ERROR_BYTES_MAX} bytes; {peers}"
    assert said["ERROR"] == f"{told}; STATUS names the newest {limits.MISTAKES_KEPT} kinds of mistakes"
    assert said["streams of a broker"] == f"{limits.STREAMS_MAX:,}"
    lent = f"{limits.CREDIT_BASE_BYTES // kib} KiB to {limits.CREDIT_STREAM_BYTES_MAX // mib} MiB"
    assert said["credit of a stream"] == lent
    assert said["all credit, and the broker's queue"] == f"{limits.DURABLE_BYTES_MAX // mib} MiB"
    assert said["heartbeat"] == f"{limits.HEARTBEAT_S:g} s; a peer is silent after {limits.MISSED_HEARTBEATS_MAX}"
    assert said["durable subscriber absent after"] == f"{limits.DURABLE_ABSENT_S:g} s"
    assert said["value of an edit"] == f"{limits.EDIT_VALUE_BYTES_MAX // kib} KiB"
    assert said["edits that a broker waits for"] == f"{limits.EDITS_MAX}, each for {limits.EDIT_S:g} s"
    assert said["stream forgotten after"] == f"{limits.STREAM_ABSENT_S:g} s"


def test_the_high_water_marks():
    marks = {row[0]: row[1:] for row in rows("Sockets") if all(cell.isdecimal() or not cell for cell in row[1:])}
    assert marks == {
        "control": [str(limits.CONTROL_HWM), str(limits.CONTROL_RECEIVE_HWM), str(limits.CONTROL_HWM), DEFAULT_HWM],
        "data": ["", str(limits.DATA_HWM), str(limits.DATA_HWM), str(limits.SUBSCRIPTIONS_HWM)],
        "live": ["", str(limits.LIVE_WORKERS_HWM), str(limits.LIVE_HWM), str(limits.SUBSCRIPTIONS_HWM)],
        "durable": [str(limits.DURABLE_HWM), str(limits.SUBSCRIPTIONS_HWM), "", str(limits.DURABLE_HWM)],
        "query": [str(queryservice.HWM), str(queryservice.HWM), DEFAULT_HWM, DEFAULT_HWM],
        "tap": [str(limits.TAP_HWM), str(limits.SUBSCRIPTIONS_HWM), "", DEFAULT_HWM],
        "watch": [str(limits.LIVE_HWM), str(limits.SUBSCRIPTIONS_HWM), "", str(limits.LIVE_HWM)],
    }


def test_the_forms_of_the_vectors():
    forms = {next(iter(json.loads(bare(row[0]).replace("…", "")))) for row in rows("Vectors")}
    assert forms == {"$bytes", "$float", "$ext", "$timestamp", "$map"}


def test_every_part_says_how_it_may_grow():
    for heading in ("Sockets", "Values", "Events", "Records", "Batches", "Control messages"):
        assert "*How this may grow:*" in section(heading), heading
