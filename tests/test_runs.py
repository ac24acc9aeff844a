"""`telefabric runs` over real services: every edit, who made it, and what happens when a part dies meanwhile."""

from __future__ import annotations

import getpass
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest
from processes import Service, broker, free_ports, run, store, wait_for
from slowness import patience
from test_keys_services import Lab, lab

from telefabric import Address, TelefabricError, Unreachable, UsageError, ask_edit, limits, open_store
from telefabric.errors import NotAdmitted
from telefabric.keys.core.roles import Role
from telefabric.store.file.database import FILE_NAME
from telefabric.store.read.query import Run
from telefabric_workers import connect

__all__ = ["lab"]


class Fabric(NamedTuple):
    """Broker and store in processes of their own, which can be killed."""

    address: Address
    broker: Service
    store: Service
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / FILE_NAME

    def record(self, name: str, outcome: str | None = "completed", steps: int = 20) -> None:
        """A run, stored."""
        with connect(self.address.url, run=name, spool=self.folder / "spool", exit_flush_s=patience(30)) as worker:
            for step in range(steps):
                worker.step(episode=0, step=step, reward=1.0)
            assert worker.flush(patience(30))

    def edit(self, command: str, name: str, value: object = None) -> str:
        return ask_edit(self.address, command, name, value, timeout_s=patience(20))

    def the(self, name: str) -> Run | None:
        with open_store(self.file) as reader:
            return reader.run(name)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        db = apsw.Connection(str(self.file), flags=apsw.SQLITE_OPEN_READONLY)
        found: list[tuple[Any, ...]] = db.execute(sql).fetchall()
        db.close()
        return found

    def cli(self, *words: str) -> tuple[int, str, str]:
        done = run("runs", *words, "--connect", self.address.url)
        return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    port = free_ports()
    with broker(port) as one, store(port, tmp_path, "--lost-after-s", "6") as two:
        yield Fabric(Address("127.0.0.1", port), one, two, tmp_path)


def test_each_command_does_what_it_says_and_is_in_the_audit(fabric: Fabric) -> None:
    fabric.record("walk")
    said = [
        fabric.cli("tag", "walk", "baseline", "größe 2"),
        fabric.cli("untag", "walk", "größe 2"),
        fabric.cli("note", "walk", "diverges after\nstep 4000"),
        fabric.cli("bookmark", "walk", "0", "3", "--label", "the goal"),
        fabric.cli("bookmark", "walk", "0", "4"),
        fabric.cli("unbookmark", "walk", "2"),
        fabric.cli("mark", "walk", "failed", "--reason", "wrong reward"),
        fabric.cli("archive", "walk"),
    ]
    assert [one for one in said if one[0] != 0 or one[2]] == []
    code, out, _ = fabric.cli("show", "walk", "--json")
    shown = json.loads(out)
    assert (code, shown["tags"], shown["notes"]) == (0, ["baseline"], "diverges after\nstep 4000")
    assert (shown["status"], shown["reason"], shown["computed_status"]) == ("failed", "wrong reward", "completed")
    assert shown["marked_by"] == getpass.getuser()
    assert [(one["episode_index"], one["step_index"], one["label"]) for one in shown["bookmarks"]] == [
        (0, 3, "the goal")
    ]
    _, out, _ = fabric.cli("show", "walk")
    for words in (
        "failed: wrong reward",
        f"marked by {getpass.getuser()}",
        "computed: completed",
        "baseline",
        "the goal",
    ):
        assert words in out
    assert fabric.cli("list") == (0, "No runs.", "")
    _, listed, _ = fabric.cli("list", "--archived")
    assert "failed* (archived)" in listed
    assert fabric.cli("unarchive", "walk")[0] == fabric.cli("mark", "walk", "computed")[0] == 0
    assert json.loads(fabric.cli("list", "--tag", "baseline", "--json")[1])["status"] == "completed"
    code, _, sentence = fabric.cli("delete", "walk")
    assert (code, "give --yes" in sentence) == (2, True)
    assert fabric.the("walk") is not None
    assert fabric.cli("delete", "walk", "--yes") == (0, "run 'walk' is deleted.", "")
    assert fabric.the("walk") is None
    commands = [row[0] for row in fabric.rows("SELECT command FROM edits ORDER BY edit")]
    assert commands == [
        "tag", "tag", "untag", "note", "bookmark", "bookmark", "unbookmark", "mark", "archive", "unarchive", "mark",
        "delete",
    ]  # fmt: skip
    assert set(fabric.rows("SELECT by, outcome FROM edits")) == {(getpass.getuser(), "done")}
    wait_for(lambda: fabric.rows("SELECT count(*) FROM steps") == [(0,)], "its rows go")


def test_what_makes_no_sense_is_one_sentence_with_its_exit_code(fabric: Fabric) -> None:
    fabric.record("walk")
    for words, code, sentence in (
        (("tag", "nothing", "x"), 2, "telefabric: the store has no run 'nothing': see telefabric runs list"),
        (("untag", "walk", "x"), 2, "telefabric: run 'walk' has no tag 'x': see telefabric runs show"),
        (("tag", "walk", "x" * 300), 2, "is no tag"),
        (("note", "walk", "x" * limits.EDIT_VALUE_BYTES_MAX), 2, "is too large"),
        (("tag", "r" * 300, "x"), 2, "300 bytes"),
        (("show", "nothing"), 1, "there is no run 'nothing'"),
        (("mark", "walk", "splendid"), 2, "splendid"),
    ):
        found = fabric.cli(*words)
        assert (found[0], found[1]) == (code, ""), words
        assert sentence in found[2], words
        assert len(found[2].splitlines()) == 1, words


def test_a_file_is_read_only_and_says_how_to_edit(fabric: Fabric) -> None:
    fabric.record("walk")
    done = run("runs", "tag", "walk", "x", "--store", str(fabric.file))
    assert done.returncode == 2
    assert f"a store file is read-only: start its store with telefabric up --data {fabric.folder}" in done.stderr
    listed = run("runs", "list", "--store", str(fabric.file)).stdout.splitlines()
    assert listed[1].split()[:2] == ["walk", "completed"]


def test_without_a_broker_or_a_store_it_is_said_at_once(fabric: Fabric) -> None:
    fabric.record("walk")
    fabric.store.stop()
    wait_for(lambda: _absent(fabric.address) == ["store"], "the broker has noticed", 40)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="no store is attached to the broker: start one"):
        fabric.edit("tag", "walk", "x")
    assert time.monotonic() - began < patience(2)
    fabric.broker.stop()
    with pytest.raises(Unreachable, match="nobody answers"):
        ask_edit(fabric.address, "tag", "walk", "x", timeout_s=1)


def _absent(address: Address) -> list[str]:
    found: list[str] = json.loads(run("status", "--json", "--connect", address.url).stdout)["absent"]
    return found


@pytest.mark.parametrize("victim", ["broker", "store"])
def test_an_edit_that_is_asked_for_while_a_part_is_dead_is_applied_once(fabric: Fabric, victim: str) -> None:
    fabric.record("walk")
    dead: Service = getattr(fabric, victim)
    dead.kill()
    answers: list[str | TelefabricError] = []

    def ask() -> None:
        try:
            answers.append(fabric.edit("bookmark", "walk", ["agent_0", 0, 0, 1]))
        except TelefabricError as error:
            answers.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(1.5)  # at least one message went nowhere
    assert asking.is_alive()
    dead.start()
    asking.join(patience(40))
    assert answers == ["run 'walk' has bookmark 1 at episode 0, step 1"]
    assert fabric.rows("SELECT count(*) FROM bookmarks") == fabric.rows("SELECT count(*) FROM edits") == [(1,)]


def test_many_edits_at_once_while_the_store_is_killed_again_and_again_are_each_applied_once(fabric: Fabric) -> None:
    fabric.record("walk")
    many, failed = 20, []

    def ask(number: int) -> None:
        try:
            ask_edit(fabric.address, "bookmark", "walk", ["agent_0", 0, number, 0], timeout_s=patience(60))
        except TelefabricError as error:
            failed.append(error)

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(many)]
    for asker in askers:
        asker.start()
    for _ in range(3):
        time.sleep(0.3)
        fabric.store.kill()
        fabric.store.start()
    for asker in askers:
        asker.join(patience(70))
    assert failed == []
    found = sorted(row[0] for row in fabric.rows("SELECT episode_index FROM bookmarks"))
    assert found == list(range(many))


def test_edits_do_not_hold_up_a_run_and_a_run_that_runs_is_neither_marked_nor_deleted(fabric: Fabric) -> None:
    with connect(fabric.address.url, run="walk", spool=fabric.folder / "spool", exit_flush_s=patience(30)) as worker:
        worker.step(episode=0, step=0)
        assert worker.flush(patience(30))
        for number in range(1, 200):
            worker.step(episode=0, step=number)
            if number % 20 == 0:
                assert "has the tag" in fabric.edit("tag", "walk", f"at {number}")
        for command, value in (("delete", None), ("mark", ["failed", ""])):
            with pytest.raises(UsageError, match="'walk' runs"):
                fabric.edit(command, "walk", value)
        assert worker.flush(patience(30))
    assert fabric.rows("SELECT count(*) FROM steps") == [(200,)]


def test_a_lost_run_is_marked_deleted_and_its_spool_is_acknowledged_when_it_comes(fabric: Fabric) -> None:
    """The worker's machine was away for long; meanwhile somebody repaired the run, then deleted it."""
    worker = connect(fabric.address.url, run="walk", spool=fabric.folder / "spool", exit_flush_s=patience(30))
    worker.step(episode=0, step=0)
    assert worker.flush(patience(30))
    fabric.broker.kill()
    for step in range(1, 10):
        worker.step(episode=0, step=step)
    fabric.store.kill()
    _lose(fabric.file, "walk")
    fabric.store.start()
    db = fabric.rows("SELECT status FROM runs")
    assert db == [("lost",)]
    port = free_ports()  # a broker that the worker does not know
    with broker(port), store_at(fabric, port):
        other = Address("127.0.0.1", port)
        wait_for(lambda: _absent(other) == [], "the store is attached")
        assert "marked completed" in ask_edit(
            other, "mark", "walk", ["completed", "seen on its screen"], timeout_s=patience(20)
        )
        assert fabric.the("walk") is not None
        assert "is deleted" in ask_edit(other, "delete", "walk", timeout_s=patience(20))
    fabric.store.start()
    fabric.broker.start()
    assert worker.flush(patience(60)), "all of it is acknowledged"
    worker.close()
    assert fabric.the("walk") is None
    assert fabric.rows("SELECT count(*) FROM steps") == [(0,)]
    assert fabric.rows("SELECT discarded > 8 FROM deleted_streams") == [(1,)]


def _lose(file: Path, name: str) -> None:
    """As the store does after a minute without a word."""
    from telefabric.store.write.writer import Writer

    writer = Writer(file)
    rows = writer.begin()
    rows.lost += writer.unfinished()[0]
    writer.begin_commit(rows)
    writer.end_commit()
    writer.close()


def store_at(fabric: Fabric, port: int) -> Service:
    """The same file, at another broker: the one of before has let go of it."""
    fabric.store.kill()
    return store(port, fabric.folder)


def test_who_may_edit_is_a_matter_of_the_key_and_the_audit_has_its_name(lab: Lab) -> None:
    """Over a saved connection, by its name."""
    workers, readers, editors = (lab.join(name, role) for name, role in (
        ("wim", Role.WORKER), ("clara", Role.CLIENT), ("otto", Role.OPERATOR),
    ))  # fmt: skip
    assert lab.work("wim", "walk") == ""
    for address in (workers, readers):
        with pytest.raises(UsageError, match="may not send edit: ask for a ticket of the role operator"):
            ask_edit(address, "tag", "walk", "x", timeout_s=patience(20))
    assert "has the tag" in ask_edit(editors, "tag", "walk", "x", timeout_s=patience(20))
    done = run("runs", "mark", "walk", "failed", "--connect", "otto")
    assert (done.returncode, done.stderr) == (0, "")
    assert "marked by otto" in run("runs", "show", "walk", "--connect", "clara").stdout
    lab.revoke("otto")
    began = time.monotonic()
    wait_for(lambda: _refused(editors), "the key is not admitted any more")
    assert _refused(editors)
    assert time.monotonic() - began < patience(15), "a refusal is not waited out"
    db = apsw.Connection(str(lab.data / FILE_NAME), flags=apsw.SQLITE_OPEN_READONLY)
    audit = db.execute("SELECT by, command, outcome FROM edits ORDER BY edit").fetchall()
    db.close()
    assert audit[:2] == [("otto", "tag", "done"), ("otto", "mark", "done")]
    assert {by for by, _, _ in audit} == {"otto"}


def _refused(address: Address) -> bool:
    try:
        ask_edit(address, "note", "walk", "again", timeout_s=patience(20))
    except NotAdmitted:
        return True
    return False
