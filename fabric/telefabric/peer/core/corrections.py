"""A broker's corrections of this program's messages: each kind is logged once."""

from __future__ import annotations

from telefabric.wire import control

_KINDS_MAX = 32


class Corrections:
    """The corrections on one connection."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str | None, str | None]] = set()

    def is_new(self, error: control.Error) -> bool:
        """Whether to tell it."""
        kind = (error.reason, error.about, error.field)
        if kind in self._told or len(self._told) >= _KINDS_MAX:
            return False
        self._told.add(kind)
        return True
