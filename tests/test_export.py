"""`telefabric export`: counts and values of each format are those of the store, whatever stops an export on the way."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import signal
import struct
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from skips import requires
from slowness import patience
from store_fixtures import (
    Scribe,
    episode,
    log,
    metric,
    query_behind_broker,
    raw,
    reset,
    run_completed,
    run_started,
    step,
    stream,
    void,
)
from test_cli_read import ODD, VALUES

from telefabric import limits
from telefabric.cli.export import export
from telefabric.errors import EnvironmentProblem, TelefabricError, UsageError
from telefabric.exchange.csv import CsvWriter
from telefabric.exchange.json_form import json_line
from telefabric.exchange.selection import Range
from telefabric.exchange.tfrecords import masked_crc32c
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import StoredEvent
from telefabric_schemas import Metric, Step, events
from telefabric_schemas.decoding import decode_event

DUCKDB = requires("duckdb", importlib.util.find_spec("duckdb") is not None)
MCAP = requires("mcap", importlib.util.find_spec("mcap") is not None)
WALK, LAKE = stream("walk", "w1", "ada"), stream("lake", "w2")
JPEG = b"\xff\xd8" + bytes(range(256))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with every kind of event; episode 2 of `lake` was voided and begun again."""
    path = tmp_path_factory.mktemp("export") / "telemetry.sqlite"
    raw_frame = events.Frame(9, "ada", 0, 0, 1, "g", 2, 1, "raw", bytes(6), 5 * 10**9 + 7, 1)
    with Scribe(path) as scribe:
        scribe.put(WALK, run_started(1, WALK, {"lr": 0.1, "text": 'a,"b"\nc'}), reset(2, "ada", seed=raw(7)))
        scribe.put(WALK, step(3, "ada", reward=math.nan, observation=raw(np.array([1.5, math.inf], "<f4"))))
        scribe.put(WALK, step(4, "ada", reward=None, action=raw("left"), info=raw({"a": [1, None], 2: b"\0"})))
        scribe.put(WALK, step(5, "ada", reward=-math.inf, truncated=True), metric(6, "löss", 1e-300, "ada"))
        scribe.put(WALK, metric(7, "empty", None, "ada"), log(8, 'new\nline "quoted", é', "ada"), raw_frame)
        scribe.put(WALK, events.Frame(10, "ada", 0, 0, 2, "f", 4, 2, "jpeg", JPEG, 5 * 10**9, 1))
        scribe.put(WALK, b"\xc1", first_seq=11)
        scribe.put_gap(WALK, 12, 40, "spool_full")
        scribe.put(WALK, run_completed(41, "failed", "out of memory"))
        for index in range(4):
            first = 1 + 8 * index
            scribe.put(LAKE, reset(first, episode_index=index))
            scribe.put(LAKE, *(step(first + at, episode_index=index, step_index=at - 1) for at in range(1, 4)))
            if index == 2:
                scribe.put(LAKE, void(first + 4, index), reset(first + 5, episode_index=index))
                scribe.put(LAKE, step(first + 6, episode_index=index, step_index=0, reward=9.0))
            else:
                scribe.put(LAKE, metric(first + 4, "loss", index / 3), metric(first + 5, value=1e39), log(first + 6))
            scribe.put(LAKE, episode(first + 7, episode_index=index, length=3))
        scribe.commit()
    return path


def exported(form: str, target: Path, store: Path, *more: str) -> str:
    done = CliRunner().invoke(export, [form, str(target), "--store", str(store), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def stored(path: Path, *kinds: str) -> list[StoredEvent]:
    with FileReader(path) as reader:
        found: list[StoredEvent] = reader.events(kinds=kinds or None).rows
    return found


def voided(rows: list[StoredEvent]) -> list[StoredEvent]:
    """What is exported by default: without the voided reset and steps of episode 2."""
    return [row for row in rows if not (row.run_id == "lake" and 17 <= row.seq < 21)]


# -- CSV ---------------------------------------------------------------------------------------------------------
def csv_rows(target: Path, kind: str) -> list[dict[str, str]]:
    with open(target / f"{kind}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_file_for_each_kind_with_the_values_of_the_store(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    said = exported("csv", target, store)
    assert said.startswith(f"Wrote {target}: ")
    names = {path.name for path in target.iterdir()}
    kinds = {row.kind for row in stored(store)} - {"frame", "quarantine"}
    assert names == {f"{kind}.csv" for kind in kinds} | {"export.json"}
    rows, expected = csv_rows(target, "step"), voided(stored(store, "step"))
    assert [int(row["id"]) for row in rows] == [row.id for row in expected]
    for row, event in zip(rows, (decode_event(row.event) for row in expected), strict=True):
        assert isinstance(event, Step)
        assert row["reward"] == (
            "" if event.reward is None else "NaN" if math.isnan(event.reward) else str(event.reward)
        )
        assert (row["terminated"], row["truncated"]) == ("false", json.dumps(event.truncated))
        assert (int(row["global_step"]), int(row["time_ns"])) == (event.global_step, event.time_ns)
    assert json.loads(rows[0]["observation"]) == {"dtype": "<f4", "shape": [2], "data": [1.5, "Infinity"]}
    assert (rows[1]["action"], json.loads(rows[1]["info"])) == ('"left"', {"a": [1, None], "2": {"base64": "AA=="}})
    assert csv_rows(target, "log")[0]["message"] == 'new\nline "quoted", é'
    assert json.loads(csv_rows(target, "run_started")[0]["metadata"]) == {"lr": 0.1, "text": 'a,"b"\nc'}
    gap = csv_rows(target, "gap")[0]
    assert (gap["seq"], gap["last_seq"], gap["reason"]) == ("12", "40", "spool_full")


def test_over_the_network_it_is_that_of_the_file(store: Path, tmp_path: Path) -> None:
    exported("csv", tmp_path / "file", store)
    with query_behind_broker(store) as broker:
        arguments = ["csv", str(tmp_path / "broker"), "--connect", broker.url]
        assert CliRunner().invoke(export, arguments, catch_exceptions=False).exit_code == 0
    for path in (tmp_path / "file").glob("*.csv"):
        assert path.read_bytes() == (tmp_path / "broker" / path.name).read_bytes()


# -- Parquet -----------------------------------------------------------------------------------------------------
@DUCKDB
def test_parquet_has_typed_columns_and_the_event_as_received(store: Path, tmp_path: Path) -> None:
    import duckdb

    target = tmp_path / "it's"
    exported("parquet", target, store)
    for kind, count in Counter(row.kind for row in voided(stored(store))).items():
        relation = duckdb.read_parquet(str(target / kind / "*.parquet"))
        found = relation.order("id").fetchall()
        at = relation.columns.index("event")
        assert len(found) == count, kind
        assert [row[at] for row in found] == [row.event for row in voided(stored(store, kind))], kind
    steps = duckdb.read_parquet(str(target / "step" / "*.parquet")).order("id")
    types = dict(zip(steps.columns, map(str, steps.types), strict=True))
    assert (types["reward"], types["global_step"], types["truncated"]) == ("DOUBLE", "BIGINT", "BOOLEAN")
    rewards = [row[0] for row in steps.project("reward").fetchall()]
    assert math.isnan(rewards[0])
    assert rewards[1:4] == [None, -math.inf, 0.5]
    assert steps.project("action").fetchall()[1] == ('"left"',), "a text is told from a number"
    pictures = duckdb.read_parquet(str(target / "frame" / "*.parquet")).order("id").project("data").fetchall()
    assert pictures == [(bytes(6),), (JPEG,)]


@DUCKDB
def test_the_raw_event_may_be_left_out(store: Path, tmp_path: Path) -> None:
    import duckdb

    exported("parquet", tmp_path / "out", store, "--no-raw", "--kind", "metric")
    found = duckdb.read_parquet(str(tmp_path / "out" / "metric" / "*.parquet"))
    assert "event" not in found.columns
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metric", "export.json"}


# -- MCAP --------------------------------------------------------------------------------------------------------
def mcap_messages(target: Path) -> Iterator[tuple[Any, Any, Any]]:
    from mcap.reader import make_reader

    for path in sorted(target.glob("*.mcap")):
        with open(path, "rb") as file:
            yield from make_reader(file, validate_crcs=True).iter_messages(log_time_order=False)


@MCAP
def test_mcap_has_a_channel_for_each_run_agent_and_kind(store: Path, tmp_path: Path) -> None:
    exported("mcap", tmp_path / "out", store)
    by_topic: dict[str, list[Any]] = {}
    for schema, channel, message in mcap_messages(tmp_path / "out"):
        assert (channel.message_encoding, schema.encoding) in [("json", "jsonschema"), ("protobuf", "protobuf")]
        decode = json.loads if schema.encoding == "jsonschema" else protobuf_message(schema)
        by_topic.setdefault(channel.topic, []).append((message.log_time, decode(message.data)))
    for (run, agent, kind), _ in Counter((row.run_id, row.agent_id, row.kind) for row in stored(store)).items():
        expected = [row for row in voided(stored(store, kind)) if (row.run_id, row.agent_id) == (run, agent)]
        found = by_topic[f"/{run}/{agent}/{kind}"]
        assert [time for time, _ in found] == [row.time_ns for row in expected]
        assert [b64decode(one["event"]) for _, one in found] == [row.event for row in expected]
    steps = [one for _, one in by_topic["/walk/ada/step"]]
    assert [one["reward"] for one in steps] == ["NaN", None, "-Infinity"]
    plain, compressed = (one for _, one in by_topic["/walk/ada/picture"])
    assert (plain.width, plain.height, plain.step, plain.encoding, plain.frame_id) == (2, 1, 6, "rgb8", "ada")
    assert (plain.data, plain.timestamp.seconds, plain.timestamp.nanos) == (bytes(6), 5, 7)
    assert (compressed.data, compressed.format, compressed.frame_id) == (JPEG, "jpeg", "ada")


def protobuf_message(schema: Any) -> Any:
    """What decodes a message of this schema: Google's own reader, with the description that is in the file."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(schema.data).file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name)).FromString


@MCAP
def test_schemas_of_mcap_have_only_types_that_foxglove_and_lichtblick_read(store: Path, tmp_path: Path) -> None:
    exported("mcap", tmp_path / "out", store)
    schemas = {schema.name: schema for schema, _, _ in mcap_messages(tmp_path / "out")}
    assert {"telefabric.step", "foxglove.CompressedImage", "foxglove.RawImage"} <= set(schemas)

    def look(schema: dict[str, Any]) -> None:
        assert schema["type"] in ("object", "string", "number", "integer", "boolean"), "no list of types, no null"
        assert schema.get("contentEncoding") in (None, "base64")
        for part in schema.get("properties", {}).values():
            look(part)

    for name, each in schemas.items():
        if not name.startswith("foxglove."):
            look(json.loads(each.data))


# -- TensorBoard -------------------------------------------------------------------------------------------------
def tensorboard_events(path: Path) -> Iterator[tuple[float, int, str, float]]:
    """Time, step, tag and value; checks the sums of each record."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        sums = struct.unpack("<I", data[8:12]) + struct.unpack("<I", data[12 + length : 16 + length])
        assert sums == (masked_crc32c(data[:8]), masked_crc32c(body))
        data = data[16 + length :]
        if fields := dict(protobuf(body)):
            if 5 in fields:
                value = dict(protobuf(dict(protobuf(fields[5]))[1]))
                yield fields[1], fields[2], value[1].decode(), value[2]
            else:
                assert fields[3] == b"brain.Event:2"


def protobuf(data: bytes) -> Iterator[tuple[int, Any]]:
    while data:
        field, kind, data = data[0] >> 3, data[0] & 7, data[1:]
        if kind in (0, 2):
            number = shift = 0
            while True:
                number, shift, last, data = number | (data[0] & 127) << shift, shift + 7, data[0], data[1:]
                if last < 128:
                    break
            yield field, number if kind == 0 else data[:number]
            data = data[number if kind == 2 else 0 :]
        else:
            size, form = (8, "<d") if kind == 1 else (4, "<f")
            yield field, struct.unpack(form, data[:size])[0]
            data = data[size:]


def test_the_sum_of_a_record_is_that_of_the_specification() -> None:
    crc = 0xE3069283  # of these nine bytes, in RFC 3720 and everywhere else
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_tensorboard_has_metrics_and_returns_in_a_folder_for_each_run_and_agent(store: Path, tmp_path: Path) -> None:
    said = exported("tensorboard", tmp_path / "out", store)
    assert "Left out: values that are null (1)." in said
    (file,) = (tmp_path / "out" / "lake" / "agent_0").iterdir()
    assert file.name == f"events.out.tfevents.{LAKE.stream.hex()}"
    found = list(tensorboard_events(file))
    expected = []
    for row in stored(store, "metric", "episode"):
        event = decode_event(row.event)
        if row.run_id == "lake":
            assert isinstance(event, (Metric, events.Episode))
            named = (
                {event.name: event.value} if isinstance(event, Metric)
                else {"episode/return": event.total_reward, "episode/length": event.length}
            )  # fmt: skip
            for name, value in named.items():
                assert value is not None
                single = math.inf if value > 1e38 else struct.unpack("<f", struct.pack("<f", value))[0]
                expected.append((event.time_ns / 1e9, event.global_step, name, single))
    assert found == expected
    (other,) = (tmp_path / "out" / "walk" / "ada").iterdir()
    assert [tag for _, _, tag, _ in tensorboard_events(other)] == ["löss"]


def test_names_of_runs_do_not_leave_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite"
    with Scribe(path) as scribe:
        for run, agent in (("../up", ".."), ("a/b", "é" * 80)):
            scribe.put(stream(run, "w", agent), metric(1, agent=agent))
        scribe.commit()
    exported("tensorboard", tmp_path / "out", path)
    runs = sorted(file.parent.parent.name for file in (tmp_path / "out").rglob("events*"))
    assert runs == ["..%2Fup", "a%2Fb"]


# -- odd values ----------------------------------------------------------------------------------------------------
@DUCKDB
@MCAP
def test_values_of_all_sorts_are_in_each_format_as_dump_writes_them(tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "telemetry.sqlite"
    observations = [raw(value) for value, _ in VALUES.values()] + [msgspec.Raw(odd) for odd in ODD.values()]
    with Scribe(path) as scribe:
        scribe.put(LAKE, *(step(seq, observation=one) for seq, one in enumerate(observations, 1)))
        scribe.put(LAKE, log(len(observations) + 1, "a\0b\r\n\u2028'\"\\"), metric(len(observations) + 2, "\0", 5e-324))
        scribe.commit()
    dumped = [json.loads(json_line(row))["observation"] for row in stored(path, "step")]
    for form in ("csv", "parquet", "mcap"):
        exported(form, tmp_path / form, path)
    rows = csv_rows(tmp_path / "csv", "step")
    assert [json.loads(row["observation"]) if row["observation"] else None for row in rows] == dumped
    found = duckdb.read_parquet(str(tmp_path / "parquet/step/*.parquet")).order("id").project("observation").fetchall()
    assert [json.loads(text) for (text,) in found] == dumped
    messages = [json.loads(message.data) for _, _, message in mcap_messages(tmp_path / "mcap")]
    assert [one["observation"] for one in messages if one["kind"] == "step"] == dumped
    message = csv_rows(tmp_path / "csv", "log")[0]["message"]
    assert message == "a\0b\r\n\u2028'\"\\"
    assert duckdb.read_parquet(str(tmp_path / "parquet/log/*.parquet")).project("message").fetchall() == [(message,)]
    metrics = duckdb.read_parquet(str(tmp_path / "parquet/metric/*.parquet")).project("name, value").fetchall()
    assert metrics == [("\0", 5e-324)]


# -- what is chosen ----------------------------------------------------------------------------------------------
def test_only_what_was_asked_for_is_exported(store: Path, tmp_path: Path) -> None:
    def seqs(name: str, *more: str) -> dict[str, list[int]]:
        target = tmp_path / name
        exported("csv", target, store, *more)
        return {path.stem: [int(row["seq"]) for row in csv_rows(target, path.stem)] for path in target.glob("*.csv")}

    of_lake = seqs("run", "--run", "lake")
    assert of_lake["step"] == [2, 3, 4, 10, 11, 12, 23, 26, 27, 28], "the voided steps are left out"
    assert seqs("agent", "--agent", "ada", "--kind", "step") == {"step": [3, 4, 5]}
    assert seqs("kinds", "--kind", "log", "--kind", "frame") == {"log": [8, 7, 15, 31], "frame": [9, 10]}
    assert seqs("episodes", "--run", "lake", "--episodes", "1-2") == {
        "reset": [9, 22], "step": [10, 11, 12, 23], "episode": [16, 24], "episode_voided": [21],
    }  # fmt: skip
    assert seqs("steps", "--run", "lake", "--steps", "12-27") == {
        "step": [12, 23, 26, 27], "episode": [16, 24], "metric": [13, 14],
    }  # fmt: skip
    voided = seqs("voided", "--run", "lake", "--episodes", "2", "--voided")
    assert (voided["reset"], voided["step"]) == ([17, 22], [18, 19, 20, 23])


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["--episodes", "99-"], "no stored event fits, so nothing was written: choose others of "),
        (["--run", "lake", "--agent", "nobody"], "there is no agent 'nobody' in run 'lake' of .*: it has agent_0$"),
        (["--agent", "nobody"], "there is no agent 'nobody' in .*: its newest runs have .*ada"),
    ],
)
def test_an_export_that_nothing_fits_is_one_sentence_and_leaves_no_folder(
    store: Path, tmp_path: Path, chosen: list[str], said: str
) -> None:
    with pytest.raises(TelefabricError, match=said):
        exported("csv", tmp_path / "out", store, *chosen)
    assert not (tmp_path / "out").exists()
    assert "events (" in exported("csv", tmp_path / "out", store), "a corrected command is not refused"


# -- Minari, of which a stand-in takes the episodes: scripts/check_exports has the real one -----------------------
CART = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-9.0] * 2, "high": [9.0] * 2}
WIDE = {"type": "Box", "dtype": "float32", "shape": [3], "low": [-9.0] * 3, "high": [9.0] * 3}
PARTS = {"type": "Dict", "subspaces": {"at": CART}}
TWO, FOUR = ({"type": "Discrete", "dtype": "int64", "start": 0, "n": n} for n in (2, 4))
OBSERVED = {"CART": np.zeros(2, "<f4"), "WIDE": np.ones(3, "<f4"), "PARTS": {"at": np.zeros(2, "<f4")}}


@pytest.fixture
def data_sets(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """The data sets that an export has begun, with their spaces and episodes."""
    spaces = pytest.importorskip("gymnasium.spaces")
    begun: list[SimpleNamespace] = []

    def deserialized(text: str) -> Any:
        def space(given: dict[str, Any]) -> Any:
            if given["type"] == "Dict":
                return spaces.Dict({name: space(part) for name, part in given["subspaces"].items()})
            if given["type"] == "Discrete":
                return spaces.Discrete(given["n"])
            return spaces.Box(np.float32(given["low"]), np.float32(given["high"]), dtype=np.float32)

        return space(json.loads(text))

    def new(path: Path, observation: Any, action: Any, **given: Any) -> SimpleNamespace:
        path.mkdir()
        episodes: list[Any] = []
        made = SimpleNamespace(
            spaces=(observation, action), episodes=episodes, update_metadata=dict, update_episodes=episodes.extend
        )
        begun.append(made)
        return made

    for name, parts in {
        "h5py": {}, "minari": {"__version__": "0"}, "minari.data_collector": {"EpisodeBuffer": SimpleNamespace},
        "minari.dataset": {}, "minari.dataset.minari_storage": {"MinariStorage": SimpleNamespace(new=new)},
        "minari.serialization": {"deserialize_space": deserialized},
    }.items():  # fmt: skip
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "telefabric.exchange.minari", raising=False)
    yield begun
    sys.modules.pop("telefabric.exchange.minari", None)


def of_environments(path: Path, *observed: str, first_action: int = 1) -> Path:
    """A run of one agent, with an episode of two steps in each of its environments; they come by turns."""
    known = {"CART": (CART, TWO), "WIDE": (WIDE, FOUR), "PARTS": (PARTS, TWO)}
    names = {
        "environment" + (f"_{n}" if n > 1 else ""): known[each] for n, each in enumerate(dict.fromkeys(observed), 1)
    }
    metadata = {
        name: {"observation_space": json.dumps(one), "action_space": json.dumps(other)}
        for name, (one, other) in names.items()
    }
    seqs = iter(range(2, 1_000))
    with Scribe(path) as scribe:
        scribe.put(WALK, run_started(1, WALK, metadata))
        for make in (
            lambda env, seen: reset(next(seqs), episode_index=0, env_index=env, observation=seen),
            lambda env, seen: step(
                next(seqs), episode_index=0, env_index=env, step_index=0, observation=seen, action=raw(first_action)
            ),
            lambda env, seen: step(
                next(seqs), episode_index=0, env_index=env, step_index=1, observation=seen, action=raw(0)
            ),
            lambda env, seen: episode(next(seqs), episode_index=0, env_index=env, length=2),
        ):
            scribe.put(WALK, *(make(env, raw(OBSERVED[each])) for env, each in enumerate(observed)))
        scribe.commit()
    return path


@pytest.mark.parametrize("other", ["WIDE", "PARTS"])
def test_minari_leaves_out_episodes_of_other_spaces_and_takes_them_when_asked(
    tmp_path: Path, data_sets: list[SimpleNamespace], other: str
) -> None:
    path = of_environments(tmp_path / "telemetry.sqlite", "CART", "CART", other)
    said = exported("minari", tmp_path / "all-v0", path, "--run", "walk")
    assert said.endswith(
        "8 events (2 episode, 2 reset, 4 step). Left out: "
        "episodes of environment 2 with values of other spaces: choose them with --env 2 (1).\n"
    )
    assert "4 events (1 episode" in exported("minari", tmp_path / "one-v0", path, "--run", "walk", "--env", "2")
    first, second = data_sets
    assert [each.observations.shape for each in first.episodes] == [(3, 2)] * 2
    (found,) = second.episodes
    assert second.spaces[0].contains(found.observations[0] if other == "WIDE" else {"at": found.observations["at"][0]})


def test_minari_leaves_out_actions_that_the_space_does_not_have(
    tmp_path: Path, data_sets: list[SimpleNamespace]
) -> None:
    path = of_environments(tmp_path / "telemetry.sqlite", "CART", first_action=2)
    with pytest.raises(UsageError, match=r"no stored event fits.*; left out: episodes of environment 0 .*\(1\)$"):
        exported("minari", tmp_path / "all-v0", path, "--run", "walk")
    assert not (tmp_path / "all-v0").exists()
    assert data_sets == []


def test_minari_takes_an_agent_s_own_part_of_the_spaces_of_several(
    tmp_path: Path, data_sets: list[SimpleNamespace]
) -> None:
    each = ({"type": "Dict", "subspaces": {"agent_0": CART, "other": WIDE}}, {"type": "Dict", "subspaces": {}})
    each[1]["subspaces"] = {"agent_0": TWO, "other": FOUR}
    observation, action = map(json.dumps, each)
    seen = raw(OBSERVED["CART"])
    with Scribe(tmp_path / "telemetry.sqlite") as scribe:
        scribe.put(
            WALK, run_started(1, WALK, {"environment": {"observation_space": observation, "action_space": action}}),
            reset(2, episode_index=0, observation=seen),
            step(3, episode_index=0, step_index=0, observation=seen, action=raw(1)),
            episode(4, episode_index=0, length=1),
        )  # fmt: skip
        scribe.commit()
    exported("minari", tmp_path / "all-v0", tmp_path / "telemetry.sqlite", "--run", "walk", "--agent", "agent_0")
    (made,) = data_sets
    assert [space.shape for space in made.spaces] == [(2,), ()]
    assert [found.observations.shape for found in made.episodes] == [(2, 2)]


def test_a_space_that_minari_does_not_know_is_named(tmp_path: Path, data_sets: list[SimpleNamespace]) -> None:
    metadata = {"environment": {"left_out": ["observation_space: a space of type Graph has no form"]}}
    with Scribe(tmp_path / "telemetry.sqlite") as scribe:
        scribe.put(WALK, run_started(1, WALK, metadata), reset(2), step(3), episode(4, length=1))
        scribe.commit()
    with pytest.raises(UsageError, match=r"no form for \(observation_space: a space of type Graph .*export parquet"):
        exported("minari", tmp_path / "all-v0", tmp_path / "telemetry.sqlite", "--run", "walk")


def test_a_data_set_that_failed_leaves_nothing_behind(
    tmp_path: Path, data_sets: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError("a library's own")

    path = of_environments(tmp_path / "telemetry.sqlite", "CART")
    monkeypatch.setattr(sys.modules["minari.dataset.minari_storage"].MinariStorage, "new", fail)
    with pytest.raises(RuntimeError, match="a library's own"):
        exported("minari", tmp_path / "all-v0", path, "--run", "walk")
    assert not (tmp_path / "all-v0").exists()


@pytest.mark.parametrize("text", ["", "x", "-3", "5-4", "1-2-3", "1.5"])
def test_what_is_no_range_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="10-19"):
        Range.parse(text)
    assert (Range.parse("7"), Range.parse("7-"), Range.parse("7-9")) == (Range(7, 7), Range(7, None), Range(7, 9))


# -- what stops an export ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pages."""
    path = tmp_path_factory.mktemp("longer") / "telemetry.sqlite"
    with Scribe(path) as scribe:
        for first in range(1, 9_001, 1_000):
            scribe.put(LAKE, *(metric(at) if at % 9 == 0 else step(at) for at in range(first, first + 1_000)))
            scribe.commit()
    return path


def content(form: str, target: Path) -> Any:
    if form == "parquet":
        import duckdb

        return [
            duckdb.read_parquet(str(target / kind / "*.parquet")).order("id").fetchall() for kind in ("step", "metric")
        ]
    if form == "mcap":
        return [message.data for _, _, message in mcap_messages(target)]
    return {
        path.name: path.read_bytes() for path in target.rglob("*") if path.suffix == ".csv" or "events" in path.name
    }


@pytest.mark.parametrize(
    "form", ["csv", pytest.param("parquet", marks=DUCKDB), pytest.param("mcap", marks=MCAP), "tensorboard"]
)
def test_an_export_that_failed_goes_on_and_is_like_one_that_did_not(
    longer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    from telefabric.exchange.formats import FORMATS

    monkeypatch.setattr(limits, "EXPORT_CHUNK_EVENTS", 3_000)
    whole, broken, kinds = tmp_path / "whole", tmp_path / "broken", ("--kind", "step", "--kind", "metric")
    exported(form, whole, longer, *kinds)
    module, _, name = FORMATS[form].writer.partition(":")
    writer = getattr(importlib.import_module(f"telefabric.exchange.{module}"), name)
    calls, add = Counter[str](), writer.add

    def failing_add(self: Any, rows: list[StoredEvent]) -> None:
        add(self, rows)
        calls["add"] += 1
        if calls["add"] in (1, 4):  # before the first checkpoint, and behind it
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "add", failing_add)
        for _ in range(2):
            with pytest.raises(EnvironmentProblem, match="No space left on device: make room"):
                exported(form, broken, longer, *kinds)
            assert json.loads((broken / "export.json").read_text())["complete"] is False
        assert json.loads((broken / "export.json").read_text())["done"] > 0
        said = exported(form, broken, longer, *kinds)
    assert calls["add"] == 1 + 3 + 3, "what was complete is not written again"
    assert "9,000 events" in said
    assert content(form, broken) == content(form, whole)
    assert (
        json.loads((broken / "export.json").read_text())["counts"]
        == (json.loads((whole / "export.json").read_text())["counts"])
    )
    assert not any(path.suffix == ".jsonl" or path.name.startswith(".") for path in broken.rglob("*"))


ENDED_IN_THE_MIDDLE = """
import os
from telefabric import limits
from telefabric.cli.main import main
from telefabric.exchange.csv import CsvWriter

limits.EXPORT_CHUNK_EVENTS, add, pages = 2_000, CsvWriter.add, []

def ending_add(self, rows):
    add(self, rows)
    pages.append(rows)
    if len(pages) == 3:
        os.kill(os.getpid(), int(os.environ['ENDING']))

CsvWriter.add = ending_add
main()
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_ended_goes_on(longer: Path, tmp_path: Path, ending: signal.Signals) -> None:
    target, whole = tmp_path / "out", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, "-c", ENDED_IN_THE_MIDDLE, "export", "csv", str(target), "--store", str(longer)],
        env=os.environ | {"ENDING": str(int(ending))}, capture_output=True, encoding="utf-8", timeout=patience(60),
        check=False,
    )  # fmt: skip
    if ending == signal.SIGINT:
        assert (done.returncode, done.stderr.strip()) == (130, "telefabric: interrupted: the same command continues")
    else:
        assert done.returncode == -signal.SIGKILL
    assert not json.loads((target / "export.json").read_text())["complete"]
    exported("csv", target, longer)
    exported("csv", whole, longer)
    assert content("csv", target) == content("csv", whole)


def test_nothing_is_overwritten_unless_asked(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    exported("csv", target, store, "--run", "lake")
    with pytest.raises(UsageError, match="has a complete export"):
        exported("csv", target, store, "--run", "lake")
    (target / "mine.txt").write_text("mine")
    exported("csv", target, store, "--run", "walk", "--kind", "log", "--force")
    assert {path.name for path in target.iterdir()} == {"log.csv", "mine.txt", "export.json"}, "what was exported goes"
    with pytest.raises(UsageError, match="is not empty and not an export: name another folder"):
        exported("csv", tmp_path, store, "--force")
    progress = json.loads((target / "export.json").read_text())
    (target / "export.json").write_text(json.dumps({**progress, "complete": False}))
    with pytest.raises(UsageError, match="has an unfinished export of something else"):
        exported("csv", target, store, "--run", "lake")


def test_what_cannot_be_is_one_sentence(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="file/out cannot be written: Not a directory"):
        exported("csv", tmp_path / "file" / "out", store)
    with pytest.raises(TelefabricError, match="there is no run 'nope'"):
        exported("csv", tmp_path / "out", store, "--run", "nope")
    for form, package in (("parquet", "duckdb"), ("mcap", "mcap.writer"), ("minari", "minari"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"telefabric.exchange.{form}", raising=False)
        with pytest.raises(EnvironmentProblem, match=f"this export needs: pip install .*{form}"):
            exported(form, tmp_path / form, store)
        assert not (tmp_path / form).exists()


def test_a_wrong_question_leaves_no_folder(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: CsvWriter, rows: list[StoredEvent]) -> None:
        self.folder.add("part.csv").write_text("")
        raise UsageError("name an agent")

    monkeypatch.setattr(CsvWriter, "add", refuse)
    with pytest.raises(UsageError, match="name an agent"):
        exported("csv", tmp_path / "out", store)
    assert not (tmp_path / "out").exists()


def test_two_exports_do_not_write_into_one_folder(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = CsvWriter.add

    def add_while_another_begins(self: CsvWriter, rows: list[StoredEvent]) -> None:
        monkeypatch.setattr(CsvWriter, "add", add)
        with pytest.raises(EnvironmentProblem, match="another process exports to"):
            exported("csv", tmp_path / "out", store)
        add(self, rows)

    monkeypatch.setattr(CsvWriter, "add", add_while_another_begins)
    exported("csv", tmp_path / "out", store)
