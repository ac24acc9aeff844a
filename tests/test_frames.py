"""`worker.step(frame=…)`: pictures for whoever watches, the newest of each environment, at no cost for others."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import zmq
from conftest import FabricService
from processes import wait_for
from skips import requires
from slowness import patience

from telefabric.address import Address
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.interface import FeedEvent
from telefabric.peer.requests import ask_status
from telefabric_schemas import Frame
from telefabric_workers import Worker

FPS_MAX = 20

needs_jpeg = requires("simplejpeg, of the extra frames", importlib.util.find_spec("simplejpeg") is not None)


def picture(height: int = 48, width: int = 64) -> np.ndarray[Any, Any]:
    """Smooth, as JPEG likes it: red from left to right, green from top to bottom."""
    found = np.zeros((height, width, 3), np.uint8)
    found[:, :, 0] = np.linspace(0, 255, width).astype(np.uint8)
    found[:, :, 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return found


@contextmanager
def watching(service: FabricService, worker: Worker) -> Iterator[BrokerFeed]:
    """A follower of the worker's run, of which the worker has heard and which knows the stream."""
    follower = BrokerFeed(Address.parse(service.url))
    follower.watch(frozenset({worker.run_id}))
    follower.want_pictures(frozenset({worker.run_id}))
    follower.start()
    try:
        worker.step(episode=0, step=0)
        wait_for(lambda: is_watched(worker), "the worker is asked")

        def known() -> bool:
            worker.step(episode=0, step=0)
            return any(event.live for event in follower.drain().events)

        wait_for(known, "the follower knows the stream")
        yield follower
    finally:
        follower.stop()


def is_watched(worker: Worker) -> bool:
    return bool(worker._outbox._linked.feed.pictures)  # type: ignore[attr-defined]


def frames(follower: BrokerFeed) -> list[FeedEvent]:
    return [event for event in follower.drain().events if event.kind == "frame"]


class Camera:
    """Renders; counts how often it is asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> np.ndarray[Any, Any]:
        self.calls += 1
        return picture()


@needs_jpeg
def test_a_picture_arrives_as_jpeg_with_the_step_that_it_shows_and_is_not_stored(fabric_service: FabricService) -> None:
    import simplejpeg

    with fabric_service.connect(run="run") as worker, watching(fabric_service, worker) as follower:
        shown = picture()
        worker.step(episode=3, step=7, env_index=2, agent="ada", frame=shown)
        shown[:] = 0  # the caller's array is the caller's again
        found = wait_for(lambda: frames(follower), "the picture")
        assert worker.flush(patience(20))
    frame = found[0].event
    assert isinstance(frame, Frame)
    assert (found[0].seq, found[0].live, found[0].stream_id) == (0, True, worker.stream_id)
    assert (frame.agent_id, frame.env_index, frame.episode_index, frame.step_index) == ("ada", 2, 3, 7)
    assert (frame.width, frame.height, frame.encoding) == (64, 48, "jpeg")
    decoded = simplejpeg.decode_jpeg(frame.data)
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - picture().astype(int)).mean() < 4
    assert fabric_service.rows("SELECT count(*) FROM frames") == [(0,)]
    assert not worker.problems


@needs_jpeg
def test_grey_pictures_and_views_of_any_order_are_pictures(fabric_service: FabricService) -> None:
    import simplejpeg

    with fabric_service.connect(run="run") as worker, watching(fabric_service, worker) as follower:
        grey = picture()[:, :, 0]
        for env, given in enumerate((grey, grey[:, :, None], np.asfortranarray(picture()), picture()[::-1, ::2])):
            worker.step(episode=0, step=1, env_index=env, frame=given)
        found: dict[int, Frame] = {}

        def all_of_them() -> bool:
            found.update({one.event.env_index: one.event for one in frames(follower) if isinstance(one.event, Frame)})
            return len(found) == 4

        wait_for(all_of_them, "a picture of each environment")
    assert np.abs(simplejpeg.decode_jpeg(found[0].data, "GRAY")[:, :, 0].astype(int) - grey).mean() < 4
    assert found[0].data == found[1].data
    assert [(found[env].width, found[env].height) for env in range(4)] == [(64, 48), (64, 48), (64, 48), (32, 48)]


@needs_jpeg
def test_at_most_so_many_a_second_and_the_newest_wins(fabric_service: FabricService) -> None:
    with fabric_service.connect(run="run") as worker, watching(fabric_service, worker) as follower:
        cameras = [Camera(), Camera()]
        start = time.monotonic()
        step = 0
        while time.monotonic() - start < 1.0:
            for env, camera in enumerate(cameras):
                worker.step(episode=0, step=step, env_index=env, frame=camera)
            step += 1
            time.sleep(0.001)
        span_s = time.monotonic() - start
        assert step > 2 * FPS_MAX
        for camera in cameras:
            assert FPS_MAX / 4 < camera.calls <= FPS_MAX * span_s + 1
        time.sleep(0.06)  # the next one is due
        for env, camera in enumerate(cameras):
            worker.step(episode=9, step=step, env_index=env, frame=camera)
        newest: list[FeedEvent] = []

        def came() -> bool:
            if not newest:
                newest.extend(frames(follower))  # nobody has drained for a second
            else:
                newest[:] = frames(follower) or newest
            return {one.event.step_index for one in newest if isinstance(one.event, Frame)} == {step}

        wait_for(came, "the last pictures")
        assert len(newest) == 2


def test_nobody_is_asked_to_render_while_nobody_watches(fabric_service: FabricService) -> None:
    camera = Camera()
    with fabric_service.connect(run="run") as worker:
        for step in range(200):
            worker.step(episode=0, step=step, frame=camera)
        assert camera.calls == 0
        with watching(fabric_service, worker):
            pass
        wait_for(lambda: not is_watched(worker), "the worker is told that nobody watches any more")
        worker.step(episode=0, step=200, frame=camera)
        assert camera.calls == 0


@pytest.mark.parametrize("topic", [b"run\0metric", b"run\0framework", b"\0pictures\0run\0", b"\0pictures\0"])
def test_a_listener_of_the_tap_that_can_get_no_picture_makes_nobody_render(
    fabric_service: FabricService, topic: bytes
) -> None:
    camera = Camera()
    with fabric_service.connect(run="run") as worker, zmq.Context() as context, context.socket(zmq.SUB) as listener:
        address = Address.parse(fabric_service.url)
        listener.connect(address.resolve(ask_status(address).endpoints.tap or ""))
        for one in (topic, b"run\0log"):
            listener.subscribe(one)

        def heard() -> bool:
            worker.step(episode=0, step=1, frame=camera)
            worker.log("line")
            return bool(listener.poll(20))

        wait_for(heard, "the worker is asked for its log")
        for _ in range(20):
            heard()
        assert camera.calls == 0
        assert not is_watched(worker)
        listener.subscribe(b"run\0fr")
        wait_for(lambda: heard() and camera.calls, "one that can get pictures does")


@needs_jpeg
def test_what_is_no_picture_is_told_once_and_the_step_goes_on(
    fabric_service: FabricService, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), "text", 5)
    with fabric_service.connect(run="run") as worker, watching(fabric_service, worker) as follower:
        with caplog.at_level(logging.WARNING, "telefabric.worker"):
            for env, given in enumerate(wrong):
                worker.step(episode=0, step=1, env_index=env, frame=given)
            worker.step(episode=0, step=1, env_index=len(wrong), frame=lambda: 1 / 0)
            worker.step(episode=0, step=1, env_index=10, frame=lambda: None)
        assert worker.problems["step.frame"] == len(wrong) + 1
        assert len(caplog.records) == 1
        assert "a frame of shape (4, 4, 4) and dtype uint8" in caplog.text
        worker.step(episode=0, step=2, env_index=12, frame=picture())
        assert wait_for(lambda: frames(follower), "a good one still comes")
        assert worker.flush(patience(20))
    assert fabric_service.rows("SELECT count(*) FROM steps WHERE step_index = 1") == [(len(wrong) + 2,)]


def test_a_missing_extra_is_one_sentence(
    fabric_service: FabricService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with (
        fabric_service.connect(run="run") as worker,
        watching(fabric_service, worker),
        caplog.at_level(logging.WARNING, "telefabric.worker"),
    ):
        for env in range(3):
            worker.step(episode=0, step=1, env_index=env, frame=picture())
        assert worker.problems["step.frame"] == 3
    told = [record.getMessage() for record in caplog.records if record.name == "telefabric.worker"]
    assert len(told) == 1
    assert "pip install 'telefabric[frames]'" in told[0]
