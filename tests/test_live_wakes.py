"""A watched stream's sender is woken by each event while they come slowly, and looks by itself while they come fast."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import broker, free_ports, wait_for

from telefabric import Address, LiveEvent, LiveSubscription, limits
from telefabric.uplink import link as links
from telefabric.uplink.core.pace import LivePace
from telefabric.uplink.waker import Waker
from telefabric_workers import connect

MS = 1_000_000
BLACK = np.zeros((8, 8, 3), np.uint8)


def paced(rates: list[int], span_ms: int = 100) -> list[bool]:
    """Whether it wakes after each span of so many events a second."""
    pace, now_ns, found = LivePace(), 0, []
    pace.emitted(0, now_ns)
    for rate in rates:
        for _ in range(span_ms // 2):
            now_ns += 2 * MS
            pace.emitted(rate * 2 // 1_000, now_ns)
        found.append(pace.wakes)
    return found


def test_between_the_two_limits_it_stays_as_it_was() -> None:
    slow, between, fast = 1_000, 1_600, 10_000
    assert limits.LIVE_WAKE_AGAIN_EVENTS_PER_S < between < limits.LIVE_WAKE_EVENTS_PER_S
    assert paced([slow, between, fast, between, slow, between]) == [True, True, False, False, True, True]


@given(st.lists(st.integers(0, 20_000), max_size=20))
def test_it_wakes_at_every_human_rate_and_at_no_high_one(rates: list[int]) -> None:
    for rate, wakes in zip(rates, paced(rates), strict=True):
        if rate <= 1_000:
            assert wakes
        if rate >= 2 * limits.LIVE_WAKE_EVENTS_PER_S:
            assert not wakes


def test_a_waker_rings_from_any_thread_and_ever_so_often() -> None:
    waker = Waker()
    threads = [threading.Thread(target=lambda: [waker.ring() for _ in range(20_000)]) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    waker.drain()
    waker.close()
    waker.ring()


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it, and a link that is not woken sleeps for a minute from its next turn on."""

    def fall() -> None:
        for name in ("_POLL_ACTIVE_MS", "_POLL_IDLE_MS", "_LOOK_MAX_MS", "_POLL_LIVE_MS"):
            monkeypatch.setattr(links, name, 60_000)

    yield fall
    monkeypatch.undo()


def test_each_event_and_each_picture_wakes_a_link_that_sleeps(
    tmp_path: Path, asleep: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEFABRIC_NETWORK_FPS", "1000")  # none is left out for the pace
    port = free_ports()
    url, seen = f"tcp://127.0.0.1:{port}", list[LiveEvent]()

    def came(kind: str) -> int:
        seen.extend(reader.poll(0.01))
        return sum(one.kind == kind for one in seen)

    with (
        broker(port),
        LiveSubscription(Address.parse(url), name="reader", runs=["run"], pictures=["run"]) as reader,
        connect(url, run="run", spool=tmp_path / "spool", exit_flush_s=0) as worker,
    ):
        wait_for(lambda: came("step") or worker.step(episode=0, step=0, frame=BLACK), "it is watched")
        wait_for(lambda: came("frame") or worker.step(episode=0, step=0, frame=BLACK), "with pictures")
        asleep()
        worker.log("a turn more, and it sleeps")
        for _ in range(3):
            steps, frames = came("step"), came("frame")
            worker.step(episode=0, step=0, frame=BLACK)
            wait_for(lambda known=steps: came("step") > known, "the step has come")
            wait_for(lambda known=frames: came("frame") > known, "the picture has come")
        monkeypatch.undo()
        worker.log("and it is awake")
