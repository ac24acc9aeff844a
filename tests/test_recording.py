"""A run in Python: events one by one and columns, from a file or through a broker, lazily and by range."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from store_fixtures import (
    Scribe,
    episode,
    frame,
    log,
    metric,
    query_behind_broker,
    raw,
    reset,
    run_started,
    step,
    stream,
    void,
)

from telefabric import EnvironmentProblem, Reader, StoreError, UsageError, limits, open_store
from telefabric.store.file.database import FILE_NAME
from telefabric_schemas import Episode, Frame, Log, Metric, Reset, Step
from telefabric_schemas.events import Event

NOTEBOOK = Path(__file__).parent.parent / "docs" / "returns.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two attempts at a run, of which the second began again at episode 5; two environments of another agent."""
    folder = tmp_path_factory.mktemp("store")
    with Scribe(folder / FILE_NAME) as scribe:
        first, second = stream("run"), stream("run", worker="again", after_ns=10**12)
        picture = raw(np.arange(6, dtype=np.uint8).reshape(2, 3))
        scribe.put(first, run_started(1, first, {"seed": 3}), reset(2, seed=raw(3), observation=picture))
        scribe.put(first, *(
            step(seq, episode_index=(seq - 3) // 10, step_index=(seq - 3) % 10, global_step=seq - 3, reward=1.0 * seq,
                 observation=picture, info=raw({"x": seq, "text": "a"}))
            for seq in range(3, 83)
        ))  # fmt: skip
        scribe.put(first, *(episode(83 + n, episode_index=n, total_reward=float(n)) for n in range(8)))
        scribe.put(first, void(91, 2), *(metric(92 + n, "loss" if n % 2 else "lr", float(n)) for n in range(10)))
        scribe.put(first, log(102), frame(103, "f1"), metric(104, "loss", None))
        scribe.rows.lost.append(first.stream)
        scribe.commit()
        scribe.put(second, run_started(1, second), *(
            step(seq, episode_index=5 + (seq - 2) // 10, step_index=(seq - 2) % 10, global_step=48 + seq, reward=-1.0)
            for seq in range(2, 42)
        ))  # fmt: skip
        scribe.put(second, *(episode(42 + n, episode_index=5 + n, total_reward=-1.0) for n in range(4)))
        scribe.put(second, *(
            step(46 + n, "vector", env_index=n % 2, episode_index=n // 20 * (1 + n % 2), global_step=n)
            for n in range(2_400)
        ))  # fmt: skip
        scribe.commit()
        big = stream("big")
        scribe.put(big, run_started(1, big), *(step(2 + n, global_step=n, reward=float(n)) for n in range(5_000)))
        scribe.commit()
    return folder


@pytest.fixture(params=["file", "broker"], scope="module")
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[Reader]:
    if request.param == "file":
        with open_store(folder) as reader:
            yield reader
        return
    with query_behind_broker(folder / FILE_NAME) as address, open_store(address.url) as reader:
        yield reader


def test_runs_are_found_by_name_and_in_order(store: Reader) -> None:
    assert [run.run_id for run in store] == ["run", "big"]
    assert store["run"].metadata == {"seed": 3}
    assert (store["run"].info.attempts, store["run"].info.status) == (2, "running")
    with pytest.raises(StoreError, match="there is no run 'other' in"):
        store["other"]


def test_events_come_decoded_and_each_place_once(store: Reader) -> None:
    steps = list(store["run"].steps(agent="agent_0"))
    numbers = [(one.episode_index, one.step_index) for one in steps]
    assert numbers == [(n, at) for n in (0, 1, 3, 4, *range(5, 9)) for at in range(10)], "2 is voided, 5 to 7 are newer"
    assert [one.reward for one in steps[-40:]] == [-1.0] * 40
    assert np.array_equal(steps[0].observation, np.arange(6).reshape(2, 3))
    assert steps[0].info == {"x": 3, "text": "a"}
    (begun,) = store["run"].resets()
    assert begun.seed == 3
    assert [one.total_reward for one in store["run"].episodes()] == [0.0, 1.0, 3.0, 4.0, -1.0, -1.0, -1.0, -1.0]
    assert len(list(store["run"].episodes(voided=True))) == 9
    assert [one.message for one in store["run"].logs()] == ["hello"]
    assert [one.data for one in store["run"].frames()] == [b"\x89PNG"]


def test_columns_have_the_types_of_their_values(store: Reader) -> None:
    found = store["run"].steps(agent="agent_0", episodes=slice(0, 1)).columns()
    assert {name: column.dtype.kind for name, column in found.items() if name in ("seq", "reward", "terminated")} == {
        "seq": "i", "reward": "f", "terminated": "b",
    }  # fmt: skip
    assert found["observation"].shape == (10, 2, 3)
    assert found["observation"].dtype == np.uint8
    assert found["time_ns"].dtype == np.int64
    assert found["agent_id"].tolist() == ["agent_0"] * 10
    numbers = store["run"].steps(agent="agent_0", episodes=slice(0, 1)).columns("seq", "reward", "terminated", "info/x")
    for name in ("seq", "reward", "terminated"):
        assert numbers[name].dtype == found[name].dtype
        assert np.array_equal(numbers[name], found[name])
    assert numbers["info/x"].tolist() == list(range(3, 13))
    loss = store["run"].metrics("loss").columns("value", "global_step")
    assert np.array_equal(loss["value"], [1.0, 3.0, 5.0, 7.0, 9.0, np.nan], equal_nan=True)
    assert store["run"].metrics().columns("name")["name"].tolist() == ["lr", "loss"] * 5 + ["loss"]
    assert {name: len(column) for name, column in store["big"].frames().columns().items()}["data"] == 0
    with pytest.raises(UsageError, match="a step has no 'rewards'; it has: seq, agent_id"):
        store["run"].steps().columns("reward", "rewards", "action")


_OF_KINDS: dict[str, type[Event]] = {
    "steps": Step, "episodes": Episode, "resets": Reset, "frames": Frame, "metrics": Metric, "logs": Log,
}  # fmt: skip


@pytest.mark.parametrize("kind", _OF_KINDS)
def test_columns_of_numbers_have_their_type_also_when_nothing_fits(store: Reader, kind: str) -> None:
    found = getattr(store["run"], kind)(agent="nobody").columns()
    hints = get_type_hints(_OF_KINDS[kind])
    for name, column in found.items():
        types = set(get_args(hints[name]) or [hints[name]]) - {type(None)}
        expected = "i" if types == {int} else "f" if types == {float} else "b" if types == {bool} else "O"
        assert (column.dtype.kind, len(column)) == (expected, 0), name


def test_columns_of_one_selection_have_one_type(store: Reader) -> None:
    run = store["run"]
    assert run.metrics("nope").columns("value")["value"].dtype == np.float64
    assert run.steps(agent="nobody").columns("reward", "info/x", "action")["info/x"].dtype == np.float64
    none = run.metrics("loss", steps=slice(0, 0)).columns("value", "name")
    assert (none["value"].dtype, none["name"].dtype) == (np.float64, object)
    with_events = run.episodes(agent="agent_0").columns("length", "seed")["length"]
    assert with_events.dtype == run.episodes(agent="agent_0").columns("length")["length"].dtype


def test_one_number_is_a_range_and_what_is_none_is_one_sentence(store: Reader) -> None:
    run = store["run"]
    assert [one.total_reward for one in run.episodes(agent="agent_0", episodes=3)] == [3.0]
    assert run.steps(agent="vector", steps=np.int64(7)).columns("global_step")["global_step"].tolist() == [7]
    for wrong in ("3", 1.5, (1, 2), -1, slice("a"), slice(0, 9, 2)):
        with pytest.raises(
            UsageError, match=r"^episodes=.* is no number and no range of numbers from 0 on: give 3, or"
        ):
            run.episodes(episodes=wrong)
    with pytest.raises(UsageError, match=r"^env=slice\(0, 2, None\) is no number"):
        run.steps(env=slice(0, 2))  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=r"^episode= narrows nothing: give one of agent, env, episodes, steps, voided$"
    ):
        run.steps(episode=3)  # type: ignore[call-arg]


def test_ranges_take_what_a_look_at_everything_takes(store: Reader) -> None:
    whole = store["run"].steps(agent="vector").columns("env_index", "episode_index", "global_step")
    every = list(zip(*(column.tolist() for column in whole.values()), strict=True))
    for env in (None, 0, 1):
        for first, end in ((0, 0), (0, 1), (3, 5), (100, 200), (119, None), (500, 600)):
            wanted = [
                row for row in every
                if (env is None or row[0] == env) and first <= row[1] and (end is None or row[1] < end)
            ]  # fmt: skip
            found = store["run"].steps(agent="vector", env=env, episodes=slice(first, end))
            assert [(one.env_index, one.episode_index, one.global_step) for one in found] == wanted
            columns = found.columns("env_index", "episode_index", "global_step").values()
            assert list(zip(*(column.tolist() for column in columns), strict=True)) == wanted
    for first, end in ((0, 10), (1_023, 1_025), (2_390, None), (5_000, 5_001)):
        columns = store["run"].steps(agent="vector", steps=slice(first, end)).columns("global_step")
        assert columns["global_step"].tolist() == list(range(first, min(end or 2_400, 2_400)))
    with pytest.raises(UsageError, match="no range of numbers from 0 on"):
        store["run"].steps(episodes=slice(-3, None))
    for kind, name in (("metrics", "env"), ("logs", "steps"), ("resets", "steps")):
        with pytest.raises(UsageError, match=f"has no {name}: leave {name}= out"):
            getattr(store["run"], kind)(**{name: slice(1, 2)})


def test_nothing_is_read_before_it_is_wanted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUERY_NUMBERS_MAX", 1_000)
    with open_store(folder) as reader:
        asked: list[str] = []
        answer = reader.answer
        monkeypatch.setattr(
            reader, "answer", lambda question: (asked.append(question.name_on_wire), answer(question))[1]
        )
        steps = reader["big"].steps()
        assert asked == ["runs"]
        assert next(iter(steps)).global_step == 0
        assert (asked.count("columns"), asked.count("rows_at")) == (1, 1)
        asked.clear()
        assert [len(chunk["reward"]) for chunk in steps.chunks("reward")] == [1_000] * 5
        assert asked.count("columns") == 5
        asked.clear()
        assert reader["big"].steps(steps=slice(3_000, 3_010)).columns("reward")["reward"].tolist() == list(
            range(3_000, 3_010)
        )
        assert (asked.count("columns"), asked.count("row_of")) == (2, 1)


@contextmanager
def _lacking(package: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, package, None)
        yield


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_tables_of_other_libraries_have_the_same_values_or_name_what_to_install(
    folder: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("global_step", "reward", "observation", "info")
    with open_store(folder) as reader:
        steps = reader["run"].steps(agent="agent_0", episodes=slice(0, 2))
        make = {"pandas": steps.pandas, "polars": steps.polars, "pyarrow": steps.arrow}[package]
        with _lacking(package, monkeypatch), pytest.raises(EnvironmentProblem, match=f"pip install {package}"):
            make(*names)
        library = _Library()
        monkeypatch.setitem(sys.modules, package, library)  # type: ignore[arg-type]  # takes what the real ones take
        make(*names)
    assert library.taken["reward"].tolist() == [float(seq) for seq in range(3, 23)]
    assert library.taken["observation"][0] == [[0, 1, 2], [3, 4, 5]]
    assert json.loads(library.taken["info"][0]) == {"x": 3, "text": "a"}


class _Library:
    """Takes the columns that a library of tables is given."""

    taken: dict[str, Any]

    def DataFrame(self, columns: dict[str, Any]) -> None:
        self.taken = columns

    table = DataFrame


def test_the_notebook_draws_the_mean_of_an_experiment_with_a_band_over_its_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(1)
    with Scribe(tmp_path / FILE_NAME) as scribe:
        for seed in range(3):
            info = stream(f"seed{seed}", metadata=bytes(raw({"game_id": "Maze", "algorithm": "ppo", "seed": seed})))
            ends = np.cumsum(chance.integers(5, 20, 300)).tolist()
            scribe.put(info, run_started(1, info), *(
                episode(2 + n, episode_index=n, total_reward=float(n + seed), global_step=end)
                for n, end in enumerate(ends)
            ))  # fmt: skip
        short = stream("too short")
        scribe.put(short, run_started(1, short), episode(2))
        scribe.commit()
    monkeypatch.setenv("TELEFABRIC_NOTEBOOK_STORE", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    ((experiment, (points, seeds)),) = names["bands"].items()
    assert (experiment, seeds.shape) == ("Maze, ppo", (3, 200))
    assert (np.diff(points) > 0).all()
    assert seeds[:, 0] == pytest.approx([49.5, 50.5, 51.5], abs=8)
    (band,) = names["axes"].collections
    low, high = band.get_datalim(names["axes"].transData).intervaly
    assert (low, high) == pytest.approx((seeds.min(), seeds.max()))
    names["plt"].close(names["figure"])
