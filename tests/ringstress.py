"""A free-running writer and readers in processes of their own, for scripts/stress_ring and test_ring_stress.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from telefabric.ring import Hud, Name, RingReader, RingWriter

NAME = Name("stress", "agent", "worker")
MODES = ("latest", "next")
_VALUES = 7
"""Prime, and unlike any number of slots: whatever a slot held before has another value."""


class Load(NamedTuple):
    shape: tuple[int, ...]
    slots: int
    mode: str
    readers: int
    validate: bool = True


def stress(base: Path, load: Load, seconds: float) -> Counter[str]:
    """Reads, torn, mismatched, unaccounted, retries: of all readers together."""
    writer = RingWriter(NAME, base=base, slots=load.slots, fps_max=1e9)
    pictures = [np.full(load.shape, 1 + value * 36, np.uint8) for value in range(_VALUES)]
    writer.publish(pictures[1], Hud(step=1))
    command = [sys.executable, __file__, str(writer.folder), load.mode, str(int(load.validate)), str(seconds)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(load.readers)]
    number = 1
    while any(one.poll() is None for one in readers):
        for _ in range(20):
            number += 1
            writer.publish(pictures[number % _VALUES], Hud(step=number))
            os.sched_yield()  # where cores are short, a reader would have one frame in its whole turn
    writer.close()
    found: Counter[str] = Counter()
    for one in readers:
        output, _ = one.communicate()
        assert one.returncode == 0, "a reader ended by itself"
        found.update(json.loads(output))
    return found


def read(folder: Path, mode: str, validate: bool, seconds: float) -> dict[str, int]:
    reader = RingReader(folder)
    reader._validate = validate
    take = reader.latest if mode == "latest" else reader.next
    torn = mismatched = unaccounted = before = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(50):
            frame = take()
            if frame is None:
                os.sched_yield()
                continue
            value = frame.array.flat[0]
            torn += not (frame.array == value).all()
            mismatched += value != 1 + frame.hud.step % _VALUES * 36 or frame.hud.step != frame.number
            unaccounted += frame.number <= before
            before = frame.number
    counters = reader.counters
    unaccounted += counters.received + counters.skipped != reader.read_to - reader.start
    found = {"reads": counters.received, "torn": torn, "mismatched": mismatched, "retries": counters.retries}
    return {**found, "unaccounted": int(unaccounted), "damaged": counters.damaged}


if __name__ == "__main__":
    print(json.dumps({name: int(number) for name, number in read(
        Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1", float(sys.argv[4])).items()}))  # fmt: skip
