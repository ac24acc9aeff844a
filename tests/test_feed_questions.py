"""A client's questions to the store: several at once, droppable, and answered whatever is killed meanwhile."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from processes import broker, free_ports, store, wait_for
from slowness import patience
from store_fixtures import LOOPBACK, Scribe, query_behind_broker, running, step, stream
from test_kills import emitter

from telefabric.address import Address
from telefabric.feed import Answer, BrokerFeed, Counts, Feed, FileFeed, RowsAt, Scan
from telefabric.feed import questions as module
from telefabric.feed.questions import READERS, Questions
from telefabric.store.read import query, query_service, rows_by_number
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query_service import QueryService
from telefabric.store.read.remote_reader import RemoteReader

INFO = stream()
ENDLESS = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "telemetry.sqlite"
    with Scribe(found) as scribe:
        scribe.put(INFO, *map(step, range(1, 5_001)))
        scribe.commit()
    return found


@pytest.fixture(params=["file", "broker"])
def feed(request: pytest.FixtureRequest, path: Path) -> Iterator[Feed]:
    if request.param == "file":
        found: Feed = FileFeed(path)
        found.start()
        yield found
        found.stop()
        return
    with query_behind_broker(path) as address:
        found = BrokerFeed(address)
        found.start()
        yield found
        found.stop()


def rows_at(first: int, limit: int = 10) -> RowsAt:
    return RowsAt(INFO.stream, "step", "agent_0", first, limit)


class Answers:
    """What was answered, in that order."""

    def __init__(self) -> None:
        self._got: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def __call__(self, answer: Answer) -> None:
        self._got.put(answer)

    def next(self, timeout_s: float = 20.0) -> Answer:
        return self._got.get(timeout=patience(timeout_s))

    def all(self) -> list[Answer]:
        return [self._got.get() for _ in range(self._got.qsize())]


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """The search for events, which no connection ends by itself; released once for each that has begun."""
    begun = threading.Semaphore(0)

    def forever(reader: FileReader, question: query.Events) -> Any:
        begun.release()
        return reader._query(ENDLESS).fetchall()

    monkeypatch.setattr(FileReader, "_events", forever)
    monkeypatch.setattr(FileReader, "_newest", forever)
    return begun


SLOW = query.Events(0, None, None, None, None, 10)


# -- a feed's questions ------------------------------------------------------------------------------------------
def test_each_question_is_answered_once_with_its_page(feed: Feed) -> None:
    answers = Answers()
    firsts = list(range(0, 5_000, 25))
    for first in firsts:
        feed.ask(rows_at(first), answers, urgent=first % 50 == 0)
    got = {}
    for _ in firsts:
        answer = answers.next()
        assert answer.problem == ""
        assert answer.page is not None
        got[answer.question.first] = [row.seq for row in answer.page.rows]
    assert got == {first: list(range(first + 1, first + 11)) for first in firsts}


def test_what_cannot_be_answered_is_a_sentence_and_the_next_is_answered(feed: Feed) -> None:
    answers = Answers()
    feed.ask(RowsAt(INFO.stream, "gap", "agent_0", 0, 1), answers)
    assert "rows of the kind 'gap' have no numbers" in answers.next().problem
    feed.ask(rows_at(7, 1), answers)
    page = answers.next().page
    assert page is not None
    assert [row.seq for row in page.rows] == [8]


def test_a_store_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    answers = Answers()
    file_feed, broker_feed = FileFeed(tmp_path / "no.sqlite"), BrokerFeed(Address("127.0.0.1", free_ports()))
    for feed, sentence in ((file_feed, "there is no store at"), (broker_feed, "nobody answers at")):
        feed.start()
        for _ in range(20):
            feed.ask(Counts("run"), answers)
        for _ in range(20):
            answer = answers.next()
            assert answer.page is None
            assert sentence in answer.problem
        feed.stop()


def test_a_dropped_question_is_interrupted_and_never_answered(feed: Feed, endless: threading.Semaphore) -> None:
    answers = Answers()
    for _ in range(3):
        asked = [feed.ask(SLOW, answers) for _ in range(READERS)]
        assert endless.acquire(timeout=patience(10))
        for one in asked:
            one.drop()
        feed.ask(rows_at(3), answers)
        answer = answers.next(2.5)  # well before the deadline of a question
        assert answer.page is not None
        assert answer.page.rows[0].seq == 4
    assert answers.all() == []


def test_a_feed_that_ends_does_not_wait_for_its_questions(feed: Feed, endless: threading.Semaphore) -> None:
    answers = Answers()
    for _ in range(READERS * 4):
        feed.ask(SLOW, answers)
    assert endless.acquire(timeout=patience(10))
    feed.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("telefabric-questions")]
    assert answers.all() == []


class Gate:
    """A reader that answers nothing until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.asked: list[Any] = []

    def answer(self, question: Any) -> Any:
        self.asked.append(question)
        assert self.opened.wait(patience(10))
        return query.Page([], False)

    def close(self) -> None: ...


def test_urgent_questions_come_first_the_newest_of_them_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READERS", 1)
    gate, answers = Gate(), Answers()
    questions = Questions(lambda cancelled: gate)  # type: ignore[arg-type, return-value]
    questions.start()
    questions.ask(rows_at(0), answers)
    wait_for(lambda: gate.asked, "the first is in work")
    for first in (1, 2):
        questions.ask(rows_at(first), answers)
    for first in (3, 4):
        questions.ask(rows_at(first), answers, urgent=True)
    questions.ask(rows_at(5), answers, urgent=True).drop()
    gate.opened.set()
    assert [answers.next().question.first for _ in range(5)] == [0, 4, 3, 1, 2]
    assert [one.first for one in gate.asked] == [0, 4, 3, 1, 2]
    questions.stop()


def test_what_waits_is_bounded_and_what_is_given_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READERS", 1)
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    gate, answers = Gate(), Answers()
    questions = Questions(lambda cancelled: gate)  # type: ignore[arg-type, return-value]
    questions.start()
    questions.ask(rows_at(0), answers)
    wait_for(lambda: gate.asked, "the first is in work")
    for first in (1, 2, 3, 4):
        questions.ask(rows_at(first), answers)
    answer = answers.next()
    assert (answer.question.first, answer.page) == (4, None)
    assert "more than 3 questions to the store wait" in answer.problem
    questions.ask(rows_at(5), answers, urgent=True)
    assert answers.next().question.first == 3
    gate.opened.set()
    assert [answers.next().question.first for _ in range(4)] == [0, 5, 1, 2]
    questions.stop()


def test_a_failure_of_the_program_is_told_and_counted_and_the_next_is_answered() -> None:
    opened: list[Any] = []

    def open_reader(cancelled: Callable[[], bool]) -> Any:
        opened.append(None)
        if len(opened) == 1:
            raise ZeroDivisionError("by mistake")
        gate = Gate()
        gate.opened.set()
        return gate

    questions, answers = Questions(open_reader), Answers()
    questions.start()
    questions.ask(rows_at(0), answers)
    assert answers.next().problem == "ZeroDivisionError: by mistake"
    questions.ask(rows_at(1), answers)
    assert answers.next().page is not None
    assert questions.failures.number == 1
    questions.stop()


# -- the query service -------------------------------------------------------------------------------------------
def test_slow_questions_stall_nobody(path: Path, endless: threading.Semaphore) -> None:
    """More of them than there are threads, of several askers; a scan of everything goes on beside them."""
    with query_behind_broker(path) as address:
        slow = [BrokerFeed(address) for _ in range(2)]
        for feed in slow:
            feed.start()
        answers = Answers()
        asked = [feed.ask(SLOW, answers) for feed in slow for _ in range(READERS)]
        for _ in range(query_service.THREADS - 1):
            assert endless.acquire(timeout=patience(10))
        with RemoteReader(address) as reader:
            for first in range(0, 5_000, 100):
                assert reader.rows_at(INFO.stream, "step", "agent_0", first, 1).rows[0].seq == first + 1
            assert reader.counts("run")[0].n == 5_000
        assert answers.all() == []
        for one in asked:
            one.drop()
        feed = slow[0]
        feed.ask(Scan(INFO.stream, "step", "agent_0", [query.Condition("seq", "=", 4_999)], -1, 10), answers)
        page = answers.next().page
        assert page is not None
        assert [row.n for row in page.rows] == [4_998]
        for feed in slow:
            feed.stop()


def test_rows_come_in_time_while_everything_is_scanned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_by_number, "_PAGE_S", 0.3)  # a page of a scan that takes six times as long
    pause = threading.Event()
    blocks = rows_by_number.RowsByNumber._blocks

    def slowly(reader: Any, of: Any, first: int) -> Any:
        for block in blocks(reader, of, first):
            pause.wait(0.1)
            yield block

    monkeypatch.setattr(rows_by_number.RowsByNumber, "_blocks", slowly)
    with query_behind_broker(path) as address:
        feed = BrokerFeed(address)
        feed.start()
        scan = Scan(INFO.stream, "step", "agent_0", [query.Condition("reward", ">", 9.0)], -1, 10)
        pages: list[Any] = []
        ended = threading.Event()

        def on(answer: Answer) -> None:
            assert answer.page is not None
            pages.append(answer.page)
            if answer.page.more:
                feed.ask(msgspec.structs.replace(scan, after=answer.page.last), on)
            else:
                ended.set()

        for _ in range(READERS):
            feed.ask(scan, on)
        first = 0
        with RemoteReader(address) as reader:
            while not ended.is_set():
                assert reader.rows_at(INFO.stream, "step", "agent_0", first % 5_000, 1).rows[0].seq == first % 5_000 + 1
                first += 7
        assert first > 7 * 20, "rows were answered all the time"
        assert all(page.rows == [] for page in pages)
        feed.stop()


def test_a_drop_reaches_what_waits_and_what_is_in_work(path: Path, endless: threading.Semaphore) -> None:
    service = QueryService(LOOPBACK, path, deadline_s=600.0)  # so that nothing else ends them
    with running([service]), Direct(service.address) as reader:
        numbers = [reader._send(msgspec.msgpack.encode(SLOW)) for _ in range(query_service.THREADS + 1)]
        for _ in range(query_service.THREADS - 1):
            assert endless.acquire(timeout=patience(10))
        for number in reversed(numbers):
            reader._requests.send(number, query.DROP)
        for number in numbers:
            status, body = reader._await(number, 3) or (b"", b"")
            assert (status, body) == (query.FAILED, b"its asker dropped the question")
        assert reader.runs()
        reader._requests.send(numbers[0], query.DROP)
        status, _ = reader._await(numbers[0], 3) or (b"", b"")
        assert status == query.USAGE, "nothing of that number waits"
    assert service.counts["failed"] == len(numbers)


class Direct(RemoteReader):
    """Asks a query service without a broker; any number's reply comes, whenever it is awaited."""

    def __init__(self, address: Address) -> None:
        self._direct, self._kept = address.url, dict[bytes, tuple[bytes, bytes]]()
        super().__init__(address)

    def _find(self) -> str:
        return self._direct

    def _await(self, number: bytes, timeout_s: float) -> tuple[bytes, bytes] | None:
        deadline_s = time.monotonic() + patience(timeout_s)
        while number not in self._kept:
            frames = self._requests.receive(deadline_s)
            assert frames is not None, "no reply"
            self._kept[frames[0]] = (frames[1], frames[2])
        return self._kept.pop(number)


def test_one_who_floods_waits_for_the_own_questions_and_nobody_else_does(
    path: Path, endless: threading.Semaphore
) -> None:
    service = QueryService(LOOPBACK, path)
    with running([service]), Direct(service.address) as flood, Direct(service.address) as other:
        numbers = [flood._send(msgspec.msgpack.encode(SLOW)) for _ in range(100)]
        assert other.counts("run")[0].n == 5_000
        status, body = flood._await(numbers[-1], 10)
        assert (status, b"of your questions wait" in body) == (query.FAILED, True)
        assert other.counts("run")[0].n == 5_000


def test_an_error_of_the_program_is_told_and_the_others_are_answered_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FileReader, "_runs", lambda reader, question: 1 / 0)
    service = QueryService(LOOPBACK, path)
    with running([service]), Direct(service.address) as reader:
        for _ in range(query_service.THREADS * 2):
            with pytest.raises(
                Exception, match=r"the store failed at this question \(ZeroDivisionError\): see its log"
            ):
                reader.runs()
        assert reader.counts("run")[0].n == 5_000


# -- kills -------------------------------------------------------------------------------------------------------
@pytest.mark.timeout(180)
def test_every_question_is_answered_once_and_right_while_store_and_broker_are_killed(tmp_path: Path) -> None:
    port, chance = free_ports(), random.Random(3)
    with broker(port) as hub, store(port, tmp_path) as keeper, emitter(hub.url, tmp_path, "run", "--rate", 2_000):
        feed, answers = BrokerFeed(Address.parse(hub.url)), Answers()
        feed.start()

        def stored() -> int:
            feed.ask(Counts("run"), answers)
            page = answers.next(60).page
            return next((one.n for one in page.rows if one.kind == "step"), 0) if page else 0

        wait_for(lambda: stored() > 2_000, "some steps are stored", 60)
        feed.ask(Counts("run"), answers)
        counts = answers.next().page
        assert counts is not None
        of = next(one for one in counts.rows if one.kind == "step")
        for fault in ("store", "broker", "store"):
            victim = keeper if fault == "store" else hub
            for moment in range(60):
                feed.ask(RowsAt(of.stream_id, "step", of.agent_id, chance.randrange(2_000), 20), answers)
                if moment == 20:
                    assert is_right(answers.next(60)), "the first, of nobody killed"
                    victim.kill()
                if moment == 40:
                    victim.start()
            for _ in range(59):
                is_right(answers.next(60))
            wait_for(lambda: stored() > 2_000, "it answers again", 60)
        assert answers.all() == []
        feed.stop()


def is_right(answer: Answer) -> bool:
    """False for one that could not be answered, with a sentence."""
    if answer.page is None:
        assert len(answer.problem) > 20
        return False
    steps = [row.seq for row in answer.page.rows]
    assert steps == list(range(steps[0], steps[0] + 20))
    return True
