"""Telefabric: a telemetry fabric for programs that step.

These names are what other programs may rely on, with `telefabric_schemas` (events), `telefabric_workers`,
`telefabric.feed` and `telefabric.ring`; other modules may change. Each name is imported when it is first used,
so that a program loads no more than it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telefabric.address import Address
    from telefabric.errors import (
        ClosedError,
        EnvironmentProblem,
        SpoolError,
        SpoolFull,
        StoreError,
        TelefabricError,
        Unreachable,
        UsageError,
        WireError,
    )
    from telefabric.peer.edit_request import ask_edit
    from telefabric.store.read.query import Page, StoredEvent
    from telefabric.store.read.reader import Reader
    from telefabric.store.read.remote_reader import open_store
    from telefabric.subscribe import DurableBatch, DurableSubscription, LiveEvent, LiveSubscription
    from telefabric.wire.policy import QueuePolicy, parse_policy

__version__ = "0.1.0"
__all__ = [
    "Address", "ClosedError", "DurableBatch", "DurableSubscription", "EnvironmentProblem", "LiveEvent",
    "LiveSubscription", "Page", "QueuePolicy", "Reader", "SpoolError", "SpoolFull", "StoreError", "StoredEvent",
    "TelefabricError", "Unreachable", "UsageError", "WireError", "ask_edit", "open_store", "parse_policy",
]  # fmt: skip
_MODULES = {
    "Address": "address", "Page": "store.read.query", "QueuePolicy": "wire.policy", "Reader": "store.read.reader",
    "StoredEvent": "store.read.query", "open_store": "store.read.remote_reader", "parse_policy": "wire.policy",
    "ask_edit": "peer.edit_request",
    **dict.fromkeys(("DurableBatch", "DurableSubscription", "LiveEvent", "LiveSubscription"), "subscribe"),
}  # fmt: skip
"""Where each name is; the others are in `telefabric.errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"telefabric.{_MODULES.get(name, 'errors')}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
