"""What goes to a terminal or a pipe: names and words of others, and an end that nobody reads."""

from __future__ import annotations

import os
import sys

from telefabric.names import printable


def clean(text: str) -> str:
    """Without the characters that would steer a terminal."""
    return printable(text, "�")


def forget_output() -> None:
    """Standard output cannot be written any more: what is still buffered for it goes nowhere, now and at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
