"""MP4: an episode's stored frames as a video."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from telefabric.errors import EnvironmentProblem, UsageError
from telefabric.store.read.query import Page, StepKey, StoredEvent
from telefabric.store.read.reader import Reader
from telefabric_schemas import EXPIRED, Frame, Step
from telefabric_schemas.decoding import Decoder

if TYPE_CHECKING:
    from PIL import Image

_STRIP_PX, _TEXT_PX = 28, 15
"""Height of the strip below the picture, and of the text in it."""
_HUD_PX = 320
"""Smaller pictures are enlarged by a whole factor to at least this width, so that the text can be read."""
_INK, _GROUND = (230, 233, 238), (20, 23, 28)


class Place(NamedTuple):
    """An episode of one stream."""

    run_id: str
    agent_id: str
    env_index: int
    episode_index: int
    stream_id: bytes
    voided: bool


class Shown(NamedTuple):
    """One picture of the video."""

    step: Step
    episode_return: float
    frame: Frame
    own: bool
    """The frame belongs to this step, and is not repeated from another step."""


Seen = Callable[[Iterable[Shown], int], Iterable[Shown]]


class Video(NamedTuple):
    """What was written."""

    steps: int
    held: int
    """Steps that had no frame of their own."""


def write_video(
    reader: Reader,
    place: Place,
    path: Path,
    *,
    fps: int,
    hud: bool,
    seen: Callable[[Iterable[Shown], int], Iterable[Shown]],
) -> Video:
    """Write an episode as H.264, one picture a step; `seen` passes the pictures on, whose number it is told.

    Raises `EnvironmentProblem` when the file cannot be written, `UsageError` when no step has a frame.
    """
    count, size = measure(reader, place)
    scale = -(-_HUD_PX // size[0]) if hud else 1
    size = (scale * size[0], scale * size[1] + (_STRIP_PX if hud else 0))
    draw = partial(_picture, size=size, scale=scale, hud=hud)
    return Video(count, _write(path, seen(pictures(reader, place), count), draw, size, fps))


def only_agent(reader: Reader, run_id: str) -> str:
    """The only agent of a run. Raises `UsageError` when the run has several."""
    found: set[str] = set()
    page = reader.episodes_for_run(run_id)
    while page.rows:
        found.update(row.agent_id for row in page.rows)
        page = reader.episodes_for_run(run_id, after=page.rows[-1].key)
    agents = sorted(found or {stream.agent_id for stream in reader.streams(run_id)})
    if len(agents) != 1:
        raise UsageError(f"run {run_id} has several agents: name one with --agent: {', '.join(agents[:10])}")
    return agents[0]


def find(
    reader: Reader, episode: tuple[str, str, int, int], stream: str | None, worker_id: str | None, voided: bool
) -> tuple[Place, list[str]]:
    """The episode in the chosen stream, and a phrase for each other stream that also has it.

    Raises `UsageError` when no stream has the episode, or none with the given name.
    """
    run_id = episode[0]
    known = {each.stream_id: each for each in reader.streams(run_id)}
    chosen: list[bytes | None] = [None]
    if stream is not None or worker_id is not None:
        chosen = [
            one.stream_id
            for one in sorted(known.values(), key=lambda one: (one.attempt, one.started_ns), reverse=True)
            if one.stream_id.hex().startswith((stream or "").lower()) and worker_id in (None, one.worker_id)
        ]
    for stream_id in chosen:
        page = reader.steps_for_episode(*episode, limit=1, stream_id=stream_id, voided=voided)
        if page.rows:
            others = (known[each] for each in page.others if each in known)
            told = [f"attempt {one.attempt}, worker {one.worker_id}, --stream {one.stream_id.hex()}" for one in others]
            return Place(*episode, page.rows[0].stream_id, voided), told
    named = " in the named stream" if stream or worker_id else ""
    raise UsageError(
        f"{reader.where} has no steps of {_named(*episode)}{named}: telefabric dump --run {run_id} --kind episode"
    )


def _named(run_id: str, agent_id: str, env_index: int, episode: int) -> str:
    return f"episode {episode} of agent {agent_id} (environment {env_index}) of run {run_id}"


def measure(reader: Reader, place: Place) -> tuple[int, tuple[int, int]]:
    """The number of steps, and the sides of the largest frame, rounded up to even numbers for the codec.

    Raises `UsageError` when no step has a frame.
    """
    count = sum(1 for _ in _each(reader.steps_for_episode, place))
    sides = [(frame.width, frame.height) for frame in _frames(reader, place)]
    if not sides:
        raise UsageError(
            f"no frames of {_named(*place[:4])} are stored, or they have expired: let the worker store them next time, "
            "for example with connect(store_frames='episodes:10')"
        )
    width, height = map(max, zip(*sides, strict=True))
    return count, (width + width % 2, height + height % 2)


def pictures(reader: Reader, place: Place) -> Iterator[Shown]:
    """One picture for each stored step; steps before the first frame show the first frame."""
    frames = _frames(reader, place)
    following: Frame | None = next(frames)
    held = following
    total = 0.0
    for step in _each(reader.steps_for_episode, place):
        while following is not None and following.step_index <= step.step_index:
            held, following = following, next(frames, None)
        total += step.reward or 0.0
        assert held is not None
        yield Shown(step, total, held, held.step_index == step.step_index)


def _frames(reader: Reader, place: Place) -> Iterator[Frame]:
    """The frames whose pictures the store still has."""
    return (frame for frame in _each(reader.frames_for_episode, place) if frame.encoding != EXPIRED)


def _each(read: Callable[..., Page[StoredEvent]], place: Place) -> Iterator[Any]:
    """The steps or frames of an episode, in order. When a step has two, the later one."""
    after: StepKey | None = None
    last: Any = None
    more = True
    while more:
        page = read(*place[:4], after=after, stream_id=place.stream_id, voided=place.voided)
        for row in page.rows:
            event = _decoder.decode(row.event)
            if last is not None and last.step_index != event.step_index:
                yield last
            last, after = event, StepKey(event.step_index, row.id)
        more = page.more
    if last is not None:
        yield last


def _write(
    path: Path, shown: Iterable[Shown], draw: Callable[[Shown], Image.Image], size: tuple[int, int], fps: int
) -> int:
    """Write the video. Returns how many steps had no frame of their own."""
    try:
        import av
        import PIL  # noqa: F401
    except ImportError:
        raise EnvironmentProblem("telefabric export mp4 needs: pip install 'telefabric[video]'") from None
    held = 0
    making = path.with_name(f".{path.name}.{os.getpid()}")  # an older file stays until the new one is complete
    try:
        with av.open(str(making), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps))
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for one in shown:
                held += not one.own
                picture = av.VideoFrame.from_image(draw(one))  # type: ignore[no-untyped-call]
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        os.replace(making, path)
    except (OSError, av.error.FFmpegError) as error:
        raise EnvironmentProblem(f"{path} cannot be written: {error}: choose another folder or name") from None
    finally:
        making.unlink(missing_ok=True)
    return held


def _picture(shown: Shown, *, size: tuple[int, int], scale: int, hud: bool) -> Image.Image:
    """The frame in the middle of a picture of the largest frame's size, with the strip below it."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", size, _GROUND)
    room = size[1] - (_STRIP_PX if hud else 0)
    frame = _decoded(shown.frame)
    if scale > 1:
        frame = frame.resize((scale * frame.width, scale * frame.height), Image.Resampling.NEAREST)
    canvas.paste(frame, ((size[0] - frame.width) // 2, (room - frame.height) // 2))
    if hud:
        step = shown.step
        text = (
            f"episode {step.episode_index}  step {step.step_index}  reward {step.reward or 0.0:.2f}"
            f"  return {shown.episode_return:.2f}{'' if shown.own else '  (held)'}"
        )
        pixels = next((n for n in range(_TEXT_PX, 6, -1) if _font(n).getlength(text) <= size[0] - 12), 6)
        at = (6, room + (_STRIP_PX - pixels) // 2 - 1)
        ImageDraw.Draw(canvas).text(at, text, _INK, _font(pixels))
    return canvas


@lru_cache
def _font(pixels: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(pixels)


def _decoded(frame: Frame) -> Image.Image:
    """Raises `UsageError` for a picture that cannot be read."""
    from PIL import Image

    try:
        if frame.encoding == "raw":
            return Image.frombytes("RGB", (frame.width, frame.height), frame.data)
        return Image.open(io.BytesIO(frame.data)).convert("RGB")
    except (OSError, ValueError) as error:
        raise UsageError(f"the stored frame of step {frame.step_index} cannot be read: {error}") from None


_decoder: Decoder[Step | Frame] = Decoder(Step | Frame)
