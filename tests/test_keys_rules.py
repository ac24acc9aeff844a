"""The rules of keys, without sockets and files: tickets, roles, and what the registry decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from telefabric import limits
from telefabric.errors import UsageError
from telefabric.keys.core.rates import RATES, Rates
from telefabric.keys.core.registry import Enrolled, Key, Refusal, Registry, TicketRecord
from telefabric.keys.core.roles import INVITED, Domain, Role, covers, may_enter, may_send
from telefabric.keys.core.ticket import Ticket
from telefabric.wire import control

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICKET = Ticket(b"s" * 32, b"x" * 32, "tcp://lab:7750", 7757, 1_777_900_000)
OLD = TicketRecord("ada", Role.WORKER, NOW, NOW + HOUR, "sweep-*")
LOCKED_UP = "T" * 40
"""A ticket's key."""


def with_ticket(**changes) -> Registry:
    return Registry().invite(LOCKED_UP, replace(OLD, **changes))


def enrolled(registry: Registry, public: str = "A" * 40, now: datetime = NOW, brief: bool = False) -> Enrolled:
    found = registry.enrol(LOCKED_UP, public, "ada@desk", now, brief=brief)
    assert isinstance(found, Enrolled), found
    return found


def refused(registry: Registry, public: str = "B" * 40, now: datetime = NOW) -> Refusal:
    found = registry.enrol(LOCKED_UP, public, "", now, brief=False)
    assert isinstance(found, Refusal), found
    return found


# -- tickets -----------------------------------------------------------------------------------------------------


def test_a_ticket_is_one_line_and_says_all():
    line = TICKET.encode()
    assert line.startswith("tf1")
    assert line.isascii()
    assert len(line) < 180
    assert not set(line) & set(" \n=+/")
    assert Ticket.decode(line) == TICKET
    assert Ticket.decode(f"\n  {line[:70]}\n   {line[70:]} \n") == TICKET, "mail breaks lines"
    assert Ticket.decode(f'"{line}"') == TICKET
    assert TICKET.enrol == "tcp://lab:7757"


@given(st.data())
def test_no_ticket_that_is_cut_or_changed_is_read(data):
    line = TICKET.encode()
    place = data.draw(st.integers(3, len(line) - 1))
    for wrong in (line[:place], line[:place] + data.draw(st.sampled_from("A_z9")) + line[place + 1 :], line + "AAAA"):
        said = _said_of(wrong)
        assert said == str(TICKET) or "copy the line" in said, "a bit of the last letter may mean nothing"
        assert len(wrong) < 20 or wrong[3:20] not in said


def _said_of(line: str) -> str:
    try:
        return str(Ticket.decode(line))
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize("wrong", ["", "tcp://lab:7750", "tf1", "tf1====", "tf1é", "hello"])
def test_what_is_no_ticket(wrong):
    with pytest.raises(UsageError, match="no whole ticket"):
        Ticket.decode(wrong)


def test_a_ticket_of_another_version_says_so():
    with pytest.raises(UsageError, match="another version"):
        Ticket.decode("tf2" + TICKET.encode()[3:])


def test_no_secret_is_shown():
    assert "xxxx" not in repr(TICKET)
    assert "eHh4" not in repr(TICKET)
    assert "xxxx" not in f"{[TICKET]}"


# -- roles -------------------------------------------------------------------------------------------------------


def test_which_role_enters_which_socket():
    entered = {role: "".join(one.value[0] if may_enter(role, one) else "-" for one in Domain) for role in INVITED}
    assert entered == {  # control data live durable watch query enrol
        Role.WORKER: "cdl----",
        Role.CLIENT: "c---wq-",
        Role.OPERATOR: "c---wq-",
        Role.STORE: "c--d---",
        Role.RELAY: "cdldwq-",
    }
    assert not any(may_enter(role, Domain.ENROL) for role in Role)


def test_which_role_sends_which_message():
    hello = control.Hello(1, control.StreamInfo(bytes(16), "run", "worker", "agent", 1), 1, 0)
    attach, watch = control.Attach(1, "store"), control.Watch(1, "client")
    sends = {role: [may_send(role, one) for one in (hello, attach, watch, control.StatusRequest())] for role in Role}
    assert sends == {
        Role.ANY: [True, True, True, True],
        Role.BROKERS_USER: [True, True, True, True],
        Role.OWNER: [True, True, True, True],
        Role.WORKER: [True, False, False, True],
        Role.CLIENT: [False, False, True, True],
        Role.OPERATOR: [False, False, True, True],
        Role.STORE: [False, True, False, True],
        Role.RELAY: [True, True, True, True],
    }


def test_everybody_may_ask_the_time_and_only_who_publishes_may_beat_for_a_stream() -> None:
    beat = control.Beat(1, [control.StreamBeat(b"s" * 16, 1, 1, 0, 0, 0, 0)])
    assert all(may_send(role, control.Beat(1, [])) for role in Role)
    assert {role for role in Role if not may_send(role, beat)} == {Role.CLIENT, Role.OPERATOR, Role.STORE}


@pytest.mark.parametrize(
    ("runs", "run", "covered"),
    [("*", "x", True), ("sweep-*", "sweep-1", True), ("sweep-*", "Sweep-1", False), ("a[12]", "a3", False)],
)
def test_a_pattern_covers_runs(runs, run, covered):
    assert covers(runs, run) is covered


# -- admission ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [one for one in Domain if one is not Domain.ENROL])
def test_a_ticket_opens_the_socket_enrol_and_nothing_else(domain):
    registry = with_ticket()
    found = registry.admit(domain, LOCKED_UP, NOW)
    assert isinstance(found, Refusal)
    assert (found.reason, found.name) == ("ticket_key", "ada")
    assert isinstance(registry.admit(Domain.ENROL, LOCKED_UP, NOW), TicketRecord)


def test_who_is_admitted():
    registry = enrolled(with_ticket()).registry
    for domain in Domain:
        found = registry.admit(domain, "A" * 40, NOW)
        if may_enter(Role.WORKER, domain):
            assert isinstance(found, Key)
            assert found.name == "ada"
        else:
            assert isinstance(found, Refusal)
            assert found.reason == ("not_a_ticket" if domain is Domain.ENROL else "role")
    stranger = registry.admit(Domain.CONTROL, "Z" * 40, NOW)
    assert isinstance(stranger, Refusal)
    assert stranger.reason == "unknown_key"


# -- enrolment ---------------------------------------------------------------------------------------------------


def test_a_one_time_ticket_lets_one_key_in_and_answers_it_again():
    registry, key = enrolled(with_ticket())
    assert key == Key("ada", Role.WORKER, NOW, "sweep-*", None, None, LOCKED_UP, "ada@desk")
    again = enrolled(registry, now=NOW + 5 * HOUR)
    assert again == (registry, key), "a reply that was lost burns nothing, whenever it is asked for again"
    assert refused(registry).reason == "used"
    assert "telefabric keys invite" in refused(registry).sentence


def test_a_reusable_ticket_lets_many_in_under_names_of_their_own():
    registry = with_ticket(reusable=True)
    names = []
    for letter in "ABC":
        registry, key = enrolled(registry, letter * 40, brief=True)
        names.append(key.name)
        assert key.expires == OLD.expires, "a brief key ends with its ticket"
    assert names == ["ada-1", "ada-2", "ada-3"]
    found = registry.admit(Domain.DATA, "A" * 40, NOW + HOUR)
    assert isinstance(found, Refusal)
    assert found.reason == "expired"


def test_expired_revoked_and_unknown_tickets_are_answered_in_words():
    registry = with_ticket()
    expired = refused(registry, now=NOW + HOUR)
    assert expired.reason == "expired"
    assert "expired on 2026-05-04 13:00 UTC, and the broker's clock says 2026-05-04 13:00 UTC" in expired.sentence
    assert refused(registry.revoke("ada", NOW)).reason == "revoked"
    assert refused(Registry()).reason == "unknown_ticket"
    assert refused(enrolled(registry).registry.revoke("ada", NOW), "A" * 40).reason == "revoked", "the same key again"


def test_a_key_cannot_be_enrolled_twice_and_a_ticket_cannot_become_a_key():
    registry = enrolled(with_ticket()).registry.invite("U" * 40, TicketRecord("bob", Role.CLIENT, NOW, NOW + HOUR))
    for public in ("A" * 40, "U" * 40, LOCKED_UP):
        found = registry.enrol("U" * 40, public, "", NOW, brief=False)
        assert isinstance(found, Refusal)
        assert found.reason == "known_key"


def test_names_mean_one_key_until_it_ends():
    registry = with_ticket()
    again = TicketRecord("ada", Role.CLIENT, NOW, NOW + HOUR)
    with pytest.raises(UsageError, match="choose another name"):
        registry.invite("U" * 40, again)
    registry = enrolled(registry).registry
    with pytest.raises(UsageError, match="choose another name"):
        registry.invite("U" * 40, again)
    assert registry.revoke("ada", NOW).invite("U" * 40, again).tickets["U" * 40].role is Role.CLIENT
    reusable = enrolled(with_ticket(reusable=True)).registry
    with pytest.raises(UsageError, match="choose another name"):
        reusable.invite("U" * 40, TicketRecord("ada-1", Role.CLIENT, NOW, NOW + HOUR))
    later = TicketRecord("ada", Role.CLIENT, NOW + 2 * HOUR, NOW + 3 * HOUR)
    with pytest.raises(UsageError, match="choose another name"):
        reusable.invite("U" * 40, later)


def test_to_revoke_a_reusable_ticket_revokes_what_came_with_it():
    registry = with_ticket(reusable=True)
    for letter in "AB":
        registry = enrolled(registry, letter * 40).registry
    one = registry.revoke("ada-1", NOW)
    assert [key.revoked for key in one.keys.values()] == [NOW, None]
    all_of_them = registry.revoke("ada", NOW)
    assert [key.revoked for key in all_of_them.keys.values()] == [NOW, NOW]
    assert refused(all_of_them, "C" * 40).reason == "revoked"
    with pytest.raises(UsageError, match="telefabric keys list"):
        all_of_them.revoke("ada", NOW)
    with pytest.raises(UsageError, match="telefabric keys list"):
        registry.revoke("eve", NOW)


def test_a_brief_key_ends_with_its_work_and_no_other_does():
    registry = with_ticket(reusable=True)
    brief, lasting = enrolled(registry, "A" * 40, brief=True), enrolled(registry, "B" * 40)
    assert brief.registry.end_brief("ada-1", NOW).keys["A" * 40].is_live(NOW) is False
    assert lasting.registry.end_brief("ada-1", NOW) is lasting.registry
    assert brief.registry.end_brief("eve", NOW) is brief.registry


def test_what_ended_long_ago_is_forgotten_and_the_registry_has_a_limit(monkeypatch):
    registry = enrolled(with_ticket()).registry.revoke("ada", NOW)
    later = NOW + timedelta(days=limits.KEYS_KEPT_DAYS, hours=2)
    fresh = registry.invite("U" * 40, TicketRecord("bob", Role.CLIENT, later, later + HOUR))
    assert not fresh.keys
    assert list(fresh.tickets) == ["U" * 40]
    monkeypatch.setattr(limits, "KEYS_MAX", 1)
    full = enrolled(with_ticket(reusable=True)).registry
    assert refused(full).reason == "full"


@pytest.mark.parametrize("domain", list(RATES))
def test_a_key_may_send_so_much_in_a_second_and_takes_nothing_from_others(domain):
    rates, rate = Rates(), RATES[domain]
    assert all(rates.grants("ada", domain, 1, 0) for _ in range(rate.messages))
    assert not rates.grants("ada", domain, 1, limits.NS - 1)
    assert rates.grants("bob", domain, 1, limits.NS - 1)
    assert rates.grants("ada", domain, rate.size + 1, limits.NS), "in the next second, and one message always"
    assert not rates.grants("ada", domain, 1, limits.NS)
