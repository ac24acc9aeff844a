"""Services for benchmarks, with keys or without them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from telefabric.address import Address
from telefabric.keys import saved_connections
from telefabric.keys.key_folder import KeyFolder
from telefabric.service.embedded import Services


@contextmanager
def prepared(folder: Path, keys: bool, **options: Any) -> Iterator[Services]:
    """Broker and store in a folder. With keys, this process and its children find the owner's by the address."""
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
    owner = KeyFolder(folder / "data").init("tcp://127.0.0.1:1") if keys else None
    with Services(Address("127.0.0.1", 0), folder / "data", **options) as services:
        if owner is not None:
            saved_connections.save("bench", replace(owner, address=services.address.url))
        yield services
