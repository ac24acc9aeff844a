"""Whatever is wrong with bytes of others is one error, and one class decodes them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telefabric.ring import hud
from telefabric.spool.spool import parent_in
from telefabric_schemas import Decoder, Metric, decode_event, event_of

PROJECT = Path(__file__).parent.parent
NO_TEXT = b"\xa1\xff"
TOO_DEEP = b"\x91" * 100_000 + b"\xc0"
TORN = b"\x92\x01"
METRIC = Metric(seq=1, agent_id="a", name="loss", value=0.5, unit=None, global_step=None, time_ns=1, mono_ns=1)


@pytest.mark.parametrize("raw", [b"", TORN, NO_TEXT, TOO_DEEP], ids=["empty", "torn", "not UTF-8", "too deep"])
def test_each_way_to_be_unreadable_is_one_error(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Decoder[object]().decode(raw)
    with pytest.raises(msgspec.DecodeError):
        decode_event(raw)
    assert event_of(raw) is None


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    for decode in (Decoder[object]().decode, decode_event, hud.decode):
        try:
            decode(raw)
        except msgspec.DecodeError:
            pass


def test_an_event_is_read() -> None:
    raw = msgspec.msgpack.encode(METRIC)
    assert decode_event(raw) == event_of(raw) == METRIC


def test_a_damaged_file_of_a_spool_names_no_parent(tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(NO_TEXT)
    assert parent_in(tmp_path) is None


def test_no_other_module_decodes_messagepack_by_itself() -> None:
    sources = [path for folder in ("fabric", "gui", "schemas", "workers") for path in (PROJECT / folder).rglob("*.py")]
    found = [path.name for path in sources if "msgpack.Decoder(" in path.read_text("utf-8")]
    assert found == ["decoding.py"]
    assert not [path for path in sources if "msgpack.decode(" in path.read_text("utf-8")]
