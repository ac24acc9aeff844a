"""The services: `telefabric broker`, `telefabric store`, and both under `telefabric up`."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import closing
from typing import Any

import click

from telefabric import limits
from telefabric.address import Address
from telefabric.cli import storefile
from telefabric.cli.options import ignore_interrupt, logging_options, on_signals, setting, terminate, tied
from telefabric.files.open_files import files_for, raise_limit
from telefabric.keys.key_folder import KeyFolder
from telefabric.keys.saved_connections import address_of
from telefabric.log.events import EventLog
from telefabric.metrics.summary import endpoint_of
from telefabric.service.embedded import OFFSET_QUERY, Services
from telefabric.service.logs import set_up_logs
from telefabric.service.notify import Manager
from telefabric.service.supervisor import Part, Supervisor, ready, starting, stop_with_parent
from telefabric.settings import OFF, STORE_FILE_NAME, data_folder, metrics_endpoint, resolve

log = EventLog("telefabric.broker")

OFFSET_STORE_METRICS, OFFSET_QUERY_METRICS = 1, 2
_COLLECT_AFTER = 100_000
"""A transaction gathers some 100,000 values in lists, which the collector would scan again and again."""
_LOG_BYTES_USUAL = 64 * limits.MIB
"""A write-ahead log up to this size is usual, and is recovered in less than a second."""
_LOG_MIB_A_SECOND = 5
"""So much of its log a store moves into its file at its end, on a slow disk."""
_NICE = 5
"""When cores are busy, the store gives way to broker and clients: events that wait for it are safe in the spools."""


@click.command()
@setting("listen")
@setting("data")
@setting("streams_max")
@setting("required")
@setting("tap")
@setting("metrics")
@logging_options
@tied
def broker(
    listen: str | None, data: str | None, streams_max: str | None, required: str | None, tap: str | None,
    metrics: str | None, log_format: str | None, log_level: str | None, tied: bool,
) -> None:  # fmt: skip
    """Run the broker alone, until ^C or SIGTERM. Where the data folder has keys, it asks everybody for one.

    \b
    Example:
      telefabric broker --listen tcp://127.0.0.1:7750
      telefabric broker --required store,archive
    """
    from telefabric.broker.core.metrics import FAMILIES
    from telefabric.broker.service import Broker
    from telefabric.ring import metrics as rings

    if tied:
        ignore_interrupt()
        stop_with_parent(terminate)
    set_up_logs(log_format, log_level)
    address = Address.parse(resolve("listen", listen).value)
    names = resolve("required", required).value
    streams = resolve("streams_max", streams_max).value
    families = (*FAMILIES, *rings.FAMILIES)
    endpoint = endpoint_of("broker", metrics_endpoint(metrics), families, rings.figures)
    keys = KeyFolder(data_folder(data)).if_any()
    tapped = resolve("tap", tap).value
    manager = Manager(lambda: set_up_logs(log_format, log_level), tied=tied)
    show = endpoint.show if endpoint else None

    def made(listen: Address) -> Broker:
        made = Broker(listen, required=names, streams_max=streams, show=show, tend=manager.tend, keys=keys, tap=tapped)
        on_signals(manager.stopping_with(made.stop), manager.ask_to_reload)
        return made

    workers = raise_limit()
    if workers < streams:
        raised = f"raise the hard limit of open files to {files_for(streams)}"
        remedy = f"{raised} (ulimit -n in a shell, LimitNOFILE= in a unit), or give streams_max {max(workers, 1)}"
        log.warning("broker.few_files", workers=workers, streams_max=streams, remedy=remedy)
    service = made(address)
    ready(service.address.url)
    manager.ready(f"listening at {service.address.url}")
    service.run()
    while service.rotated:
        before, service = service, made(service.address)
        if not before.rotated:  # a signal came in between
            service.stop()
        service.run()


@click.group(invoke_without_command=True)
@setting("connect")
@setting("data")
@click.option("--query", metavar="URL",
              help="Address at which the store answers queries; by default four ports above the broker's.")  # fmt: skip
@setting("store_name", flag="--name")
@setting("lost_after_s")
@setting("frame_bytes_max")
@setting("group_readable")
@setting("metrics")
@logging_options
@tied
@click.pass_context
def store(
    ctx: click.Context, connect: str | None, data: str | None, query: str | None, store_name: str | None,
    lost_after_s: str | None, frame_bytes_max: str | None, group_readable: str | None, metrics: str | None,
    log_format: str | None, log_level: str | None, tied: bool,
) -> None:  # fmt: skip
    """Run the store alone, until ^C or SIGTERM: it writes all events that the broker receives to SQLite.

    \b
    Example:
      telefabric store --connect tcp://127.0.0.1:7750 --data ./runs
      telefabric store --connect lab --name archive
    """
    if ctx.invoked_subcommand is not None:
        return
    from telefabric.store.file.access import log_bytes
    from telefabric.store.metrics import FAMILIES
    from telefabric.store.service import Store

    if tied:  # before everything else, which may take minutes
        ignore_interrupt()
        stop_with_parent(terminate)
    set_up_logs(log_format, log_level)
    keys = KeyFolder(data_folder(data)).if_any()
    where = resolve("connect", connect).value
    broker_address, shares_keys = _broker_of(where, keys)
    host = Address.parse(resolve("listen").value).host if keys else "127.0.0.1"
    listen = Address.parse(query) if query else Address(host, broker_address.beside(OFFSET_QUERY).port)
    path = data_folder(data) / STORE_FILE_NAME

    def limits_set() -> dict[str, Any]:
        given = {"lost_after_s": lost_after_s, "frame_bytes_max": frame_bytes_max}
        return {name: resolve(name, value).value for name, value in given.items()}

    def reload() -> None:
        set_up_logs(log_format, log_level)
        service.reload(**limits_set())
        queries.reload()

    manager = Manager(reload, tied=tied)
    name = resolve("store_name", store_name).value
    options = {**limits_set(), "name": name, "group_readable": resolve("group_readable", group_readable).value == "on"}
    query_metrics = metrics_endpoint(metrics, OFFSET_QUERY_METRICS)
    endpoint = endpoint_of("store", metrics_endpoint(metrics, OFFSET_STORE_METRICS), FAMILIES)
    show = endpoint.show if endpoint else None

    def query_service() -> list[str]:
        return [
            sys.executable, "-P", "-m", "telefabric.store.read.query_service",
            "--listen", queries.url or listen.url, "--store", str(path),
            "--metrics", query_metrics.url if query_metrics else OFF,
            *(("--keys", str(keys.data)) if keys else ()),
            *(("--log-format", log_format) if log_format else ()), *(("--log-level", log_level) if log_level else ()),
        ]  # fmt: skip

    def tell(doing: str) -> None:
        starting(doing)
        manager.starting(doing)

    def serves() -> None:
        ready(str(path))  # raises when the supervisor is gone
        manager.ready(f"writing {path}")

    if log_bytes(path) > _LOG_BYTES_USUAL:
        tell(f"recovering a log of {log_bytes(path) >> 20} MiB")
    queries = Part("query service", query_service)
    opened = Store(broker_address, path, show=show, tell=tell, tend=manager.tend, ready=serves, **options)
    with closing(opened) as service, Supervisor([queries]):
        if shares_keys:  # else the broker is elsewhere, and nobody there can ask this store
            service.subscription.query = f"*:{Address.parse(queries.url).port}"
        on_signals(manager.stopping_with(service.stop), manager.ask_to_reload)
        if hasattr(os, "nice"):  # not on Windows; on Linux for this thread and those it starts, not the query service
            os.nice(_NICE)
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER)
        service.run()
        log_mib = log_bytes(path) >> 20
        needs_s = limits.STOP_S + log_mib / _LOG_MIB_A_SECOND
        manager.stopping(f"moving a log of {log_mib} MiB into the store", needs_s)


def _broker_of(where: str, keys: KeyFolder | None) -> tuple[Address, bool]:
    """The broker of a store, and whether both have these keys or none, so that its clients can ask the store.

    A broker that is named by a whole address has the same data folder.
    """
    if keys is None:
        address = address_of(where)
        return address, address.keys is None
    address = Address.parse(where)._replace(keys=keys.owner().keys) if "://" in where else address_of(where)
    return address, address.keys is None or address.keys.server == keys.server().public


for _command in (storefile.backup, storefile.extract, storefile.merge, storefile.verify):
    store.add_command(_command)


@click.command()
@setting("listen")
@setting("data")
@setting("tap")
@setting("metrics")
@logging_options
@tied
def up(
    listen: str | None, data: str | None, tap: str | None, metrics: str | None, log_format: str | None,
    log_level: str | None, tied: bool,
) -> None:  # fmt: skip
    """Run broker and store together, until ^C or SIGTERM, and restart a part that dies.

    \b
    Example:
      telefabric up
      telefabric up --listen tcp://127.0.0.1:7750 --data ./runs
      telefabric up --metrics 9464
    """
    set_up_logs(log_format, log_level)
    metrics_endpoint(metrics, OFFSET_QUERY_METRICS)
    address, port = Address.parse(resolve("listen", listen).value), resolve("metrics", metrics).value

    def reload() -> None:
        set_up_logs(log_format, log_level)
        services.reload()

    manager = Manager(reload)
    tapped = resolve("tap", tap).value
    services = Services(address, data_folder(data), log_format, log_level, port, manager, limits.HANG_S, tap=tapped)
    on_signals(manager.stopping_with(services.stop), manager.ask_to_reload)
    if tied:
        ignore_interrupt()
        stop_with_parent(services.stop)
    if services.start():
        ready(services.address.url)
        manager.ready(f"listening at {services.broker.url}, writing {services.file}")
        services.run()
