"""Pages of a stored run: any row of it, joined with what is live, bounded, and honest while it comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from skips import requires
from slowness import patience
from store_fixtures import Scribe, episode, metric, raw, reset, run_started, step, stream, void
from test_gui_feed import told

from telefabric.feed import Answer, Asked, FileFeed
from telefabric.wire.control import StreamInfo

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = requires("PySide6 and pyqtgraph", THERE)
if THERE:
    from PySide6.QtTest import QAbstractItemModelTester

    from telefabric_gui.agent_stream import AgentKey, AgentStream
    from telefabric_gui.formatting import NONE
    from telefabric_gui.item_models.events import StepTable
    from telefabric_gui.model.pages import PAGE, Of, Pages
    from telefabric_gui.rows import EVENT, GAP

EPISODE = 20
"""Seqs of an episode: its reset, its steps, its end."""


def events(first: int, last: int) -> list[Any]:
    """Seq 1 is the start of the run; from 20 on, an episode takes 20 seqs."""
    found: list[Any] = []
    for seq in range(first, last + 1):
        place = {"episode_index": seq // EPISODE, "step_index": seq % EPISODE - 1, "global_step": seq}
        at = seq % EPISODE
        if at == 0:
            found.append(reset(seq, episode_index=seq // EPISODE, observation=raw(-seq)))
        elif at == EPISODE - 1:
            found.append(episode(seq, episode_index=seq // EPISODE, total_reward=float(seq % 7), length=EPISODE - 2))
        elif at == EPISODE - 2 and seq % 100 > 50:
            found.append(metric(seq))
        else:
            found.append(step(seq, **place, info=raw({"lives": seq % 5, "deep": {"er": seq}})))
    return found


def steps_of(*found: Any) -> list[int]:
    return [one.seq for one in found if one.kind == "step"]


class Stored:
    """A store file of one run, and all rows of it that a table reads."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "telemetry.sqlite"
        self.scribe = Scribe(self.path)
        self.info: StreamInfo = stream()
        self.scribe.put(self.info, run_started(1, self.info))
        self.stream = AgentStream(AgentKey("run", "agent_0"), self.info.stream)
        self.feed = FileFeed(self.path)
        self.made: list[Pages] = []

    def put(self, first: int, last: int) -> list[Any]:
        found = events(first, last)
        for at in range(0, len(found), 500):
            self.scribe.put(self.info, *found[at : at + 500])
        self.scribe.commit()
        return found

    def live(self, *found: Any, marks: Any = None) -> None:
        self.stream.pending += [told(one, stream_id=self.info.stream) for one in found]
        self.stream.apply(marks)

    def pages(self, kind: str = "step", feed: Any = None, **given: Any) -> Pages:
        tail = self.stream.steps if kind == "step" else self.stream.episodes
        of = Of("run", self.info.stream, kind, "agent_0")
        made = Pages(tail, of, feed or self.feed, voided=self.stream.voided, **given)
        self.made.append(made)
        return made


@pytest.fixture
def stored(qapp: Any, tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    made.scribe.commit()
    made.feed.start()
    yield made
    for pages in made.made:
        pages.close()
    made.feed.stop()
    made.scribe.close()


@pytest.fixture
def until(qtbot: Any) -> Callable[[Callable[[], object]], None]:
    return lambda true: qtbot.waitUntil(lambda: bool(true()), timeout=patience(20_000))


def test_any_row_of_the_store_is_fetched_when_it_is_in_sight(stored: Stored, until: Any) -> None:
    seqs = steps_of(*stored.put(2, 5_000))
    pages = stored.pages()
    pages.refresh()
    until(lambda: pages.rows == len(seqs))
    assert pages.row(3_000) is None
    for row in (3_000, 0, len(seqs) - 1, PAGE, PAGE - 1):
        pages.see(row - 2, row + 2)
        until(lambda row=row: pages.row(row) is not None)
        found = pages.row(row)
        assert found is not None
        assert (found.row, int(found.record["seq"])) == (row, seqs[row])
        assert found.raw is not None


def test_resets_and_gaps_have_lines_where_they_belong(stored: Stored, until: Any) -> None:
    first = stored.put(2, 400)
    stored.scribe.put_gap(stored.info, 401, 430, "spool_full")
    second = stored.put(431, 900)
    pages = stored.pages()
    pages.refresh()
    until(lambda: pages.rows == len(steps_of(*first, *second)))
    for row in range(0, pages.rows, PAGE):
        pages.see(row, row)
        until(lambda row=row: pages.row(row) is not None)
    shown = [pages.lines.at(line) for line in range(len(pages.lines))]
    found = [(int(one.record["mark"]), int(one.record["seq"])) for one in shown]
    there = [(EVENT, one.seq) for one in (*first, *second) if one.kind in ("step", "reset")]
    assert found == sorted([*there, (GAP, 401)], key=lambda one: one[1])
    assert pages.reason(401) == "spool_full"


def test_what_is_live_and_what_is_stored_are_one_table_without_a_seam(stored: Stored, until: Any) -> None:
    all_events = events(2, 3_000)
    stored.put(2, 2_000)
    stored.live(*all_events[1_499:2_300])
    pages = stored.pages()
    pages.refresh()
    seqs = steps_of(*all_events)
    until(lambda: pages.stored is not None)

    def shown() -> list[int]:
        for row in range(0, pages.rows, PAGE):
            pages.see(row, row)
            until(lambda row=row: pages.row(row) is not None)
        lines = [pages.lines.at(line) for line in range(len(pages.lines))]
        assert not any(isinstance(one, int) for one in lines)
        return [int(one.record["seq"]) for one in lines if not one.record["reset"]]

    assert shown() == [seq for seq in seqs if seq <= 2_301]
    for last in range(2_100, 3_001, 100):  # the store goes on, and so does what is live, ahead of it
        stored.put(last - 99, last)
        stored.live(*all_events[: min(last + 350, 3_000)][-400:])
        pages._counted_s = -1e9
        pages.refresh()
        assert shown() == [seq for seq in seqs if seq <= min(last + 351, 3_000)]


def test_the_tail_may_be_far_behind_the_store_while_it_loads(stored: Stored, until: Any) -> None:
    found = stored.put(2, 3_000)
    pages = stored.pages()
    pages.refresh()
    until(lambda: pages.rows == len(steps_of(*found)))
    stored.live(*found[1_000:1_100])
    assert pages.rows == len(steps_of(*found)), "never fewer than the store has"
    row = len(steps_of(*found)) - 1
    pages.see(row, row)
    until(lambda: pages.row(row) is not None)


def test_voided_episodes_have_no_line_wherever_they_are(stored: Stored, until: Any) -> None:
    found = stored.put(2, 900)
    pages = stored.pages()
    pages.refresh()
    until(lambda: pages.rows == len(steps_of(*found)))
    pages.see(0, 127)
    until(lambda: pages.row(0) is not None)
    lines = len(pages.lines)
    stored.live(void(950, 2))
    assert len(pages.lines) == lines - EPISODE + 2, "its reset and its steps"
    assert pages.rows == len(steps_of(*found))
    pages.see(128, 300)
    until(lambda: pages.row(300) is not None)
    assert not [
        one for line in range(len(pages.lines)) if not isinstance(one := pages.lines.at(line), int)
        if one.record["episode"] == 2
    ]  # fmt: skip


def test_pages_are_bounded_and_come_again(stored: Stored, until: Any) -> None:
    rows = len(steps_of(*stored.put(2, 9_000)))
    pages = stored.pages(bytes_max=200_000)
    pages.refresh()
    until(lambda: pages.rows == rows)
    for row in (*range(0, rows, PAGE), 0):
        pages.see(row, row)
        until(lambda row=row: pages.row(row) is not None)
        assert pages.bytes_held <= 200_000 + 3 * 100_000
    assert pages.row(rows // 2) is None


def test_a_row_whose_event_has_left_the_tail_comes_again_from_the_store(stored: Stored, until: Any) -> None:
    found = stored.put(2, 900)
    pages = stored.pages()
    pages.tail._raw_bytes_max = 10_000
    stored.live(*found)
    pages.refresh()
    until(lambda: pages.stored == len(steps_of(*found)))
    pages.see(10, 10)
    until(lambda: (row := pages.row(10)) is not None and row.raw is not None)
    newest = pages.row(pages.rows - 1)
    assert newest is not None
    assert newest.raw is not None
    pages.problem = "The store does not answer."
    pages._arrange()
    row = pages.row(200)
    assert row is not None, "what is held is shown while there is no store to ask"
    assert row.raw is None


class Slow:
    """A feed that answers when it is told to."""

    def __init__(self, feed: FileFeed) -> None:
        self.feed, self.asked = feed, list[Any]()

    def ask(self, question: Any, answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        self.asked.append(asked := Asked(question, answered))
        return asked

    def answer(self) -> None:
        waiting, self.asked = [one for one in self.asked if not one.dropped], []
        for one in waiting:
            self.feed.ask(one.question, one.answered)


def test_what_is_out_of_sight_is_not_asked_for_any_more(stored: Stored, until: Any) -> None:
    rows = len(steps_of(*stored.put(2, 9_000)))
    slow = Slow(stored.feed)
    pages = stored.pages(feed=slow)
    pages.refresh()
    until(lambda: slow.answer() or pages.rows == rows)
    slow.asked.clear()
    for row in range(0, rows, 500):
        pages.see(row, row)
    assert pages.loading
    asked = [one.question.first for one in slow.asked if not one.dropped]
    assert len(asked) == 1
    assert asked[0] <= rows - 1 < asked[0] + 2 * PAGE + 500


def test_a_store_that_does_not_answer_is_told_and_asked_again(
    stored: Stored, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = len(steps_of(*stored.put(2, 900)))
    slow = Slow(stored.feed)
    pages = stored.pages(feed=slow)
    pages.refresh()
    until(lambda: slow.answer() or pages.rows == rows)
    pages.see(0, 0)
    for one in slow.asked:
        one.answered(Answer(one.question, None, "The store does not answer."))
    slow.asked.clear()
    problems: list[str] = []
    pages.changed.connect(lambda: problems.append(pages.problem))  # an answer that was under way may end it at once
    until(lambda: "The store does not answer." in problems)
    pages.see(0, 0)
    assert not slow.asked, "not at once"
    pages._failed_s -= 60
    pages.see(0, 0)
    until(lambda: slow.answer() or pages.row(0) is not None)
    assert pages.problem == ""


def test_nothing_is_asked_after_the_close(stored: Stored, qtbot: Any) -> None:
    stored.put(2, 900)
    slow = Slow(stored.feed)
    pages = stored.pages(feed=slow)
    pages.refresh()
    pages.close()
    stored.made.remove(pages)
    assert all(one.dropped for one in slow.asked)
    for one in slow.asked:
        one.answered(Answer(one.question, None, "late"))
    qtbot.wait(10)
    assert pages.problem == ""


def test_the_model_is_sound_while_pages_come_and_the_tail_grows(stored: Stored, until: Any) -> None:
    found = stored.put(2, 3_000)
    table = StepTable(stored.pages())
    tester = QAbstractItemModelTester(table, QAbstractItemModelTester.FailureReportingMode.Fatal)
    table.pages.refresh()
    until(lambda: table.rowCount() >= len(steps_of(*found)))
    for line in (0, 500, 1_500, table.rowCount() - 1):
        table.want(line, line + 20)
        until(lambda line=line: not isinstance(table.at(line), int))
        stored.live(*events(3_001 + line, 3_100 + line))
    assert tester is not None


def test_chosen_columns_read_info_and_metrics(stored: Stored, until: Any) -> None:
    stored.put(2, 900)
    table = StepTable(stored.pages())
    pages = table.pages
    pages.refresh()
    until(lambda: pages.stored)
    pages.see(0, 0)
    until(lambda: pages.row(0) is not None)
    found = pages.row(5)
    assert found is not None
    seq = int(found.record["seq"])
    columns = [table.chosen_cell(found, source) for source in ("info/lives", "info/deep.er", "info/none")]
    assert columns == [str(seq % 5), str(seq), NONE]
    assert msgspec.msgpack.decode(found.raw)
