"""The Prometheus endpoint of a service: threads that render the figures which the service showed last.

They share nothing with the service but one reference: the service's loop replaces it, a scrape reads it. One scrape is
rendered at a time, so that a flood of them takes no more of the interpreter than one thread. Who says nothing for some
seconds is hung up on, and so is the oldest when too many are connected: half-open connections keep no scrape waiting.
"""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from telefabric.address import Address
from telefabric.errors import EnvironmentProblem
from telefabric.files.processes import when_port_is_free
from telefabric.log.events import EventLog
from telefabric.metrics.figures import COMMON, COUNTER, HISTOGRAM, Distribution, Family, Figures

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:  # an install of before there were metrics
    raise EnvironmentProblem("metrics need: pip install 'telefabric[cli]'") from None

log = EventLog("telefabric.metrics")

_SILENT_S = 2.0
CONNECTIONS_MAX = 8
"""At a time; Prometheus needs one."""


class Endpoint(Collector):
    """Listens and serves from construction on, as long as the process lives.

    A scrape gets the latest figures, and those that `look` gives then.

    Raises `UsageError` for an address beyond loopback, `EnvironmentProblem` for a port in use.
    """

    def __init__(
        self, service: str, listen: Address, families: Sequence[Family], look: Callable[[], Figures] | None = None
    ) -> None:
        listen.require_loopback()
        self._latest: Figures = {}
        self._families = (*COMMON, *families)
        self._look = look
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        self.server = _listen(listen, registry)
        self.url = f"http://{listen.host}:{self.server.server_port}/metrics"
        threading.Thread(target=self.server.serve_forever, name="metrics", daemon=True).start()
        log.info("metrics.serving", service=service, url=self.url)

    def show(self, figures: Figures) -> None:
        """From now on these are what is scraped. They must not change any more."""
        self._latest = figures

    def collect(self) -> Iterator[Metric]:
        """The figures of a scrape; before there are any, none."""
        figures = {**self._latest, **self._look()} if self._look else self._latest
        return (_metric(family, figures) for family in self._families if family.name in figures)


def _metric(family: Family, figures: Figures) -> Metric:
    make: Any = {COUNTER: CounterMetricFamily, HISTOGRAM: HistogramMetricFamily}.get(family.kind, GaugeMetricFamily)
    metric: Metric = make(family.name, family.help, labels=family.labels)
    add: Any = metric.add_metric  # type: ignore[attr-defined]
    for labels, value in figures[family.name].items():
        if isinstance(value, Distribution):
            add(labels, [(str(bound).replace("inf", "+Inf"), count) for bound, count in value.counts], value.sum)
        else:
            add(labels, value)
    return metric


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 4 * CONNECTIONS_MAX

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry) -> None:
        self._registry = registry
        self._rendering = threading.Lock()
        self._connected: dict[socket.socket, None] = {}
        """Oldest first. `_lock` guards it, and that none of them is closed meanwhile."""
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """The base class's method, without a question to a name server for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def render(self) -> bytes:
        with self._rendering:
            return generate_latest(self._registry)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._connected) >= CONNECTIONS_MAX:
                oldest = next(iter(self._connected))
                del self._connected[oldest]
                with suppress(OSError):  # the peer was faster
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread, which waits for it, closes it then
            self._connected[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connected.pop(request, None)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Anything that ends a connection; a failure of its own would be a bug."""
        error = sys.exception()
        if isinstance(error, OSError):  # the scraper has hung up, or was cut off because it was too slow
            log.debug("metrics.hung_up", peer=_peer(client_address))
        else:
            log.error("metrics.failed", exc_info=error)


def _peer(client: Any) -> str:
    """HOST:PORT of a socket's address; IPv6 addresses have more parts."""
    host, port = client[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Handler(BaseHTTPRequestHandler):
    timeout = _SILENT_S
    server: _Server

    def do_GET(self) -> None:
        """Whatever the path: there is nothing else here."""
        body = self.server.render()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing for a scrape."""


def _listen(listen: Address, registry: CollectorRegistry) -> _Server:
    try:
        return when_port_is_free(lambda: _Server((listen.host.strip("[]"), listen.port), registry))
    except OSError as error:
        raise EnvironmentProblem(
            f"metrics cannot be served on {listen.url}: {error.strerror}: choose another port with --metrics"
        ) from None
