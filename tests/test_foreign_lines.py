"""Lines of other programs: which event each is, under all the names that programs use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telefabric_schemas.events import Episode, Log, Metric, Reset, Step
from telefabric_workers.foreign.lines import KINDS, Line, Lines, Now, run_named_in, text_event
from telefabric_workers.foreign.tail import Tail

NOW = Now(1_796_000_000_000_000_000, 5_000_000_000_000)


def read(*objects: dict[str, Any]) -> list[Line]:
    lines = Lines("agent_0")
    return [lines.read(json.dumps(one).encode() + b"\n", NOW) for one in objects]


def event(**given: Any) -> Any:
    (line,) = read(given)
    assert not line.reason, line.reason
    (found,) = line.events
    return found


# -- kinds -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["type", "event", "event_type", "kind"])
def test_a_kind_is_named_by_any_of_four_keys(name: str) -> None:
    assert isinstance(event(**{name: "step", "episode": 0, "step": 0}), Step)


def test_the_step_of_a_spade_bdi_worker() -> None:
    found = event(
        type="step", run_id="r", agent_id="bdi_rl", episode_index=3, step_index=4, action_json="2",
        observation_json="[0.5, 1]", reward=1, terminated=True, truncated=False, policy_label="demo_policy",
        backend="demo", ts_unix_ns=NOW.time_ns - 7_000, render_hint_json='{"grid": 1}', q_before=0.25, epsilon=None,
    )  # fmt: skip
    assert (found.agent_id, found.episode_index, found.step_index, found.global_step) == ("bdi_rl", 3, 4, 0)
    assert (found.action, found.observation, found.reward) == (2, [0.5, 1], 1.0)
    assert (found.terminated, found.truncated, found.control_mode) == (True, False, "agent")
    assert (found.policy_label, found.backend, found.render_hint) == ("demo_policy", "demo", {"grid": 1})
    assert (found.time_ns, found.mono_ns) == (NOW.time_ns - 7_000, NOW.mono_ns - 7_000)
    assert found.info == {"q_before": 0.25}


def test_an_episode_has_what_its_metadata_say() -> None:
    told = {"seed": 42, "game_id": "Demo-v0", "control_mode": "hybrid", "policy_label": "p", "run_id": "r"}
    found = event(type="episode", episode=1, reward=2.5, steps=17, success=True, metadata_json=json.dumps(told))
    assert isinstance(found, Episode)
    assert (found.episode_index, found.total_reward, found.length) == (1, 2.5, 17)
    assert (found.seed, found.game_id, found.control_mode, found.policy_label) == (42, "Demo-v0", "hybrid", "p")
    assert found.metadata == {**told, "success": True}


def test_plain_values_and_json_in_a_text_are_the_same() -> None:
    for plain in (3, [1, [2]], {"a": None}, "left", False, 0):
        one, other = event(type="step", action=plain), event(type="step", action_json=json.dumps(plain))
        assert one.action == other.action == plain
    for text in ("no JSON", "\ud800", "9" * 5_000, "[" * 100_000):
        assert event(type="step", action_json=text).action == text


def test_a_reset_a_log_line_and_metrics() -> None:
    reset = event(event="reset", episode=2, observation=[1], info={"a": 1}, seed=7, options={"b": 2}, more=True)
    assert isinstance(reset, Reset)
    assert (reset.observation, reset.info, reset.seed, reset.options) == ([1], {"a": 1, "more": True}, 7, {"b": 2})
    said = event(type="log", msg="half way", levelname="WARN", name="x")
    assert isinstance(said, Log)
    assert (said.message, said.level, said.fields) == ("half way", "warning", {"name": "x"})
    one = event(type="metric", tag="loss", value="0.5", step=9, unit="nat")
    assert isinstance(one, Metric)
    assert (one.name, one.value, one.global_step, one.unit) == ("loss", 0.5, 9, "nat")
    (several,) = read({"type": "metric", "loss": 0.5, "lr": 1, "global_step": 3})
    assert [(one.name, one.value, one.global_step) for one in several.events] == [("loss", 0.5, 3), ("lr", 1.0, 3)]


def test_what_else_the_line_of_a_metric_has_is_a_log_event_beside_it() -> None:
    one, several = read(
        {"type": "metric", "name": "loss", "value": 1, "epoch": 3, "unit": "nat"},
        {"type": "metric", "loss": 0.5, "lr": 1, "phase": "eval", "ok": True},
    )
    for line, names, fields in (
        (one, ["loss"], {"epoch": 3}),
        (several, ["loss", "lr"], {"phase": "eval", "ok": True}),
    ):
        *metrics, said = line.events
        assert [metric.name for metric in metrics if isinstance(metric, Metric)] == names
        assert isinstance(said, Log)
        assert (said.level, said.message, said.logger, said.fields) == ("debug", ", ".join(names), "metric", fields)


def test_names_of_the_fabric_s_own_are_the_program_s_unless_the_line_was_dumped() -> None:
    own = {"id": "robot-7", "seq": 5, "event": "collision", "kind": "x", "worker_id": 3}
    assert event(type="step", run_id="r", **own).info == own
    dumped = {
        "id": 4,
        "kind": "step",
        "seq": 4,
        "stream_id": "7f",
        "mono_ns": 3,
        "worker_id": "w",
        "payload_version": 1,
    }
    assert event(**dumped).info is None


def test_two_values_of_one_name_are_both_kept() -> None:
    assert event(type="step", phase="a", info={"phase": "a", "x": 1}).info == {"phase": "a", "x": 1}
    assert event(type="step", phase="a", info={"phase": "b"}).info == {"phase": "a", "info": {"phase": "b"}}
    assert event(type="step", reward=1, payload={"reward": 2}).info == {"payload": {"reward": 2}}
    (begun, metric) = read(
        {"type": "run_started", "lr": 1, "metadata": {"lr": 2}}, {"type": "metric", "loss": 1, "metrics": {"loss": 2}}
    )
    assert begun.metadata == {"lr": 1, "metadata": {"lr": 2}}
    assert [getattr(one, "value", getattr(one, "fields", None)) for one in metric.events] == [
        1.0,
        {"metrics": {"loss": 2}},
    ]


def test_any_of_the_four_keys_that_names_a_kind_makes_an_event() -> None:
    found = event(event="user logged in", kind="log", level="info")
    assert isinstance(found, Log)
    assert found.fields == {"event": "user logged in"}


def test_a_byte_order_mark_before_an_object_is_skipped() -> None:
    mark = b"\xef\xbb\xbf"
    assert Lines("a").read(mark + b'{"type":"step","reward":NaN}\r\n', NOW).is_event
    assert run_named_in(mark + b'{"run_id":"r"}') == ("r", True)


def test_the_beginning_and_the_end_of_a_run() -> None:
    begun, step, episode, ended = read(
        {"type": "run_started", "run_id": "r", "config": {"env_id": "Lake", "lr": 0.1}, "ts": "2026-01-01T00:00:00Z"},
        {"type": "step"},
        {"type": "episode", "total_reward": 1},
        {"event": "run_failed", "timestamp": 1.8e9, "payload": {"error": "no data", "lost": 3}},
    )
    assert begun.metadata == {"config": {"env_id": "Lake", "lr": 0.1}, "game_id": "Lake"}
    assert isinstance(episode.events[0], Episode)
    assert (episode.events[0].game_id, episode.events[0].global_step) == ("Lake", 0)
    assert ended.ending == ("failed", "no data")
    assert ended.metadata == {"lost": 3}
    assert step.is_event
    assert ended.is_event


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({}, "completed"), ({"status": "succeeded"}, "completed"), ({"success": False}, "failed"),
        ({"outcome": "Canceled"}, "cancelled"), ({"state": "error"}, "failed"),
    ],
)  # fmt: skip
def test_outcomes_have_many_words(given: dict[str, Any], outcome: str) -> None:
    (line,) = read({"type": "run_completed", **given})
    assert line.ending is not None
    assert line.ending.outcome == outcome


def test_times_are_seconds_or_finer_units_or_texts() -> None:
    second = 1_790_000_000
    for written in (second, float(second), second * 1_000, second * 1_000_000, second * 1_000_000_000, str(second)):
        assert event(type="step", ts=written).time_ns == second * 1_000_000_000
    assert event(type="step", timestamp="2026-09-21T15:33:20+02:00").time_ns == 1_789_997_600_000_000_000
    for empty in (
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59",
    ):  # .NET's, Go's
        assert event(type="step", ts=empty).info == {"ts": empty}
    relative = event(type="step", ts=12.5)
    assert (relative.time_ns, relative.info) == (NOW.time_ns, {"ts": 12.5})


def test_steps_and_episodes_that_are_not_numbered_are_counted() -> None:
    done = {"type": "step", "done": True}
    found = read({"type": "reset"}, {"type": "step"}, done, {"type": "episode"}, {"type": "step"}, {"type": "reset"})
    places = [(one.events[0].episode_index, getattr(one.events[0], "step_index", None)) for one in found]  # type: ignore[attr-defined]
    assert places == [(0, None), (0, 0), (0, 1), (0, None), (1, 0), (2, None)]
    found = read(*({"type": "step", "agent": agent, "env_index": env} for agent in "ab" for env in (0, 1, 1)))
    numbers = [(one.agent_id, one.env_index, one.step_index, one.global_step) for line in found for one in line.events]  # type: ignore[attr-defined]
    assert numbers == [("a", 0, 0, 0), ("a", 1, 0, 1), ("a", 1, 1, 2), ("b", 0, 0, 0), ("b", 1, 0, 1), ("b", 1, 1, 2)]


# -- values ------------------------------------------------------------------------------------------------------
def test_nan_infinities_and_large_numbers_are_values() -> None:
    line = Lines("a").read(b'{"type":"step","reward":NaN,"action":[Infinity,123456789012345678901234567890]}', NOW)
    (found,) = line.events
    assert isinstance(found, Step)
    assert math.isnan(found.reward or 0)
    assert found.action == [math.inf, 123456789012345678901234567890]


def test_a_reward_that_is_null_is_unknown_and_one_that_is_not_named_is_zero() -> None:
    assert event(type="step", reward=None).reward is None  # as JavaScript writes NaN
    assert event(type="step").reward == 0.0
    assert event(type="step", reward_json="0.5").reward == 0.5


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"episode": "three"}, "step: episode_index is 'three' and should be a whole number from 0"),
        ({"step": -1}, "step: step_index is -1 and should be a whole number from 0"),
        ({"reward": [1]}, "step: reward is [1] and should be a number"),
        ({"terminated": "maybe"}, "step: terminated is 'maybe' and should be true or false"),
        ({"step": "9" * 5_000}, f"step: step_index is '{'9' * 79} and should be a whole number from 0"),
        ({"type": "metric", "loss": 10**80 * 10**400}, f"metric: loss is 1{'0' * 79} and should be a number"),
    ],
)
def test_a_value_that_cannot_be_is_named(given: dict[str, Any], reason: str) -> None:
    (line,) = read({"type": "step", **given})
    assert line.reason == reason
    assert not line.is_event


@pytest.mark.parametrize("line", [
    b"hello\n", b"\n", b"{not json}\n", b"[1,2]\n", b'{"type":"artifact","path":"x"}\n', b'{"type":7}\n',
    b'{"loss":1}\n', b"\xff\xfe\n", b'{"type":"st', b"{" * 200_000,
])  # fmt: skip
def test_any_other_line_is_text(line: bytes) -> None:
    found = Lines("a").read(line, NOW)
    assert not found.is_event
    assert not found.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"type": "step", "reward": nan}', "step: the line is not JSON: Expecting value: line 1 column 28 (char 27)"),
        (b"{'kind': 'episode'}", "episode: the line is not JSON: Expecting property name enclosed in double quotes"),
        (b'\xef\xbb\xbf{"type":"metric",}\r\n', "metric: the line is not JSON: Expecting property name"),
        (b'{"type":"step"', "step: the line is not JSON: Expecting ',' delimiter"),
        (b'{"type":"log"} {"type":"log"}', "log: the line is not JSON: Extra data"),
        (b'{"type":"step","action":' + b"9" * 5_000 + b"}", "step: the line is not JSON: Exceeds the limit (4300"),
        (b'{"type":"step","info":' + b'{"a":' * 200_000, "step: the line is not JSON: maximum recursion depth"),
        (b'{"type":"step","action":"\xff"}', "step: the line is not JSON: 'utf-8' codec can't decode byte 0xff"),
    ],
)  # fmt: skip
def test_a_line_that_was_to_be_an_event_and_is_not_json_has_a_reason(line: bytes, reason: str) -> None:
    found = Lines("a").read(line, NOW)
    assert not found.is_event
    assert found.reason.startswith(reason)


def test_the_text_of_a_line_is_what_a_terminal_shows_in_the_end() -> None:
    shown = text_event(b"10%\r20%\r100% \xff\r\n", 3, "", "a", NOW)
    assert shown is not None
    assert (shown.message, shown.fields, shown.logger) == ("100% \\xff", {"line": 3}, "stdout")
    assert text_event(b" \r\n", 4, "", "a", NOW) is None


_EXTREME = st.sampled_from([10**400, -(10**400), "9" * 5_000, "0001-01-01T00:00:00", "9999-12-31", "\ud800", 1e308])
_ONE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _EXTREME
_ANY = _ONE | st.lists(_ONE, max_size=2) | st.dictionaries(st.text(max_size=3), _ONE, max_size=2)
_NAMES = st.sampled_from(
    ["episode", "step", "reward", "ts", "ts_unix_ns", "info", "metadata_json", "agent_id", "terminated", "payload",
     "control_mode", "value", "name", "metrics", "seed", "status", "level", "message", "config", "env_index"]
)  # fmt: skip


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.dictionaries(_NAMES, _ANY, max_size=4)), max_size=3))
def test_whatever_a_line_holds_it_is_an_event_or_has_a_reason(given: list[tuple[str, dict[str, Any]]]) -> None:
    for line in read(*({"type": kind, **more} for kind, more in given)):
        assert line.is_event != bool(line.reason)


# -- files -------------------------------------------------------------------------------------------------------
def test_a_file_gives_complete_lines_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\r\n\ntw")
    tail = Tail(path)
    assert list(tail.lines()) == [b"one\r\n", b"\n"]
    assert tail.offset == 6
    with path.open("ab") as file:
        file.write(b"o\n" + b"x" * 3_000_000)
    assert list(tail.lines()) == [b"two\n"]
    assert not tail.is_cut()
    assert tail.last() == b"x" * 3_000_000
    path.write_bytes(b"1\n")
    assert tail.is_cut()
    path.rename(tmp_path / "log.1")
    assert not tail.is_replaced()
    path.write_bytes(b"new\n")
    assert tail.is_replaced()
    tail.close()
