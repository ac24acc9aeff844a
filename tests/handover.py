"""A window on a run whose broker, store, worker and clients are killed at random, and what it must show at each moment.

The store's file is the judge. While it goes on, no row may be painted as stored that is not committed, and what is
missing is hatched; at the end tables, charts, time line and counts are what the store has.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import apsw
from emitter import STREAM_BYTES, Progress
from every_view import every_view
from processes import TELEFABRIC, Service, broker, free_ports, store, wait_for
from PySide6.QtCore import QCoreApplication, QEvent
from PySide6.QtGui import QColor
from slowness import patience

from telefabric.address import Address
from telefabric.feed import BrokerFeed
from telefabric.limits import SEGMENT_BYTES
from telefabric.store.file.database import FILE_NAME
from telefabric_gui import theme
from telefabric_gui.agent_stream import METRIC, RETURN, REWARD
from telefabric_gui.controller import STREAMS_MAX, Controller
from telefabric_gui.formatting import count
from telefabric_gui.model.pages import PAGE
from telefabric_gui.rows import HOLE
from telefabric_gui.views.timeline import NAMES_PX
from telefabric_gui.window import MainWindow
from telefabric_workers import Worker, connect

RUN, AGENT = "run", "agent_0"
EPISODE = 50
SPOOL_BYTES = 2 * SEGMENT_BYTES
LARGE = bytes(64 * 1024)
LARGE_STEPS = SPOOL_BYTES // len(LARGE) + 10


def until(look: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Let the window do its work until it is so."""
    wait_for(lambda: QCoreApplication.processEvents() or look(), what, timeout_s)


class Judge:
    """What the store's file has by now, on a connection of its own."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._db: apsw.Connection | None = None
        self._counted: defaultdict[bytes, list[int]] = defaultdict(lambda: [0, 0])

    def rows(self, query: str, *values: object) -> list[Any]:
        if self._db is None:
            if not self._file.exists():
                return []
            self._db = apsw.Connection(str(self._file), flags=apsw.SQLITE_OPEN_READONLY)
            self._db.set_busy_timeout(10_000)
        try:
            return self._db.execute(query, values).fetchall()
        except apsw.SQLError:  # the store is being made
            return []

    def of(self, stream_id: bytes, what: str, table: str) -> list[Any]:
        query = f"SELECT {what} FROM {table} JOIN streams USING (stream) WHERE stream_id = ? ORDER BY seq"
        return self.rows(query, stream_id)

    def committed(self, stream_id: bytes) -> int:
        """Steps of a stream; rows are counted once."""
        held = self._counted[stream_id]
        query = "SELECT count(*), max(id) FROM steps JOIN streams USING (stream) WHERE stream_id = ? AND id > ?"
        for number, newest in self.rows(query, stream_id, held[1]):
            held[0], held[1] = held[0] + number, newest or held[1]
        return held[0]

    def watermark(self, stream_id: bytes) -> int:
        query = "SELECT stored_seq FROM watermarks JOIN streams USING (stream) WHERE stream_id = ?"
        return next((seq for (seq,) in self.rows(query, stream_id)), 0)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


class Witness:
    """Compares every picture of a window's time line with what the store has committed by then."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.pictures = 0
        self.kinds: set[str] = set()
        self.wrong: list[str] = []

    def watch(self, window: MainWindow) -> None:
        line = window.bottom.line
        paint = line._paint_still

        def watched() -> Any:
            picture = paint()
            self._look(window, picture)
            return picture

        line._paint_still = watched  # type: ignore[method-assign]

    def _look(self, window: MainWindow, picture: Any) -> None:
        line, page = window.bottom.line, window.page
        whole = line._whole
        if whole is None or page is None or page.time.whole is not whole:
            return
        spans = whole.spans()
        self.pictures += 1
        self.kinds |= {span.kind for span in spans}
        stored = max((span.last for span in spans if span.kind == "stored"), default=0.0)
        painted = max((row for row, colour in self._pixels(line, picture) if colour == "stored"), default=0.0)
        there = self.judge.committed(whole.subject.stream_id)
        a_pixel = float(line.scale.rows(1.0) - line.scale.rows(0.0))
        if stored > there or painted > there + 1 + a_pixel:
            self.wrong.append(f"rows up to {max(stored, painted):.0f} painted as stored, {there} are committed")
        if whole.stored is not None and whole.stored.seq > (seq := self.judge.watermark(whole.subject.stream_id)):
            self.wrong.append(f"seq {whole.stored.seq} said to be stored, {seq} is")
        holes = [mark for mark in page.stream.steps.marks if mark.kind == HOLE]
        beyond = [mark for mark in holes if whole.stored is not None and mark.last > whole.stored.seq]
        if beyond and not any(span.kind == "missing" and span.first >= stored for span in spans):
            self.wrong.append(f"the holes {beyond} are not hatched")

    @staticmethod
    def _pixels(line: Any, picture: Any) -> Iterator[tuple[float, str]]:
        """The rows under the pixels of the span lane that have the colour of what is stored."""
        lane = next(lane for lane in line._lanes if lane.name == "span")
        image, stored = picture.toImage(), QColor(theme.active().stored).name()
        ratio, middle = image.devicePixelRatio(), lane.top + lane.height // 2
        for x in range(0, round(line._room), 2):
            if image.pixelColor(round((x + NAMES_PX) * ratio), round(middle * ratio)).name() == stored:
                yield float(line.scale.rows(x)), "stored"


class Handover:
    """Services, a worker and two clients: the window of this process, and a process of its own. A context manager."""

    def __init__(self, folder: Path, seed: int, rate: float) -> None:
        self.choose = random.Random(seed)
        self.judge = Judge(folder / FILE_NAME)
        self.witness = Witness(self.judge)
        self.done: list[str] = []
        self.window: MainWindow | None = None
        self.views = 0
        port = free_ports()
        self._url = f"tcp://127.0.0.1:{port}"
        self._burst = folder / "burst"
        self._progress = Progress(folder / "run.progress")
        script = [sys.executable, __file__, self._url, folder / "spool", folder / "run.progress", self._burst, rate]
        self._parts = {
            "broker": broker(port), "store": store(port, folder),
            "worker": Service([str(part) for part in script], env={"TELEFABRIC_SPOOL_BYTES_MAX": str(SPOOL_BYTES)}),
        }  # fmt: skip
        self._other: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()
        self._opened: Iterator[str] = iter(())

    def __enter__(self) -> Handover:
        with ExitStack() as undo:
            for part in self._parts.values():
                undo.enter_context(part)
            undo.callback(self._close)
            self.open_window()
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    # -- what happens --------------------------------------------------------------------------------------------

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        """Each ends with all parts there again."""
        return {
            "broker": partial(self._restart, "broker"), "store": partial(self._restart, "store"),
            "broker and store": partial(self._restart, "store", "broker"),
            "worker": partial(self._restart, "worker"), "all but the window": partial(self._restart, *self._parts),
            "spool overflows": self._overflow, "other client": self._restart_other, "window": self.open_window,
        }  # fmt: skip

    def happen(self, name: str) -> None:
        """Wait for some events, with the next view open, then do it."""
        assert self.window is not None
        window, mark = self.window, self._progress.read_seq() + self.choose.randrange(50, 400)
        until(lambda: len(window.controller.streams) > 0, "the run is there")
        window.open_run(RUN)
        until(lambda: window.page is not None, "a page is in front")
        self._next_view(window)
        until(lambda: self._progress.read_seq() > mark, "the worker goes on")
        self.faults[name]()
        self.done.append(name)

    def _next_view(self, window: MainWindow) -> None:
        if next(self._opened, None) is None:
            self._opened = every_view(window)
            next(self._opened)
        self.views += 1

    def open_window(self) -> None:
        """As its user would, after the one before was closed."""
        self._close_window()
        self.window = MainWindow(Controller(BrokerFeed(Address.parse(self._url))))
        self.window.resize(1440, 900)
        self.witness.watch(self.window)
        self.window.show()

    def _restart_other(self) -> None:
        if self._other is not None:
            self._other.kill()
            self._other.wait(patience(20))
        self._other = subprocess.Popen([*TELEFABRIC, "gui", "--connect", self._url], stdin=subprocess.DEVNULL)

    def _restart(self, *names: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kill them, all at once, and start them while the window goes on."""
        for name in names:
            self._parts[name].kill()
        meanwhile()
        starts = [threading.Thread(target=self._parts[name].start) for name in names]
        for start in starts:
            start.start()
            until(lambda start=start: not start.is_alive(), "it is there again", 60)

    def _overflow(self) -> None:
        def burst() -> None:
            self._burst.touch()
            until(lambda: not self._burst.exists(), "more is emitted than the spool has room for", 60)

        self._restart("broker", "store", meanwhile=burst)

    def finish(self) -> None:
        """The worker ends as it should, and all that it and those before it left is stored."""
        worker = self._parts["worker"]
        assert worker.process is not None
        process = worker.process
        self._until_stored()  # one that ends does not wait for services that have just begun again
        process.terminate()
        until(lambda: process.poll() is not None, "the worker ends", 60)
        self._until_stored()

    def _until_stored(self) -> None:
        """All that the worker has emitted by now."""
        stream, seq = self._progress.read()[0], self._progress.read_seq()
        until(lambda: self.judge.watermark(stream) >= seq, "all of it is stored", 60)

    # -- what must be --------------------------------------------------------------------------------------------

    def streams(self) -> list[bytes]:
        """Those with steps."""
        query = "SELECT stream_id FROM streams WHERE EXISTS (SELECT 1 FROM steps WHERE steps.stream = streams.stream)"
        return [stream_id for (stream_id,) in self.judge.rows(query)]

    def compare(self) -> int:
        """Look at each stream in turn; how many rows there are. Fails when something is not what the store has."""
        while next(self._opened, None) is not None:
            pass
        assert self.window is not None
        window, layout = self.window, self.window.charting.layout
        for series in (REWARD, METRIC + "loss"):
            layout.add_chart()
            layout.put(series)
        window.open_run(RUN)
        until(lambda: window.page is not None, "a page is in front")
        window.playing.follow()
        number = min(len(self.streams()), STREAMS_MAX)
        until(lambda: len(window.controller.streams) >= number, f"{number} streams are there")
        lost = sum(last - first + 1 for first, last in self.judge.rows("SELECT seq, last_seq FROM gaps"))
        until(lambda: window.controller.missing == 0, "nothing is missing any more")
        until(lambda: window.controller.lost == lost, f"{lost} events are said to be lost for good")
        rows = 0
        for stream in list(window.controller.streams.values()):
            assert window.page is not None
            if window.page.stream is not stream:
                window.page.streams_bar.chosen.emit(stream)
            until(lambda stream=stream: window.page is not None and window.page.stream is stream, "it is in front")
            rows += self._compare_page(stream.stream_id, window.page)
        return rows

    def _compare_page(self, stream_id: bytes, page: Any) -> int:
        steps = [seq for (seq,) in self.judge.of(stream_id, "seq", "steps")]
        episodes = [seq for (seq,) in self.judge.of(stream_id, "seq", "episodes")]
        gaps = {first for (first,) in self.judge.of(stream_id, "gaps.seq", "gaps")}
        whole = page.time.whole
        until(lambda: _stored_rows(whole) == [(0, len(steps))], f"all of {len(steps)} rows are painted as stored")
        missing = [span for span in whole.spans() if span.kind == "missing"]
        until(lambda: {mark.first for mark in whole._lost} == gaps, f"{len(gaps)} gaps are known")
        assert len(missing) == len(gaps)
        until(lambda: len(whole.episodes.row) == len(episodes), "the ends of all episodes are in the time line")
        until(lambda: page.steps_card.caption.text().endswith(count(len(steps))), "the number of steps is said")
        self._compare_rows(page.steps, page.step_rows, steps)
        self._compare_rows(page.episodes, page.episode_rows, episodes)
        for series, (table, column) in {
            REWARD: ("steps", "reward"), RETURN: ("episodes", "total_reward"),
            METRIC + "loss": ("(SELECT * FROM metrics WHERE name = 'loss')", "value"),
        }.items():  # fmt: skip
            values = [value for (value,) in self.judge.of(stream_id, column, table)]
            try:
                until(lambda s=series, v=values: _drawn(page, s, v), f"{series} is drawn of all {len(values)} values")
            except AssertionError as late:
                raise AssertionError(f"{late}; it is of {_samples(page, series)}") from None
        return len(steps)

    @staticmethod
    def _compare_rows(view: Any, rows: Any, seqs: list[int]) -> None:
        """Scroll through all of a table."""
        until(lambda: rows.rows == len(seqs), f"{len(seqs)} rows")
        for first in range(0, len(seqs), PAGE):
            page = range(first, min(first + PAGE, len(seqs)))
            view.verticalScrollBar().setValue(view.model().listing.line_of((page[0] + page[-1]) // 2))
            until(lambda page=page: all(rows.row(row) is not None for row in page), f"rows {page} are read")
            assert [int(rows.row(row).record["seq"]) for row in page] == seqs[first : first + PAGE]

    # -- the end -------------------------------------------------------------------------------------------------

    def _close_window(self) -> None:
        if self.window is not None:
            self._opened = iter(())
            assert not self.window.controller.failures.number, self.window.controller.failures.last
            self.window.close()
            self.window.deleteLater()
            self.window = None
            QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    def _close(self) -> None:
        if self._other is not None:
            self._other.kill()
            self._other.wait(patience(20))
        self.judge.close()
        self._close_window()


def _stored_rows(whole: Any) -> list[tuple[float, float]]:
    """What is painted, but for what is missing; live only and not loaded are no numbers here."""
    return [
        (span.first, span.last if span.kind == "stored" else -1) for span in whole.spans() if span.kind != "missing"
    ]


def _samples(page: Any, series: str) -> Any:
    """What is drawn of a series; None when it has no line."""
    lines = (line for chart in page.charts.charts for line in chart.lines if line.key.name == series)
    return next((line.curve.samples for line in lines), None)


def _drawn(page: Any, series: str, values: list[float]) -> bool:
    """Whether the samples that are drawn are these values: so many, their sum, their lowest and highest."""
    samples = _samples(page, series)
    if samples is None or round(float(samples.number.sum())) != len(values):
        return False
    if not values:
        return True
    total = float((samples.mean * samples.number).sum())
    alike = abs(total - sum(values)) <= 1e-6 * max(1.0, abs(total))
    return alike and float(samples.low.min()) == min(values) and float(samples.high.max()) == max(values)


# -- the worker --------------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("url", "spool", "progress", "burst", "rate"):
        parser.add_argument(name)
    given = parser.parse_args()
    Path(given.progress).write_bytes(bytes(STREAM_BYTES + 8))
    progress = mmap.mmap(os.open(given.progress, os.O_RDWR), STREAM_BYTES + 8)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with connect(given.url, run=RUN, agent=AGENT, spool=given.spool, exit_flush_s=60.0) as worker:
        progress[:STREAM_BYTES] = worker.stream_id
        print("ready", flush=True)
        step = 0
        while not ended.wait(0.01):
            burst = Path(given.burst).exists()
            for _ in range(LARGE_STEPS if burst else round(float(given.rate) / 100)):
                emit(worker, step, LARGE if burst else b"seen")
                step += 1
                progress[STREAM_BYTES:] = worker.emitted.to_bytes(8, "little")
            if burst:
                Path(given.burst).unlink()
    progress[STREAM_BYTES:] = worker.emitted.to_bytes(8, "little")


def emit(worker: Worker, step: int, observation: bytes) -> None:
    episode, at = divmod(step, EPISODE)
    worker.step(episode=episode, step=at, observation=observation, reward=float(step % 7), terminated=at == EPISODE - 1)
    if at == EPISODE - 1:
        worker.episode(episode=episode, total_reward=float(episode % 13), length=EPISODE)
    if step % 10 == 0:
        worker.metric("loss", 1 / (step + 1))


if __name__ == "__main__":
    main()
