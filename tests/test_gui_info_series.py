"""Parts of `info` in charts: read from a real store as far as they are in sight, and joined to what is live."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skips import requires
from slowness import patience
from store_fixtures import Scribe, raw, run_started, step, stream
from test_gui_feed import ScriptedFeed, told, update, view

from telefabric.feed import Columns, FileFeed, file_feed

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from telefabric_gui.agent_stream import AgentKey, AgentStream
    from telefabric_gui.item_models.series_tree import _path
    from telefabric_gui.model import info_series
    from telefabric_gui.window import MainWindow

STEPS = 3_000
BREAK = range(1_000, 1_100)
"""Steps whose info has no value."""


def value_of(at: int) -> float:
    return float(at % 101) - 50.0


def told_step(at: int, seq: int) -> Any:
    info: dict[str, Any] = {"deep": {"er": value_of(at)}, "text": "x"} if at not in BREAK else {"text": "x"}
    if at % 100 == 99:
        info["end/length"] = at
    return step(
        seq, global_step=at, episode_index=at // 100, step_index=at % 100, terminated=at % 100 == 99, info=raw(info)
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("info") / "telemetry.sqlite"
    with Scribe(path) as scribe:
        info = stream()
        scribe.put(info, run_started(1, info))
        for begin in range(0, STEPS, 500):
            scribe.put(info, *(told_step(at, at + 2) for at in range(begin, begin + 500)))
        other = stream(run="other", worker="other")
        scribe.put(other, run_started(1, other), *(step(seq) for seq in range(2, 900)))
        scribe.commit()
    return path


@pytest.fixture
def shown(
    windows: Callable[..., MainWindow], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., MainWindow]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(file_feed, "TAIL_IDS", 300)
    monkeypatch.setattr(info_series, "BLOCK", 256)

    def show(feed: Any, run: str = "run") -> MainWindow:
        main = windows(feed, (1600, 1000))
        main.open_run(run)
        qtbot.waitUntil(lambda: main.page is not None and main.page.stream.key.run_id == run, timeout=patience(20_000))
        return main

    return show


def samples(main: MainWindow) -> Any:
    assert main.page is not None
    lines = main.page.charts.charts[0].lines
    return lines[0].curve.samples if lines else None


def drawn(main: MainWindow) -> int:
    found = samples(main)
    return 0 if found is None else len(found.x)


def test_a_part_of_info_is_in_the_tree_and_drawn_over_the_whole_run(
    shown: Callable[[Any], MainWindow], store: Path, qtbot: Any
) -> None:
    main = shown(FileFeed(store))
    qtbot.waitUntil(lambda: "info/deep.er" in main.series.tree.series, timeout=patience(10_000))
    assert "info/end/length" in main.series.tree.series, "seen at the end of an episode alone"
    assert "info/text" not in main.series.tree.series
    main.charting.layout.show_alone("info/deep.er")
    qtbot.waitUntil(lambda: drawn(main) == STEPS - len(BREAK), timeout=patience(20_000))
    found = samples(main)
    assert found.x.tolist() == [at for at in range(STEPS) if at not in BREAK]
    assert found.mean.tolist() == [value_of(at) for at in range(STEPS) if at not in BREAK]
    assert found.x[found.cut].tolist() == [0.0, BREAK.stop], "what is no number breaks the line, and nothing else does"
    assert main.page is not None
    assert main.page.charts.title == "deep.er"
    assert "read" not in main.page.charts.caption


def test_the_axis_of_a_stored_run_has_its_final_range_from_the_first_picture_on(
    shown: Callable[[Any], MainWindow], store: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telefabric_gui.views import charts, plot

    drawn_at: list[Any] = []
    draw = plot.Plot.draw

    def noted(self: Any, curves: Any, height: Any, **how: Any) -> None:
        drawn_at.append((len(curves[0].samples.x) if curves else 0, height))
        draw(self, curves, height, **how)

    monkeypatch.setattr(info_series, "_ASKED_MAX", 1)
    monkeypatch.setattr(charts, "_STORE_ANSWERS_S", 60.0)  # however slow this machine is
    main = shown(FileFeed(store))
    monkeypatch.setattr(plot.Plot, "draw", noted)
    main.charting.layout.show_alone("info/deep.er")
    qtbot.waitUntil(lambda: drawn(main) == STEPS - len(BREAK), timeout=patience(20_000))
    assert {number for number, _ in drawn_at if number} == {STEPS - len(BREAK)}, "all of it at once"
    assert len({height for number, height in drawn_at if number}) == 1


def test_with_more_in_sight_than_is_read_that_is_said_and_zooming_in_reads_the_rest(
    shown: Callable[[Any], MainWindow], store: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info_series, "BLOCKS_IN_SIGHT_MAX", 2)
    main = shown(FileFeed(store))
    main.charting.layout.show_alone("info/deep.er")
    page = main.page
    assert page is not None
    qtbot.waitUntil(lambda: drawn(main) == STEPS - 2_304, timeout=patience(20_000))
    assert samples(main).x[0] == 2_304, "the newest blocks that are whole in sight"
    qtbot.waitUntil(lambda: "zoom in for the others" in page.charts.caption, timeout=patience(5_000))
    assert page.charts.caption.partition("deep.er: ")[2].startswith(("396 of 2", "395 of 2", "397 of 2"))
    page.time.cursor.see(300, 500)
    qtbot.waitUntil(lambda: samples(main).x[0] == 256, timeout=patience(10_000))
    found = samples(main)
    assert found.x[found.cut].tolist() == [256.0, 2_304.0], "no line leads over what was not read"
    assert "deep.er:" not in page.charts.caption


def test_a_run_without_the_part_is_not_asked_for_it(
    shown: Callable[..., MainWindow], store: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = shown(FileFeed(store), "other")
    asked: list[Any] = []
    ask = main.controller.feed.ask
    monkeypatch.setattr(
        main.controller.feed, "ask", lambda one, *more, **named: asked.append(one) or ask(one, *more, **named)
    )  # type: ignore[func-returns-value]
    main.charting.layout.show_alone("info/deep.er")
    main.charting.layout.put("reward")
    qtbot.waitUntil(lambda: len(main.page.charts.charts[0].lines) == 2, timeout=patience(10_000))  # type: ignore[union-attr]
    assert not [one for one in asked if isinstance(one, Columns) and "info/deep.er" in one.fields]


def test_what_comes_live_is_drawn_behind_it(shown: Callable[[Any], MainWindow], qtbot: Any) -> None:
    """Without a store: what is held is all there is."""
    feed = ScriptedFeed(update(runs=(view(),)), update(*(told(told_step(at, at + 2)) for at in range(50))))
    main = shown(feed)
    main.charting.layout.show_alone("info/deep.er")
    qtbot.waitUntil(lambda: drawn(main) == 50, timeout=patience(10_000))
    feed.updates.append(update(*(told(told_step(at, at + 2)) for at in range(50, 80))))
    qtbot.waitUntil(lambda: drawn(main) == 80, timeout=patience(10_000))
    assert samples(main).mean.tolist() == [value_of(at) for at in range(80)]


def test_parts_are_taken_from_the_steps_in_memory_and_from_all_that_come() -> None:
    stream_ = AgentStream(AgentKey("run", "agent_0"), b"s" * 16)
    infos = [{"x": 1}, {"x": float("nan")}, {"x": 10**400}, {"x": "text"}, {}, {"x": True}, None]
    stream_.pending = [told(step(seq, info=raw(info))) for seq, info in enumerate(infos, 1)]
    stream_.apply()
    assert "info/x" not in stream_.series(), "the newest step has none"
    assert np.array_equal(stream_.tail("info/x")[1], [1.0, np.nan, np.nan, np.nan, np.nan, 1.0, np.nan], equal_nan=True)
    stream_.pending = [told(step(8, info=raw({"x": 2.5, "deep": {"y.z": 1}})))]
    stream_.apply()
    assert stream_.tail("info/x")[1][-1] == 2.5
    assert stream_.tail("info/x")[0][-1] == 8
    assert stream_.series()[-2:] == ["info/x", "info/deep.y.z"]
    assert stream_.tail("info/deep.y.z")[1][-1] == 1.0


def test_of_more_steps_than_can_be_decoded_at_once_the_newest_are_live_without_a_hole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telefabric_gui.agent_stream._PART_VALUES_A_DRAIN", 10)
    held = AgentStream(AgentKey("run", "agent_0"), b"s" * 16)
    for first, last, begins in ((1, 5, 1), (6, 12, 1), (13, 40, 31), (41, 44, 31)):
        held.pending = [told(step(seq, info=raw({"x": seq}))) for seq in range(first, last + 1)]
        held.apply()
        assert held.tail("info/x")[1].tolist() == [float(seq) for seq in range(begins, last + 1)]


def test_the_tree_has_parts_under_info() -> None:
    assert _path("info/deep.er") == ["info", "deep", "er"]
    assert _path("info/reward/goal") == ["info", "reward", "goal"]


def test_blocks_out_of_sight_are_let_go_of_and_read_again(
    shown: Callable[[Any], MainWindow], store: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = shown(FileFeed(store))
    main.charting.layout.show_alone("info/deep.er")
    qtbot.waitUntil(lambda: drawn(main) == STEPS - len(BREAK), timeout=patience(20_000))
    (part,) = main.charting.info.parts()
    assert part.bytes > 0
    assert part.let_go is not None
    part.let_go(part.bytes)
    assert main.charting.info.parts()[0].bytes == part.bytes, "all are in sight"
    assert main.page is not None
    main.page.time.cursor.see(300, 500)
    monkeypatch.setattr(info_series, "AGAIN_S", -1.0)
    part.let_go(part.bytes)
    assert main.charting.info.parts()[0].bytes == 0
    main.page.time.cursor.see_all()
    qtbot.waitUntil(lambda: drawn(main) == STEPS - len(BREAK), timeout=patience(20_000))
