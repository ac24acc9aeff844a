"""The time line in a real window: what is stored, what is here alone and what is missing; and mouse and keys on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import apsw
import msgspec
import numpy as np
import pytest
import test_gui_window
from emitter import Progress
from hypothesis import given
from hypothesis import strategies as st
from processes import Service, broker, free_ports, store
from slowness import patience
from store_fixtures import (
    TIME_NS,
    Scribe,
    episode,
    frame,
    query_behind_broker,
    run_completed,
    run_started,
    step,
    stream,
)
from test_kills import emitter

from telefabric.address import Address
from telefabric.feed import Answer, Asked, Question, file_feed, merged
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import LinkState
from telefabric.store.file.database import FILE_NAME

pytestmark = test_gui_window.pytestmark
if test_gui_window.THERE:
    from PySide6.QtCore import QCoreApplication, QPoint, QPointF, Qt
    from PySide6.QtGui import QColor, QWheelEvent

    from telefabric_gui import theme
    from telefabric_gui.model.axis import Axis, By
    from telefabric_gui.model.cursor import Mode
    from telefabric_gui.model.lines import Found
    from telefabric_gui.model.timescale import TimeScale
    from telefabric_gui.model.whole_run import Alert, Episodes, Stored, spans_of
    from telefabric_gui.rows import GAP, HOLE, Mark
    from telefabric_gui.views.scenes import FrameScene
    from telefabric_gui.views.timeline import NAMES_PX
    from telefabric_gui.window import MainWindow

STEPS, LOST = 3_000, 40
"""Steps that are stored, and events that were lost after the first half of them."""
HALF = STEPS // 2
STEP_NS = 20_000_000


# -- what is painted ---------------------------------------------------------------------------------------------
def every_second(rows: int) -> Axis:
    """Rows with the seqs 2, 4, 6 …"""
    return Axis(np.arange(rows), 2 + 2 * np.arange(rows), np.arange(rows), np.arange(rows) * 10.0**9)


@given(st.integers(1, 200), st.integers(-1, 250), st.lists(st.tuples(st.integers(1, 420), st.integers(0, 30),
       st.booleans())), st.sampled_from(["", "The store does not answer."]))  # fmt: skip
def test_only_what_the_store_has_counted_is_stored_and_no_hole_is(
    rows: int, counted: int, missing: list[tuple[int, int, bool]], problem: str
) -> None:
    known = None if counted < 0 else Stored(counted, 2 * counted)
    marks = [Mark(first, first + more, GAP if lost else HOLE, "spool full") for first, more, lost in missing]
    spans = spans_of(rows, known, every_second(rows), marks, problem)
    stored = [(span.first, span.last) for span in spans if span.kind == "stored"]
    assert stored == ([(0, min(counted, rows))] if counted > 0 else [])
    covered = sorted((span.first, span.last) for span in spans if span.kind != "missing")
    assert [first for first, _ in covered] == [0, *(last for _, last in covered[:-1])]
    assert covered[-1][1] == rows
    if known is not None:
        open_marks = [mark for mark in marks if mark.kind == GAP or mark.last > known.seq]
        hatched = [span for span in spans if span.kind == "missing"]
        assert len(hatched) == len(open_marks), "each hole and gap, but for holes that the store has by now"
        for mark, span in zip(open_marks, hatched, strict=True):
            if mark.kind == HOLE:
                assert span.first >= min(counted, rows), "behind what is stored"


def test_a_hole_lies_behind_what_is_stored_also_while_the_axis_knows_less() -> None:
    first = np.arange(100)  # with three events between two rows, and later with one
    axis = Axis(first, 4 * first, first, first * 10.0**9)
    spans = spans_of(900, Stored(500, 1_000), axis, [Mark(1, 1_400, HOLE)])
    assert [(span.first, span.kind) for span in spans] == [(0, "stored"), (500, "live only"), (500, "missing")]


def test_a_scale_maps_rows_to_pixels_and_back_by_each_of_its_axes() -> None:
    axis = every_second(1_000)
    ends = np.array([99.0, 299.0, 399.0, 999.0])
    episodes = Episodes(ends, np.arange(4.0), np.zeros(4), np.diff(ends, prepend=-1), np.zeros(4))
    for by in By:
        scale = TimeScale(axis, episodes, by, (50.0, 900.0), 800.0)
        rows = np.array([50.0, 120, 333, 700, 900])
        assert scale.x(rows)[[0, -1]] == pytest.approx([0, 800])
        assert scale.rows(scale.x(rows)) == pytest.approx(rows), by
        ticks = scale.ticks(100)
        assert 2 <= len(ticks) <= 9, by
        assert all(-1e-6 <= x <= 800 + 1e-6 for x, _ in ticks)


# -- a stored run ------------------------------------------------------------------------------------------------
def write_run(scribe: Scribe) -> None:
    """Episodes of 30 steps, a frame for each tenth step; the first half by an agent, the second by a human."""
    info = stream()
    seq, batch = 1, [run_started(1, info)]
    for at in range(STEPS):
        if at == HALF:
            scribe.put(info, *batch)
            scribe.put_gap(info, seq + 1, seq + LOST, "spool full")
            batch, seq = [], seq + LOST
        seq += 1
        mode, policy = ("agent", f"v{at // 500}") if at < HALF else ("human", None)
        made = step(seq, global_step=10 * at, episode_index=at // 30, step_index=at % 30, policy_label=policy)
        batch.append(msgspec.structs.replace(made, time_ns=TIME_NS + at * STEP_NS, control_mode=mode))
        if at % 10 == 0:
            seq += 1
            shot = frame(seq, data=test_gui_window.picture(8, 4))
            batch.append(msgspec.structs.replace(shot, episode_index=at // 30, step_index=at % 30, width=8, height=4))
        if at % 30 == 29:
            seq += 1
            batch.append(episode(seq, episode_index=at // 30, global_step=10 * at, length=30))
    scribe.put(info, *batch, run_completed(seq + 1))
    scribe.commit()
    scribe.edit("bookmark", "run", ["agent_0", 0, 70, 11, info.stream, "soft landing"])
    scribe.commit()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("time") / FILE_NAME
    with Scribe(path) as scribe:
        write_run(scribe)
    return path


@pytest.fixture
def show(
    windows: Callable[..., MainWindow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., MainWindow]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return windows


@pytest.fixture
def main(show: Callable[..., MainWindow], file: Path, qtbot: Any) -> MainWindow:
    """All that there is to see of the run is there."""
    window = show(FileFeed(file))
    until(qtbot, lambda: window.page is not None and window.page.time.whole.bookmarks, 20_000)
    until(qtbot, lambda: len(whole(window).episodes.row) == STEPS // 30 and len(whole(window).axis.n) == STEPS)
    until(qtbot, lambda: whole(window).bands and any(span.kind == "missing" for span in whole(window).spans()))
    window.activateWindow()
    return window


def until(qtbot: Any, look: Callable[[], object], timeout_ms: int = 10_000) -> None:
    qtbot.waitUntil(lambda: bool(look()), timeout=patience(timeout_ms))


def page(window: MainWindow) -> Any:
    assert window.page is not None
    return window.page


def whole(window: MainWindow) -> Any:
    return page(window).time.whole


def cursor(window: MainWindow) -> Any:
    return page(window).time.cursor


def pixel(window: MainWindow, row: float, lane: str = "span") -> QPoint:
    line = window.bottom.line
    found = next(one for one in line._lanes if one.name == lane)
    x = row / STEPS * line._run_room if lane == "run" else float(line.scale.x(row))
    return QPoint(round(x) + NAMES_PX, found.top + found.height // 2)


def drag(window: MainWindow, qtbot: Any, begin: QPoint, end: QPoint, keys: Any = None) -> None:
    line, left = window.bottom.line, Qt.MouseButton.LeftButton
    qtbot.mousePress(line, left, keys or Qt.KeyboardModifier.NoModifier, begin)
    for share in (0.3, 0.7, 1.0):
        between = QPointF(begin) * (1 - share) + QPointF(end) * share
        qtbot.mouseMove(line, between.toPoint())
    qtbot.mouseRelease(line, left, keys or Qt.KeyboardModifier.NoModifier, end)


def all_are_at(window: MainWindow, qtbot: Any, row: int) -> None:
    """Tables, details, charts and the words over the time line show exactly this row."""
    shown = page(window)
    until(qtbot, lambda: cursor(window).row == row and shown.steps.chosen is not None)
    until(qtbot, lambda: not isinstance(shown.steps.chosen, int) and shown.steps.chosen.row == row)
    until(qtbot, lambda: dict(shown.details).get("global step", "").replace("\u202f", "") == str(10 * row))
    until(qtbot, lambda: isinstance(found := shown.episodes.chosen, Found) and found.record["episode"] == row // 30)
    assert shown.charts._cursor == row
    until(qtbot, lambda: window.bottom.transport._place.text().startswith(f"step {10 * row:,}".replace(",", "\u202f")))


def test_a_click_moves_every_view_to_exactly_that_step(main: MainWindow, qtbot: Any) -> None:
    for row in (0, 17, 1_234, 2_345):
        place = pixel(main, row)
        at = round(float(main.bottom.line.scale.rows(place.x() - NAMES_PX)))
        qtbot.mouseClick(main.bottom.line, Qt.MouseButton.LeftButton, pos=place)
        assert cursor(main).mode is Mode.PAUSED
        all_are_at(main, qtbot, at)
    shown = page(main)
    index = shown.step_table.index(shown.steps.verticalScrollBar().value() + 3, 0)
    qtbot.mouseClick(shown.steps.viewport(), Qt.MouseButton.LeftButton, pos=shown.steps.visualRect(index).center())
    chosen = shown.steps.chosen.row
    assert chosen != at
    all_are_at(main, qtbot, chosen)
    shown.charts.cursor_wanted.emit(777.0)
    all_are_at(main, qtbot, 777)


def test_the_frame_of_the_step_or_how_far_the_nearest_is(main: MainWindow, qtbot: Any) -> None:
    badge = page(main).picture.badge
    for row, said in ((600, "exact frame"), (603, "nearest \u22123"), (608, "nearest +2"), (610, "exact frame")):
        cursor(main).go_to(row)
        until(qtbot, lambda said=said: badge.isVisible() and badge.text() == said)


class FarFeed(FileFeed):
    """Of a store whose answers take a while."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.on_the_way: list[Timer] = []

    def ask(self, question: Question[Any], answered: Callable[[Answer], None], *, urgent: bool = False) -> Asked:
        def send(answer: Answer) -> None:
            self.on_the_way.append(Timer(0.1, arrive, [answer]))
            self.on_the_way[-1].start()

        def arrive(answer: Answer) -> None:
            if not asked.dropped:
                answered(answer)

        asked = super().ask(question, send, urgent=urgent)
        return asked

    def stop(self) -> None:
        super().stop()
        for answer in self.on_the_way:
            answer.cancel()
            answer.join()


@pytest.mark.alone
@pytest.mark.parametrize(("of", "speed"), [("broker", 1.0), ("far", 1.0), ("file", 10.0), ("broker", 10.0)])
def test_replay_shows_the_frames_as_it_goes(
    show: Callable[..., MainWindow], file: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch, of: str, speed: float
) -> None:
    """One in ten steps has a frame: the picture is that of the nearest, but for a few ticks on a busy machine."""
    monkeypatch.setattr(file_feed, "TAIL_IDS", 200)
    monkeypatch.setattr(merged, "HISTORY_EVENTS", 200)
    with ExitStack() as stack:
        if of == "broker":
            main = show(BrokerFeed(stack.enter_context(query_behind_broker(file))))
        else:
            main = show(FarFeed(file) if of == "far" else FileFeed(file))
        stack.callback(main.close)
        until(qtbot, lambda: main.page is not None and cursor(main).total == STEPS, 20_000)
        shown = page(main)
        cursor(main).go_to(600)
        until(qtbot, lambda: shown.picture.badge.text() == "exact frame")
        away: list[int] = []

        def note() -> None:
            scene = shown.environment.scene
            assert isinstance(scene, FrameScene), "the picture stays while the next one is read"
            if shown._at is not None:
                away.append(abs(scene.frame.episode_index * 30 + scene.frame.step_index - shown._at[0]))

        cursor(main).set_speed(speed)
        cursor(main).replay()
        main.controller.ticked.connect(note)
        until(qtbot, lambda: len(away) >= 20)
        main.controller.ticked.disconnect(note)
        near = sum(steps <= 9 for steps in away)
        assert near >= 0.8 * len(away), away


def test_keys_move_by_steps_episodes_and_frames(main: MainWindow, qtbot: Any) -> None:
    def press(key: Any, row: int, keys: Any = Qt.KeyboardModifier.NoModifier) -> None:
        qtbot.keyClick(main, key, keys)
        until(qtbot, lambda: cursor(main).row == row)

    shift = Qt.KeyboardModifier.ShiftModifier
    press(Qt.Key.Key_Home, 0)
    press(Qt.Key.Key_Right, 1)
    press(Qt.Key.Key_Right, 2)
    press(Qt.Key.Key_Left, 1)
    press(Qt.Key.Key_Right, 30, shift)
    press(Qt.Key.Key_Right, 60, shift)
    press(Qt.Key.Key_Right, 61)
    press(Qt.Key.Key_Left, 60, shift)
    press(Qt.Key.Key_Left, 30, shift)
    press(Qt.Key.Key_Period, 40)
    press(Qt.Key.Key_Period, 50)
    press(Qt.Key.Key_Comma, 40)
    for _ in range(3):
        qtbot.keyClick(main, Qt.Key.Key_Period)
    press(Qt.Key.Key_Period, 80)
    for _ in range(4):
        qtbot.keyClick(main, Qt.Key.Key_Right, shift)
    press(Qt.Key.Key_Left, 150, shift)
    for _ in range(9):
        qtbot.keyClick(main, Qt.Key.Key_Left, shift)
    press(Qt.Key.Key_Right, 151)
    qtbot.wait(100)
    assert cursor(main).row == 151, "a step ends the moves that are in line"
    qtbot.keyClick(main, Qt.Key.Key_Left, shift)
    press(Qt.Key.Key_End, STEPS - 1)
    assert cursor(main).mode is Mode.FOLLOW
    assert not page(main).charts._cursor
    press(Qt.Key.Key_Right, STEPS - 1)
    qtbot.keyClick(main, Qt.Key.Key_Right, shift)
    until(qtbot, page(main).banner.isVisible, 5_000)
    assert cursor(main).row == STEPS - 1, "there is no later episode"


def test_space_replays_at_a_speed_and_pauses_and_a_loop_stays_in_the_selection(main: MainWindow, qtbot: Any) -> None:
    qtbot.keyClick(main, Qt.Key.Key_Home)
    qtbot.keyClick(main, Qt.Key.Key_6)
    assert (cursor(main).mode, cursor(main).speed) == (Mode.REPLAY, 10.0)
    until(qtbot, lambda: cursor(main).row > 100)
    until(qtbot, lambda: main.top._replay.isChecked() and "replay 500 steps/s" in main.status._figures["replay"].text())
    assert "as its steps were recorded" in main.status._figures["replay"].toolTip()
    qtbot.keyClick(main, Qt.Key.Key_Space)
    at = cursor(main).row
    assert cursor(main).mode is Mode.PAUSED
    all_are_at(main, qtbot, at)
    drag(main, qtbot, pixel(main, 2_000), pixel(main, 2_100), Qt.KeyboardModifier.ShiftModifier)
    first, last = cursor(main).selection
    assert (first, last) == pytest.approx((2_000, 2_100), abs=STEPS / main.bottom.line._room)
    assert page(main).charts._selection == (first, last)
    qtbot.keyClick(main, Qt.Key.Key_L)
    qtbot.keyClick(main, Qt.Key.Key_Space)
    seen: set[int] = set()
    cursor(main).moved.connect(lambda: seen.add(cursor(main).row))
    until(qtbot, lambda: len(seen) > 30)
    qtbot.keyClick(main, Qt.Key.Key_P)
    assert first <= min(seen) <= max(seen) <= last
    drag(main, qtbot, pixel(main, last), pixel(main, 2_500))
    assert cursor(main).selection == pytest.approx((first, 2_500), abs=STEPS / main.bottom.line._room)
    qtbot.keyClick(main, Qt.Key.Key_Escape)
    assert cursor(main).selection is None
    assert not cursor(main).looping


def test_drag_scrubs_the_wheel_zooms_at_the_pointer_and_the_frame_below_moves(main: MainWindow, qtbot: Any) -> None:
    line = main.bottom.line
    rows: list[int] = []
    cursor(main).moved.connect(lambda: rows.append(cursor(main).row))
    drag(main, qtbot, pixel(main, 500), pixel(main, 900))
    assert len(rows) == 4
    assert rows == sorted(rows)
    all_are_at(main, qtbot, rows[-1])

    place = QPointF(pixel(main, 1_000))
    under = float(line.scale.rows(place.x() - NAMES_PX))
    for _ in range(5):
        wheel = QWheelEvent(place, line.mapToGlobal(place), QPoint(), QPoint(0, 120), Qt.MouseButton.NoButton,
                            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False)  # fmt: skip
        QCoreApplication.sendEvent(line, wheel)
    first, last = cursor(main).sight
    assert last - first == pytest.approx((STEPS - 1) / 1.25**5)
    assert float(line.scale.rows(place.x() - NAMES_PX)) == pytest.approx(under)
    assert page(main).charts._sight == (first, last)
    at = cursor(main).row
    drag(main, qtbot, pixel(main, (first + last) / 2, "run"), pixel(main, 2_000, "run"))
    assert sum(cursor(main).sight) / 2 == pytest.approx(2_000, abs=STEPS / line._run_room)
    assert cursor(main).sight[1] - cursor(main).sight[0] == pytest.approx(last - first)
    assert cursor(main).row == at, "what is in sight moved, not the cursor"
    qtbot.mouseDClick(line, Qt.MouseButton.LeftButton, pos=pixel(main, 2_000))
    assert cursor(main).sees_all


def colours_of(window: MainWindow, lane: str) -> list[str]:
    """Of each pixel of a lane's middle line."""
    line = window.bottom.line
    ratio = line.devicePixelRatioF()
    image = line.grab().toImage()
    y = round(pixel(window, 0, lane).y() * ratio)
    return [image.pixelColor(round((x + NAMES_PX) * ratio), y).name() for x in range(int(line._room))]


def test_a_gap_is_hatched_and_says_why_and_bands_and_bookmarks_are_where_they_are(main: MainWindow, qtbot: Any) -> None:
    cursor(main).go_to(0)
    spans = whole(main).spans()
    assert [(span.kind, span.first, span.last) for span in spans] == [
        ("stored", 0, STEPS), ("missing", HALF, HALF),
    ]  # fmt: skip
    place = pixel(main, HALF)
    said = main.bottom.line.sentence_at(place.x(), place.y())
    assert said == f"missing: {LOST} events missing for good: spool full."
    painted, x = colours_of(main, "span"), place.x() - NAMES_PX
    stored = QColor(theme.active().stored).name()
    assert painted[x - 20] == painted[x + 20] == stored
    assert all(colour != stored for colour in painted[x - 2 : x + 2])
    assert [(band.n, band.control_mode, band.policy_label) for band in whole(main).bands] == [
        (0, "agent", "v0"), (500, "agent", "v1"), (1_000, "agent", "v2"), (HALF, "human", None),
    ]  # fmt: skip
    place = pixel(main, 700, "policy")
    assert main.bottom.line.sentence_at(place.x(), place.y()).startswith("agent, policy v1")
    assert [(row, one.label) for row, one in whole(main).bookmarks] == [(70 * 30 + 11, "soft landing")]
    qtbot.mouseClick(main.bottom.line, Qt.MouseButton.LeftButton, pos=pixel(main, 2_111, "marks") + QPoint(3, 0))
    all_are_at(main, qtbot, 2_111)
    cursor(main).see(1_000, 1_200)
    ends = whole(main).episodes.row
    assert ends.tolist() == [30.0 * n + 29 for n in range(STEPS // 30)]


def test_alerts_have_marks_among_the_bookmarks_that_say_what_and_go_there(main: MainWindow, qtbot: Any) -> None:
    before = main.bottom.line.grab().toImage()
    whole(main).show_alerts([
        Alert(2_600, "no reward", "No reward for 500 steps.", "error"),
        Alert(900, "return \u221238 %", "The return fell by 38 % within 100 episodes."),
    ])  # fmt: skip
    assert [one.row for one in main.bottom.line._marks()] == [900, 2_111, 2_600]
    place = pixel(main, 900, "marks")
    assert main.bottom.line.sentence_at(place.x(), place.y()) == "The return fell by 38 % within 100 episodes."
    after = main.bottom.line.grab().toImage()
    painted = [QColor(after.pixel(place.x(), place.y() + down)).name() for down in (0, 10, 12, 14, 16)]
    assert QColor(theme.active().warning).name() in painted
    assert before != after
    qtbot.mouseClick(main.bottom.line, Qt.MouseButton.LeftButton, pos=place)
    all_are_at(main, qtbot, 900)
    whole(main).show_alerts([])
    assert [one.label for one in main.bottom.line._marks()] == ["soft landing"]


def test_every_axis_paints_and_keeps_the_cursor(main: MainWindow, qtbot: Any) -> None:
    cursor(main).go_to(1_800)
    pictures = set()
    for by in By:
        main.bottom.show_axis(by)
        image = main.bottom.line.grab().toImage()
        pictures.add(bytes(image.constBits()))
        assert cursor(main).row == 1_800
    assert len(pictures) == len(By)


def test_a_bookmark_of_a_file_is_refused_in_words(main: MainWindow, qtbot: Any) -> None:
    cursor(main).go_to(100)
    all_are_at(main, qtbot, 100)
    qtbot.keyClick(main, Qt.Key.Key_B)
    qtbot.keyClick(main.bottom.transport.name, Qt.Key.Key_Return)
    until(qtbot, lambda: "read" in main.banner._text.text(), 5_000)


# -- live, with a store that comes and goes ----------------------------------------------------------------------
def committed(path: Path) -> int:
    """Steps in the store file."""
    if not path.exists():
        return 0
    with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as connection:
        connection.set_busy_timeout(5_000)
        try:
            return int(next(connection.execute("SELECT count(*) FROM steps"))[0])
        except apsw.SQLError:  # it is being made
            return 0


class Watch:
    """Looks at every picture of the time line: what it paints as stored, the store has committed by then."""

    def __init__(self, window: MainWindow, path: Path) -> None:
        self.pictures = 0
        self.kinds: set[str] = set()
        self.wrong: list[str] = []
        self._window, self._path = window, path
        line = window.bottom.line
        paint = line._paint_still

        def watched() -> Any:
            picture = paint()
            self.look()
            return picture

        line._paint_still = watched  # type: ignore[method-assign]

    def look(self) -> None:
        run = whole(self._window)
        spans = run.spans()
        self.pictures += 1
        self.kinds |= {span.kind for span in spans}
        painted = max((span.last for span in spans if span.kind == "stored"), default=0)
        if painted and painted > (there := committed(self._path)):
            self.wrong.append(f"{painted} rows painted as stored, {there} are committed")
        holes = [mark for mark in page(self._window).stream.steps.marks if mark.kind == HOLE]
        beyond = [mark for mark in holes if run.stored is not None and mark.last > run.stored.seq]
        if beyond and not any(span.kind == "missing" and span.first >= painted for span in spans):
            self.wrong.append(f"the holes {beyond} are not hatched")


@contextmanager
def without_its_store(
    show: Callable[..., MainWindow], qtbot: Any, folder: Path
) -> Iterator[tuple[MainWindow, Service]]:
    """A window, opened while the store was away, when some rows were stored and more had come; and its store."""
    port, path = free_ports(), folder / FILE_NAME
    url, progress = f"tcp://127.0.0.1:{port}", Progress(folder / "run.progress")
    keeping = store(port, folder)
    with broker(port), keeping, emitter(url, folder, "run", "--rate", 500):
        until(qtbot, lambda: committed(path) > 300, 20_000)
        keeping.stop()
        begin = progress.read()[1]
        until(qtbot, lambda: progress.read()[1] > begin + 300, 20_000)
        main = show(BrokerFeed(Address.parse(url)))
        until(qtbot, lambda: main.page is not None and whole(main).rows > 100, 20_000)
        yield main, keeping


def test_a_paused_step_stays_when_rows_before_it_come(
    show: Callable[..., MainWindow], qtbot: Any, tmp_path: Path
) -> None:
    """Without a store rows are numbered from the first that came. Those before it get it another number."""
    with without_its_store(show, qtbot, tmp_path) as (main, keeping):
        main.playing.pause()
        row, seq = cursor(main).row, dict(page(main).details)["seq"]
        keeping.start()
        until(qtbot, lambda: whole(main).stored is not None and whole(main).stored.rows > row + 500, 30_000)
        until(qtbot, lambda: cursor(main).row >= row + 300)
        assert dict(page(main).details)["seq"] == seq


def test_what_a_stopped_store_does_not_have_is_never_painted_as_stored(
    show: Callable[..., MainWindow], qtbot: Any, tmp_path: Path
) -> None:
    path = tmp_path / FILE_NAME
    with without_its_store(show, qtbot, tmp_path) as (main, keeping):  # what came before the window is a hole
        watch = Watch(main, path)
        until(qtbot, lambda: watch.pictures > 20)
        assert "stored" not in watch.kinds
        stored = QColor(theme.active().stored).name()
        assert stored not in colours_of(main, "span")
        keeping.start()
        until(qtbot, lambda: {"stored", "live only"} <= watch.kinds, 30_000)
        until(qtbot, lambda: stored in colours_of(main, "span"))
        keeping.stop()
        there = committed(path)
        until(qtbot, lambda: whole(main).stored is not None and whole(main).rows > there + 300, 30_000)
        spans = {span.kind: span for span in whole(main).spans()}
        assert spans["stored"].last <= there
        assert spans["live only"].last == whole(main).rows
        x = round(float(main.bottom.line.scale.x(there + 200)))
        assert colours_of(main, "span")[x] == QColor(theme.active().live_only).name()
        main.playing.pause()
        held = dict(page(main).details)["seq"]
        keeping.start()
        until(qtbot, lambda: whole(main).stored.rows > there + 300, 30_000)
        assert dict(page(main).details)["seq"] == held, "paused is paused, whatever comes"
        assert main.controller.connection.link is LinkState.LIVE
    assert not watch.wrong, watch.wrong[:5]
