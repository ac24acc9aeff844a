"""The log of a service: events by name, each with fields. A record's message is the name.

It is a layer on standard loggers, as thin as can be: a service, and every command, waits at its start for its imports.
"""

from __future__ import annotations

import logging
from typing import Any


class EventLog:
    """Logs to the standard logger of this name; `service.logs` writes the fields. Any thread."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields, exc_info)

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, True)

    def _log(
        self, level: int, event: str, fields: dict[str, Any], exc_info: BaseException | bool | None = None
    ) -> None:
        self._logger.log(level, event, exc_info=exc_info, extra={"fields": fields})
