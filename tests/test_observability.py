"""Metrics and logs say what is true, and their tables in docs/observability.md are those of the code."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import zmq
from eventlog import logged_events
from processes import TELEFABRIC, Service, broker, free_ports, wait_for
from prometheus_client.parser import text_string_to_metric_families
from skips import requires
from slowness import patience
from test_bad_input import taken
from test_readme import rows

from telefabric import __version__
from telefabric.address import Address
from telefabric.broker.core import metrics as census
from telefabric.errors import UsageError
from telefabric.limits import REASONS_MAX
from telefabric.metrics.figures import COMMON, Family, Figures, Histogram, by_reason
from telefabric.metrics.summary import Health
from telefabric.peer.requests import ask_status
from telefabric.ring import metrics as ring_figures
from telefabric.settings import metrics_endpoint
from telefabric.store import metrics as store_figures
from telefabric.store.file.database import FILE_NAME
from telefabric.store.file.verify import audit
from telefabric.store.read import query_service as queryservice
from telefabric.store.read.remote_reader import RemoteReader
from telefabric.subscribe import LiveSubscription
from telefabric.wire.policy import SAMPLE, QueuePolicy
from telefabric_workers import connect

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs" / "observability.md"
pytestmark = requires("a checkout, with its documentation", PAGE.exists())
TEXT = PAGE.read_text("utf-8") if PAGE.exists() else ""
FAMILIES = {
    "Every service": COMMON,
    "Broker": census.FAMILIES,
    "Rings": ring_figures.FAMILIES,
    "Store": store_figures.FAMILIES,
    "Query service": queryservice.FAMILIES,
}
SERVICES = ("Broker", "Store", "Query service")
MAY_BE_EMPTY = {
    "telefabric_broker_sources_dropped_events", "telefabric_store_refused_batches_total", "telefabric_ring_rings",
    "telefabric_broker_keys_refused_total", "telefabric_query_keys_refused_total",
}  # fmt: skip
"""No series until there is a reason, and here is none."""
GARBAGE = 40
NS = 1_000_000_000


# -- the endpoints -----------------------------------------------------------------------------------------------
class Scraped(NamedTuple):
    """One metric of an answer: its kind, its labels in order of name, and its values by those of the labels."""

    kind: str
    labels: set[tuple[str, ...]]
    values: dict[tuple[str, ...], float]

    @property
    def value(self) -> float:
        return sum(self.values.values())


def scrape(port: int) -> dict[str, Scraped]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=patience(10)) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        samples = [one for one in family.samples if not one.name.endswith(("_bucket", "_sum"))]
        found[name] = Scraped(
            family.type,
            {tuple(sorted(one.labels)) for one in samples},
            {tuple(value for _, value in sorted(one.labels.items())): one.value for one in samples},
        )
    return found


class Fabric:
    """`telefabric up` with metrics and JSON logs, a worker that emits, and a live subscriber."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.metrics, self.stderr = free_ports(), free_ports(), folder / "stderr"
        self.url = f"tcp://127.0.0.1:{self.port}"
        options = ("--listen", self.url, "--data", str(folder), "--metrics", str(self.metrics), "--log-format", "json")
        self.service = Service([*TELEFABRIC, "up", *options], stderr=self.stderr)

    def metric(self, service: str, name: str) -> Scraped:
        return scrape(self.metrics + SERVICES.index(service))[name]

    def lines(self) -> list[dict[str, object]]:
        """Every whole line of the log."""
        return [json.loads(line) for line in self.stderr.read_text().split("\n")[:-1]]

    def said(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.lines() if line["event"] == event]


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    fabric = Fabric(tmp_path_factory.mktemp("observed"))
    with fabric.service:
        wait_for(lambda: len(fabric.said("metrics.serving")) == len(SERVICES), "all endpoints serve")
        yield fabric
        assert fabric.service.stop() == 0


def test_every_metric_that_is_scraped_is_documented_and_true(fabric: Fabric) -> None:
    address = Address.parse(fabric.url)
    with (
        LiveSubscription(address, name="looker", policy=QueuePolicy(mode=SAMPLE, every=2)) as live,
        connect(fabric.url, run="observed", spool=fabric.folder / "spool", exit_flush_s=patience(30)) as worker,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as stranger,
    ):
        wait_for(lambda: polled(live).instance, "the subscriber is attached")
        stranger.set(zmq.LINGER, 0)
        stranger.connect(fabric.url)
        for _ in range(GARBAGE):
            stranger.send(b"garbage")

        def emit() -> bool:
            worker.step(episode=0, step=0, observation=worker.emitted, reward=1.0)
            return bool(polled(live).received and live.dropped)

        wait_for(emit, "the subscriber has received some and was told of drops")
        assert worker.flush(patience(30))
        with RemoteReader(address) as reader:
            assert reader.runs()

        def settled() -> bool:
            polled(live)
            told, store, query = (scrape(fabric.metrics + offset) for offset in range(len(SERVICES)))
            return (
                told["telefabric_broker_emitted_events"].value == worker.emitted
                and told["telefabric_broker_durable_stored_events_total"].value == worker.emitted
                and told["telefabric_broker_backlog_events"].value == 0
                and told["telefabric_broker_live_received_events_total"].value > 0
                and store["telefabric_store_stored_events_total"].value == worker.emitted
                and query["telefabric_query_seconds"].value > 0
            )

        wait_for(settled, "all of it is in the metrics")
        before = ask_status(address).status
        asked_s = time.time()
        wait_for(
            lambda: fabric.metric("Broker", "telefabric_figures_time_seconds").value > asked_s, "figures are made anew"
        )
        answers = [scrape(fabric.metrics + offset) for offset in range(len(SERVICES))]
        after = ask_status(address).status
        stream, emitted = worker.stream_id, worker.emitted

    told, store, query = answers
    for service, answer in zip(SERVICES, answers, strict=True):
        rings = documented("Rings") if service == "Broker" else []
        compare(answer, [*documented("Every service"), *documented(service), *rings, *documented("The process")])
    stored = audit(fabric.folder / FILE_NAME, stream, emitted)
    assert store["telefabric_store_stored_events_total"].value == emitted <= stored.stored
    assert store["telefabric_store_quarantined_events_total"].value == 0
    assert store["telefabric_store_commit_seconds"].value > 0
    assert store["telefabric_store_file_bytes"].value + store["telefabric_store_log_bytes"].value > 8192
    assert (store["telefabric_store_attached"].value, store["telefabric_store_writing"].value) == (1, 1)
    assert told["telefabric_broker_durable_stored_events_total"].values == {("store",): emitted}
    assert told["telefabric_broker_acknowledged_events"].value == emitted
    assert told["telefabric_broker_watermark_lag_events"].values == {("store",): 0}
    assert told["telefabric_broker_required_absent"].values == {("store",): 0}
    streams = told["telefabric_broker_streams"].values
    assert set(streams) == {(state,) for state in census.STATES}
    assert sum(streams.values()) == 1
    assert set(told["telefabric_broker_streams_behind"].values.values()) == {0}
    assert told["telefabric_broker_dropped_total"].value == sum(after["dropped"].values()) >= GARBAGE
    for name in ("numbered", "delivered"):
        (value,) = told[f"telefabric_broker_live_{name}_events_total"].values.values()
        assert 0 < before["live"][0][name] <= value <= after["live"][0][name]
    assert told["telefabric_broker_live_dropped_events_total"].values[("sampled", "looker")] > 0
    assert told["telefabric_broker_sources_lost_in_transit_events"].value == 0
    assert query["telefabric_query_questions_total"].values == {("runs", "ok"): query["telefabric_query_seconds"].value}


def polled(live: LiveSubscription) -> LiveSubscription:
    live.poll(0.02)
    return live


def compare(answer: dict[str, Scraped], table: list[list[str]]) -> None:
    """Names, kinds and labels, both ways."""
    kinds = {row[0]: row[1] for row in table}
    assert {name: one.kind for name, one in answer.items()} == kinds
    for name, _, _, labels, _ in table:
        found = answer[name].labels
        assert found == {tuple(sorted(labels.replace(",", "").split()))} or (not found and name in MAY_BE_EMPTY), name


def documented(section: str) -> list[list[str]]:
    """The rows of the table of metrics in a section."""
    text = TEXT.partition(f"\n### {section}\n")[2].partition("\n##")[0]
    return [[cell.replace("`", "") for cell in row] for row in rows(text, "metric")]


@pytest.mark.parametrize("section", FAMILIES)
def test_the_tables_of_metrics_have_the_codes_own_words(section: str) -> None:
    expected = [[one.name, one.kind, ", ".join(one.labels), one.help] for one in FAMILIES[section]]
    assert [[row[0], row[1], row[3], row[4]] for row in documented(section)] == expected


def test_names_have_their_units_and_counters_their_total() -> None:
    for one in [one for families in FAMILIES.values() for one in families]:
        unit = next(row[2] for row in documented(section_of(one)) if row[0] == one.name)
        stem = one.name.removesuffix("_total")
        assert (one.kind == "counter") == (stem != one.name), one.name
        for known in ("seconds", "bytes", "events", "batches", "frames"):
            assert (unit == known) == stem.endswith(f"_{known}"), one.name


def section_of(family: Family) -> str:
    return next(section for section, families in FAMILIES.items() if family in families)


def test_the_sample_alerts_use_documented_metrics_only() -> None:
    text = (PROJECT / "docs" / "alerts.yml").read_text()
    expressions = re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)
    assert len(expressions) == len(re.findall(r"^ +- alert: \w+", text, re.MULTILINE)) > 10
    names = {name for one in expressions for name in re.findall(r"\btelefabric_\w+", one)}
    known = {row[0] for section in FAMILIES for row in documented(section)}
    assert {re.sub(r"(?<=_seconds)_(sum|count|bucket)$", "", name) for name in names} <= known
    labels = {label for one in expressions for label in re.findall(r"[{,](\w+)[=!]", one)}
    assert labels <= {"job", "reason", "verdict", "outcome"}
    of_metric = {one.name: set(one.labels) for families in FAMILIES.values() for one in families}
    for alert in re.split(r"^ +- alert: ", text, flags=re.MULTILINE)[1:]:
        has = {"instance"}.union(*(of_metric.get(name, set()) for name in re.findall(r"\btelefabric_\w+", alert)))
        assert set(re.findall(r"\$labels\.(\w+)", alert)) <= has, alert


# -- on and off --------------------------------------------------------------------------------------------------
def test_metrics_are_off_unless_they_are_asked_for_and_on_this_machine_only() -> None:
    assert metrics_endpoint() is None
    assert metrics_endpoint("off", 2) is None
    assert metrics_endpoint("9464", 2) == metrics_endpoint("tcp://127.0.0.1:9464", 2) == Address("127.0.0.1", 9466)
    with pytest.raises(UsageError, match="can be reached from other machines"):
        metrics_endpoint("tcp://0.0.0.0:9464")
    with pytest.raises(UsageError, match="should be off, a port such as 9464, or an address"):
        metrics_endpoint("http://127.0.0.1:9464/metrics")


WITHOUT = "import sys; sys.modules['prometheus_client'] = None; from telefabric.cli.main import main; main()"


def test_a_port_in_use_and_a_missing_library_are_one_sentence_each() -> None:
    port = free_ports()
    options = ("broker", "--listen", f"tcp://127.0.0.1:{free_ports()}", "--metrics", str(port))
    with taken(port), ThreadPoolExecutor() as pool:
        used, missing = pool.map(complaint_of, ([*TELEFABRIC, *options], [sys.executable, "-c", WITHOUT, *options]))
    assert used.startswith(f"telefabric: metrics cannot be served on tcp://127.0.0.1:{port}: ")
    assert missing == "telefabric: metrics need: pip install 'telefabric[cli]'"


def complaint_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(30), check=False)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    return sentence


# -- figures -----------------------------------------------------------------------------------------------------
def test_however_many_reasons_somebody_thinks_of_there_are_few_series() -> None:
    bounded = by_reason({f"reason {number}": 1 for number in range(1_000)})
    assert len(bounded) == REASONS_MAX + 1
    assert sum(bounded.values()) == 1_000
    assert bounded["other"] == 1_000 - REASONS_MAX


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)
    assert histogram.distribution().counts == ((0.1, 2), (1.0, 3), (float("inf"), 4))
    assert histogram.distribution().sum == pytest.approx(7.65)


# -- logs --------------------------------------------------------------------------------------------------------
def logged() -> dict[str, set[str]]:
    """The levels of every event name that the code logs."""
    found: dict[str, set[str]] = {}
    for folder in ("fabric", "gui", "workers"):
        for path in (PROJECT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text("utf-8"))):
                match call:
                    case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level), args=[first, *_]):
                        assert isinstance(first, ast.Constant), f"{path}:{call.lineno}: a name that nobody can look up"
                        name = str(first.value).partition(":")[0]
                        found.setdefault(name, set()).add("error" if level == "exception" else level)
    return found


def test_the_tables_of_events_are_those_of_the_code() -> None:
    table: dict[str, set[str]] = {}
    for name, level, _, meaning in event_rows():
        assert name.strip("`") not in table
        assert meaning
        table[name.strip("`")] = set(level.split(", "))
    assert table == logged()
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name in table)


def test_the_fields_of_events_are_those_of_the_code() -> None:
    fields = {row[0].strip("`"): row[2].replace("`", "") for row in event_rows()}
    for path in (PROJECT / "fabric").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name("log")), args=[ast.Constant(str(text)), *_]):
                    name, colon, _ = text.partition(":")
                    found = [one.arg or "see below" for one in call.keywords] or (["detail"] if colon else [])
                    assert fields[name] == ", ".join(found), f"{path}:{call.lineno}"


def event_rows() -> list[list[str]]:
    sections = re.split(r"\n### ", TEXT.partition("\n## Logs\n")[2])[1:]
    return [row for section in sections for row in rows(section, "event")]


def test_every_line_of_every_service_is_one_json_object(fabric: Fabric) -> None:
    expected = {"broker.started", "store.started", "store.attached", "metrics.serving"}
    wait_for(lambda: expected <= {line["event"] for line in fabric.lines()}, "all have said that they have begun")
    assert {line["service"] for line in fabric.said("metrics.serving")} == {"broker", "store", "query"}
    assert [line["url"] for line in fabric.said("metrics.serving")] == [
        f"http://127.0.0.1:{fabric.metrics + offset}/metrics" for offset in range(3)
    ]


def test_a_flood_of_garbage_is_a_line_a_second_that_counts_right(tmp_path: Path) -> None:
    port, metrics, stderr = free_ports(), free_ports(), tmp_path / "stderr"
    options = ("--metrics", str(metrics), "--log-format", "json")
    with (
        broker(port, *options, stderr=stderr),
        zmq.Context() as context,
        context.socket(zmq.DEALER) as stranger,
        context.socket(zmq.PUB) as publisher,
    ):
        for socket in (stranger, publisher):
            socket.set(zmq.LINGER, 0)
        stranger.connect(f"tcp://127.0.0.1:{port}")
        publisher.connect(f"tcp://127.0.0.1:{port + 1}")
        began, sent = time.monotonic(), 0
        while time.monotonic() - began < 2.5:
            publisher.send_multipart([b"topic", b"no batch"])
            stranger.send(b"garbage")
            sent += 1
            time.sleep(0.0005)

        def refused() -> list[dict[str, object]]:
            lines = [json.loads(line) for line in stderr.read_text().split("\n")[:-1]]
            return [line for line in lines if line["event"] == "broker.refused"]

        def counted() -> float:
            return scrape(metrics)["telefabric_broker_dropped_total"].value

        total = wait_for(lambda: counted() == sum(int(str(one["messages"])) for one in refused()) and counted(), "told")
        took = time.monotonic() - began
    assert total >= sent, "the stranger's are all there"
    told = refused()
    assert 2 <= len(told) <= took + 1
    assert all(line["level"] == "warning" and "left_out" not in line for line in told)
    assert all(sum(line["reasons"].values()) == line["messages"] for line in told)  # type: ignore[attr-defined]


# -- the health summary ------------------------------------------------------------------------------------------
def test_each_minute_a_summary_is_told_from_the_figures_that_metrics_show() -> None:
    shown: list[Figures] = []
    made: list[int] = []

    def make(now_ns: int) -> Figures:
        made.append(now_ns)
        return {"telefabric_broker_lane_bytes": {(): 7}, "telefabric_broker_dropped_total": {("live", "bad"): 2}}

    served = Health("broker", census.FAMILIES, shown.append, 0)
    quiet = Health("broker", census.FAMILIES, None, 0)
    with logged_events() as summaries:
        for tenths in range(1_250):
            served.tend(make, tenths * NS // 10)
    assert len(shown) == len(made) == 125, "once a second while there is an endpoint"
    assert summaries == [
        {"event": "broker.summary", "level": "info", "lane_bytes": 7, "dropped": {"live.bad": 2}}
    ] * 2  # fmt: skip
    assert shown[-1]["telefabric_build_info"] == {("broker", __version__): 1}
    made.clear()
    with logged_events() as summaries:
        for tenths in range(1_250):
            quiet.tend(make, tenths * NS // 10)
    assert made == [60 * NS, 120 * NS], "without one, for the summary alone"
    assert len(summaries) == 2


@pytest.mark.parametrize("section", SERVICES)
def test_the_summary_of_every_service_has_the_fields_of_the_page(section: str) -> None:
    said = TEXT.rpartition("The fields of a summary are")[2]
    for one in FAMILIES[section]:
        assert not one.summary or re.search(rf"\b{one.summary}\b", said), one.summary
