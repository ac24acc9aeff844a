"""Sending one stream's durable batches: what its session decides, as bytes on the data socket."""

from __future__ import annotations

import time

import msgspec

from telefabric.uplink.core.stream import SendBatch, SendGap
from telefabric.uplink.linked_stream import LinkedStream
from telefabric.uplink.sockets import Sockets
from telefabric.wire import batch, records
from telefabric_schemas import Gap

_BATCHES_A_TURN = 4
"""A megabyte: then what is live, and the other streams, have their turn."""


def send_durable(linked: LinkedStream, sockets: Sockets, now_ns: int) -> bool:
    """Send what the session allows; True if that is more than one turn's worth, so that the rest has to wait."""
    session, spool = linked.session, linked.spool
    for _ in range(_BATCHES_A_TURN):
        cursor = session.cursor
        linked.unsent_bytes = spool.unsent_bytes(cursor)
        decision = session.next_send(
            oldest=spool.first_held(cursor),
            head=spool.head,
            unsent_bytes=linked.unsent_bytes,
            now_ns=now_ns,
            hurry=linked.hurry or linked.closing,
        )
        if decision is None or not _carry_out(linked, sockets, decision, now_ns):
            return False
    return True


def _carry_out(linked: LinkedStream, sockets: Sockets, decision: SendBatch | SendGap, now_ns: int) -> bool:
    """Send one batch or gap; False when the socket is full or the credit too small for the next event."""
    session, spool = linked.session, linked.spool
    if isinstance(decision, SendGap):
        first, last, reason = spool.lost(decision.first_seq, decision.last_seq)
        event = Gap(first, last, reason, time.time_ns())
        body, count, flags = records.frame(_encoder.encode(event)), 1, batch.FLAG_GAP
    else:
        chunk = spool.read(decision.first_seq, decision.bytes_max)
        if chunk is None:
            return False
        if len(chunk.body) + batch.HEADER_BYTES > decision.credit_bytes:
            session.too_large(len(chunk.body))
            return False
        body, first, last, count, flags = chunk.body, chunk.first_seq, chunk.last_seq, chunk.events, 0
    assert session.instance is not None
    header = batch.Header(
        flags=flags, session=session.instance, stream=spool.info.stream, epoch=session.epoch, first_seq=first,
        last_seq=last, events=count, counter=0, time_ns=time.time_ns(),
    )  # fmt: skip
    message = batch.pack(header, body)
    if not sockets.send_data(spool.info.stream, message):
        return False
    session.sent(last, len(message), now_ns)
    return True


_encoder = msgspec.msgpack.Encoder()
