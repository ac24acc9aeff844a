"""The Prometheus endpoint of a service: one thread that renders the figures which the service showed last.

It shares nothing with the service but one reference: the service's loop replaces it, a scrape reads it. One scrape is
served at a time, and who says nothing for some seconds is hung up on, so that no number of connections costs more than
the one that is being served.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog

from telefabric.address import Address
from telefabric.errors import EnvironmentProblem
from telefabric.figures import COMMON, COUNTER, HISTOGRAM, Distribution, Family, Figures

try:
    from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:  # an install of before there were metrics
    raise EnvironmentProblem("metrics need: pip install 'telefabric[cli]'") from None

log = structlog.get_logger("telefabric.metrics")

_SILENT_S = 2.0


class Endpoint:
    """Listens on construction, serves until `close`.

    Raises `UsageError` for an address beyond loopback, `EnvironmentProblem` for a port in use.
    """

    def __init__(self, service: str, listen: Address, families: Sequence[Family]) -> None:
        listen.require_loopback()
        self._figures = _Shown((*COMMON, *families))
        registry = CollectorRegistry()
        registry.register(self._figures)
        ProcessCollector(registry=registry)
        self._server = _listen(listen)
        self._server.set_app(make_wsgi_app(registry))
        self.url = f"http://{listen.host}:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics.serving", service=service, url=self.url)

    def show(self, figures: Figures) -> None:
        """From now on these are what is scraped. They must not change any more."""
        self._figures.latest = figures

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Shown(Collector):
    """Renders the latest figures; before there are any, none."""

    def __init__(self, families: Sequence[Family]) -> None:
        self.latest: Figures = {}
        self._families = families

    def collect(self) -> Iterator[Metric]:
        figures = self.latest
        for family in self._families:
            if family.name in figures:
                yield _metric(family, figures)


def _metric(family: Family, figures: Figures) -> Metric:
    make: Any = {COUNTER: CounterMetricFamily, HISTOGRAM: HistogramMetricFamily}.get(family.kind, GaugeMetricFamily)
    metric: Metric = make(family.name, family.help, labels=family.labels)
    add: Any = metric.add_metric  # type: ignore[attr-defined]
    for labels, value in figures[family.name].items():
        if isinstance(value, Distribution):
            add(labels, [(_bound(bound), count) for bound, count in value.counts], value.sum)
        else:
            add(labels, value)
    return metric


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else str(seconds)


class _Server(WSGIServer):
    def server_bind(self) -> None:
        """As the base does, without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who scrapes has hung up, or was too slow."""
        log.debug("metrics.hung_up", peer=str(client_address))


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _SILENT_S

    def log_message(self, format: str, *arguments: Any) -> None:
        """A scrape is no event."""


def _listen(listen: Address) -> _Server:
    host = listen.host.removeprefix("[").removesuffix("]")
    kind = _Server6 if ":" in host else _Server
    try:
        return kind((host, listen.port), _Handler)
    except OSError as error:
        raise EnvironmentProblem(
            f"metrics cannot be served on {listen.url}: {error.strerror}: choose another port with --metrics"
        ) from None
