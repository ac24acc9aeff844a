"""Gymnasium draws with pygame, which otherwise opens screen and sound and greets on standard output."""

from __future__ import annotations

import os


def draw_without_a_screen() -> None:
    """Call it before an environment renders. What the user has set stays."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # else ^C and SIGTERM no longer end the program
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
