"""The benchmark of the client runs through two of its cases; what it measures on a small store means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from skips import requires
from slowness import patience

BENCH = Path(__file__).parent.parent / "scripts" / "bench_gui"
pytestmark = requires("PySide6 and pyqtgraph", find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None)
SMALL = (
    "--steps", "10_000", "--runs", "30", "--seconds", "1", "--moves", "1", "--display", "offscreen", "--json",
    "--shapes", "one",
)  # fmt: skip
LIMITS = {
    "first complete picture": {1_500.0}, "axes that moved afterwards": {0.0}, "from emit to paint, p50": {30.0},
    "from emit to paint, p99": {80.0},
}  # fmt: skip


def test_each_figure_has_its_limit_beside_it(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), *SMALL, "--stores", str(tmp_path), "--only", "first", "emit"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(120), check=False)
    assert done.returncode == 0, done.stderr
    assert "not in sight" not in done.stderr
    found: dict[str, set[float]] = {}
    for row in map(json.loads, done.stdout.splitlines()):
        figure = next((known for known in LIMITS if row["figure"].startswith(known)), None)
        if figure is not None:
            assert row["against"] == "limit"
            found.setdefault(figure, set()).add(row["against_value"])
    assert found == LIMITS
