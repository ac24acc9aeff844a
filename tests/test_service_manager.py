"""Services under a manager: what they tell it, and that they come back as it starts them again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from eventlog import logged_events
from processes import TELEFABRIC, free_ports, run, wait_for
from servicemanager import ServiceManager
from skips import requires
from slowness import patience

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.errors import UsageError
from telefabric.files.lock import FileLock
from telefabric.service.notify import Manager
from telefabric.service.supervisor import Part, Supervisor
from telefabric.store.file.database import FILE_NAME, open_reader
from telefabric.store.service import Store
from telefabric_workers import connect

pytestmark = requires("sockets in files", sys.platform != "win32")
NS = 1_000_000_000


def commands(port: int, data: Path) -> dict[str, list[str]]:
    url = f"tcp://127.0.0.1:{port}"
    return {
        "up": [*TELEFABRIC, "up", "--listen", url, "--data", str(data)],
        "broker": [*TELEFABRIC, "broker", "--listen", url],
        "store": [*TELEFABRIC, "store", "--connect", url, "--data", str(data)],
    }


@pytest.mark.parametrize("abstract", [False, True], ids=["a socket in a file", "an abstract socket"])
@pytest.mark.parametrize("service", ["up", "broker", "store"])
def test_a_service_says_that_it_is_ready_alive_and_ends(service: str, abstract: bool, tmp_path: Path) -> None:
    command = commands(free_ports(), tmp_path / "data")[service]
    with ServiceManager(command, tmp_path, watchdog_s=0.5, abstract=abstract) as manager:
        manager.start()
        manager.wait_for("WATCHDOG", "1", times=3)
        assert any("127.0.0.1" in words or FILE_NAME in words for words in manager.values("STATUS"))
        assert manager.stop() == 0
        wait_for(lambda: manager.values("STOPPING"), "it says that it ends")
        assert all(int(us) > 0 for us in manager.values("EXTEND_TIMEOUT_USEC"))
        assert "s at most" in manager.values("STATUS")[-1]
        assert manager.strangers == 0, "the manager of a child process is its parent"


def test_the_watchdog_is_fed_by_the_thread_that_works_and_by_no_other(tmp_path: Path) -> None:
    fed: dict[str, set[int]] = {"broker": set(), "store": set()}

    def by(name: str) -> Callable[[int], None]:
        return lambda now_ns: fed[name].add(threading.get_ident())

    serving = Broker(Address("127.0.0.1", 0), tend=by("broker"))
    storing = Store(serving.address, tmp_path / FILE_NAME, tend=by("store"))
    threads = [threading.Thread(target=part.run) for part in (serving, storing)]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(fed.values()), "both are fed")
    storing.stop()
    threads[1].join()
    storing.close()
    serving.stop()
    threads[0].join()
    assert list(fed.values()) == [{thread.ident} for thread in threads]


def test_one_that_is_killed_and_started_again_loses_nothing_and_is_in_nobodys_way(tmp_path: Path) -> None:
    """All that it left, locks, ports and sockets, is no obstacle to the next one, which is started at once."""
    port, data = free_ports(), tmp_path / "data"
    made = {name: tmp_path / name for name in ("broker", "store")}
    for folder in made.values():
        folder.mkdir()
    with (
        ServiceManager(commands(port, data)["broker"], made["broker"]) as of_broker,
        ServiceManager(commands(port, data)["store"], made["store"]) as of_store,
    ):
        of_broker.start()
        of_store.start()
        with connect(f"tcp://127.0.0.1:{port}", run="r", spool=tmp_path / "spool", exit_flush_s=patience(60)) as worker:
            for step in range(3_000):
                worker.step(episode=0, step=step, action=1, observation=step, reward=0.0)
                if step in (500, 1_500):
                    of_store.kill()
                    of_store.start()
                if step in (1_000, 1_500, 2_000):
                    of_broker.kill()
                    of_broker.start()
            assert worker.flush(patience(60))
        assert of_store.stop() == 0
        assert of_broker.stop() == 0
    reader = open_reader(data / FILE_NAME)
    assert reader.execute("SELECT count(*), count(DISTINCT step_index) FROM steps").get == (3_000, 3_000)
    reader.close()


def test_up_that_is_killed_leaves_nothing_that_is_in_the_way_of_the_next(tmp_path: Path) -> None:
    """Its parts end by themselves, which takes a moment; on a busy disk longer than the next one waits."""
    port, data = free_ports(), tmp_path / "data"
    lock = data / f"{FILE_NAME}.lock"
    with ServiceManager(commands(port, data)["up"], tmp_path) as manager:
        for _ in range(3):
            manager.start()
            manager.kill()
            wait_for(lambda: not FileLock.is_elsewhere(lock), "the store lets go of its file")
        manager.start()
        assert manager.stop() == 0


@pytest.mark.parametrize("service", ["broker", "store"])
def test_a_second_start_says_who_is_there_already(service: str, tmp_path: Path) -> None:
    port, data = free_ports(), tmp_path / "data"
    with ServiceManager(commands(port, data)[service], tmp_path) as manager:
        manager.start()
        assert manager.process is not None
        second = run(service, *commands(port, data)[service][len(TELEFABRIC) + 1 :])
        assert second.returncode == 1
        assert f"process {manager.process.pid}, " in second.stderr
        assert second.stderr.count("\n") == 1
        assert manager.stop() == 0


@pytest.mark.parametrize("service", ["broker", "store"])
def test_a_reload_rereads_the_settings_and_a_wrong_one_changes_nothing(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "telefabric.toml"
    file.write_text("")
    monkeypatch.setenv("TELEFABRIC_CONFIG", str(file))
    with ServiceManager(commands(free_ports(), tmp_path / "data")[service], tmp_path) as manager:
        manager.start()
        file.write_text('log_format = "json"\nlost_after_s = 99\nframe_bytes_max = 0\n')
        manager.signal(signal.SIGHUP)
        manager.wait_for("RELOADING", "1")
        manager.wait_for("READY", "1", times=2)
        wait_for(lambda: '"event": "service.reloaded"' in manager.log.read_text(), "it logs so, in the new format")
        file.write_text("log_level = 7\n")
        manager.signal(signal.SIGHUP)
        manager.wait_for("READY", "1", times=3)
        refusals = [line for line in manager.log.read_text().splitlines() if "service.reload_refused" in line]
        assert "log_level in telefabric.toml is '7' and should be" in json.loads(refusals[0])["reason"]
        assert manager.stop() == 0


def test_a_reload_reaches_the_parts_and_their_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "telefabric.toml"
    file.write_text("")
    monkeypatch.setenv("TELEFABRIC_CONFIG", str(file))
    with ServiceManager(commands(free_ports(), tmp_path / "data")["up"], tmp_path) as manager:
        manager.start()
        file.write_text('log_format = "json"\n')
        manager.signal(signal.SIGHUP)
        four = "up, broker, store and query service"
        wait_for(lambda: manager.log.read_text().count('"event": "service.reloaded"') == 4, four)
        assert manager.stop() == 0


@pytest.mark.parametrize("service", ["broker", "store"])
def test_a_part_tells_its_supervisor_that_its_loop_goes_on(service: str, tmp_path: Path) -> None:
    command = [*commands(free_ports(), tmp_path)[service], "--tied"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as part:
        assert part.stdin is not None
        assert part.stdout is not None
        words = [part.stdout.readline().split()[0] for _ in range(3)]
        part.stdin.close()
        assert part.wait(patience(20)) == 0
    assert words == ["ready", "alive", "alive"]


def test_a_part_that_does_not_end_is_waited_for_aloud_and_killed_at_its_deadline(tmp_path: Path) -> None:
    told: list[str] = []
    hanging = "import sys, time; print('ready x', flush=True); time.sleep(600)"
    part = Part("fake", lambda: [sys.executable, "-S", "-c", hanging], stop_s=0.3)
    manager = Manager(environ={})
    manager.stopping = lambda doing, needs_s: told.append(f"{doing} {needs_s:.1f}")  # type: ignore[method-assign]
    with logged_events() as logs:
        parts = Supervisor([part], manager)
        assert parts.start()
        parts.stop()
        parts.run()
    assert told == ["waiting for the fake 0.3"]
    assert [line["event"] for line in logs if line["event"] != "part.starting"] == ["part.stopping", "part.killed"]


# -- the manager alone -------------------------------------------------------------------------------------------
def test_without_a_manager_nothing_is_sent_and_nothing_fails() -> None:
    manager = Manager(environ={})
    for call in (lambda: manager.ready("x"), lambda: manager.tend(0), lambda: manager.stopping("x", 1)):
        call()


def test_its_variables_are_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "OTHER": "x"}
    Manager(environ=environ)
    assert environ == {"OTHER": "x"}


@pytest.mark.parametrize("pid", [str(os.getpid()), "1"], ids=["ours", "another's"])
def test_only_our_own_watchdog_is_fed(pid: str, tmp_path: Path) -> None:
    sent: list[str] = []
    manager = Manager(environ={"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": pid})
    manager._send = lambda *lines: sent.extend(lines)  # type: ignore[method-assign]
    for now_ns in range(0, 2 * NS, NS // 10):
        manager.tend(now_ns)
    assert sent == (["WATCHDOG=1"] * 4 if pid == str(os.getpid()) else [])


def test_a_manager_that_is_gone_is_told_in_the_log_and_stops_nobody() -> None:
    with logged_events() as logs:
        Manager(environ={"NOTIFY_SOCKET": "/nowhere/notify"}).ready("x")
    assert [line["event"] for line in logs] == ["service.manager_unreachable"]


def test_a_start_tells_what_is_new_and_otherwise_only_now_and_then() -> None:
    sent: list[str] = []
    manager = Manager(environ={"NOTIFY_SOCKET": "x"})
    manager._send = lambda *lines: sent.extend(lines)  # type: ignore[method-assign]
    for doing in ("migrating, 1 %",) * 100 + ("migrating, 2 %",) * 100:
        manager.starting(doing)
    extended = f"EXTEND_TIMEOUT_USEC={limits.START_SILENCE_S * 1e6:.0f}"
    assert sent == ["STATUS=starting: migrating, 1 %", extended, "STATUS=starting: migrating, 2 %", extended]


def test_a_reload_that_fails_is_an_error_in_the_log_and_the_service_goes_on() -> None:
    def fails() -> None:
        raise UsageError("no")

    manager = Manager(fails, environ={})
    with logged_events() as logs:
        manager.ask_to_reload()
        manager.tend(0)
        manager.tend(1)
    assert [(line["event"], line.get("reason")) for line in logs] == [("service.reload_refused", "no")]
