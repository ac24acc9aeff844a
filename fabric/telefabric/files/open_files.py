"""The limit of open files of a process: each connection of a service is one."""

from __future__ import annotations

from telefabric import limits

FILES_A_WORKER = 3
"""A broker's connections to one worker process, which all streams of the process share: control, data, live."""
FILES_A_SUBSCRIBER = 2
"""Control, and what it is sent."""
FILES_OF_ITS_OWN = 100
"""Of which it has 36 at rest; the others are for those who only ask, and for handshakes."""
_FILES_WITHOUT_WORKERS = FILES_OF_ITS_OWN + FILES_A_SUBSCRIBER * (limits.WATCHERS_MAX + limits.DURABLES_MAX)
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
    return max((files - _FILES_WITHOUT_WORKERS) // FILES_A_WORKER, 0)


def files_for(workers: int) -> int:
    """How many a broker needs that serves so many worker processes, and all subscribers that it admits."""
    return _FILES_WITHOUT_WORKERS + FILES_A_WORKER * workers
