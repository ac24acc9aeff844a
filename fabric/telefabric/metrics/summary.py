"""When a service looks at its own figures: each second for its metrics, each minute for its health summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from telefabric import limits
from telefabric.address import Address
from telefabric.log.events import EventLog
from telefabric.metrics.figures import Family, Figures, common, summary

if TYPE_CHECKING:
    from telefabric.metrics.endpoint import Endpoint

log = EventLog("telefabric.health")


def endpoint_of(
    service: str, listen: Address | None, families: Sequence[Family], look: Callable[[], Figures] | None = None
) -> Endpoint | None:
    """A service's metrics endpoint; None while metrics are off. Raises as `Endpoint` does.

    `families` are those that the service shows and those that `look` gives, which is asked at each scrape.
    """
    if listen is None:
        return None
    from telefabric.metrics.endpoint import Endpoint  # takes 50 ms, so only a service with metrics imports it

    return Endpoint(service, listen, families, look)


class Health:
    """Asked in each turn of a service's loop. `show` is given the figures each second; without it nobody needs them
    but the summary.
    """

    def __init__(
        self, service: str, families: Sequence[Family], show: Callable[[Figures], None] | None, now_ns: int
    ) -> None:
        self._service = service
        self._families = families
        self._show = show
        self._summary_due_ns = now_ns + int(limits.SUMMARY_S * limits.NS)
        self._due_ns = self._summary_due_ns if show is None else now_ns

    def tend(self, make: Callable[[int], Figures], now_ns: int) -> None:
        """Make figures when they are due; `make` is given the time."""
        if now_ns < self._due_ns:
            return
        figures = {**common(self._service, time.time()), **make(now_ns)}
        if self._show is not None:
            self._show(figures)
        if now_ns >= self._summary_due_ns:
            self._summary_due_ns = now_ns + int(limits.SUMMARY_S * limits.NS)
            told = summary(self._families, figures)
            match self._service:
                case "broker":
                    log.info("broker.summary", **told)
                case "store":
                    log.info("store.summary", **told)
                case _:
                    log.info("query.summary", **told)
        self._due_ns = self._summary_due_ns if self._show is None else now_ns + int(limits.FIGURES_S * limits.NS)
