"""Several environments as tiles: their ages and order, what is said of them, and the one that is followed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import test_gui_window
from hypothesis import given
from hypothesis import strategies as st
from processes import wait_for
from store_fixtures import TIME_NS, Scribe, frame, reset, run_completed, run_started, step, stream
from test_gui_feed import ScriptedFeed, told

from telefabric.feed import Failures, FileFeed
from telefabric.ring import Hud, Name, RingWriter, TileHud
from telefabric.store.file.database import FILE_NAME

pytestmark = test_gui_window.pytestmark
if test_gui_window.THERE:
    from PySide6.QtCore import QCoreApplication, QEvent, QObject, Qt
    from PySide6.QtGui import QImage

    from telefabric_gui import theme
    from telefabric_gui.agent_stream import AgentKey, AgentStream
    from telefabric_gui.controller import Controller
    from telefabric_gui.model.charting import Charting
    from telefabric_gui.model.lines import Lines, Segment
    from telefabric_gui.model.tiles import NEW_S, ORDER_S, ORDERS, STALLED_S, Ages, Tile, TileOrder
    from telefabric_gui.rows import VOID
    from telefabric_gui.views.isolation import Views
    from telefabric_gui.views.page import AgentPage
    from telefabric_gui.views.scenes import FrameScene
    from telefabric_gui.views.stored_tiles import by_env
    from telefabric_gui.window import MainWindow

ENVS = 4


# -- ages and order ----------------------------------------------------------------------------------------------
def test_an_environment_without_steps_gets_old_and_stalls_and_a_new_episode_is_said() -> None:
    ages = Ages()
    ages.see([TileHud(0, 0, 1), TileHud(1, 0, 1)], 10.0)
    for at in range(2, 60):
        ages.see([TileHud(0, at // 50, at % 50), TileHud(1, 0, 1, fresh=False)], 10.0 + at / 10)
    now_s = 10.0 + 59 / 10
    live, still = ages.tile(TileHud(0, 1, 9), now_s), ages.tile(TileHud(1, 0, 1), now_s)
    assert (live.age_s, live.stalled, live.foot) == (0, False, ("new episode",))
    assert (still.age_s, still.stalled, still.foot) == (pytest.approx(5.9), True, ())
    assert ages.tile(TileHud(0, 1, 9), now_s + NEW_S).foot == ()
    assert not ages.tile(TileHud(0, 1, 9), now_s + STALLED_S - 0.1).stalled
    assert ages.tile(TileHud(7), now_s).age_s == 0, "nothing was seen of it yet"


def tiles(*totals: float | None, stalled: int = -1) -> list[Any]:
    return [Tile(env, 0, 10 - env, total, 0.1, env == stalled) for env, total in enumerate(totals)]


@pytest.mark.parametrize(("by", "envs"), [
    ("worst", [1, 3, 0, 2, 4]), ("best", [2, 0, 3, 1, 4]), ("longest", [0, 1, 2, 3, 4]), ("index", [0, 1, 2, 3, 4]),
])  # fmt: skip
@pytest.mark.parametrize("stalled_first", [True, False])
def test_each_order_and_stalled_ones_over_any(by: str, envs: list[int], stalled_first: bool) -> None:
    order = TileOrder()
    order.sort(by, stalled_first=stalled_first)
    given_tiles = tiles(2.0, -1.0, 9.0, 0.0, None, stalled=4)
    expected = [4, *envs[:-1]] if stalled_first else envs
    assert [tile.env for tile in order.arrange(given_tiles, 0.0, held=False)] == expected
    assert order.by in ORDERS


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.permutations([0.0, 1.0, 2.0]), st.booleans()), max_size=30))
def test_the_order_changes_at_most_once_in_two_seconds_and_never_while_held(moments: list[Any]) -> None:
    order, now_s, changed_s, shown = TileOrder(), 0.0, -ORDER_S, [0, 1, 2]
    order.arrange(tiles(0.0, 1.0, 2.0), -10.0, held=False)
    for wait_s, totals, held in moments:
        now_s += wait_s
        found = order.arrange(tiles(*totals), now_s, held=held)
        envs = [tile.env for tile in found]
        assert [tile.total for tile in found] == [totals[env] for env in envs], "values are those of now"
        if envs != shown:
            assert not held
            assert now_s - changed_s >= ORDER_S
            changed_s, shown = now_s, envs
        if not held and now_s - changed_s > ORDER_S:
            assert [totals[env] for env in envs] == sorted(totals)


def test_the_order_is_made_at_once_when_all_returns_have_been_read() -> None:
    order = TileOrder()
    assert [tile.env for tile in order.arrange(tiles(None, None, None), 0.0, held=False)] == [0, 1, 2]
    assert [tile.env for tile in order.arrange(tiles(None, 2.0, None), 0.1, held=False)] == [0, 1, 2]
    assert [tile.env for tile in order.arrange(tiles(3.0, 2.0, 1.0), 0.2, held=False)] == [2, 1, 0]
    assert [tile.env for tile in order.arrange(tiles(1.0, 2.0, 3.0), 0.3, held=False)] == [2, 1, 0]


def test_an_environment_that_comes_or_goes_changes_the_order_at_once() -> None:
    order = TileOrder()
    assert len(order.arrange(tiles(1.0, 2.0), 0.0, held=True)) == 2
    assert [tile.env for tile in order.arrange(tiles(1.0, 2.0, 0.0), 0.1, held=True)] == [2, 0, 1]
    assert [tile.env for tile in order.arrange(tiles(1.0), 0.2, held=True)] == [0]


# -- live --------------------------------------------------------------------------------------------------------
@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[RingWriter]:
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        monkeypatch.setenv("TELEFABRIC_RING", folder)
        made = RingWriter(Name("run", "agent_0", "worker"), fps_max=1e9)
        yield made
        made.close()


def one_step(seq: int) -> Any:
    """Environments take turns."""
    at = seq - 1
    return step(seq, env_index=at % ENVS, episode_index=0, step_index=at // ENVS, reward=float(at % ENVS))


@pytest.fixture
def page(qtbot: Any, qapp: Any, writer: RingWriter) -> Iterator[AgentPage]:
    theme.use(qapp, "dark")
    held = AgentStream(AgentKey("run", "agent_0"))
    held.pending += [told(one_step(seq)) for seq in range(1, 21)]
    held.apply()
    charting = Charting(ScriptedFeed(), lambda run_id, agent_id: (held, True), "", QObject(qapp))
    shown = AgentPage(held, Views(Failures()), charting, ScriptedFeed())
    qtbot.addWidget(shown)
    shown.resize(1100, 760)
    shown.show()
    qtbot.waitExposed(shown)
    shown.refresh(None)
    yield shown
    shown.hide()


def until(look: Callable[[], Any], what: str) -> Any:
    def turn() -> Any:
        QCoreApplication.processEvents()
        return look()

    return wait_for(turn, what)


def publish(writer: RingWriter, page: AgentPage, totals: list[float], step_index: int = 4) -> None:
    """Grey pictures, of environment n in the grey of 10 (n + 1)."""
    number = page.lane.frame.number if page.lane.frame else 0
    grid = np.stack([np.full((24, 32), 10 * (env + 1), np.uint8) for env in range(len(totals))])
    huds = [TileHud(env, 0, step_index, 0.5, total) for env, total in enumerate(totals)]
    writer.publish(grid, Hud(tiles=huds, steps_per_s=60.0), tiled=True)
    until(
        lambda: page.lane.frame and page.lane.frame.number > number and tiles_of(page),
        "the frame is shown",
    )


def tiles_of(page: AgentPage) -> Any:
    return page.environments.card.grid.tiles


def follows(page: AgentPage) -> int | None:
    return page.environments.card.follows


def envs_of(page: AgentPage) -> list[int]:
    return [tile.env for tile in tiles_of(page)]


def grey_of(image: QImage) -> int:
    return image.pixelColor(image.width() // 2, image.height() // 2).red()


def click(qtbot: Any, page: AgentPage, env: int) -> None:
    grid = page.environments.card.grid
    cell = grid._cells()[envs_of(page).index(env)]
    qtbot.mouseClick(grid, Qt.MouseButton.LeftButton, pos=cell.center().toPoint())


def test_the_grid_comes_with_the_first_tiles_and_a_click_follows_one(
    page: AgentPage, writer: RingWriter, qtbot: Any
) -> None:
    assert (page.environments._cards.shown_as, page.environments.card.isVisible()) == ("cards", False)
    publish(writer, page, [2.0, -1.0, 9.0, 0.0])
    assert page.environments.card.isVisible()
    assert not page.charts.isVisible()
    assert envs_of(page) == [1, 3, 0, 2]
    assert follows(page) == 1, "the first in order"
    assert page.environment_card.title.text() == "#1"
    page.refresh(None)
    assert page.environment_card.caption.toolTip() == "worst"
    assert grey_of(page.environment.picture()) == 20
    click(qtbot, page, 2)
    page.refresh(None)
    assert page.environment_card.title.text() == "#2"
    assert page.environment_card.caption.toolTip() == "best"
    assert grey_of(page.environment.picture()) == 30
    assert dict(page.environment._figures)["return"] == "9.00"
    assert page.step is not None
    assert int(page.step.record["env"]) == 2
    rows = [page.step_table.at(line).record["env"] for line in range(page.step_table.rowCount())]
    assert rows == [2] * 5
    assert page.steps_card.caption.toolTip() == "#2: 5 of the newest"
    page.stream.pending += [told(one_step(seq)) for seq in range(21, 25)]
    page.stream.apply()
    page.refresh(None)
    assert page.step_table.rowCount() == 6, "and what comes"
    assert not page.environments.card.grid.grab().isNull()


def test_keys_follow_show_the_picture_alone_and_sort(page: AgentPage, writer: RingWriter, qtbot: Any) -> None:
    publish(writer, page, [2.0, -1.0, 9.0, 0.0])
    grid = page.environments.card.grid
    grid.setFocus()
    columns = grid._columns
    qtbot.keyClick(grid, Qt.Key.Key_Right)
    assert follows(page) == envs_of(page)[1]
    qtbot.keyClick(grid, Qt.Key.Key_Left)
    qtbot.keyClick(grid, Qt.Key.Key_Left)
    assert follows(page) == envs_of(page)[0]
    qtbot.keyClick(grid, Qt.Key.Key_Down)
    assert follows(page) == envs_of(page)[columns]
    for by, envs in (
        ("best", [2, 0, 3, 1]),
        ("longest", [0, 1, 2, 3]),
        ("index", [0, 1, 2, 3]),
        ("worst", [1, 3, 0, 2]),
    ):
        qtbot.keyClick(grid, Qt.Key.Key_O)
        assert page.environments.card._order.by == by
        assert envs_of(page) == envs
    qtbot.keyClick(grid, Qt.Key.Key_Return)
    assert page.environments._cards.shown_as == "picture"
    assert page.environment.isVisible()
    assert not page.steps.isVisible()
    qtbot.mouseClick(page.environments.link, Qt.MouseButton.LeftButton)
    assert page.environments.card.isVisible()
    page.environments.card.cards_wanted.emit()
    publish(writer, page, [2.0, -1.0, 9.0, 0.0])
    assert page.charts.isVisible(), "the next frame does not bring the grid back"


def test_a_stalled_environment_comes_first_and_says_whether_its_last_step_is_stored(
    page: AgentPage, writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(writer, page, [2.0, -1.0, 9.0, 0.0])
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + STALLED_S + 1)
    before = page.lane.frame
    assert before is not None
    huds = [msgspec.structs.replace(hud, fresh=hud.env_index != 2) for hud in before.hud.tiles]
    page.lane.frame = before._replace(
        number=before.number + 1, hud=msgspec.structs.replace(before.hud, tiles=huds),
        shown_ns=before.shown_ns + round((STALLED_S + 1) * 1e9),
    )  # fmt: skip
    page.environment_card.show_lane()
    assert envs_of(page)[0] == 2
    first = tiles_of(page)[0]
    assert (first.stalled, first.foot) == (True, ("stalled 4 s", "step 4: live only"))
    assert page.environments.card._badge.text() == "1 stalled"
    assert [tile.stalled for tile in tiles_of(page)] == [True, False, False, False]
    monkeypatch.setattr(type(page.step_rows), "stored_seq", 100)
    page.environment_card.show_lane()
    assert tiles_of(page)[0].foot[1] == "step 4: stored"
    page.lane.state = "closed"
    page.environment_card.show_lane()
    assert not any(tile.stalled for tile in tiles_of(page)), "a worker that has ended has not stalled"
    assert page.environments.card.grid.gone


def test_the_environment_of_the_step_at_the_cursor_is_named_also_without_stored_frames(
    page: AgentPage, writer: RingWriter
) -> None:
    publish(writer, page, [2.0, -1.0, 9.0, 0.0])
    assert page.environment_card.title.text() == "#1"
    page.time.cursor.go_to(2)
    page.refresh(None)
    assert page.step is not None
    assert int(page.step.record["env"]) == 2
    assert (page.environment_card.title.text(), page.environments.card.grid.follows) == ("#2", 2)


# -- stored ------------------------------------------------------------------------------------------------------
def test_stored_frames_of_several_environments_are_tiles_too(
    qtbot: Any, qapp: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each environment has a frame at every fifth step; replay shows the followed one alone in the large picture."""
    info, rounds, seq = stream(), 400, 1
    told_events: list[Any] = [run_started(1, info)]
    for env in range(ENVS):
        seq += 1
        told_events.append(reset(seq, env_index=env, episode_index=0))
    for at in range(rounds):
        for env in range(ENVS):
            seq += 1
            made = step(seq, env_index=env, episode_index=0, step_index=at, reward=float(env), global_step=seq)
            told_events.append(msgspec.structs.replace(made, time_ns=TIME_NS + at * 20_000_000))
            if at % 5 == 0:
                seq += 1
                shot = frame(seq, data=test_gui_window.picture(8, 4))
                told_events.append(
                    msgspec.structs.replace(shot, env_index=env, episode_index=0, step_index=at, width=8, height=4)
                )
    with Scribe(tmp_path / FILE_NAME) as scribe:
        for at in range(0, len(told_events), 500):
            scribe.put(info, *told_events[at : at + 500])
        scribe.put(info, run_completed(seq + 1))
        scribe.commit()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    theme.use(qapp, "dark")
    main = MainWindow(Controller(FileFeed(tmp_path / FILE_NAME)))
    main.resize(1280, 800)
    main.show()
    try:
        until(lambda: main.page and main.page.time.cursor.total == rounds * ENVS, "the run is read")
        page = main.page
        assert page is not None
        row = 100 * ENVS + 2
        page.time.cursor.go_to(row)
        until(lambda: sorted(envs_of(page)) == [0, 1, 2, 3] and follows(page) == 2, "tiles at the cursor")
        totals = {0: 0.0, 1: 101.0, 2: 202.0, 3: 300.0}
        until(lambda: {tile.env: tile.total for tile in tiles_of(page)} == totals, "returns so far")
        assert all(tile.image is not None for tile in tiles_of(page))
        click(qtbot, page, 1)
        until(lambda: page.time.cursor.row == row - 1 and follows(page) == 1, "the cursor is at its step")
        page.time.cursor.replay()
        seen: list[tuple[int, int]] = []

        def note() -> None:
            scene = page.environment.scene
            assert isinstance(scene, FrameScene)
            seen.append((scene.frame.env_index, scene.frame.step_index))

        until(lambda: page.time.cursor.row > row + 20, "replay goes on")
        main.controller.ticked.connect(note)
        until(lambda: page.time.cursor.row > row + 100, "replay goes on")
        main.controller.ticked.disconnect(note)
        assert {env for env, _ in seen} == {1}
        assert seen == sorted(seen)
    finally:
        assert not main.controller.failures.number, main.controller.failures.last
        main.close()
        main.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


@pytest.mark.parametrize("row", [0, 3, 5, 39, 40, 41, 77])
def test_the_newest_row_of_each_environment_up_to_a_row(row: int) -> None:
    """Among resets and voided rows, and over the border between two segments."""
    steps = [one_step(seq) for seq in range(1, 81)]
    held = AgentStream(AgentKey("run", "agent_0"))
    held.pending += [told(reset(1 + env, env_index=env, episode_index=0)) for env in range(2)]
    held.pending += [told(msgspec.structs.replace(one, seq=one.seq + 2)) for one in steps]
    held.apply()
    records = held.steps.records.copy()
    records["mark"][20] = VOID
    both = [Segment(0, records[:42], lambda record: None), Segment(40, records[42:], lambda record: None)]
    found = by_env(Lines(80, both), row)
    expected = {int(records["env"][at + 2]): at for at in range(row + 1) if at != 18}
    assert {env: one.row for env, one in found.items()} == expected
    assert all(one.record["seq"] == one.row + 3 for one in found.values())
