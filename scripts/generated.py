"""Files that are generated and committed: write them, or check that those on disk are what would be written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def settle(folder: Path, files: Mapping[str, bytes], command: str, about: str | None) -> int:
    """Make `folder` hold exactly `files`; with ``--check`` only compare. Returns the exit code."""
    parser = argparse.ArgumentParser(prog=command, description=about)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is not fresh")
    check = parser.parse_args().check
    found = {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    stale = sorted(name for name in files.keys() | found.keys() if files.get(name) != found.get(name))
    if not stale:
        return 0
    if check:
        print(f"not fresh in {folder.relative_to(ROOT)}: {', '.join(stale)}\nrun: {command}", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in files:
            (folder / name).write_bytes(files[name])
        else:
            (folder / name).unlink()
    print(f"wrote {len(stale)} of {len(files)} files in {folder.relative_to(ROOT)}")
    return 0
