"""Signal handlers that use a worker while their own thread holds one of our locks: they wait for nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import script

PROGRAM = """
import logging, sys, weakref
import numpy
import telefabric.uplink
from telefabric.files import lock
from telefabric.log import limit
from telefabric_workers import connect
from telefabric_workers.frames.stored import Episode

def opened():
    return connect("tcp://127.0.0.1:1", run="r", spool=sys.argv[1], exit_flush_s=0, store_frames="best")

def step(worker, number):
    picture = numpy.zeros((8, 8, 3), numpy.uint8)
    worker.step(episode=0, step=number, frame=picture, terminated=number == 2)

def handler():
    '''What a signal handler may do, at the first moment at which it can come.'''
    global calls
    calls += 1
    if calls == 1:
        logging.getLogger("telefabric.ring").warning("a.b: in the handler")
        step(first, 2)
        first.close()
        with opened() as other:
            step(other, 1)

def interrupted(owner, name):
    '''The handler comes inside each call of this.'''
    really = getattr(owner, name)
    def with_handler(*given, **named):
        handler()
        return really(*given, **named)
    setattr(owner, name, with_handler)

calls = 0
first = opened()
step(first, 1)
{moment}
second = opened()
step(second, 1)
step(second, 2)
logging.getLogger("telefabric.ring").warning("c.d: after it")
second.close()
assert calls
assert first.closed
assert second.emitted == 6  # its start, two steps, their frames, its end
"""


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("interrupted(telefabric.uplink.Link, '__init__'); first.close()", id="link"),
        pytest.param("class Held(set): add = lambda *_: (handler(), set.add(*_))\nlock._held = Held()", id="file"),
        pytest.param("interrupted(weakref.WeakSet, 'add')", id="ring"),
        pytest.param("interrupted(limit.RateLimit, 'admit')", id="log"),
        pytest.param("interrupted(Episode, 'add'); step(first, 1)", id="frames"),
    ],
)
def test_a_signal_handler_may_use_workers_while_its_thread_holds_a_lock_of(tmp_path: Path, moment: str) -> None:
    script(PROGRAM.replace("{moment}", moment), tmp_path, timeout_s=60)
