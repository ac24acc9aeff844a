"""Telefabric: a telemetry fabric for programs that step.

These names are what other programs may rely on, with `telefabric_schemas` (events), `telefabric_workers`,
`telefabric.feed` and `telefabric.ring`; other modules may change. Each name is imported when it is first used,
so that a program loads no more than it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telefabric.address import Address as Address
    from telefabric.errors import ClosedError as ClosedError
    from telefabric.errors import EnvironmentProblem as EnvironmentProblem
    from telefabric.errors import SpoolError as SpoolError
    from telefabric.errors import SpoolFull as SpoolFull
    from telefabric.errors import StoreError as StoreError
    from telefabric.errors import TelefabricError as TelefabricError
    from telefabric.errors import Unreachable as Unreachable
    from telefabric.errors import UsageError as UsageError
    from telefabric.errors import WireError as WireError
    from telefabric.store.read.open import open_store as open_store
    from telefabric.store.read.query import Page as Page
    from telefabric.store.read.query import StoredEvent as StoredEvent
    from telefabric.store.read.reader import Reader as Reader
    from telefabric.subscribe.durable import DurableBatch as DurableBatch
    from telefabric.subscribe.durable import DurableSubscription as DurableSubscription
    from telefabric.subscribe.live import LiveEvent as LiveEvent
    from telefabric.subscribe.live import LiveSubscription as LiveSubscription
    from telefabric.wire.live import QueuePolicy as QueuePolicy
    from telefabric.wire.policy import parse_policy as parse_policy

__version__ = "0.1.0"

_NAMES_OF = {
    "address": ("Address",),
    "errors": (
        "ClosedError", "EnvironmentProblem", "SpoolError", "SpoolFull", "StoreError", "TelefabricError", "Unreachable",
        "UsageError", "WireError",
    ),
    "store.read.open": ("open_store",),
    "store.read.query": ("Page", "StoredEvent"),
    "store.read.reader": ("Reader",),
    "subscribe.durable": ("DurableBatch", "DurableSubscription"),
    "subscribe.live": ("LiveEvent", "LiveSubscription"),
    "wire.live": ("QueuePolicy",),
    "wire.policy": ("parse_policy",),
}  # fmt: skip
_MODULE_OF = {name: f"telefabric.{module}" for module, names in _NAMES_OF.items() for name in names}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605  (ruff does not see that it is a list)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
