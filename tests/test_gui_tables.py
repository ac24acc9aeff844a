"""Tables of the client: every event once, holes named and filled, bounded memory, and models that Qt accepts."""

from __future__ import annotations

import os
import random
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skips import requires
from store_fixtures import episode, step
from test_gui_feed import ScriptedFeed, told, update, view

from telefabric.feed.interface import FeedEvent, Update
from telefabric.subscribe.core.handover import Range, SeqSet
from telefabric_schemas import Gap

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = requires("PySide6 and pyqtgraph", THERE)
if THERE:
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QAbstractItemModelTester

    from telefabric_gui.controller import Controller
    from telefabric_gui.formatting import NONE
    from telefabric_gui.item_models.events import EpisodeTable, StepTable
    from telefabric_gui.item_models.table import EventTable
    from telefabric_gui.rows import EVENT, GAP, HOLE, STEP_ROW, EventRows, Mark


def row(seq: int) -> tuple[object, ...]:
    return (EVENT, seq, seq, False, seq, 0, seq // 10, seq, seq % 10, 0.5, False, False, told(step(seq)).raw)


def shown(table: EventTable) -> list[tuple[int, int, int]]:
    """(mark, first, last) of the rows of a model, oldest first."""
    rows = table.rows
    return [
        (int(one["mark"]), int(one["seq"]), int(one["last_seq"]))
        for one in (rows.row(position) for position in range(len(rows)))
    ]


@pytest.fixture
def checked(qapp: object) -> type[Checked]:
    return Checked


class Checked:
    """A table of steps under Qt's own model tester."""

    def __init__(self, rows_max: int = 1_000, raw_bytes_max: int = 1_000_000) -> None:
        self.rows = EventRows(STEP_ROW, rows_max, raw_bytes_max)
        self.table = StepTable(self.rows)
        self._tester = QAbstractItemModelTester(self.table, QAbstractItemModelTester.FailureReportingMode.Fatal)

    def put(self, *seqs: int, marks: list[Mark] | None = None) -> int:
        """How many of them were new."""
        before = self.rows.events
        self.rows.apply([row(seq) for seq in seqs], marks)
        return self.rows.events - before


def test_late_events_go_to_their_places(checked: type[Checked]) -> None:
    one = checked()
    one.put(1, 2, 9, 10)
    one.put(5, 20)
    one.put(3, 4, 11)
    assert [seq for _, seq, _ in shown(one.table)] == [1, 2, 3, 4, 5, 9, 10, 11, 20]
    assert one.table.rowCount() == 9


def test_an_event_that_comes_twice_is_one_row(checked: type[Checked]) -> None:
    one = checked()
    assert one.put(1, 2, 3) == 3
    assert one.put(2, 3, 4) == 1
    assert one.put(4, 4, 1) == 0
    assert [seq for _, seq, _ in shown(one.table)] == [1, 2, 3, 4]
    assert one.rows.events == 4


def test_a_hole_is_a_row_until_it_is_filled(checked: type[Checked]) -> None:
    one = checked()
    one.put(1, 2, 15, marks=[Mark(3, 14, HOLE)])
    assert shown(one.table) == [(0, 1, 1), (0, 2, 2), (HOLE, 3, 14), (0, 15, 15)]
    assert one.table.index(1, 0).data() == "12 events missing, being fetched"
    assert shown(one.table)[2][0] == HOLE
    one.put(3, 4, marks=[Mark(5, 14, HOLE)])
    assert shown(one.table)[2:] == [(0, 3, 3), (0, 4, 4), (HOLE, 5, 14), (0, 15, 15)]
    one.put(*range(5, 15), marks=[])
    assert [seq for _, seq, _ in shown(one.table)] == list(range(1, 16))


def test_many_places_at_once_are_filled(checked: type[Checked]) -> None:
    one = checked()
    holes = [Mark(seq, seq, HOLE) for seq in range(2, 100, 2)]
    one.put(*range(1, 101, 2), marks=holes)
    assert [seq for _, seq, _ in shown(one.table)] == list(range(1, 100))
    assert one.rows.held == 50
    one.put(*range(2, 100, 2), marks=[])
    assert [seq for _, seq, _ in shown(one.table)] == list(range(1, 100))
    assert one.rows.held == 99
    assert all(one.rows.raw(one.rows.row(position)) == told(step(position + 1)).raw for position in range(99))


def test_a_gap_says_that_it_is_for_good_and_why(checked: type[Checked]) -> None:
    one = checked()
    one.put(1, 5, marks=[Mark(2, 4, GAP, "spool_full")])
    assert one.table.index(1, 0).data() == "3 events known to be lost: spool_full"
    assert shown(one.table)[1][0] == GAP
    assert one.table.index(1, 3).data() == ""
    assert one.rows.held == 2


def test_what_came_live_and_is_lost_for_good_in_the_store_leaves(checked: type[Checked]) -> None:
    one = checked()
    one.put(*range(1, 11))
    one.put(11, marks=[Mark(4, 8, GAP, "spool_full")])
    assert [(kind, seq) for kind, seq, _ in shown(one.table)][2:5] == [(EVENT, 3), (GAP, 4), (EVENT, 9)]
    assert (one.rows.held, one.rows.events) == (6, 6)
    assert sum(one.rows.raw(row) is not None for row in one.rows.records) == 6


def test_rows_and_bytes_are_bounded(checked: type[Checked]) -> None:
    size = len(told(step(2_000)).raw)
    one = checked(rows_max=100, raw_bytes_max=30 * size)
    for first in range(1, 2_001, 400):
        one.put(*range(first, first + 400))
    assert len(one.rows) == 100
    assert one.rows.events == 2_000
    assert [seq for _, seq, _ in shown(one.table)] == list(range(1_901, 2_001))
    assert sum(one.rows.raw(one.rows.row(position)) is not None for position in range(100)) == 30
    assert len(one.rows._table) <= 1_024
    one.put(7)  # older than all that is held, and there is no room
    assert [seq for _, seq, _ in shown(one.table)] == list(range(1_901, 2_001))


def test_unusable_values_are_shown_as_such(checked: type[Checked]) -> None:
    one = checked()
    one.rows.apply([(EVENT, 1, 1, False, 0, 0, 0, -1, 0, float("nan"), True, False, b"\xc0")])
    texts = [one.table.index(0, column).data() for column in range(one.table.columnCount())]
    assert texts == ["1", "0", "0", NONE, NONE, NONE, "terminated", NONE]
    assert one.table.headerData(0, Qt.Orientation.Horizontal) == "SEQ"


# -- through the controller, for any order in which a feed may tell ----------------------------------------------
def script(seed: int, streams: int, length: int) -> tuple[list[Update], dict[bytes, set[int]], dict[bytes, set[int]]]:
    """Updates of some streams: most events live and in order, some only later, some lost; with the seqs of each."""
    chance = random.Random(seed)
    came: dict[bytes, SeqSet] = {}
    kept: dict[bytes, set[int]] = {}
    lost: dict[bytes, set[int]] = {}
    late: list[FeedEvent] = []
    updates = [update(runs=(view(),))]
    at = dict.fromkeys([bytes([number]) * 16 for number in range(streams)], 0)
    for _ in range(length):
        events, gaps, touched = [], {}, set()
        for stream in at:
            seen = came.setdefault(stream, SeqSet())
            for _ in range(chance.randrange(9)):
                at[stream] += 1
                seq = at[stream]
                event = told(episode(seq) if seq % 7 == 0 else step(seq), stream_id=stream)
                luck = chance.random()
                if luck < 0.03:
                    lost.setdefault(stream, set()).add(seq)
                    seen.add(seq, seq)
                    gaps[stream] = tuple(Range(one, one) for one in sorted(lost[stream]))
                    events.append(told(Gap(seq, seq, "spool_full", 0), stream_id=stream))
                elif luck < 0.3:
                    late.append(event)
                else:
                    seen.add(seq, seq)
                    events.append(event)
                kept.setdefault(stream, set()).add(seq)
                touched.add(stream)
        chance.shuffle(late)
        for _ in range(min(len(late), chance.randrange(12))):
            event = late.pop()
            came[event.stream_id].add(event.seq, event.seq)
            events.append(event._replace(live=False))
            touched.add(event.stream_id)
        holes = {stream: tuple(came[stream].missing(1, came[stream].newest)) for stream in touched}
        updates.append(update(*events, holes=holes, gaps=gaps))
    rest = sorted(late, key=lambda event: (event.stream_id, event.seq))
    updates.append(update(*rest, holes=dict.fromkeys(at, ())))
    return updates, {stream: kept[stream] - lost.get(stream, set()) for stream in kept}, lost


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), streams=st.integers(1, 3), length=st.integers(1, 10))
def test_every_event_is_in_the_tables_once(qapp: object, seed: int, streams: int, length: int) -> None:
    updates, kept, lost = script(seed, streams, length)
    controller = Controller(ScriptedFeed(*updates))
    tables: list[EventTable] = []
    testers = []

    def opened(stream: object) -> None:
        tables.extend((StepTable(stream.steps), EpisodeTable(stream.episodes)))  # type: ignore[attr-defined]
        fatal = QAbstractItemModelTester.FailureReportingMode.Fatal
        testers.extend(QAbstractItemModelTester(table, fatal) for table in tables[-2:])

    controller.stream_opened.connect(opened)
    for _ in updates:
        controller.tick()
        for table in tables:
            assert_in_order(table)
    found: dict[bytes, list[int]] = {}
    for stream in controller.streams.values():
        for table in tables:
            if table.rows in (stream.steps, stream.episodes):
                found.setdefault(stream.stream_id, []).extend(seq for mark, seq, _ in shown(table) if mark == EVENT)
        assert sorted(found[stream.stream_id]) == sorted(kept[stream.stream_id])
    assert controller.missing == 0
    assert controller.lost == sum(map(len, lost.values()))


def assert_in_order(table: EventTable) -> None:
    seqs = [first for _, first, _ in shown(table)]
    assert seqs == sorted(seqs)
