"""The remedy for required subscribers that are not attached to a broker."""

from __future__ import annotations

from collections.abc import Iterable

from telefabric.address import Address

STORE = "store"
"""The name by which `telefabric store` attaches."""


def remedy(address: Address, absent: Iterable[str], store: str = "") -> str:
    """The remedies for all of them; `store` is the remedy for a store that runs and does not answer."""
    start = store or f"telefabric store --connect {address.url}"
    return "; ".join(
        start if name == STORE
        else f"start the program that subscribes as {name}, or leave {name} out of the broker's --required"
        for name in absent
    )  # fmt: skip
