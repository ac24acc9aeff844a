"""Programs that fork at an awkward moment: a lock is held, a worker is being opened or closed, a line is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scripted import script
from skips import requires

from telefabric.keys.core.ticket import Ticket

if TYPE_CHECKING:
    from conftest import FabricService

pytestmark = requires("fork", hasattr(os, "fork"))

BEGIN = """
import os, pickle, signal, sys, threading, traceback
from telefabric_workers import connect

def forked(work):
    '''What a child does: it has to end with 0, and is killed when it hangs.'''
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(60)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0

def opened(**options):
    return connect("tcp://127.0.0.1:1", run="r", spool=sys.argv[1], exit_flush_s=0, **options)
"""


def test_a_fork_while_another_thread_opens_the_worker_of_a_child(tmp_path: Path) -> None:
    script(
        BEGIN + """
from telefabric_workers import lifetime

def child():
    opening, go_on = threading.Event(), threading.Event()
    really = lifetime.open_outbox
    def slowly(*given):
        opening.set()
        go_on.wait()
        return really(*given)
    lifetime.open_outbox = slowly
    thread = threading.Thread(target=worker.step, kwargs={"episode": 0, "step": 0})
    thread.start()
    opening.wait()
    lifetime.open_outbox = really
    def grandchild():
        worker.step(episode=1, step=0)
        assert worker.emitted == 2
    forked(grandchild)
    go_on.set()
    thread.join()
    assert worker.emitted == 2

worker = opened()
forked(child)
        """,
        tmp_path,
    )  # fmt: skip


def test_a_fork_while_another_thread_connects_for_the_first_time(tmp_path: Path) -> None:
    """It imports the link, and the lock of that import would be held in the child for ever."""
    script(
        BEGIN + """
def look(event, given):
    if event == "import" and given[0] == "telefabric.uplink.link" and threading.current_thread() is thread:
        importing.set()
        forking.wait()

importing, forking, workers = threading.Event(), threading.Event(), []
thread = threading.Thread(target=lambda: workers.append(opened()))
sys.addaudithook(look)
os.register_at_fork(before=forking.set)
thread.start()
importing.wait()
forked(lambda: opened().step(episode=0, step=0))
thread.join()
workers[0].step(episode=0, step=0)
        """,
        tmp_path,
    )  # fmt: skip


def test_a_fork_while_another_thread_looks_for_the_gpu_library(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(
        "import builtins\n"
        "builtins.importing.set()\n"
        "builtins.forking.wait()\n"
        "raise ImportError\n"
    )  # fmt: skip
    script(
        BEGIN + """
import builtins
builtins.importing, builtins.forking = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)
sys.path.insert(0, sys.argv[1])
thread = threading.Thread(target=lambda: opened().step(episode=0, step=0))
thread.start()
importing.wait()
forked(lambda: opened().step(episode=0, step=0))
thread.join()
        """,
        tmp_path,
        TELEFABRIC_SYSTEM_METRICS_S="1",
    )  # fmt: skip


def test_each_process_has_its_own_worker_id_however_often_it_was_forked(tmp_path: Path) -> None:
    script(
        BEGIN + """
def named():
    assert worker.worker_id == f"{os.uname().nodename}-{os.getpid()}", worker.worker_id
    worker.step(episode=0, step=0)
    assert worker._info.worker_id == worker.worker_id

worker = opened()
forked(lambda: [forked(named), forked(named)])  # from a process that has not used it, as a daemon's parent has not
token = pickle.dumps(worker)
worker.close()
worker = pickle.loads(token)  # as in a process that was spawned, and has not used it
assert worker.emitted == 0
forked(named)
worker.close()
worker = opened(worker="mine-" + str(os.getpid()))
def given():
    worker.step(episode=0, step=0)
    assert worker._info.worker_id == f"mine-{os.getppid()}"
forked(given)
        """,
        tmp_path,
    )  # fmt: skip


def test_a_child_that_goes_on_in_a_call_of_its_parent_waits_for_no_thread_of_the_parent(tmp_path: Path) -> None:
    """Its step is the parent's, which emits it."""
    script(
        BEGIN + """
import numpy
worker = opened(store_frames="steps:1")
held, go_on = threading.Event(), threading.Event()

def hold():
    with worker._outbox.lock:
        held.set()
        go_on.wait()

thread = threading.Thread(target=hold)

def render():
    global child
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        signal.alarm(60)
    go_on.set()
    return numpy.zeros((8, 8, 3), numpy.uint8)

worker.step(episode=0, step=0, frame=render)
if not child:
    os._exit(worker._step_count)
assert os.waitpid(child, 0)[1] == 0
thread.join()
assert worker.emitted == 3
        """,
        tmp_path,
    )  # fmt: skip


def test_a_child_that_goes_on_in_the_end_of_its_parents_worker_leaves_the_spool_alone(tmp_path: Path) -> None:
    script(
        BEGIN + """
from pathlib import Path
from telefabric_workers.outbox import Spooled

def sizes():
    return {path.name: path.stat().st_size for path in worker._outbox.spool.directory.iterdir()}

def wait(outbox, flush_s):  # a signal handler may fork in it
    global child
    before = sizes()
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        assert sizes() == before

worker = opened()
worker.step(episode=0, step=0)
Spooled._wait = wait
stored = worker.close()
if not child:
    os._exit(not stored)  # nothing of the child's is left
assert not stored
        """,
        tmp_path,
    )  # fmt: skip


def test_a_fork_waits_for_the_line_that_is_being_written(tmp_path: Path) -> None:
    """A handler's lock, such as that of the buffer of stderr, would be held in the child for ever."""
    script(
        BEGIN + """
import logging, time
from telefabric.log import thread

class Handler(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
        if len(lines) == 1:
            with lock:
                writing.set()
                forking.wait()
                time.sleep(0.01)

lines, lock, writing, forking = [], threading.Lock(), threading.Event(), threading.Event()
log = logging.getLogger("telefabric.link")
log.addHandler(Handler())
log.propagate = False
thread._FORK_S = 60
worker = opened()
log.warning("a.b: first")
writing.wait()
os.register_at_fork(before=forking.set)
def child():
    assert lock.acquire(blocking=False)
    log.warning("a.b: child")
    assert thread.log_thread.settle(60) and lines == ["a.b: first", "a.b: child"]
forked(child)
log.warning("c.d: second")
assert thread.log_thread.settle(60) and lines == ["a.b: first", "c.d: second"]
        """,
        tmp_path,
    )  # fmt: skip


def test_a_fork_does_not_wait_for_a_log_handler_that_is_stuck_or_forks_itself(tmp_path: Path) -> None:
    script(
        BEGIN + """
import logging
from telefabric.log import thread

class Handler(logging.Handler):
    def emit(self, record):
        if not writing.is_set():
            writing.set()
            go_on.wait()
        else:
            forked(lambda: None)

writing, go_on = threading.Event(), threading.Event()
log = logging.getLogger("telefabric.link")
log.addHandler(Handler())
log.propagate = False
worker = opened()
log.warning("a.b: stuck")
writing.wait()
forked(lambda: worker.step(episode=0, step=0))
go_on.set()
log.warning("c.d: forks")
assert thread.log_thread.settle(60)
        """,
        tmp_path,
    )  # fmt: skip


def test_our_threads_import_nothing(fabric_service: FabricService, tmp_path: Path) -> None:
    """The lock of an import that a fork interrupts is held in the child for ever."""
    script(
        BEGIN + """
import logging, time
from telefabric.log.thread import log_thread

def look(event, given):
    if event == "import" and threading.current_thread().name.startswith("telefabric-"):
        imported.append((threading.current_thread().name, given[0]))

imported = []
sys.addaudithook(look)
with connect(run="t", spool=sys.argv[1], exit_flush_s=0) as worker:  # with a ticket that nobody takes
    until_s = time.monotonic() + 60
    while worker._outbox._link.refusal is None and time.monotonic() < until_s:
        time.sleep(0.01)
    assert worker._outbox._link.refusal
    assert log_thread.settle(60)
with connect(sys.argv[2], run="r", spool=sys.argv[1], exit_flush_s=60) as worker:
    logging.getLogger("telefabric.link").warning("a.b: a line")
    worker.step(episode=0, step=0)
    assert worker.flush(60)
    assert log_thread.settle(60)
assert not imported, imported
        """,
        tmp_path / "spool",
        fabric_service.url,
        TELEFABRIC_SYSTEM_METRICS_S="1",
        TELEFABRIC_TICKET=Ticket(b"s" * 32, b"t" * 32, "tcp://127.0.0.1:1", 1, 2**40).encode(),
        **dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), ""),
    )  # fmt: skip


def test_a_child_that_can_start_no_thread_records_all_the_same(fabric_service: FabricService) -> None:
    """None is left to its user; or the interpreter ends, which starts none from Python 3.12 on."""
    done = script(
        BEGIN + """
import logging, numpy
logging.basicConfig()

def refuse(thread):
    raise RuntimeError("can't start new thread")

def child():
    threading.Thread.start = refuse
    worker.step(episode=1, step=0, frame=numpy.zeros((8, 8, 3), numpy.uint8))
    worker.step(episode=1, step=1)
    assert not worker.flush(60)
    assert not worker.close()

with connect(sys.argv[2], run="r", spool=sys.argv[1], exit_flush_s=60) as worker:
    forked(child)
    assert worker.flush(60)
        """,
        fabric_service.spool,
        fabric_service.url,
        TELEFABRIC_SYSTEM_METRICS_S="1",
    )  # fmt: skip
    assert fabric_service.rows("SELECT episode_index, step_index FROM steps ORDER BY id") == [(1, 0), (1, 1)]
    assert "link.no_thread: can't start new thread: events stay in the spool" in done.stderr
    assert "worker.system_metrics_off: no system metrics: can't start new thread" in done.stderr
    assert "Traceback" not in done.stderr
