"""The ring, one process or forked ones: what is read is what was written, whole, and every frame is accounted for."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import wait_for
from skips import requires
from slowness import patience

from telefabric import limits
from telefabric.errors import EnvironmentProblem, UsageError, WireError
from telefabric.files.lock import FileLock
from telefabric.log.thread import log_thread
from telefabric.ring import (
    Hud,
    Name,
    PixelFormat,
    RingReader,
    RingWriter,
    TileHud,
    collect_garbage,
    discover,
    form,
    hud,
    layout,
    metrics,
    owner,
    places,
    ring_file,
)
from telefabric.ring import reader as ring_reader
from telefabric.ring import writer as ring_writer
from telefabric.ring.bell import Bell
from telefabric.ring.owner import Owner
from telefabric.ring.ring_file import RingFile
from telefabric.settings import runtime_folder

NAME = Name("run", "agent", "worker")
STEPS = ("intent", "begin", "half", "payload", "descriptor", "end", "head")
EVERYTHING = 1e9
"""Frames a second."""

Write = Callable[..., RingWriter]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Short: the name of a socket in it has to fit into 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        yield Path(folder)


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    made: list[RingWriter] = []

    def begin(name: Name = NAME, **options: object) -> RingWriter:
        made.append(RingWriter(name, base=tmp_path, **{"fps_max": EVERYTHING, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for writer in made:
        writer.close()


SPEC = Path(__file__).resolve().parent.parent / "fabric" / "RING.md"


def grey(value: int, shape: tuple[int, ...] = (6, 5)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


def show(writer: RingWriter, number: int, **more: object) -> None:
    assert writer.publish(grey(number % 251), Hud(step=number), **more)  # type: ignore[arg-type]


# -- pictures ----------------------------------------------------------------------------------------------------
DICE = np.random.default_rng(7)
PICTURES = {
    "rgb": (DICE.integers(0, 256, (7, 13, 3), np.uint8), None, PixelFormat.RGB8),
    "bgr": (DICE.integers(0, 256, (7, 13, 3), np.uint8), PixelFormat.BGR8, PixelFormat.BGR8),
    "rgba": (DICE.integers(0, 256, (1, 1, 4), np.uint8), None, PixelFormat.RGBA8),
    "grey": (DICE.integers(0, 256, (3, 1_001), np.uint8), None, PixelFormat.GRAY8),
    "grey of one channel": (DICE.integers(0, 256, (3, 5, 1), np.uint8), None, PixelFormat.GRAY8),
    "16 bits": (DICE.integers(0, 65_536, (9, 3), np.uint16), None, PixelFormat.GRAY16),
    "16 bits in the other order": (DICE.integers(0, 65_536, (9, 3)).astype(">u2"), None, PixelFormat.GRAY16),
    "depth": (np.array([[0.5, np.inf], [np.nan, -1.0]], np.float32), None, PixelFormat.DEPTH),
    "every second row": (DICE.integers(0, 256, (20, 13, 3), np.uint8)[::2], None, PixelFormat.RGB8),
    "mirrored": (DICE.integers(0, 256, (7, 13, 3), np.uint8)[:, ::-1], None, PixelFormat.RGB8),
    "on its side": (DICE.integers(0, 256, (7, 13, 3), np.uint8).transpose(1, 0, 2), None, PixelFormat.RGB8),
    "channels turned": (DICE.integers(0, 256, (7, 13, 3), np.uint8)[..., ::-1], None, PixelFormat.RGB8),
}


@pytest.mark.parametrize("case", PICTURES)
@pytest.mark.parametrize("checksum", [False, True])
def test_a_picture_of_any_format_and_strides_comes_as_it_was(write: Write, case: str, checksum: bool) -> None:
    array, given_format, pixels = PICTURES[case]
    writer = write(checksum=checksum)
    reader = RingReader(writer.folder)
    hud = Hud(3, 4, 5, 0.25, -1.5, 60.0, {"ε": 0.1, "loss": float("inf")})
    assert writer.publish(array, hud, pixel_format=given_format)
    frame = reader.latest()
    assert frame is not None
    assert (frame.number, frame.pixels, frame.tiles, frame.hud) == (1, pixels, 0, hud)
    assert frame.array.dtype == array.dtype.newbyteorder("="), "the order of this machine"
    np.testing.assert_array_equal(frame.array.reshape(array.shape), array)
    assert time.monotonic_ns() - frame.shown_ns < 10**9
    assert reader.latest() is None, "no frame is given twice"
    reader.close()


def test_tiles_of_several_environments_in_one_slot(write: Write) -> None:
    tiles = DICE.integers(0, 256, (16, 84, 84, 3), np.uint8)
    hud = Hud(tiles=[TileHud(index, index * 2, 3, 0.5, 1.0, index % 2 == 0) for index in range(16)])
    writer = write()
    reader = RingReader(writer.folder)
    assert writer.publish(tiles, hud, tiled=True)
    frame = reader.latest()
    assert frame is not None
    assert (frame.tiles, frame.hud) == (16, hud)
    np.testing.assert_array_equal(frame.array, tiles)
    reader.close()


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8), "picture",
     np.zeros((4, 4, 3), np.uint16), np.zeros((2, 4, 4, 3), np.uint8), np.zeros((1, 20_000), np.uint8)],
)  # fmt: skip
def test_what_is_no_picture_is_said_with_what_is_one(write: Write, bad: object) -> None:
    writer = write()
    with pytest.raises(ValueError, match=r"a frame of shape .* and dtype .*: uint8 of \(height, width"):
        writer.publish(bad, Hud())
    show(writer, 1)


def test_a_hud_that_is_too_long_leaves_its_frame_out(write: Write) -> None:
    writer = write()
    assert not writer.publish(grey(1), Hud(values={"x" * 100 + str(one): 1.0 for one in range(100)}))
    assert writer.counters.left_out == 1
    show(writer, 1)


# -- which frames ------------------------------------------------------------------------------------------------
def test_at_most_so_many_a_second_and_the_others_are_counted(write: Write) -> None:
    writer = write(fps_max=20.0)
    began = time.monotonic()
    given = shown = 0
    while shown < 8:
        given += 1
        shown += writer.publish(grey(1), Hud())
    assert time.monotonic() - began >= 7 / 20
    assert writer.counters[:2] == (shown, given - shown)


def test_whoever_comes_late_sees_the_newest_at_once(write: Write) -> None:
    writer = write()
    for number in range(1, 10):
        show(writer, number)
    reader = RingReader(writer.folder)
    frame = reader.latest()
    assert frame is not None
    assert (frame.number, frame.hud.step, frame.array.max()) == (9, 9, 9)
    reader.close()


@settings(max_examples=40, deadline=None)
@given(
    turns=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["latest", "next", "all"])), min_size=1, max_size=30),
    slots=st.integers(2, 6),
    growing=st.booleans(),
)
def test_received_and_skipped_are_what_was_published(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[int, str]], slots: int, growing: bool
) -> None:
    """At any rates of both, and over new files for larger frames."""
    writer = RingWriter(NAME, base=tmp_path_factory.mktemp("ring"), slots=slots, fps_max=EVERYTHING)
    reader = RingReader(writer.folder)
    try:
        show(writer, 1)
        assert (first := reader.latest())
        assert first.number == 1
        newest = published = 1
        for turn, (burst, how) in enumerate(turns):
            for _ in range(burst):
                published += 1
                side = 5 + turn if growing else 5
                writer.publish(grey(published % 251, (side, side)), Hud(step=published))
            for frame in _read(reader, how):
                assert newest < frame.number <= published
                assert frame.hud.step == frame.number
                assert frame.array.min() == frame.array.max() == frame.number % 251
                newest = frame.number
            assert newest == published or how == "next" or not burst
        while reader.latest() is not None:
            pass
        counters = reader.counters
        assert counters.received + counters.skipped == reader.read_to == published == writer.counters.published
        assert (counters.retries, counters.damaged, counters.starved) == (0, 0, 0)
    finally:
        reader.close()
        writer.close()


def _read(reader: RingReader, how: str) -> list:
    if how == "all":
        return list(iter(reader.next, None))
    frames = [reader.latest() if how == "latest" else reader.next()]
    while how == "latest" and frames[-1] is not None:
        frames.append(reader.latest())  # into the file that came after
    return [frame for frame in frames if frame is not None]


def test_a_reader_that_takes_all_in_turn_gets_all_that_is_safe(write: Write) -> None:
    writer = write(slots=4)
    reader = RingReader(writer.folder)
    show(writer, 1)
    assert reader.next()
    for number in range(2, 12):
        show(writer, number)
    assert [frame.number for frame in iter(reader.next, None)] == [9, 10, 11], "one slot is the writer's"
    assert (reader.counters.received, reader.counters.skipped) == (4, 7)
    reader.close()


RGB = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((np.full((4, 5), 7, np.uint8), {}), (np.full((4, 5), 300, np.uint16), {})),
        ((np.full((4, 5), 300, np.uint16), {}), (np.full((4, 5), 0.5, np.float32), {})),
        ((np.full((4, 5), 300, "<u2"), {}), (np.full((4, 5), 300, ">u2"), {})),
        ((RGB, {}), (RGB, {"pixel_format": PixelFormat.BGR8})),
        ((RGB, {}), (RGB, {"tiled": True})),
        ((RGB, {}), (RGB[::-1, :, ::-1], {})),
        ((RGB, {}), (RGB[:, :4], {})),
        ((RGB, {}), (list(RGB), {})),
    ],
    ids=["wider", "real", "byte order", "format", "tiles", "strides", "shape", "type"],
)
def test_a_frame_that_differs_in_one_thing_from_the_one_before_is_its_own(
    write: Write, first: tuple[Any, dict[str, Any]], second: tuple[Any, dict[str, Any]]
) -> None:
    writer = write()
    reader = RingReader(writer.folder)
    for frame, options in (first, second, first, second):
        assert writer.publish(frame, Hud(), **options)
        found, given = reader.latest(), np.asarray(frame)
        assert found is not None
        assert np.array_equal(found.array.reshape(given.shape), given)
        assert found.array.dtype == given.dtype.newbyteorder("=")
        assert found.tiles == (len(frame) if options.get("tiled") else 0)
        assert found.pixels == options.get("pixel_format", found.pixels)
        if frame is RGB and not options:
            assert found.pixels == PixelFormat.RGB8
    reader.close()


BEYOND = {"height": 16_000, "width": 16_000, "payload_bytes": 16_000 * 16_000 * 3}


@pytest.mark.parametrize(
    "lie", [{"payload_bytes": 61}, {"height": 5}, {"generation": 1}, {"pixels": 99}, {"tiles": 2}, BEYOND]
)
def test_a_descriptor_that_contradicts_itself_or_the_segment_is_not_read(write: Write, lie: dict[str, int]) -> None:
    writer = write()
    reader = RingReader(writer.folder)
    writer.publish(RGB, Hud())
    assert reader.latest() is not None
    writer.publish(RGB, Hud())
    segment = writer._segment
    assert segment is not None
    true = layout.Form(segment.block.generation, RGB.nbytes, 4, 5, 0, PixelFormat.RGB8, 0)
    head = layout.head_packer(true._replace(**lie))(2, 0, 0, 0, hud.encode(Hud()))
    at = segment.slot(2) + layout.DESCRIPTOR
    segment.data[at : at + len(head)] = head
    assert (reader.latest(), reader.counters.damaged) == (None, 1)
    reader.close()


def test_where_fences_are_needed_each_copy_lies_between_two(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = write()
    reader = RingReader(writer.folder)
    show(writer, 1)
    assert reader.latest()
    segment = writer._segment
    assert segment is not None
    at = segment.slot(2)
    seen: list[tuple[str, bool, bool, bool]] = []

    def fence(who: str) -> None:
        words = segment.words
        stored = words[(at + layout.DESCRIPTOR) // 8] == 2
        seen.append((who, words[at // 8] == 2, stored, words[segment.places[2][1]] == 2))

    for module, who in ((ring_writer, "writer"), (ring_reader, "reader")):
        monkeypatch.setattr(module, "FENCED", True)
        monkeypatch.setattr(module, "fence", lambda who=who: fence(who))
    show(writer, 2)
    assert reader.latest()
    begun, copied, whole = (True, False, False), (True, True, False), (True, True, True)
    assert seen == [("writer", *begun), ("writer", *copied), ("reader", *whole), ("reader", *whole)]
    reader.close()


@pytest.mark.parametrize("place", ["number", "clock", "meta", "hud", "payload"])
def test_a_slot_that_does_not_hold_what_was_written_is_not_read(write: Write, place: str) -> None:
    writer = write(checksum=True)
    reader = RingReader(writer.folder)
    writer.publish(RGB, Hud(values={"loss": 1.0}))
    assert reader.latest() is not None
    writer.publish(RGB, Hud(values={"loss": 1.0}))
    segment = writer._segment
    assert segment is not None
    at = segment.slot(2) + layout.DESCRIPTOR
    if place in ("number", "hud"):
        true = layout.Form(segment.block.generation, RGB.nbytes, 4, 5, 0, PixelFormat.RGB8, 0)
        number, meta = (1, hud.encode(Hud())) if place == "number" else (2, b"\xc1")
        head = layout.head_packer(true)(number, 0, 0, zlib.crc32(RGB.tobytes()), meta)
        segment.data[at : at + len(head)] = head
    else:
        byte = at + {"clock": 32, "meta": 64 + 2, "payload": layout.PAYLOAD - layout.DESCRIPTOR}[place]
        segment.data[byte] ^= 1
    assert (reader.latest(), reader.counters.damaged) == (None, 1)
    reader.close()


def test_a_reader_that_asks_for_the_state_stays_in_a_file_until_it_is_read_out(write: Write) -> None:
    writer = write()
    reader = RingReader(writer.folder)
    show(writer, 1)
    assert reader.next()
    show(writer, 2)
    writer.publish(np.zeros((200, 200), np.uint8), Hud(step=3))
    assert reader.state == "live"
    assert [frame.hud.step for frame in iter(reader.next, None)] == [2, 3]
    assert reader.counters.skipped == 0
    reader.close()


# -- the writer dies ---------------------------------------------------------------------------------------------
def in_child(work: Callable[[], None]) -> int:
    """How a forked child ended that did this: its exit code, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


At = Callable[[str], None]


class Words:
    """The words of a segment, whose writer is looked at behind each store."""

    def __init__(self, words: memoryview, block: layout.Superblock, at: At) -> None:
        self._words, self._block, self._at = words, block, at

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value
        polled = {layout.INTENT: "intent", layout.HEAD: "head"}
        in_slot = (index * 8 - layout.PAGE) % self._block.stride
        name = polled.get(index * 8, "begin" if in_slot == layout.BEGIN else "end")
        if index * 8 in polled or index * 8 >= layout.PAGE:
            self._at(name)


class Data:
    """The bytes of a segment likewise: a writer stores descriptor and meta in them."""

    def __init__(self, data: memoryview, at: At) -> None:
        self._data, self._at = data, at

    def __setitem__(self, place: slice, value: bytes) -> None:
        self._data[place] = value
        self._at("descriptor")


class Payload:
    """The payload of a slot likewise, copied in two halves."""

    def __init__(self, array: np.ndarray[Any, Any], at: At) -> None:
        self._array, self._at = array, at

    def __setitem__(self, place: object, frame: np.ndarray[Any, Any]) -> None:
        assert place is ...
        half = len(frame) // 2
        self._array[:half] = frame[:half]
        self._at("half")
        self._array[half:] = frame[half:]
        self._at("payload")


def dies_at(base: Path, step: str, number: int, size: int = 64) -> Callable[[], None]:
    """A writer that publishes, and is killed in frame `number`."""

    def write() -> None:
        writer = RingWriter(NAME, base=base, fps_max=EVERYTHING)

        def at(reached: str) -> None:
            if reached == step and writer.counters.published == number - 1:
                os.kill(os.getpid(), signal.SIGKILL)

        class Watched(form.WrittenForm):
            def __init__(self, segment: RingFile, *rest: Any) -> None:
                super().__init__(segment, *rest)
                self.words, self.data = Words(segment.words, segment.block, at), Data(segment.data, at)
                self.payloads = [Payload(one, at) for one in self.payloads]

        ring_writer.WrittenForm = Watched
        while True:
            one = writer.counters.published + 1
            writer.publish(grey(one % 251, (size, size)), Hud(step=one))

    return write


class Handled:
    """The payload of a slot, into which a frame is being copied as a signal handler runs."""

    def __init__(self, array: np.ndarray[Any, Any], handler: Callable[[], object]) -> None:
        self._array, self._handler = array, handler

    def __setitem__(self, place: object, frame: np.ndarray[Any, Any]) -> None:
        self._array[...] = frame
        self._handler()


def interrupt(writer: RingWriter, handler: Callable[[], object]) -> None:
    assert writer._form is not None
    writer._form.payloads = [Handled(one, handler) for one in writer._form.payloads]  # type: ignore[misc]


def test_a_frame_that_a_signal_handler_gives_inside_another_is_left_out(write: Write) -> None:
    writer = write()
    show(writer, 1)
    inside: list[bool] = []
    interrupt(writer, lambda: inside.append(writer.publish(RGB, Hud(step=9))))
    show(writer, 2)
    show(writer, 3)
    assert inside == [False] * 2
    assert (writer.counters.published, writer.counters.left_out) == (3, 2)
    reader = RingReader(writer.folder)
    assert (frame := reader.latest())
    assert frame.hud.step == 3
    reader.close()


def test_a_writer_that_a_signal_handler_closes_inside_a_frame_closes_after_it(write: Write) -> None:
    writer = write()
    show(writer, 1)
    interrupt(writer, writer.close)
    show(writer, 2)
    assert writer.closed
    reader = RingReader(writer.folder)
    assert (frame := reader.latest())
    assert (frame.number, reader.state) == (2, "closed")
    assert not writer.publish(RGB, Hud())
    reader.close()


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_that_is_killed_in_a_frame_leaves_no_part_of_it(tmp_path: Path, step: str) -> None:
    """Between every two stores of the protocol, at 29 frames each: 203 points."""
    for number in range(1, 30):
        assert in_child(dies_at(tmp_path, step, number)) == -signal.SIGKILL
        (folder,) = places.ring_folders(tmp_path)
        reader = RingReader(folder)
        reader._attached()
        whole = number - (step != "head")
        reader.read_to = max(whole - 3, 0)
        frames = list(iter(reader.next, None))
        assert [frame.number for frame in frames] == list(range(max(whole - 2, 1), whole + 1))
        for frame in frames:
            assert frame.hud.step == frame.number
            assert frame.array.min() == frame.array.max() == frame.number % 251
        assert (reader.counters.damaged, reader.state) == (0, "died")
        reader.close()


def test_a_reader_goes_on_with_the_next_writer_of_the_same_name(tmp_path: Path) -> None:
    assert in_child(dies_at(tmp_path, "half", 7)) == -signal.SIGKILL
    (folder,) = places.ring_folders(tmp_path)
    reader = RingReader(folder)
    assert (last := reader.latest())
    assert last.number == 6
    assert (reader.latest(), reader.state) == (None, "died")
    writer = RingWriter(NAME, base=tmp_path, fps_max=EVERYTHING)
    assert writer.folder == folder
    for number in range(1, 6):
        show(writer, number)
    frame = wait_for(reader.latest, "a frame of the new writer")
    assert (frame.number, reader.state) == (5, "live")
    assert (reader.counters.received, reader.counters.skipped) == (2, 4)
    writer.close()
    assert reader.state == "closed"
    reader.close()


def test_two_writers_of_one_name_have_a_ring_each(write: Write) -> None:
    first, second = write(), write()
    show(first, 1)
    show(second, 2)
    assert first.folder != second.folder
    assert {one.folder for one in discover(first.folder.parent.parent)} == {first.folder, second.folder}


def test_a_pid_that_is_somebody_elses_by_now_is_not_the_writer(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Owner.this_process()
    assert one.alive() is True
    assert one._replace(start_ticks=one.start_ticks + 1).alive() is False
    assert one._replace(boot=bytes(15) + b"x").alive() is False, "before the machine started anew"
    assert one._replace(pid_namespace=1).alive() is None, "cannot be told from here"
    assert one._replace(start_ticks=0).alive() is None
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert reader.state == "live"
    monkeypatch.setattr(owner, "_pid_namespace", lambda: 1)
    reader._asked_ns = 0
    assert reader.state == "live", "its heartbeat is fresh"
    monkeypatch.setattr(limits, "RING_DEAD_S", -1.0)
    assert reader.state == "died"
    reader.close()


def test_a_writer_without_frames_is_stalled(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert reader.state == "live"
    monkeypatch.setattr(limits, "RING_STALLED_S", 0.05)
    wait_for(lambda: reader.state == "stalled", "it is seen")
    show(writer, 2)
    assert reader.state == "live"
    reader.close()


# -- children ----------------------------------------------------------------------------------------------------
def test_a_forked_child_writes_nothing_and_takes_nothing_away(write: Write) -> None:
    writer = write()
    show(writer, 1)

    def child() -> None:
        assert writer.closed
        assert not writer.publish(grey(2), Hud())
        writer.close()
        other = RingWriter(NAME, base=writer.folder.parent.parent, fps_max=EVERYTHING)
        assert other.folder != writer.folder
        show(other, 3)
        other.close()

    assert in_child(child) == 0
    reader = RingReader(writer.folder)
    assert (frame := reader.latest())
    assert frame.number == 1
    show(writer, 2)
    assert (frame := reader.latest())
    assert (frame.number, reader.state) == (2, "live")
    reader.close()


def test_a_spawned_child_has_a_ring_of_its_own_under_the_same_name(write: Write) -> None:
    writer = write()
    show(writer, 1)
    program = """if True:
        import sys
        from pathlib import Path
        import numpy
        from telefabric.ring import Hud, Name, RingReader, RingWriter
        base, theirs = Path(sys.argv[1]), Path(sys.argv[2])
        reader = RingReader(theirs)
        frame = reader.latest()
        assert frame and frame.number == 1 and reader.state == "live", "the parent's is there to read"
        own = RingWriter(Name("run", "agent", "worker"), base=base)
        assert own.folder != theirs and own.publish(numpy.zeros((4, 4), numpy.uint8), Hud())
        own.close()
    """
    base = str(writer.folder.parent.parent)
    subprocess.run([sys.executable, "-c", program, base, str(writer.folder)], check=True, timeout=patience(60))
    show(writer, 2)
    reader = RingReader(writer.folder)
    assert (frame := reader.latest())
    assert (frame.number, reader.state) == (2, "live")
    reader.close()


# -- the bell ----------------------------------------------------------------------------------------------------
def test_the_bell_wakes_whoever_waits(write: Write) -> None:
    writer = write()
    assert not writer.wanted
    reader = RingReader(writer.folder)
    bell = reader.bell()
    assert bell is not None
    assert reader.bell() is bell
    wait_for(lambda: writer.wanted, "the writer has seen the bell")
    for number in range(1, 2_000):
        show(writer, number)  # far more than the socket holds
    assert bell.drain() > 0
    assert bell.drain() == 0
    show(writer, 2_000)
    assert bell.drain() == 1
    reader.close()
    show(writer, 2_001)
    wait_for(lambda: not writer.wanted, "the bell is gone")
    assert writer.counters.bell_errors == 0


def test_who_waits_has_the_newest_frame_at_once_and_none_when_none_comes(write: Write) -> None:
    writer = write()
    reader = RingReader(writer.folder)
    assert reader.wait(0.01) is None
    wait_for(lambda: writer.wanted, "the writer has seen the bell")
    for number in range(1, 4):
        show(writer, number)
    assert (frame := reader.wait(60))
    assert frame.number == 3
    began_s = time.monotonic()
    assert reader.wait(0.05) is None, "the bell has rung for those before"
    assert time.monotonic() - began_s >= 0.05
    for number in (4, 5):
        show(writer, number)
    assert (frame := reader.wait(60))
    assert frame.number == 5, "those between are skipped"
    with ThreadPoolExecutor(1) as pool:
        since_ns, waited = time.monotonic_ns(), pool.submit(reader.wait, 60)
        wait_for(lambda: reader._looked_ns - since_ns > 0.3e9, "it waits on after looking for another file")
        show(writer, 6)
        assert (frame := waited.result(20))
        assert frame.number == 6
    reader.close()


def test_no_sleep_of_a_wait_is_longer_than_what_is_left_of_it(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(ring_reader, "_POLL_S", 60.0)
    monkeypatch.setattr(ring_reader, "_LOOK_NS", 60 * limits.NS)
    ring, sleep = Bell.wait, time.sleep
    monkeypatch.setattr(Bell, "wait", lambda bell, timeout_s: (slept.append(timeout_s), ring(bell, timeout_s)))
    monkeypatch.setattr(ring_reader.time, "sleep", lambda timeout_s: (slept.append(timeout_s), sleep(timeout_s)))
    absent, there = RingReader(tmp_path / "absent"), RingReader(write().folder)
    for reader in (absent, there):
        for timeout_s in (0.1, 0.0, -1.0, float("nan")):
            assert reader.wait(timeout_s) is None
        reader.close()
    assert len(slept) >= 2
    assert max(slept) <= 0.1


def test_a_file_that_was_lengthened_is_read_on(write: Write) -> None:
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert reader.latest()
    assert writer._segment is not None
    os.truncate(writer._segment.path, writer._segment.block.total + layout.PAGE)
    show(writer, 2)
    assert reader.latest()
    reader.close()


def test_a_reader_that_goes_on_in_another_file_lets_go_of_the_memory_of_the_last(write: Write) -> None:
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert reader.latest()
    before = reader._segment
    assert before is not None
    writer.publish(np.zeros((200, 200), np.uint8), Hud(step=2))
    assert reader.latest()
    assert reader._segment is not before
    assert before._mapped.closed
    reader.close()


def test_a_reader_that_a_signal_handler_closes_inside_a_read_keeps_its_memory(write: Write) -> None:
    writer = write()
    show(writer, 1)

    def read() -> None:
        reader = RingReader(writer.folder)
        assert reader.latest()
        assert reader._form is not None
        payloads = reader._form.payloads  # as `_read` has them
        reader.close()
        assert [payload.copy() for payload in payloads]

    assert in_child(read) == 0


def test_a_head_whose_meta_is_longer_than_its_area_is_not_read() -> None:
    pack = layout.head_packer(layout.Form(1, 60, 4, 5, 0, PixelFormat.RGB8, 0))
    for size, read in ((layout.META_BYTES_MAX, True), (layout.META_BYTES_MAX + 1, False)):
        assert (layout.head_at(memoryview(pack(1, 0, 0, 0, bytes(size))), 0) is not None) == read


def test_a_bell_that_cannot_be_rung_is_counted(write: Write) -> None:
    writer = write()
    reader = RingReader(writer.folder)
    reader.bell()
    show(writer, 1)
    wait_for(lambda: writer.wanted, "the writer has seen the bell")
    ((path, there),) = writer._ringer._bells.items()

    class Broken:
        def send(self, data: bytes) -> None:
            raise OSError(errno.ENOBUFS, "no memory for it")

    writer._ringer._bells[path] = Broken()  # type: ignore[assignment]
    show(writer, 2)
    writer._ringer._bells[path] = there
    assert writer.counters.bell_errors == 1
    reader.close()


def test_signals_do_not_lengthen_the_wait(write: Write) -> None:
    reader = RingReader(write().folder)
    over, seen = threading.Event(), []
    main = threading.get_ident()

    def interrupt() -> None:
        while len(seen) < 400 and not over.wait(0.01):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(interrupt)
            assert reader.wait(0.3) is None
            rang = len(seen)
            over.set()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert 0 < rang < 400
    reader.close()


def test_what_rang_is_taken_by_the_next_wait_which_sleeps_no_moment(write: Write) -> None:
    """Between the bell and the copy lies one system call; a frame that comes before the bell is taken is not missed."""
    writer = write()
    reader = RingReader(writer.folder)
    bell = reader.bell()
    assert bell is not None
    show(writer, 1)
    wait_for(lambda: writer.wanted, "the writer has seen the bell")
    show(writer, 2)
    bell.wait(60)
    assert bell._rung
    assert reader.wait(0).number == 2  # type: ignore[union-attr]
    bell.wait(60)  # takes what rang
    assert not bell._rung
    assert bell.drain() == 0
    show(writer, 3)
    bell.wait(60)
    show(writer, 4)
    assert reader.wait(60).number == 4  # type: ignore[union-attr]
    bell.wait(60)
    assert reader.wait(0.01) is None
    assert not bell._rung
    reader.close()


def test_a_signal_handler_may_ask_who_waits_while_the_bells_ring(write: Write) -> None:
    writer = write()
    first = RingReader(writer.folder)
    first.bell()
    show(writer, 1)
    wait_for(lambda: writer.wanted, "the writer has seen the bell")
    ringer = writer._ringer
    ((path, socket_),) = ringer._bells.items()
    others = [RingReader(writer.folder) for _ in range(3)]

    class Interrupted:
        def send(self, data: bytes) -> None:
            for other in others:
                other.bell()
            ringer._looked_ns = 0
            assert writer.wanted
            socket_.send(data)

    ringer._bells[path] = Interrupted()  # type: ignore[assignment]
    show(writer, 2)
    assert len(ringer._bells) == 4
    ringer._bells[path] = socket_
    for reader in (first, *others):
        reader.close()


def test_who_waits_needs_no_bell_and_no_ring(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = RingReader(runtime_folder(tmp_path) / next(places.folder_names(NAME)))
    assert reader.wait(0.01) is None
    assert not caplog.records, "no bell is tried where there is no folder"
    monkeypatch.setattr(ring_reader, "SUPPORTED", False)
    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(reader.wait, 60)
        show(write(), 1)
        assert (frame := waited.result(20))
        assert frame.number == 1
    reader.close()


def test_the_bell_of_a_reader_that_died_is_taken_away(write: Write) -> None:
    writer = write()
    show(writer, 1)
    assert in_child(lambda: (RingReader(writer.folder).bell(), os.kill(os.getpid(), signal.SIGKILL))[0]) < 0  # type: ignore[func-returns-value]
    (left,) = (writer.folder / places.BELLS).iterdir()
    wait_for(lambda: not writer.wanted and not left.exists(), "the writer has seen that nobody has it")

    pid = os.fork()
    if pid == 0:
        held = RingReader(writer.folder).bell()
        assert held
        signal.pause()
    try:
        wait_for(lambda: writer.wanted, "the writer has seen the bell")
        (left,) = (writer.folder / places.BELLS).iterdir()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    show(writer, 2)
    assert not left.exists()
    assert (writer.wanted, writer.counters.bell_errors) == (False, 0)


def test_a_bell_works_however_deep_its_folder_is(tmp_path: Path) -> None:
    base = tmp_path / ("x" * 100)
    base.mkdir()
    writer, reader = RingWriter(NAME, base=base, fps_max=EVERYTHING), None
    try:
        reader = RingReader(writer.folder)
        assert (bell := reader.bell())
        wait_for(lambda: writer.wanted, "the writer has seen the bell")
        show(writer, 1)
        assert bell.drain() == 1
        assert writer.counters.bell_errors == 0
    finally:
        if reader is not None:
            reader.close()
        writer.close()


def test_a_bell_that_somebody_removed_rings_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("telefabric.ring"), "filters", [])  # its one warning a second is another's
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    bell = reader.bell()
    assert bell is not None
    assert reader.latest()
    shutil.rmtree(writer.folder)
    writer.beat()
    wait_for(lambda: reader.latest() is not None or writer.wanted, "the writer has seen the new bell")
    show(writer, 2)
    wait_for(bell.drain, "it rings")
    assert (frame := wait_for(reader.latest, "the frame that it rang for"))
    assert frame.number == 2
    reader.close()


# -- files -------------------------------------------------------------------------------------------------------
def test_a_full_disk_is_one_sentence_and_the_run_goes_on(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = write()
    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        assert not writer.publish(grey(1), Hud())
        with pytest.raises(
            EnvironmentProblem, match=r"no room for a frame ring of .* \(No space left on device\): free"
        ):
            writer._make(100)
    assert writer.counters.left_out == 1
    assert {path.name for path in writer.folder.iterdir()} <= {"lock", "manifest.json"}, "nothing half made is left"
    show(writer, 1)


def test_a_ring_takes_no_more_than_its_share_of_what_is_free(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RING_SHARE_OF_FREE", 1e-12)
    writer = write()
    assert not writer.publish(grey(1), Hud())
    assert writer.counters.left_out == 1


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        EnvironmentProblem, match=r"no frame ring can be made in .*: Not a directory: name another folder"
    ):
        RingWriter(NAME, base=tmp_path / "file")


def test_a_writer_that_cannot_be_made_leaves_its_folder_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    open_before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as broken:
        broken.setattr(places, "write_manifest", refuse)
        with pytest.raises(EnvironmentProblem, match="Too many open files"):
            RingWriter(NAME, base=tmp_path)
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= open_before, "nothing of it is open")
    assert write().folder.name == next(places.folder_names(NAME))


def test_a_bell_for_which_no_file_can_be_opened_is_counted_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert (bell := reader.bell())
    with monkeypatch.context() as broken:
        broken.setattr(socket, "socket", refuse)
        wait_for(lambda: not writer.wanted and writer.counters.bell_errors > 0, "the writer has tried it")
        assert writer.publish(grey(2), Hud(step=2))
    wait_for(lambda: writer.wanted, "the writer has tried it again")
    show(writer, 3)
    assert bell.drain() == 1
    reader.close()


def test_another_users_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    writer = write()
    show(writer, 1)
    (path,) = writer.folder.glob("ring.*")
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    folder = runtime_folder(tmp_path)
    folder.mkdir()
    assert discover(tmp_path) == []
    assert collect_garbage(tmp_path, grace_s=-1) == []
    with pytest.raises(EnvironmentProblem, match="belongs to another user"):
        RingWriter(NAME, base=tmp_path)
    with pytest.raises(WireError, match="belongs to another user"):
        RingFile.open(path)


def test_a_file_that_lost_its_name_is_made_anew_and_numbered_on(
    write: Write, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("telefabric.ring"), "filters", [])  # another test may just have warned of it
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert reader.latest()
    for path in writer.folder.iterdir():
        if path.name != "lock":
            path.unlink()
    show(writer, 2)
    assert (frame := reader.latest())
    assert frame.number == 2, "whoever has the file reads on"
    writer.beat()
    assert log_thread.settle(10)
    assert "fastlane.unlinked" in caplog.text
    assert "enable-linger" in caplog.text
    show(writer, 3)
    late = RingReader(writer.folder)
    assert (frame := late.latest())
    assert frame.number == 3
    assert (frame := wait_for(reader.latest, "it goes on in the new file")).number == 3
    assert (reader.counters.received, reader.counters.skipped) == (3, 0)
    reader.close()
    late.close()


WRITER = """
import sys, numpy, pathlib
from telefabric.ring import Hud, Name, RingWriter
writer = RingWriter(Name("run", "agent", "worker"), base=pathlib.Path(sys.argv[1]))
writer.publish(numpy.zeros((2, 2, 3), numpy.uint8), Hud())
print(writer.folder.name, flush=True)
sys.stdin.read()
"""


def test_a_folder_that_another_writer_has_by_now_is_left_to_it(tmp_path: Path, write: Write) -> None:
    writer = write()
    show(writer, 1)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with writer._guard:  # no heartbeat in between
        shutil.rmtree(writer.folder)
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline().strip() == writer.folder.name
    with other:
        writer.beat()
        show(writer, 2)
        (found,) = discover(tmp_path)
        assert found.manifest.pid == other.pid
        other.communicate("")
    writer.beat()
    (found,) = discover(tmp_path)
    assert found.manifest.pid == os.getpid(), "it is nobody's again"


def test_a_lock_that_cannot_be_taken_again_is_let_go_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    writer = write()
    show(writer, 1)
    with writer._guard:  # no heartbeat in between
        shutil.rmtree(writer.folder)
    with monkeypatch.context() as full:
        full.setattr(FileLock, "take", refuse)
        writer.beat()
    with tempfile.TemporaryFile() as file:  # it may have the descriptor that the lock had
        with writer._guard:
            shutil.rmtree(writer.folder)
        writer.beat()
        file.write(b"still open")
        file.flush()
    assert discover(writer.folder.parent.parent)


def test_a_file_whose_manifest_cannot_be_written_leaves_no_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = write()
    with monkeypatch.context() as full:
        full.setattr(places, "write_manifest", refuse)
        assert not writer.publish(np.zeros((2, 2, 3), np.uint8), Hud())
    assert not list(writer.folder.glob("ring.*"))
    assert writer.counters.generations == 0
    show(writer, 1)


@pytest.mark.parametrize("size", [0, 100, layout.PAGE, layout.PAGE + 9_000])
def test_a_file_that_is_cut_off_under_its_reader_is_no_signal(write: Write, size: int) -> None:
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert reader.latest()
    show(writer, 2)
    (path,) = writer.folder.glob("ring.*")

    def child() -> None:
        os.truncate(path, size)
        assert (reader.latest(), reader.next(), reader.lag, reader.state) == (None, None, 0, "absent")

    with writer._guard:  # else its heartbeat would notice that its file is gone, and make another
        copy = path.read_bytes()
        path.with_name("copy").write_bytes(copy)
        os.replace(path.with_name("copy"), path)  # the writer's own file stays whole
        reader.close()
        reader = RingReader(writer.folder)
        assert reader.latest()
        assert in_child(child) == 0
        reader.close()


def test_a_reader_of_a_head_that_cannot_be_goes_on_with_the_next_writer(write: Write) -> None:
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert reader.latest()
    assert writer._segment is not None
    writer._segment.words[layout.HEAD // 8] = 2**63
    assert (reader.latest(), reader.lag) == (None, 0)
    writer.close()
    again = write()
    show(again, 7)
    assert wait_for(reader.latest, "the next writer's frame").hud.step == 7
    assert (reader.counters.received, reader.counters.skipped) == (2, 0)
    reader.close()


def test_a_folder_that_was_removed_is_its_writers_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("telefabric.ring"), "filters", [])
    writer = write()
    show(writer, 1)
    with writer._guard:  # else its heartbeat may write into the folder that is being removed
        shutil.rmtree(writer.folder)
    writer.beat()

    def child() -> None:
        other = RingWriter(NAME, base=writer.folder.parent.parent)
        assert other.folder != writer.folder

    assert in_child(child) == 0
    show(writer, 2)
    reader = RingReader(writer.folder)
    assert reader.latest()
    reader.close()


def test_what_the_heartbeat_tells(write: Write) -> None:
    writer = write()
    show(writer, 1)
    told = wait_for(lambda: _stats(writer.folder), "the counters are told")
    assert told.pop("time_ns") > 0
    assert told.pop("frames_per_s") > 0
    assert (
        told
        == writer.counters._asdict()
        == {"published": 1, "rate_limited": 0, "left_out": 0, "generations": 1, "bell_errors": 0}
    )
    before = writer._segment.words[layout.HEARTBEAT // 8]  # type: ignore[union-attr]
    wait_for(lambda: writer._segment.words[layout.HEARTBEAT // 8] > before, "the heart beats")  # type: ignore[union-attr]


def test_figures_of_rings_and_readers_are_those_of_who_uses_them(tmp_path: Path, write: Write) -> None:
    def told(name: str) -> dict:
        return dict(metrics.figures(tmp_path)["telefabric_ring_" + name])

    assert {family.name for family in metrics.FAMILIES} == metrics.figures(tmp_path).keys()
    one, other = write(), write(Name("run", "other", "worker"))
    write(Name("run", "third", "worker"))
    reader = RingReader(one.folder)
    show(one, 1)
    show(other, 1)
    assert reader.latest()
    for number in range(2, 8):
        show(one, number)
    assert reader.next()
    assert told("rings") == {("live",): 2, ("absent",): 1}

    def settled() -> bool:
        reader.state  # noqa: B018  (it tells once a second while it is used)
        return told("published_frames") == {(): 8} and told("readers") == {(): 1}

    wait_for(settled, "both have told")
    counters, writers = reader.counters, (one.counters, other.counters)
    assert told("generations") == {(): sum(counted.generations for counted in writers)}
    for name in ("received", "skipped"):
        assert told(f"reader_{name}_frames") == {(): getattr(counters, name)}
    assert (told("reader_generations"), told("reader_retries")) == ({(): 1}, {(): 0})
    assert told("reader_lag_largest_frames") == {(): reader.lag} != {(): 0}
    reader.close()
    assert told("readers") == {(): 0}
    (one.folder / places.STATS).write_bytes(b"{\xff")
    assert told("published_frames") == {(): 1}, "what cannot be read is left out"


def test_a_reader_that_always_finds_a_frame_tells_its_figures_too(write: Write) -> None:
    writer = write()
    show(writer, 1)
    reader = RingReader(writer.folder)
    assert reader.latest()
    assert not list((writer.folder / places.READERS).glob("*.json"))
    monotonic_ns, reader._told_ns = time.monotonic_ns(), 0
    show(writer, 2)
    assert reader.latest()
    (told,) = (writer.folder / places.READERS).glob("*.json")
    assert (json.loads(told.read_text())["read_to"], reader._told_ns >= monotonic_ns) == (2, True)
    reader.close()


def _stats(folder: Path) -> dict | None:
    path = folder / places.STATS
    return json.loads(path.read_text()) if path.exists() else None


def test_the_janitor_clears_what_the_dead_left_and_nothing_else(tmp_path: Path, write: Write) -> None:
    assert in_child(dies_at(tmp_path, "begin", 5)) == -signal.SIGKILL
    (dead,) = places.ring_folders(tmp_path)
    size = sum(path.stat().st_size for path in dead.glob("ring.*"))
    alive = write(Name("run", "other", "worker"))
    show(alive, 1)
    strange = dead.with_name("strange")
    strange.mkdir()
    (strange / "thesis.txt").touch()
    assert collect_garbage(tmp_path) == [], "its last frame may be looked at for a while"
    assert collect_garbage(tmp_path, grace_s=0) == [(dead, size)]
    assert not dead.exists()
    assert (strange / "thesis.txt").exists()
    assert [one.state for one in discover(tmp_path)] == ["live"]


# -- bytes from outside ------------------------------------------------------------------------------------------
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_ring_that_was_tampered_with_is_refused_or_read_within_its_bounds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes changed, words of lies, the file cut: no exception, no signal, no frame that was not published."""
    folder = tmp_path_factory.mktemp("ring")
    writer = RingWriter(NAME, base=folder, fps_max=EVERYTHING, checksum=True)
    show(writer, 1)
    show(writer, 2)
    (path,) = writer.folder.glob("ring.*")
    writer.close()
    sound = path.read_bytes()
    slot = layout.PAGE + layout.stride_of(30)
    places_of_interest = [*range(0, 256, 4), 0x100, 0x180, 0x200, 0x280, *range(slot, slot + 160, 4)]
    changed = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places_of_interest) | st.integers(0, len(sound) - 8))
        changed[at : at + 8] = data.draw(
            st.sampled_from([struct.pack("<Q", value) for value in (0, 1, 2, 3, 2**31, 2**63, 2**64 - 1)])
            | st.binary(min_size=8, max_size=8)
        )
    cut = data.draw(st.integers(0, len(sound)) | st.just(len(sound)))
    path.write_bytes(changed[:cut])
    reader = RingReader(writer.folder)
    for read in (reader.latest, reader.next, reader.latest):
        frame = read()
        if frame is not None:
            assert frame.array.shape == (6, 5, 1)
            assert frame.array.min() == frame.array.max() in (1, 2)
            assert frame.hud == Hud(step=int(frame.array.max()))
    assert reader.state in ("live", "stalled", "closed", "died", "absent")
    reader.close()


@settings(max_examples=60, deadline=None)
@given(
    text=st.binary(max_size=300)
    | st.builds(
        lambda **fields: json.dumps(fields).encode(),
        format=st.sampled_from([places.FORMAT, "x", 1]),
        name=st.sampled_from([{"run_id": "r", "agent_id": "a", "worker_id": "w"}, {}, None]),
        generation=st.sampled_from([0, -1, 2**64, 2**63, "../../x", None, "", "-1", "0" * 17 + "1", "f" * 17]),
        slots=st.integers(), capacity=st.integers(), fps_max=st.floats(), pid=st.integers(), host=st.text(),
        created_ns=st.integers(),
    )
)  # fmt: skip
def test_a_manifest_that_lies_leads_nowhere(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    base = tmp_path_factory.mktemp("ring")
    folder = runtime_folder(base) / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / places.MANIFEST).write_bytes(text)
    reader = RingReader(folder)
    assert (reader.latest(), reader.state) == (None, "absent")
    assert all(one.state == "absent" for one in discover(base))


def test_the_manifest_names_its_file_in_text_and_a_number_is_read_too(write: Write) -> None:
    """JavaScript and jq round integers over 2**53, and then no file has that name."""
    writer = write()
    show(writer, 1)
    (path,) = writer.folder.glob("ring.*")
    told = json.loads((writer.folder / places.MANIFEST).read_text())
    assert path.name == "ring." + told["generation"]
    found = places.read_manifest(writer.folder)
    places.write_json(writer.folder / places.MANIFEST, {**told, "generation": int(told["generation"], 16)})
    assert places.read_manifest(writer.folder) == found
    assert found is not None
    assert found.file_name == path.name


@requires("a checkout, with its documentation", SPEC.exists())
def test_the_page_names_what_the_json_files_hold(write: Write) -> None:
    writer = write()
    show(writer, 1)
    told = wait_for(lambda: _stats(writer.folder), "the counters are told")
    reader = RingReader(writer.folder)
    reader.latest()
    wait_for(lambda: reader.latest() or list((writer.folder / places.READERS).glob("*.json")), "it tells its own")
    (by_reader,) = (writer.folder / places.READERS).glob("*.json")
    manifest = json.loads((writer.folder / places.MANIFEST).read_text())
    for heading, held in (
        ("manifest.json", manifest),
        ("stats.json", told),
        ("reader", json.loads(by_reader.read_text())),
    ):
        page = SPEC.read_text("utf-8").partition(f"### `{heading}")[2].partition("\n#")[0]
        named = [line.split("|")[1].strip().strip("`") for line in page.splitlines() if line.startswith("| `")]
        assert named == list(held), heading
    reader.close()


def test_a_ring_of_another_layout_says_so(write: Write) -> None:
    writer = write()
    show(writer, 1)
    (path,) = writer.folder.glob("ring.*")
    start = bytearray(path.read_bytes()[: layout.SUPERBLOCK_BYTES])
    start[8] = layout.MAJOR + 1
    with pytest.raises(WireError, match="the ring has layout 2, this program reads 1: install one version"):
        layout.parse_superblock(bytes(start), path.stat().st_size)


def test_numbers_of_slots_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a ring of 1 slots: from 2 to 64 work"):
        RingWriter(NAME, base=tmp_path, slots=1)


def test_no_word_that_others_poll_is_packed() -> None:
    """`struct.pack_into` zeroes its record first: only whole headers are packed, and laid down as slices."""
    for module in (layout, ring_file):
        assert "pack_into" not in Path(module.__file__).read_text().replace("`struct.pack_into`", "")
