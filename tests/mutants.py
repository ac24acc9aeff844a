"""Broken rules, one at a time: small patches of the classes that the simulator drives, each of which it has to notice.

A rule that lives in the input and output around the sessions (the store's transaction, the spool's files) is broken in
the simulator's model of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from simulator import Database, Spool, Store

from telefabric.broker.core.credit import _Account
from telefabric.broker.core.durable import BrokerCore
from telefabric.subscribe.core.intake import Intake, Judgement, Verdict
from telefabric.uplink.core.stream import Phase, SendGap, StreamSession
from telefabric.wire.batch import parse_header


class Mutant(NamedTuple):
    """`name` says what is done wrong; `broken` takes the place of an attribute of a class."""

    name: str
    owner: type
    attribute: str
    broken: Any

    @contextmanager
    def applied(self) -> Iterator[None]:
        with patch.object(self.owner, self.attribute, self.broken, create=True):
            yield


MUTANTS: list[Mutant] = []
SEEDS = {
    "accept_a_batch_of_another_instance": 202,
    "ask_a_store_once": 10,
    "do_not_forget_what_was_in_flight": 12,
    "drop_a_batch_that_is_half_stored": 17,
    "lend_again_what_a_worker_still_holds": 34,
    "obey_a_dead_instance": 166,
    "remove_a_segment_before_the_position_is_synced": 85,
    "say_attached_once": 1357,
    "skip_nothing_of_a_batch_that_is_half_stored": 17,
    "take_credit_of_a_dead_instance": 1207,
    "take_credit_of_any_epoch": 108,
    "wait_for_acknowledgements_for_ever": 14,
}
"""Of mutants that need a rare schedule: a seed that notices them, tried before all from 0 on. When the rules or the
simulator come to draw other numbers it is out of date, and its test slow."""


def mutant(owner: type, attribute: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Note a mutant; the function gets what it replaces as its first argument."""

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        real = owner.__dict__[attribute]

        def broken(*values: Any, **named: Any) -> Any:
            return function(real, *values, **named)

        MUTANTS.append(Mutant(function.__name__, owner, attribute, broken))
        return function

    return note


def note_property(name: str, owner: type, attribute: str, read: Callable[[Any], Any]) -> None:
    MUTANTS.append(Mutant(name, owner, attribute, property(read, lambda self, value: None)))


# -- the store ---------------------------------------------------------------------------------------------------


@mutant(Store, "accept")
def acknowledge_before_commit(real, store, stream, first, last, reason):
    real(store, stream, first, last, reason)
    store.acknowledge({stream: last})


@mutant(Store, "fail")
def acknowledge_a_failed_commit(real, store):
    store.acknowledge({stream: last for stream, _, last, _ in store.database.transaction})
    store.fails = False
    store.intake.forget_oldest(0, ())
    store.database.roll_back()


@mutant(Store, "fail")
def go_on_after_a_failed_commit(real, store):
    store.fails = False
    store.database.roll_back()


@mutant(Database, "add")
def gap_row_outside_the_transaction(real, database, stream, first, last, reason):
    if reason:
        database.rows.setdefault(stream, []).append((first, last, reason))
    else:
        real(database, stream, first, last, reason)


@mutant(Database, "commit")
def watermark_before_its_rows(real, database):
    rows = database.transaction[1:]
    database.marks.update({stream: last for stream, _, last, _ in database.transaction})
    moved = {stream: last for stream, _, last, _ in database.transaction}
    database.transaction[:] = rows
    real(database)
    return moved


# -- the intake --------------------------------------------------------------------------------------------------


@mutant(Intake, "judge")
def accept_beyond_expected(real, intake, header):
    judgement = real(intake, header)
    if judgement.verdict in (Verdict.NACK, Verdict.AHEAD):
        intake._streams[header.stream].expected = header.last_seq + 1
        return Judgement(Verdict.ACCEPT)
    return judgement


@mutant(Intake, "judge")
def accept_what_is_stored(real, intake, header):
    judgement = real(intake, header)
    return Judgement(Verdict.ACCEPT) if judgement.verdict is Verdict.DUPLICATE else judgement


@mutant(Intake, "judge")
def skip_nothing_of_a_batch_that_is_half_stored(real, intake, header):
    return real(intake, header)._replace(skip=0)


@mutant(Intake, "judge")
def drop_a_batch_that_is_half_stored(real, intake, header):
    judgement = real(intake, header)
    return Judgement(Verdict.DUPLICATE) if judgement.skip else judgement


# -- the broker --------------------------------------------------------------------------------------------------


@mutant(BrokerCore, "_acknowledge")
def acknowledge_the_maximum(real, core, state):
    highest = max(state.marks[name] for name in core._required)
    marks, state.marks = state.marks, dict.fromkeys(state.marks, highest)
    real(core, state)
    state.marks = marks


note_property(
    "require_who_is_connected",
    BrokerCore,
    "_required",
    lambda core: tuple(getattr(core, "durables", ())) or ("store",),
)


@mutant(BrokerCore, "_hello")
def welcome_before_the_store_reported(real, core, peer, message, now_ns):
    real(core, peer, message, now_ns)
    state = core._streams.get(message.info.stream)
    if state is not None:
        state.marks = dict.fromkeys(core._required, message.oldest - 1)
        core._open(state, now_ns)


@mutant(BrokerCore, "_attach")
def keep_streams_open_when_a_store_attaches(real, core, peer, message, now_ns):
    with patch.object(BrokerCore, "_hold", lambda self, state: None):
        real(core, peer, message, now_ns)


@mutant(BrokerCore, "_hold")
def keep_the_credit_of_a_lost_subscriber(real, core, state):
    with patch.object(type(core._credit), "close", lambda self, stream: None):
        real(core, state)


@mutant(BrokerCore, "batch")
def accept_a_batch_of_another_instance(real, core, message):
    instance, core.instance = core.instance, parse_header(message)[0].session
    real(core, message)
    core.instance = instance


@mutant(BrokerCore, "batch")
def accept_a_batch_of_an_ended_epoch(real, core, message):
    header, _ = parse_header(message)
    state = core._streams.get(header.stream)
    if state is None:
        real(core, message)
        return
    epoch, state.epoch = state.epoch, header.epoch
    real(core, message)
    state.epoch = max(epoch, state.epoch)


@mutant(BrokerCore, "_new_epoch")
def number_epochs_by_stream(real, core, state, expected):
    core._epoch = state.epoch
    real(core, state, expected)


@mutant(BrokerCore, "_attach_again")
def say_attached_once(real, core, now_ns):
    pass


@mutant(BrokerCore, "_ask_again")
def ask_a_store_once(real, core, now_ns):
    pass


note_property("lend_again_what_a_worker_still_holds", _Account, "reserved", lambda account: account.granted)


# -- the worker's session ----------------------------------------------------------------------------------------


@mutant(StreamSession, "_start")
def do_not_reset_the_cursor(real, session, epoch, expected, credit, now_ns):
    cursor = session.cursor
    real(session, epoch, expected, credit, now_ns)
    session.cursor = max(cursor, expected)


@mutant(StreamSession, "_start")
def do_not_reset_the_credit(real, session, epoch, expected, credit, now_ns):
    real(session, epoch, expected, max(session.credit, credit), now_ns)


@mutant(StreamSession, "_forget_in_flight")
def do_not_forget_what_was_in_flight(real, session):
    pass


@mutant(StreamSession, "credited")
def take_credit_of_any_epoch(real, session, message):
    if session.phase is Phase.STREAMING:
        session.credit = message.credit_bytes


@mutant(StreamSession, "credited")
def take_credit_of_a_dead_instance(real, session, message):
    instance, session.instance = session.instance, message.instance
    real(session, message)
    session.instance = instance


@mutant(StreamSession, "rewind")
def obey_a_dead_instance(real, session, message, now_ns):
    instance, session.instance = session.instance, message.instance
    real(session, message, now_ns)
    session.instance = instance


@mutant(StreamSession, "rewind")
def take_a_rewind_for_an_acknowledgement(real, session, message, now_ns):
    real(session, message, now_ns)
    session.acked = max(session.acked, session.cursor - 1)


@mutant(StreamSession, "sent")
def take_sent_for_acknowledged(real, session, last_seq, size, now_ns):
    real(session, last_seq, size, now_ns)
    session.acked = max(session.acked, last_seq)


@mutant(StreamSession, "tick")
def wait_for_acknowledgements_for_ever(real, session, now_ns):
    pass


@mutant(StreamSession, "who")
def do_not_answer_who(real, session, message, now_ns):
    pass


@mutant(StreamSession, "next_send")
def do_not_tell_a_gap(real, session, *, oldest, **situation):
    decision = real(session, oldest=oldest, **situation)
    return None if isinstance(decision, SendGap) else decision


@mutant(StreamSession, "next_send")
def tell_a_gap_one_too_long(real, session, **situation):
    decision = real(session, **situation)
    return decision._replace(last_seq=decision.last_seq + 1) if isinstance(decision, SendGap) else decision


# -- the spool ---------------------------------------------------------------------------------------------------


@mutant(Spool, "sync_position")
def remove_a_segment_before_the_position_is_synced(real, spool):
    pass


@mutant(Spool, "drop_oldest")
def drop_without_counting(real, spool):
    real(spool)
    spool.dropped.clear()
