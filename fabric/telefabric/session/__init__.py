"""The rules of delivery as pure state machines: inputs in, decisions out, time passed in.

No sockets, files, threads or clocks in here; the loops that drive these classes are `telefabric.link` (worker),
`telefabric.broker.service` and `telefabric.store.service`.
"""
