"""A view that nobody sees has no subscription and waits at no bell; in sight again it goes on, whole and honest."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
import test_gui_pages
import test_gui_timeline
import test_gui_window
from processes import store
from store_fixtures import LOOPBACK, running, step
from test_gui_feed import ScriptedFeed, told, update, view
from test_gui_timeline import Watch, page, until, whole
from test_kills import emitter

from telefabric.broker.service import Broker
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.merged import MergedStreams, Seen
from telefabric.ring import Name, RingWriter
from telefabric.store.file.database import FILE_NAME
from telefabric.subscribe.core.handover import Numbered

pytestmark = test_gui_timeline.pytestmark
if test_gui_window.THERE:
    from telefabric_gui.sight import REST_S, Sight
    from telefabric_gui.window import MainWindow

show, stored = test_gui_timeline.show, test_gui_pages.stored
S = b"s" * 16
WITHIN_S = 1.0
"""So soon a view that is out of sight has given up its subscription."""


def test_a_run_rests_when_it_was_out_of_sight_for_a_moment_and_not_before() -> None:
    now_s = 100.0
    sight = Sight(lambda: now_s)
    assert sight.resting(["a", "b"], frozenset("a")) == frozenset()
    now_s += REST_S
    assert sight.resting(["a", "b"], frozenset("a")) == {"b"}
    now_s += REST_S / 2
    assert sight.resting(["a", "b", "c"], frozenset("b")) == frozenset()
    now_s += REST_S / 2
    assert sight.resting(["a", "b", "c"], frozenset("b")) == {"a"}
    assert sight.resting(["b"], frozenset()) == frozenset(), "what is closed is forgotten"
    assert sight.resting(["a", "b"], frozenset()) == frozenset(), "and begins anew"


def seen(first: int, last: int) -> list[Numbered[Seen]]:
    return [Numbered(seq, Seen("step", step(seq), b"")) for seq in range(first, last + 1)]


def rested(stored_up_to: int) -> tuple[MergedStreams, frozenset[bytes]]:
    """A stream of which 1 to 500 came, that rested while the store went on."""
    merged = MergedStreams(history_events=100)
    merged.watch(frozenset({"run"}))
    merged.know(S, "run", 0)
    merged.live(S, seen(1, 500))
    merged.know(S, "run", 500)
    merged.drain()
    assert merged.rest(frozenset({"run"})) == frozenset()
    merged.know(S, "run", stored_up_to)
    assert merged.tasks() == [], "nothing is fetched of a run that rests"
    return merged, merged.rest(frozenset())


def test_a_stream_that_is_not_far_behind_goes_on_where_it_was() -> None:
    merged, again = rested(590)
    assert again == frozenset()
    assert [task.since for task in merged.tasks()] == [500]


def test_a_stream_that_is_far_behind_begins_again_with_its_newest_events() -> None:
    merged, again = rested(9_000)
    assert again == {S}
    tasks = merged.tasks()
    assert [(task.since, task.of_others_before) for task in tasks] == [(0, 8_900)], (
        "what voids others is fetched of all"
    )
    merged.stored(tasks[0], [], [], 8_900)
    assert [task.since for task in merged.tasks()] == [8_900]
    merged.live(S, seen(9_003, 9_004))
    told = merged.drain()
    assert told.skipped == {S: 8_400}
    assert told.holes == {S: ((8_901, 9_002),)}, "what is passed over is no hole: it is stored"


def test_rows_that_begin_again_have_no_numbers_before_the_store_has_said_them(
    stored: test_gui_pages.Stored, qtbot: Any
) -> None:
    events = stored.put(2, 600)
    stored.live(*events)
    pages = stored.pages()
    pages.refresh()
    until(qtbot, lambda: pages.stored == len(test_gui_pages.steps_of(*events)))
    before = pages.rows
    later = stored.put(601, 4_000)
    stored.stream.begin_again()
    stored.live(*later[-200:])
    assert pages.rows == before, "how many lie between, nobody knows yet"
    pages._counted_s = 0.0
    pages.refresh()
    every = test_gui_pages.steps_of(*events, *later)
    until(qtbot, lambda: pages.rows == len(every))
    newest = pages.row(len(every) - 1)
    assert newest is not None
    assert int(newest.record["seq"]) == every[-1]
    oldest = pages.row(len(every) - 100)
    assert oldest is not None
    assert int(oldest.record["seq"]) == every[-100]


class Watcher:
    """The subscription of a window, as the broker counts it."""

    def __init__(self, broker: Broker, qtbot: Any) -> None:
        self._broker, self._qtbot = broker, qtbot

    @property
    def _status(self) -> dict[str, Any]:
        found = [one for one in self._broker.core.live.status(time.monotonic_ns()) if one["name"] == "client"]
        return found[0] if found else {"runs": [], "numbered": 0, "pictures": []}

    @property
    def runs(self) -> list[str]:
        return list(self._status["runs"])

    @property
    def numbered(self) -> int:
        return int(self._status["numbered"])

    def has(self, *runs: str) -> None:
        begun_s = time.monotonic()
        until(self._qtbot, lambda: self.runs == list(runs))
        assert time.monotonic() - begun_s < WITHIN_S, f"{runs} after {time.monotonic() - begun_s:.2f} s"


def seqs_in_store(path: Path, run_id: str) -> list[int]:
    with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as connection:
        query = "SELECT steps.seq FROM steps JOIN streams USING (stream) JOIN runs USING (run) WHERE run_id = ?"
        return sorted(seq for (seq,) in connection.execute(query, (run_id,)))


@pytest.mark.alone
def test_a_covered_and_a_minimised_view_give_up_their_subscription_and_come_back_whole(
    show: Callable[..., MainWindow], qtbot: Any, tmp_path: Path
) -> None:
    broker = Broker(LOOPBACK)
    path = tmp_path / FILE_NAME
    with running([broker]), store(broker.address.port, tmp_path):
        url = broker.address.url
        first, other = (emitter(url, tmp_path, name, "--rate", 400) for name in ("first", "other"))
        with first, other:
            main = show(BrokerFeed(broker.address, history_events=200))
            until(qtbot, lambda: {"first", "other"} <= set(main.controller.runs), 20_000)
            for run_id in ("first", "other"):
                main.open_run(run_id)
                until(qtbot, lambda run_id=run_id: main.page and main.page.stream.key.run_id == run_id, 20_000)
            watcher, watch = Watcher(broker, qtbot), Watch(main, path)
            watcher.has("other")
            until(qtbot, lambda: page(main).step_rows.rows > 600, 20_000)

            main.showMinimized()
            watcher.has()
            stored_then = len(seqs_in_store(path, "other"))
            until(qtbot, lambda: len(seqs_in_store(path, "other")) > stored_then + 200, 20_000)  # what was on its way
            numbered, rows = watcher.numbered, len(page(main).stream.steps)
            until(qtbot, lambda: len(seqs_in_store(path, "other")) > stored_then + 600, 20_000)
            assert watcher.numbered == numbered, "nothing was sent"
            assert len(page(main).stream.steps) == rows, "nothing was fetched"

            main.showNormal()
            watcher.has("other")
            until(qtbot, lambda: page(main).step_rows.rows > stored_then + 600, 20_000)
            until(qtbot, lambda: "stored" in {span.kind for span in whole(main).spans()})

            main.open_run("first")  # another tab in front
            watcher.has("first")
            until(qtbot, lambda: page(main).step_rows.rows > 600, 20_000)
            main.open_run("other")
            watcher.has("other")
            main.show_history()  # in the place of all tabs
            watcher.has()
            main.show_history(False)
            watcher.has("other")
            other.signal(signal.SIGINT)
            until(qtbot, lambda: main.controller.runs["other"].finished_ns is not None, 20_000)
        every = seqs_in_store(path, "other")
        until(qtbot, lambda: page(main).step_rows.stored == page(main).step_rows.rows == len(every), 20_000)
        assert not watch.wrong, watch.wrong[:5]
        assert not page(main).stream.steps.marks
        for row in (0, len(every) // 2, len(every) - 1):

            def is_there(row: int = row) -> bool:
                page(main).step_rows.see(row, row)  # again, since the table says what it shows whenever it is painted
                return page(main).step_rows.row(row) is not None

            until(qtbot, is_there)
            assert int(page(main).step_rows.row(row).record["seq"]) == every[row]


@pytest.mark.alone
def test_a_minimised_window_waits_at_no_bell_and_wants_no_pictures(
    show: Callable[..., MainWindow], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        monkeypatch.setenv("TELEFABRIC_RING", folder)
        writer = RingWriter(Name("run", "agent_0", "worker"), fps_max=1e9)
        feed = ScriptedFeed(update(runs=(view(),)), update(told(step(3))))
        main = show(feed)
        until(qtbot, lambda: main.page is not None)
        until(qtbot, lambda: writer.wanted)
        main.showMinimized()
        begun_s = time.monotonic()
        until(qtbot, lambda: not writer.wanted and feed.resting == {"run"} and not feed.pictures)
        assert time.monotonic() - begun_s < WITHIN_S
        main.showNormal()
        until(qtbot, lambda: writer.wanted and not feed.resting)
        writer.close()
