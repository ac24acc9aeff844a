"""What services log in this process while a test looks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (fields := getattr(record, "fields", None)) is not None:
            self.events.append({"event": record.msg, "level": record.levelname.lower(), **fields})


@contextmanager
def logged_events() -> Iterator[list[dict[str, Any]]]:
    """Every event of a service, with level and fields; not what libraries say in standard loggers."""
    logger, kept = logging.getLogger("telefabric"), _Kept()
    level = logger.level
    logger.addHandler(kept)
    logger.setLevel(logging.DEBUG)
    try:
        yield kept.events
    finally:
        logger.removeHandler(kept)
        logger.setLevel(level)
