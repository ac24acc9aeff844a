"""Records, batches and control messages: what was sent is read, and nothing else is."""

import random
import struct
import typing
from zlib import crc32

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telefabric import limits
from telefabric.errors import WireError
from telefabric.wire import batch, control, records
from telefabric.wire.policy import QueuePolicy
from telefabric.wire.seal import seal
from telefabric_schemas import Metric

SESSION, STREAM = b"i" * 16, b"s" * 16
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def event(seq, value=1.0):
    return msgspec.msgpack.encode(Metric(seq, "loss", value, None, seq, "agent", 0, 0))


def body_of(first, last):
    return b"".join(records.frame(event(seq)) for seq in range(first, last + 1))


def message(first=1, last=3, body=None, **changes):
    header = batch.Header(
        flags=0, session=SESSION, stream=STREAM, epoch=1, first_seq=first, last_seq=last, events=last - first + 1,
        counter=0, time_ns=5,
    )  # fmt: skip
    return batch.pack(header._replace(**changes), body_of(first, last) if body is None else body)


def refusal(action, *arguments):
    with pytest.raises(WireError) as caught:
        action(*arguments)
    return caught.value.reason


def read(data):
    """As a receiver does: header, then body."""
    header, start = batch.parse_header(data)
    body = data[start:]
    batch.check_body(header, body)
    return header, body


# -- records -----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_a_record_is_eleven_bytes_and_the_event(data):
    record = records.frame(data)
    assert record[records.PREFIX_BYTES :] == data
    assert record[:11] == b"\x93\xce" + struct.pack(">I", len(data)) + b"\xce" + struct.pack(">I", crc32(data))


@given(st.lists(st.binary(max_size=30), max_size=10), st.binary(max_size=20))
def test_records_are_walked_up_to_the_first_bytes_that_are_none(events, zeros):
    whole = b"".join(map(records.frame, events))
    buffer = whole + bytes(len(zeros))
    found = [buffer[start:end] for start, end in records.walk(buffer, 0, len(buffer))]
    assert found == events


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4), st.data())
def test_a_torn_record_ends_the_walk_before_it(events, data):
    whole = b"".join(map(records.frame, events))
    torn = whole[: data.draw(st.integers(len(whole) - len(records.frame(events[-1])), len(whole) - 1))]
    assert len(list(records.walk(torn, 0, len(torn)))) == len(events) - 1


def test_every_damaged_byte_of_a_record_ends_the_walk():
    whole = records.frame(event(1))
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            assert list(records.walk(bytes(damaged), 0, len(damaged))) == []


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_spans_find_every_event_of_a_body(events):
    body = b"".join(map(records.frame, events))
    assert [body[start:end] for start, end in records.spans(body, len(events))] == events


@pytest.mark.parametrize("lie", [0, 1, 2, 4, 5, 4_000])
def test_a_body_that_does_not_hold_as_many_records_as_claimed_is_refused(lie):
    assert refusal(records.spans, body_of(1, 3), lie) == "bad_body"


def test_a_body_whose_lengths_do_not_fill_it_is_refused():
    body = body_of(1, 3)
    assert refusal(records.spans, body[:-1], 3) == "bad_body"
    assert refusal(records.spans, body + b"\x00", 3) == "bad_body"
    longer = bytearray(body)
    longer[2:6] = b"\xff\xff\xff\xff"
    assert refusal(records.spans, bytes(longer), 3) == "bad_body"


@given(st.binary(max_size=100), st.integers(0, 5))
def test_spans_of_any_bytes_fill_them_exactly_or_are_refused(data, count):
    try:
        found = records.spans(data, count)
    except WireError:
        return
    assert len(found) == count
    assert sum(records.PREFIX_BYTES + end - start for start, end in found) == len(data)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 200), st.integers(1, 12))
def test_a_cut_takes_whole_records_within_both_limits_and_at_least_one(sizes, bytes_max, events_max):
    body = b"".join(records.frame(bytes(size)) for size in sizes)
    end, count = records.cut(body, 0, len(body), bytes_max, events_max)
    assert 1 <= count <= events_max
    assert end == sum(records.PREFIX_BYTES + size for size in sizes[:count])
    assert end <= bytes_max or count == 1
    if count < min(len(sizes), events_max):
        assert end + records.PREFIX_BYTES + sizes[count] > bytes_max, "one more would have fitted"


# -- batches -----------------------------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16), U32, st.integers(1, 2**62), st.integers(1, 4_096), U64, U64, st.binary())
def test_a_header_comes_back_as_it_was_packed(session, epoch, first, count, time_ns, counter, body):
    last = first + count - 1
    data = message(
        first, last, body, session=session, epoch=epoch, events=count, time_ns=time_ns, counter=counter
    )  # fmt: skip
    header, found = read(data)
    assert header == (0, session, STREAM, epoch, first, last, count, counter, time_ns, crc32(body))
    assert found == body


def test_a_whole_batch_is_decoded_in_one_call():
    header, body = read(message(5, 9))
    decoded = batch.decode_body(body, header.events)
    assert [record.event.seq for record in decoded] == [5, 6, 7, 8, 9]
    assert [record.crc for record in decoded] == [crc32(event(seq)) for seq in range(5, 10)]


def test_plain_msgpack_reads_a_body_as_one_array_after_another():
    unpacker = msgpack.Unpacker()
    unpacker.feed(body_of(1, 3))
    assert [event[1] for _, _, event in unpacker] == [1, 2, 3]


def test_every_damaged_byte_of_a_batch_is_refused():
    whole = message()
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            assert refusal(read, bytes(damaged)) in {"not_ours", "version", "inconsistent", "damaged"}


def test_every_truncation_of_a_batch_is_refused():
    whole = message()
    for length in range(len(whole)):
        assert refusal(read, whole[:length]) in {"too_short", "damaged"}


def test_bytes_behind_a_batch_are_refused():
    assert refusal(read, message() + b"\x00") == "damaged"


@pytest.mark.parametrize(
    "lie",
    [
        {"first_seq": 0},
        {"first_seq": 0, "events": 4},
        {"events": 2},
        {"events": 4},
        {"events": 0},
        {"first_seq": 4},
        {"first_seq": 4, "events": 0},
        {"last_seq": 2**64 - 1},
        {"flags": batch.FLAG_GAP},
        {"flags": batch.FLAG_GAP, "events": 0},
        {"flags": batch.FLAG_GAP, "events": 1, "last_seq": 2**63},
        {"flags": batch.FLAG_GAP, "events": 1, "first_seq": 9},
    ],
)
def test_a_header_whose_counts_contradict_each_other_is_refused(lie):
    assert refusal(batch.parse_header, message(**lie)) == "inconsistent"


def test_a_batch_of_too_many_events_is_refused():
    most = limits.BATCH_EVENTS_MAX
    assert batch.parse_header(message(1, most, b""))[0].events == most
    assert refusal(batch.parse_header, message(1, most + 1, b"")) == "too_large"


def test_a_batch_over_the_limit_of_bytes_is_refused():
    assert refusal(batch.parse_header, message(1, 1, bytes(limits.MESSAGE_BYTES_MAX))) == "too_large"


def test_a_gap_batch_covers_more_seqs_than_it_has_events():
    header, _ = read(message(1, 10**9, b"", flags=batch.FLAG_GAP, events=1))
    assert header.is_gap
    assert (header.first_seq, header.last_seq, header.events) == (1, 10**9, 1)


def test_unknown_flags_are_let_through():
    assert batch.parse_header(message(flags=0x8000))[0].flags == 0x8000


def test_a_longer_header_of_the_same_version_is_read_without_what_it_appends():
    """How the header may grow: new fields go before its checksum, and its size says where the body begins."""
    whole = message()
    head = bytearray(whole[: batch.HEADER_BYTES - 4] + b"newfield")
    head[3] += 8
    longer = bytes(head) + struct.pack(">I", crc32(head)) + whole[batch.HEADER_BYTES :]
    assert read(longer) == read(whole)


def test_another_version_is_refused_with_the_remedy():
    damaged = bytearray(message())
    damaged[2] = 9
    with pytest.raises(WireError, match="version 9; this side reads 1: update it"):
        batch.parse_header(bytes(damaged))


@given(st.binary(max_size=200))
@settings(max_examples=200)
@example(b"TF\x01\x56" + bytes(200))
def test_any_bytes_are_a_batch_or_a_wire_error(data):
    try:
        read(data)
    except WireError:
        pass


@given(st.binary(max_size=60), st.integers(0, 5))
@settings(max_examples=200)
@example(b"\x93\x00\x00" + b"\x91" * 100_000, 1)
@example(b"\x93\x00\x00\x98\xa6metric\x01\xa1\xff\xc0\xc0\xc0\xa1a\x00\x00", 1)
@example(b"\x93\x00\x00\x9a\xa3log\x01\xa1i\xa1m\xa1a\x00\x00\xc0" + b"\x91" * 100_000, 1)
def test_any_body_decodes_or_is_a_decode_error(body, count):
    try:
        batch.decode_body(body, count)
    except msgspec.DecodeError:
        pass


# -- control messages --------------------------------------------------------------------------------------------

IDS = st.binary(min_size=16, max_size=16)
COUNTS = st.integers(0, 2**63 - 1)
NAMES = st.text(min_size=1, max_size=30)
INFOS = st.builds(
    control.StreamInfo,
    stream=IDS, run_id=NAMES, worker_id=NAMES, agent_id=NAMES, started_ns=COUNTS,
    control_mode=st.none() | NAMES, host=st.none() | NAMES, pid=st.none() | st.integers(0, 2**31),
    sdk_version=st.none() | NAMES, metadata=st.binary(max_size=30), parent=st.none() | IDS,
)  # fmt: skip
BEATS = st.builds(control.StreamBeat, IDS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.none() | COUNTS)
SEQS = st.builds(control.StreamSeq, IDS, COUNTS)
ENDPOINTS = st.builds(control.Endpoints, NAMES, NAMES, st.none() | NAMES)
FIELDS = {
    "public": st.text(min_size=40, max_size=40), "holder": NAMES, "brief": st.booleans(), "role": NAMES,
    "pattern": NAMES, "at_s": COUNTS, "expires_s": st.none() | COUNTS,
    "instance": IDS, "stream": IDS, "epoch": COUNTS, "number": COUNTS, "seq": COUNTS, "oldest": COUNTS, "head": COUNTS,
    "sent": COUNTS,
    "protocol": st.integers(0, 9), "info": INFOS, "sent_ns": COUNTS, "complete": st.booleans(),
    "expected": COUNTS, "credit_bytes": COUNTS, "interval_ms": COUNTS, "heartbeat_ms": COUNTS,
    "endpoints": ENDPOINTS, "wait_reason": st.none() | NAMES, "echo_ns": COUNTS, "broker_ns": COUNTS,
    "required": st.none() | st.booleans(), "left_spools": COUNTS, "fabric": st.none() | IDS,
    "reason": NAMES, "name": NAMES, "query": st.none() | NAMES, "marks": st.lists(SEQS, max_size=4),
    "stored_events": COUNTS, "quarantined_events": COUNTS, "token": st.binary(max_size=20),
    "policy": st.builds(QueuePolicy, COUNTS, COUNTS, NAMES, COUNTS), "keeps": NAMES, "received": COUNTS, "lost": COUNTS,
    "clock_offset_ns": st.none() | st.integers(-(2**63), 2**63 - 1), "round_trip_ns": st.none() | COUNTS,
    "agents": st.none() | st.lists(NAMES, max_size=3), "pictures": st.none() | st.lists(NAMES, max_size=3),
    "runs": st.none() | st.lists(NAMES, max_size=3), "kinds": st.none() | st.lists(NAMES, max_size=3),
    "batches": st.lists(st.binary(max_size=20), max_size=3),
    "message": NAMES, "field": st.none() | NAMES, "about": st.none() | NAMES,
    "status": st.dictionaries(NAMES, COUNTS | NAMES, max_size=3),
    "edits": st.booleans(), "id": IDS, "command": NAMES, "run_id": NAMES, "by": NAMES, "outcome": NAMES,
    "sentence": NAMES, "value": (st.none() | NAMES | COUNTS).map(msgspec.msgpack.encode).map(msgspec.Raw),
}  # fmt: skip
KINDS = typing.get_args(control.AnyMessage)


def messages_of(kind):
    if kind is control.Living:
        return st.builds(kind, instance=IDS, streams=st.lists(IDS, max_size=4))
    streams = st.lists(BEATS if kind is control.Beat else INFOS, max_size=4)
    return st.builds(kind, **{field: FIELDS.get(field, streams) for field in kind.__struct_fields__})


MESSAGES = st.one_of([messages_of(kind) for kind in KINDS])


@given(MESSAGES)
@settings(max_examples=150)
def test_every_control_message_survives_the_wire(message):
    assert control.decode(control.encode(message)) == message


def array_of(message):
    """Without its check."""
    return control.encode(message)[:-4]


@given(MESSAGES, st.data())
def test_no_flipped_bits_of_a_control_message_are_read(message, data):
    whole = bytearray(control.encode(message))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    assert refusal(control.decode, bytes(whole)) == "damaged"


@given(MESSAGES)
def test_plain_msgpack_reads_a_control_message_as_its_name_and_fields(message):
    decoded = msgpack.unpackb(array_of(message))
    assert decoded[0] == message.__struct_config__.tag
    assert len(decoded) == 1 + len(message.__struct_fields__)


@given(MESSAGES, st.lists(st.none() | st.text() | COUNTS, min_size=1, max_size=3))
def test_unknown_trailing_fields_of_a_control_message_are_skipped(message, more):
    longer = msgpack.packb([*msgpack.unpackb(array_of(message)), *more])
    assert control.decode(seal(longer)) == message


@pytest.mark.parametrize(
    "data",
    [
        msgpack.packb(["no_such_message", SESSION]),
        msgpack.packb([]),
        msgpack.packb({"ack": 1}),
        msgpack.packb(["ack"]),
        msgpack.packb(["ack", b"short", STREAM, 1]),
        msgpack.packb(["ack", SESSION, STREAM, -1]),
        msgpack.packb(["ack", SESSION, STREAM, 2**63]),
        msgpack.packb(["ack", SESSION, STREAM, "1"]),
        msgpack.packb(["attach", 1, ""]),
        msgpack.packb(["attach", 1, "n" * (limits.NAME_BYTES_MAX + 1)]),
        msgpack.packb(["watch", 1, "n", ["\u20ac" * 86], None]),
        msgpack.packb(["who", SESSION, STREAM])[:-1],
        b"\x92\xa2\xff\xff\x01",
        b"\x93\xa7refused\xc4\x10" + SESSION + b"\xa2\xff\xff",
        b"\x91" * 100_000,
        b"",
    ],
)
def test_what_is_no_control_message_of_this_protocol_is_refused(data):
    assert refusal(control.decode, seal(data)) == "bad_control"
    assert refusal(control.decode, data) == "damaged"


def test_a_control_message_over_the_limit_is_refused_unread():
    assert refusal(control.decode, bytes(limits.CONTROL_BYTES_MAX + 1)) == "too_large"


def test_metadata_over_the_limit_is_refused():
    info = control.StreamInfo(STREAM, "r", "w", "a", 0, metadata=bytes(limits.METADATA_BYTES_MAX + 1))
    assert refusal(control.decode, control.encode(control.Hello(1, info, 0, 0))) == "bad_control"


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes_are_a_control_message_or_a_wire_error(data):
    try:
        control.decode(seal(data))
    except WireError:
        pass


@given(MESSAGES, st.data())
def test_a_damaged_control_message_is_read_or_a_wire_error(message, data):
    """Control travels over TCP without a checksum of ours; damage must at worst cost the message."""
    damaged = bytearray(control.encode(message))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        control.decode(bytes(damaged))
    except WireError:
        pass


@pytest.mark.parametrize("event", [b"", b"\x93", b"\xdc\x00", b"\x92\xa2\xff\xfe", b"\xdc\x00\x02\xbf", bytes(40)])
def test_the_kind_of_bytes_that_are_no_event_is_none_or_nobodys(event: bytes) -> None:
    assert records.kind_of(event) in ("", "\ufffd\ufffd")


@pytest.mark.parametrize("size", [0, 1, 5_119, 5_120, 5_121, 300_000])
def test_the_checksum_of_a_body_is_that_of_all_of_it(size):
    body = random.Random(size).randbytes(size)
    header, start = batch.parse_header(message(1, 1, body))
    assert header.body_crc == crc32(body)
    batch.check_body(header, message(1, 1, body)[start:])
