"""The registry: whose key is whose, what each may do, and which tickets may still be used. Decisions, no files.

Public keys are text in Z85, 40 characters, as ZeroMQ writes them. Times are in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from telefabric import limits
from telefabric.errors import UsageError
from telefabric.keys.core.roles import Domain, Role, may_enter

_NEW_TICKET = "ask for a new ticket (telefabric keys invite)"


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key that was admitted."""

    name: str
    role: Role
    created: datetime
    runs: str = "*"
    """The runs that it may publish, as a pattern."""
    expires: datetime | None = None
    revoked: datetime | None = None
    ticket: str = ""
    """The public half of the ticket with which it came."""
    holder: str = ""
    """User and machine, as the holder says."""

    @property
    def ended(self) -> datetime | None:
        return self.revoked or self.expires

    def is_live(self, now: datetime) -> bool:
        return self.ended is None or now < self.ended


class TicketRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A ticket that was made. One that is spent stays known for a time, so that its holder gets an answer."""

    name: str
    role: Role
    created: datetime
    expires: datetime
    runs: str = "*"
    reusable: bool = False
    revoked: datetime | None = None
    uses: int = 0

    @property
    def ended(self) -> datetime:
        return self.revoked or self.expires

    def is_open(self, now: datetime) -> bool:
        return now < self.ended and (self.reusable or not self.uses)


class Refusal(NamedTuple):
    """Why somebody is not let in."""

    reason: str
    """One word, for counters."""
    name: str
    """Of the key or ticket; empty for an unknown one."""
    sentence: str


class Enrolled(NamedTuple):
    """The registry with a new key."""

    registry: Registry
    key: Key


class Registry(msgspec.Struct, frozen=True):
    """All keys and tickets, by public key. Changes make another one."""

    version: int = 1
    keys: dict[str, Key] = {}
    tickets: dict[str, TicketRecord] = {}

    # -- who may come in -----------------------------------------------------------------------------------------

    def admit(self, domain: Domain, public: str, now: datetime) -> Key | TicketRecord | Refusal:
        """Who may enter a socket. Tickets enter `enrol` also when they are spent, to hear so."""
        if domain is Domain.ENROL:
            return self._admit_ticket(public)
        key = self.keys.get(public)
        if key is None:
            if public in self.tickets:
                name = self.tickets[public].name
                return Refusal("ticket_key", name, "the key of a ticket only joins: use telefabric join")
            return Refusal("unknown_key", "", f"the broker does not know this key: {_NEW_TICKET}")
        refusal = _why_ended(key, f"the key {key.name}", now)
        if refusal is None and not may_enter(key.role, domain):
            refusal = Refusal("role", key.name, f"the key {key.name} has the role {key.role}, which may not do this")
        return refusal or key

    def _admit_ticket(self, public: str) -> TicketRecord | Refusal:
        ticket = self.tickets.get(public)
        if ticket is not None:
            return ticket
        name = self.keys[public].name if public in self.keys else ""
        return Refusal("not_a_ticket", name, f"the broker does not know this ticket: {_NEW_TICKET}")

    def enrol(self, ticket_key: str, public: str, holder: str, now: datetime, *, brief: bool) -> Enrolled | Refusal:
        """Let a new key in with a ticket; `brief` keys end with the ticket. The same key gets the same answer again."""
        ticket = self.tickets.get(ticket_key)
        if ticket is None:
            return Refusal("unknown_ticket", "", f"the broker does not know this ticket: {_NEW_TICKET}")
        known = self.keys.get(public)
        if known is not None and known.ticket == ticket_key:
            return _why_ended(known, f"the key {known.name}", now) or Enrolled(self, known)
        if known is not None or public in self.tickets:
            return Refusal("known_key", ticket.name, "this key is in use already: join with a new one")
        what = f"the ticket for {ticket.name}"
        refusal = _why_ended(ticket, what, now) or self._why_unusable(ticket, what)
        if refusal is not None:
            return refusal
        key = Key(
            name=f"{ticket.name}-{ticket.uses + 1}" if ticket.reusable else ticket.name,
            role=ticket.role,
            created=now,
            runs=ticket.runs,
            expires=ticket.expires if brief else None,
            ticket=ticket_key,
            holder=holder,
        )
        used = replace(ticket, uses=ticket.uses + 1)
        found = replace(self, keys={**self.keys, public: key}, tickets={**self.tickets, ticket_key: used})
        return Enrolled(found.tidied(now), key)

    def _why_unusable(self, ticket: TicketRecord, what: str) -> Refusal | None:
        if ticket.uses and not ticket.reusable:
            return Refusal("used", ticket.name, f"{what} was used already, by another key: {_NEW_TICKET}")
        if len(self.keys) >= limits.KEYS_MAX:
            return Refusal("full", ticket.name, f"the registry has {limits.KEYS_MAX} keys: revoke some that are unused")
        return None

    # -- what its owner changes ----------------------------------------------------------------------------------

    def invite(self, public: str, ticket: TicketRecord) -> Registry:
        """With a new ticket. Raises `UsageError` when its name is taken."""
        if any(name == ticket.name for name in self._names(ticket.created)):
            raise UsageError(
                f"{ticket.name} is the name of a key or ticket that may still be used: choose another name, or revoke "
                f"it first (telefabric keys revoke {ticket.name})"
            )
        return replace(self, tickets={**self.tickets, public: ticket}).tidied(ticket.created)

    def _names(self, now: datetime) -> Iterator[str]:
        """The names that mean somebody: of live keys, of the reusable tickets they came with, and of open tickets."""
        for key in self.keys.values():
            if key.is_live(now):
                yield key.name
                if key.ticket in self.tickets:
                    yield self.tickets[key.ticket].name
        yield from (ticket.name for ticket in self.tickets.values() if ticket.is_open(now))

    def add(self, public: str, key: Key) -> Registry:
        """With a key that came without a ticket: the owner's."""
        return replace(self, keys={**self.keys, public: key})

    def revoke(self, name: str, now: datetime) -> Registry:
        """Without the keys and tickets of a name, and the keys that came with a ticket of that name.

        Raises `UsageError` when nobody of that name could come in any more.
        """
        tickets = {public for public, one in self.tickets.items() if one.name == name and now < one.ended}
        of_tickets = {public for public, one in self.tickets.items() if one.name == name}
        keys = {
            public
            for public, one in self.keys.items()
            if (one.name == name or one.ticket in of_tickets) and one.is_live(now)
        }
        if not keys and not tickets:
            raise UsageError(f"no key or ticket that may still be used is named {name}: see telefabric keys list")
        return replace(
            self,
            keys={public: replace(one, revoked=now) if public in keys else one for public, one in self.keys.items()},
            tickets={
                public: replace(one, revoked=now) if public in tickets else one for public, one in self.tickets.items()
            },
        )

    def end_brief(self, name: str, now: datetime) -> Registry:
        """Without the key of that name, if it was to end with its work, which is done."""
        done = {
            public: replace(one, expires=now)
            for public, one in self.keys.items()
            if one.name == name and one.ticket and one.expires is not None and one.is_live(now)
        }
        return replace(self, keys={**self.keys, **done}) if done else self

    def tidied(self, now: datetime) -> Registry:
        """Without what ended long ago."""
        ended = now - timedelta(days=limits.KEYS_KEPT_DAYS)
        return replace(
            self,
            keys={public: one for public, one in self.keys.items() if one.ended is None or one.ended > ended},
            tickets={public: one for public, one in self.tickets.items() if one.ended > ended},
        )


def _why_ended(one: Key | TicketRecord, what: str, now: datetime) -> Refusal | None:
    if one.revoked is not None:
        return Refusal("revoked", one.name, f"{what} was revoked on {_day(one.revoked)}: {_NEW_TICKET}")
    if one.expires is not None and now >= one.expires:
        return Refusal(
            "expired",
            one.name,
            f"{what} expired on {_day(one.expires)}, and the broker's clock says {_day(now)}: {_NEW_TICKET}",
        )
    return None


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
