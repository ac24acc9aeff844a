"""Broker and store as supervised child processes: what `telefabric up` runs and what a demo or a test embeds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from telefabric import limits
from telefabric.address import Address
from telefabric.service.notify import Manager
from telefabric.service.supervisor import Part, Supervisor
from telefabric.settings import OFF, STORE_FILE_NAME

OFFSET_QUERY = 4


class Services(Supervisor):
    """A broker that listens on `listen` (port 0: any free one) and a store in `folder`; `metrics` as in the settings.

    `manager` is that of this process, and parts that hang for `hang_s` are killed and started again.
    Use `start`, `run` and `stop`, or it as a context manager; both raise `EnvironmentProblem` when a part does not come
    up.
    """

    def __init__(
        self,
        listen: Address,
        folder: Path,
        log_format: str | None = None,
        log_level: str | None = None,
        metrics: str = OFF,
        manager: Manager | None = None,
        hang_s: float = math.inf,
        tap: str = "auto",
    ) -> None:
        self.folder = folder.absolute()
        self.broker = Part("broker", self._broker_command, hang_s=hang_s)
        self.store = Part("store", self._store_command, stop_s=limits.STOP_STORE_S, hang_s=hang_s)
        self._listen = listen
        self._tap = tap
        self._options = [
            *("--metrics", metrics),
            *(["--log-format", log_format] if log_format else []),
            *(["--log-level", log_level] if log_level else []),
        ]
        super().__init__([self.broker, self.store], manager)

    @property
    def address(self) -> Address:
        """Where workers connect; known once the broker is up, and the same after each of its restarts."""
        found = Address.parse(self.broker.url) if self.broker.url else self._listen
        return found._replace(host="127.0.0.1") if found.host in _EVERYWHERE else found

    @property
    def file(self) -> Path:
        return self.folder / STORE_FILE_NAME

    def _broker_command(self) -> list[str]:
        listen = self.broker.url or self._listen.url
        own = ["--listen", listen, "--data", str(self.folder), "--tap", self._tap]
        return [*_TELEFABRIC, "broker", "--tied", *own, *self._options]

    def _store_command(self) -> list[str]:
        port = self._listen.port and self._listen.beside(OFFSET_QUERY).port
        query = ["--query", self._listen._replace(port=port).url]
        return [
            *_TELEFABRIC, "store", "--tied", "--connect", self.address.url, "--data", str(self.folder), *query,
            *self._options,
        ]  # fmt: skip


_EVERYWHERE = ("*", "0.0.0.0")
_TELEFABRIC = [sys.executable, "-P", "-m", "telefabric.cli.main"]
"""-P: Python must not import a file of the user's current folder instead of one of ours."""
