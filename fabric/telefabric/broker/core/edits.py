"""The edits that wait for an answer: from whoever asks for them to the stores that apply them, and back.

The broker decides who may edit, and applies nothing itself. It keeps an edit until every store has answered; whoever
asks says it again until then, which is how an edit survives a lost message and a restart of any part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from telefabric import limits
from telefabric.broker.core.state import DurableSubscriber
from telefabric.peer.core.principal import Peer
from telefabric.wire import control
from telefabric.wire.edits import FAILED, OUTCOMES, value_of

Sends = list[tuple[Peer, control.Message]]


@dataclass(slots=True)
class _UnderWay:
    asker: Peer
    """Who said it last."""
    began_ns: int
    stores: frozenset[str] = frozenset()
    """Those to which it was sent."""
    answers: dict[str, control.Edited] = field(default_factory=dict)


class Edits:
    """Times are monotonic nanoseconds. Not thread-safe."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, _UnderWay] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def ask(
        self, asker: Peer, edit: control.Edit, stores: Sequence[DurableSubscriber], absent: str, now_ns: int
    ) -> Sends:
        """What to send because of an edit; `absent` names required subscribers that are not attached.

        Raises `WireError`, a sentence with the remedy, for an edit that nobody could apply.
        """
        value_of(edit)
        able = [store for store in stores if store.said.edits]
        if absent:
            return self._fail(edit, asker, f"no {absent} is attached to the broker: start one with: telefabric store")
        if not able:
            return self._fail(
                edit, asker, "the store is of a version that cannot edit: pip install -U telefabric there"
            )
        under_way = self._under_way.get(edit.id)
        if under_way is None:
            if len(self) >= limits.EDITS_MAX:
                return self._fail(edit, asker, f"the broker waits for {limits.EDITS_MAX} other edits: try again")
            under_way = self._under_way[edit.id] = _UnderWay(asker, now_ns)
        under_way.asker = asker
        under_way.stores = frozenset(store.name for store in able)
        told = replace(edit, by=asker.principal.name)
        return [(store.peer, told) for store in able if store.name not in under_way.answers]

    def answered(self, store: str, message: control.Edited) -> Sends:
        """The answer of one store: the last one, or the worst of them, is passed on."""
        under_way = self._under_way.get(message.id)
        if under_way is None or store not in under_way.stores or message.outcome not in OUTCOMES:
            return []
        under_way.answers[store] = message
        if not under_way.stores <= under_way.answers.keys():
            return []
        del self._under_way[message.id]
        return [(under_way.asker, max(under_way.answers.values(), key=lambda one: OUTCOMES.index(one.outcome)))]

    def tick(self, now_ns: int) -> Sends:
        """Give up those that no store has answered in time."""
        late = [id for id, one in self._under_way.items() if now_ns - one.began_ns > limits.EDIT_S * limits.NS]
        why = "the store has not answered: see telefabric status"
        return [(self._under_way.pop(id).asker, control.Edited(id, FAILED, why)) for id in late]

    @staticmethod
    def _fail(edit: control.Edit, asker: Peer, why: str) -> Sends:
        return [(asker, control.Edited(edit.id, FAILED, why))]
