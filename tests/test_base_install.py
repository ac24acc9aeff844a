"""What a worker machine gets: a small install, a quick import, and none of the heavy packages."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from slowness import patience

pytestmark = pytest.mark.alone
PROJECT = Path(__file__).parent.parent
INSTALL_BYTES_MAX = 20_000_000
IMPORT_MS_MAX = 80
IMPORT_OF_ASYNCIO_MAX = 1.3
"""On a slow or busy machine ours may take so many times what asyncio takes in the same run; at rest it is about 1."""
NOT_IMPORTED = ("numpy", "apsw", "PySide6", "rich", "click", "gymnasium", "sqlite3")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the base install in it; its site-packages."""
    environment = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", str(PROJECT)], check=True, stderr=subprocess.DEVNULL, timeout=110)
    return next(environment.glob("lib/python*/site-packages"))


def python(installed: Path, code: str) -> list[str]:
    return [str(installed.parents[2] / "bin" / "python"), "-c", code]


def in_base_install(installed: Path, code: str) -> str:
    command = python(installed, code)
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=patience(60), cwd=installed
    ).stdout


def test_a_base_install_is_small(installed: Path) -> None:
    size = sum(path.stat().st_size for path in installed.rglob("*") if path.is_file())
    assert size < INSTALL_BYTES_MAX
    names = {path.name.partition("-")[0].lower() for path in installed.glob("*.dist-info")}
    assert names == {"telefabric", "pyzmq", "msgpack", "msgspec", "platformdirs"}


def import_ms(installed: Path, module: str) -> float:
    """Processor time: files are in memory already, and what others take of a core meanwhile is not ours."""
    code = (
        f"import json, sys, time\nstart = time.process_time()\nimport {module}\n"
        f"print(json.dumps([time.process_time() - start, [n for n in {NOT_IMPORTED!r} if n in sys.modules]]))"
    )
    seconds, heavy = json.loads(in_base_install(installed, code))
    assert heavy == []
    return float(1_000 * seconds)


def test_importing_a_worker_is_quick_and_light(installed: Path) -> None:
    pairs = [(import_ms(installed, "telefabric_workers"), import_ms(installed, "asyncio")) for _ in range(9)]
    took, peer = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert took < max(IMPORT_MS_MAX, IMPORT_OF_ASYNCIO_MAX * peer), pairs


def test_a_worker_emits_and_delivers_nothing_heavy(installed: Path, tmp_path: Path) -> None:
    """A whole run on a base install, without a broker: it spools, and imports none of the heavy packages."""
    code = (
        "import sys\nfrom telefabric_workers import connect\n"
        f"with connect('tcp://127.0.0.1:9', spool={str(tmp_path)!r}, exit_flush_s=0) as worker:\n"
        "    worker.step(episode=0, step=0, action=[1.0, 2.0], observation={'x': b'y'}, reward=1.0)\n"
        "    worker.episode(episode=0, total_reward=1.0, length=1)\n"
        f"print([n for n in {NOT_IMPORTED!r} if n in sys.modules], worker.emitted)"
    )
    assert in_base_install(installed, code).strip() == "[] 4"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_command_says_which_extra_is_missing(installed: Path) -> None:
    command = [str(installed.parents[2] / "bin" / "telefabric"), "up"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(60))
    assert ended.returncode == 1
    assert ended.stderr.strip() == "telefabric needs: pip install 'telefabric[cli]'"
