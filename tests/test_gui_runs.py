"""The lists of runs: what is in them, their order and their search, one change at a time; and the table of all runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import wait_for
from skips import requires
from store_fixtures import Scribe, episode, query_behind_broker, raw, run_completed, run_started, step, stream
from test_gui_feed import ScriptedFeed, update, view
from test_gui_window import THERE, tick, window

if THERE:
    from PySide6.QtCore import QItemSelectionModel, QSize, Qt
    from PySide6.QtTest import QAbstractItemModelTester
    from PySide6.QtWidgets import QApplication, QInputDialog, QMenu, QMessageBox

    from telefabric.feed import Answer, BrokerFeed, Bucket, Connection, Feed, FileFeed, LinkState, Page, RunView
    from telefabric.store.file.database import FILE_NAME
    from telefabric_gui.formatting import NONE
    from telefabric_gui.health import _worker
    from telefabric_gui.item_models.runs import COLUMNS, Runs, RunTable, explained, of_metadata, warning_of
    from telefabric_gui.model.cursor import Mode
    from telefabric_gui.model.run_difference import difference
    from telefabric_gui.model.run_search import search, text_of
    from telefabric_gui.model.sparks import AGAIN_S, Sparks, values_of
    from telefabric_gui.window import MainWindow

__all__ = ["window"]
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]


@pytest.fixture(autouse=True)
def settings_of_one_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def told(**metadata: Any) -> bytes:
    return bytes(raw(metadata))


def some(number: int, state: str = "completed", **given: Any) -> RunView:
    """The n-th run."""
    return view(f"run{number:03}", state, started_ns=1_000 + number, number=number + 1, **given)


# -- searching -----------------------------------------------------------------------------------------------------

LAKE: dict[str, Any] = dict(  # noqa: C408
    run_id="lake-dqn-7", state="failed", tags=("baseline", "paper 2"), notes="the second try",
    metadata=told(lr=0.001, seed=7, game_id="FrozenLake-v1", net={"layers": [64, 64]}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ("", True), ("lake", True), ("LAKE failed", True), ("lake lost", False), ("frozenlake-v1", True),
        ("baseline", True), ("second", True), ("agent_0", True),
        ("-lake", False), ("-pole lake", True),
        ("state:failed", True), ("state:lost", False), ("-state:failed", False), ("state:fail", True),
        ("name:dqn", True), ("name:failed", False), ("mode:agent", True), ("mode:human", False),
        ("tag:base", True), ("tag:old", False), ("-tag:old", True), ('tag:"paper 2"', True), ("note:second", True),
        ("agent:agent_0", True), ("agent:agent_1", False),
        ("lr=0.001", True), ("lr=1e-3", True), ("lr=0.01", False), ("lr>0.0005", True), ("lr<0.0005", False),
        ("seed>=7", True), ("seed<=6", False), ("seed=7", True), ("game_id:lake", True),
        ("game_id=frozenlake-v1", True),
        ("nothing:there", False), ("nothing>3", False), ("game_id>3", False), ("net:64", True),
        ("-", True), ('"the second', True), (":", False), ("archived", False),
    ],
)  # fmt: skip
def test_what_words_find(words: str, fits: bool) -> None:
    run = view(**LAKE)
    assert search(words)(run, lambda: text_of(run)) is fits


def test_archived_runs_are_found_by_their_word() -> None:
    run = view(**LAKE, archived=True)
    assert not search("lake")(run, lambda: text_of(run))
    assert search("lake archived")(run, lambda: text_of(run))


@given(st.text(max_size=30))
def test_any_words_can_be_searched(words: str) -> None:
    run = view(**LAKE)
    search(words)(run, lambda: text_of(run))


# -- the table -----------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(qapp: QApplication) -> Runs:
    return Runs()


def names(table: RunTable) -> list[str]:
    return [table.index(place, 0).data() for place in range(table.rowCount())]


def checked(table: RunTable) -> QAbstractItemModelTester:
    return QAbstractItemModelTester(table, QAbstractItemModelTester.FailureReportingMode.Fatal)


def test_runs_come_change_move_and_go_one_by_one(runs: Runs) -> None:
    table = RunTable(runs, COLUMNS)
    tester = checked(table)
    resets: list[None] = []
    runs.take([some(number) for number in range(5)], ())
    table.modelReset.connect(lambda: resets.append(None))
    assert names(table) == ["run004", "run003", "run002", "run001", "run000"]
    runs.take([some(5)], ())
    assert names(table)[0] == "run005"
    runs.take([some(2, "failed")], ())
    assert table.index(table.place_of("run002"), 1).data() == "failed"
    runs.take([some(3)._replace(started_ns=2_000)], ())
    assert names(table) == ["run003", "run005", "run004", "run002", "run001", "run000"]
    runs.take([some(3)], ("run005", "run000"))
    assert names(table) == ["run004", "run003", "run002", "run001"]
    runs.take([some(1, archived=True)], ())
    assert names(table) == ["run004", "run003", "run002"]
    assert (table.place_of("run002"), table.place_of("run001")) == (2, -1)
    assert resets == []
    del tester


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_changes_one_by_one_lead_to_what_a_new_table_shows(qapp: QApplication, seed: int) -> None:
    chance, known = random.Random(seed), Runs()
    table = RunTable(known, COLUMNS)
    tester = checked(table)
    table.choose_columns([*COLUMNS, of_metadata("lr")])
    changing = [at for at, column in enumerate(table.columns) if column.title in ("STATE", "TAGS", "lr")]
    table.sort(chance.choice(changing), chance.choice(list(Qt.SortOrder)))
    words = chance.choice(("", "", "failed", "-failed", "lr>0.5", "archived"))
    table.search(words)
    for _ in range(12):
        changed = [
            some(
                chance.randrange(8),
                chance.choice(("running", "failed", "lost")),
                archived=chance.random() < 0.2,
                tags=chance.choice(((), ("good",))),
                metadata=told(lr=chance.choice((None, 0.1, 1, "x", [1], float("nan")))),
            )
            for _ in range(chance.randrange(4))
        ]
        changed = list({run.run_id: run for run in changed}.values())
        left = [name for name in known.rows if name not in {run.run_id for run in changed}]
        known.take(changed, tuple(chance.sample(left, min(len(left), chance.randrange(2)))))
        again = RunTable(known, COLUMNS)
        again.search(words)
        again._by, again._down = table._by, table._down
        again._reset()
        assert names(table) == names(again)
        assert [table.place_of(name) for name in names(table)] == list(range(table.rowCount()))
    del tester


def test_many_runs_at_once_come_in_one_reset_and_a_table_that_is_not_seen_rests(runs: Runs) -> None:
    table, hidden = RunTable(runs), RunTable(runs)
    testers = [checked(table), checked(hidden)]
    hidden.follow(False)
    runs.take([some(number) for number in range(200)], ())
    assert (table.rowCount(), hidden.rowCount()) == (200, 0)
    hidden.follow(True)
    assert names(hidden) == names(table)
    del testers


@pytest.mark.parametrize(("title", "first", "last"), [
    ("RUN", "run000", "run003"), ("TOOK", "run003", "run001"), ("TAGS", "run000", "run001"), ("lr", "run000", "run003"),
])  # fmt: skip
def test_a_column_sorts_numbers_as_numbers_and_nothing_before_them(
    runs: Runs, title: str, first: str, last: str
) -> None:
    table = RunTable(runs, [*COLUMNS, of_metadata("lr")])
    runs.take([
        some(0, metadata=told(lr=None), finished_ns=5_000_000_000),
        some(1, metadata=told(lr=9), finished_ns=500_000_000_000, tags=("z",)),
        some(2, metadata=told(lr=10.5), finished_ns=60_000_000_000, tags=("a",)),
        some(3, metadata=told(lr="auto"), tags=("b",)),
    ], ())  # fmt: skip
    column = [one.title for one in table.columns].index(title)
    table.sort(column, Qt.SortOrder.AscendingOrder)
    assert (names(table)[0], names(table)[-1]) == (first, last)
    table.sort(column, Qt.SortOrder.DescendingOrder)
    assert (names(table)[-1], names(table)[0]) == (first, last)


def test_any_value_of_the_metadata_can_be_a_column(runs: Runs) -> None:
    table = RunTable(runs, [*COLUMNS, of_metadata("lr")])
    tester = checked(table)
    odd = [None, True, 2**70, -1.5, float("inf"), float("nan"), "x\ny", b"\xff", [1, [2]], {"a": {"b": 1}}, {}]
    runs.take([some(place, metadata=told(lr=value)) for place, value in enumerate(odd)], ())
    table.sort(len(COLUMNS), Qt.SortOrder.AscendingOrder)
    assert table.rowCount() == len(odd)
    del tester


# -- words ---------------------------------------------------------------------------------------------------------


def test_order_words_and_columns_change_as_a_model_may(runs: Runs) -> None:
    table = RunTable(runs, COLUMNS)
    tester = checked(table)
    runs.take([some(number, metadata=told(lr=number)) for number in range(80)], ())
    for place in range(len(COLUMNS)):
        table.sort(place, Qt.SortOrder.AscendingOrder)
        table.search("" if place % 2 else "lr>20 -run03")
        table.choose_columns([*COLUMNS, *map(of_metadata, ("lr", "seed")[: place % 3])])
        runs.take([some(place, "failed"), some(100 + place)], (f"run{50 + place:03}",))
        runs.show_spark("run001", (0.0, place / 10))
    assert table.rowCount() == 80
    del tester


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"state": "lost", "reason": "no word from worker any more"}, "continues here if its worker is heard again"),
        ({"state": "failed", "reason": "out of memory"}, "out of memory"),
        ({"state": "failed", "reason": None}, "gave no reason"),
        ({"state": "running", "attempts": 3, "superseded": 2}, "Resumed: this is attempt 3"),
        ({"state": "revived"}, "is heard again"),
        ({"state": "stalled", "silent_s": 14.0}, "Silent for 14 s"),
        ({"state": "stalled"}, "The broker hears nothing of its worker any more"),
        ({"state": "pending"}, "no event of it yet"),
        ({"state": "waiting", "backlog": 7}, "7 events wait"),
        ({"state": "held"}, "another store"),
        ({"state": "idle"}, "is alive"),
        ({"state": "cancelled"}, "ended on purpose"),
        ({"state": "running", "helpers": 4}, "4 helpers"),
        ({"notes": "look at step 500"}, "look at step 500"),
    ],
)
def test_the_tooltip_explains_the_state(given_: dict[str, Any], words: str) -> None:
    assert words in explained(view(**given_))


def test_a_stalled_run_that_the_broker_has_forgotten_is_not_called_stored_or_silent_for_no_time() -> None:
    killed = view(state="stalled")
    said = [warning_of(killed), explained(killed), _worker(Connection(LinkState.LIVE, "tcp://broker"), killed).caption]
    assert not [text for text in said if "is stored" in text or "0.0 ms" in text]
    assert "not stored yet wait in its worker's spool" in said[0]
    heard = view(state="stalled", silent_s=14.0, emitted=9)
    assert warning_of(heard) == "Stalled: nothing from run for 14 s. Its last step is stored."
    assert "2 events of it wait" in warning_of(heard._replace(backlog=2))


def test_the_difference_of_two_runs_is_value_by_value_those_that_differ_first() -> None:
    before = view("a", metadata=told(lr=0.1, seed=1, net={"layers": [64, 64], "act": "tanh"}, old=True))
    now = view("b", control_mode="human", metadata=told(lr=0.2, seed=1, net={"layers": [32], "act": "tanh"}, new="x"))
    found = {one.name: (one.before, one.now) for one in difference(before, now) if not one.equal}
    assert found == {
        "control mode": ("agent", "human"), "lr": ("0.1", "0.2"), "net.layers": ("64 64", "32"), "new": (NONE, "x"),
        "old": ("true", NONE),
    }  # fmt: skip
    equal = [one.equal for one in difference(before, now)]
    assert equal == sorted(equal)
    assert all(one.equal for one in difference(before, before._replace(run_id="c")))


# -- in the window -------------------------------------------------------------------------------------------------


def many(folder: Path, number: int = 30) -> Scribe:
    """A store of runs, the later the better, of which each has 20 episodes; the last one goes on."""
    scribe = Scribe(folder / FILE_NAME)
    for place in range(number):
        info = stream(f"run{place:03}", f"worker{place}", after_ns=place * 60_000_000_000)
        events = [run_started(1, info, {"lr": round(0.1 * (1 + place % 3), 1), "seed": place, "algorithm": "dqn"})]
        for count in range(20):
            events.append(episode(2 + count, global_step=300 * count, total_reward=float(count * place)))
        scribe.put(info, *events, *([run_completed(22)] if place < number - 1 else []))
    scribe.commit()
    return scribe


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Scribe]:
    with many(tmp_path) as scribe:
        yield scribe


@pytest.fixture(params=["file", "broker"])
def feed(request: pytest.FixtureRequest, stored: Scribe) -> Iterator[Feed]:
    if request.param == "file":
        yield FileFeed(stored.path)
        return
    with query_behind_broker(stored.path) as address:
        yield BrokerFeed(address)


def until(main: MainWindow, true: Callable[[], object], what: str) -> None:
    def ticked() -> object:
        tick(main)
        QApplication.processEvents()
        return true()

    wait_for(ticked, what)


def test_a_window_follows_the_list_and_draws_the_return_of_the_runs_in_sight(
    window: Callable[..., MainWindow], feed: Feed, stored: Scribe
) -> None:
    main = window(feed, (1280, 800))
    until(main, lambda: main.runs.table.rowCount() == 30, "all runs")
    until(main, lambda: main.page, "the page of the newest run")
    until(main, lambda: all(main.known_runs.rows[run.run_id].spark for run in main.runs.in_sight), "those in sight")
    in_sight = [run.run_id for run in main.runs.in_sight]
    assert in_sight[0] == "run029"
    assert len(in_sight) < 20
    assert not any(main.known_runs.rows[f"run{place:03}"].spark for place in range(5)), "nobody looks at those"
    spark = main.known_runs.rows[in_sight[3]].spark
    assert list(spark) == sorted(spark), "the return only rises"
    main.runs.list.scrollToBottom()
    until(main, lambda: main.known_runs.rows["run002"].spark, "the return of what was scrolled to")

    stored.edit("tag", "run003", "good")
    stored.edit("archive", "run004")
    stored.edit("delete", "run005")
    info = stream("another", after_ns=10**15)
    stored.put(info, run_started(1, info))
    stored.commit()
    until(main, lambda: main.runs.table.row(0).run.run_id == "another", "the new run on top")
    until(main, lambda: main.known_runs.rows["run003"].run.tags == ("good",), "its tag")
    until(main, lambda: "run005" not in main.known_runs.rows, "the deleted run is gone")
    until(main, lambda: main.runs.table.place_of("run004") == -1, "the archived run is hidden")
    assert main.runs.table.rowCount() == 29
    main.runs.filter.setText("archived")
    assert main.runs.table.rowCount() == 1


def test_all_runs_as_a_table_are_searched_sorted_compared_opened_and_replayed(
    window: Callable[..., MainWindow], qtbot: Any, stored: Scribe
) -> None:
    main = window(FileFeed(stored.path))
    history = main.history
    until(main, lambda: main.runs.table.rowCount() == 30, "all runs")
    qtbot.keyClick(main, Qt.Key.Key_H, Qt.KeyboardModifier.ControlModifier)
    assert history.isVisible()
    assert history.table.rowCount() == 30
    qtbot.keyClicks(history.search, "lr=0.2 seed>10")
    assert {history.table.row(place).run.run_id for place in range(history.table.rowCount())} == {
        f"run{place:03}" for place in range(13, 30, 3)
    }
    assert "6 of 30" in history._runs_card.caption.text()
    history.search.clear()

    click(qtbot, main, "run007")
    assert history.pair is not None
    assert [run.run_id for run in history.pair] == ["run006", "run007"]
    rows = [
        [history.changes.item(at, column).text() for column in range(3)] for at in range(history.changes.rowCount())
    ]
    assert rows == [["lr", "0.1", "0.2"], ["seed", "6", "7"]]
    history._equal.click()
    assert history.changes.rowCount() == 5
    click(qtbot, main, "run013", Qt.KeyboardModifier.ControlModifier)
    assert [run.run_id for run in history.pair] == ["run007", "run013"]
    assert history.changes.horizontalHeader().textElideMode() is Qt.TextElideMode.ElideRight

    qtbot.keyClicks(history.search, "run000")
    click(qtbot, main, "run000")
    assert history._changes_card.caption.text().startswith("There is no run before this one")
    history.search.clear()

    click(qtbot, main, "run013")
    qtbot.keyClick(history.list, Qt.Key.Key_Return)
    assert main.controller.watched[-1] == "run013"
    assert not history.isVisible()
    main.show_history()
    assert not main.left.isVisible()
    history.replay_wanted.emit("run013")
    assert not history.isVisible()
    assert main.left.isVisible()


def test_words_are_offered_to_both_searches(window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch) -> None:
    runs = (some(1, "failed", control_mode="human", tags=("good", "of two words")), some(2))
    main = window(ScriptedFeed(update(runs=runs)))
    tick(main)
    menus: list[QMenu] = []
    monkeypatch.setattr(QMenu, "popup", lambda menu, place: menus.append(menu))
    for field, table in ((main.runs.filter, main.runs.table), (main.history.search, main.history.table)):
        main.show_history(table is main.history.table)
        field.setText("run")
        for word, left in (("mode:human", 1), ("state:failed", 1), ("mode:human", 1), ("state:failed", 2)):
            field._offer()
            offered = {action.text(): action for action in menus.pop().actions() if action.text()}
            assert list(offered) == ["state:completed", "state:failed", "mode:agent", "mode:human", "tag:good"]
            assert offered[word].isChecked() is (word in field.text())
            offered[word].trigger()
            assert table.rowCount() == left
        assert field.text() == "run"


def test_the_table_fits_a_small_window_also_when_no_run_fits(window: Callable[..., MainWindow]) -> None:
    main = window(ScriptedFeed(update(), update(runs=(some(1),))), (1280, 800))
    tick(main)
    main.show_history()
    assert not main.history.isVisible(), "the next command is shown while there is no run"
    assert main.left.isVisible()
    tick(main)
    main.show_history()
    for words, there in (("nothing at all", False), ("", True)):
        main.history.search.setText(words)
        QApplication.processEvents()
        assert (main.history.list.isVisible(), main.history._hint.isVisible()) == (there, not there)
        assert main.size() == main.size().boundedTo(QSize(1280, 800))
    assert not main.history.list.horizontalScrollBar().maximum()


def test_the_details_are_those_of_the_run_that_is_chosen_in_the_table(window: Callable[..., MainWindow]) -> None:
    main = window(ScriptedFeed(update(runs=(some(1), some(2, "failed", reason="out of memory")))))
    tick(main)
    main.show_history()
    main.history.choose("run002")
    main.history.choose("run001")
    assert [run.run_id for run in main.history.picked] == ["run002"], "what is chosen stays so"
    tick(main)
    assert "reason: out of memory" in main.details._run.accessibleDescription()


def click(qtbot: Any, main: MainWindow, name: str, modifier: Any = None) -> None:
    view, place = main.history.list, main.history.table.place_of(name)
    view.scrollTo(main.history.table.index(place, 0))
    where = view.visualRect(main.history.table.index(place, 0)).center()
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, modifier or Qt.KeyboardModifier.NoModifier, where)


def test_a_stored_run_is_replayed_from_its_first_step(window: Callable[..., MainWindow], tmp_path: Path) -> None:
    with Scribe(tmp_path / FILE_NAME) as scribe:
        for name in ("lake", "pole"):
            info = stream(name)
            scribe.put(info, run_started(1, info), *(step(seq) for seq in range(2, 3_000)), run_completed(3_000))
            scribe.commit()
    main = window(FileFeed(tmp_path))
    until(main, lambda: main.runs.table.rowCount() == 2, "both runs")
    main.runs.replay_wanted.emit("lake")

    def replays() -> bool:
        page = main.page
        if page is None or page.stream.key.run_id != "lake":
            return False
        cursor = page.time.cursor
        return cursor.mode is Mode.REPLAY and cursor.row is not None and 0 < cursor.row < 1_500

    until(main, replays, "it replays, from its beginning on")


def test_chosen_runs_stay_chosen_while_the_table_is_laid_out_again(window: Callable[..., MainWindow]) -> None:
    known = tuple(some(number, metadata=told(lr=number)) for number in range(100))
    main = window(ScriptedFeed(update(runs=known)))
    tick(main)
    main.show_history()
    history = main.history
    for name in ("run010", "run020"):
        index = history.table.index(history.table.place_of(name), 0)
        history.list.selectionModel().select(
            index, QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows
        )
    for change in (
        lambda: history.list.sortByColumn(0, Qt.SortOrder.AscendingOrder),
        lambda: history._toggle_column("lr"),
        lambda: main.known_runs.take([run._replace(workers=2) for run in known], ()),
        lambda: main.known_runs.take([some(150)], ("run003",)),
        lambda: history.search.setText("run01"),
        lambda: history.search.setText(""),
    ):
        change()
        assert {run.run_id for run in history.picked} <= {"run010", "run020"}
        assert "run010" in {run.run_id for run in history.picked}
    assert main.memory.run_columns == ["lr"]
    assert [one.title for one in history.table.columns][-2:] == ["AGENTS", "NOTE"]


def test_the_mark_of_the_order_stays_at_its_column(window: Callable[..., MainWindow]) -> None:
    main = window(ScriptedFeed(update(runs=tuple(some(number, notes=str(9 - number)) for number in range(3)))))
    tick(main)
    main.show_history()
    history = main.history
    head = history.list.horizontalHeader()
    history.list.sortByColumn(len(COLUMNS) - 1, Qt.SortOrder.AscendingOrder)
    for shown in (["lr", "state"], ["lr"]):
        history.show_columns(shown)
        assert history.table.columns[head.sortIndicatorSection()].title == "NOTE"
        assert names(history.table) == ["run002", "run001", "run000"]
    history.list.sortByColumn(len(COLUMNS) - 2, Qt.SortOrder.AscendingOrder)
    assert history.table.headerData(len(COLUMNS) - 2, Qt.Orientation.Horizontal) == "lr ▴"
    history.show_columns([])
    assert history.table.columns[head.sortIndicatorSection()].title == "STARTED"


def test_the_return_of_a_run_is_asked_for_again_while_it_goes_on_or_has_no_answer(
    qapp: QApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[tuple[Any, Callable[[Answer], None]]] = []
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])

    class Store:
        def ask(self, question: Any, answered: Callable[[Answer], None], *, urgent: bool = False) -> Any:
            questions.append((question, answered))

    sparks = Sparks(Store())
    buckets = [Bucket(1, b"s" * 16, place, 0.0, 0.0, 1.0, 3.0, 8.0, 4) for place in range(20)]

    def asked(run: RunView, page: Any) -> bool:
        """Whether a look at the run asks; the answer is the page, or none."""
        sparks.want([run])
        found = bool(questions)
        while questions:
            question, answered = questions.pop()
            answered(Answer(question, page))
            qapp.processEvents()
        return found

    some_, nothing = Page(buckets, False), None
    going_on, ended = some(1, "running"), some(1, finished_ns=9)
    assert [asked(ended, nothing), asked(ended, some_)] == [True, False]
    now_s[0] += AGAIN_S
    assert [asked(ended, some_), asked(ended, some_)] == [True, False]
    assert sparks.known == {"run001"}
    now_s[0] += 100 * AGAIN_S
    assert not asked(ended, some_), "what it has stays as it is"
    assert [asked(going_on, some_), asked(going_on, some_)] == [True, False]
    now_s[0] += AGAIN_S
    assert asked(going_on, some_)
    sparks.forget(["run001"])
    assert asked(going_on, some_)


@pytest.mark.alone
def test_ten_thousand_chosen_runs_cost_no_more_than_a_moment(window: Callable[..., MainWindow]) -> None:
    main = window(ScriptedFeed(update(runs=tuple(some(number) for number in range(10_000)))))
    tick(main)
    main.show_history()
    history = main.history
    begun = time.thread_time()
    history.list.selectAll()
    for words in ("run01", "7", ""):
        history.search.setText(words)
    main.known_runs.take([some(20_000)], ())
    tick(main)
    assert time.thread_time() - begun < 2, "it was minutes"
    history.search.setText("run9")
    history.list.selectAll()
    history.list.sortByColumn(0, Qt.SortOrder.AscendingOrder)
    assert len(history.picked) == 1_100


def test_several_runs_are_edited_at_once_and_deleted_after_a_question(
    window: Callable[..., MainWindow], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = ScriptedFeed(update(runs=(some(1, tags=("old",)), some(2), some(3), some(4, archived=True))))
    main = window(feed)
    tick(main)
    main.show_history()
    history = main.history
    assert history.table.rowCount() == 3
    history.list.selectAll()
    asked: list[str] = []

    def answer(*given: Any) -> Any:
        asked.append(given[-1])
        return QMessageBox.StandardButton.Yes

    monkeypatch.setattr(QMessageBox, "question", answer)
    monkeypatch.setattr(QInputDialog, "getText", lambda *given: ("good", True))
    menu = history._menu()
    actions = {action.text(): action for action in menu.actions()}
    assert "Note…" not in actions, "a note is of one run"
    for words in ("Tag…", "Remove the tag 'old'", "Archive", "Delete…"):
        actions[words].trigger()
    both = ("run003", "run002", "run001")
    assert feed.edits == [
        *((name, "tag", "good") for name in both), ("run001", "untag", "old"),
        *((name, "archive", None) for name in both), *((name, "delete", None) for name in both),
    ]  # fmt: skip
    assert asked == ["Delete 3 runs with all their events, for good?"]


@pytest.mark.alone
def test_one_change_among_ten_thousand_runs_is_shown_within_a_tick(window: Callable[..., MainWindow]) -> None:
    known = tuple(some(number, metadata=told(lr=number, algorithm="dqn")) for number in range(10_000))
    feed = ScriptedFeed(update(runs=known))
    main = window(feed)
    tick(main)
    assert main.runs.table.rowCount() == 10_000
    main.show_history()
    took = []
    for change in (
        update(runs=(some(5_000, "failed"),)), update(runs=(some(10_001),)),
        update(runs=(some(6_000, archived=True),)), update()._replace(gone=("run7000",)),
    ):  # fmt: skip
        feed.updates.append(change)
        begun = time.thread_time()
        tick(main)
        QApplication.processEvents()
        took.append(time.thread_time() - begun)
    assert main.runs.table.rowCount() == 9_999
    assert max(took) < 0.05


def test_the_mean_of_each_bucket_is_drawn_and_the_ends_of_few() -> None:
    def bucket(stream: int, place: int, first: float, last: float, total: float | None, count: int) -> Bucket:
        return Bucket(stream, b"s" * 16, place, 0.0, 0.0, first, last, total, count)

    assert list(values_of([])) == []
    assert list(values_of([bucket(1, 0, 1.0, 3.0, 8.0, 4)])) == [1.0, 3.0]
    side_by_side = [bucket(1, 0, 0, 0, 8.0, 4), bucket(1, 1, 0, 0, 10.0, 5), bucket(2, 0, 0, 0, 0.0, 4),
                    bucket(2, 2, 0, 7.0, None, 2)]  # fmt: skip
    assert list(values_of(side_by_side)) == [1.0, 2.0, 7.0]
