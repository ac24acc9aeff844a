"""Names and words of others, for a terminal."""

from __future__ import annotations


def clean(text: str) -> str:
    """Without the characters that would steer a terminal."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "�" for each in text)
