"""`worker.step(frame=…)` through the ring: one ring an agent, tiles of environments, and what is shown over them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import wait_for

from telefabric.log.thread import log_thread
from telefabric.ring import Hud, RingFrame, RingReader, TileHud, discover
from telefabric_workers import Worker, connect

Connect = Callable[..., Worker]


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        monkeypatch.setenv("TELEFABRIC_RING", folder)
        yield Path(folder)


@pytest.fixture
def only_frames(ring: Path) -> Iterator[Connect]:
    """Workers that show frames on this machine, and do nothing else."""
    workers: list[Worker] = []

    def begin(**options: object) -> Worker:
        workers.append(connect(run="run", agent="ada", mode="fast-lane", **options))  # type: ignore[arg-type]
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


def grey(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


def reader_of(agent: str = "ada") -> RingReader:
    (info,) = (one for one in discover() if one.manifest.name.agent_id == agent)
    return RingReader(info.folder)


def latest(reader: RingReader) -> RingFrame:
    return wait_for(reader.latest, "a frame")


def test_a_frame_with_what_is_shown_over_it(only_frames: Connect) -> None:
    worker = only_frames()
    worker.step(episode=2, step=0, reward=1.0)
    worker.step(episode=2, step=1, reward=np.float32(0.5), frame=grey(1), hud={"loss": np.float64(0.25), "epsilon": 1})
    reader = reader_of()
    frame = latest(reader)
    assert frame.array.max() == 1
    assert frame.hud == Hud(0, 2, 1, 0.5, 0.5, 0.0, {"loss": 0.25, "epsilon": 1.0}), "the return of what had frames"
    assert not worker.problems
    reader.close()


def test_the_return_is_of_the_running_episode_and_the_rate_that_of_steps(
    only_frames: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEFABRIC_FRAME_FPS", "1000")
    worker = only_frames()
    reader = None
    for episode, step, ends, total in ((0, 0, False, 1.5), (0, 1, True, 3.0), (1, 0, False, 1.5), (3, 0, False, 1.5)):
        worker.step(episode=episode, step=step, reward=1.5, terminated=ends, frame=grey(1))
        time.sleep(0.002)
        reader = reader or reader_of()
        assert latest(reader).hud.episode_return == total
    assert reader is not None
    began = time.monotonic()
    step, rates = 0, []
    while (passed := time.monotonic() - began) < 1.2:
        step += 1
        worker.step(episode=4, step=step, frame=grey(1))
        if passed > 0.9:
            rates.append(step / passed)  # a busy machine has no one rate
        time.sleep(0.002)
    assert 0.7 * min(rates) < latest(reader).hud.steps_per_s < 1.3 * max(rates)
    reader.close()


def test_nobody_renders_before_a_reader_waits(only_frames: Connect) -> None:
    asked = 0

    def render() -> np.ndarray:
        nonlocal asked
        asked += 1
        return grey(7)

    worker = only_frames()
    for step in range(100):
        worker.step(episode=0, step=step, frame=render)
    assert asked == 0
    reader = reader_of()
    assert (reader.latest(), reader.state) == (None, "absent")
    assert reader.bell() is not None

    def comes() -> bool:
        worker.step(episode=0, step=100, frame=render)
        return reader.latest() is not None

    wait_for(comes, "it is rendered for the one who waits")
    reader.close()


def test_environments_of_one_agent_are_tiles_of_one_frame(only_frames: Connect) -> None:
    worker = only_frames()
    for turn in range(3):
        for env in range(4):
            worker.step(episode=0, step=turn, env_index=env, reward=float(env), frame=grey(10 * turn + env))
        time.sleep(0.02)
    reader = reader_of()
    frame = latest(reader)
    assert (frame.tiles, frame.array.shape) == (4, (4, 8, 8, 1))
    assert frame.array[:, 0, 0, 0].tolist() == [20, 21, 22, 23]
    assert frame.hud.tiles == [TileHud(env, 0, 2, float(env), float(3 * env)) for env in range(4)]
    worker.step(episode=0, step=3, env_index=1, frame=grey(31))
    time.sleep(0.02)
    worker.step(episode=0, step=4, env_index=1, frame=grey(41))
    frame = latest(reader)
    assert frame.array[:, 0, 0, 0].tolist() == [20, 31, 22, 23], "the others have stopped"
    assert [tile.fresh for tile in frame.hud.tiles] == [False, True, False, False]
    reader.close()


def test_environments_of_different_sizes_come_one_by_one(only_frames: Connect) -> None:
    worker = only_frames()
    for turn in range(2):
        for env in range(2):
            worker.step(episode=0, step=turn, env_index=env, frame=grey(env, 8 + env))
        time.sleep(0.02)
    reader = reader_of()
    assert (latest(reader).hud.env_index, reader.newest) == (1, 3)
    reader.close()


@pytest.mark.parametrize(
    ("video", "tiles", "shown"), [("grid", 2, 2), ("single", 2, 0), ("grid", 16, 3), ("off", 2, None)]
)
def test_video_modes(
    only_frames: Connect, monkeypatch: pytest.MonkeyPatch, video: str, tiles: int, shown: int | None
) -> None:
    monkeypatch.setenv("TELEFABRIC_VIDEO_TILES", str(tiles))
    worker = only_frames(video=video)
    for turn in range(2):
        for env in range(3):
            worker.step(episode=0, step=turn, env_index=env, frame=grey(env))
        time.sleep(0.02)
    found = discover()
    if shown is None:
        assert found == []
        return
    reader = RingReader(found[0].folder)
    frame = latest(reader)
    assert (frame.tiles, frame.hud.env_index) == (shown, 0)
    reader.close()


def test_every_agent_has_a_ring_and_both_end_with_the_worker(only_frames: Connect) -> None:
    worker = only_frames()
    for agent in ("ada", "bob"):
        worker.step(episode=0, step=0, agent=agent, frame=grey(ord(agent[0])))
    readers = [reader_of("ada"), reader_of("bob")]
    assert [latest(reader).array.max() for reader in readers] == [ord("a"), ord("b")]
    worker.close()
    assert [reader.state for reader in readers] == ["closed", "closed"]
    for reader in readers:
        reader.close()


def test_a_frame_beside_the_steps(only_frames: Connect) -> None:
    worker = only_frames()
    worker.frame(grey(3), episode=1, step=5, hud={"x": 1.0, "s": "text", "c": 1j, "one": np.array([2.5])})
    reader = reader_of()
    assert latest(reader).hud == Hud(0, 1, 5, values={"x": 1.0, "one": 2.5})
    assert worker.problems == {"step.hud.s": 1, "step.hud.c": 1}
    time.sleep(0.05)  # the next one is due
    worker.frame("no picture", episode=1, step=5)
    assert worker.problems["step.frame"] == 1
    reader.close()


def test_modes_that_show_no_frames(ring: Path, tmp_path: Path) -> None:
    for mode in ("durable", "off", "dry-run"):
        with connect(run="run", mode=mode, spool=tmp_path, exit_flush_s=0) as worker:
            worker.step(episode=0, step=0, frame=grey(1))
    assert discover() == []


def test_no_room_for_a_ring_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TELEFABRIC_RING", str(tmp_path / "file"))
    with connect(run="run", mode="fast-lane") as worker:
        for step in range(3):
            worker.step(episode=0, step=step, frame=grey(1))
        assert not worker.problems
    assert log_thread.settle(10)
    assert caplog.text.count("fastlane.off: no frame ring can be made in") == 1
