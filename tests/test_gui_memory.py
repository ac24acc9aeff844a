"""The memory of the client: what is held is counted, the limit holds, and what has left is read again."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import test_gui_window
from slowness import patience
from store_fixtures import Scribe, episode, frame, raw, reset, run_started, step, stream

from telefabric.feed.file_feed import FileFeed
from telefabric.store.file.database import FILE_NAME

pytestmark = test_gui_window.pytestmark
if test_gui_window.THERE:
    from telefabric_gui import health
    from telefabric_gui.agent_stream import AgentKey, AgentStream
    from telefabric_gui.budget import PROGRAM_BYTES, MemoryBudget, Part, Sort
    from telefabric_gui.rows import KEPT_ROWS, STEP_ROW, EventRows, step_row
    from telefabric_gui.tail import Tail
    from telefabric_gui.window import MainWindow

window = test_gui_window.window
MIB = 2**20


class Heap:
    """Parts that can be let go of, and the order in which they were."""

    def __init__(self, **parts: int) -> None:
        self.parts = parts
        self.told: list[str] = []

    def held(self) -> list[Part]:
        return [self.part(name, size) for name, size in self.parts.items()]

    def part(self, name: str, size: int) -> Part:
        def let_go(number: int) -> None:
            self.told.append(name)
            self.parts[name] -= min(number, self.parts[name])

        return Part(Sort[name.rstrip("_").upper()], size, let_go)

    def process(self) -> int:
        return 100 + sum(self.parts.values())


def test_frames_leave_before_pages_and_rows_and_only_as_much_as_needed() -> None:
    heap = Heap(rows=400, rows_=500, pages=200, frames=100, series=50)
    budget = MemoryBudget(1_000, heap.process)
    budget.keep(heap.held)
    assert heap.told == ["frames", "pages", "series", "rows_"]
    assert heap.parts == {"rows": 400, "rows_": 450, "pages": 0, "frames": 0, "series": 0}
    assert budget.used_bytes == 950 <= budget.limit_bytes
    assert (budget.held_bytes, budget.held[Sort.ROWS]) == (850, 850)
    budget.keep(heap.held)
    assert len(heap.told) == 4


def test_within_the_limit_nothing_leaves_and_what_stays_is_counted() -> None:
    heap = Heap(rows=400, frames=100)
    budget = MemoryBudget(700, heap.process)
    budget.keep(lambda: [*heap.held(), Part(Sort.ROWS, 50)])
    assert (heap.told, budget.held_bytes) == ([], 550)


def test_what_is_tried_in_vain_is_not_tried_with_every_look() -> None:
    heap, given_back = Heap(rows=400), []
    budget = MemoryBudget(600, lambda: 900 + heap.process(), lambda: given_back.append(1))
    for _ in range(25):
        budget.keep(heap.held)
    assert heap.parts["rows"] == 0
    assert len(given_back) == 3
    assert budget.used_bytes == 1_000


def test_a_system_that_does_not_show_memory_gets_what_is_counted_and_the_program() -> None:
    heap = Heap(rows=400 * MIB)
    budget = MemoryBudget(PROGRAM_BYTES + 100 * MIB, lambda: 0)
    budget.keep(heap.held)
    assert heap.parts["rows"] < 100 * MIB
    assert budget.used_bytes == PROGRAM_BYTES + heap.parts["rows"]


def test_the_bytes_of_rows_and_frames_are_those_that_python_takes() -> None:
    rows = [(seq, step(seq, observation=raw(bytes(200)))) for seq in range(1, 20_001)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        table = EventRows(STEP_ROW, 100_000, 2**30)
        for at in range(0, len(rows), 500):
            table.apply([step_row(seq, one, bytes(300)) for seq, one in rows[at : at + 500]])
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.8 * taken < table.bytes_held < 1.25 * taken
    table.let_go(table.bytes_held // 2)
    assert 8_000 < len(table) < 12_000
    assert (table.events, table.dropped) == (20_000, 20_000 - len(table))
    table.let_go(10 * table.bytes_held)
    assert len(table) == KEPT_ROWS
    assert table.row(-1)["seq"] == 20_000


def test_the_older_half_of_the_values_of_a_series_leaves_and_a_few_stay() -> None:
    tail = Tail()
    for seq in range(1, 10_001):
        tail.add(seq, seq, 0.5)
    held = tail.bytes_held
    tail.let_go(1)
    assert tail.bytes_held < held / 2
    for _ in range(20):
        tail.let_go(held)
    steps, _ = tail.arrays()
    assert 500 <= len(steps) <= 1_000
    assert steps[-1] == 10_000


def test_the_frames_that_came_first_leave_first(qapp: Any) -> None:
    stream = AgentStream(AgentKey("run", "agent_0"), b"s" * 16)
    for at in range(1, 11):
        picture = frame(at, data=bytes(1_000))
        picture.step_index = at
        stream.show_frame(picture)
    frames = stream.parts()[0]
    assert (frames.sort, frames.bytes) == (Sort.FRAMES, 10_000)
    assert frames.let_go is not None
    frames.let_go(3_500)
    assert stream.parts()[0].bytes == 6_000


def test_a_row_that_left_comes_back_from_the_store_when_it_is_scrolled_to(
    qtbot: Any, tmp_path: Path, window: Callable[..., MainWindow]
) -> None:
    with Scribe(tmp_path / FILE_NAME) as scribe:
        info = stream()
        scribe.put(info, run_started(1, info))
        found = [reset(2), *(episode(seq) if seq % 10 == 0 else step(seq) for seq in range(3, 4_000))]
        for at in range(0, len(found), 500):
            scribe.put(info, *found[at : at + 500])
        scribe.commit()
    main = window(FileFeed(tmp_path))

    def until(true: Callable[[], object]) -> None:
        def look() -> bool:
            main.controller.tick()
            return bool(true())

        qtbot.waitUntil(look, timeout=patience(20_000))

    until(lambda: main.page and main.page.step_rows.stored == main.page.step_rows.rows == 3_598)
    assert main.page is not None
    rows, tail = main.page.step_rows, main.page.stream.steps
    assert len(tail) > 3_000
    main.budget.limit_bytes = MIB  # nothing but what is in sight may stay
    main.budget.keep(main._held)
    assert len(tail) == KEPT_ROWS
    assert rows.row(1_000) is None
    main.page.steps.verticalScrollBar().setValue(rows.rows - 1_000)
    until(lambda: rows.row(1_000) is not None)
    found = rows.row(1_000)
    assert found is not None
    assert found.raw is not None
    assert (rows.rows, len(main.page.step_table.listing)) == (3_598, 3_598)


def test_the_status_bar_says_what_is_used_of_the_limit(window: Callable[..., MainWindow]) -> None:
    main = window(test_gui_window.ScriptedFeed())
    main.budget.limit_bytes = 1_024 * MIB
    for _ in range(11):
        main.controller.tick()
    figure = main.status._figures["memory"]
    if health.memory_bytes():
        assert figure.text().endswith(" of 1\u202f024 MB"), figure.text()
    assert "the rest is the program" in figure.toolTip()


def test_memory_is_given_back_to_the_system() -> None:
    health.give_back()
    if sys.platform == "linux":
        assert health.memory_bytes() > 0
