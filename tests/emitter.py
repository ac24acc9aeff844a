"""A worker process for tests: emits steps at a rate, and records after each call how far `emit` has returned.

The observation of step n is derived from n, so that what is stored can be checked against what was emitted.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import time
from pathlib import Path

from telefabric_workers import Worker, connect

STREAM_BYTES = 16


def observation(step: int) -> bytes:
    return hashlib.blake2b(step.to_bytes(8, "big"), digest_size=48).digest()


class Progress:
    """Stream id and newest seq of an emitter, in a file that survives its kill."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[bytes, int]:
        data = self.path.read_bytes() if self.path.exists() else b""
        if len(data) < STREAM_BYTES + 8:
            return b"", 0
        return data[:STREAM_BYTES], int.from_bytes(data[STREAM_BYTES : STREAM_BYTES + 8], "little")

    def read_seq(self) -> int:
        return self.read()[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("progress", type=Path)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--run", default="test")
    parser.add_argument("--rate", type=float, default=5_000)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--exit-flush", type=float, default=30.0)
    parser.add_argument("--first-id", type=int, default=0, help="Observations are those of the steps from here on.")
    given = parser.parse_args()
    given.progress.write_bytes(bytes(STREAM_BYTES + 8))
    descriptor = os.open(given.progress, os.O_RDWR)
    progress = mmap.mmap(descriptor, STREAM_BYTES + 8)
    worker = connect(given.url, run=given.run, spool=given.spool, exit_flush_s=given.exit_flush)
    try:
        with worker:
            emit(worker, progress, given.rate, given.seconds, given.first_id)
    finally:
        progress[STREAM_BYTES:] = worker.emitted.to_bytes(8, "little")


def emit(worker: Worker, progress: mmap.mmap, rate: float, seconds: float, first_id: int) -> None:
    progress[STREAM_BYTES:] = worker.emitted.to_bytes(8, "little")
    progress[:STREAM_BYTES] = worker.stream_id
    print("ready", flush=True)
    start, step = time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < seconds:
        for _ in range(max(int(elapsed * rate) - step, 0)):
            seen = observation(first_id + step)
            worker.step(episode=step // 500, step=step % 500, observation=seen, reward=float(step % 7))
            progress[STREAM_BYTES:] = worker.emitted.to_bytes(8, "little")
            step += 1
        time.sleep(0.001)


if __name__ == "__main__":
    main()
