"""The raw view: events as they came, around the cursor or the newest, with exact types, a search, and copies."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from msgspec.msgpack import Ext
from oddvalues import FOREIGN, ODD, by_name, odd_values
from skips import requires
from slowness import patience
from store_fixtures import Scribe, episode, log, metric, raw, run_started, step, stream
from test_gui_feed import ScriptedFeed, told, update, view

from telefabric.feed import FileFeed, file_feed
from telefabric_schemas import values

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support (propagateSizeHints|raise|grabbing)"),  # said by offscreen
]
if THERE:
    from PySide6.QtCore import QModelIndex, QPoint, Qt
    from PySide6.QtGui import QGuiApplication
    from PySide6.QtTest import QAbstractItemModelTester
    from PySide6.QtWidgets import QMenu

    from telefabric_gui import agent_stream
    from telefabric_gui.agent_stream import RAW_EVENTS_MAX, AgentKey, AgentStream
    from telefabric_gui.item_models.raw_tree import RawTree, text_of, type_of
    from telefabric_gui.model.cursor import Mode
    from telefabric_gui.views.page import AgentPage
    from telefabric_gui.views.switch import DRAWN, RAW, VIDEO
    from telefabric_gui.window import MainWindow

encoded = msgspec.msgpack.Encoder().encode
LAST = 3_000


# -- the tree ----------------------------------------------------------------------------------------------------
def lines(tree: RawTree, parent: Any = None) -> dict[str, tuple[str, str]]:
    """Value and type of what is below a line."""
    parent = parent if parent is not None else QModelIndex()
    tree.open(parent) if parent.isValid() else None
    return {
        tree.index(row, 0, parent).data(): (tree.index(row, 1, parent).data(), tree.index(row, 2, parent).data())
        for row in range(tree.rowCount(parent))
    }


def below(tree: RawTree, *names: str) -> QModelIndex:
    at = tree.index(0, 0)
    for name in names:
        found = list(lines(tree, at)).index(name)
        at = tree.index(found, 0, at)
    return at


def tree_of(*events: Any, qapp: Any = None) -> RawTree:
    tree = RawTree()
    tree.show_events({event.seq: encoded(event) for event in events})
    return tree


def test_values_have_their_exact_types(qapp: Any) -> None:
    info = {
        "int": 7, "float": 0.1, "true": True, "none": None, "text": "abc", "bytes": b"\0\1", "large": 2**70,
        "list": [1, 2.5], "map": {"a": {"b": 1}}, "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "picture": np.zeros((84, 84, 4), np.uint8), "ext": Ext(5, b"abc"),
    }  # fmt: skip
    tree = tree_of(step(8, action=raw(np.int64(3)), reward=1 / 3, info=raw(info)))
    QAbstractItemModelTester(tree, QAbstractItemModelTester.FailureReportingMode.Fatal)
    assert lines(tree) == {"step": ("seq 8 · episode 0 · step 8", tree.index(0, 2).data())}
    assert tree.index(0, 2).data().endswith(" bytes")
    fields = lines(tree, tree.index(0, 0))
    assert fields["reward"] == ("0.3333333333333333", "float"), "all digits"
    assert (fields["action"], fields["policy_label"], fields["terminated"]) == (
        ("3", "int"), ("null", "null"), ("false", "bool"),
    )  # fmt: skip
    assert lines(tree, below(tree, "info")) == {
        "int": ("7", "int"), "float": ("0.1", "float"), "true": ("true", "bool"), "none": ("null", "null"),
        "text": ("abc", "str, 3"), "bytes": ("b'\\x00\\x01'", "bytes, 2"),
        "large": ("1180591620717411303424", "int of 71 bits"), "list": ("1 2.5", "list, 2"),
        "map": ("a b 1", "map, 1"), "array": ("0 1 2 3 4 5", "array float32, 2 \u00d7 3"),
        "picture": ("uint8 84 \u00d7 84 \u00d7 4", "array uint8, 84 \u00d7 84 \u00d7 4"),
        "ext": ("extension 5", "ext 5, 3 bytes"),
    }  # fmt: skip
    assert lines(tree, below(tree, "info", "array", "1")) == {
        "0": ("3.0", "float32"), "1": ("4.0", "float32"), "2": ("5.0", "float32"),
    }  # fmt: skip
    assert list(lines(tree, below(tree, "info", "picture", "0", "0"))) == ["0", "1", "2", "3"]
    assert tree.path(below(tree, "info", "map", "a", "b")) == "info.map.a.b"


def test_long_ones_are_counted_and_nothing_is_opened_before_it_is_looked_at(qapp: Any) -> None:
    tree = tree_of(*(step(seq, info=raw({"long": list(range(1_000))})) for seq in range(1, 101)))
    assert len(tree._values) == 100
    assert lines(tree, below(tree, "info", "long"))["…"] == ("900 more", "str, 8")


def test_events_without_a_schema_are_shown_as_they_came(qapp: Any) -> None:
    tree = RawTree()
    tree.show_events({3: encoded(["of_tomorrow", 3, {"x": 1.5}]), 2: b"\xc1", 1: encoded(metric(1, "loss", 0.5))})
    assert list(lines(tree)) == ["event", "metric"]
    assert tree.index(0, 1).data() == "seq 3"
    assert next(iter(lines(tree, tree.index(0, 0)).values())) == ("of_tomorrow", "str, 11")
    assert tree.index(1, 2).data() == "1 byte"
    assert tree.index(2, 1).data() == "seq 1 · loss"


def test_values_are_copied_as_they_are_or_as_json(qapp: Any) -> None:
    info = {"text": "left\tright", "array": np.eye(2, dtype=np.float32), "bytes": b"\xff", "nan": math.nan, 3: 2**80}
    tree = tree_of(step(8, info=raw(info)))
    assert tree.text(below(tree, "info", "text")) == "left\tright"
    assert tree.text(below(tree, "seq")) == "8"
    found = json.loads(tree.text(tree.index(0, 0)))
    assert (found["kind"], found["seq"], found["frame_ref"]) == ("step", 8, None)
    assert found["info"] == {
        "text": "left\tright", "array": {"dtype": "float32", "shape": [2, 2], "items": [[1.0, 0.0], [0.0, 1.0]]},
        "bytes": {"bytes": "ff"}, "nan": "nan", "3": str(2**80),
    }  # fmt: skip


@pytest.mark.parametrize("value", **by_name(ODD))
def test_odd_values_have_lines_and_copies(value: Any, qapp: Any) -> None:
    tree = tree_of(step(1, action=raw(value), info=raw({"value": value})))
    tree.open_all()
    json.loads(tree.text(tree.index(0, 0)))


@pytest.mark.parametrize("data", **by_name(FOREIGN))
def test_foreign_values_have_lines_and_copies(data: Any, qapp: Any) -> None:
    event = step(1, info=msgspec.Raw(data) if isinstance(data, bytes) else raw(data))
    tree = tree_of(event)
    tree.open_all()
    text = tree.text(tree.index(0, 0))
    assert text.startswith("unreadable") or json.loads(text)["seq"] == 1


@given(odd_values())
def test_any_value_has_a_text_and_a_type(value: Any) -> None:
    found = values.decode(values.encode(value))
    assert type_of(found)
    assert isinstance(text_of(found), str)


# -- which events ------------------------------------------------------------------------------------------------
def test_the_newest_are_kept_whatever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    held = AgentStream(AgentKey("run", "agent_0"), b"s" * 16)
    for first, last in ((900, 1_000), (1, 899), (1_001, 1_010)):
        held.pending = [told(metric(seq) if seq % 5 == 0 else step(seq)) for seq in range(first, last + 1)]
        held.apply()
    assert list(held.raws) == list(range(1_010, 1_010 - RAW_EVENTS_MAX, -1))
    monkeypatch.setattr(agent_stream, "RAW_BYTES_MAX", 5_000)
    held.pending = [told(step(seq, info=raw("x" * 1_000))) for seq in range(1_011, 1_020)]
    held.apply()
    assert list(held.raws) == [1_019, 1_018, 1_017, 1_016]


def write(seq: int) -> Any:
    if seq % 10 == 0:
        return episode(seq)
    if seq % 10 == 5:
        return metric(seq, "loss", seq / 2)
    return log(seq, f"line {seq}") if seq % 100 == 7 else step(seq, info=raw({"lives": seq % 3, "deep": {"er": seq}}))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "telemetry.sqlite"
    with Scribe(path) as scribe:
        info = stream()
        scribe.put(info, run_started(1, info))
        for begin in range(2, LAST + 1, 500):
            scribe.put(info, *map(write, range(begin, min(begin + 500, LAST + 1))))
        scribe.commit()
    return path


@pytest.fixture
def show(
    windows: Callable[..., MainWindow], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any], AgentPage]:
    """A window with the raw view in front."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(file_feed, "TAIL_IDS", 300)
    monkeypatch.setattr("telefabric_gui.views.raw._EVERY_S", 0.0)

    def shown(feed: Any) -> AgentPage:
        main = windows(feed, (1600, 1000))
        qtbot.waitUntil(lambda: main.page is not None and main.page.step_rows.rows > 0, timeout=patience(20_000))
        assert main.page is not None
        qtbot.mouseClick(main.page.environment_card.switch._buttons[RAW], Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: main.page.raw.tree.rowCount() > 0, timeout=patience(10_000))  # type: ignore[union-attr]
        return main.page

    return shown


def names(page: AgentPage) -> list[str]:
    return [page.raw.tree.index(line, 0).data() for line in range(page.raw.tree.rowCount())]


def seqs(page: AgentPage) -> list[int]:
    return page.raw._seqs


def test_around_the_cursor_all_kinds_are_read_from_the_store(
    show: Callable[[Any], AgentPage], store: Path, qtbot: Any
) -> None:
    page = show(FileFeed(store))
    assert seqs(page)[0] == LAST, "while one follows, the newest"
    assert "metric" in names(page)
    qtbot.waitUntil(lambda: page.time.cursor.total > 2_000, timeout=patience(10_000))
    page.time.jumps.to_value("seq", 1_204)
    qtbot.waitUntil(lambda: 1_207 in seqs(page), timeout=patience(10_000))
    assert seqs(page) == list(range(1_253, 1_153, -1))
    assert set(names(page)) == {"step", "metric", "episode", "log"}
    assert page.raw._seq(page.raw.view.currentIndex()) == 1_204
    assert page.raw._said.text() == "100 around seq 1\u202f204"
    for _ in range(10):
        page.time.cursor.step(1)
    qtbot.waitUntil(lambda: page.raw._seq(page.raw.view.currentIndex()) > 1_210, timeout=patience(10_000))
    assert seqs(page)[0] == 1_253, "a list around the cursor stays while the cursor is in it"
    page.follow()
    qtbot.waitUntil(lambda: seqs(page)[0] == LAST, timeout=patience(10_000))


def test_an_event_that_is_opened_is_where_the_cursor_goes(
    show: Callable[[Any], AgentPage], store: Path, qtbot: Any
) -> None:
    page = show(FileFeed(store))
    qtbot.waitUntil(lambda: page.time.cursor.total > 2_000, timeout=patience(10_000))
    line = seqs(page).index(2_994)
    index = page.raw.view.model().index(line, 0)
    page.raw.view.expand(index)
    qtbot.waitUntil(lambda: page.raw.events.at == 2_994, timeout=patience(10_000))
    assert page.time.cursor.mode is Mode.PAUSED
    qtbot.waitUntil(lambda: ("seq", "2\u202f994") in page.details, timeout=patience(10_000))
    opened = next(one for one in page.raw._events() if page.raw._seq(one) == 2_994)
    qtbot.waitUntil(lambda: page.raw.view.isExpanded(opened), timeout=patience(5_000))
    assert page.time.cursor.row is not None
    wanted = page.time.cursor.row - 30
    page.time.cursor.go_to(wanted)
    qtbot.waitUntil(lambda: page.raw._seq(page.raw.view.currentIndex()) < 2_970, timeout=patience(10_000))
    assert page.time.cursor.row == wanted, "that it is still open moves nothing"


def test_a_search_looks_into_all_parts(show: Callable[[Any], AgentPage], store: Path, qtbot: Any) -> None:
    page = show(FileFeed(store))
    place = page.time.cursor.mode
    qtbot.keyClicks(page.raw.search, "2961")
    proxy = page.raw.view.model()
    assert proxy.rowCount() == 1
    assert page.raw._seq(proxy.index(0, 0)) == 2_961
    event = proxy.index(0, 0)
    assert page.raw.view.isExpanded(event)
    found = {proxy.index(row, 0, event).data() for row in range(proxy.rowCount(event))}
    assert found == {"seq", "global_step", "mono_ns", "info"}, "what has been found is opened, and no other"
    assert page.time.cursor.mode is place, "a search moves nothing"
    page.raw.search.clear()
    qtbot.keyClicks(page.raw.search, "lives")
    found_in = proxy.index(0, 0, proxy.index(0, 0))
    assert (found_in.data(), proxy.rowCount(found_in)) == ("info", 1), "its neighbours are left out"
    page.raw.search.clear()
    qtbot.keyClicks(page.raw.search, "METRIC")
    assert proxy.rowCount() == 10
    assert page.raw._said.text() == "10 of 100 newest"
    page.raw.search.clear()
    assert proxy.rowCount() == RAW_EVENTS_MAX


def test_a_part_is_copied_by_keys_and_pinned_by_the_menu(
    show: Callable[[Any], AgentPage], store: Path, qtbot: Any
) -> None:
    page = show(FileFeed(store))
    page.raw.search.setText("er")
    view_ = page.raw.view
    found = view_.model().match(view_.model().index(0, 0), 0, "er", 1, Qt.MatchFlag.MatchRecursive)
    view_.setCurrentIndex(found[0])
    view_.expandAll()
    page.time.cursor.pause()
    qtbot.keyClick(view_, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text().isdigit()
    place = view_.visualRect(view_.currentIndex()).center()
    view_.customContextMenuRequested.emit(QPoint(place))
    menu = page.raw.findChild(QMenu)
    assert isinstance(menu, QMenu)
    pin = next(action for action in menu.actions() if action.text().startswith("Pin"))
    assert pin.text() == "Pin info.deep.er, or let it go"
    pin.trigger()
    menu.close()
    main = page.window()
    assert isinstance(main, MainWindow)
    assert main.pins.paths == ["deep.er"]


def test_what_is_live_and_not_stored_is_shown_from_memory(show: Callable[[Any], AgentPage], qtbot: Any) -> None:
    feed = ScriptedFeed(update(runs=(view(),)), update(*(told(write(seq)) for seq in range(1, 500))))
    page = show(feed)
    page.time.cursor.go_to(40)
    qtbot.waitUntil(
        lambda: page.raw.events.at is not None and page.raw.events.at in seqs(page), timeout=patience(5_000)
    )
    assert {*names(page)} == {"step", "episode"}
    page.time.cursor.go_to(page.step_rows.rows - 1)
    qtbot.waitUntil(lambda: seqs(page)[0] == 499, timeout=patience(5_000))
    feed.updates.append(update(*(told(write(seq)) for seq in range(500, 510))))
    qtbot.waitUntil(lambda: seqs(page)[0] == 509, timeout=patience(5_000))
    feed.updates.append(update(*(told(write(seq)) for seq in range(510, 520))))
    page.follow()
    qtbot.waitUntil(lambda: seqs(page)[0] == 519, timeout=patience(5_000))


def test_a_grid_comes_before_the_video_which_is_there_once_a_frame_came(qtbot: Any, qapp: Any) -> None:
    from telefabric_gui.views.switch import ViewSwitch

    switch, said = ViewSwitch(), []
    switch.changed.connect(lambda: said.append(switch.view))
    assert [name for name, button in switch._buttons.items() if not button.isHidden()] == [DRAWN, RAW]
    switch.name_drawn("Grid")
    switch.offer_video()
    assert switch.view == DRAWN
    switch.choose(VIDEO)
    switch.name_drawn("Grid")
    assert (switch.view, said) == (VIDEO, [VIDEO])
    other = ViewSwitch()
    other.name_drawn("Numbers")
    other.offer_video()
    assert other.view == VIDEO
    other.choose(RAW)
    other.offer_video()
    assert other.view == RAW
