"""Whatever a new user does wrong: one sentence with the remedy on standard error, and the right exit code, soon."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from processes import TELEFABRIC, Service, broker, free_ports, run, store, wait_for
from skips import requires
from slowness import patience

from telefabric.limits import SEGMENT_BYTES
from telefabric.store.file.database import APPLICATION_ID, FILE_NAME, VERSION
from telefabric.store.file.verify import audit
from telefabric.store.write.writer import Writer
from telefabric_workers import connect

FAILED, USAGE = 1, 2
AT_ONCE = 3
"""Commands that take most of their time to start."""


def complaint(*arguments: object, cwd: Path | None = None, **environment: str) -> tuple[int, str]:
    """Run a command that cannot work: its exit code, and the only thing that it says besides its log."""
    done = subprocess.run(
        [*TELEFABRIC, *map(str, arguments)],
        capture_output=True, text=True, timeout=patience(15), stdin=subprocess.DEVNULL,
        env={**os.environ, **environment}, check=False, cwd=cwd,
    )  # fmt: skip
    return done.returncode, only_sentence(done)


def only_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert not done.stdout
    told = [line for line in done.stderr.splitlines() if "[info " not in line]
    assert len(told) == 1, done.stderr
    assert told[0].startswith("telefabric: ")
    return told[0]


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody else listens there, and never answers."""
    with socket.create_server(("127.0.0.1", port)):
        yield


def url(port: int) -> str:
    return f"tcp://127.0.0.1:{port}"


# -- ports and brokers -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_a_port_of_the_broker_that_is_in_use(offset: int, tmp_path: Path) -> None:
    port = free_ports()
    with taken(port + offset):
        command = ["up", "--data", tmp_path] if offset else ["broker"]
        code, sentence = complaint(*command, "--listen", url(port))
        assert code == FAILED
        assert f"{url(port + offset)} is in use" in sentence
        assert "--listen" in sentence


def test_the_port_of_the_queries_that_is_in_use(tmp_path: Path) -> None:
    port = free_ports()
    with taken(port + 4):
        for command in (["store", "--connect", url(port)], ["up", "--listen", url(port)]):
            code, sentence = complaint(*command, "--data", tmp_path)
            assert code == FAILED
            assert f"{url(port + 4)} is in use" in sentence
            assert "--query" in sentence
    with broker(port):  # nothing of them is left
        pass


def test_no_broker_or_something_that_is_none(tmp_path: Path) -> None:
    """All at once, since each waits some seconds for an answer."""
    nobody, silent = free_ports(), free_ports()
    for port in (nobody, silent):
        connect(url(nobody), spool=tmp_path / str(port), exit_flush_s=0).close()
    asking = [["status"], ["dump"], ["tail"], ["spool", "drain"]]
    with socket.create_server(("127.0.0.1", silent)), ThreadPoolExecutor(8) as pool:
        commands = [[*words, "--connect", url(port)] for words in asking for port in (nobody, silent)]
        for command in commands[-2:]:
            command += ["--spool", str(tmp_path / command[-1].rpartition(":")[2])]
        for command, done in zip(commands, pool.map(lambda words: run(*words, timeout_s=20), commands), strict=True):
            assert done.returncode == FAILED, command
            (sentence,) = done.stderr.splitlines()
            assert command[command.index("--connect") + 1] in sentence
            listens = command[-1] == url(silent) and "drain" not in command
            assert ("telefabric doctor" if listens else "telefabric up") in sentence
    for port in (nobody, silent):
        assert len(list((tmp_path / str(port)).iterdir())) == 1, "what could not be delivered is still there"


def test_a_store_without_a_broker_says_so_and_waits_for_it(tmp_path: Path) -> None:
    port = free_ports()
    with store(port, tmp_path, stderr=tmp_path / "log"):
        wait_for(lambda: "broker_silent" in (tmp_path / "log").read_text(), "the store misses the broker")
        with broker(port):
            worker = connect(url(port), run="late", spool=tmp_path / "spool", exit_flush_s=patience(20))
            worker.metric("loss", 1.0)
            assert worker.flush(patience(20))
            assert worker.close()


def test_what_is_no_address() -> None:
    addresses = (
        "7750", "", "ipc:///tmp/x", "tcp://127.0.0.1", "tcp://127.0.0.1:70000", "tcp://a b:7750",
    )  # fmt: skip
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda address: complaint("status", "--connect", address), addresses)
        for address, (code, sentence) in zip(addresses, found, strict=True):
            assert code == USAGE
            assert f"connect is {address!r} and should be an address such as tcp://" in sentence


def test_an_ipv6_address() -> None:
    for command in ("status", "dump", "tail"):
        code, sentence = complaint(command, "--connect", "tcp://[::1]:7750")
        assert code == FAILED
        assert "serve IPv4 only: write 127.0.0.1 for this machine" in sentence


def test_an_address_that_nobody_can_be_at(tmp_path: Path) -> None:
    for address in ("tcp://*:7750", "tcp://127.0.0.1:0"):
        code, sentence = complaint("spool", "drain", "--connect", address, "--spool", tmp_path)
        assert code == USAGE
        assert "the address of one broker" in sentence


def test_a_port_without_room_above_it(tmp_path: Path) -> None:
    for command in (["broker", "--listen"], ["store", "--data", str(tmp_path), "--connect"]):
        code, sentence = complaint(*command, "tcp://127.0.0.1:65534")
        assert code == USAGE
        assert "choose a port up to 65528" in sentence
    for port, words in ((65534, ["up"]), (65535, ["store", "--connect", url(7750)]), (65535, ["up"])):
        code, sentence = complaint(*words, "--data", tmp_path, "--metrics", port)
        assert code == USAGE
        assert f"metrics at port {port} leave no room" in sentence
        assert "choose a port up to 65533 with --metrics" in sentence


# -- beyond loopback ---------------------------------------------------------------------------------------------
def _own_address() -> str | None:
    """An address of this machine that others can reach; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") else found


def refused_beyond_loopback(address: str, *command: str) -> None:
    done = subprocess.run(
        [*command, address], capture_output=True, text=True, timeout=patience(15), stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == USAGE
    sentence = only_sentence(done)
    assert f"{address} can be reached from other machines" in sentence
    assert "listen on tcp://127.0.0.1:" in sentence


def test_nothing_listens_beyond_loopback() -> None:
    def refused(host: str) -> None:
        refused_beyond_loopback(f"tcp://{host}:{free_ports()}", *TELEFABRIC, "broker", "--listen")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(refused, ["0.0.0.0", "*", "[::]", "192.0.2.7", "0"]))


def test_neither_store_nor_up_listens_beyond_loopback(tmp_path: Path) -> None:
    address = f"tcp://0.0.0.0:{free_ports()}"
    refused_beyond_loopback(address, *TELEFABRIC, "store", "--data", str(tmp_path), "--query")
    refused_beyond_loopback(address, *TELEFABRIC, "up", "--data", str(tmp_path), "--listen")


@requires("an address that other machines can reach", _own_address() is not None)
def test_nothing_listens_on_this_machine_s_own_address() -> None:
    refused_beyond_loopback(f"tcp://{_own_address()}:{free_ports()}", *TELEFABRIC, "broker", "--listen")


def _can_unshare() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "x", "/mnt"], check=False).returncode == 0


@requires("the right to mount in a namespace of its own", _can_unshare())
def test_a_name_counts_as_what_it_resolves_to(tmp_path: Path) -> None:
    """The name of this machine is loopback on some systems and not on others."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost inside.test half.test\n192.0.2.7 outside.test half.test\n")
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    elsewhere = ["unshare", "-m", "sh", "-c", script, "sh"]
    for name in ("outside.test", "half.test"):
        refused_beyond_loopback(f"tcp://{name}:{free_ports()}", *elsewhere, *TELEFABRIC, "broker", "--listen")
    address = f"tcp://inside.test:{free_ports()}"
    with Service([*elsewhere, *TELEFABRIC, "broker", "--listen", address]) as inside:
        assert inside.url == address


# -- store files -------------------------------------------------------------------------------------------------
def _database(path: Path, script: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(script).fetchall()
    connection.close()


def _make(kind: str, path: Path) -> None:
    match kind:
        case "text":
            path.write_text("a diary, and no database\n" * 1_000)
        case "foreign":
            _database(path, "CREATE TABLE diary (day)")
        case "newer":
            _database(path, f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION + 1}")
        case "hollow":
            _database(path, f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}")
        case "negative":
            _database(path, f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = -7; CREATE TABLE t (a)")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)


@pytest.mark.parametrize(
    ("kind", "why", "remedy"),
    [
        ("text", "is not a database", "--data"),
        ("foreign", "is a database of another program", "--data"),
        ("newer", f"was written by a newer version (store version {VERSION + 1}, this", "pip install -U telefabric"),
        ("hollow", "is damaged", "move it"),
        ("negative", "is damaged", "--data"),
        ("folder", "is not a file", "--data"),
        ("pipe", "is not a file", "--data"),
    ],
)
def test_a_file_that_is_no_store_of_ours(kind: str, why: str, remedy: str, tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    _make(kind, file)
    before = file.read_bytes() if file.is_file() else b""
    port = free_ports()
    code, sentence = complaint("store", "--connect", url(port), "--data", tmp_path)
    assert (code, f"{file} {why}" in sentence, remedy in sentence) == (FAILED, True, True), sentence
    if kind in ("text", "pipe"):
        code, sentence = complaint("dump", "--store", file)
        assert (code, str(file) in sentence) == (FAILED, True), sentence
    if kind != "hollow":  # which is ours to write
        assert (file.read_bytes() if file.is_file() else b"") == before, "it is as it was"
    if kind == "newer":
        for command in (["up", "--listen", url(port)], ["demo", "--episodes", "1"]):
            code, sentence = complaint(*command, "--data", tmp_path)
            assert (code, remedy in sentence) == (FAILED, True)


def test_a_store_folder_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below", Path("/proc/telefabric")):
        code, sentence = complaint("store", "--connect", url(free_ports()), "--data", folder)
        assert code == FAILED
        assert f"{folder} cannot be written" in sentence
        assert "--data" in sentence
    code, sentence = complaint("spool", "drain", "--connect", url(free_ports()), "--spool", file)
    assert code == FAILED
    assert "--spool" in sentence


def _can_be_another() -> bool:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", "import telefabric"]
    return bool(shutil.which("setpriv")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that everybody can read; pytest closes its own again and again."""
    with tempfile.TemporaryDirectory(prefix="tf-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@requires("the right to run a program as another user, and a Python that this user can read", _can_be_another())
def test_a_folder_of_another_user(open_folder: Path) -> None:
    folder = open_folder
    locked = folder / "locked"
    locked.mkdir()
    _make("foreign", locked / FILE_NAME)
    locked.chmod(0o700)
    Writer(folder / "theirs" / FILE_NAME).close()
    for path in (folder / "theirs", folder / "theirs" / FILE_NAME):
        os.chown(path, 65534, 65534)
    another = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    connected = ["--connect", url(free_ports())]
    for command, remedy in (
        (["store", *connected, "--data", str(folder)], "--data"),
        (["store", *connected, "--data", str(locked)], "--data"),
        (["spool", "drain", *connected, "--spool", str(locked)], "--spool"),
        (["dump"], "check the rights of its folder"),
        (["tail", "--no-follow"], "check the rights of its folder"),
        (["export", "mp4", str(locked / "x.mp4"), "--run", "run", "--episode", "0"], "the rights of its folder"),
        (["dump", "--store", str(locked / FILE_NAME)], "--store"),
        (["store", "verify"], "--store"),
        (["store", "backup", "/tmp/x.sqlite"], "--store"),
        (["store", "backup", str(locked / "x.sqlite"), "--store", str(folder / "theirs")], "name another file"),
    ):
        done = subprocess.run(
            [*another, *TELEFABRIC, *command],
            capture_output=True, text=True, timeout=patience(15), stdin=subprocess.DEVNULL, check=False, cwd="/",
            env={**os.environ, "XDG_DATA_HOME": str(locked)},
        )  # fmt: skip
        assert done.returncode == FAILED, done.stderr
        assert remedy in only_sentence(done)


@requires("the right to run a program as another user, and a Python that this user can read", _can_be_another())
def test_doctor_tells_the_spools_of_another_user(open_folder: Path) -> None:
    """One of theirs is told and hides none of one's own."""
    root = open_folder
    for name in ("a", "b"):
        connect(url(free_ports()), run="run", spool=root, worker=name, exit_flush_s=0).close()
    theirs, ours = sorted(root.iterdir())
    theirs.chmod(0o700)
    ours.chmod(0o755)
    for path in (ours, *ours.iterdir()):
        os.chown(path, 65534, 65534)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *TELEFABRIC, "doctor", "--spool", str(root)],
        capture_output=True, text=True, timeout=patience(60), stdin=subprocess.DEVNULL, check=False, cwd="/",
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert f"1 spool in {root} cannot be read, because another user owns them; 1 spool of dead" in done.stdout


def test_a_second_store_on_the_same_folder(tmp_path: Path) -> None:
    port = free_ports()
    (tmp_path / "link").symlink_to(tmp_path)
    with store(port, tmp_path):
        for folder in (tmp_path, tmp_path / "link"):
            code, sentence = complaint("store", "--connect", url(port), "--data", folder)
            assert code == FAILED
            assert re.search(r"is being written by another store process \(process \d+, .+\): stop that one", sentence)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_file_that_goes_while_it_is_written(replaced: bool, tmp_path: Path) -> None:
    """Nothing is acknowledged into a file that nobody can find; `up` begins a new one with what the spools hold."""
    port, log = free_ports(), tmp_path / "up.log"
    file = tmp_path / FILE_NAME
    command = [*TELEFABRIC, "up", "--listen", url(port), "--data", str(tmp_path)]
    with Service(command, stderr=log), connect(url(port), run="run", spool=tmp_path / "spool") as worker:
        for step in range(1_000):
            worker.step(episode=0, step=step)
        assert worker.flush(patience(10))
        if replaced:
            _database(tmp_path / "other", "CREATE TABLE diary (day)")
            (tmp_path / "other").replace(file)
        else:
            file.rename(tmp_path / "moved")
        for step in range(1_000, 2_000):
            worker.step(episode=0, step=step)
        if replaced:
            wait_for(lambda: "is a database of another program" in log.read_text(), "the store says what is there")
            assert worker.acknowledged < worker.emitted
            file.unlink()
        asked = "status", "--connect", url(port)
        wait_for(lambda: "held" in run(*asked).stdout, "the new file is another store: nothing goes there by itself")
        assert worker.acknowledged < worker.emitted
        moved = run("spool", "drain", "--spool", str(tmp_path / "spool"), "--to", url(port))
        assert moved.returncode in (0, 1), moved.stderr
        assert worker.flush(patience(30))
    assert audit(file, worker.stream_id, worker.emitted)[1:] == (worker.emitted, 0, 0, 0)
    sentences = [line for line in log.read_text().splitlines() if line.startswith("telefabric: ")]
    assert f"{file} was removed or replaced while the store wrote it" in sentences[0]
    if not replaced:
        moved = apsw.Connection(str(tmp_path / "moved"), flags=apsw.SQLITE_OPEN_READONLY)
        assert moved.execute("SELECT count(*) FROM steps").get >= 1_000, "a file that was only renamed is whole"
        moved.close()


def test_a_spool_that_is_removed_while_it_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The loop goes on; what cannot be kept any more is counted, and told as lost."""
    port = free_ports()
    worker = connect(url(port), run="run", spool=tmp_path / "spool", exit_flush_s=patience(20))
    shutil.rmtree(tmp_path / "spool")
    for step in range(3 * SEGMENT_BYTES // 50_000):
        worker.step(episode=0, step=step, observation=bytes(50_000))
    assert worker.dropped > 0
    with broker(port), store(port, tmp_path):
        wait_for(lambda: "somebody removed files of the spool" in caplog.text, "it is told what happened")
        assert not worker.flush(patience(20)), "some were dropped"
        assert worker.acknowledged == worker.emitted
        assert not worker.close()
    assert f"{worker.dropped} of {worker.emitted} events were dropped and are lost" in caplog.text
    found = audit(tmp_path / FILE_NAME, worker.stream_id, worker.emitted)
    assert (found.missing, found.duplicated, found.lost) == (0, 0, worker.dropped)


# -- settings ----------------------------------------------------------------------------------------------------
def test_malformed_values_in_the_environment(tmp_path: Path) -> None:
    here = ["--data", str(tmp_path)]
    cases = [
        ("TELEFABRIC_LISTEN", "nope", ["broker"], "should be an address"),
        ("TELEFABRIC_LISTEN", "nope", ["up", *here], "should be an address"),
        ("TELEFABRIC_CONNECT", "nope", ["store", *here], "should be an address"),
        ("TELEFABRIC_CONNECT", "nope", ["status"], "should be an address"),
        ("TELEFABRIC_CONNECT", "nope", ["dump"], "should be an address"),
        ("TELEFABRIC_CONNECT", "nope", ["spool", "drain"], "should be an address"),
        ("TELEFABRIC_DATA", "", ["store"], "should be some text"),
        ("TELEFABRIC_SPOOL", " ", ["spool", "drain"], "should be some text"),
        ("TELEFABRIC_STREAMS_MAX", "many", ["broker"], "should be a whole number from 1 to 1024"),
        ("TELEFABRIC_STREAMS_MAX", "0", ["up", *here], "should be a whole number from 1 to 1024"),
        ("TELEFABRIC_LOG_LEVEL", "loud", ["broker"], "should be one of debug, info, warning, error"),
        ("TELEFABRIC_LOG_FORMAT", "xml", ["store", *here], "should be one of console, json"),
        ("TELEFABRIC_MODE", "fast", ["demo", "--episodes", "1", *here], "should be one of"),
        ("TELEFABRIC_CONFIG", "/nowhere.toml", ["status"], "which is not a file: correct or unset it"),
    ]  # fmt: skip
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda case: complaint(*case[2], **{case[0]: case[1]}), cases)
        for (name, _, _, why), (code, sentence) in zip(cases, found, strict=True):
            assert (code, name in sentence, why in sentence) == (USAGE, True, True), sentence


def test_a_malformed_telefabric_toml(tmp_path: Path) -> None:
    cases = (
        ("listen = ", "cannot be read"),
        ("\udcff", "cannot be read"),
        ("lissen = 'tcp://127.0.0.1:7750'", "sets 'lissen', which is not a setting; the settings are:"),
        ("[data]\nfolder = 'runs'", "data in telefabric.toml is {'folder': 'runs'} and should be a text in quotes"),
        ("data = true", "data in telefabric.toml is True and should be a text in quotes"),
        ("listen = 7750", "listen in telefabric.toml is '7750' and should be an address"),
        ("streams_max = 'all'", "streams_max in telefabric.toml is 'all' and should be a whole number"),
    )

    def told(text: str) -> tuple[int, str]:
        folder = tmp_path / str(hash(text))
        folder.mkdir()
        (folder / "telefabric.toml").write_text(text, "utf-8", "surrogateescape")
        found = complaint("up", cwd=folder)
        assert len(list(folder.iterdir())) == 1
        return found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (text, why), (code, sentence) in zip(cases, pool.map(told, [text for text, _ in cases]), strict=True):
            assert (code, "telefabric.toml" in sentence, why in sentence) == (USAGE, True, True), (text, sentence)


def test_malformed_arguments() -> None:
    cases = (
        (["frobnicate"], "No such command 'frobnicate': see telefabric --help"),
        (["--frob"], "No such option '--frob': see telefabric --help"),
        (["up", "--required", "store"], "No such option '--required': see telefabric up --help"),
        (["up", "--listn", url(7750)], "--listen"),
        (["status", "--frob"], "No such option '--frob': see telefabric status --help"),
        (["up", "x"], "Got unexpected extra argument (x): see telefabric up --help"),
        (["spool", "drain", "--timeout", "-1"], "see telefabric spool drain --help"),
        (["dump", "--since", "x"], "Invalid value for '--since'"),
        (["dump", "--store", "x", "--connect", "tcp://127.0.0.1:7750"], "give one of them"),
    )
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda case: complaint(*case[0]), cases)
        for (_, why), (code, sentence) in zip(cases, found, strict=True):
            assert code == USAGE
            assert why in sentence


def test_an_interrupt_in_the_middle_of_a_start(tmp_path: Path) -> None:
    """^C while `up` waits for its parts: no traceback, and nothing is left."""
    port = free_ports()
    command = [*TELEFABRIC, "up", "--listen", url(port), "--data", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        assert "broker.started" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()  # ends when the last of its parts has
        assert process.wait(patience(20)) in (0, 128 + signal.SIGINT)
    assert "Traceback" not in rest
    with broker(port), store(port, tmp_path):
        pass
