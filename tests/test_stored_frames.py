"""Frames in the store: which ones, under which steps, and how replay finds them."""

from __future__ import annotations

import importlib.util
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import FabricService
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import wait_for
from skips import requires
from slowness import patience
from store_fixtures import Scribe, query_behind_broker, stream

from telefabric.address import Address
from telefabric.errors import UsageError
from telefabric.feed import Answer, FrameAt
from telefabric.feed.broker_feed import BrokerFeed
from telefabric.feed.file_feed import FileFeed
from telefabric.feed.interface import FeedEvent
from telefabric.ring import PixelFormat, RingReader, rings_of
from telefabric.store.read.file_reader import FileReader
from telefabric.store.read.query import StepKey
from telefabric_schemas import EXPIRED, Frame
from telefabric_workers import Worker, connect
from telefabric_workers.environment import FrameSettings
from telefabric_workers.frames import Moment, StoredFrames
from telefabric_workers.frames import stored as storedframes

pytestmark = requires("simplejpeg, of the extra frames", importlib.util.find_spec("simplejpeg") is not None)


def rule(stored: str, every: int = 1) -> StoredFrames:
    return StoredFrames(FrameSettings("grid", 16, 60, 20, 85, stored, every), bytes(range(16)))


def grey(value: int) -> np.ndarray[Any, Any]:
    return np.full((8, 8), value, np.uint8)


def play(found: StoredFrames, episodes: list[list[float]], *, env: int = 0) -> list[tuple[int, int]]:
    """The (episode, step) of all frames that are stored, for the rewards of each episode's steps."""
    kept = []
    for episode, rewards in enumerate(episodes):
        for step, reward in enumerate(rewards):
            moment = Moment("ada", env, episode, step, reward, step == len(rewards) - 1)
            frame = found.encode(moment, grey(step)) if found.wants(moment) else None
            kept += [(one.episode_index, one.step_index) for one in found.stepped(moment, frame)]
    return kept


# -- the rule ----------------------------------------------------------------------------------------------------
def test_every_nth_step_and_every_nth_episode() -> None:
    episodes = [[1.0] * 5] * 4
    assert play(rule("steps", 2), episodes) == [(e, s) for e in range(4) for s in (0, 2, 4)]
    assert play(rule("episodes", 3), episodes) == [(e, s) for e in (0, 3) for s in range(5)]
    assert not rule("off").on


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=6), max_size=8))
def test_the_episodes_that_are_better_than_all_before(episodes: list[list[float]]) -> None:
    best = [at for at, one in enumerate(episodes) if all(sum(one) > sum(other) for other in episodes[:at])]
    assert play(rule("best"), episodes) == [(at, step) for at in best for step in range(len(episodes[at]))]


def test_an_episode_that_ends_without_a_word_counts_for_nothing() -> None:
    found = rule("best")
    for episode, ends in ((0, False), (1, True)):
        moment = Moment("ada", 0, episode, 0, 1.0, ends)
        assert found.wants(moment)
        kept = found.stepped(moment, found.encode(moment, grey(1)))
    assert [one.episode_index for one in kept] == [1]


def test_the_return_is_that_of_all_steps_and_the_last_one_may_have_no_frame(fabric_service: FabricService) -> None:
    with fabric_service.connect(run="run", store_frames="best") as worker:
        for episode, rewards in enumerate(([10.0, 0.0], [1.0, 1.0], [11.0, 0.0])):
            for step, reward in enumerate(rewards):
                shot = grey(1) if (episode, step) != (0, 0) and (episode, step) != (2, 1) else None
                worker.step(episode=episode, step=step, reward=reward, terminated=step == 1, frame=shot)
        assert worker.flush(patience(20))
    assert fabric_service.rows("SELECT episode_index, step_index FROM frames") == [(0, 1), (2, 0)]


@pytest.mark.parametrize("video", ["off", "single"])
def test_frames_are_stored_whether_or_not_they_are_shown(fabric_service: FabricService, video: str) -> None:
    with fabric_service.connect(run="run", store_frames="steps:2", video=video) as worker:
        for step in range(4):
            worker.step(episode=0, step=step, frame=grey(step))
        assert worker.flush(patience(20))
    assert fabric_service.rows("SELECT step_index FROM frames") == [(0,), (2,)]


def test_what_jpeg_cannot_take_is_shown_all_the_same(fabric_service: FabricService, ring_folder: str) -> None:
    with fabric_service.connect(run="rgba", store_frames="steps:1") as worker:
        worker.step(episode=0, step=0, frame=np.zeros((4, 4, 4), np.uint8))
        assert worker.problems == {"step.frame": 1}
        (folder,) = rings_of("rgba", "agent_0")
        reader = RingReader(folder)
        frame = reader.latest()
        assert frame is not None
        assert frame.pixels == PixelFormat.RGBA8
        reader.close()


def test_several_threads_may_store_frames_of_one_environment(fabric_service: FabricService) -> None:
    with fabric_service.connect(run="run", store_frames="best") as worker:

        def train() -> None:
            for step in range(200):
                worker.step(episode=step // 20, step=step % 20, terminated=step % 20 == 19, frame=grey(1))

        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(train) for _ in range(4)]:
                done.result()
        assert worker.flush(patience(20))
        assert not worker.problems
    assert fabric_service.rows("SELECT count(*) FROM steps") == [(800,)]


def test_a_long_episode_is_kept_more_thinly(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(rule("best").encode(Moment("ada", 0, 0, 0, 0, False), grey(0)).data)
    monkeypatch.setattr(storedframes, "BYTES_MAX", 10 * size)
    best = rule("best")
    kept = [step for _, step in play(best, [[1.0] * 100])]
    assert 5 <= len(kept) <= 10
    assert kept == list(range(0, 100, kept[1]))
    taken = len(kept) + best.thinned
    assert 10 < taken < 100, "every frame that was taken is stored or counted"


def test_all_environments_together_keep_no_more_than_one_may(monkeypatch: pytest.MonkeyPatch) -> None:
    best = rule("best")
    size = len(best.encode(Moment("ada", 0, 0, 0, 0, False), grey(0)).data)
    monkeypatch.setattr(storedframes, "BYTES_MAX", 10 * size)
    taken = 0
    for step in range(60):
        for env in range(4):
            moment = Moment("ada", env, 0, step, 1.0, False)
            frame = best.encode(moment, grey(0)) if best.wants(moment) else None
            taken += frame is not None
            best.stepped(moment, frame)
            assert sum(one.bytes for one in best._episodes.values()) <= 11 * size
    assert taken == best.thinned + sum(len(one.frames) for one in best._episodes.values())


def test_a_worker_counts_and_tells_of_what_it_thinned(
    fabric_service: FabricService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storedframes, "BYTES_MAX", 1_000)
    with fabric_service.connect(run="run", store_frames="best") as worker:
        for step in range(40):
            worker.step(episode=0, step=step, terminated=step == 39, frame=grey(step))
        assert worker.flush(patience(20))
        thinned = worker.problems["frame.thinned"]
    (kept,) = fabric_service.rows("SELECT count(*) FROM frames")[0]
    assert kept
    assert 0 < thinned <= 40 - kept
    assert "worker.frames_thinned" in caplog.text


@pytest.mark.parametrize("text", ["steps", "steps:0", "steps:-1", "best:2", "all", "episodes:x", ""])
def test_a_rule_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="should be off, best, steps:N or episodes:N"):
        connect(store_frames=text)


# -- through the fabric ------------------------------------------------------------------------------------------
def run(worker: Worker, steps: int) -> None:
    for episode in range(2):
        for step in range(steps):
            ends = step == steps - 1
            worker.step(
                episode=episode, step=step, reward=1.0, terminated=ends, frame=lambda step=step: grey(10 * step)
            )


def test_the_step_names_its_frame_and_replay_finds_it(fabric_service: FabricService) -> None:
    with fabric_service.connect(run="run", agent="ada", store_frames="steps:4") as worker:
        run(worker, 10)
        assert worker.flush(patience(20))
        assert not worker.problems
    with FileReader(fabric_service.file) as reader:
        steps = reader.events(kinds=["step"], run_id="run").rows
        named = {one.frame_ref: one for one in map(decoded, steps) if one.frame_ref}
        assert [(one.episode_index, one.step_index) for one in named.values()] == [
            (e, s) for e in (0, 1) for s in (0, 4, 8)
        ]
        for ref, step in named.items():
            found = reader.frame("run", ref)
            assert found is not None
            frame = decoded(found)
            assert (frame.episode_index, frame.step_index) == (step.episode_index, step.step_index)
            assert abs(level(frame) - 10 * step.step_index) <= 2
            assert reader.frame_at("run", "ada", 0, frame.episode_index, frame.step_index) == found
    rows = fabric_service.rows("SELECT count(*), count(DISTINCT seq), count(DISTINCT frame_ref) FROM frames")
    assert rows == [(6, 6, 6)]


def test_best_episodes_are_stored_when_they_end(fabric_service: FabricService) -> None:
    with fabric_service.connect(run="run", agent="ada", store_frames="best") as worker:
        run(worker, 5)
        assert worker.flush(patience(20))
    assert fabric_service.rows("SELECT episode_index, step_index FROM frames") == [(0, step) for step in range(5)]


def test_frames_are_stored_without_being_shown(fabric_service: FabricService) -> None:
    with fabric_service.connect(run="run", mode="durable", store_frames="steps:1") as worker:
        run(worker, 2)
        assert worker.flush(patience(20))
    assert fabric_service.rows("SELECT count(*) FROM frames") == [(4,)]


def test_who_watches_is_told_of_stored_frames_and_gets_pictures_when_it_asks(fabric_service: FabricService) -> None:
    seen: list[FeedEvent] = []
    numbers = itertools.count()
    follower = BrokerFeed(Address.parse(fabric_service.url))
    follower.watch(frozenset({"run"}))
    follower.start()
    with fabric_service.connect(run="run", agent="ada", store_frames="steps:5") as worker:

        def frames(*, live_only: bool) -> list[Frame]:
            worker.step(episode=0, step=next(numbers), frame=lambda: grey(99))
            seen.extend(follower.drain().events)
            found = [one.event for one in seen if isinstance(one.event, Frame) and one.live]
            return [one for one in found if (not one.seq) is live_only]

        told = wait_for(lambda: frames(live_only=False)[3:], "stored frames are told of")
        assert all((one.encoding, one.data) == ("stored", b"") for one in told)
        assert not frames(live_only=True), "nobody asked for pictures"
        follower.want_pictures(frozenset({"other"}))
        follower.want_pictures(frozenset({"run"}))
        picture = wait_for(lambda: frames(live_only=True), "pictures come")[-1]
        assert abs(level(picture) - 99) <= 2
        follower.want_pictures(frozenset())
        feed = worker._outbox._linked.feed  # type: ignore[attr-defined]
        wait_for(lambda: not feed.pictures, "the worker hears of it")
        assert feed.watched
    follower.stop()


def test_a_picture_that_is_none_costs_no_step(fabric_service: FabricService) -> None:
    with fabric_service.connect(run="run", store_frames="steps:1") as worker:
        worker.step(episode=0, step=0, frame=lambda: 1 / 0)
        worker.step(episode=0, step=1, frame="no picture")
        worker.step(episode=0, step=2, frame=lambda: None)
        worker.step(episode=0, step=3, frame=grey(1))
        assert worker.flush(patience(20))
        assert worker.problems == {"step.frame": 3}, "the ring did not take the second either"
    assert fabric_service.rows("SELECT count(*) FROM steps") == [(4,)]
    assert fabric_service.rows("SELECT step_index FROM frames") == [(3,)]


def decoded(event: Any) -> Any:
    from telefabric_schemas import AnyEvent

    return msgspec.msgpack.decode(event.event, type=AnyEvent)


def level(frame: Frame) -> float:
    import simplejpeg

    return float(simplejpeg.decode_jpeg(frame.data, "GRAY").mean())


# -- reading -----------------------------------------------------------------------------------------------------
INFO = stream("run")


def stored(path: Path, places: list[tuple[int, int, int]]) -> None:
    with Scribe(path) as scribe:
        for seq, (env, episode, step) in enumerate(places, start=1):
            scribe.put(INFO, Frame(seq, "ada", env, episode, step, f"f{seq}", 1, 1, "raw", b"rgb", seq, seq))
        scribe.commit()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 30)), max_size=20),
    st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 30)),
)
def test_the_nearest_frame_of_the_same_episode(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int, int]], asked: tuple[int, int, int]
) -> None:
    path = tmp_path_factory.mktemp("store") / "telemetry.sqlite"
    stored(path, places)
    with FileReader(path) as reader:
        found = reader.frame_at(INFO.run_id, "ada", *asked)
        ways = [(abs(step - asked[2]), step) for *episode, step in places if tuple(episode) == asked[:2]]
        assert (None if found is None else decoded(found).step_index) == (min(ways)[1] if ways else None)


def test_a_frame_with_its_picture_is_nearer_than_any_that_expired(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite"
    with Scribe(path) as scribe:
        for seq, (episode, step, encoding) in enumerate(
            [(1, 1, "raw"), (1, 3, EXPIRED), (1, 4, EXPIRED), (1, 7, "raw"), (2, 5, EXPIRED)], start=1
        ):
            scribe.put(INFO, Frame(seq, "ada", 0, episode, step, f"f{seq}", 1, 1, encoding, b"", seq, seq))
        scribe.commit()

    def nearest(episode: int, at: int) -> int | None:
        found = reader.frame_at(INFO.run_id, "ada", 0, episode, at)
        return None if found is None else decoded(found).step_index

    with FileReader(path) as reader:
        assert [nearest(1, at) for at in range(9)] == [1, 1, 1, 1, 1, 7, 7, 7, 7]
        assert (nearest(2, 0), nearest(2, 9), nearest(3, 0)) == (5, 5, None)


def ask(feed: BrokerFeed | FileFeed, *place: int) -> Answer:
    answers: list[Answer] = []
    feed.ask(FrameAt(INFO.run_id, "ada", *place), answers.append)
    wait_for(lambda: answers, "the store answers")
    return answers[0]


def frame_of(answer: Answer) -> Frame | None:
    assert answer.page is not None, answer.problem
    return decoded(answer.page.rows[0]) if answer.page.rows else None


@pytest.mark.parametrize("of", ["file", "broker"])
def test_a_feed_finds_frames_for_its_client(tmp_path: Path, of: str) -> None:
    path = tmp_path / "telemetry.sqlite"
    stored(path, [(0, 1, 2), (0, 1, 6), (1, 1, 0)])
    with query_behind_broker(path) as address:
        feed = FileFeed(path) if of == "file" else BrokerFeed(address)
        feed.start()
        try:
            for asked, step in ((0, 2), (4, 2), (5, 6), (9, 6)):
                frame = frame_of(ask(feed, 0, 1, asked))
                assert frame is not None
                assert (frame.step_index, frame.data) == (step, b"rgb")
            assert frame_of(ask(feed, 0, 2, 0)) is None
            if of == "broker":
                assert "does not understand the question" in ask(feed, 0, 2**63, 0).problem
            assert frame_of(ask(feed, 0, 1, 2)) is not None, "and the next"
        finally:
            feed.stop()


def test_frames_of_an_episode_in_pages(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite"
    stored(path, [(0, 1, step) for step in (5, 3, 1, 4)] + [(0, 0, 2), (1, 1, 9)])
    seen: list[int] = []
    with FileReader(path) as reader:
        after = None
        while True:
            page = reader.frames_for_episode(INFO.run_id, "ada", 0, 1, after=after, limit=3)
            seen += [decoded(one).step_index for one in page.rows]
            if not page.more:
                break
            after = StepKey(seen[-1], page.rows[-1].id)
    assert seen == [1, 3, 4, 5]


def test_the_program_of_the_page_on_frames_runs(
    fabric_service: FabricService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "frames.md").read_text("utf-8")
    monkeypatch.setenv("TELEFABRIC_CONNECT", fabric_service.url)
    monkeypatch.setenv("TELEFABRIC_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("TELEFABRIC_EXIT_FLUSH_S", "30")
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert fabric_service.rows("SELECT count(*) FROM frames WHERE frame_ref <> ''") == [(1_000,)]
