"""Runs that were resumed or have helpers, as the store behind a broker knows them."""

from __future__ import annotations

from collections.abc import Iterable

from telefabric.address import Address
from telefabric.cli.plain import clean
from telefabric.errors import StoreError, Unreachable
from telefabric.store.read.query import Run
from telefabric.store.read.remote_reader import RemoteReader

_PATIENCE_S = 1.0


def remarkable_runs(address: Address, run_ids: Iterable[str]) -> list[Run]:
    """The runs with several attempts, helpers or superseded streams; empty when no store answers within a second."""
    try:
        with RemoteReader(address, timeout_s=_PATIENCE_S) as reader:
            found = [reader.run(run_id) for run_id in run_ids]
    except (Unreachable, StoreError):  # the status shows a store that is absent or behind
        return []
    return [run for run in found if run is not None and (run.attempts > 1 or run.helpers or run.superseded)]


def sentence(run: Run) -> str:
    """A line such as: run walker: attempt 2, 1 stream superseded, 3 helpers"""
    counts = (
        f"{run.superseded} {'stream' if run.superseded == 1 else 'streams'} superseded" if run.superseded else "",
        f"{run.helpers} {'helper' if run.helpers == 1 else 'helpers'}" if run.helpers else "",
    )
    return ", ".join([f"run {clean(run.run_id)}: attempt {run.attempts}", *filter(None, counts)])
