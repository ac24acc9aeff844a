"""The broker's figures: what they say of streams that fell silent, and that they stay cheap whoever watches."""

from time import process_time

from test_broker_durable import A, B, World, local

from telefabric import limits
from telefabric.broker.core.live_queue import Flow
from telefabric.limits import NS
from telefabric.wire import control

SILENT_NS = int(10 * limits.HEARTBEAT_S * NS)
BEHIND = "telefabric_broker_streams_behind"


def watched(world, watchers):
    """So many live subscribers that lag behind on every stream of the broker."""
    for number in range(watchers):
        world.tell(local(b"watcher-%d" % number), control.Watch(control.PROTOCOL, f"watcher {number}"))
    for watcher in world.core.live._watchers.values():
        watcher.flows.update({stream: Flow(numbered=9) for stream in world.core._streams})


def test_a_stream_that_fell_silent_waits_at_its_worker_or_at_the_store_and_never_at_who_watches():
    world = World()
    world.attach()
    for stream in (A, B):
        world.hello(stream, head=100)
        world.marks(stream, 0)
    world.send(1, 100)
    watched(world, 1)
    for stream in (A, B):
        world.beat(stream)
    world.now_ns += SILENT_NS
    behind = world.core.figures(world.now_ns)[BEHIND]
    assert behind == {("worker",): 1, ("broker",): 0, ("store",): 1, ("live",): 0}
    way = {one["stream_id"]: one["first_behind"] for one in world.core.status(world.now_ns)["streams"]}
    assert way == {A.hex(): "store", B.hex(): "worker"}, "status says the same"


def test_figures_of_many_silent_streams_do_not_depend_on_how_many_watch():
    """Each second on the broker's loop: a thousand dead workers must not hold up those that live."""
    took_s = {}
    for watchers in (0, limits.WATCHERS_MAX):
        world = World()
        world.attach()
        for number in range(limits.STREAMS_MAX // 2):
            world.hello(number.to_bytes(16, "big"))
        watched(world, watchers)
        took_s[watchers] = min(seconds(world.core.figures, world.now_ns + SILENT_NS) for _ in range(5))
    assert took_s[limits.WATCHERS_MAX] < 3 * took_s[0]


def seconds(call, *arguments):
    """Processor time, so that other processes change nothing."""
    began_s = process_time()
    call(*arguments)
    return process_time() - began_s
