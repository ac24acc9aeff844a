"""The query service and the ways to it: garbage, floods, deadlines, deaths, and sentences when nobody is there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from processes import free_ports, wait_for
from slowness import patience
from store_fixtures import LOOPBACK, Scribe, attached, frame, query_behind_broker, running, step, stream

from telefabric import limits
from telefabric.address import Address
from telefabric.broker.service import Broker
from telefabric.errors import EnvironmentProblem, StoreError, Unreachable, UsageError
from telefabric.peer.requests import ask_status
from telefabric.service.embedded import Services
from telefabric.store.read import file_reader as reader_module
from telefabric.store.read import query
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query_service import QueryService
from telefabric.store.read.remote_reader import RemoteReader
from telefabric_workers import connect

NUMBER = b"12345678"
GOOD = msgspec.msgpack.encode(query.Runs(None, 0, 10))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "telemetry.sqlite"
    info = stream()
    with Scribe(found) as scribe:
        scribe.put(info, *map(step, range(1, 301)))
        scribe.put(info, *(frame(seq, data=b"x" * 400_000) for seq in range(301, 311)))
        scribe.commit()
    return found


@pytest.fixture
def service(path: Path) -> Iterator[QueryService]:
    found = QueryService(LOOPBACK, path)
    with running([found]):
        yield found


@contextmanager
def asker(address: Address) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(address.url)
        yield socket


def answer(socket: zmq.Socket[bytes], question: bytes, number: bytes = NUMBER) -> tuple[bytes, bytes]:
    socket.send_multipart((number, question))
    assert socket.poll(patience(10_000)), "no reply"
    echoed, status, body = socket.recv_multipart()
    assert echoed == number
    return status, body


def assert_answers(service: QueryService) -> None:
    with asker(service.address) as socket:
        status, body = answer(socket, GOOD)
        assert status == query.OK
        assert [run.run_id for run in msgspec.msgpack.decode(body, type=query.Page[query.Run]).rows] == ["run"]


# -- what comes in -----------------------------------------------------------------------------------------------
BAD_QUESTIONS: dict[str, Any] = {
    "empty": b"",
    "no MessagePack": b"\xc1\xc1\xc1",
    "no question": ["dance", 1, 2],
    "too few fields": ["events", 0],
    "a limit over the most": ["runs", None, 0, limits.QUERY_ROWS_MAX + 1],
    "a negative limit": ["runs", None, 0, -1],
    "an id over 63 bits": ["events", 2**64 - 1, None, None, None, None, 10],
    "a stream id of 3 bytes": ["since", "step", [[b"abc", 0]], 10],
    "too many kinds": ["events", 0, None, ["step"] * 40, None, None, 10],
    "an unknown kind": ["events", 0, None, ["dance"], None, None, 10],
    "a kind not asked for by seq": ["since", "log", [], 10],
    "text that is not UTF-8": b"\x94\xa4runs\xa1\xff\x00\x01",
    "nested without end": b"\x91" * 200_000,
}


@pytest.mark.parametrize("name", BAD_QUESTIONS)
def test_a_question_that_makes_no_sense_gets_a_sentence_and_stops_nothing(service: QueryService, name: str) -> None:
    bad = BAD_QUESTIONS[name]
    with asker(service.address) as socket:
        status, body = answer(socket, bad if isinstance(bad, bytes) else msgspec.msgpack.encode(bad))
        assert status == query.USAGE
        assert len(body.decode()) > 20
        assert b"\n" not in body
        assert answer(socket, GOOD)[0] == query.OK
    assert service.counts["usage"] == 1


def test_messages_that_are_no_requests_are_counted_and_stop_nothing(service: QueryService) -> None:
    bad = [[b""], [b"x"], [NUMBER], [b"short", GOOD], [NUMBER, GOOD, b"more"], [b""] * 50, [b"", NUMBER, GOOD]]
    with asker(service.address) as socket:
        for frames in bad:
            socket.send_multipart(frames)
        socket.send_multipart((b"the last", GOOD))
        said = []
        while not said or said[-1][0] != b"the last":
            assert socket.poll(patience(10_000)), "no reply"
            said.append(socket.recv_multipart())
    assert service.counts["bad_request"] == len(bad)
    *corrections, last = said
    assert last[1] == query.OK
    assert 1 <= len(corrections) <= limits.ERRORS_A_SECOND
    assert all((status, b"two frames" in body) == (query.USAGE, True) for _, status, body in corrections)
    assert {number for number, *_ in corrections} == {NUMBER, bytes(8)}


def test_unknown_trailing_fields_of_a_question_are_skipped(service: QueryService) -> None:
    with asker(service.address) as socket:
        status, _ = answer(socket, msgspec.msgpack.encode(["runs", None, 0, 10, "of a newer version", {}]))
        assert status == query.OK


def test_a_message_over_the_limit_is_answered_and_a_far_larger_one_costs_its_sender_the_connection(
    service: QueryService,
) -> None:
    with asker(service.address) as socket:
        status, said = answer(socket, b"x" * (limits.CONTROL_BYTES_MAX + 1))
        assert (status, b"over 1048576" in said) == (query.USAGE, True)
        socket.send_multipart((NUMBER, b"x" * (limits.CONTROL_BYTES_MAX + limits.OVERSIZED_BYTES + 1)))
        assert_answers(service)
        assert service.counts["usage"] == 1


def test_one_who_asks_and_never_reads_harms_nobody_and_is_given_little(service: QueryService) -> None:
    large = msgspec.msgpack.encode(query.Events(0, None, ["frame"], None, None, limits.QUERY_ROWS_MAX))
    with asker(service.address) as socket:
        socket.set(zmq.RCVHWM, 1)
        for _ in range(200):
            socket.send_multipart((NUMBER, large))
        wait_for(lambda: service.counts["not_reading"] > 0, "answers that nobody reads are dropped")
        assert_answers(service)


def test_an_asker_that_went_away_is_counted(service: QueryService) -> None:
    with asker(service.address) as socket:
        for _ in range(100):
            socket.send_multipart((NUMBER, msgspec.msgpack.encode(["events", 0, None, None, None, None, 300])))
        assert socket.poll(patience(10_000))
    wait_for(lambda: service.counts["ok"] > 0, "it answered")
    assert_answers(service)


def test_a_question_over_the_deadline_gets_a_sentence_and_the_next_is_answered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_PROGRESS_STEPS", 100)
    service = QueryService(LOOPBACK, path, deadline_s=0.0)
    with running([service]), asker(service.address) as socket:
        [marks] = msgspec.msgpack.decode(answer(socket, msgspec.msgpack.encode(query.Marks(None, 0, 10)))[1])[0]
        since = query.Since("step", [query.StreamSeq(marks[1], 0)], 2_000)
        status, body = answer(socket, msgspec.msgpack.encode(since))
        assert status == query.FAILED
        assert b"was cut off after 0 s: ask for less at a time" in body
        assert answer(socket, GOOD)[0] == query.OK


def test_a_stop_does_not_wait_for_the_question_in_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_PROGRESS_STEPS", 10)
    service = QueryService(LOOPBACK, path, deadline_s=60.0)
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    began = threading.Event()

    def forever(reader: FileReader, question: query.Runs) -> Any:
        began.set()
        return reader._query(endless).fetchall()

    monkeypatch.setattr(FileReader, "_runs", forever)
    with running([service]), asker(service.address) as socket:
        socket.send_multipart((NUMBER, GOOD))
        assert began.wait(patience(10))


# -- listening ---------------------------------------------------------------------------------------------------
def test_it_listens_on_this_machine_only(path: Path) -> None:
    with pytest.raises(UsageError, match="can be reached from other machines"):
        QueryService(Address("0.0.0.0", 0), path)


def test_a_port_in_use_and_a_missing_file_are_one_sentence_each(service: QueryService, path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="is in use"):
        QueryService(service.address, path)
    with pytest.raises(StoreError, match="there is no store at"):
        QueryService(LOOPBACK, path.with_name("missing.sqlite"))


# -- the process -------------------------------------------------------------------------------------------------
def command(path: Path, listen: str = LOOPBACK.url) -> list[str]:
    return [sys.executable, "-m", "telefabric.store.read.query_service", "--listen", listen, "--store", str(path)]


def test_the_process_says_where_it_answers_and_ends_with_its_standard_input(path: Path) -> None:
    few_files = ["sh", "-c", 'ulimit -Sn 100; exec "$@"', "sh", *command(path)]
    process = subprocess.Popen(few_files, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        word, url = process.stdout.readline().split()
        assert word == "ready"
        assert re.search(r"open files +(?!100 )", Path(f"/proc/{process.pid}/limits").read_text()), "it takes more"
        process.send_signal(signal.SIGINT)  # as ^C in its terminal would
        with asker(Address.parse(url)) as socket:
            assert answer(socket, GOOD)[0] == query.OK
        process.stdin.close()
        assert process.wait(patience(10)) == 0


def test_the_process_that_cannot_start_says_why(path: Path, service: QueryService) -> None:
    for arguments, sentence, code in (
        (command(path, service.address.url), "is in use", 1),
        (command(path.with_name("no.sqlite")), "there is no store at", 1),
        (command(path, "tcp://0.0.0.0:0"), "can be reached from other machines", 2),
    ):
        process = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert process.returncode == code
        assert process.stdout == ""
        assert sentence in process.stderr
        assert process.stderr.count("\n") == 1


PARENT = """
import sys, time
from telefabric.service.supervisor import Part, Supervisor
part = Part("query service", lambda: sys.argv[1:])
Supervisor([part]).start()
print(part.url, part.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_the_process_ends_when_its_parent_is_killed(path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        url, pid = parent.stdout.readline().split()
        with asker(Address.parse(url)) as socket:
            assert answer(socket, GOOD)[0] == query.OK
        parent.send_signal(signal.SIGKILL)
        try:
            parent.communicate(
                timeout=patience(10)
            )  # both hold its standard error: that ends when the last of them has
        except subprocess.TimeoutExpired:
            os.kill(int(pid), signal.SIGKILL)
            pytest.fail("the query service outlived its parent")


# -- the way to it -----------------------------------------------------------------------------------------------
def test_a_worker_s_events_are_read_over_the_address_that_the_worker_used(tmp_path: Path) -> None:
    with Services(LOOPBACK, tmp_path) as services:
        with connect(services.address.url, run="lake", spool=tmp_path / "spool") as worker:
            for index in range(20):
                worker.step(episode=0, step=index, action=1, observation=None, reward=0.5)
        wait_for(lambda: ask_status(services.address).endpoints.query, "the store is attached")
        with RemoteReader(services.address) as reader:
            kinds = [event.kind for event in reader.events(run_id="lake").rows]
    assert kinds == ["run_started", *["step"] * 20, "run_completed"]


def test_nobody_there_is_one_sentence_with_the_remedy() -> None:
    address = Address("127.0.0.1", free_ports())
    with pytest.raises(Unreachable) as caught:
        RemoteReader(address, timeout_s=0.3)
    assert str(caught.value) == (
        f"nobody answers at {address.url}: is the broker running there? Start one with: "
        f"telefabric up --listen {address.url}"
    )
    with pytest.raises(Unreachable, match="nobody answers at"):
        ask_status(address, 0.05)


def test_one_who_listens_and_does_not_answer_is_told_from_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        address = Address("127.0.0.1", frozen.getsockname()[1])
        with pytest.raises(Unreachable) as caught:
            ask_status(address, 0.05)
    assert str(caught.value) == (
        f"something listens at {address.url} and does not answer: it is frozen, or no broker: see telefabric doctor"
    )


def test_a_host_that_is_none_is_one_sentence() -> None:
    with pytest.raises(Unreachable, match="no-such-host"):
        ask_status(Address("no-such-host.invalid", 7750), 0.5)


def test_a_broker_without_a_store_is_one_sentence() -> None:
    broker = Broker(LOOPBACK)
    with running([broker]):
        assert ask_status(broker.address).instance == broker.core.instance
        with pytest.raises(Unreachable, match="has no store that answers questions: start one there with: telefabric"):
            RemoteReader(broker.address)
        with attached(broker.address, None), pytest.raises(Unreachable, match=r"stores elsewhere \(store\)"):
            RemoteReader(broker.address)


def test_something_else_than_a_broker_is_one_sentence(service: QueryService) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as impostor:
        port = impostor.bind_to_random_port("tcp://127.0.0.1")

        def mislead() -> None:
            peer, _ = impostor.recv_multipart()
            impostor.send_multipart((peer, b"HTTP/1.1 400 Bad Request"))

        thread = threading.Thread(target=mislead)
        thread.start()
        with pytest.raises(Unreachable, match="is not a broker of this version"):
            ask_status(Address("127.0.0.1", port))
        thread.join()


def test_a_store_that_moved_is_found_again_and_one_that_is_gone_is_one_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUERY_DEADLINE_S", 0.2)
    broker, first, second = Broker(LOOPBACK), QueryService(LOOPBACK, path), QueryService(LOOPBACK, path)
    with running([broker]):
        with running([first]), attached(broker.address, f"*:{first.address.port}"):
            reader = RemoteReader(broker.address, timeout_s=0.5)
            assert len(reader.runs()) == 1
        with reader:
            with running([second]), attached(broker.address, f"tcp://127.0.0.1:{second.address.port}"):
                assert len(reader.runs()) == 1
            with pytest.raises(Unreachable, match=r"does not answer at tcp://127.0.0.1:\d+: see telefabric doctor"):
                reader.runs()


def test_late_and_strange_replies_are_not_taken_for_the_answer(path: Path) -> None:
    with query_behind_broker(path) as broker, RemoteReader(broker) as reader:
        reader._requests.send(b"too late", GOOD)
        wait_for(lambda: reader._requests._socket.poll(0), "a reply to an earlier question is waiting")
        assert [event.seq for event in reader.events(limit=2).rows] == [1, 2]


class RunsAsEvents(query.Question[query.StoredEvent], tag="runs"):
    """Asks for runs and expects events."""

    run_id: str | None = None
    after: int = 0
    limit: int = 1


def test_an_answer_in_other_words_is_one_sentence(path: Path) -> None:
    with (
        query_behind_broker(path) as broker,
        RemoteReader(broker) as reader,
        pytest.raises(StoreError, match="answers in the protocol of another version"),
    ):
        reader.answer(RunsAsEvents())
