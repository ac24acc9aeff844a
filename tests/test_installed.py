"""The wheel, installed: complete, and able to do the whole job. From the checkout only where modules lie differs."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
from importlib import resources
from pathlib import Path

import pytest
from processes import run
from slowness import patience

PACKAGES = ("telefabric", "telefabric_gui", "telefabric_schemas", "telefabric_workers")
EDITABLE = any(
    '"editable": true' in (found.read_text("direct_url.json") or "")
    for found in importlib.metadata.distributions(name="telefabric")
)

pytestmark = pytest.mark.installed


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_come_from_where_they_were_installed(package: str) -> None:
    file = Path(str(importlib.import_module(package).__file__))
    site = Path(sysconfig.get_path("purelib"))
    checkout = Path(__file__).parent.parent
    assert file.is_relative_to(checkout if EDITABLE else site), file


def test_vectors_schema_and_templates_are_in_the_package() -> None:
    schemas = resources.files("telefabric_schemas")
    vectors = {path.name for path in schemas.joinpath("vectors").iterdir()}
    assert len([name for name in vectors if name.endswith(".bin")]) > 20
    assert {name.removesuffix(".bin") for name in vectors if name.endswith(".bin")} == {
        name.removesuffix(".json") for name in vectors if name.endswith(".json")
    }
    assert json.loads(schemas.joinpath("json_schema", "events.json").read_text("utf-8"))
    assert "CREATE TABLE" in resources.files("telefabric.store.file").joinpath("schema.sql").read_text("utf-8")
    assert "[Service]" in resources.files("telefabric.service").joinpath("unit.service").read_text("utf-8")
    for package in PACKAGES:
        assert resources.files(package).joinpath("py.typed").is_file()


def test_the_command_is_on_the_path() -> None:
    command = Path(sysconfig.get_path("scripts")) / "telefabric"
    listed = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    points = importlib.metadata.entry_points(group="telefabric.commands")
    assert len(points) >= 8
    for point in points:
        assert f"  {point.name} " in listed.stdout


def test_the_demo_learns_and_stores_every_event(tmp_path: Path) -> None:
    """Each event once: the seqs that `dump` prints are those that were emitted."""
    ended = run("demo", "--headless", "--json", "--seed", "3", "--data", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["success_rate"] > 0.7
    assert (report["stored"], report["missing"], report["duplicated"]) == (report["emitted"], 0, 0)
    assert Path(report["store"]) == tmp_path / "telemetry.sqlite"
    dumped = run("dump", "--store", report["store"], "--run", report["run_id"])
    assert dumped.returncode == 0, dumped.stderr
    events = [json.loads(line) for line in dumped.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, report["emitted"] + 1))
    assert (events[0]["kind"], events[-1]["kind"], events[-1]["outcome"]) == (
        "run_started", "run_completed", "completed",
    )  # fmt: skip
    assert not list((tmp_path / "spool").iterdir())


def test_a_demo_of_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    returns = []
    for name in ("first", "second"):
        folder = tmp_path / name
        ended = run("demo", "--task", "cartpole", "--episodes", "20", "--headless", "--json", "--data", str(folder))
        assert ended.returncode == 0, ended.stderr
        dumped = run("dump", "--store", str(folder / "telemetry.sqlite"), "--kind", "episode")
        returns.append([json.loads(line)["total_reward"] for line in dumped.stdout.splitlines()])
    assert len(returns[0]) == 20
    assert returns[0] == returns[1]


def test_the_default_place_is_the_users_data_folder(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TELEFABRIC_")}
    ended = subprocess.run(
        [sys.executable, "-m", "telefabric.cli.main", "demo", "--episodes", "5", "--json"],
        capture_output=True, text=True, check=False, timeout=patience(60), env={**environment, **home}, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    store = Path(json.loads(ended.stdout.splitlines()[-1])["store"])
    assert store.is_relative_to(tmp_path)
    assert store.is_file()
