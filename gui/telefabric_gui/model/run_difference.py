"""The metadata of two runs, compared value by value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from telefabric.feed import RunView
from telefabric_gui.formatting import NONE, metadata_of, short

VALUES_MAX = 500
"""Values of a run that are compared."""
_LENGTH = 300


class Difference(NamedTuple):
    name: str
    before: str
    now: str

    @property
    def equal(self) -> bool:
        return self.before == self.now


def difference(before: RunView, now: RunView) -> list[Difference]:
    """Every value of either, by name, those that differ first."""
    old, new = _values_of(before), _values_of(now)
    found = [Difference(name, old.get(name, NONE), new.get(name, NONE)) for name in {**new, **old}]
    return sorted(found, key=lambda one: one.equal)


def _values_of(run: RunView) -> dict[str, str]:
    found = {"control mode": run.control_mode, "agents": ", ".join(run.agents) or NONE}
    for _, (name, value) in zip(range(VALUES_MAX), _flat("", metadata_of(run.metadata)), strict=False):
        found[name] = short(value, _LENGTH)
    return found


def _flat(above: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A map's values by name, those of maps inside it with dots between the names."""
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(f"{above}{short(name)}.", inner)
        else:
            yield f"{above}{short(name)}", inner
