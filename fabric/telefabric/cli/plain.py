"""Makes names and texts from outside safe for a terminal."""

from __future__ import annotations

from telefabric.wire.names import printable


def clean(text: str) -> str:
    """The text without the characters that would control a terminal."""
    return printable(text, "�")
