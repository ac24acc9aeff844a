"""The ring in the window: every frame as it comes, with its own figures; tiles in order; a dead writer's last frame."""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import wait_for
from skips import requires
from store_fixtures import step
from test_gui_feed import ScriptedFeed, told

from telefabric.feed import Failures
from telefabric.ring import Hud, Name, PixelFormat, RingWriter

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
THERE = all(importlib.util.find_spec(name) for name in ("PySide6", "pyqtgraph"))
pytestmark = [
    requires("PySide6 and pyqtgraph", THERE),
    pytest.mark.qt_log_ignore("This plugin does not support propagateSizeHints"),  # said by the offscreen platform
]
if THERE:
    from PySide6.QtCore import QCoreApplication, QObject, QPoint, QPointF, Qt
    from PySide6.QtGui import QImage
    from PySide6.QtTest import QTest

    from telefabric_gui import theme
    from telefabric_gui.agent_stream import AgentKey, AgentStream
    from telefabric_gui.model.charting import Charting
    from telefabric_gui.views import frames
    from telefabric_gui.views.isolation import Views
    from telefabric_gui.views.page import AgentPage

NAME = Name("run", "agent_0", "worker")


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="tf-") as folder:
        monkeypatch.setenv("TELEFABRIC_RING", folder)
        yield


@pytest.fixture
def writer() -> Iterator[RingWriter]:
    made = RingWriter(NAME, fps_max=1e9)
    yield made
    made.close()


@pytest.fixture
def page(qtbot: Any, qapp: Any) -> Iterator[AgentPage]:
    """In sight, following one step."""
    theme.use(qapp, "dark")
    stream = AgentStream(AgentKey("run", "agent_0"))
    stream.pending.append(told(step(1)))
    stream.apply()
    charting = Charting(ScriptedFeed(), lambda run_id, agent_id: (stream, True), "", QObject(qapp))
    shown = AgentPage(stream, Views(Failures()), charting, ScriptedFeed())
    qtbot.addWidget(shown)
    shown.resize(1000, 700)
    shown.show()
    qtbot.waitExposed(shown)
    shown.refresh(None)
    yield shown
    shown.hide()


def until(look: Callable[[], Any], what: str) -> Any:
    def turn() -> Any:
        QCoreApplication.processEvents()
        return look()

    return wait_for(turn, what)


def grey(value: int) -> np.ndarray:
    return np.full((24, 32), value, np.uint8)


def shown_value(page: AgentPage) -> int:
    """Of a grey frame that is in sight."""
    image = page.environment.picture()
    return image.pixelColor(image.width() // 2, image.height() // 2).red()


def texts(page: AgentPage) -> tuple[str, str]:
    page.refresh(None)
    return page.environment_card.path.text(), page.environment_card.lane_badge.text()


def test_a_frame_is_shown_when_the_writer_rings_with_its_own_figures(page: AgentPage, writer: RingWriter) -> None:
    until(lambda: writer.wanted, "the page waits at the bell")
    for number in range(1, 20):
        writer.publish(grey(number), Hud(0, 3, number, 0.5, 7.25, 60.0, {"loss": 0.125}))
        until(lambda number=number: page.lane.frame and page.lane.frame.hud.step == number, "it comes")
        assert shown_value(page) == number
    figures = dict(page.environment._figures)
    assert figures == {
        "reward": "0.50", "return": "7.25", "episode": "3", "step": "19", "steps/s": "60", "loss": "0.12"
    }  # fmt: skip
    assert texts(page)[0] == "fast lane"
    assert page.frame_age_s is not None
    assert page.frame_age_s < 10
    assert page.lane.skipped == 0


def test_what_comes_faster_than_it_is_shown_is_skipped_and_the_newest_stays(
    page: AgentPage, writer: RingWriter
) -> None:
    until(lambda: writer.wanted, "the page waits at the bell")
    writer.publish(grey(0), Hud())
    until(lambda: page.lane.frame, "the first")
    for number in range(1, 200):
        writer.publish(grey(number), Hud(step=number))
    until(lambda: page.lane.frame and page.lane.frame.number == 200, "the newest")
    assert shown_value(page) == 199
    assert page.lane.skipped > 100


def test_a_page_out_of_sight_waits_for_nothing(page: AgentPage, writer: RingWriter) -> None:
    until(lambda: writer.wanted, "the page waits at the bell")
    page.hide()
    until(lambda: not writer.wanted, "it is gone")
    page.show()
    until(lambda: writer.wanted, "and back")


def test_a_paused_page_and_a_chosen_step_show_their_own(page: AgentPage, writer: RingWriter) -> None:
    until(lambda: writer.wanted, "the page waits at the bell")
    writer.publish(grey(1), Hud())
    until(lambda: page.lane.frame, "a frame")
    page.refresh(None)
    page.time.cursor.pause()
    page.refresh(None)
    writer.publish(grey(2), Hud())
    until(lambda: page.lane.frame and page.lane.frame.number == 2, "it comes")
    page.refresh(None)
    assert shown_value(page) == 1, "what was in sight stays"
    assert page.environment_card.path.text() == "fast lane"
    QTest.mouseClick(page.steps.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(20, 10))
    page.refresh(None)
    assert not isinstance(page.environment.scene, frames.PictureScene), "that step has no frame"
    page.follow()
    page.refresh(None)
    writer.publish(grey(3), Hud())
    until(lambda: page.lane.frame and page.lane.frame.number == 3, "it goes on")
    assert shown_value(page) == 3


@pytest.mark.parametrize(("how", "said"), [("closed", "The worker has ended."), ("died", "The worker died.")])
def test_the_last_frame_of_a_writer_that_has_gone_is_greyed_and_said(page: AgentPage, how: str, said: str) -> None:
    pid = os.fork()
    if pid == 0:
        writer = RingWriter(NAME, fps_max=1e9)
        writer.publish(grey(200), Hud())
        if how == "died":
            os.kill(os.getpid(), signal.SIGKILL)
        writer.close()
        os._exit(0)
    os.waitpid(pid, 0)
    until(lambda: page.lane.state == how, "it is seen")
    page.refresh(None)
    assert isinstance(page.environment.scene, frames.GoneScene)
    assert page.environment.scene.words.startswith(said)
    assert texts(page) == ("fast lane", how)
    later = RingWriter(NAME, fps_max=1e9)
    later.publish(grey(50), Hud())
    until(lambda: page.lane.state == "live" and shown_value(page) == 50, "the next worker of this name is shown")
    later.close()


FORMATS = {
    PixelFormat.RGB8: ((200, 100, 50), np.uint8, (200, 100, 50)),
    PixelFormat.BGR8: ((50, 100, 200), np.uint8, (200, 100, 50)),
    PixelFormat.RGBA8: ((200, 100, 50, 255), np.uint8, (200, 100, 50)), PixelFormat.GRAY8: ((90,), np.uint8, (90,) * 3),
    PixelFormat.GRAY16: ((90 * 257,), np.uint16, (90,) * 3), PixelFormat.DEPTH: ((1.5,), np.float32, (255,) * 3),
}  # fmt: skip


@pytest.mark.parametrize("pixels", FORMATS, ids=lambda one: one.name)
@pytest.mark.parametrize("width", [1, 3, 64])
def test_every_format_comes_out_in_its_colours_at_odd_widths(qapp: Any, pixels: PixelFormat, width: int) -> None:
    given, dtype, seen = FORMATS[pixels]
    array = np.empty((5, width, len(given)), dtype)
    array[:] = given
    image = frames.image_of(array, pixels).convertToFormat(QImage.Format.Format_RGB32)
    assert image.pixelColor(width - 1, 4).getRgb()[:3] == seen


def test_zoom_keeps_what_is_under_the_pointer_and_never_leaves_the_picture(page: AgentPage, writer: RingWriter) -> None:
    view = page.environment
    at = QPointF(view._area.left() + 10, view._area.top() + 10)
    view.zoom_to(4.0, at)
    assert view.zoom == 4.0
    middle = view._area.center()
    back = (at - middle - view._shift) / view.zoom + middle
    assert (back - at).manhattanLength() < 1e-6
    view.zoom_to(1_000.0)
    assert view.zoom == 32.0
    view.zoom_to(0.1)
    assert (view.zoom, view._shift) == (1.0, QPointF())


def test_the_picture_is_saved_with_the_pixels_that_it_has(
    page: AgentPage, writer: RingWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telefabric_gui.views import environment_card

    until(lambda: writer.wanted, "the page waits at the bell")
    writer.publish(grey(77), Hud())
    until(lambda: page.lane.frame, "a frame")
    path = str(tmp_path / "picture.png")
    monkeypatch.setattr(environment_card.QFileDialog, "getSaveFileName", lambda *_: (path, ""))
    page.environment_card._ask_where(page.environment.picture())
    saved = QImage(path)
    assert (saved.width(), saved.height(), saved.pixelColor(3, 3).red()) == (32, 24, 77)
    path = str(tmp_path / "nowhere" / "picture.png")
    page.environment_card._ask_where(page.environment.picture())
    page.refresh(None)
    assert "could not be saved" in page.banner._text.text(), "also after the next tick"
