"""Lines of a table of a whole run: where rows are among resets and missing ranges, and the seam of store and tail."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skips import requires

THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = requires("PySide6 and pyqtgraph", THERE)
if THERE:
    from telefabric_gui.model.lines import Found, Lines, Segment
    from telefabric_gui.model.seam import End, Seam
    from telefabric_gui.rows import EVENT, GAP, HOLE, STEP_ROW, VOID, EventRows, Mark

STEP, RESET, LOST, VOIDED = "step", "reset", "lost", "voided"


def record(seq: int, kind: str = STEP) -> tuple[object, ...]:
    mark = {LOST: GAP, VOIDED: VOID}.get(kind, EVENT)
    return (mark, seq, seq, kind == RESET, seq, 0, seq // 10, seq, seq % 10, 0.5, False, False)


def segment(first: int, kinds: list[str]) -> Segment:
    """One whose seqs are a hundred times its rows, roughly."""
    records = [record(100 * first + at, kind) for at, kind in enumerate(kinds)]
    return Segment(first, np.array(records, STEP_ROW), lambda record: None)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Lines, list[tuple[int, int | None]]]:
    """Lines, and what each must show: a row that is not in memory, or that and the seq."""
    segments, expected, at = [], [], 0
    for _ in range(draw(st.integers(0, 4))):
        away = draw(st.integers(0, 5))
        expected += [(row, None) for row in range(at, at + away)]
        at += away
        kinds = draw(st.lists(st.sampled_from([STEP, RESET, LOST, VOIDED]), max_size=8))
        if not draw(st.booleans()):
            kinds.append(STEP)
        if STEP not in kinds and VOIDED not in kinds:
            continue
        while kinds[-1] not in (STEP, VOIDED):
            kinds.pop()
        segments.append(segment(at, kinds))
        first = at
        for place, kind in enumerate(kinds):
            if kind != VOIDED:
                expected.append((at, 100 * first + place))
            at += kind in (STEP, VOIDED)
    rest = draw(st.integers(0, 5))
    expected += [(row, None) for row in range(at, at + rest)]
    return Lines(at + rest, segments), expected


@given(run=runs())
def test_each_line_shows_its_row_and_each_row_has_its_line(run: tuple[Lines, list[tuple[int, int | None]]]) -> None:
    lines, expected = run
    assert len(lines) == len(expected)
    shown = [lines.at(line) for line in range(len(lines))]
    assert [(one, None) if isinstance(one, int) else (one.row, int(one.record["seq"])) for one in shown] == expected
    for line, one in enumerate(shown):
        row = one if isinstance(one, int) else one.row
        if isinstance(one, int):
            assert lines.line_of(row) == line
            assert lines.row(row) is None
        elif one.record["mark"] == EVENT and not one.record["reset"]:
            assert lines.line_of(row) == line
            found = lines.row(row)
            assert found is not None
            assert found.record["seq"] == one.record["seq"]
    assert lines.line_of(lines.rows) == len(lines)


# -- the seam ----------------------------------------------------------------------------------------------------
def tail(*seqs: int, rows_max: int = 1_000, marks: list[Mark] | None = None, resets: tuple[int, ...] = ()) -> EventRows:
    rows = EventRows(STEP_ROW, rows_max, 1_000_000)
    rows.apply([(*record(seq, RESET if seq in resets else STEP), b"") for seq in seqs], marks)
    return rows


def numbers(found: Segment | None) -> dict[int, int]:
    """Seq → number of each row."""
    assert found is not None
    shown = [found.row(row) for row in range(found.first, found.first + found.rows)]
    return {int(one.record["seq"]): one.row for one in shown if isinstance(one, Found)}


def test_what_is_behind_the_store_has_the_next_numbers() -> None:
    seam = Seam()
    assert numbers(seam.segment(tail(5, 6, 7))) == {5: 0, 6: 1, 7: 2}, "without a store, the tail is all"
    seam.note(End(1_000, 5_000))
    assert numbers(seam.segment(tail(4_990, 5_000, 5_001, 5_020))) == {
        4_990: 998,
        5_000: 999,
        5_001: 1_000,
        5_020: 1_001,
    }


def test_the_store_may_be_ahead_of_the_tail() -> None:
    """The tail is placed by an older answer, and not at all without one."""
    seam = Seam()
    seam.note(End(1_000, 5_000))
    assert seam.segment(tail(4_000, 4_001)) is None
    both = tail(4_999, 5_000, 5_001)
    seam.note(End(1_010, 5_020))
    assert seam.stored == 1_010
    assert numbers(seam.segment(both)) == {4_999: 998, 5_000: 999, 5_001: 1_000}


def test_before_a_hole_the_tail_is_not_trusted_and_behind_the_store_a_hole_is_a_line() -> None:
    seam = Seam()
    seam.note(End(100, 120))
    holes = [Mark(103, 110, HOLE), Mark(131, 139, HOLE)]
    found = seam.segment(tail(101, 102, 111, 120, 130, 140, marks=holes))
    assert numbers(found) == {111: 98, 120: 99, 130: 100, 140: 101}
    assert found is not None
    assert found.lines == 5


def test_numbers_stay_when_the_oldest_rows_leave_the_tail() -> None:
    seam, rows = Seam(), tail(*range(1, 51), rows_max=20)
    seam.note(End(40, 40))
    assert numbers(seam.segment(rows)) == {seq: seq - 1 for seq in range(31, 51)}
    rows.apply([(*record(seq), b"") for seq in range(51, 91)], None)
    assert numbers(seam.segment(rows)) == {seq: seq - 1 for seq in range(71, 91)}, "the end itself has left"


def test_rows_that_came_alone_of_older_times_are_not_counted_back() -> None:
    """Of old times a feed may fetch some kinds alone; from `whole_from` on, all have come."""
    seam, rows = Seam(), tail(10, 20, 5_000, 5_001)
    seam.note(End(900, 5_001))
    assert numbers(seam.segment(rows, whole_from=4_000)) == {5_000: 898, 5_001: 899}
    seam.note(End(4, 5_001))
    assert numbers(seam.segment(rows, whole_from=4_000)) == {10: 0, 20: 1, 5_000: 2, 5_001: 3}, "that is all of them"


@pytest.mark.parametrize("voided", [False, True])
def test_a_voided_row_keeps_its_number(voided: bool) -> None:
    seam, rows = Seam(), tail(9, 10, 11, 20, 21)
    seam.note(End(5, 21))
    if voided:
        rows.void_episode(0, 1, 21)
    found = seam.segment(rows)
    assert numbers(found) == {9: 0, 10: 1, 11: 2, 20: 3, 21: 4}
    assert found is not None
    assert found.lines == (3 if voided else 5)
