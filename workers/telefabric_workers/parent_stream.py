"""The stream that a child process's stream helps: the parent names it in the environment, `VARIABLE`.

Its value is one item for each open stream, with semicolons between: ``pid:stream:run``, the stream in hex, the run
quoted as in a URL. A process finds its parent's stream under the run that it joins, while the parent lives; its own
items mean its children.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

VARIABLE = "TELEFABRIC_PARENT"
_ITEM = re.compile("(?P<pid>[1-9][0-9]{0,8}):(?P<stream>[0-9a-f]{32}):(?P<run>.+)")


def announce(run_id: str, stream: bytes) -> None:
    """Children that this process starts from now on help this stream, if they join its run."""
    os.environ[VARIABLE] = ";".join([*_items(), _item(run_id, stream)])


def retract(run_id: str, stream: bytes) -> None:
    """The stream has ended."""
    items = [item for item in _items() if item != _item(run_id, stream)]
    if items:
        os.environ[VARIABLE] = ";".join(items)
    else:
        os.environ.pop(VARIABLE, None)


def parent_of(run_id: str) -> bytes | None:
    """The newest stream of the run that a living process above this one has; None for a run of its own."""
    for item in reversed(_items()):
        found = _ITEM.fullmatch(item)
        if found and found["run"] == quote(run_id, safe="") and _is_above(int(found["pid"])):
            return bytes.fromhex(found["stream"])
    return None


def _is_above(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return pid != os.getpid()


def _items() -> list[str]:
    return [item for item in os.environ.get(VARIABLE, "").split(";") if item]


def _item(run_id: str, stream: bytes) -> str:
    return f"{os.getpid()}:{stream.hex()}:{quote(run_id, safe='')}"
