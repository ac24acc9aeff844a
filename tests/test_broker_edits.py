"""Edits on their way through the broker: who may edit, which stores apply them, and which answer is passed on."""

import msgspec
import pytest
from test_broker_durable import MIRROR, STORE, World, local, own

from telefabric import limits
from telefabric.keys.core.roles import Role
from telefabric.peer.core.principal import Peer, Principal
from telefabric.wire import control
from telefabric.wire.edits import COMMANDS, Bookmark, Marked

ASKER = own(b"asker")
ID = b"e" * 16


def edit(command="tag", value="good", *, run="run", id=ID, by=""):
    return control.Edit(id, command, run, msgspec.Raw(msgspec.msgpack.encode(value)), by)


def attach(world, peer=STORE, name="store", edits=True):
    return world.tell(peer, control.Attach(control.PROTOCOL, name, None, "", None, edits))


def done(outcome="done", sentence="it is done", id=ID):
    return control.Edited(id, outcome, sentence)


@pytest.fixture
def world():
    world = World()
    attach(world)
    return world


def test_an_edit_goes_to_the_store_with_the_name_of_its_principal_and_its_answer_back(world):
    assert world.tell(ASKER, edit(by="the queen")) == [(STORE, edit(by="ada"))]
    assert world.tell(STORE, done()) == [(ASKER, done())]
    assert world.tell(STORE, done()) == [], "nobody waits for it any more"


def test_an_edit_that_is_said_again_goes_to_the_store_again_and_its_answer_to_who_asked_last(world):
    """Any message may have been lost, and the asker's connection may be another one."""
    world.tell(ASKER, edit())
    again = own(b"again")
    assert world.tell(again, edit()) == [(STORE, edit(by="ada"))]
    assert world.tell(STORE, done()) == [(again, done())]


def test_a_store_that_attached_again_meanwhile_gets_the_edit_when_it_is_said_again(world):
    world.tell(ASKER, edit())
    other = own(b"store again")
    attach(world, other)
    assert world.tell(ASKER, edit()) == [(other, edit(by="ada"))]
    assert world.tell(other, done()) == [(ASKER, done())]


@pytest.mark.parametrize(
    ("attached", "words"), [([], "no store is attached"), ([("store", False)], "a version that cannot edit")]
)
def test_without_a_store_that_edits_it_fails_at_once(attached, words):
    world = World()
    for name, edits in attached:
        attach(world, STORE, name, edits)
    ((peer, answer),) = world.tell(ASKER, edit())
    assert (peer, answer.id, answer.outcome) == (ASKER, ID, "failed")
    assert words in answer.sentence


def test_with_several_stores_all_apply_it_and_the_worst_answer_counts():
    world = World(required=("store", "mirror"))
    attach(world)
    assert "no mirror is attached" in world.tell(ASKER, edit())[0][1].sentence
    attach(world, MIRROR, "mirror")
    assert {peer for peer, _ in world.tell(ASKER, edit())} == {STORE, MIRROR}
    assert world.tell(MIRROR, done("refused", "there is no run")) == []
    assert world.tell(ASKER, edit()) == [(STORE, edit(by="ada"))], "the mirror has answered"
    assert world.tell(STORE, done()) == [(ASKER, done("refused", "there is no run"))]


def test_a_required_subscriber_that_stores_elsewhere_is_left_out():
    world = World(required=("store", "exporter"))
    attach(world)
    attach(world, MIRROR, "exporter", edits=False)
    assert world.tell(ASKER, edit()) == [(STORE, edit(by="ada"))]


def test_a_subscriber_that_was_not_asked_cannot_answer(world):
    attach(world, MIRROR, "stranger")
    world.tell(ASKER, edit())
    assert world.tell(MIRROR, done()) == []
    assert world.tell(STORE, done("perhaps")) == [], "no outcome of ours"
    assert world.tell(STORE, done()) == [(ASKER, done())]


@pytest.mark.parametrize("role", [Role.WORKER, Role.CLIENT, Role.STORE, Role.RELAY])
def test_a_principal_of_another_role_may_not_edit(world, role):
    peer = Peer(b"asker", Principal("eve", role))
    ((to, answer),) = world.tell(peer, edit())
    assert (to, answer.reason, answer.about) == (peer, "role", "edit")
    assert "eve" in answer.message
    assert "operator" in answer.message
    assert world.core.dropped["role"] == 1


def test_without_keys_only_the_user_of_the_broker_may_edit(world):
    ((_, answer),) = world.tell(local(b"stranger"), edit())
    assert (answer.reason, answer.about, world.core.dropped["other_user"]) == ("other_user", "edit", 1)
    assert answer.message.endswith("or make keys with telefabric keys init"), "not cut"


def test_an_operator_may_edit_and_is_named(world):
    peer = Peer(b"asker", Principal("ada", Role.OPERATOR))
    assert world.tell(peer, edit()) == [(STORE, edit(by="ada"))]


@pytest.mark.parametrize(
    ("command", "value", "words"),
    [
        ("explode", None, "no edit is named 'explode': the edits are tag"),
        ("tag", 7, "a tag, printable text"),
        ("tag", "", "is no tag"),
        ("untag", "a\x1b[2J", "is no tag"),
        ("tag", "\u20ac" * 100, "is no tag"),
        ("note", ["x"], "the whole note"),
        ("note", "x" * limits.EDIT_VALUE_BYTES_MAX, "too large"),
        ("bookmark", ["agent", 0, 1], "agent, environment, episode, step"),
        ("bookmark", ["agent", 0, 1, 2, b"short"], "agent, environment, episode, step"),
        ("bookmark", ["agent", 0, 1, 2**63], "agent, environment, episode, step"),
        ("bookmark", ["agent", 0, 1, 2, None, "x" * 256], "256 bytes"),
        ("bookmark", ["agent", 0, 1, 2, None, "\x07"], "cannot be printed"),
        ("unbookmark", -1, "the number of a bookmark"),
        ("mark", ["splendid", ""], "an outcome (completed, cancelled, failed, lost)"),
        ("mark", ["failed", "\x07"], "cannot be printed"),
        ("archive", True, "the value of archive is nil"),
        ("delete", "yes", "the value of delete is nil"),
    ],
)
def test_a_value_of_another_type_is_one_sentence_and_goes_nowhere(world, command, value, words):
    ((peer, answer),) = world.tell(ASKER, edit(command, value))
    assert (peer, answer.reason, answer.about) == (ASKER, "bad_edit", "edit")
    assert answer.field == ("command" if command == "explode" else "value")
    assert words in answer.message
    assert len(control.encode(answer)) <= limits.ERROR_BYTES_MAX


VALUES = {
    "tag": "Größe 2", "untag": "x", "note": "two\nlines", "bookmark": Bookmark("agent", -1, 2, 3, b"s" * 16, "goal"),
    "unbookmark": 3, "mark": Marked("completed", "it was only the network"), "archive": None, "unarchive": None,
    "delete": None,
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_reaches_the_store_as_it_was_said(world, command):
    ((peer, told),) = world.tell(ASKER, edit(command, VALUES[command]))
    assert (peer, told) == (STORE, edit(command, VALUES[command], by="ada"))
    assert control.decode(control.encode(told)) == told


def test_the_broker_waits_for_a_limited_number_of_edits_and_for_each_a_limited_time(world):
    many = [edit(id=b"%016d" % number) for number in range(limits.EDITS_MAX)]
    for one in many:
        assert world.tell(ASKER, one)[0][0] == STORE
    ((_, full),) = world.tell(ASKER, edit())
    assert (full.id, full.outcome) == (ID, "failed")
    assert "64 other edits" in full.sentence
    assert world.tell(ASKER, many[0]) == [(STORE, edit(id=many[0].id, by="ada"))], "this one is known"
    given_up = [message for peer, message in world.wait(limits.EDIT_S + 1, alive=[STORE]) if peer == ASKER]
    assert {answer.id for answer in given_up} == {one.id for one in many}
    assert {answer.outcome for answer in given_up} == {"failed"}
    assert world.tell(ASKER, edit()) == [(STORE, edit(by="ada"))]
