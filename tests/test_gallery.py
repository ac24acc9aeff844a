"""The pictures of docs/gallery: each is on its page, and they stay few and small."""

from __future__ import annotations

import re
from pathlib import Path

GALLERY = Path(__file__).parent.parent / "docs" / "gallery"
PICTURES_MAX, BYTES_MAX = 20, 2_000_000


def test_each_picture_is_on_the_page_of_the_gallery() -> None:
    shown = set(re.findall(r"\]\(([\w-]+\.png)\)", (GALLERY / "README.md").read_text()))
    files = {file.name: file.stat().st_size for file in GALLERY.glob("*.png")}
    assert shown == files.keys()
    assert len(files) <= PICTURES_MAX
    assert sum(files.values()) <= BYTES_MAX
