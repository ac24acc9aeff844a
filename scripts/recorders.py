"""The ways in which programs record a training step, for benchmarks: ours, and others as their documentation has it.

A step is its number, the reward, a few scalars and an observation, which not every way keeps.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

EPISODE = 200
"""Steps."""
EVERYTHING, SCALARS = "episode, step, time, action, observation, reward, scalars", "step, time, reward, scalars"
KERNEL = "what the kernel had not yet written to the disk"
_BLOCK = 0x8000


Record = Callable[[int, float, Mapping[str, float], bytes], object]
"""Takes step, reward, scalars and observation, and returns when the program may go on."""


class Sink(NamedTuple):
    record: Record
    settle: Callable[[], object] = lambda: None
    """Waits for what is done beside the calls."""
    close: Callable[[], object] = lambda: None


class Way(NamedTuple):
    open: Callable[[Path], Sink]
    """Into a folder of its own."""
    count: Callable[[Path], int]
    """The steps that can be read there, also after a kill."""
    package: str = ""
    """What pip installs; empty where Telefabric brings it."""
    keeps: str = SCALARS
    power_loss: str = KERNEL
    """What a power loss costs."""

    @property
    def version(self) -> str | None:
        """That of its package; None where it is not installed."""
        try:
            return version(self.package) if self.package else ""
        except PackageNotFoundError:
            return None


# -- ours --------------------------------------------------------------------------------------------------------
def telefabric(_: Path) -> Sink:
    """Broker and spool are those of the variables."""
    from telefabric_workers import connect

    worker = connect(run="bench", exit_flush_s=30)

    def record(step: int, reward: float, scalars: Mapping[str, float], observation: bytes) -> None:
        worker.step(
            episode=step // EPISODE, step=step % EPISODE, action=2, observation=observation, reward=reward, info=scalars
        )

    def settle() -> None:
        assert worker.flush(30), "not everything was stored in time"

    return Sink(record, settle, worker.close)


def stored(folder: Path) -> int:
    from telefabric import open_store

    with open_store(folder / "data") as store:
        return sum(count.n for count in store.counts("bench") if count.kind == "step")


# -- files that take the same ------------------------------------------------------------------------------------
def json_lines(folder: Path) -> Sink:
    file = (folder / "steps.jsonl").open("w")

    def record(step: int, reward: float, scalars: Mapping[str, float], observation: bytes) -> None:
        row = {
            "kind": "step", "seq": step, "agent_id": "agent_0", "env_index": 0, "episode_index": step // EPISODE,
            "step_index": step % EPISODE, "global_step": step, "reward": reward, "terminated": False,
            "truncated": False, "time_ns": time.time_ns(), "mono_ns": time.monotonic_ns(), "action": 2,
            "observation": observation.hex(), **scalars,
        }  # fmt: skip
        file.write(json.dumps(row) + "\n")
        file.flush()

    return Sink(record, close=file.close)


def json_count(folder: Path) -> int:
    return (folder / "steps.jsonl").read_bytes().count(b"\n")


def mcap(folder: Path, *, flushed: bool) -> Sink:
    """The bytes of a spool; in compressed chunks, its default, or each with the kernel when the call returns."""
    import msgspec
    from mcap.writer import CompressionType, Writer

    from telefabric_schemas import Step, values

    file = (folder / "steps.mcap").open("wb")  # the writer puts a buffer before a file that has none
    writer = Writer(file, use_chunking=False, compression=CompressionType.NONE) if flushed else Writer(file)
    writer.start()
    channel = writer.register_channel("step", "msgpack", 0)
    encode = msgspec.msgpack.Encoder(enc_hook=values.enc_hook).encode

    def record(step: int, reward: float, scalars: Mapping[str, float], observation: bytes) -> None:
        now = time.time_ns()
        row = Step(
            step, "agent_0", 0, step // EPISODE, step % EPISODE, step, reward, False, False, now, time.monotonic_ns(),
            2, observation, info=scalars,
        )  # fmt: skip
        writer.add_message(channel, now, encode(row), now)
        if flushed:
            file.flush()

    return Sink(record, close=lambda: (writer.finish(), file.close()))


def mcap_count(folder: Path) -> int:
    from mcap.exceptions import McapError
    from mcap.records import Message
    from mcap.stream_reader import StreamReader

    found = 0
    with (folder / "steps.mcap").open("rb") as file:
        try:
            for record in StreamReader(file).records:
                found += isinstance(record, Message)
        except McapError:
            pass  # a program that was killed wrote no end
    return found


# -- loggers of scalars ------------------------------------------------------------------------------------------
def tensorboardx(folder: Path) -> Sink:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))

    def record(step: int, reward: float, scalars: Mapping[str, float], observation: bytes) -> None:
        writer.add_scalar("reward", reward, step)
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    return Sink(record, lambda: time.sleep(0.1), writer.close)  # its queue has ten places


def tensorboard_count(folder: Path) -> int:
    """Those of which every value is there."""
    from telefabric_workers.imports.tensorboard.events import Reader
    from telefabric_workers.imports.tensorboard.records import Tail

    reader, (file,) = Reader(), folder.glob("events.*")
    tags = Counter(value.tag for record in Tail(file).records() for value in reader.values(record))
    return min(tags.values(), default=0)


def wandb(folder: Path) -> Sink:
    """Another process writes the file; offline, nothing can be waited for."""
    import wandb as library

    run = library.init(project="bench", mode="offline", dir=str(folder), settings=library.Settings(silent=True))
    return Sink(
        lambda _, reward, scalars, __: run.log({"reward": reward, **scalars}), lambda: time.sleep(0.3), run.finish
    )


def wandb_count(folder: Path) -> int:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return sum(Record.FromString(one).WhichOneof("record_type") == "history" for one in _framed(file.read_bytes()))


def _framed(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log. A part of one has checksum (4 bytes), length (2) and kind, and is in one block."""
    at, parts = 7, b""  # after the file's own header
    while at + 7 <= len(data):
        if (left := _BLOCK - at % _BLOCK) < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4) and at <= len(data):  # a whole one, or its last part
            yield parts
            parts = b""


def trackio(folder: Path) -> Sink:
    os.environ["TRACKIO_DIR"] = str(folder)
    import trackio as library

    library.init(project="bench")
    return Sink(
        lambda _, reward, scalars, __: library.log({"reward": reward, **scalars}),
        lambda: time.sleep(0.6),  # a thread of its writes each half second
        library.finish,
    )


def trackio_count(folder: Path) -> int:
    import apsw

    (file,) = folder.glob("*.db")
    return apsw.Connection(str(file)).execute("SELECT count(*) FROM metrics").get


def rerun(folder: Path) -> Sink:
    import rerun as library

    recording = library.RecordingStream("bench")
    recording.save(folder / "steps.rrd")

    def record(step: int, reward: float, scalars: Mapping[str, float], observation: bytes) -> None:
        recording.set_time("step", sequence=step)
        recording.log("step", library.Scalars([reward, *scalars.values()]))

    return Sink(record, recording.flush, recording.disconnect)


def rerun_count(folder: Path) -> int:
    from rerun.chunk import RrdReader

    found = 0
    with warnings.catch_warnings(action="ignore"):
        try:
            for chunk in RrdReader(folder / "steps.rrd").stream():
                found += chunk.num_rows if chunk.entity_path == "/step" else 0
        except RuntimeError:
            pass  # as in mcap_count
    return found


OURS = "Telefabric"
WAYS = {
    OURS: Way(telefabric, stored, keeps=EVERYTHING, power_loss=f"{KERNEL}, and nothing once the store has it"),
    "JSON lines, flushed": Way(json_lines, json_count, keeps=EVERYTHING),
    "MCAP, flushed": Way(partial(mcap, flushed=True), mcap_count, "mcap", EVERYTHING),
    "MCAP, chunks": Way(partial(mcap, flushed=False), mcap_count, "mcap", EVERYTHING, f"the last chunk, and {KERNEL}"),
    "tensorboardX": Way(tensorboardx, tensorboard_count, "tensorboardX", power_loss=f"8 KiB, and {KERNEL}"),
    "W&B offline": Way(wandb, wandb_count, "wandb", power_loss=f"what its process holds, and {KERNEL}"),
    "trackio": Way(trackio, trackio_count, "trackio", power_loss="0.5 s, and what SQLite had not yet synced (NORMAL)"),
    "Rerun": Way(rerun, rerun_count, "rerun-sdk", power_loss=f"0.2 s, and {KERNEL}"),
}
