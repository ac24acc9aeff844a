"""The client beside a demo, as a process of its own: on the screen, or off it with a picture at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import click

from telefabric.address import Address

_LINGER_S = 5.0
"""How long a window stays after the end, for a last look."""
_DRAWN_S = 1.5
"""Time for the client to show the last events before the picture is taken."""
_CLOSE_S = 20.0


class Client:
    """`telefabric gui` on a broker. What keeps it from showing is said in a line, and keeps the demo from nothing."""

    def __init__(self, address: Address, picture: Path) -> None:
        self.on_screen = False
        """It is open, with a window."""
        self._address = address
        self._picture = picture.absolute()
        self._log = self._picture.with_name("client.log")
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        if find_spec("PySide6") is None:
            click.echo("The client is not installed: pip install 'telefabric[gui]'", err=True)
            return
        self.on_screen = sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
        command = [sys.executable, "-P", "-m", "telefabric.cli.main", "gui", "--tied", "--connect", self._address.url]
        environment = dict(os.environ)
        if not self.on_screen:
            self._picture.unlink(missing_ok=True)
            command += ["--screenshot", str(self._picture), "--theme", "dark", "--size", "1440x900"]
            environment["QT_QPA_PLATFORM"] = "offscreen"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)

    def close(self, *, keep: bool) -> str | None:
        """Let it end; the picture's path when there is one."""
        process = self._process
        if process is None or process.stdin is None:
            return None
        try:
            if self.on_screen and keep:
                click.echo("Close the window to end.")
                process.wait()
            elif self.on_screen:
                process.wait(_LINGER_S)
            else:
                time.sleep(_DRAWN_S)
        except subprocess.TimeoutExpired:
            pass  # nobody closed it: we do
        process.stdin.close()
        try:
            process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode:
            click.echo(
                f"The client ended with code {process.returncode}: see {self._log}, or telefabric doctor", err=True
            )
        return str(self._picture) if not self.on_screen and self._picture.exists() else None
