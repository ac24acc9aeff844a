"""`telefabric run`: a program is a worker, and does not notice it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import FabricService
from processes import TELEFABRIC, broker, free_ports, store, wait_for
from slowness import patience
from terminal import Terminal

from telefabric import Page, Reader, open_store
from telefabric.keys.core.roles import Role
from telefabric.keys.saved_connections import SavedConnection
from telefabric_workers.foreign.lines import Lines
from telefabric_workers.run.preflight import judge_key
from telefabric_workers.run.recorder import Recorder, lines_read

STEPS = """
import json, sys
for i in range(int(sys.argv[1])):
    row = {"type": "step", "episode": i // 100, "step": i % 100, "observation": [0.1, 0.2], "reward": 1.0}
    if i % 5_000 == 7:
        row["observation"] = "x" * 1_000_000
    print(json.dumps(row))
sys.exit(7)
"""
FOREVER = """
import json, time
number = 0
while True:
    number += 1
    if number % 7 == 0: print(number, "plain")
    elif number % 11 == 0: print()
    elif number % 13 == 0: print(json.dumps({"type": "metric", "a": number, "b": 1}))
    else: print(json.dumps({"type": "step", "episode": 0, "step": number}))
"""
TALKER = r"""
import os, sys
os.write(1, b"name? ")
name = os.read(0, 100).strip()
os.write(1, b"\xff hello " + name + b"\r10%\r20%\n")
os.write(1, b' {"type": "metric", "name": "a", "value": 1}\n{"type": "artifact"}\n\n')
os.write(2, b"to stderr\n")
os.write(1, b"no end of line")
"""


class Run:
    """`telefabric run` on a program of Python, with the store behind it."""

    def __init__(self, service: FabricService, folder: Path) -> None:
        self.service = service
        self.folder = folder
        self.environ = {
            **os.environ, "TELEFABRIC_CONNECT": service.url, "TELEFABRIC_SPOOL": str(service.spool),
            "TELEFABRIC_EXIT_FLUSH_S": str(patience(20)),
        }  # fmt: skip

    def start(
        self, program: str, *given: str, options: tuple[str, ...] = ("-q",), **more: Any
    ) -> subprocess.Popen[Any]:
        (self.folder / "program.py").write_text(program)
        command = [*TELEFABRIC, "run", *options, "--run", "r", "--", sys.executable, "program.py", *given]
        streams = {name: more.pop(name, subprocess.PIPE) for name in ("stdin", "stdout", "stderr")}
        return subprocess.Popen(command, cwd=self.folder, env=self.environ, **streams, **more)

    def ended(self, program: str, *given: str, **more: Any) -> tuple[int, bytes, bytes]:
        """Exit code, and what it wrote."""
        process = self.start(program, *given, stdin=subprocess.DEVNULL, **more)
        out, errors = process.communicate(timeout=patience(60))
        return process.returncode, out, errors

    def outcome(self, count: int = 1) -> tuple[str, str]:
        (*_, (_, *found)) = self.service.wait_for_rows(
            count, "SELECT stream, outcome, outcome_reason FROM streams WHERE outcome IS NOT NULL ORDER BY stream"
        )
        return found[0], found[1]

    def lines_read(self) -> int:
        with open_store(self.service.file) as reader:
            return lines_read(reader, "r") or 0


@pytest.fixture
def run(fabric_service: FabricService, tmp_path: Path) -> Run:
    return Run(fabric_service, tmp_path)


# -- lines -------------------------------------------------------------------------------------------------------
def test_all_that_a_fast_program_prints_is_stored_and_its_exit_code_is_its_own(run: Run) -> None:
    code, out, errors = run.ended(STEPS, "20000")
    assert (code, out, errors) == (7, b"", b"")
    ((steps, places),) = run.service.rows(
        "SELECT count(*), count(DISTINCT episode_index * 100 + step_index) FROM steps"
    )
    assert (steps, places) == (20_000, 20_000)
    ((large,),) = run.service.rows("SELECT count(*) FROM steps WHERE length(event) > 1000000")
    assert large == 4
    assert run.outcome() == ("failed", "exit code 7")


def test_lines_that_are_no_events_pass_unchanged_and_are_log_events(run: Run) -> None:
    process = run.start(TALKER)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.read(6) == b"name? "  # a prompt does not wait for the end of its line
    out, errors = process.communicate(b"ada\n", patience(30))
    assert out == b'\xff hello ada\r10%\r20%\n{"type": "artifact"}\n\nno end of line'
    assert errors == b"to stderr\n"
    logs = run.service.wait_for_rows(3, "SELECT level, message FROM logs ORDER BY id")
    assert logs == [("info", "20%"), ("info", '{"type": "artifact"}'), ("info", "no end of line")]
    assert run.outcome() == ("completed", None)
    assert run.lines_read() == 5


def test_values_that_are_left_out_are_said_once_and_counted_in_the_end(run: Run) -> None:
    program = """print('{"type": "step", "episode": 0, "step": 0, "info": "%s"}\\n' % ("x" * 9_000_000) * 2, end="")"""
    code, out, errors = run.ended(program)
    assert (code, out) == (0, b"")
    said = errors.decode().splitlines()
    assert len(said) == 2, said
    assert "worker.problems" not in said[0]
    assert said[1] == "telefabric: step.info was left out 2 times"


def test_lines_that_should_be_events_and_are_none_are_counted_in_the_end_and_stop_nothing(run: Run) -> None:
    given = [
        '{"type":"step","reward":nan}',
        '{"type":"step","ts":"0001-01-01T00:00:00"}',
        '{"type":"step","episode":"x"}',
    ]
    lines = "".join(line + "\n" for line in [*given, '{"type":"step","reward":1}'])
    code, out, errors = run.ended(f"print({lines!r}, end='')")
    assert (code, out.decode().splitlines()) == (0, [given[0], given[2]])
    assert errors.decode() == (
        "telefabric: 2 lines could only be recorded as text: line 1: step: the line is not JSON: Expecting value: "
        "line 1 column 25 (char 24): telefabric run --dry-run names each\n"
    )
    run.service.wait_for_rows(1, "SELECT run FROM runs WHERE status = 'completed'")
    assert run.service.rows("SELECT reward FROM steps ORDER BY id") == [(0.0,), (1.0,)]
    assert run.service.rows("SELECT level FROM logs") == [("warning",), ("warning",)]


@pytest.mark.parametrize("turn", range(2))
def test_what_a_killed_run_had_read_is_stored_and_the_store_knows_its_last_line(run: Run, turn: int) -> None:
    process = run.start(FOREVER, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run.service.wait_for_rows(100, "SELECT id FROM steps LIMIT 100")
    time.sleep(random.random() / 5)
    process.kill()
    process.wait()
    with run.service.connect(run="later") as worker:  # it delivers what was left
        worker.log("here")
        wait_for(lambda: list(run.service.spool.iterdir()) == [run.service.spool / worker.stream_id.hex()], "delivery")
    numbers = {number for (number,) in run.service.rows("SELECT step_index FROM steps")}
    newest = max(numbers)
    expected = {n for n in range(1, newest + 1) if n % 7 and n % 11 and n % 13}
    assert numbers == expected, "no line before the last is missing"
    read = run.lines_read()
    behind = [n for n in range(newest + 1, read + 1) if n % 7 and n % 11 and n % 13]
    assert read >= newest
    assert not behind, "a line that was read is stored"


def test_after_each_event_the_store_knows_the_last_line(run: Run) -> None:
    """Whichever event is the last that a killed run has emitted."""
    given = [b'{"type": "step", "ts": 1790000000}\n', b"text\n", b"\n", b'{"type": "metric", "a": 1, "b": 2, "c": 3}\n']
    ends = [1]
    with run.service.connect(run="r") as worker:
        recorder = Recorder(worker, Lines("agent_0"))
        for line in random.choices(given, k=80):
            recorder.record(line)
            ends.append(worker.emitted)
        recorder.finish()
    with open_store(run.service.file) as reader:
        for seq in range(3, ends[-1] + 1):
            line = bisect_left(ends, seq)
            found = lines_read(Prefix(reader, seq), "r")  # type: ignore[arg-type]
            assert found in ((line,) if seq == ends[line] else (line - 1, line))


class Prefix:
    """What a store has up to a seq."""

    def __init__(self, reader: Reader, seq: int) -> None:
        self._reader, self._seq = reader, seq

    def streams(self, run_id: str) -> list[Any]:
        return [msgspec.structs.replace(one, stored_seq=self._seq) for one in self._reader.streams(run_id)]

    def stream_since(self, stream_id: bytes, seq: int) -> Any:
        rows = self._reader.stream_since(stream_id, seq).rows
        return Page([row for row in rows if row.seq <= self._seq], False)


# -- as if it were not there -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("program", "code", "outcome"),
    [
        ("import sys; sys.exit(0)", 0, ("completed", None)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ("cancelled", "SIGTERM")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, ("failed", "killed by SIGSEGV")),
        ("""print('{"type": "run_completed", "status": "failed", "reason": "no data"}')""", 0, ("failed", "no data")),
    ],
)  # fmt: skip
def test_a_run_ends_as_its_program_does(run: Run, program: str, code: int, outcome: tuple[str, str]) -> None:
    assert run.ended(program)[0] == code
    assert run.outcome() == outcome


def test_signals_that_somebody_sends_reach_the_program(run: Run) -> None:
    program = """
import signal, sys
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda n, f: print(signal.Signals(n).name, flush=True))
signal.signal(signal.SIGINT, lambda n, f: sys.exit(4))
print("ready", flush=True)
while True: signal.pause()
"""
    process = run.start(program, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=patience(30))
    assert process.returncode == 4


def test_a_program_whose_reader_is_gone_gets_to_know_it(run: Run) -> None:
    command = f'{" ".join(TELEFABRIC)} run -q --run r -- yes | head -1; echo "${{PIPESTATUS[0]}}"'
    said = subprocess.run(
        ["bash", "-c", command], cwd=run.folder, env=run.environ, capture_output=True, text=True, timeout=patience(60),
        check=False,
    )  # fmt: skip
    assert said.stdout == f"y\n{128 + signal.SIGPIPE}\n"


@pytest.mark.parametrize(("command", "code"), [("./absent", 127), ("./program.py", 126)])
def test_a_program_that_cannot_be_started_is_one_sentence_and_the_code_of_a_shell(
    run: Run, command: str, code: int
) -> None:
    (run.folder / "program.py").write_text("")
    said = subprocess.run(
        [*TELEFABRIC, "run", "-q", "--", command], cwd=run.folder, env=run.environ, capture_output=True, text=True,
        timeout=patience(60), check=False,
    )  # fmt: skip
    assert said.returncode == code
    assert said.stderr.startswith(f"telefabric: {command} cannot be started: ")
    assert run.outcome()[0] == "failed"


def test_a_terminal_is_the_program_s_own(run: Run) -> None:
    program = """
import os, signal, sys, time
print("terminals", [os.isatty(n) for n in range(3)], os.get_terminal_size(1).columns, flush=True)
signal.signal(signal.SIGWINCH, lambda n, f: print("columns", os.get_terminal_size(1).columns, flush=True))
signal.signal(signal.SIGCONT, lambda n, f: print("continued", flush=True))
print("name? ", end="", flush=True)
print("hello", sys.stdin.readline().strip(), flush=True)
try:
    while True: time.sleep(0.05)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    time.sleep(0.3)
    sys.exit(9)
"""
    (run.folder / "program.py").write_text(program)
    names = ("TELEFABRIC_CONNECT", "TELEFABRIC_SPOOL", "TELEFABRIC_EXIT_FLUSH_S")
    with Terminal(run.folder, **{name: run.environ[name] for name in names}) as terminal:
        terminal.resize(30, 100)
        terminal.type(f"{' '.join(TELEFABRIC)} run --run r -- python program.py 2>errors\n")
        terminal.wait("terminals [True, True, False] 100")
        terminal.wait("name? ")
        terminal.type("ada\n")
        terminal.wait("hello ada")
        terminal.resize(30, 77)
        terminal.wait("columns 77")
        for resume in ("fg\n", "bg\n"):
            terminal.type("\x1a")
            terminal.wait("Stopped")
            terminal.wait("$ ")
            terminal.type(resume)
            terminal.wait("continued")
        terminal.type("fg\n")
        terminal.wait("program.py")
        terminal.type("\x03")
        terminal.wait("interrupted")
        assert "interrupted" not in terminal.wait("$ ")
        terminal.type("echo code $?\n")
        terminal.wait("code 9")
    assert run.outcome() == ("failed", "exit code 9")
    words = [line.split(":")[1].strip() for line in (run.folder / "errors").read_text().splitlines()]
    assert words == ["address", "key", "clock", "version"]


def test_a_program_may_read_keys_from_the_terminal(run: Run) -> None:
    program = """
import os, sys, termios, tty
modes = termios.tcgetattr(1)
tty.setcbreak(1)
print("press ", end="", flush=True)
print("got", os.read(0, 1), flush=True)
termios.tcsetattr(1, termios.TCSADRAIN, modes)
print("again ", end="", flush=True)
print("got", sys.stdin.readline(), flush=True)
"""
    (run.folder / "program.py").write_text(program)
    names = ("TELEFABRIC_CONNECT", "TELEFABRIC_SPOOL", "TELEFABRIC_EXIT_FLUSH_S")
    with Terminal(run.folder, **{name: run.environ[name] for name in names}) as terminal:
        terminal.type(f"{' '.join(TELEFABRIC)} run -q --run r -- python program.py\n")
        terminal.wait("press ")
        terminal.type("x")
        assert terminal.wait("got b'x'") == "", "it is not echoed"
        terminal.wait("again ")
        terminal.type("line\n")
        assert "line" in terminal.wait("got line")


def test_a_program_that_stops_itself_is_a_stopped_job(run: Run) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('on', flush=True)"
    process = run.start(program, stdin=subprocess.DEVNULL)
    found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert found is not None
    assert found.si_code == os.CLD_STOPPED
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=patience(30))
    assert (process.returncode, out) == (0, b"on\n")


# -- without a broker --------------------------------------------------------------------------------------------
def test_a_program_waits_when_it_prints_faster_than_can_be_spooled(run: Run, tmp_path: Path) -> None:
    program = """
import json
for number in range(40): print(json.dumps({"type": "step", "step": number, "observation": "x" * 10**6}))
open("done", "w").close()
"""
    port = free_ports()
    run.environ |= {"TELEFABRIC_SPOOL_BYTES_MAX": str(16 * 2**20), "TELEFABRIC_CONNECT": f"tcp://127.0.0.1:{port}"}
    process = run.start(program, stdin=subprocess.DEVNULL)
    wait_for(lambda: _spooled_mib(run.service.spool) >= 16, "a full spool")
    time.sleep(0.3)
    assert not (run.folder / "done").exists()
    with broker(port), store(port, tmp_path / "late"):
        assert process.communicate(timeout=patience(60))[0] == b""
    with open_store(tmp_path / "late" / "telemetry.sqlite") as reader:
        assert [one.n for one in reader.counts("r") if one.kind == "step"] == [40]
        assert not reader.gaps("r").rows


def _spooled_mib(spool: Path) -> float:
    return sum(path.stat().st_size for path in spool.rglob("*.seg")) / 2**20


def test_a_program_whose_spool_cannot_be_used_does_not_start(run: Run) -> None:
    run.environ["TELEFABRIC_SPOOL"] = str(run.folder / "program.py" / "spool")
    code, out, errors = run.ended("print('on')")
    assert (code, out) == (1, b"")
    assert b"spool" in errors


def test_before_the_program_starts_one_line_says_what_is_wrong(run: Run) -> None:
    run.environ |= {"TELEFABRIC_CONNECT": "tcp://127.0.0.1:9", "TELEFABRIC_EXIT_FLUSH_S": "0"}
    _, out, errors = run.ended("print('on')")
    assert out == b"on\n"
    first = errors.decode().splitlines()[0]
    assert first.startswith("telefabric: address: Nothing answers at tcp://127.0.0.1:9")
    assert "Events wait in the spool until a broker takes them" in first


@pytest.mark.parametrize(
    ("role", "runs", "state"), [("worker", "*", "ok"), ("worker", "sweep-*", "problem"), ("client", "*", "problem")]
)
def test_before_the_program_starts_its_key_is_looked_at(role: str, runs: str, state: str) -> None:
    now = datetime.now(UTC)
    key = SavedConnection("rig", Role(role), "tcp://lab:7750", "", "", "", now, runs, now)
    found = judge_key(key, "r")
    assert found.state == state
    assert (found.remedy == "") == (state == "ok")
    assert "rig" in found.sentence


def test_a_dry_run_stores_nothing_and_names_the_lines_that_are_wrong(run: Run) -> None:
    program = """
print('{"type": "step", "episode": 0}')
print('{"type": "step", "episode": "first"}')
print("text")
print('{"type": "run_completed"}')
"""
    code, out, errors = run.ended(program, options=("--dry-run",))
    assert code == 1
    assert out == b'{"type": "step", "episode": "first"}\ntext\n'
    assert errors.decode().splitlines() == [
        "4 lines: 2 logs, 1 run_completed, 1 step",
        "line 2: step: episode_index is 'first' and should be a whole number from 0",
    ]
    assert not run.service.spool.exists()
    assert run.ended("print(1)", options=("--dry-run",))[0] == 0
