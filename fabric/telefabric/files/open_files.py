"""The limit of open files of a process: each connection of a service is one."""

from __future__ import annotations

FILES_A_WORKER = 3
"""A broker's connections to one worker process: control, data, live."""
FILES_OF_ITS_OWN = 100
_MOST = 65_536
"""Nobody needs more, and some systems do not grant what they call their hard limit."""


def most() -> int | None:
    """How many a service may have: it raises its soft limit by itself. None on Windows, which has no limit."""
    try:
        import resource
    except ImportError:
        return None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return min(hard, _MOST) if hard >= 0 else _MOST


def raise_limit() -> int:
    """Take as many as this process may have; how many workers a broker can serve with them."""
    files = most()
    if files is None:
        return _MOST
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return workers_of(files)


def workers_of(files: int) -> int:
    return max((files - FILES_OF_ITS_OWN) // FILES_A_WORKER, 0)
