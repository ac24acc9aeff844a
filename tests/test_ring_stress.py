"""Torn frames: none with validation, some without, which proves that this would see them. Long: scripts/stress_ring."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ringstress
from processes import wait_for
from ringstress import Load, stress

from telefabric.ring import Hud, RingReader, RingWriter

SMALL, LARGE = (84, 84, 3), (480, 640, 3)


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "load",
    [Load(SMALL, 2, "latest", 2), Load(SMALL, 3, "next", 2), Load(LARGE, 2, "latest", 1), Load(LARGE, 4, "next", 1)],
    ids=str,
)
def test_no_frame_is_torn_and_none_has_the_hud_of_another(base: Path, load: Load) -> None:
    found = stress(base, load, 0.6)
    assert found["reads"] > 20
    assert (found["torn"], found["mismatched"], found["unaccounted"], found["damaged"]) == (0, 0, 0, 0)


def test_without_validation_torn_frames_are_seen(base: Path) -> None:
    load = Load(LARGE, 2, "latest", 1, validate=False)
    wait_for(lambda: stress(base, load, 2.0)["torn"], "a torn frame is seen")  # both have to run at the same moment


def test_a_reader_that_is_stopped_holds_up_nobody(base: Path) -> None:
    """Two rounds each way, in turn: what a frame costs the writer is the same, as is that it goes on at all."""
    writer = RingWriter(ringstress.NAME, base=base, fps_max=1e9)
    picture = np.full(SMALL, 1, np.uint8)
    writer.publish(picture, Hud())
    command = [sys.executable, ringstress.__file__, str(writer.folder), "latest", "1", "60"]
    reader = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        took = []
        for stop in (signal.SIGSTOP, signal.SIGCONT, signal.SIGSTOP, signal.SIGCONT):
            reader.send_signal(stop)
            began = time.monotonic()
            for _ in range(2_000):
                assert writer.publish(picture, Hud())
            took.append(time.monotonic() - began)
        assert max(took) < 5.0, took
    finally:
        reader.kill()
        reader.wait()
    late = RingReader(writer.folder)
    frame = wait_for(late.latest, "the newest")
    assert frame.number == 8_001
    late.close()
    writer.close()
