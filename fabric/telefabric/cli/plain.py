"""What goes to a terminal: names and words of others."""

from __future__ import annotations

from telefabric.wire.names import printable


def clean(text: str) -> str:
    """Without the characters that would steer a terminal."""
    return printable(text, "�")
