"""A laptop that only watches need not be POSIX: client, subscriptions and questions run without what others lack."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from processes import TELEFABRIC, Service, free_ports, run
from skips import requires
from slowness import patience

from telefabric_workers import connect

HIDE = """
import os, signal, socket, sys
import platformdirs.unix  # goes by the platform's name
for module in ("fcntl", "grp", "pwd", "resource", "syslog", "termios"):
    sys.modules[module] = None
for owner, names in (
    (socket, ("AF_UNIX",)),
    (os, ("fork", "geteuid", "getloadavg", "getppid", "getuid", "nice", "posix_fallocate", "register_at_fork",
          "O_CLOEXEC", "O_DIRECTORY")),
    (signal, ("SIGHUP", "SIGKILL", "SIGUSR1")),
):
    for name in names:
        delattr(owner, name)
"""
"""What Windows has not, as far as a program on Linux can do without. It cannot pretend to be another platform."""
WATCH = """
import telefabric, telefabric.feed
for name in telefabric.__all__:
    getattr(telefabric, name)
address = telefabric.Address.parse(sys.argv[1])
with telefabric.LiveSubscription(address, name="laptop") as live:
    seen = []
    while not seen:
        seen = [event.fields["kind"] if hasattr(event, "fields") else type(event).__name__ for event in live.poll(1.0)]
print("live", len(seen) > 0)
with telefabric.open_store(sys.argv[1]) as reader:
    print("stored", [run.run_id for run in reader.runs()])
"""
COMMAND = """
from telefabric.cli.main import main
sys.argv = ["telefabric", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker and a store with a run that has been stored and goes on."""
    folder = tmp_path_factory.mktemp("watched")
    address = f"tcp://127.0.0.1:{free_ports()}"
    with (
        Service([*TELEFABRIC, "up", "--listen", address, "--data", str(folder)], stderr=folder / "log"),
        connect(address, run="watched", spool=folder / "spool") as worker,
    ):
        worker.step(episode=0, step=0, action=1, observation=2, reward=3.0)
        assert worker.flush(patience(30))
        yield address


def without_posix(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDE + code, *arguments],
        capture_output=True, text=True, check=False, timeout=patience(90), stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_a_program_subscribes_and_asks(url: str) -> None:
    ended = without_posix(WATCH, url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["live True", "stored ['watched']"]


@pytest.mark.parametrize(
    "words", [["status"], ["tail", "--no-follow"], ["dump"], ["doctor", "--json"]], ids=lambda words: words[0]
)
def test_commands_that_watch_run(words: list[str], url: str) -> None:
    ended = without_posix(COMMAND, *words, "--connect", url)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0 or words[0] == "doctor", ended.stderr
    assert "watched" in ended.stdout or words[0] == "doctor"


@requires("PySide6 and pyqtgraph", find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None)
def test_the_client_shows_a_broker(url: str, tmp_path: Path) -> None:
    picture = tmp_path / "window.png"
    words = ["gui", "--connect", url, "--screenshot", str(picture), "--after", "2"]
    ended = without_posix(COMMAND, *words, QT_QPA_PLATFORM="offscreen")
    assert ended.returncode == 0, ended.stderr
    assert picture.stat().st_size > 10_000


def test_a_laptop_joins_with_a_ticket_and_watches(tmp_path: Path) -> None:
    address, data = f"tcp://127.0.0.1:{free_ports()}", tmp_path / "data"
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert run("keys", "init", "--data", str(data), env=home).returncode == 0
    with Service([*TELEFABRIC, "up", "--listen", address, "--data", str(data)], stderr=tmp_path / "log"):
        words = ("invite", "laptop", "--role", "client", "--this-machine", "--listen", address)
        said = run("keys", *words, "--data", str(data), env=home)
        ticket = next(line for line in said.stdout.splitlines() if line.startswith("tf1"))
        joined = without_posix(COMMAND, "join", ticket, **home)
        assert joined.returncode == 0, joined.stderr
        watched = without_posix(COMMAND, "status", "--connect", "laptop", **home)
        assert watched.returncode == 0, watched.stderr
