"""What a worker leaves on its machine is for its user alone, whatever the umask says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import wait_for
from skips import requires
from test_ring import NAME

from telefabric.ring import Hud, RingReader, RingWriter
from telefabric.spool import Spool
from telefabric.spool.spool import _replace_sealed
from telefabric.wire.control import StreamInfo

INFO = StreamInfo(bytes(16), "run", "worker", "agent", 1)
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

pytestmark = requires("files that have modes", os.name == "posix")


@pytest.fixture
def left(tmp_path: Path) -> Iterator[list[Path]]:
    """All that a spool and a ring have made, with the widest umask there is."""
    umask = os.umask(0)
    try:
        spool = Spool.create(tmp_path / "spool", INFO)
        _replace_sealed(spool.directory / "position", b"1", sync=True)
        writer = RingWriter(NAME, base=tmp_path)
        writer.publish(np.zeros((4, 4), np.uint8), Hud(step=1))
        reader = RingReader(writer.folder)
        wait_for(lambda: (reader.latest(), (writer.folder / "stats.json").exists())[1], "the writer tells its counters")
        wait_for(lambda: (reader.latest(), (writer.folder / "reader").exists())[1], "the reader tells its own")
        yield sorted(one for one in tmp_path.rglob("*") if not one.is_socket())
        reader.close()
        writer.close()
        spool.close()
    finally:
        os.umask(umask)


def test_folders_and_files_are_for_their_user_alone(left: list[Path]) -> None:
    assert {"stream", "position", "stats.json", "manifest.json", "lock"} <= {one.name for one in left}
    for path in left:
        assert path.stat().st_mode & 0o077 == 0, path


@requires("another user to be", IS_ROOT)
def test_another_user_reads_nothing_of_it(left: list[Path], tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents[:-1]):
        place.chmod(place.stat().st_mode | 0o055)
    script = (
        "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[2:]:\n"
        "    try: os.listdir(path) if os.path.isdir(path) else open(path, 'rb').close(); print(path)\n"
        "    except PermissionError: pass\n"
        "print('seen', os.listdir(sys.argv[1]) != [])"
    )
    command = [sys.executable, "-c", script, str(tmp_path), *map(str, left)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["seen", "True"], "the folder above can be read, and nothing in it"


def test_a_ring_folder_of_an_earlier_version_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / f"telefabric-{os.getuid()}"
    folder.mkdir(mode=0o755)
    RingWriter(NAME, base=tmp_path).close()
    assert folder.stat().st_mode & 0o077 == 0
