"""The bench beside peers runs in its short form, with those that are installed; what it measures then means nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from skips import requires
from slowness import patience

PROJECT = Path(__file__).parent.parent
BENCH = PROJECT / "scripts" / "bench_beside"
measures = requires("apsw and numpy", find_spec("apsw") is not None and find_spec("numpy") is not None)
HERE = {"bare loop", "JSON lines, flushed", "MCAP, flushed", "MCAP, chunks", "tensorboardX"}
LOST = "steps lost by kill -9"
ELSEWHERE = {"W&B offline": "wandb", "trackio": "trackio", "Rerun": "rerun", "iceoryx2": "iceoryx2"}
"""Peers that tests need not have, and the modules that show whether they are there."""


def bench(*options: str, exit_code: int = 0, **variables: str) -> tuple[list[dict[str, object]], str]:
    """The figures, and what is said beside them."""
    command = [sys.executable, str(BENCH), "--seconds", "2", "--json", *options]
    environ = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(110), check=False, env=environ)
    assert done.returncode == exit_code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@measures
@pytest.mark.timeout(600)
def test_a_training_step_is_recorded_by_each_way_that_is_installed() -> None:
    rows, said = bench("--only", "step")
    for name, module in ELSEWHERE.items():
        if name != "iceoryx2":
            assert (f"not installed: {name} (--install, or: " in said) == (find_spec(module) is None)
    present = HERE | {name for name, module in ELSEWHERE.items() if name != "iceoryx2" and find_spec(module)}
    by_figure: dict[object, dict[object, dict[str, object]]] = {}
    for row in rows:
        by_figure.setdefault(row["figure"], {})[row["against"]] = row
    manners = ("back to back", "1,000 steps/s")
    calls = {f"step {figure}, {manner}" for figure in ("p50", "p99", "CPU") for manner in manners}
    assert by_figure.keys() == calls | {"step on disk", LOST}
    for figure, rows_of in by_figure.items():
        assert rows_of.keys() == (present if figure in calls else present - {"bare loop"})
    lost = by_figure[LOST]
    assert {row["value"] for row in lost.values()} == {0}, "what emit has returned for survives a kill"
    assert lost["JSON lines, flushed"]["against_value"] == 0
    assert lost["MCAP, flushed"]["against_value"] == 0
    assert lost["MCAP, chunks"]["against_value"] >= 200, "no chunk was full"  # type: ignore[operator]


@measures
@pytest.mark.timeout(600)
def test_a_peer_that_fails_is_named_and_the_others_are_measured(tmp_path: Path) -> None:
    (tmp_path / "tensorboardX.py").write_text("raise RuntimeError('of another Python')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    rows, said = bench("--only", "step", exit_code=1, PYTHONPATH=path)
    assert "failed: tensorboardX: Failed: RuntimeError: of another Python" in said
    assert said.count("failed: ") == 1
    assert HERE - {"tensorboardX"} <= {row["against"] for row in rows}
    assert "tensorboardX" not in {row["against"] for row in rows}


@measures
@pytest.mark.timeout(600)
def test_events_rows_and_frames_have_their_peers() -> None:
    rows, said = bench("--only", "live", "row", "frame")
    frames = {"ZMQ ipc", "iceoryx2"} if find_spec("iceoryx2") else {"ZMQ ipc"}
    assert ("not installed: iceoryx2" in said) == ("iceoryx2" not in frames)
    assert {(row["figure"], row["against"]) for row in rows if row["against"]} == {
        *((f"live {share}, 1000 events/s, sleeping producer", "bare PUB-loop-SUB") for share in ("p50", "p99")),
        ("worker to committed row", "apsw.executemany"),
        *(
            (f"frame 84x84, {figure}", peer)
            for figure in ("write", "deliver", "latency p50", "latency p99")
            for peer in frames
        ),
    }


def test_each_command_of_the_page_is_one_that_its_script_takes() -> None:
    page = (PROJECT / "docs" / "performance.md").read_text()
    commands = re.findall(r"^\$ scripts/(\w+)(.*)$", page, re.M) + re.findall(r"`scripts/(\w+)([^`]*)`", page)
    assert len(commands) > 10
    for script, options in commands:
        source = (PROJECT / "scripts" / script).read_text()
        for option in re.findall(r"--[\w-]+", options):
            assert f'"{option}"' in source, f"scripts/{script} has no {option}"
