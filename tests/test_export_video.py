"""`telefabric export mp4`: one picture a step, held where none was stored, with its figures, in a file that plays."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from skips import requires
from store_fixtures import Scribe, step, stream

from telefabric.cli.export import export
from telefabric.errors import TelefabricError, UsageError
from telefabric_schemas import Frame, Step

pytestmark = requires(
    "PyAV and Pillow, of the extra video", all(importlib.util.find_spec(name) for name in ("av", "PIL"))
)
INFO = stream("1")
WIDTH, HEIGHT = 33, 17


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten steps of episode 0; those with an even index have a grey frame, lighter with each."""
    path = tmp_path / "telemetry.sqlite"
    with Scribe(path) as scribe:
        seq = 0
        for index in range(10):
            seq += 1
            scribe.put(INFO, Step(seq, "ada", 0, 0, index, index, 0.5, False, False, seq, seq))
            if index % 2 == 0 and index > 0:
                seq += 1
                data = bytes([20 * index]) * (3 * WIDTH * HEIGHT)
                scribe.put(INFO, Frame(seq, "ada", 0, 0, index, f"f{seq}", WIDTH, HEIGHT, "raw", data, seq, seq))
        scribe.put(INFO, Step(seq + 1, "ada", 0, 1, 0, 10, 0.5, False, False, seq, seq))
        scribe.commit()
    return path


def frames_of(video: Path) -> list[np.ndarray[Any, Any]]:
    import av

    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def exported(file: Path, video: Path, *more: str) -> str:
    arguments = ["mp4", str(video), "--store", str(file), "--run", INFO.run_id, "--episode", "0", "--agent", "ada"]
    found = CliRunner().invoke(export, [*arguments, *more], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output.splitlines()[-1]


def test_every_step_is_a_picture_and_one_without_a_frame_holds_the_last(file: Path, tmp_path: Path) -> None:
    video = tmp_path / "out.mp4"
    said = exported(file, video, "--no-hud", "--fps", "10")
    assert said == f"Wrote {video}: 10 steps, 1.0 s. 6 of them had no frame of their own and show another's."
    found = frames_of(video)
    assert [one.shape for one in found] == [(HEIGHT + 1, WIDTH + 1, 3)] * 10, "even, as the codec wants it"
    levels = [float(one[4:12, 8:24].mean()) for one in found]
    expected = [40, 40, 40, 40, 80, 80, 120, 120, 160, 160]
    assert levels == pytest.approx(expected, abs=6)


def test_the_figures_stand_below_the_picture(file: Path, tmp_path: Path) -> None:
    plain, told = tmp_path / "plain.mp4", tmp_path / "told.mp4"
    exported(file, plain, "--no-hud")
    exported(file, told)
    without, with_hud = frames_of(plain), frames_of(told)
    assert without[0].shape == (HEIGHT + 1, WIDTH + 1, 3)
    assert with_hud[0].shape == (10 * (HEIGHT + 1) + 28, 10 * (WIDTH + 1), 3), "large enough for the text"
    strips = [one[-28:].astype(int) for one in with_hud]
    assert strips[0].max() - strips[0].min() > 100, "something is written there"
    assert np.abs(strips[0] - strips[9]).max() > 50, "and it is another thing"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--run": "nix"}, "there is no run 'nix'"), ({"--episode": "7"}, "no steps of episode 7 of agent ada"),
        ({"--episode": "1"}, "no frames of episode 1 of agent ada .*store_frames='episodes:10'"),
        ({"--agent": "bob"}, "there is no agent .bob. in run .* it has ada"),
        ({"mp4": "/nowhere/at/all.mp4"}, "/nowhere/at/all.mp4 cannot be written: .*: choose another folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(file: Path, tmp_path: Path, changed: dict[str, str], said: str) -> None:
    video = tmp_path / "out.mp4"
    given = {
        "mp4": str(video), "--store": str(file), "--run": INFO.run_id, "--episode": "0", "--agent": "ada"
    } | changed  # fmt: skip
    with pytest.raises(TelefabricError, match=said):
        CliRunner().invoke(export, [word for pair in given.items() for word in pair], catch_exceptions=False)
    assert not video.exists()


def test_the_agent_may_be_left_out_when_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite"
    with Scribe(path) as scribe:
        first = step(1)
        scribe.put(INFO, first)
        scribe.put(
            INFO, Frame(2, first.agent_id, 0, first.episode_index, first.step_index, "f", 2, 2, "raw", bytes(12), 1, 1)
        )
        scribe.commit()
    video = tmp_path / "out.mp4"
    arguments = ["--run", INFO.run_id, "--episode", str(first.episode_index)]
    done = CliRunner().invoke(export, ["mp4", str(video), "--store", str(path), *arguments], catch_exceptions=False)
    assert done.output.splitlines()[-1] == f"Wrote {video}: 1 steps, 0.0 s."
    assert len(frames_of(video)) == 1


def test_another_stream_that_has_the_episode_is_left_out_and_named(file: Path, tmp_path: Path) -> None:
    again = stream(INFO.run_id, "again", "ada", after_ns=1)
    with Scribe(file) as scribe:
        for seq in (1, 3):
            scribe.put(again, Step(seq, "ada", 0, 0, seq, seq, 0.5, False, False, seq, seq))
            picture = bytes([250]) * (3 * WIDTH * HEIGHT)
            scribe.put(again, Frame(seq + 1, "ada", 0, 0, seq, f"g{seq}", WIDTH, HEIGHT, "raw", picture, seq, seq))
        scribe.commit()
    video = tmp_path / "out.mp4"
    said = exported(file, video, "--no-hud", "--fps", "1")
    assert said == f"Wrote {video}: 2 steps, 2.0 s. Left out: attempt 1, worker worker, --stream {INFO.stream.hex()}."
    assert [round(float(one[4:12, 8:24].mean()), -1) for one in frames_of(video)] == [250, 250], "of one stream alone"
    with pytest.raises(UsageError, match="is there already"):
        exported(file, video)
    named = exported(file, video, "--no-hud", "--force", "--stream", INFO.stream.hex()[:6])
    assert named.startswith(f"Wrote {video}: 10 steps")
    assert "Left out" not in named
