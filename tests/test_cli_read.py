"""`telefabric dump` and `telefabric tail`, as people and scripts run them."""

from __future__ import annotations

import base64
import importlib.util
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.msgpack import Ext
from processes import TELEFABRIC, broker, free_ports
from skips import requires
from slowness import patience
from store_fixtures import (
    TIME_NS,
    Scribe,
    episode,
    frame,
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

from telefabric.cli import read
from telefabric.cli.livetail import live_row
from telefabric.errors import Unreachable
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import Page, Question
from telefabric.store.read.reader import KINDS
from telefabric.subscribe import LiveEvent
from telefabric_schemas import TOPICS, events

WITHOUT_NUMPY = "import sys; sys.modules['numpy'] = None; from telefabric.cli.main import main; main()"


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TELEFABRIC, *map(str, arguments)],
        capture_output=True, encoding="utf-8", env=os.environ | (env or {}), timeout=patience(60), check=False,
    )  # fmt: skip


def dumped(*arguments: str | Path, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    done = run("dump", *arguments, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(code: int, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
    done = run(*arguments, env=env)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite"


INFO = stream("lake", "w1")
OTHER = stream("cart", "w2", "agent_9")


@pytest.fixture
def small(path: Path) -> Path:
    """Twelve events of two runs."""
    with Scribe(path) as scribe:
        scribe.put(INFO, run_started(1, INFO, {"game": "FrozenLake-v1"}, host="h"), step(2), step(3, terminated=True))
        scribe.put(OTHER, run_started(1, OTHER), step(2, "agent_9"))
        scribe.put(INFO, episode(4), metric(5), log(6, "hello"), frame(7))
        scribe.put(INFO, b"\xc1", first_seq=8)
        scribe.put_gap(INFO, 9, 40, "spool_full")
        scribe.put(INFO, run_completed(41, "failed", "out of memory"))
        scribe.commit()
    return path


# -- dump --------------------------------------------------------------------------------------------------------
def test_each_stored_event_is_one_object_in_order_with_the_names_of_its_fields(small: Path) -> None:
    found = dumped("--store", small)
    assert [one["id"] for one in found] == list(range(1, 13))
    kinds = ["run_started", "step", "step", "run_started", "step", "episode", "metric", "log", "frame"]
    assert [one["kind"] for one in found] == [*kinds, "quarantine", "gap", "run_completed"]
    for one in found:
        info = OTHER if one["id"] in (4, 5) else INFO
        head = (one["run_id"], one["worker_id"], one["stream_id"])
        assert head == (info.run_id, info.worker_id, info.stream.hex())
        if one["kind"] in TOPICS and one["kind"] != "gap":
            names = [field.encode_name for field in msgspec.structs.fields(TOPICS[one["kind"]].event_type)]
            assert set(one) == {"id", "kind", "run_id", "worker_id", "stream_id", *names}
    assert found[0]["metadata"] == {"game": "FrozenLake-v1"}
    assert (found[1]["action"], found[1]["reward"], found[1]["observation"], found[1]["payload_version"]) == (
        2, 0.5, None, 1,
    )  # fmt: skip
    assert found[8]["data"] == {"base64": base64.b64encode(b"\x89PNG").decode()}
    quarantine, gap = found[9], found[10]
    assert (quarantine["seq"], quarantine["last_seq"], quarantine["reason"]) == (8, 8, "undecodable")
    assert quarantine["detail"]
    assert quarantine["event"] == {"base64": base64.b64encode(b"\xc1").decode()}
    assert (gap["seq"], gap["last_seq"], gap["reason"], gap["time_ns"]) == (9, 40, "spool_full", TIME_NS)
    assert (found[11]["outcome"], found[11]["reason"]) == ("failed", "out of memory")


def test_filters_and_limits_choose_and_since_goes_on_from_the_last_id(small: Path) -> None:
    def ids(*arguments: str) -> list[int]:
        return [one["id"] for one in dumped("--store", small, *arguments)]

    assert ids("--run", "cart") == [4, 5]
    assert ids("--kind", "step", "--kind", "gap") == [2, 3, 5, 11]
    assert ids("--agent", "agent_9") == [4, 5]
    assert ids("--since", "10") == [11, 12]
    assert ids("--limit", "3") == [1, 2, 3]
    assert ids("--since", "3", "--run", "lake", "--limit", "2") == [6, 7]
    assert ids("--since", "12") == ids("--since", "1000") == []


def test_a_dump_over_the_network_is_that_of_the_file(small: Path) -> None:
    with query_behind_broker(small) as broker:
        assert dumped("--connect", broker.url) == dumped("--store", small)
        assert "there is no run 'nope'" in refused(1, "dump", "--connect", broker.url, "--run", "nope")


def big(dtype: str, *numbers: Any) -> np.ndarray[Any, Any]:
    return np.array(numbers, dtype)


STRUCTURED = np.array([(1, 2.0)], dtype=[("a", "<i2"), ("b", "<f8")])
VALUES: dict[str, tuple[Any, Any]] = {
    "array of floats": (
        np.array([[0.5, 1.0], [2.0, -3.0]], "<f4"),
        {"dtype": "<f4", "shape": [2, 2], "data": [[0.5, 1.0], [2.0, -3.0]]},
    ),
    "array of three dimensions": (
        np.arange(12, dtype=np.uint8).reshape(2, 3, 2),
        {"dtype": "|u1", "shape": [2, 3, 2], "data": np.arange(12).reshape(2, 3, 2).tolist()},
    ),
    "array of another byte order": (big(">i4", 1, -2), {"dtype": ">i4", "shape": [2], "data": [1, -2]}),
    "array of booleans": (big("?", 1, 0), {"dtype": "|b1", "shape": [2], "data": [True, False]}),
    "array of half floats": (big("<f2", 0.5), {"dtype": "<f2", "shape": [1], "data": [0.5]}),
    "array of no dimensions": (np.array(2.5), {"dtype": "<f8", "shape": [], "data": 2.5}),
    "array of nothing": (np.zeros((0, 3)), {"dtype": "<f8", "shape": [0, 3], "data": []}),
    "array of dates": (big("M8[s]", 5), {"dtype": "<M8[s]", "shape": [1], "data": [5]}),
    "complex": (np.array([1 + 2j]), {"dtype": "<c16", "shape": [1], "data": [[1.0, 2.0]]}),
    "array of text": (
        np.array([["ab", ""], ["é", "a"]]), {"dtype": "<U2", "shape": [2, 2], "data": [["ab", ""], ["é", "a"]]}
    ),
    "array of text of another byte order": (big(">U3", "abc"), {"dtype": ">U3", "shape": [1], "data": ["abc"]}),
    "array of no text": (np.array(""), {"dtype": "<U1", "shape": [], "data": ""}),
    "array of byte strings": (
        np.array([b"ab"]), {"dtype": "|S2", "shape": [1], "data": {"base64": base64.b64encode(b"ab").decode()}}
    ),
    "array of records": (
        STRUCTURED,
        {
            "dtype": [["a", "<i2"], ["b", "<f8"]], "shape": [1],
            "data": {"base64": base64.b64encode(struct.pack("<hd", 1, 2.0)).decode()},
        },
    ),
    "bytes": (b"\x00\xff", {"base64": "AP8="}),
    "nested": (
        {"a": [b"x", {"b": np.array([1])}]},
        {"a": [{"base64": "eA=="}, {"b": {"dtype": "<i8", "shape": [1], "data": [1]}}]},
    ),
    "not finite": ([math.inf, {"a": [-math.inf, math.nan]}, 1.5], ["Infinity", {"a": ["-Infinity", "NaN"]}, 1.5]),
    "array of what is not finite": (
        np.array([[math.nan, 1.0], [math.inf, -math.inf]]),
        {"dtype": "<f8", "shape": [2, 2], "data": [["NaN", 1.0], ["Infinity", "-Infinity"]]},
    ),
    "key that is not finite": ({math.inf: 1, 2.5: 2}, {"Infinity": 1, "2.5": 2}),
    "large integers": ([2**63, -(2**63), 2**64, -(10**300)], [2**63, -(2**63), 2**64, -(10**300)]),
    "integers beyond what a float holds": ([10**307, -(10**309)], [10**307, f"-1{'0' * 309}"]),
    "time": (datetime(2024, 5, 1, 12, 30, tzinfo=UTC), "2024-05-01T12:30:00+00:00"),
    "keys that are no strings": ({1: 2, None: 3, False: 4, 0.5: 5}, {"1": 2, "null": 3, "false": 4, "0.5": 5}),
    "keys of bytes and tuples": ({b"k": 1, (1, 2): {b"q": b""}}, {"aw==": 1, "(1, 2)": {"cQ==": {"base64": ""}}}),
    "text": ("é\u2028\x00\"\\ \U0001f600", "é\u2028\x00\"\\ \U0001f600"),
}  # fmt: skip

ODD: dict[str, bytes] = {
    "an extension of somebody else's": msgspec.msgpack.encode(Ext(42, b"hi")),
    "an array with too little data": msgspec.msgpack.encode(Ext(1, msgspec.msgpack.encode(["<f8", [3], b"x"]))),
    "an array of a negative shape": msgspec.msgpack.encode(
        Ext(1, msgspec.msgpack.encode(["<f8", [-1, -1], b"12345678"]))
    ),
    "an array of text beyond Unicode": msgspec.msgpack.encode(
        Ext(1, msgspec.msgpack.encode(["<U1", [1], b"\xff\xff\xff\x7f"]))
    ),
    "an array of an endless shape": msgspec.msgpack.encode(Ext(1, msgspec.msgpack.encode(["|u1", [2**62, 0], b""]))),
    "an array of no dtype": msgspec.msgpack.encode(Ext(1, msgspec.msgpack.encode([5, [1], b"x"]))),
    "an integer of ten thousand digits": msgspec.msgpack.encode(Ext(2, b"\x7f" + b"\xff" * 5_000)),
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "a map with a map as key": b"\x81\x81\x01\x02\x03",
    "a time beyond the calendar": b"\xc7\x0c\xff" + bytes(4) + (10**13).to_bytes(8, "big"),
}


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("special") / "telemetry.sqlite"
    with Scribe(path) as scribe:
        observations = [raw(value) for value, _ in VALUES.values()] + [msgspec.Raw(odd) for odd in ODD.values()]
        for seq, observation in enumerate(observations, 1):
            scribe.put(INFO, step(seq, observation=observation, info=raw({"still": "here"})))
        scribe.commit()
    return path


@pytest.fixture(scope="module")
def special_dump(special: Path) -> list[dict[str, Any]]:
    return dumped("--store", special)


@pytest.mark.parametrize("name", VALUES)
def test_values_have_the_json_form_that_the_help_promises(special_dump: list[dict[str, Any]], name: str) -> None:
    found = special_dump[list(VALUES).index(name)]
    assert found["observation"] == VALUES[name][1]


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_json_stays_as_bytes_and_the_rest_of_the_event_is_shown(
    special_dump: list[dict[str, Any]], name: str
) -> None:
    found = special_dump[len(VALUES) + list(ODD).index(name)]
    assert found["info"] == {"still": "here"}
    assert found["agent_id"] == "agent_0"
    assert "base64" in json.dumps(found["observation"]) or found["observation"]["data"] == []


def test_a_value_that_is_not_finite_is_a_text_or_if_asked_for_as_python_writes_it(path: Path) -> None:
    with Scribe(path) as scribe:
        scribe.put(INFO, step(1, observation=raw([math.nan, math.inf]), reward=None), step(2, reward=-math.inf))
        scribe.commit()
    lines = run("dump", "--store", path).stdout.splitlines()
    assert '"observation":["NaN","Infinity"]' in lines[0]
    assert '"reward":null' in lines[0]
    assert '"reward":"-Infinity"' in lines[1]
    literal = run("dump", "--store", path, "--nan", "literal").stdout.splitlines()
    assert '"observation":[NaN,Infinity]' in literal[0]
    assert '"reward":-Infinity' in literal[1]
    assert run("tail", "--no-follow", "--json", "--store", path).stdout.splitlines() == lines


COUNT_IN_NODE = """
const lines = require("fs").readFileSync(process.argv[1], "utf8").trimEnd().split("\\n").map(JSON.parse);
console.log(lines.length, lines.filter(line => line.kind === "step").length);
"""


@pytest.fixture(scope="module")
def lines_of_all_values(special: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = tmp_path_factory.mktemp("lines") / "dump.jsonl"
    lines.write_text(run("dump", "--store", special).stdout, "utf-8")
    return lines


@requires("node", shutil.which("node"))
def test_javascript_reads_every_line(lines_of_all_values: Path) -> None:
    counted = subprocess.check_output(["node", "-e", COUNT_IN_NODE, str(lines_of_all_values)], encoding="utf-8")
    assert counted.split() == [str(len(VALUES) + len(ODD))] * 2


@requires("jq", shutil.which("jq"))
def test_jq_reads_every_line(lines_of_all_values: Path) -> None:
    kinds = subprocess.check_output(["jq", "-r", ".kind", str(lines_of_all_values)], encoding="utf-8")
    assert kinds.split() == ["step"] * (len(VALUES) + len(ODD))


@requires("duckdb", importlib.util.find_spec("duckdb"))
def test_duckdb_reads_every_line(lines_of_all_values: Path) -> None:
    import duckdb

    count, rewards = duckdb.sql(f"SELECT count(*), sum(reward) FROM read_ndjson('{lines_of_all_values}')").fetchall()[0]
    assert (count, rewards) == (len(VALUES) + len(ODD), 0.5 * (len(VALUES) + len(ODD)))


def test_it_works_the_same_without_numpy(special: Path) -> None:
    plain = run("dump", "--store", special)
    without = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMPY, "dump", "--store", str(special)], capture_output=True, check=False
    )
    assert (without.returncode, without.stderr) == (0, b"")
    assert without.stdout.decode() == plain.stdout


def test_fields_of_a_newer_version_are_shown_and_missing_ones_filled_in(path: Path) -> None:
    newer = [*msgspec.msgpack.decode(msgspec.msgpack.encode(metric(1))), "later", 7]
    older = ["episode", 2, "agent_0", 0, 1, 5.0, 10, 20, TIME_NS, 1]
    with Scribe(path) as scribe:
        scribe.put(INFO, msgspec.msgpack.encode(newer), msgspec.msgpack.encode(older), first_seq=1)
        scribe.commit()
    one, two = dumped("--store", path)
    assert (one["name"], one["unknown_fields"]) == ("loss", ["later", 7])
    assert (two["total_reward"], two["end_reason"], two["metadata"], two["payload_version"]) == (5.0, None, None, 1)


def test_what_is_stored_while_it_runs_is_left_for_the_next_time(path: Path) -> None:
    with Scribe(path) as scribe:
        scribe.put(INFO, *(step(seq, observation=raw("x" * 2_000)) for seq in range(1, 4_001)))
        scribe.commit()
        process = subprocess.Popen(
            [*TELEFABRIC, "dump", "--store", str(path)], stdout=subprocess.PIPE, encoding="utf-8", bufsize=1
        )
        with process:
            assert process.stdout is not None
            first = process.stdout.readline()
            scribe.put(INFO, *(step(seq) for seq in range(4_001, 6_001)))  # it has not got further than its pipe
            scribe.commit()
            rest = process.stdout.readlines()
    assert [json.loads(line)["id"] for line in (first, *rest)] == list(range(1, 4_001))


def test_a_reader_that_goes_away_ends_it_quietly(path: Path) -> None:
    with Scribe(path) as scribe:
        scribe.put(INFO, *(step(seq, observation=raw("x" * 2_000)) for seq in range(1, 3_001)))
        scribe.commit()
    for command in (["dump"], ["tail", "-n", "2000", "--json"]):
        process = subprocess.Popen(
            [*TELEFABRIC, *command, "--store", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["kind"] == "step"
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(patience(30)) == 0


@requires("/dev/full", Path("/dev/full").exists())
@pytest.mark.parametrize("rows", [1, 300])
def test_a_full_disk_behind_standard_output_is_one_sentence(path: Path, tmp_path: Path, rows: int) -> None:
    with Scribe(path) as scribe:
        scribe.put(INFO, *(step(seq, observation=raw("x" * 20_000)) for seq in range(1, rows + 1)))
        scribe.commit()
    port = free_ports()
    url = f"tcp://127.0.0.1:{port}"
    commands = [
        ["dump", "--store", path], ["dump", "--store", path, "--run", "lake"], ["store", "verify", "--store", path],
        ["tail", "--no-follow", "--store", path], ["tail", "--no-follow", "--json", "--store", path], ["--help"],
        ["status", "--connect", url], ["status", "--json", "--connect", url], ["dump", "--help"],
        ["spool", "drain", "--json", "--connect", url, "--spool", tmp_path / "spool"],
    ]  # fmt: skip
    with broker(port), ThreadPoolExecutor(3) as pool:
        for command, (code, said) in zip(commands, pool.map(into_full_disk, commands), strict=True):
            assert code == 1, (command, said)
            assert said == ("telefabric: the output cannot be written: No space left on device: send it elsewhere\n"), (
                command
            )


def into_full_disk(command: Sequence[str | Path]) -> tuple[int, str]:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*TELEFABRIC, *map(str, command)],
            stdout=full, stderr=subprocess.PIPE, encoding="utf-8", timeout=patience(60), check=False,
        )  # fmt: skip
    return done.returncode, done.stderr


# -- where from --------------------------------------------------------------------------------------------------
def test_it_reads_what_was_named_most_plainly(small: Path, tmp_path: Path) -> None:
    folder = {"TELEFABRIC_DATA": str(small.parent)}
    nowhere = {"TELEFABRIC_CONNECT": f"tcp://127.0.0.1:{free_ports()}"}
    empty = {"TELEFABRIC_DATA": str(tmp_path / "none")}
    assert len(dumped(env=folder)) == 12
    assert len(dumped("--store", small.parent)) == 12
    assert len(dumped("--store", small, env=nowhere | empty)) == 12
    assert len(dumped(env=folder | nowhere)) == 12  # the folder is named, and has a store
    with query_behind_broker(small) as broker:
        assert len(dumped(env={"TELEFABRIC_CONNECT": broker.url} | empty)) == 12
        assert len(dumped(env={"TELEFABRIC_CONNECT": broker.url, "XDG_DATA_HOME": str(tmp_path)})) == 12


def test_each_mistake_is_one_sentence_with_its_exit_code(small: Path, tmp_path: Path) -> None:
    nowhere = f"tcp://127.0.0.1:{free_ports()}"
    assert refused(1, "dump", "--store", small, "--run", "nope") == (
        f"telefabric: there is no run 'nope' in {small}: the newest are lake, cart\n"
    )
    assert "there is no run 'nope' in" in refused(1, "tail", "--store", small, "--run", "nope", "--no-follow")
    for command in (["dump"], ["tail", "--no-follow"]):
        assert refused(1, *command, "--store", small, "--agent", "nobody").startswith(
            f"telefabric: there is no agent 'nobody' in {small}: its newest runs have "
        )
        said = refused(1, *command, "--store", small, "--run", "lake", "--agent", "nobody")
        assert said.startswith(f"telefabric: there is no agent 'nobody' in run 'lake' of {small}: it has ")
    assert refused(2, "export", "mp4", "x.mp4", "--run", "lake", "--episodes", "1") == (
        "telefabric: No such option '--episodes'. Did you mean '--episode'? See telefabric export mp4 --help\n"
    )
    assert "there is no store at" in refused(1, "dump", "--store", tmp_path / "no.sqlite")
    assert f"nobody answers at {nowhere}" in refused(1, "dump", "--connect", nowhere)
    assert "give one of them" in refused(2, "dump", "--store", small, "--connect", nowhere)
    assert "an address such as tcp://" in refused(2, "dump", "--connect", "host")
    assert "'dance' is not" in refused(2, "dump", "--store", small, "--kind", "dance")
    assert "0 is not in the range" in refused(2, "dump", "--store", small, "--limit", "0")
    assert "two forms" in refused(2, "tail", "--store", small, "--json", "--raw")


@pytest.mark.parametrize("command", ["dump", "tail"])
def test_help_has_an_example(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"telefabric {command} --run frozenlake-q" in done.stdout


# -- tail --------------------------------------------------------------------------------------------------------
def test_tail_shows_the_last_events_one_line_each(small: Path) -> None:
    done = run("tail", "--store", small, "--no-follow", "-n", "11")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    moment = datetime.fromtimestamp(TIME_NS // 10**9).strftime("%H:%M:%S.123")
    assert [line.split()[:2] for line in lines[:4]] == [[moment, run_id] for run_id in ("lake", "lake", "cart", "cart")]
    assert [" ".join(line.split()[3:]) for line in lines[:4]] == [
        "step episode 0 step 2 reward 0.5 action 2",
        "step episode 0 step 3 reward 0.5 action 3 terminated",
        "run_started worker w2 null",
        "step episode 0 step 2 reward 0.5 action 2",
    ]
    assert [" ".join(line.split()[2:]) for line in lines[4:8]] == [
        "agent_0 episode episode 0 return 5 length 10",
        "agent_0 metric loss 0.25 at step 5",
        "agent_0 log INFO hello",
        "agent_0 frame episode 0 step 7 4x2 png 4 bytes",
    ]
    assert "quarantine" in lines[8]
    assert "seq 8 undecodable: " in lines[8]
    assert lines[9].endswith("gap           seq 9 to 40 spool_full")
    assert lines[10].endswith("run_completed failed out of memory")
    assert "\x1b" not in done.stdout


def test_tail_shows_resets_and_voided_episodes(path: Path) -> None:
    with Scribe(path) as scribe:
        first = events.Reset(
            1, "agent_0", 0, 3, TIME_NS, 0, observation=msgspec.Raw(msgspec.msgpack.encode([0, 1])),
            seed=msgspec.Raw(msgspec.msgpack.encode(7)),
        )  # fmt: skip
        scribe.put(INFO, first, reset(2), void(3, 3, reason="undone"))
        scribe.commit()
    lines = run("tail", "--store", path, "--no-follow").stdout.splitlines()
    assert [" ".join(line.split()[3:]) for line in lines] == [
        "reset episode 3 seed 7 observation [0, 1]",
        "reset episode 0 observation null",
        "episode_voided episode 3 undone",
    ]
    assert set(read._COLOURS) == {*KINDS}


def test_a_gap_of_the_live_path_has_its_range_and_reason() -> None:
    gap = events.Gap(3, 9, "spool_full", 10**18)
    event = LiveEvent(bytes(16), "gap", gap, b"", live_only=False, recent=False)
    line = read.human_line(live_row(event, event.stream, "run", "worker", "agent"))
    assert line.endswith(b" seq 3 to 9 spool_full\n")


def test_tail_as_json_is_what_dump_writes_and_raw_is_what_was_sent(small: Path) -> None:
    lines = run("tail", "--store", small, "--no-follow", "--json", "-n", "5").stdout.splitlines()
    assert [json.loads(line) for line in lines] == dumped("--store", small)[-5:]
    raw_lines = run("tail", "--store", small, "--no-follow", "--raw", "--since", "6").stdout.splitlines()
    assert json.loads(raw_lines[0])[:4] == ["metric", 5, "loss", 0.25]
    assert json.loads(raw_lines[3])["base64"] == "wQ=="
    assert len(raw_lines) == 6


def test_tail_survives_whatever_is_in_an_event(special: Path) -> None:
    for form in ([], ["--raw"], ["--json"]):
        done = run("tail", "--store", special, "--no-follow", "-n", "2000", *form)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.split("\n")) == len(VALUES) + len(ODD) + 1


def test_tail_does_not_let_an_event_steer_the_terminal(path: Path) -> None:
    info = stream("\x1b[2Jrun\n")
    with Scribe(path) as scribe:
        scribe.put(info, log(1, "one\ntwo \x1b]0;title\x07"), step(2, time_ns=-5), step(3, time_ns=2**63 - 1))
        scribe.commit()
    done = run("tail", "--store", path, "--no-follow")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 3
    assert not any(each in done.stdout for each in "\x1b\x07")


@pytest.fixture
def tailing() -> Iterator[Any]:
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [*TELEFABRIC, "tail", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", bufsize=1)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("over", ["file", "network"])
def test_tail_follows_until_interrupted(path: Path, tailing: Any, over: str) -> None:
    with Scribe(path) as scribe:
        scribe.put(INFO, *map(step, range(1, 21)))
        scribe.commit()
        if over == "file":
            follow(scribe, tailing("--store", path, "--run", "lake", "-n", "2", "--json"))
        else:
            with query_behind_broker(path) as broker:
                follow(scribe, tailing("--connect", broker.url, "--run", "lake", "-n", "2", "--json"))


def follow(scribe: Scribe, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    assert [json.loads(process.stdout.readline())["seq"] for _ in range(2)] == [19, 20]
    for seq in (21, 22):
        scribe.put(INFO, step(seq))
        scribe.put(OTHER, step(seq))
        scribe.commit()
        found = json.loads(process.stdout.readline())
        assert (found["run_id"], found["seq"]) == ("lake", seq)
    process.send_signal(signal.SIGINT)
    assert process.wait(patience(10)) == 130
    assert process.stdout.read() == ""
    assert process.stderr.read().strip() in ("", "Aborted!")


def test_tail_waits_for_a_run_that_has_not_begun(path: Path, tailing: Any) -> None:
    with Scribe(path) as scribe:
        scribe.put(OTHER, step(1))
        scribe.commit()
        process = tailing("--store", path, "--run", "lake", "--json")
        scribe.put(INFO, step(1))
        scribe.commit()
        assert json.loads(process.stdout.readline())["run_id"] == "lake"


class Absent(FileReader):
    """A reader of which one does not hear for a while."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(path)
        self.left = times

    def answer(self, question: Question[Any]) -> Page[Any]:
        self.left -= 1
        if self.left >= 0:
            raise Unreachable("nobody answers at tcp://host:7750")
        return super().answer(question)


def test_tail_waits_for_a_broker_that_went_away_and_says_so_once(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(read, "_RETRY_S", 0.0)
    with Absent(small, 3) as reader:
        assert [event.id for event in read.next_page(reader, 10, read.Wanted(), patient=True).rows] == [11, 12]
        assert capsys.readouterr().err == "telefabric: nobody answers at tcp://host:7750 (waiting for it)\n"
        reader.left = 1
        with pytest.raises(Unreachable):
            read.next_page(reader, 10, read.Wanted(), patient=False)
