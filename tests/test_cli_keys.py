"""`telefabric keys` and `telefabric join` as a user types them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from processes import TELEFABRIC
from test_keys import Locked

from telefabric.keys import saved_connections
from telefabric.keys.core.roles import Role
from telefabric.keys.core.ticket import Ticket
from telefabric.keys.gate import Seen, now
from telefabric.keys.key_folder import KeyFolder


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TELEFABRIC_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def locked(data: Path) -> Iterator[Locked]:
    KeyFolder(data).init("tcp://127.0.0.1:7750")
    with Locked(data) as service:
        yield service


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TELEFABRIC, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False)


def told(*words: str) -> str:
    """What a command that succeeds prints."""
    done = run(*words)
    assert (done.returncode, done.stderr.count("\n") < 2) == (0, True), done.stderr
    return done.stdout


def complaint(*words: str, stdin: str = "", code: int = 2) -> str:
    """The one sentence of a command that fails."""
    done = run(*words, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("telefabric: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_from_the_server_key_to_a_revoked_ticket(data: Path) -> None:
    assert "telefabric keys init" in complaint("keys", "list")
    assert "--connect local" in told("keys", "init")
    assert saved_connections.load("local").role is Role.OWNER
    assert "has keys already" in complaint("keys", "init")
    line = told(
        "keys", "invite", "ada", "--role", "worker", "--runs", "sweep-*", "--address", "lab:8000", "--expires", "2d"
    )
    assert line.count("\n") == 1
    ticket = Ticket.decode(line)
    assert (ticket.address, ticket.enrol_port) == ("tcp://lab:8000", 8007)
    rows = [json.loads(row) for row in told("keys", "list", "--json").splitlines()]
    assert [(row["what"], row["name"], row["role"], row["runs"]) for row in rows] == [
        ("key", "owner", "owner", "*"),
        ("ticket", "ada", "worker", "sweep-*"),
    ]
    assert "ada (ticket)" in told("keys", "list")
    assert "ada is revoked" in told("keys", "revoke", "ada")
    assert "telefabric keys list" in complaint("keys", "revoke", "ada")
    assert ticket.secret.hex() not in (data / "keys" / "registry.json").read_text()


def test_a_time_in_the_list_is_whole_on_a_narrow_terminal(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    owner = KeyFolder(data).init("tcp://127.0.0.1:7750")
    told("keys", "invite", "rig-of-the-third-floor", "--role", "operator", "--runs", "sweep-*", "--address", "lab")
    heard = Seen(now(), "192.168.100.200")
    KeyFolder(data).seen.write_bytes(msgspec.json.encode({owner.public: heard}))
    assert f"{heard.at.astimezone():%Y-%m-%d %H:%M}" in told("keys", "list")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ([], "either --address, which the other machine dials, or --this-machine"),
        (["--address", "lab", "--this-machine"], "either --address"),
        (["--address", "0.0.0.0"], "the name or address by which the other machine reaches this one"),
        (["--address", "*"], "the name or address by which the other machine reaches this one"),
        (["--address", "127.0.0.1:7750"], "for a program on this machine, --this-machine"),
        (["--address", "localhost"], "for a program on this machine, --this-machine"),
        (["--address", "tcp://lab:x"], "write tcp://HOST:PORT"),
        (["--address", "lab", "--expires", "soon"], "a time such as 90s, 30m, 1h or 7d"),
        (["--address", "lab", "--expires", "0s"], "a time such as 90s, 30m, 1h or 7d"),
    ],
)
def test_an_invitation_that_nobody_could_use_is_refused(data: Path, words: list[str], remedy: str) -> None:
    KeyFolder(data).init("tcp://127.0.0.1:7750")
    assert remedy in complaint("keys", "invite", "ada", "--role", "worker", *words)


def test_joining_saves_a_connection(locked: Locked) -> None:
    ticket = locked.invite("ada", Role.WORKER, runs="sweep-*")
    said = told("join", ticket.encode())
    assert "as ada, a worker for the runs sweep-*" in said
    assert "TELEFABRIC_CONNECT=ada" in said
    saved = saved_connections.load("ada")
    assert saved.secret not in said
    assert "is revoked" in told("keys", "revoke", "ada")
    assert "ada" not in {row["name"] for row in map(json.loads, told("keys", "list", "--json").splitlines()) if
                         row["state"] == "valid"}  # fmt: skip


def test_the_ticket_may_come_from_standard_input_and_the_name_may_be_chosen(locked: Locked) -> None:
    line = locked.invite("ada").encode()
    done = run("join", "--name", "lab", "-", stdin=line + "\n")
    assert done.returncode == 0, done.stderr
    assert saved_connections.names() == ["lab"]
    again = complaint("join", "--name", "lab", locked.invite("bob").encode())
    assert "lab is saved already" in again


def test_each_way_in_which_joining_fails_is_one_sentence(locked: Locked) -> None:
    ticket = locked.invite("ada")
    line = ticket.encode()
    assert "copy the line" in complaint("join", line[:50])
    assert "no ticket on standard input" in complaint("join", "-")
    told("join", line)
    used = complaint("join", line, code=1)
    assert "the ticket for ada was used already" in used
    assert "telefabric keys invite" in used
    assert line not in used
